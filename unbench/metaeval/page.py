"""The page of a meta-evaluation: one HTML file, no script, nothing fetched; everything in it is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from unbench import pages
from unbench.metaeval.record import Judged, MetaEval
from unbench.results.schema import Score

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE = "index.html"
LEFT, WIDTH, RIGHT, TOP, ROW, BOTTOM = 210, 560, 16, 30, 34, 40
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
SERIES = (("faithfulness", "F"), ("relearning", "R"), ("quantisation", "Q"))
"""Fields of ``Judged`` drawn, each on a line of its own within a metric's row."""


def write(found: MetaEval, out: Path) -> Path:
    """``<out>/index.html``, whole or not at all."""
    from unbench.results.store import write_text

    write_text(out / PAGE, html(found))
    return out / PAGE


def html(found: MetaEval) -> str:
    """The page; the same record gives the same text."""
    from markupsafe import Markup

    style = files("unbench.leaderboard").joinpath("templates", "board.css").read_text(encoding="utf-8")
    style += files("unbench.metaeval").joinpath("templates", "metaeval.css").read_text(encoding="utf-8")
    page: str = (
        _environment()
        .get_template("metaeval.html.j2")
        .render(
            found=found,
            plot=Markup(svg(found.measures)),
            policy=pages.policy(style),
            style=Markup(style),
        )
    )
    return page


def body(found: MetaEval) -> str:
    """The tables and the plot alone, for another page to hold."""
    from markupsafe import Markup

    text: str = _environment().get_template("body.html.j2").render(found=found, plot=Markup(svg(found.measures)))
    return text


def _environment() -> Environment:
    environment = pages.environment("unbench.metaeval")
    environment.filters["score"] = score_text
    return environment


def score_text(score: Score) -> str:
    """``0.93 [0.90, 0.96]``; a dash where there is none."""
    if score.value is None:
        return "–"
    interval = "" if score.low is None or score.high is None else f" [{score.low:.2f}, {score.high:.2f}]"
    return f"{score.value:.2f}{interval}"


def svg(measures: Sequence[Judged]) -> str:
    """F, R and Q of every metric as marks with their intervals, one row a metric."""
    from unbench.leaderboard.labels import printable

    height = TOP + ROW * len(measures) + BOTTOM
    names = {"aria-labelledby": "plot-title", "aria-describedby": "plot-desc"}
    root = ElementTree.Element("svg", {"viewBox": f"0 0 {LEFT + WIDTH + RIGHT} {height}", "role": "img",
                                       "class": "plot meta", **names})  # fmt: skip
    ElementTree.SubElement(root, "title", {"id": "plot-title"}).text = "Faithfulness and robustness of every metric"
    ElementTree.SubElement(
        root, "desc", {"id": "plot-desc"}
    ).text = "One row a metric; marks are values, lines 95 % intervals. The table holds the same numbers."
    _axis(root, TOP + ROW * len(measures))
    for i, measure in enumerate(measures):
        top = TOP + ROW * i
        label = {"class": "label", "x": str(LEFT - 12), "y": f"{top + ROW / 2 + 4:.1f}", "text-anchor": "end"}
        ElementTree.SubElement(root, "text", label).text = printable(measure.title)
        for j, (field, short) in enumerate(SERIES):
            _mark(root, getattr(measure, field), short, top + ROW * (j + 1) / 4)
    return ElementTree.tostring(root, encoding="unicode")


def _x(value: float) -> float:
    return LEFT + WIDTH * value


def _axis(root: ElementTree.Element, bottom: float) -> None:
    group = ElementTree.SubElement(root, "g", {"aria-hidden": "true"})
    for tick in TICKS:
        ends = {"x1": f"{_x(tick):.1f}", "x2": f"{_x(tick):.1f}", "y1": str(TOP), "y2": f"{bottom:.1f}"}
        ElementTree.SubElement(group, "line", {"class": "grid", **ends})
        place = {"class": "tick", "x": f"{_x(tick):.1f}", "y": f"{bottom + 18:.1f}", "text-anchor": "middle"}
        ElementTree.SubElement(group, "text", place).text = f"{tick:g}"
    for j, (_, short) in enumerate(SERIES):
        at = LEFT + 60 * j
        dot = {"class": f"mark {short.lower()}", "cx": str(at + 6), "cy": str(TOP - 16), "r": "4.5"}
        ElementTree.SubElement(group, "circle", dot)
        place = {"class": "axis", "x": str(at + 16), "y": str(TOP - 12)}
        ElementTree.SubElement(group, "text", place).text = short


def _mark(root: ElementTree.Element, score: Score, short: str, y: float) -> None:
    if score.value is None:
        return
    css = short.lower()
    if score.low is not None and score.high is not None:
        ends = {"x1": f"{_x(score.low):.1f}", "x2": f"{_x(score.high):.1f}", "y1": f"{y:.1f}", "y2": f"{y:.1f}"}
        ElementTree.SubElement(root, "line", {"class": f"cross {css}", **ends})
    place = {"class": f"mark {css}", "cx": f"{_x(score.value):.1f}", "cy": f"{y:.1f}", "r": "4"}
    mark = ElementTree.SubElement(root, "circle", place)
    ElementTree.SubElement(mark, "title").text = f"{short} {score_text(score)}"
