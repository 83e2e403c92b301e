"""Batches that shrink when memory runs out. Results never depend on a batch's size, so nothing else changes."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch

from unbench.errors import EnvironmentProblem
from unbench.training.memory import is_out_of_memory

Item = TypeVar("Item")
log = logging.getLogger(__name__)


class Backoff:
    """Remembers what was too large. ``note`` is told once a halving."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self.limit: int | None = None
        """Largest size (in the unit of ``size``) that is still tried."""

    def each(
        self,
        batches: Iterable[list[Item]],
        run: Callable[[list[Item]], None],
        size: Callable[[Sequence[Item]], int],
    ) -> None:
        """``run`` every batch, in halves where it doesn't fit; ``size`` says how large a batch is.

        Raises ``EnvironmentProblem`` where a single sequence doesn't fit.
        """
        for batch in batches:
            left = [batch]
            while left:
                piece = left.pop()
                if len(piece) > 1 and self.limit is not None and size(piece) > self.limit:
                    left += _halves(piece)
                    continue
                if not self._fits(run, piece):
                    self._halve(piece, size(piece))
                    left += _halves(piece)

    def _fits(self, run: Callable[[list[Item]], None], piece: list[Item]) -> bool:
        try:
            run(piece)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return True
        # Outside the handler: the traceback would keep the failed pass's tensors alive.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return False

    def _halve(self, piece: Sequence[Item], size: int) -> None:
        if len(piece) == 1:
            raise EnvironmentProblem(
                "Out of memory with a single sequence in a forward pass of the model.",
                "Try a smaller --model, --dtype bfloat16 or a device with more memory.",
            )
        self.limit = size // 2
        text = f"Out of memory with {len(piece)} sequences in a forward pass: halved; the result is the same."
        log.warning(text)
        self._note(text)


def _halves(piece: list[Item]) -> list[list[Item]]:
    # The first half last: it is taken next, so the order of the batches stays.
    middle = (len(piece) + 1) // 2
    return [piece[middle:], piece[:middle]]
