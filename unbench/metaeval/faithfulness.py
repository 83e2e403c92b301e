"""Faithfulness: does a metric give models that know more than models that do not?

F is the area under the ROC curve of the pool P (knows) against N (does not): the share of pairs in which the model
that knows has the larger value, ties counting half (arXiv:2506.12618).

Its interval is Newcombe's score interval for an area (2006, doi:10.1002/sim.2324, method 5): all θ with

    (F - θ)² ≤ t² φ V(θ),    V(θ) = θ(1-θ)/(mn) · (1 + ((m+n)/2 - 1) ((1-θ)/(2-θ) + θ/(1+θ))),

m and n the pools' sizes. V is Hanley and McNeil's variance, which supposes the two spreads alike; where DeLong's, read
off the models themselves, is larger, φ is their ratio at F, else 1; t is Student's with m + n - 2 degrees. It needs no
random numbers and keeps its width where the pools don't overlap: F = 1 of 30 against 30 models is no proof of 1, where
DeLong's interval or a bootstrap would be the point 1 alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit

from unbench.metrics.membership import wins
from unbench.metrics.statistics import Floats, jackknife_variance

FLOOR = 0.9
"""The gate: a score enters ``overall`` where the interval of its F ends no lower."""
TINY = 1e-9


class Area(NamedTuple):
    """F with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


class Threshold(NamedTuple):
    """Above ``at`` a model counts as knowing; ``accuracy``: share of pool models that this gets right."""

    at: float
    accuracy: float


def area(knows: Floats, does_not: Floats, level: float = 0.95) -> Area:
    """F of the values of m models that know against n that do not; each pool needs two models."""
    m, n = len(knows), len(does_not)
    won = wins(knows, does_not)
    value = float(won.mean())
    t = float(stdtrit(m + n - 2, (1 + level) / 2))
    scale = 1.0
    if 0 < value < 1:
        delong = float(won.mean(axis=1).var(ddof=1) / m + won.mean(axis=0).var(ddof=1) / n)
        scale = max(1.0, delong / variance(value, m, n))

    def beyond(theta: float) -> float:
        """Below 0 inside the interval."""
        return float((value - theta) ** 2 - t**2 * scale * variance(theta, m, n))

    low = float(brentq(beyond, 0.0, value - TINY)) if value > 2 * TINY else 0.0
    high = float(brentq(beyond, value + TINY, 1.0)) if value < 1 - 2 * TINY else 1.0
    return Area(value, low, high)


def variance(theta: float, m: int, n: int) -> float:
    """Hanley and McNeil's variance of an area θ as Newcombe's method 5 has it, with one size for both pools."""
    size = (m + n) / 2 - 1
    return theta * (1 - theta) / (m * n) * (1 + size * ((1 - theta) / (2 - theta) + theta / (1 + theta)))


def left_out(knows: Floats, does_not: Floats) -> list[Floats]:
    """F without each model: the strata of a jackknife, P first. Each pool needs two models."""
    won = wins(knows, does_not)
    total, (m, n) = won.sum(), won.shape
    return [(total - won.sum(axis=1)) / ((m - 1) * n), (total - won.sum(axis=0)) / (m * (n - 1))]


def delong_variance(knows: Floats, does_not: Floats) -> float:
    """Variance of F from the models themselves: the jackknife over both pools (DeLong et al. 1988)."""
    return sum(jackknife_variance(stratum) for stratum in left_out(knows, does_not))


def threshold(knows: Floats, does_not: Floats) -> Threshold:
    """The cut of highest accuracy: half way between two neighbouring values, or beyond all. Of several the lowest,
    which is the hardest to be called forgotten by."""
    values = np.unique(np.concatenate([knows, does_not]))
    cuts = np.concatenate([[values[0] - 1.0], (values[1:] + values[:-1]) / 2, [values[-1] + 1.0]])
    right = np.array([np.sum(knows > cut) + np.sum(does_not <= cut) for cut in cuts])
    best = int(np.argmax(right))
    return Threshold(float(cuts[best]), float(right[best] / (len(knows) + len(does_not))))
