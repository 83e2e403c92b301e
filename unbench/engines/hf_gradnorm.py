"""Gradient norms on a transformers model, for the membership attack of that name: a forward and a backward pass for
every answer, one sequence at a time.

The norm is the Euclidean one (p = 2) of the whole gradient of an answer's mean loss,

    ‖∇_θ ℓ(a|q)‖₂,   θ all parameters that require a gradient,

after the gradient-norm attack of Wang et al. 2024 (arXiv:2402.17012), which open-unlearning brought to unlearning.
open-unlearning's code takes the norm of each parameter tensor and averages those over tensors; the norm of the whole
gradient doesn't depend on how an architecture cuts its parameters into tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from unbench.engines.base import ScoreRequest
from unbench.engines.hf_forward import Forward
from unbench.errors import EnvironmentProblem
from unbench.training.memory import is_out_of_memory


def gradient_norms(
    forward: Forward, requests: Sequence[ScoreRequest], report: Callable[[int, int], None] | None = None
) -> list[list[float]]:
    """The norm (nats a token) of every continuation, in the order of the requests; inf or NaN where it overflows.

    Gradients that the model holds, and which parameters require one, are as before when this returns. Where no
    parameter requires a gradient (a served adapter is frozen, with the model under it) all of them are taken.

    Raises:
        EnvironmentProblem: the gradient of a single sequence doesn't fit into memory.
    """
    total = sum(len(request.continuations) for request in requests)
    out: list[list[float]] = []
    done = 0
    with _watched(forward.model) as norms, torch.enable_grad():
        for request in requests:
            own = []
            for continuation in request.continuations:
                norms.clear()
                try:
                    _loss(forward, request.prompt, continuation).backward()  # type: ignore[no-untyped-call]
                except (RuntimeError, MemoryError) as problem:
                    if not is_out_of_memory(problem):
                        raise
                    raise EnvironmentProblem(
                        "Out of memory with the gradient of a single sequence.",
                        "Leave out --gradnorm, or try a smaller model or a device with more memory.",
                    ) from problem
                own.append(float(torch.linalg.vector_norm(torch.stack(norms))))
                done += 1
                if report is not None:
                    report(done, total)
            out.append(own)
    return out


def _loss(forward: Forward, prompt: list[int], continuation: list[int]) -> Tensor:
    """ℓ of one continuation, with its graph. The output layer runs in slices that are made again on the way back, so
    that no table of tokens × vocabulary is kept."""
    ids = torch.tensor([[*prompt, *continuation[:-1]]], device=forward.device)
    positions = torch.arange(ids.shape[1], device=forward.device)[None]
    states, _ = forward.states(ids, torch.ones_like(ids, dtype=torch.bool), positions)
    wanted = torch.tensor(continuation, device=forward.device)
    rows = forward.slice_rows
    parts = list(zip(torch.split(states[0, len(prompt) - 1 :], rows), torch.split(wanted, rows), strict=True))

    def loss(part: Tensor, tokens: Tensor) -> Tensor:
        return cross_entropy(forward.logits(part), tokens.to(part.device), reduction="sum")

    if len(parts) == 1:
        return loss(*parts[0]) / len(continuation)
    sums = [checkpoint(loss, part, tokens, use_reentrant=False) for part, tokens in parts]
    return torch.stack(sums).sum() / len(continuation)


@contextmanager
def _watched(model: torch.nn.Module) -> Iterator[list[Tensor]]:
    """A list that every backward pass adds the norm of each parameter's gradient to. The gradients themselves are
    dropped as they come, so no second copy of the model is ever held."""
    norms: list[Tensor] = []
    parameters = list(model.parameters())
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in parameters]
    frozen = not any(parameter.requires_grad for parameter in parameters)

    def take(parameter: Tensor) -> None:
        assert parameter.grad is not None
        norms.append(torch.linalg.vector_norm(parameter.grad, dtype=torch.float32).to(parameters[0].device))
        parameter.grad = None

    handles = []
    try:
        for parameter in parameters:
            parameter.grad = None
            if frozen and parameter.is_floating_point():
                parameter.requires_grad_(True)
            if parameter.requires_grad:
                handles.append(parameter.register_post_accumulate_grad_hook(take))  # type: ignore[no-untyped-call]
        yield norms
    finally:
        for handle in handles:
            handle.remove()
        for parameter, needed, gradient in before:
            parameter.requires_grad_(needed)
            parameter.grad = gradient
