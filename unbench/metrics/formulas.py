"""The scores as functions of cell means: each takes ``Means`` (rows, G) and gives one number a row.

K and R are means of κ and of rank over a cell's probes and over seeds; u, t, r the unlearned, the target and the
reference model. Clipping comes last, so that noise around a boundary averages out before it can only hurt.

Each formula has two forms. With ``at=None`` it is the score itself, clipped to [0, 1]. With ``at`` (the full data's
means, one row) the clips are *opened*: the score's smooth form around the estimate, for the variance only. A clip would
otherwise hide the noise of a method that sits at a boundary (a perfect method's residual is clipped to 0 in every
delete-one sample, which would give an interval of width 0). Away from the boundaries both forms are the same number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unbench.metrics.knowledge import Floats
from unbench.metrics.table import Means

Cells = list[int]
Mask = NDArray[np.bool_]


def residuals(means: Means, cells: Cells, at: Means | None = None) -> tuple[Floats, Mask]:
    """(Ku - Kr) / (Kt - Kr) by cell, (rows, k): share of what the target knew beyond a reference that is left."""
    beyond = means.known_t[:, cells] - means.known_r[:, cells]
    present = (means.n[:, cells] > 0) & (beyond > 0)
    value = 1 - means.drop[:, cells] / np.where(present, beyond, 1.0)
    return (np.clip(value, 0, 1) if at is None else value), present


def forget(means: Means, cells: Cells, at: Means | None = None) -> Floats:
    """Mean over kinds of 1 - residual."""
    value, present = residuals(means, cells, at)
    return _mean(1 - value, present)


def rank_residuals(means: Means, cells: Cells, at: Means | None = None) -> tuple[Floats, Mask]:
    """|Ru - Rr| / (Rr - Rt) by cell, (rows, k): distance from a stranger's ranking, on either side.

    Opened, the side is that of the full data. A method that ranks just as a stranger does lies on the fold: noise on
    either side lowers its trace, and the interval then reaches 1 only as far as the kinds' noise goes together (which
    it does where all kinds ask for the same facts).
    """
    span = means.rank_r[:, cells] - means.rank_t[:, cells]
    present = (means.n[:, cells] > 0) & (span > 0)
    value = means.rise[:, cells] / np.where(present, span, 1.0) - 1
    if at is None:
        return np.clip(np.abs(value), 0, 1), present
    side = np.sign(at.rise[:, cells] - (at.rank_r[:, cells] - at.rank_t[:, cells]))
    return np.where(side == 0, 1.0, side) * value, present


def trace(means: Means, cells: Cells, at: Means | None = None) -> Floats:
    """Mean over kinds of 1 - rank residual."""
    value, present = rank_residuals(means, cells, at)
    return _mean(1 - value, present)


def kept(means: Means, cells: Cells, at: Means | None = None) -> tuple[Floats, Mask]:
    """Ku / Kt by cell, (rows, k): share of the knowledge that is left."""
    present = (means.n[:, cells] > 0) & (means.known_t[:, cells] > 0)
    value = 1 - means.drop[:, cells] / np.where(present, means.known_t[:, cells], 1.0)
    return (np.clip(value, 0, 1) if at is None else value), present


def mean_kept(means: Means, cells: Cells, at: Means | None = None) -> Floats:
    """Mean of ``kept``: far, world or one near ring by itself."""
    return _mean(*kept(means, cells, at))


def fluency(means: Means, cells: Cells, at: Means | None = None) -> Floats:
    """Share of fluent answers over all the cells' probes, relative to the target's, at most 1.

    1 if the target gives no fluent answer. Opened above 1 it is scaled to the full data's value, so that its noise
    stays that of a number near 1.
    """
    n = means.n[:, cells]
    fluent_t = np.sum(n * means.fluent_t[:, cells], axis=1)
    lost = np.sum(n * means.fluent_drop[:, cells], axis=1)
    value = np.where(fluent_t > 0, 1 - lost / np.where(fluent_t > 0, fluent_t, 1.0), 1.0)
    if at is None:
        return np.clip(value, 0, 1)
    n, share, drop = at.n[0, cells], at.fluent_t[0, cells], at.fluent_drop[0, cells]
    full = 1 - np.sum(n * drop) / np.sum(n * share) if np.sum(n * share) > 0 else 1.0
    return np.asarray(value / max(1.0, full))


def retain(means: Means, cells: Cells, fluency_cells: Cells, at: Means | None = None) -> Floats:
    """Mean over far and world of ``kept``, times fluency."""
    return mean_kept(means, cells, at) * fluency(means, fluency_cells, at)


def specificity(means: Means, cells: Cells, at: Means | None = None) -> Floats:
    """Harmonic mean of ``kept`` over the near rings: one ruined ring isn't made good by the others."""
    value, present = kept(means, cells, at)
    if at is None:
        return harmonic(value, present)
    return harmonic(value, present, np.clip(kept(at, cells)[0][0], 0, 1))


def share(column: str, means: Means, cells: Cells) -> Floats:
    """Mean of one column over all probes of the cells."""
    n = means.n[:, cells]
    return np.asarray(np.sum(n * getattr(means, column)[:, cells], axis=1) / np.maximum(n.sum(axis=1), 1))


def harmonic(parts: Floats, present: Mask, centre: Floats | None = None) -> Floats:
    """Harmonic mean of each row of ``parts`` (rows, k) over the present ones; 0 if one of them is 0.

    With ``centre`` (k,), the estimates, parts may leave [0, 1]. The harmonic mean has a pole beyond 0, so where a part
    comes to 0 its tangent at the centre takes its place (at z zeros the slope along their diagonal, k/z² each).
    """
    if centre is None or (np.all(centre > 0) and np.all(parts[present] > 0)):
        positive = present & (parts > 0)
        k = present.sum(axis=1)
        value = k / np.maximum(np.sum(1 / np.where(positive, parts, np.inf), axis=1), 1e-300)
        return np.where((positive.sum(axis=1) == k) & (k > 0), value, 0.0)
    k, zero = len(centre), centre <= 0
    if zero.any():
        value, slope = 0.0, np.where(zero, k / zero.sum() ** 2, 0.0)
    else:
        value = float(k / np.sum(1 / centre))
        slope = value**2 / (k * centre**2)
    return np.asarray(value + np.sum(np.where(present, slope * (parts - centre), 0.0), axis=1))


def _mean(parts: Floats, present: Mask) -> Floats:
    """Mean of each row over the present cells; NaN where there is none."""
    n = present.sum(axis=1)
    return np.asarray(np.where(n > 0, np.sum(np.where(present, parts, 0.0), axis=1) / np.maximum(n, 1), np.nan))
