"""From values to text: the templates' environment, its filters, and the one style sheet of all pages."""

from __future__ import annotations

import re
import shlex
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from unbench import pages
from unbench.leaderboard.labels import printable
from unbench.leaderboard.names import method_page, paper_link
from unbench.leaderboard.scores import bare
from unbench.results.schema import Score

if TYPE_CHECKING:
    from jinja2 import Environment

NAVIGATION = (
    ("index.html", "Boards"),
    ("methods.html", "Methods"),
    ("tasks.html", "Tasks"),
    ("metrics.html", "Metrics"),
    ("about.html", "About"),
    ("submit.html", "Submit"),
    ("cite.html", "Cite"),
    ("docs/index.html", "Docs"),
)

SHEETS: dict[str, tuple[str, ...]] = {
    "": (),
    "index.html.j2": ("ranks.css",),
    "board.html.j2": ("ranks.css",),
    "run.html.j2": ("run.css",),
    "task.html.j2": ("run.css",),
}
"""What a template's page needs beside the common style sheet; each page holds its own style, and works alone."""


class Renderer:
    """Renders the site's templates, each compiled once."""

    def __init__(self) -> None:
        from markupsafe import Markup

        self._environment = _environment()
        self._environment.globals["navigation"] = NAVIGATION
        script = own_file("board.js")
        self._own: dict[str, dict[str, Any]] = {}
        for template, sheets in SHEETS.items():
            style = squeeze("".join(own_file(name) for name in ("board.css", *sheets)))
            running = script if template == "index.html.j2" else None
            own = {"style": Markup(style), "policy": pages.policy(style, running), "script": Markup(running or "")}
            self._own[template] = own

    def page(self, template: str, name: str, **values: Any) -> str:
        """One page; ``name`` is its address within the site."""
        own = self._own.get(template) or self._own[""]
        place = {"root": "../" * name.count("/"), "here": name}
        text: str = self._environment.get_template(template).render(own | place | values)
        return text


@cache
def renderer() -> Renderer:
    """The renderer of this process."""
    return Renderer()


def own_file(name: str) -> str:
    """A file beside the templates."""
    return files("unbench.leaderboard").joinpath("templates", name).read_text(encoding="utf-8")


def squeeze(css: str) -> str:
    """A style sheet without comments and the space that nobody reads: it stands on every page."""
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)
    return re.sub(r"\s*([{};,>])\s*", r"\1", re.sub(r"\s+", " ", css)).replace(";}", "}").strip()


def short_count(number: float) -> str:
    """12345 as ``12.3k``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


def short_seconds(seconds: float) -> str:
    """One digit behind the point where that tells something."""
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:.0f}"


def figure(value: float | None, digits: int = 2) -> str:
    """A figure, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-0.00", "0.00")


def score_text(score: Score | None) -> str:
    """``0.93 [0.90, 0.96]``; a dash where there is none."""
    if score is None or score.value is None:
        return "–"
    interval = "" if score.low is None or score.high is None else f" [{score.low:.2f}, {score.high:.2f}]"
    return f"{figure(score.value)}{interval}"


def precisely(score: Score) -> str:
    """Three significant digits: a p-value of 1e-20 isn't 0."""
    if score.value is None:
        return "–"
    interval = "" if score.low is None or score.high is None else f" [{score.low:.3g}, {score.high:.3g}]"
    return f"{score.value:.3g}{interval}"


def whisker(score: Score) -> str:
    """The interval and the value of a score as the inside of a drawing 100 wide and 10 high; empty without a value."""
    if score.value is None:
        return ""
    value = round(100 * min(max(score.value, 0.0), 1.0))
    line = ""
    if score.low is not None and score.high is not None:
        low, high = (round(100 * min(max(x, 0.0), 1.0)) for x in (score.low, score.high))
        line = f'<path d="M{low} 5H{high}"/>'
    return f'{line}<circle cx="{value}" cy="5" r="3"/>'


def words(name: str) -> str:
    """A name of a field as words."""
    return name.replace("_", " ")


def docstring_parts(doc: str) -> list[tuple[str, str]]:
    """A docstring as (``p``, text) and (``pre``, formula) blocks."""
    found: list[tuple[str, str]] = []
    for block in re.split(r"\n\s*\n", doc.strip("\n")):
        lines = block.split("\n")
        if all(line.startswith("    ") for line in lines if line.strip()):
            found.append(("pre", "\n".join(line[4:].rstrip() for line in lines)))
        else:
            found.append(("p", " ".join(block.replace("``", "").split())))
    return found


def _fit(value: Any) -> Any:
    """Text without control characters and without those that turn the writing direction; lines stay lines."""
    if not isinstance(value, str) or value.isprintable() or hasattr(value, "__html__"):
        return value
    return "\n".join(printable(line) for line in value.split("\n"))


def _environment() -> Environment:
    from markupsafe import Markup

    environment = pages.environment("unbench.leaderboard", _fit)
    environment.filters |= {
        "count": short_count, "seconds": short_seconds, "fig": figure, "score": score_text, "precise": precisely,
        "whisker": lambda score: Markup(whisker(score)), "words": words, "bare": bare, "parts": docstring_parts,
        "quote": shlex.quote, "method_page": method_page,
        "paper_link": paper_link,
    }  # fmt: skip
    return environment
