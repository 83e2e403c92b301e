"""Build the site: one page and its downloads, plain files without a clock, a network or a database."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from unbench import pages
from unbench.errors import EnvironmentProblem
from unbench.leaderboard import boards as view
from unbench.leaderboard import export, plot
from unbench.leaderboard.reader import collect, latest
from unbench.method import MethodCard
from unbench.results.schema import Result

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["build_site", "collect"]

CONTROLLED_SENTENCE = (
    "nano is a model of about a million parameters, built for controlled experiments: "
    "no finding generalises from nano alone."
)
JSON_NAME, CSV_NAME, BIBTEX_NAME = "results.json", "results.csv", "cite.bib"


def build_site(results: Sequence[Result], out: Path, *, cards: Mapping[str, MethodCard] | None = None) -> Path:
    """Write ``index.html`` and its downloads into ``out``; returns the page's path.

    The same results give the same bytes, in whatever order they come. ``cards`` (by qualified method name) adds kinds
    and BibTeX; without them only UnBench's own controls are known by kind. Raises ``EnvironmentProblem`` where the
    folder can't be written; what lay there before is then still whole.
    """
    known = cards or {}
    boards = view.make_boards(results, known)
    bibtex = export.as_bibtex(boards, known)
    files_of = {JSON_NAME: export.as_json(boards), CSV_NAME: export.as_csv(boards, known), BIBTEX_NAME: bibtex}
    files_of["index.html"] = _page(boards, bibtex, unreported=sum(r.split != "report" for r in latest(results)))
    try:
        _write_all(files_of, out)
    except OSError as problem:
        raise EnvironmentProblem(
            f"The leaderboard can't be written to {str(out)!r}: {problem.strerror or problem}.",
            "Name another folder, or make room in this one.",
        ) from problem
    return out / "index.html"


def _page(boards: Sequence[view.Board], bibtex: str, unreported: int) -> str:
    from markupsafe import Markup

    environment = _environment()
    style, script = (_own_file(name) for name in ("board.css", "board.js"))
    page: str = environment.get_template("index.html.j2").render(
        boards=boards,
        plots={board.id: Markup(_plot(board)) for board in boards},
        fronts={board.id: [p.label for p in plot.pareto_front(_points(board))] for board in boards},
        legend=view.legend(),
        models=list(dict.fromkeys(board.model for board in boards)),
        tasks=sorted({board.task for board in boards}),
        unreported=unreported,
        controlled_sentence=CONTROLLED_SENTENCE,
        bibtex=bibtex,
        downloads={"JSON": JSON_NAME, "CSV": CSV_NAME, "BibTeX": BIBTEX_NAME},
        policy=pages.policy(style, script),
        style=Markup(style),
        script=Markup(script),
    )
    return page


def _environment() -> Environment:
    environment = pages.environment("unbench.leaderboard")
    environment.filters["count"] = short_count
    environment.filters["seconds"] = short_seconds
    return environment


def short_count(number: int) -> str:
    """12345 as ``12.3 k``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def short_seconds(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:.0f}"


def _points(board: view.Board) -> list[plot.Point]:
    points = []
    for row in board.rows:
        forget, specificity = row.result.scores.forget, row.result.scores.specificity
        if forget.value is not None and specificity.value is not None:
            x, y = (plot.Span(score.value or 0.0, score.low, score.high) for score in (forget, specificity))
            points.append(plot.Point(row.label, x, y, aside=row.control or row.limit is not None))
    return points


def _plot(board: view.Board) -> str:
    points = _points(board)
    if not points:
        return ""
    front = ", ".join(point.label for point in plot.pareto_front(points)) or "none"
    return plot.scatter_svg(
        points,
        ident=f"{board.id}-plot",
        title=f"Forget against specificity: {board.task} on {board.model}",
        description=f"{len(points)} of {len(board.rows)} runs, further right and further up is better; crosses are "
        f"95 % intervals; hollow points are controls or limited runs. On the Pareto front: {front}. "
        "The table of this board holds the same numbers.",
    )


def _own_file(name: str) -> str:
    return files("unbench.leaderboard").joinpath("templates", name).read_text(encoding="utf-8")


def _write_all(texts: Mapping[str, str], out: Path) -> None:
    """All files under temporary names first, then renamed, the page last: a reader never meets half a page."""
    out.mkdir(parents=True, exist_ok=True)
    waiting: dict[Path, Path] = {}
    try:
        for name, text in texts.items():
            temporary = out / f".{name}.{os.getpid()}.tmp"
            waiting[temporary] = out / name
            temporary.write_bytes(text.encode("utf-8", errors="replace"))
        for temporary, final in waiting.items():
            os.replace(temporary, final)
    finally:
        for temporary in waiting:
            temporary.unlink(missing_ok=True)
