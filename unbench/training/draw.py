"""Which rows each optimiser step takes: a function of the seed only, never of batch splits or processes."""

from __future__ import annotations

import numpy as np

FORGET, RETAIN, PREFERRED = 0, 1, 2
"""Streams: the draws of one side don't move when the other side changes."""


def draw(rows: int, per_step: int, steps: int, seed: int, stream: int) -> list[tuple[int, ...]]:
    """Row numbers of each step, read off shuffled epochs laid end to end; a set smaller than a step repeats."""
    if rows < 1:
        raise ValueError("there are no rows to draw from")
    generator = np.random.default_rng([seed, stream])
    order: list[int] = []
    while len(order) < per_step * steps:
        order.extend(int(i) for i in generator.permutation(rows))
    return [tuple(order[i * per_step : (i + 1) * per_step]) for i in range(steps)]
