"""From the values of all models to what is said of every metric. Pure: no model is asked here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from unbench.metaeval import faithfulness, robustness
from unbench.metaeval.measures import PUBLISHED, Measure
from unbench.metaeval.record import Gate, Judged, Ordering, PoolEntry, UnlearnedEntry, Verdict
from unbench.metaeval.robustness import Attacked, Robust, without_each
from unbench.metrics.statistics import Floats
from unbench.results.schema import Score

NO_MODEL = "no unlearned model keeps retain and is forgotten by this metric"
WHOLE = {"forget": "residual", "trace": "trace_residual"}
"""UnBench's scores and the metric that is the whole score, sign turned."""


@dataclass(frozen=True)
class Standing:
    """One metric with all that its numbers stand on."""

    judged: Judged
    value: float
    """F; NaN where it can't be had."""
    left_out: list[Floats]
    """F without each model of P, of N."""
    methods: list[str]
    """Of every unlearned model of R and Q."""
    robust: Robust | None


def stand(measure: Measure, pools: Sequence[PoolEntry], unlearned: Sequence[UnlearnedEntry], lowest: float) -> Standing:
    """What is found of one metric. ``lowest``: the least value that it can take."""
    name = measure.name
    counted = [entry for entry in pools if entry.reason is None]
    values = {side: [entry.values.get(name) for entry in counted if entry.side == side]
              for side in ("knows", "does_not")}  # fmt: skip
    if any(value is None for own in values.values() for value in own) or min(map(len, values.values())) < 2:
        why = Score(value=None, reason="some pool model has no value")
        return Standing(_judged(measure, why), float("nan"), [], [], None)
    knows, does_not = (np.array(values[side], dtype=np.float64) for side in ("knows", "does_not"))
    found = faithfulness.area(knows, does_not)
    cut = faithfulness.threshold(knows, does_not)
    own_models, robust, retrained = _robust(name, unlearned, cut.at, lowest)
    methods = [entry.method for entry in own_models]
    left_out = faithfulness.left_out(knows, does_not)
    shown = _judged(
        measure,
        Score(value=found.value, low=found.low, high=found.high, n=len(knows) + len(does_not)),
        threshold=cut.at,
        accuracy=cut.accuracy,
        passes=found.low >= faithfulness.FLOOR,
        retrained=retrained,
        models=[entry.name for entry in own_models],
    )
    standing = Standing(shown, found.value, left_out, methods, robust)
    if robust is not None:
        for field, own in (("relearning", robust.relearning), ("quantisation", robust.quantisation),
                           ("relearning_symmetric", robust.relearning_symmetric),
                           ("quantisation_symmetric", robust.quantisation_symmetric)):  # fmt: skip
            setattr(shown, field, robustness.mean_score(own, methods, NO_MODEL))
        if methods:
            for field, symmetric in (("overall", False), ("overall_symmetric", True)):
                value, strata = _overall(standing, symmetric, methods)
                setattr(shown, field, robustness.scored(value, strata, len(methods)))
    return standing


def _judged(measure: Measure, found: Score, **more: object) -> Judged:
    null = Score(value=None, reason=NO_MODEL)
    forms = ("relearning", "quantisation", "overall", "relearning_symmetric", "quantisation_symmetric",
             "overall_symmetric")  # fmt: skip
    fields: dict[str, object] = {"threshold": None, "accuracy": None, "passes": False} | dict.fromkeys(forms, null)
    own = {"name": measure.name, "title": measure.title, "source": measure.source, "score": measure.score or None}
    return Judged.model_validate({**fields, **own, "faithfulness": found, **more})


def _robust(
    name: str, unlearned: Sequence[UnlearnedEntry], cut: float, lowest: float
) -> tuple[list[UnlearnedEntry], Robust | None, float | None]:
    """The models that count, their R and Q, and the control's mean change; None without a control."""
    controls = [entry for entry in unlearned if entry.control]
    changes = [_change(entry, name) for entry in controls]
    known = [change for change in changes if change is not None]
    if not known:
        return [], None, None
    retrained = float(np.mean(known))
    chosen: list[UnlearnedEntry] = []
    models: list[Attacked] = []
    for entry in unlearned:
        before, relearnt, quantised = (own.get(name) for own in (entry.before, entry.relearnt, entry.quantised))
        if entry.control or entry.reason is not None or before is None or before > cut:
            continue
        if relearnt is None or quantised is None:
            continue
        chosen.append(entry)
        models.append(Attacked(before - lowest, relearnt - lowest, quantised - lowest))
    return chosen, robustness.robust(models, retrained), retrained


