"""The plots of a board: forget against specificity, and cost against overall."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unbench.leaderboard import plot
from unbench.leaderboard.boards import Board, Row
from unbench.leaderboard.scores import score_of
from unbench.results.schema import Score

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class Figure:
    """A plot with its words."""

    title: str
    said: str
    svg: Markup
    front: tuple[str, ...]
    """Who is on the Pareto front."""


def board_figures(board: Board) -> list[Figure]:
    """The plots; none where no run has both forget and specificity."""
    if not _points(board, _forget, _specificity):
        return []
    key = board.sorted_by
    cost = _points(board, lambda row: plot.Span(row.seconds), lambda row: _span(score_of(row.result, key)))
    # A control may cost nothing; it stands at the edge, and the axis is the methods'.
    axis = plot.cost_axis([point.x.value for point in cost if not point.aside])
    overall = plot.Axis(key.replace("_", " "))
    return [
        _figure(board, "spare", "Forget against specificity",
                "Further right has forgotten more, further up has spared more of what lies near.",
                _points(board, _forget, _specificity), plot.FORGET, plot.SPECIFICITY, False),
        _figure(board, "cost", f"Cost against {overall.label}",
                "Further left took less time to unlearn, further up did better. Seconds depend on the device.",
                cost, axis, overall, True),
    ]  # fmt: skip


def _figure(board: Board, name: str, title: str, said: str, points: list[plot.Point], x: plot.Axis, y: plot.Axis,
            cheap: bool) -> Figure:  # fmt: skip
    from markupsafe import Markup

    front = tuple(point.label for point in plot.pareto_front(points, cheap))
    svg = plot.scatter_svg(
        points,
        f"{board.id}-{name}",
        f"{title}: {board.task} on {board.model}",
        f"{len(points)} of {len(board.rows)} runs. On the Pareto front: {', '.join(front[:12]) or 'none'}. The "
        "table of this board holds the same numbers.",
        x,
        y,
        cheap,
    )
    return Figure(title, said, Markup(svg), front if len(front) <= 12 else ())


def _points(
    board: Board, x: Callable[[Row], plot.Span | None], y: Callable[[Row], plot.Span | None]
) -> list[plot.Point]:
    pairs = [(row, x(row), y(row)) for row in board.rows]
    return [plot.Point(row.label, a, b, row.aside) for row, a, b in pairs if a is not None and b is not None]


def _forget(row: Row) -> plot.Span | None:
    return _span(row.result.scores.forget)


def _specificity(row: Row) -> plot.Span | None:
    return _span(row.result.scores.specificity)


def _span(score: Score) -> plot.Span | None:
    return None if score.value is None else plot.Span(score.value, score.low, score.high)
