"""Compare runs side by side: a table (pandas) and a forget/specificity plot (PNG or SVG)."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unbench.errors import UsageError
from unbench.figures import INK, METHOD, SOFT, check_format, save
from unbench.leaderboard.labels import Box, place_labels, printable, shorten
from unbench.leaderboard.scores import OWN_CONTROLS, SCORES, reason_of, run_labels, score_of
from unbench.results.schema import Result, Score

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = 5.2
"""Width and height of one panel, inches."""


def compare_table(results: Sequence[Result]) -> pd.DataFrame:
    """One row a run, in the order given: names, then value, low and high of every score (NaN where there is none),
    then seconds, tokens and peak memory."""
    import pandas as pd

    records = [_record(result) for result in results]
    return pd.DataFrame(records, columns=list(records[0]) if records else ["task", "model", "method"])


def plot(results: Sequence[Result], path: Path) -> Path:
    """Draw forget (x) against specificity (y) with 95 % intervals, one panel a task and model; returns ``path``.

    The same results give the same SVG bytes. A run without one of the two values is named under its panel. Raises
    ``UsageError`` for another suffix than .png or .svg or for nothing to draw, ``EnvironmentProblem`` where ``path``
    can't be written.
    """
    check_format(path)
    if not results:
        raise UsageError("There is no run to draw.", "Name at least one: unbench compare RUN RUN …")
    return save(lambda: _figure(results), path)


def _record(result: Result) -> dict[str, object]:
    record: dict[str, object] = {
        "task": result.task,
        "model": result.model,
        "method": result.method,
        "run_id": result.run_id,
        "split": result.split,
        "seeds": len(result.seeds),
    }
    for name in SCORES:
        score = score_of(result, name)
        for key, value in ((name, score.value), (f"{name}_low", score.low), (f"{name}_high", score.high)):
            record[key] = float("nan") if value is None else value
    compute = result.compute
    return record | {
        "unlearn_s": compute.unlearn_s,
        "tokens_trained": compute.tokens_trained,
        "tokens_generated": compute.tokens_generated,
        "peak_memory_bytes": compute.peak_memory_bytes,
    }


def _figure(results: Sequence[Result]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str, str, str], list[Result]] = {}
    for result in results:
        panels.setdefault((result.task, result.hashes.task, result.model, result.split), []).append(result)
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    figure = Figure(figsize=(PANEL * across, PANEL * down), layout="constrained")
    # Not pyplot: no window, no state left behind in a notebook.
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    drawn = [(ax, _draw_panel(ax, key, group)) for ax, (key, group) in zip(axes.flat, panels.items(), strict=False)]
    # Labels go where there is room in pixels, which are known only once the panels are laid out.
    figure.draw_without_rendering()
    for ax, labelled in drawn:
        _draw_labels(ax, labelled)
    return figure


def _draw_panel(ax: Axes, key: tuple[str, str, str, str], results: Sequence[Result]) -> list[tuple[str, Result]]:
    """Points and axes; returns what was drawn, with its label."""
    task, task_hash, model, split = key
    drawn, missing = [], []
    for result, label in zip(results, run_labels(results), strict=True):
        forget, specificity = result.scores.forget, result.scores.specificity
        if forget.value is None or specificity.value is None:
            missing.append(f"{shorten(label)} not drawn: {reason_of(forget) or reason_of(specificity)}")
            continue
        control = result.method in OWN_CONTROLS
        ax.errorbar(
            forget.value,
            specificity.value,
            xerr=_arms(forget),
            yerr=_arms(specificity),
            fmt="o",
            markersize=5.5,
            color=SOFT if control else METHOD,
            markerfacecolor="white" if control else METHOD,
            elinewidth=1,
        )
        drawn.append((shorten(label), result))
    ax.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal")
    ax.set_ylabel("specificity →")
    # A name or reason may hold a dollar sign: never read it as mathematics.
    ax.set_xlabel(
        "\n".join(["forget →", *(printable(textwrap.shorten(line, 80)) for line in missing)]), parse_math=False
    )
    where = printable(f"{task} on {model}" + ("" if split == "report" else f" ({split})"))
    ax.set_title(f"{where}\ntask {task_hash[:12]}", fontsize=10, color=INK, parse_math=False)
    ax.grid(True, color="#e4e2dc", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return drawn


def _arms(score: Score) -> list[list[float]] | None:
    if score.value is None or score.low is None or score.high is None:
        return None
    return [[max(score.value - score.low, 0.0)], [max(score.high - score.value, 0.0)]]


def _draw_labels(ax: Axes, labelled: Sequence[tuple[str, Result]]) -> None:
    if not labelled:
        return
    scale = ax.figure.dpi / 72

    def pixels(x: float, y: float) -> tuple[float, float]:
        # place_labels counts y downwards, matplotlib upwards.
        across, up = ax.transData.transform((x, y))
        return float(across), -float(up)

    points = [(r.scores.forget.value or 0.0, r.scores.specificity.value or 0.0) for _, r in labelled]
    anchors = [pixels(x, y) for x, y in points]
    left, bottom, right, top = ax.bbox.extents
    places = place_labels(
        anchors,
        [5.4 * scale * len(label) for label, _ in labelled],
        11 * scale,
        (left, -top, right, -bottom),
        [arm for (_, r), at in zip(labelled, points, strict=True) for arm in _arm_boxes(r, at, pixels)],
    )
    for (label, _), point, (x, y), place in zip(labelled, points, anchors, places, strict=True):
        box = place.box
        ax.annotate(
            label,
            point,
            xytext=(((box[0] + box[2]) / 2 - x) / scale, (y - (box[1] + box[3]) / 2) / scale),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8.5,
            color=INK,
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": SOFT, "linewidth": 0.6} if place.far else None,
        )


def _arm_boxes(
    result: Result, point: tuple[float, float], pixels: Callable[[float, float], tuple[float, float]]
) -> list[Box]:
    """Where the error bars lie, in pixels, a little widened."""
    forget, specificity = result.scores.forget, result.scores.specificity
    ends: list[tuple[tuple[float, float], tuple[float, float]]] = []
    if forget.low is not None and forget.high is not None:
        ends.append((pixels(forget.low, point[1]), pixels(forget.high, point[1])))
    if specificity.low is not None and specificity.high is not None:
        ends.append((pixels(point[0], specificity.high), pixels(point[0], specificity.low)))
    return [(a[0] - 2, a[1] - 2, b[0] + 2, b[1] + 2) for a, b in ends]
