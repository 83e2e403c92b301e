"""The table of probes: what each model knew of each fact, for a reader and for ``unbench show``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from unbench.task import Knowledge

if TYPE_CHECKING:
    import pandas as pd

KEYS = ["probe", "ring", "kind", "subject", "cluster", "fact", "given"]


def probe_table(
    unlearned: Mapping[int, pd.DataFrame],
    target: pd.DataFrame,
    references: Sequence[pd.DataFrame],
    knowledge: Knowledge,
) -> pd.DataFrame:
    """One row a probe: its place, ``known_target``, ``known_reference`` (mean), ``known_seed_<k>``, the question, and
    the greedy text of the target and of each seed."""
    import pandas as pd

    from unbench.metrics.knowledge import per_probe

    def known(frame: pd.DataFrame) -> pd.Series:
        return per_probe(frame, knowledge=knowledge).set_index("probe")["known"]

    base = per_probe(target, knowledge=knowledge)
    texts = target.drop_duplicates("probe").set_index("probe")
    table = base[KEYS].set_index("probe")
    table["question"] = texts["question"].reindex(table.index)
    table["known_target"] = known(target)
    if references:
        table["known_reference"] = pd.concat([known(frame) for frame in references], axis=1).mean(axis=1)
    for seed, frame in unlearned.items():
        table[f"known_seed_{seed}"] = known(frame)
    table["text_target"] = texts["text"].reindex(table.index)
    for seed, frame in unlearned.items():
        answered = frame.drop_duplicates("probe").set_index("probe")["text"]
        table[f"text_seed_{seed}"] = answered.reindex(table.index)
    return table.reset_index()
