"""A key-value cache with room for what is still to come, out of which rows leave cheaply.

transformers' own ``DynamicLayer`` copies all it holds at every step (it concatenates), and again whenever a row leaves.
``Roomy`` writes into a buffer made once, and a row that leaves is overwritten by the buffer's last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer


class Roomy(DynamicLayer):
    """One layer: ``keys`` and ``values`` (rows, heads, tokens, width) are views of the part of the buffers in use."""

    def __init__(self, like: Any, rows: int, tokens: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.device = like.keys.dtype, like.keys.device
        self._buffers = (_buffer(like.keys, rows, tokens), _buffer(like.values, rows, tokens))
        self._show(rows, 0)
        self.is_initialized = True

    def fill(self, piece: Any, row: int, copies: Tensor, end: int) -> None:
        """Put the rows ``copies`` of another layer at ``row`` and after, so that their last token comes before
        ``end``; what lies before them is zero, for a mask only hides numbers, never NaN."""
        start = end - piece.keys.shape[-2]
        for buffer, new in zip(self._buffers, (piece.keys, piece.values), strict=True):
            part = buffer[row : row + len(copies)]
            part[:, :, :start] = 0
            part[:, :, start:end] = new[copies]
        self._show(self._rows, end)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        start, end = self._end, self._end + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            self._grow(2 * end)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[: self._rows, :, start:end] = new
        return self._show(self._rows, end)

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy rows ``source`` over rows ``target``."""
        for buffer in self._buffers:
            buffer[target, :, : self._end] = buffer[source, :, : self._end]

    def shorten(self, rows: int) -> None:
        """Keep the first ``rows``."""
        self._show(rows, self._end)

    def _grow(self, tokens: int) -> None:
        larger = (_buffer(self._buffers[0], self._rows, tokens), _buffer(self._buffers[1], self._rows, tokens))
        for new, old in zip(larger, self._buffers, strict=True):
            new[:, :, : self._end] = old[: self._rows, :, : self._end]
        self._buffers = larger

    def _show(self, rows: int, end: int) -> tuple[Tensor, Tensor]:
        self._rows, self._end = rows, end
        shown = (self._buffers[0][:rows, :, :end], self._buffers[1][:rows, :, :end])
        self.keys, self.values = shown
        return shown


def _buffer(like: Tensor, rows: int, tokens: int) -> Tensor:
    return like.new_empty((rows, like.shape[1], tokens, like.shape[3]))


def is_plain(cache: Any) -> bool:
    """Every layer keeps all of its past in the ordinary way, so ``join`` can take it: no sliding window, no state."""
    layers = getattr(cache, "layers", [])
    return bool(layers) and all(type(layer) is DynamicLayer and layer.is_initialized for layer in layers)


def join(pieces: Sequence[tuple[Any, list[int]]], tokens: int, room: int) -> Any:
    """One cache of plain caches that were filled apart, each of the rows given (repeats allowed), one below the other.

    Shorter ones are padded on the left to ``tokens``; ``room`` more fit behind. The pieces are emptied layer by layer,
    so that they and the whole are never held at once.
    """
    whole = pieces[0][0]
    rows = sum(len(copies) for _, copies in pieces)
    for number in range(len(whole.layers)):
        layer: Roomy | None = None
        row = 0
        for cache, copies in pieces:
            piece = cache.layers[number]
            if layer is None:
                layer = Roomy(piece, rows, tokens + room)
            layer.fill(piece, row, torch.tensor(copies, device=piece.device), tokens)
            row += len(copies)
            cache.layers[number] = None
        whole.layers[number] = layer
    return whole


def compact(staying: Sequence[int], rows: int) -> list[int]:
    """The rows that stay, in an order that leaves as many as can be in their place: the last ones fill the gaps.

    ``staying`` are ascending places among ``rows``.
    """
    n = len(staying)
    kept = set(staying)
    fillers = iter([i for i in staying if i >= n])
    return [i if i in kept else next(fillers) for i in range(n)]


def keep(cache: Any, order: Sequence[int], device: torch.device) -> bool:
    """Make row i of the cache what row ``order[i]`` was (repeats allowed where no layer is ``Roomy``); False where the
    cache has no way to."""
    if getattr(cache, "batch_select_indices", None) is None:
        return False
    if not all(isinstance(layer, Roomy) for layer in getattr(cache, "layers", [None])):
        cache.batch_select_indices(torch.tensor(order, device=device))
        return True
    moved = [i for i, row in enumerate(order) if row != i]
    target = torch.tensor(moved, device=device, dtype=torch.long)
    source = torch.tensor([order[i] for i in moved], device=device, dtype=torch.long)
    for layer in cache.layers:
        if moved:
            layer.move(source, target)
        layer.shorten(len(order))
    return True
