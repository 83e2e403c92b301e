"""The table of probes: what each model knew of each fact, for a reader and for ``unbench show``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from unbench.task import Knowledge

if TYPE_CHECKING:
    import pandas as pd

KEYS = ["ring", "kind", "subject", "cluster", "fact", "given"]


def probe_table(
    unlearned: Mapping[int, pd.DataFrame],
    target: pd.DataFrame | None,
    references: Sequence[pd.DataFrame],
    knowledge: Knowledge,
) -> pd.DataFrame:
    """One row a probe: its place, ``known_target``, ``known_reference`` (mean), ``known_seed_<k>``, the question, and
    the greedy text of the target and of each seed. Without a target its two columns hold NaN and empty texts."""
    import pandas as pd

    from unbench.metrics.knowledge import per_probe

    def own(frame: pd.DataFrame) -> pd.DataFrame:
        return per_probe(frame, knowledge=knowledge).set_index("probe")

    base = own(next(iter(unlearned.values())) if target is None else target)
    table = base[[*KEYS, "question"]].rename_axis("probe")
    table["known_target"] = base["known"] if target is not None else float("nan")
    if references:
        table["known_reference"] = pd.concat([own(frame)["known"] for frame in references], axis=1).mean(axis=1)
    table["text_target"] = base["text"] if target is not None else ""
    for seed, frame in unlearned.items():
        after = own(frame)
        table[f"known_seed_{seed}"] = after["known"]
        table[f"text_seed_{seed}"] = after["text"]
    return table.reset_index()
