"""A board's own page: rings and attacks of all its runs side by side."""

from __future__ import annotations

from dataclasses import dataclass

from unbench.leaderboard.boards import Board, Row
from unbench.leaderboard.curves import RINGS, ring_points
from unbench.leaderboard.scores import has_interval
from unbench.results.schema import Score


@dataclass(frozen=True)
class Line:
    """One run, a value a column."""

    row: Row
    cells: tuple[tuple[str, str, str], ...]
    """Figure, interval, and a tint from 0 to 9 (empty for none)."""


@dataclass(frozen=True)
class Matrix:
    """A table of runs by columns."""

    heads: tuple[str, ...]
    lines: tuple[Line, ...]


def ring_matrix(board: Board) -> Matrix:
    """Knowledge after unlearning by ring, and that of the target in the first run that has it."""
    labels = [label for _, label in RINGS]
    by_row = [(row, {point.label: point for point in ring_points(row.result)}) for row in board.rows]
    heads = tuple(label for label in labels if any(label in points for _, points in by_row))
    lines = []
    for row, points in by_row:
        cells = []
        for head in heads:
            value = points[head].after if head in points else None
            # In the forget ring little knowledge is good, elsewhere much.
            good = None if value is None else (1 - value if head == "forget" else value)
            cells.append((_figure(value), "", tint(good)))
        lines.append(Line(row, tuple(cells)))
    return Matrix(heads, tuple(lines))


def attack_matrix(board: Board) -> Matrix | None:
    """forget under every attack; None where no run was attacked."""
    names = sorted({attack.name for row in board.rows for attack in row.result.attacks})
    if not names:
        return None
    lines = []
    for row in board.rows:
        found = {attack.name: attack.forget for attack in row.result.attacks}
        if found:
            cells = tuple(_cell(found.get(name)) for name in names)
            lines.append(Line(row, (_cell(row.result.scores.forget), _cell(row.result.scores.trace), *cells)))
    heads = ("no attack", "trace", *(name.removeprefix("unbench:").replace("_", " ") for name in names))
    return Matrix(heads, tuple(lines))


def tint(value: float | None) -> str:
    """A step of a scale of ten, 0 bad; empty where there is no value."""
    return "" if value is None else str(int(min(max(value, 0.0), 0.999) * 10))


def _cell(score: Score | None) -> tuple[str, str, str]:
    if score is None or score.value is None:
        return "–", "", ""
    interval = f"{score.low:.2f}–{score.high:.2f}" if has_interval(score) else ""
    return _figure(score.value), interval, tint(score.value)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-0.00", "0.00")
