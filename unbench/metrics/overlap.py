"""Which forget probes ask what the method trained on, and forget without them.

UnSTAR writes paraphrases, and one may equal a held-out probe; every method is given the forget rows' own questions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from unbench.metrics.scores import NO_TARGET, score_table
from unbench.metrics.table import lay_out
from unbench.results.schema import Score
from unbench.task import Knowledge

if TYPE_CHECKING:
    import pandas as pd


def normal(text: str) -> str:
    """Letters and digits only, case folded, single blanks."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def overlap(
    unlearned: Mapping[int, pd.DataFrame],
    target: pd.DataFrame | None,
    references: Sequence[pd.DataFrame],
    trained: Mapping[int, frozenset[str]],
    knowledge: Knowledge,
    known_only: bool,
) -> dict[str, Score]:
    """``probe_overlap`` (share of forget probes, mean over seeds) and ``forget_without_overlap`` (without the probes
    that any seed trained on). ``trained``: seed -> questions."""
    asked_of = target if target is not None else unlearned[min(unlearned)]
    forget = asked_of[asked_of["ring"] == "forget"].drop_duplicates("probe")
    asked = {probe: normal(question) for probe, question in zip(forget["probe"], forget["question"], strict=True)}
    if not asked:
        return {}
    same: dict[int, set[str]] = {}
    for seed, questions in trained.items():
        texts = {normal(question) for question in questions}
        same[seed] = {probe for probe, text in asked.items() if text in texts}
    share = sum(len(probes) for probes in same.values()) / (len(asked) * max(1, len(same)))
    dropped = set().union(*same.values())

    def without(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[~frame["probe"].isin(dropped)]

    found = {"probe_overlap": Score(value=share, n=len(asked), reason="interval: a count, not an estimate")}
    if len(dropped) == len(asked):
        return found | {"forget_without_overlap": Score(value=None, n=0, reason="every forget probe was trained on")}
    if target is None:
        return found | {"forget_without_overlap": Score(value=None, reason=NO_TARGET)}
    left = score_table(
        lay_out(
            {seed: without(frame) for seed, frame in unlearned.items()},
            without(target),
            [without(frame) for frame in references],
            knowledge,
            known_only,
        )
    )
    return found | {"forget_without_overlap": left.scores.forget}
