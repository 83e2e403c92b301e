"""``forget_worst`` and ``overall_worst``: the scores under the worst that was tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unbench.attacks.measure import Part, Point, part_of
from unbench.metrics import formulas
from unbench.metrics.scores import Board
from unbench.metrics.statistics import Floats, finish
from unbench.metrics.table import Table
from unbench.results.schema import AttackPoint, Score, Worst


def worst(table: Table, attacks: Sequence[tuple[str, Sequence[Point]]], unattacked: AttackPoint | None = None) -> Worst:
    """The least of forget, trace and forget under every point that got something back for certain (``Point.clear``),
    and the harmonic mean of it with retain and specificity.

    Args:
        table: the models that nobody attacked, side by side.
        attacks: qualified name and curve of every attack that was carried out.
        unattacked: the attacks' probes as nobody attacked them.

    The interval is that of whatever turned out least: that it was picked among several is not in it.
    """
    board = Board(table)
    names = [name for name, _ in attacks]
    chosen = least(board, attacks)
    if chosen is None:
        null = Score(value=None, reason="forget can't be had")
        return Worst(forget_worst=null, overall_worst=null, by="", attacks=names, unattacked=unattacked)
    return Worst(
        forget_worst=chosen.score,
        overall_worst=_overall(board, chosen.part),
        by=chosen.by,
        attacks=names,
        unattacked=unattacked,
    )


@dataclass(frozen=True)
class Least:
    """The least of forget, trace and forget under the attacks."""

    by: str
    """What gave it."""
    part: Part
    score: Score


def least(board: Board, attacks: Sequence[tuple[str, Sequence[Point]]]) -> Least | None:
    """What turned out least; None where forget can't be had. ``attacks``: as for ``worst``."""
    found: list[Least] = []
    headline = board.headline()
    for name, formula, score in (("forget", board.forget, headline.forget), ("trace", board.trace, headline.trace)):
        if score.value is not None:
            found.append(Least(name, part_of(board, formula), score))
    for name, points in attacks:
        for point in points:
            if point.clear and point.part is not None:
                found.append(Least(_words(name, point), point.part, point.shown.forget))
    return min(found, key=lambda one: float(one.score.value or 0.0)) if found else None


@dataclass(frozen=True)
class Whole:
    """A harmonic mean with retain and specificity, in the views that intervals and rank sets need."""

    value: float
    strata: list[dict[str, float]]
    """Cluster -> the mean without it: forgotten subjects, then the subjects of far and world alone."""
    by_seed: Floats
    n: int
    """Probes that entered."""


def _words(name: str, point: Point) -> str:
    shown = point.shown
    place = f"{shown.series}, {shown.strength:g}" if shown.series else f"{shown.strength:g}"
    return f"{name} at {place}"


def whole_of(board: Board, part: Part) -> Whole | str:
    """Harmonic mean of ``part`` (forget, or what takes its place), retain and specificity; a reason where one of them
    is missing."""
    near, kept = board.counted.near, board.retain_cells
    missing = [name for name, cells in (("retain", kept), ("specificity", near)) if not cells]
    if missing:
        return f"{' and '.join(missing)} can't be had"
    sums, clusters = board.sums, board.table.clusters
    cells = [*board.counted.forget, *near, *kept]
    centre = np.array([part.value, *(float(f(sums.full, None)[0]) for f in (board.retain, board.specificity))])

    def whole(first: Floats, means: Floats, opened: bool) -> Floats:
        parts = np.column_stack([first, means])
        return formulas.harmonic(parts, np.isfinite(parts), centre if opened else None)

    strata = []
    for rows in board.strata(cells):
        own = sums.left_out.rows(rows)
        first = np.array([part.left_out.get(clusters[row], part.value) for row in rows])
        rest = np.stack([board.retain(own, sums.full), board.specificity(own, sums.full)], axis=1)
        values = (float(x) for x in whole(first, rest, True))
        strata.append(dict(zip((clusters[row] for row in rows), values, strict=True)))
    seeds = np.stack([board.retain(sums.by_seed, sums.full), board.specificity(sums.by_seed, sums.full)], axis=1)
    value = float(whole(np.array([part.value]), centre[None, 1:], False)[0])
    return Whole(value, strata, whole(part.by_seed, seeds, True), int(sums.full.n[0, cells].sum()))


def _overall(board: Board, part: Part) -> Score:
    """``whole_of`` with its interval over the clusters of all three."""
    whole = whole_of(board, part)
    if isinstance(whole, str):
        return Score(value=None, reason=whole)
    strata = [np.array(list(one.values())) for one in whole.strata]
    return finish(whole.value, strata, whole.by_seed, whole.n, [])
