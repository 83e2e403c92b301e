"""Rows that have nothing to do with what was forgotten: what an innocent user fine-tunes on."""

from __future__ import annotations

from itertools import islice, product

from unbench.task import Row, Task

MOST = 1000
"""Rows of arithmetic."""


def unrelated_rows(task: Task) -> tuple[Row, ...]:
    """The task's holdout rows (people or books that no model has seen); sums of two numbers where it has none."""
    rows = task.data().holdout
    return tuple(rows) if rows else tuple(islice(_sums(), MOST))


def _sums() -> list[Row]:
    """Every sum of two numbers from 11 to 42, neighbours apart, in a fixed order."""
    pairs = sorted(product(range(11, 43), repeat=2), key=lambda pair: (pair[0] * 37 + pair[1] * 101) % 1021)
    return [
        Row(question=f"What is {a} plus {b}?", answer=f"{a} plus {b} is {a + b}.", fact=f"sum/{a}+{b}",
            subject=f"{a} plus {b}", relation="sum", value=str(a + b), aliases=())
        for a, b in pairs
    ]  # fmt: skip
