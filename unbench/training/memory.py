"""How many sequences a forward pass holds, halved when memory runs out."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from unbench.errors import EnvironmentProblem
from unbench.training.batch import EncodedRow

T = TypeVar("T")
log = logging.getLogger(__name__)

DEFAULT_SIZE = 32
"""Sequences a forward pass where nobody said; memory decides from there."""


class MicroBatch:
    """The size that fits. It only ever shrinks, and never changes a gradient (see ``unbench.training.trainer``)."""

    def __init__(self, size: int | None = None) -> None:
        self.size = size or DEFAULT_SIZE

    def run(self, attempt: Callable[[int], T], largest: int, reset: Callable[[], object] = lambda: None) -> T:
        """``attempt(size)``; out of memory, ``reset()`` and again with half of it.

        ``largest`` is the most sequences that the attempt can use at once: halving starts there.
        Raises ``EnvironmentProblem`` where a single sequence doesn't fit.
        """
        while True:
            try:
                return attempt(self.size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler: the traceback would keep the failed pass's tensors alive.
            reset()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._halve(largest)

    def _halve(self, largest: int) -> None:
        size = min(self.size, largest)
        if size <= 1:
            raise EnvironmentProblem(
                "Out of memory with a single sequence in a forward pass.",
                "Try --train lora, a smaller --model, --dtype bfloat16 or a device with more memory.",
            )
        self.size = size // 2
        log.warning("Out of memory: sequences in a forward pass halved from %d to %d; the result is the same.", size,
                    self.size)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """True for a device's or the machine's out-of-memory error."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def split(rows: Sequence[EncodedRow], size: int) -> list[list[EncodedRow]]:
    """Pieces of at most ``size`` sequences (a pair is two), like lengths together so that little is padded."""
    if any(row.preferred is not None for row in rows):
        size = max(1, size // 2)
    ordered = sorted(rows, key=lambda row: (len(row.prompt), len(row.answer)))
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]
