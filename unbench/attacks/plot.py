"""What attacks got back, as a figure: knowledge against each attack's strength, the reference's curve beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unbench.figures import INK, METHOD, SOFT, save
from unbench.results.schema import AttackPoint, AttackResult, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
RANGE = (-0.15, 1.05)
"""Of what is given away: one scale for all panels, so that small things look small."""
NAMED = 4
"""Most series of an attack that are told apart by a line each; more are shown by their ends."""


def plot(result: Result, path: Path) -> Path:
    """One panel an attack. Raises as ``unbench.figures.save``."""
    return save(lambda: _figure(result), path)


def _figure(result: Result) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = [one for one in result.attacks if one.points]
    rows = max(1, -(-len(drawn) // COLUMNS))
    figure = Figure(figsize=(3.4 * min(COLUMNS, max(1, len(drawn))), 2.7 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, attack in enumerate(drawn):
        ax = figure.add_subplot(rows, min(COLUMNS, len(drawn)), place + 1)
        _panel(ax, attack)
    figure.suptitle(f"{result.method.removeprefix('unbench:')} on {result.task}, model {result.model}: what attacks "
                    "get back (a cross, a dashed line: a model that never knew)", fontsize=9, color=INK,
                    parse_math=False)  # fmt: skip
    return figure


def _panel(ax: Axes, attack: AttackResult) -> None:
    series: dict[str, list[AttackPoint]] = {}
    for point in attack.points:
        series.setdefault(point.series, []).append(point)
    curves = [points for points in series.values() if len(points) > 1]
    ax.set_title(attack.name.removeprefix("unbench:"), fontsize=9, color=INK, parse_math=False)
    if curves and len(series) <= NAMED:
        for number, points in enumerate(series.values()):
            strength = [point.strength for point in points]
            shade = 1 - 0.25 * number
            ax.plot(strength, [p.known_unlearned for p in points], color=METHOD, alpha=shade, marker="o", markersize=3)
            _line(ax, strength, [p.known_reference for p in points], SOFT, shade)
            ax.annotate(points[0].series, (strength[-1], points[-1].known_unlearned), fontsize=6, color=INK,
                        ha="right", va="bottom", parse_math=False)  # fmt: skip
        if max(p.strength for p in attack.points) / max(1e-9, min(p.strength for p in attack.points)) > 30:
            ax.set_xscale("log")
        ax.set_xlabel("strength", fontsize=7)
        ax.set_ylabel("given away", fontsize=7)
        ax.set_ylim(min(RANGE[0], ax.get_ylim()[0]), RANGE[1])
    else:
        names = [f"{p.series} {p.strength:g}" if len(series[p.series]) > 1 else p.series or f"{p.strength:g}"
                 for p in attack.points]  # fmt: skip
        places = range(len(names))
        ax.plot([p.known_unlearned for p in attack.points], places, "o", color=METHOD, markersize=4)
        beside = [(p.known_reference, y) for p, y in zip(attack.points, places, strict=True)
                  if p.known_reference is not None]  # fmt: skip
        ax.plot([x for x, _ in beside], [y for _, y in beside], "x", color=SOFT, markersize=4)
        ax.set_yticks(list(places), names, fontsize=6, parse_math=False)
        ax.invert_yaxis()
        ax.set_xlabel("given away", fontsize=7)
        ax.set_xlim(min(RANGE[0], ax.get_xlim()[0]), RANGE[1])
    ax.tick_params(labelsize=6)
    ax.grid(True, color="#e4e2dc", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _line(ax: Axes, strength: list[float], values: list[float | None], colour: str, shade: float) -> None:
    beside = [(x, y) for x, y in zip(strength, values, strict=True) if y is not None]
    if beside:
        ax.plot(*zip(*beside, strict=True), color=colour, alpha=shade, linestyle="--", marker="x", markersize=3)
