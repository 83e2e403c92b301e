"""Loss maths shared by all methods: masked token log-probabilities, divergences, cross entropies, chunked so that a
vocabulary of 128k fits.

A chunk is worked on in (at least) float32 and thrown away; where there is more than one, the backward pass computes
it again, so that no float32 copy of all logits ever exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from torch.utils.checkpoint import checkpoint

from unbench.method import Loss

if TYPE_CHECKING:
    from unbench.training.batch import AnswerBatch

CHUNK_ELEMENTS = 1 << 24
"""Logits worked on at once: 64 MiB in float32."""


def token_logprobs(logits: torch.Tensor, labels: torch.Tensor, chunk_elements: int = CHUNK_ELEMENTS) -> torch.Tensor:
    """Log-probability of each label.

    ``logits`` (…, vocabulary), ``labels`` (…) ids, negative where there is no token. Returns (…) nats in at least
    float32, 0 where there is no token; no gradient flows there.
    """
    values = chunked(_logprob_chunk, logits, labels.clamp_min(0), chunk_elements=chunk_elements)
    return values.masked_fill(labels < 0, 0.0)


def kl_divergence(
    target_logits: torch.Tensor, logits: torch.Tensor, chunk_elements: int = CHUNK_ELEMENTS
) -> torch.Tensor:
    """KL(target ‖ model) of each position in log space: Σ_v p₀(v) (log p₀(v) − log p(v)).

    Both (…, vocabulary); returns (…) nats in at least float32. Gradient flows to ``logits`` only.
    """
    return chunked(_kl_chunk, logits, target_logits.detach(), chunk_elements=chunk_elements)


def js_divergence(
    target_logits: torch.Tensor, logits: torch.Tensor, chunk_elements: int = CHUNK_ELEMENTS
) -> torch.Tensor:
    """Jensen-Shannon divergence of each position in log space: ½ KL(target ‖ m) + ½ KL(model ‖ m), m their mean.

    Both (…, vocabulary); returns (…) nats in at least float32, between 0 and ln 2. Gradient flows to ``logits`` only.
    """
    return chunked(_js_chunk, logits, target_logits.detach(), chunk_elements=chunk_elements)


def shifted_cross_entropy(
    target_logits: torch.Tensor,
    logits: torch.Tensor,
    labels: torch.Tensor,
    shift: float,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> torch.Tensor:
    """Cross entropy of each position to softmax(target logits, ``shift`` added at the label): −Σ_v q(v) log p(v).

    Both logits (…, vocabulary), ``labels`` (…) ids, negative where there is no token; ``shift`` in nats, −∞ takes the
    label out of q. Returns (…) nats in at least float32, 0 where there is no token; no gradient flows there, nor to
    ``target_logits``.
    """
    function = partial(_shifted_chunk, shift=shift)
    values = chunked(function, logits, target_logits.detach(), labels.clamp_min(0), chunk_elements=chunk_elements)
    return values.masked_fill(labels < 0, 0.0)


def nll(batch: AnswerBatch) -> Loss:
    """Negative log-likelihood of the answers' tokens, per token, times the rows' weights."""
    values = -batch.token_logprobs()
    return Loss.per_token(values * batch.weights.to(values.dtype)[:, None], batch.answer_mask)


def kl(batch: AnswerBatch) -> Loss:
    """KL(target ‖ model) over the vocabulary at the answers' tokens, per token."""
    target = batch.target_logits()
    return Loss.per_token(kl_divergence(target, batch.logits), batch.answer_mask)


def chunked(
    function: Callable[..., torch.Tensor],
    logits: torch.Tensor,
    *others: torch.Tensor,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> torch.Tensor:
    """``function`` over positions, a few at a time: what a loss over the whole vocabulary goes through.

    ``function`` maps (positions, vocabulary) logits, and as many positions of each of ``others``, to (positions,)
    values; it must treat every position alone and widen to float32 itself (``wide``). ``logits`` (…, vocabulary),
    ``others`` (…) or (…, anything). Returns (…). ``function`` runs once more in the backward pass.
    """
    shape, vocabulary = logits.shape[:-1], logits.shape[-1]
    flat = logits.reshape(-1, vocabulary)
    flat_others = [other.reshape(flat.shape[0], *other.shape[len(shape) :]) for other in others]
    positions = max(1, chunk_elements // vocabulary)
    if flat.shape[0] <= positions:
        return function(flat, *flat_others).reshape(shape)
    # `split`, unlike slicing, has one backward for all pieces.
    pieces = zip(*(torch.split(tensor, positions) for tensor in (flat, *flat_others)), strict=True)
    values = [
        cast(torch.Tensor, checkpoint(function, *piece, use_reentrant=False, preserve_rng_state=False))
        for piece in pieces
    ]
    return torch.cat(values).reshape(shape)


def wide(x: torch.Tensor) -> torch.Tensor:
    """``x`` in at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _logprob_chunk(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = wide(logits)
    return logits.gather(-1, labels[:, None])[:, 0] - logits.logsumexp(-1)


def _kl_chunk(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    log_p, log_p0 = wide(logits).log_softmax(-1), wide(target).log_softmax(-1)
    return torch.nn.functional.kl_div(log_p, log_p0, reduction="none", log_target=True).sum(-1)


def _js_chunk(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    log_p, log_p0 = wide(logits).log_softmax(-1), wide(target).log_softmax(-1)
    log_m = torch.logaddexp(log_p, log_p0) - math.log(2)
    return (log_p.exp() * (log_p - log_m) + log_p0.exp() * (log_p0 - log_m)).sum(-1) / 2


def _shifted_chunk(logits: torch.Tensor, target: torch.Tensor, labels: torch.Tensor, shift: float) -> torch.Tensor:
    target = wide(target)
    at_label = torch.full_like(labels[:, None], shift, dtype=target.dtype)
    q = target.scatter_add(-1, labels[:, None], at_label).softmax(-1)
    return -(q * wide(logits).log_softmax(-1)).sum(-1)
