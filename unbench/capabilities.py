"""General capabilities beside UnBench's own scores: what lm-eval finds of every seed's unlearned model, put together.

The asking is in ``unbench.lmeval.harness``; imports neither torch nor lm-eval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, variance
from typing import TYPE_CHECKING, Any

from unbench.results.schema import Score

if TYPE_CHECKING:
    from unbench.lmeval.harness import Capabilities

Z = 1.96
"""Standard errors from a value to the end of its 95 % interval."""


def as_record(found: Capabilities, tasks: Sequence[str], wall_s: float) -> dict[str, Any]:
    """What lm-eval found, as it is stored in the seed's folder (JSON)."""
    scores = {name: score.model_dump(mode="json") for name, score in found.scores.items()}
    return {
        "tasks": list(tasks),
        "scores": scores,
        "versions": found.versions,
        "settings": found.settings,
        "wall_s": wall_s,
    }


def scores_of(record: Mapping[str, Any]) -> dict[str, Score]:
    """The scores of a stored record."""
    return {name: Score.model_validate(body) for name, body in record["scores"].items()}


def over_seeds(by_seed: Sequence[Mapping[str, Score]]) -> dict[str, Score]:
    """The mean of each score over seeds.

    All seeds answer the same questions, so the interval keeps their own half width (root of the mean square) and adds
    the variance of the mean between seeds."""
    names = dict.fromkeys(name for scores in by_seed for name in scores)
    return {name: _mean([scores.get(name, Score(value=None, reason="not asked")) for scores in by_seed])
            for name in names}  # fmt: skip


def _mean(scores: Sequence[Score]) -> Score:
    missing = next((score for score in scores if score.value is None), None)
    if missing is not None or len(scores) == 1:
        return missing or scores[0]
    values = [score.value for score in scores if score.value is not None]
    value = fmean(values)
    halves = [(s.high - s.low) / 2 for s in scores if s.low is not None and s.high is not None]
    if len(halves) < len(scores):
        return scores[0].model_copy(update={"value": value, "low": None, "high": None})
    half = math.sqrt(fmean(h * h for h in halves) + Z * Z * variance(values) / len(values))
    reason = "; ".join(part for part in (scores[0].reason, f"mean over {len(scores)} seeds") if part)
    return scores[0].model_copy(update={"value": value, "low": value - half, "high": value + half, "reason": reason})
