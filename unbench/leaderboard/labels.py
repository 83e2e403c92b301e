"""Places for the labels of a plot's points, and texts that a page can hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
CHARACTER, LINE = 7.0, 15.0
"""Rough width of a character and height of a line, in pixels of the drawing."""
LONGEST_LABEL = 26


@dataclass(frozen=True)
class Placed:
    """Where a label goes: its box, and whether it lies so far from its point that a line must lead to it."""

    box: Box
    far: bool


def place_labels(
    anchors: Sequence[tuple[float, float]],
    widths: Sequence[float],
    height: float,
    bounds: Box,
    arms: Sequence[Box] = (),
) -> list[Placed]:
    """A place for each label near its point, off other labels, points and lines (``arms``) where there is room.

    y grows downwards.
    """
    import numpy as np

    points = np.array([(x - 5, y - 5, x + 5, y + 5) for x, y in anchors]).reshape(-1, 4)
    lines = np.array(arms, dtype=float).reshape(-1, 4)
    placed: dict[int, Placed] = {}
    for index in sorted(range(len(anchors)), key=lambda i: (-anchors[i][0], anchors[i][1], i)):
        found = _candidates(anchors[index], widths[index], height)
        radii, boxes = np.array([radius for radius, _ in found]), np.array([box for _, box in found])
        taken = np.array([place.box for place in placed.values()]).reshape(-1, 4)
        outside = widths[index] * height - _overlaps(boxes, np.array([bounds]))
        others = _overlaps(boxes, np.delete(points, index, axis=0))
        cost = radii + 3 * outside + 2 * others + _overlaps(boxes, lines) + 3 * _overlaps(boxes, taken)
        radius, box = found[int(np.argmin(np.round(cost, 6)))]
        placed[index] = Placed(box, radius > 16)
    return [placed[index] for index in range(len(anchors))]


def _overlaps(boxes: Any, others: Any) -> Any:
    """(n,) summed area that each box shares with the others."""
    import numpy as np

    wide = np.minimum(boxes[:, None, 2], others[None, :, 2]) - np.maximum(boxes[:, None, 0], others[None, :, 0])
    tall = np.minimum(boxes[:, None, 3], others[None, :, 3]) - np.maximum(boxes[:, None, 1], others[None, :, 1])
    return (np.clip(wide, 0, None) * np.clip(tall, 0, None)).sum(axis=1)


def _candidates(anchor: tuple[float, float], width: float, height: float) -> list[tuple[float, Box]]:
    found = []
    for radius in (9.0, 16.0, 26.0, 40.0, 56.0, 74.0, 94.0, 116.0, 140.0):
        for turn in range(16):
            angle = 2 * math.pi * turn / 16
            x, y = anchor[0] + radius * math.cos(angle), anchor[1] + radius * math.sin(angle)
            # The side of the box that faces the point touches the circle.
            left = x - width * (1 - math.cos(angle)) / 2
            top = y - height * (1 - math.sin(angle)) / 2
            found.append((radius + 0.01 * turn, (left, top, left + width, top + height)))
    return found


def shorten(label: str) -> str:
    """A label that fits the plot."""
    label = printable(label)
    return label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"


def printable(text: str) -> str:
    """Text that XML can hold: control characters, and those that turn the writing direction, are replaced."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)
