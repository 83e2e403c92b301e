"""Which forget probes ask what the method trained on, and forget without them.

UnSTAR writes paraphrases, and one may equal a held-out probe; every method is given the forget rows' own questions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
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


def asked_again(asked: Mapping[str, str], trained: Iterable[str]) -> list[str]:
    """The probes (``asked``: probe -> question) whose question is among ``trained``, but for case and punctuation."""
    texts = {normal(question) for question in trained}
    return [probe for probe, question in asked.items() if normal(question) in texts]


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
    asked = dict(zip(forget["probe"], forget["question"], strict=True))
    if not asked:
        return {}
    same = {seed: set(asked_again(asked, questions)) for seed, questions in trained.items()}
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
