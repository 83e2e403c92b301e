"""Intervals: the delete-one-cluster jackknife with Student's t. No random numbers, so anyone recomputes them exactly.

Probes about one subject aren't independent, so subjects (clusters) are the unit. Leaving one cluster out changes the
unlearned, the target and the reference model's means together, over all seeds. Clusters come in strata: forgotten
subjects (forget and near probes) and the subjects of far and world probes. With θ_(i) the score without cluster i,

    variance = Σ over strata  (m-1)/m Σ_i (θ_(i) - mean θ_(.))²   +   s² of the seeds' own scores / seeds,

m the stratum's clusters. The interval is value ± t · √variance, clipped to the range; t has Satterthwaite's degrees of
freedom, (Σ v)² / Σ v²/df, with m - 1 for a stratum and seeds - 1 for the seeds. With one seed the interval stands for
the clusters only. The seeds' part holds some of the clusters' noise too: the sum errs on the wide side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from unbench.results.schema import Score

Floats = NDArray[np.float64]

MIN_CLUSTERS = 6
"""With fewer the variance is itself too uncertain for an interval."""


class Interval(NamedTuple):
    """Ends of an interval, or null ends with the reason."""

    low: float | None
    high: float | None
    reason: str | None = None


def jackknife_t(
    value: float,
    strata: Sequence[Floats],
    seeds: Floats | None = None,
    *,
    level: float = 0.95,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Interval:
    """Interval around ``value``.

    Args:
        value: the score on all clusters, averaged over seeds.
        strata: for every stratum the scores with one of its clusters left out, (clusters,). Strata are independent.
        seeds: each seed's own score, (seeds,); None or one seed adds nothing.
        level: coverage.
        bounds: range of the score.

    Returns:
        low and high inside ``bounds``; both None with a reason where a stratum has fewer than 6 clusters, or where the
        score can't be had without one of them (NaN in ``strata``).
    """
    smallest = min((len(left_out) for left_out in strata), default=0)
    if smallest < MIN_CLUSTERS:
        return Interval(None, None, "one subject" if smallest == 1 else f"fewer than {MIN_CLUSTERS} subjects")
    if not all(np.isfinite(x).all() for x in (*strata, () if seeds is None else seeds)):
        return Interval(None, None, "a group hangs on one subject")
    parts = [(jackknife_variance(left_out), len(left_out) - 1) for left_out in strata]
    if seeds is not None and len(seeds) > 1:
        parts.append((float(np.var(seeds, ddof=1)) / len(seeds), len(seeds) - 1))
    variance = sum(part for part, _ in parts)
    half = 0.0
    if variance > 0:
        df = satterthwaite([part for part, _ in parts], [df for _, df in parts])
        half = float(stdtrit(df, (1 + level) / 2)) * variance**0.5
    lowest, highest = bounds
    return Interval(max(lowest, min(value - half, highest)), min(highest, max(value + half, lowest)))


def finish(
    value: float,
    strata: Sequence[Floats],
    seeds: Floats,
    n: int,
    reasons: Sequence[str],
    bounds: tuple[float, float] = (0.0, 1.0),
    level: float = 0.95,
) -> Score:
    """A score with its interval, both inside ``bounds``; nothing that isn't finite gets out. ``level``: coverage."""
    reasons = list(reasons)
    if not np.isfinite(value):
        return Score(value=None, n=n, reason="; ".join(["no group is left to average", *reasons]))
    value = min(bounds[1], max(bounds[0], value))
    interval = jackknife_t(value, strata, seeds, level=level, bounds=bounds)
    reasons += [f"interval: {interval.reason}"] if interval.reason else []
    return Score(value=value, low=interval.low, high=interval.high, n=n, reason="; ".join(reasons) or None)


def jackknife_variance(left_out: Floats) -> float:
    """Variance of a statistic from its values with one cluster left out, (clusters,)."""
    m = len(left_out)
    return float((m - 1) / m * np.sum((left_out - left_out.mean()) ** 2))


def satterthwaite(variances: Sequence[float], degrees: Sequence[int]) -> float:
    """Degrees of freedom of a sum of independent variance estimates; at least the smallest that contributes."""
    part = np.asarray(variances, dtype=np.float64)
    part = part / part.max()  # scale-free: the square of a tiny variance would underflow
    return float(part.sum() ** 2 / np.sum(part**2 / np.asarray(degrees)))
