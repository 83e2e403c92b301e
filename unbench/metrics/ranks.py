"""Ranks with their uncertainty: simultaneous confidence sets from all paired differences on the same clusters.

With θ_j the score of method j and θ_j(i) the score without cluster i (all methods lose the same cluster), the jackknife
covariance is

    Σ = (m-1)/m Σ_i (θ(i) - mean θ(.)) (θ(i) - mean θ(.))'  +  diag(s_j² / seeds),

and t_jk = (θ_j - θ_k) / √(Σ_jj + Σ_kk - 2 Σ_jk). Two methods differ where |t_jk| exceeds c, the 95 % point of the
largest |t| over all pairs if no two methods differed: a multivariate t distribution with Σ's correlations and
(m - 1) / 2 degrees of freedom. (m - 1 of them covered .91 where eight tied methods have skewed scores on 30 clusters,
half of them .93, and .96 and more in other designs: a test simulates them.) The rank of a method then lies between 1 +
the number significantly better and M - the number significantly worse, for all methods at once (Mogstad, Romano, Shaikh
and Wilhelm 2023).

Clusters may come in strata (forgotten subjects, and the subjects of far and world probes): Σ is then a sum over strata,
each centred on its own mean, and the smallest stratum's size stands for m in the degrees of freedom.

c is the only thing here that is drawn: by a generator with a fixed seed, so that anyone recomputes it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DRAWS = 20_000
SEED = 20231
"""Of the draws that c is read off; fixed before any result was seen."""
SAME = 1e-9
"""Differences below this, and standard errors, are none."""


class Ranks(NamedTuple):
    """Ranks of M methods, 1 the best."""

    low: NDArray[np.int64]
    """(M,): best rank in the set."""
    high: NDArray[np.int64]
    """(M,): worst rank in the set."""
    better: NDArray[np.bool_]
    """(M, M): row significantly better than column."""
    critical: float
    """c."""


def rank_sets(
    values: Floats,
    left_out: Floats,
    by_seed: list[Floats] | None = None,
    level: float = 0.95,
    strata: NDArray[np.int64] | None = None,
) -> Ranks:
    """Rank sets of M methods whose larger scores are better.

    Args:
        values: (M,) scores.
        left_out: (M, C) scores with each of C clusters left out, the same cluster in a column.
        by_seed: each method's scores by seed, (seeds,) each; None, or one seed, adds nothing.
        level: simultaneous coverage.
        strata: (C,) number of each cluster's stratum; None: one stratum.

    Raises:
        ValueError: a stratum with fewer than two clusters, or a number that isn't finite.
    """
    methods, clusters = left_out.shape
    places = np.zeros(clusters, dtype=np.int64) if strata is None else np.unique(strata, return_inverse=True)[1]
    sizes = np.bincount(places)
    if clusters == 0 or sizes.min() < 2:
        raise ValueError("ranks need at least two clusters")
    if not (np.isfinite(values).all() and np.isfinite(left_out).all()):
        raise ValueError("every method needs a score with every cluster left out")
    means = np.stack([left_out[:, places == one].mean(axis=1) for one in range(len(sizes))], axis=1)
    spread = (left_out - means[:, places]) * np.sqrt((sizes - 1) / sizes)[places]
    of_seeds = np.zeros(methods)
    for j, own in enumerate(by_seed or []):
        if len(own) > 1:
            of_seeds[j] = np.var(own, ddof=1) / len(own)
    covariance = spread @ spread.T + np.diag(of_seeds)
    variance = np.diag(covariance)
    error = np.sqrt(np.maximum(variance[:, None] + variance[None, :] - 2 * covariance, 0.0))
    difference = values[:, None] - values[None, :]
    sure = error <= SAME
    t = np.where(sure, 0.0, difference / np.where(sure, 1.0, error))
    critical = _critical(spread, of_seeds, error, level, int(sizes.min()))
    better = (t > critical) | (sure & (difference > SAME))
    return Ranks(
        low=1 + better.sum(axis=0).astype(np.int64),
        high=methods - better.sum(axis=1).astype(np.int64),
        better=better,
        critical=critical,
    )


def _critical(spread: Floats, of_seeds: Floats, error: Floats, level: float, smallest: int) -> float:
    """The ``level`` point of the largest |t| over all pairs that have an error."""
    methods, clusters = spread.shape
    first, second = np.triu_indices(methods, 1)
    kept = error[first, second] > SAME
    first, second = first[kept], second[kept]
    if len(first) == 0:
        return float("inf")
    generator = np.random.default_rng(SEED)
    largest = np.empty(DRAWS)
    step = max(1, 2_000_000 // len(first))
    for begin in range(0, DRAWS, step):
        size = min(step, DRAWS - begin)
        drawn = generator.standard_normal((size, clusters)) @ spread.T
        drawn += generator.standard_normal((size, methods)) * np.sqrt(of_seeds)
        degrees = (smallest - 1) / 2
        scale = np.sqrt(generator.chisquare(degrees, size) / degrees)
        t = np.abs(drawn[:, first] - drawn[:, second]) / error[first, second]
        largest[begin : begin + size] = t.max(axis=1) / scale
    return float(np.quantile(largest, level))
