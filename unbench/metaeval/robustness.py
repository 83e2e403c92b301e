"""Robustness: does a metric that calls a model forgotten stay true when somebody relearns or rounds?

Of models that keep retain ≥ 0.8 and that the metric itself calls forgotten (not above its threshold). v is the metric,
its lowest value taken off; Δ its change by relearning the forget set for a fixed number of steps, u the unlearned
model, r a retrained one that never knew (mean over relearning seeds); a before and b after rounding to 4 bits.

========= ================================== ==================================================================
form      formula                            source
========= ================================== ==================================================================
R         min(Δr / Δu, 1)                    arXiv:2506.12618: what comes back faster than a stranger learns it was
                                             still there
Q         min(a / b, 1)                      the same: what rounding brings back was still there
symmetric R = 1 - |Δu - Δr| / (|Δu| + |Δr|)  arXiv:2605.24614: a change in either direction counts
          Q = 1 - |a - b| / (|a| + |b|)
========= ================================== ==================================================================

Where nothing changed R is 1. Where the metric does not rise on the unlearned model (Δu ≤ 0) nothing came back, so R is
1; where it rises there alone (Δr ≤ 0 < Δu) R is 0. Both are in [0, 1]. A metric's R and Q are means over its models,
and Overall = HM(F, HM(R, Q)). The control is one model: what chance there is in it is not in the intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unbench.metrics.statistics import MIN_CLUSTERS, Floats, jackknife_t
from unbench.results.schema import Score


def relearning(unlearned: float, retrained: float) -> float:
    """R of one model from the two changes Δu and Δr."""
    if unlearned <= 0:
        return 1.0
    return float(min(max(retrained / unlearned, 0.0), 1.0))


def quantisation(before: float, after: float) -> float:
    """Q of one model from its value before and after; both ≥ 0."""
    return 1.0 if after <= before else float(max(before, 0.0) / after)


def symmetric(one: float, other: float) -> float:
    """1 - |one - other| / (|one| + |other|); 1 where both are 0."""
    size = abs(one) + abs(other)
    return 1.0 if size == 0 else float(1 - abs(one - other) / size)


@dataclass(frozen=True)
class Attacked:
    """One metric's values of one unlearned model, counted from the lowest value that it can take."""

    before: float
    relearnt: float
    quantised: float


@dataclass(frozen=True)
class Robust:
    """R and Q of each model, (models,), in both forms."""

    relearning: Floats
    quantisation: Floats
    relearning_symmetric: Floats
    quantisation_symmetric: Floats


def robust(models: list[Attacked], retrained: float) -> Robust:
    """Both forms for every model; ``retrained`` is Δr."""
    change = [model.relearnt - model.before for model in models]
    return Robust(
        relearning=np.array([relearning(own, retrained) for own in change]),
        quantisation=np.array([quantisation(model.before, model.quantised) for model in models]),
        relearning_symmetric=np.array([symmetric(own, retrained) for own in change]),
        quantisation_symmetric=np.array([symmetric(model.before, model.quantised) for model in models]),
    )


def harmonic(*parts: Floats | float) -> Floats:
    """Harmonic mean of parts ≥ 0, element by element; 0 where one of them is 0."""
    stacked = np.stack(np.broadcast_arrays(*(np.asarray(part, dtype=np.float64) for part in parts)))
    positive = np.all(stacked > 0, axis=0)
    inverse = np.sum(1 / np.where(stacked > 0, stacked, 1.0), axis=0)
    return np.asarray(np.where(positive, len(stacked) / inverse, 0.0))


def overall(faithful: Floats | float, relearnt: Floats | float, quantised: Floats | float) -> Floats:
    """HM(F, HM(R, Q))."""
    return harmonic(faithful, harmonic(relearnt, quantised))


def without_each(values: Floats, groups: Sequence[str]) -> Floats:
    """The mean without each group of values, in the order of first appearance; NaN where nothing is left. The group is
    the method: its seeds give models that are next to alike, so they are no units of their own."""
    names = np.asarray(groups, dtype=object)
    left = [values[names != group] for group in dict.fromkeys(groups)]
    return np.array([own.mean() if len(own) else np.nan for own in left])


def mean_score(values: Floats, groups: Sequence[str], none: str) -> Score:
    """Mean over models with its jackknife-t interval over methods; null with the reason ``none`` without a model."""
    if not len(values):
        return Score(value=None, reason=none)
    return scored(float(values.mean()), [without_each(values, groups)], len(values))


def scored(value: float, strata: list[Floats], n: int, bounds: tuple[float, float] = (0.0, 1.0)) -> Score:
    """A score of n models from its jackknife, one stratum a set of units: models of a pool, methods."""
    interval = jackknife_t(value, strata, bounds=bounds)
    words = {"one subject": "one method", f"fewer than {MIN_CLUSTERS} subjects": f"fewer than {MIN_CLUSTERS} methods"}
    reason = None if interval.reason is None else f"interval: {words.get(interval.reason, interval.reason)}"
    return Score(value=value, low=interval.low, high=interval.high, n=n, reason=reason)
