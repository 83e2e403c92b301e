"""Loss maths shared by all methods: masked token log-probabilities, divergences, cross entropies, chunked so that a
vocabulary of 128k fits.

A chunk is worked on in (at least) float32, its gradient kept in the logits' own format, and thrown away: no float32
copy of all logits ever exists, and nothing is computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch

from unbench.method import Loss

if TYPE_CHECKING:
    from unbench.training.batch import AnswerBatch

CHUNK_ELEMENTS = 1 << 24
"""Logits worked on at once on a GPU: 64 MiB in float32."""
CACHED_ELEMENTS = 1 << 18
"""The same on the CPU: what is made of them stays in its cache."""


def token_logprobs(logits: torch.Tensor, labels: torch.Tensor, chunk_elements: int | None = None) -> torch.Tensor:
    """Log-probability of each label.

    ``logits`` (…, vocabulary), ``labels`` (…) ids, negative where there is no token. Returns (…) nats in at least
    float32, 0 where there is no token; no gradient flows there.
    """
    values = chunked(_logprob_chunk, logits, labels.clamp_min(0), chunk_elements=chunk_elements)
    return values.masked_fill(labels < 0, 0.0)


def kl_divergence(target_logits: torch.Tensor, logits: torch.Tensor, chunk_elements: int | None = None) -> torch.Tensor:
    """KL(target ‖ model) of each position in log space: Σ_v p₀(v) (log p₀(v) − log p(v)).

    Both (…, vocabulary); returns (…) nats in at least float32. Gradient flows to ``logits`` only.
    """
    return chunked(_kl_chunk, logits, target_logits.detach(), chunk_elements=chunk_elements)


def js_divergence(target_logits: torch.Tensor, logits: torch.Tensor, chunk_elements: int | None = None) -> torch.Tensor:
    """Jensen-Shannon divergence of each position in log space: ½ KL(target ‖ m) + ½ KL(model ‖ m), m their mean.

    Both (…, vocabulary); returns (…) nats in at least float32, between 0 and ln 2. Gradient flows to ``logits`` only.
    """
    return chunked(_js_chunk, logits, target_logits.detach(), chunk_elements=chunk_elements)


def shifted_cross_entropy(
    target_logits: torch.Tensor,
    logits: torch.Tensor,
    labels: torch.Tensor,
    shift: float,
    chunk_elements: int | None = None,
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
    chunk_elements: int | None = None,
) -> torch.Tensor:
    """``function`` over positions, a few at a time: what a loss over the whole vocabulary goes through.

    ``function`` maps (positions, vocabulary) logits, and as many positions of each of ``others``, to (positions,)
    values; it must treat every position alone and widen to float32 itself (``wide``). ``logits`` (…, vocabulary),
    ``others`` (…) or (…, anything). Returns (…); gradient flows to ``logits`` only, once (no second derivatives).
    """
    shape, vocabulary = logits.shape[:-1], logits.shape[-1]
    flat = logits.reshape(-1, vocabulary)
    flat_others = [other.reshape(flat.shape[0], *other.shape[len(shape) :]) for other in others]
    if chunk_elements is None:
        chunk_elements = CHUNK_ELEMENTS if logits.is_cuda else CACHED_ELEMENTS
    positions = max(1, chunk_elements // vocabulary)
    if torch.is_grad_enabled() and flat.requires_grad:
        values = cast(torch.Tensor, _Chunked.apply(function, positions, flat, *flat_others))  # type: ignore[no-untyped-call]
    else:
        values = _run(function, positions, flat, flat_others, None)
    return values.reshape(shape)


class _Chunked(torch.autograd.Function):
    """Values and, while a chunk is at hand, its gradient: nothing of a chunk is kept or computed again but that, which
    the backward pass scales in place. So a step holds the logits and one tensor of their size."""

    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., torch.Tensor], positions: int, logits: torch.Tensor, *others: torch.Tensor
    ) -> torch.Tensor:
        ctx.function, ctx.positions = function, positions
        ctx.save_for_backward(logits, *others)
        ctx.gradient = torch.empty_like(logits)
        return _run(function, positions, logits, others, ctx.gradient)

    @staticmethod
    def backward(ctx: Any, *weights: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # Given away below: a graph that is kept and gone through again makes it anew.
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            logits, *others = ctx.saved_tensors
            gradient = torch.empty_like(logits)
            _run(ctx.function, ctx.positions, logits, others, gradient)
        return None, None, gradient.mul_(weights[0][:, None]), *(None for _ in ctx.needs_input_grad[3:])


def _run(
    function: Callable[..., torch.Tensor],
    positions: int,
    logits: torch.Tensor,
    others: Sequence[torch.Tensor],
    gradient: torch.Tensor | None,
) -> torch.Tensor:
    """Values of all positions; the derivative of each by its own logits is written to ``gradient``."""
    values = []
    for first in range(0, len(logits), positions):
        part = slice(first, first + positions)
        piece = logits[part].detach().requires_grad_(gradient is not None)
        with torch.set_grad_enabled(gradient is not None):
            found = function(piece, *(other[part].detach() for other in others))
            if gradient is not None:
                (gradient[part],) = torch.autograd.grad(found.sum(), piece)
        values.append(found.detach())
    return torch.cat(values)


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
