"""Weights a little further up a gradient, for a loss whose gradient is taken there (sharpness-aware minimisation)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


@contextmanager
def uphill(
    parameters: Sequence[torch.nn.Parameter], gradients: Sequence[torch.Tensor | None], radius: float
) -> Iterator[None]:
    """``parameters`` at θ + ρ g/‖g‖, the norm over all ``gradients`` together (in at least float32), then at θ again,
    bit for bit. A gradient of zero moves nothing."""
    wide = [g.to(torch.promote_types(g.dtype, torch.float32)) for g in gradients if g is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in wide])) if wide else 0.0
    start = [p.detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None and norm > 0:
                    parameter.add_((gradient * (radius / norm)).to(parameter.dtype))
            # As large as the weights, and of no use to the passes that follow.
            gradient = None
            del wide, gradients
        yield
    finally:
        with torch.no_grad():
            for parameter, before in zip(parameters, start, strict=True):
                parameter.copy_(before)