def _change(entry: UnlearnedEntry, name: str) -> float | None:
    before, after = entry.before.get(name), entry.relearnt.get(name)
    return None if before is None or after is None else after - before


def _overall(own: Standing, symmetric: bool, everyone: Sequence[str]) -> tuple[float, list[Floats]]:
    """Overall, and without each model of P, each of N and each of the methods named by ``everyone``, some of which may
    have none of the metric's own models."""
    assert own.robust is not None
    r, q = (
        (own.robust.relearning_symmetric, own.robust.quantisation_symmetric)
        if symmetric
        else (own.robust.relearning, own.robust.quantisation)
    )
    r_mean, q_mean = float(r.mean()), float(q.mean())
    value = float(robustness.overall(own.value, r_mean, q_mean))
    strata = [robustness.overall(stratum, r_mean, q_mean) for stratum in own.left_out]
    own_methods = list(dict.fromkeys(own.methods))
    left = zip(own_methods, without_each(r, own.methods), without_each(q, own.methods), strict=True)
    parts = {method: (r_left, q_left) for method, r_left, q_left in left}
    pairs = np.array([parts.get(method, (r_mean, q_mean)) for method in dict.fromkeys(everyone)])
    alone = np.isnan(pairs).any(axis=1)
    strata.append(np.where(alone, np.nan, robustness.overall(own.value, *np.nan_to_num(pairs).T)))
    return value, strata


def orderings(standings: Mapping[str, Standing]) -> list[Ordering]:
    """Every pair of metrics with a published Overall, held against the pools."""
    found = []
    for higher, lower in combinations(sorted(PUBLISHED, key=lambda name: -PUBLISHED[name]), 2):
        one, other = standings.get(higher), standings.get(lower)
        if one is None or other is None:
            continue
        symmetric = "logit_lens" in (higher, lower)
        difference = _difference(one, other, symmetric)
        faithful = _faithful_difference(one, other)
        found.append(Ordering(
            higher=higher, lower=lower, published=(PUBLISHED[higher], PUBLISHED[lower]), symmetric=symmetric,
            difference=difference, verdict=verdict(difference), faithfulness=faithful,
            verdict_faithfulness=verdict(faithful),
        ))  # fmt: skip
    return found


def verdict(difference: Score) -> Verdict:
    """Whether an ordering holds: the interval of the difference lies above 0; below 0 it fails."""
    if difference.value is None:
        return "no value"
    if difference.low is not None and difference.low > 0:
        return "holds"
    if difference.high is not None and difference.high < 0:
        return "fails"
    return "not told apart"


def _difference(one: Standing, other: Standing, symmetric: bool) -> Score:
    if not one.methods or not other.methods:
        return Score(value=None, reason=NO_MODEL)
    everyone = [*one.methods, *other.methods]
    (a, a_strata), (b, b_strata) = (_overall(own, symmetric, everyone) for own in (one, other))
    strata = [x - y for x, y in zip(a_strata, b_strata, strict=True)]
    models = {*one.judged.models, *other.judged.models}
    return robustness.scored(a - b, strata, len(models), (-1.0, 1.0))


def _faithful_difference(one: Standing, other: Standing) -> Score:
    if math.isnan(one.value) or math.isnan(other.value):
        return Score(value=None, reason="F can't be had")
    strata = [x - y for x, y in zip(one.left_out, other.left_out, strict=True)]
    return robustness.scored(one.value - other.value, strata, sum(map(len, strata)), (-1.0, 1.0))


def gate(judged: Sequence[Judged]) -> Gate:
    """Which metrics, and which of UnBench's scores, may enter ``overall``."""
    passes = {one.name: one.passes for one in judged}
    return Gate(
        floor=faithfulness.FLOOR,
        passed=sorted(name for name, passed in passes.items() if passed),
        failed=sorted(name for name, passed in passes.items() if not passed),
        scores={score: passes[name] for score, name in WHOLE.items() if name in passes},
    )
