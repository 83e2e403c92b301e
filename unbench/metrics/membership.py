"""Membership inference: can the forget set (members) be told from answers that no model was trained on (holdout)?

Each attack gives an answer a score, high for a member; the metric is the area under the ROC curve of forget against
holdout answers. 1 tells them apart at every threshold, 0.5 not at all. Definitions and the share of 0.4 are
open-unlearning's (Dorna et al. 2025, arXiv:2506.12618), which takes the scores with the other sign and the labels with
the other one too: the areas are the same.
"""

from __future__ import annotations

import zlib

import numpy as np

from unbench.metrics.items import Items
from unbench.metrics.knowledge import Floats

SHARE = 0.4
"""Share of an answer's tokens that min-k and min-k++ look at: the least likely ones."""

LEAST_VARIANCE = 1e-6
"""A token whose alternatives all have the same log-probability has no scale of its own."""


def loss_score(items: Items) -> Floats:
    """-ℓ, (n,) (Yeom et al. 2018, arXiv:1709.01604)."""
    return -items.loss


def zlib_score(items: Items) -> Floats:
    """-ℓ / bytes of the answer (UTF-8) compressed by zlib, (n,): a simple text is no member for being likely (Carlini
    et al. 2021, arXiv:2012.07805)."""
    return -items.loss / np.array([len(zlib.compress(answer.encode())) for answer in items.answers], dtype=np.float64)


def min_k_score(items: Items, share: float = SHARE) -> Floats:
    """Mean of the lowest max(1, ⌊share L⌋) token log-probabilities, (n,) (Shi et al. 2024, arXiv:2310.16789)."""
    return np.array([_lowest(row, share) for row in items.logprobs])


def min_k_plus_plus_score(items: Items, share: float = SHARE) -> Floats | None:
    """The same of (log p - mean) / √variance, the moments over the vocabulary under the model, (n,) (Zhang et al. 2025,
    arXiv:2404.02936). None where an answer's moments aren't known."""
    scores = []
    for row, moments in zip(items.logprobs, items.moments, strict=True):
        if moments is None:
            return None
        mean, variance = moments
        scores.append(_lowest((row - mean) / np.sqrt(np.maximum(variance, LEAST_VARIANCE)), share))
    return None if np.isnan(scores).any() else np.array(scores)


def reference_score(items: Items, reference: Items) -> Floats:
    """-(ℓ - ℓ of the reference model), (n,): what a model that never saw the answers finds likely is no sign."""
    return reference.loss - items.loss


def gradnorm_score(items: Items) -> Floats | None:
    """-norm of the loss's gradient, (n,). None where an answer's norm isn't known."""
    if items.gradnorm is None or not np.isfinite(items.gradnorm).all():
        return None
    return -items.gradnorm


def auc(member: Floats, other: Floats) -> float:
    """Area under the ROC curve: the share of pairs in which the member scores higher, ties counting half."""
    return float(wins(member, other).mean())


def wins(member: Floats, other: Floats) -> Floats:
    """(members, others): 1 where the member scores higher, a half where they tie."""
    a, b = member[:, None], other[None, :]
    return np.asarray((a > b) + 0.5 * (a == b), dtype=np.float64)


def privleak(unlearned: Floats, reference: Floats) -> Floats:
    """100 ((1 - Au) - (1 - Ar)) / (1 - Ar) of the unlearned and the reference model's areas (MUSE, Shi et al. 2025,
    arXiv:2407.06460).

    0: forgotten as if never seen; down to -100: still a member; above 0: so unlikely that it tells (no upper bound).
    NaN where the reference's area is 1.
    """
    left = 1 - reference
    return np.asarray(np.where(left > 0, 100 * (reference - unlearned) / np.where(left > 0, left, 1.0), np.nan))


def _lowest(values: Floats, share: float) -> float:
    k = max(1, int(share * len(values)))
    return float(np.sort(values)[:k].mean())
