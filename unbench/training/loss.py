"""Loss maths shared by all methods: masked token log-probabilities and KL, chunked so that a vocabulary of 128k fits.

A chunk is worked on in (at least) float32 and thrown away; where there is more than one, the backward pass computes
it again, so that no float32 copy of all logits ever exists.
"""

from __future__ import annotations

from collections.abc import Callable
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
    values = _chunked(_logprob_chunk, logits, labels.clamp_min(0), chunk_elements)
    return values.masked_fill(labels < 0, 0.0)


def kl_divergence(
    target_logits: torch.Tensor, logits: torch.Tensor, chunk_elements: int = CHUNK_ELEMENTS
) -> torch.Tensor:
    """KL(target ‖ model) of each position in log space: Σ_v p₀(v) (log p₀(v) − log p(v)).

    Both (…, vocabulary); returns (…) nats in at least float32. Gradient flows to ``logits`` only.
    """
    return _chunked(_kl_chunk, logits, target_logits.detach(), chunk_elements)


def nll(batch: AnswerBatch) -> Loss:
    """Negative log-likelihood of the answers' tokens, per token, times the rows' weights."""
    values = -batch.token_logprobs()
    return Loss.per_token(values * batch.weights.to(values.dtype)[:, None], batch.answer_mask)


def kl(batch: AnswerBatch) -> Loss:
    """KL(target ‖ model) over the vocabulary at the answers' tokens, per token."""
    target = batch.target_logits()
    return Loss.per_token(kl_divergence(target, batch.logits), batch.answer_mask)


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _logprob_chunk(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = _wide(logits)
    return logits.gather(-1, labels[:, None])[:, 0] - logits.logsumexp(-1)


def _kl_chunk(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    log_p, log_p0 = _wide(logits).log_softmax(-1), _wide(target).log_softmax(-1)
    return torch.nn.functional.kl_div(log_p, log_p0, reduction="none", log_target=True).sum(-1)


def _chunked(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    logits: torch.Tensor,
    other: torch.Tensor,
    chunk_elements: int,
) -> torch.Tensor:
    """``function`` over positions, a few at a time. ``split``, unlike slicing, has one backward for all pieces."""
    shape, vocabulary = logits.shape[:-1], logits.shape[-1]
    flat = logits.reshape(-1, vocabulary)
    flat_other = other.reshape(flat.shape[0], *other.shape[len(shape) :])
    positions = max(1, chunk_elements // vocabulary)
    if flat.shape[0] <= positions:
        return function(flat, flat_other).reshape(shape)
    pieces = [
        cast(torch.Tensor, checkpoint(function, a, b, use_reentrant=False, preserve_rng_state=False))
        for a, b in zip(torch.split(flat, positions), torch.split(flat_other, positions), strict=True)
    ]
    return torch.cat(pieces).reshape(shape)
