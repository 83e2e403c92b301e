"""Learning curves of a finished run: read from its folder, as rows and as a figure (``unbench show RUN --curve``)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from unbench.errors import UsageError
from unbench.figures import INK, save
from unbench.results.store import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Entry = dict[str, float]
"""Values by name: ``training`` (from 1), ``step`` within it, ``total_step`` over all, and what was logged there."""
FIRST = ("training", "step", "total_step", "loss", "forget", "retain", "retain_nll", "grad_norm", "lr")
"""Order of the columns; others come behind."""
COLOURS = {"loss": INK, "forget": "#b3412f", "retain": "#0a655f", "retain_nll": "#5b8c2a"}
WORDS = {"retain_nll": "retain NLL (watched rows)", "grad_norm": "gradient norm", "lr": "learning rate"}


def read_curves(folder: RunFolder) -> dict[int, list[Entry]]:
    """The learning curve of every finished seed. Raises ``UsageError`` where there is none."""
    found = {}
    for path in folder.path.glob("seed-*"):
        number = path.name.removeprefix("seed-")
        record = folder.seed(int(number)).unlearn_record() if number.isdigit() else None
        entries = (record or {}).get("usage", {}).get("losses") or []
        rows = [one for one in entries if isinstance(one, dict) and isinstance(one.get("step"), int | float)]
        if rows:
            found[int(number)] = numbered(rows)
    if not found:
        raise UsageError(
            f"{folder.path} has no learning curve.",
            "A method that trains writes one; it lies in the run's folder (seed-*/unlearn.json), not in its result.",
        )
    return dict(sorted(found.items()))


def numbered(losses: Sequence[Entry]) -> list[Entry]:
    """Entries with ``training`` and ``total_step``: where the step doesn't rise, another training begins."""
    rows: list[Entry] = []
    training, before, last = 1, 0.0, 0.0
    for entry in losses:
        if entry["step"] <= last:
            training, before = training + 1, before + last
        last = entry["step"]
        rows.append({"training": training, "total_step": before + last, **entry})
    return rows


def columns(curves: dict[int, list[Entry]]) -> list[str]:
    """Names of all values, the usual ones first."""
    present = {name for rows in curves.values() for row in rows for name in row}
    return [name for name in FIRST if name in present] + sorted(present - set(FIRST))


def plot(curves: dict[int, list[Entry]], title: str, path: Path) -> Path:
    """Draw the losses, and below them gradient norm and learning rate, against the step; one line a seed.

    A dotted line marks the start of another training. Raises as ``unbench.figures.save``."""
    return save(lambda: _figure(curves, title), path)


def _figure(curves: dict[int, list[Entry]], title: str) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
    names = columns(curves)
    losses = [name for name in names if name not in ("training", "step", "total_step", "grad_norm", "lr")]
    for ax, drawn in zip(panels, (losses, ["grad_norm"], ["lr"]), strict=True):
        for name in drawn:
            _draw(ax, curves, name)
        ax.grid(True, color="#e4e2dc", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    panels[0].set_title(title, fontsize=10, color=INK, parse_math=False)
    panels[0].set_ylabel("loss")
    panels[0].legend(frameon=False, fontsize=8)
    panels[1].set_ylabel(WORDS["grad_norm"])
    panels[2].set_ylabel(WORDS["lr"])
    panels[2].set_xlabel("optimiser step")
    return figure


def _draw(ax: Axes, curves: dict[int, list[Entry]], name: str) -> None:
    colour = COLOURS.get(name, INK)
    labelled = False
    for rows in curves.values():
        points = [(row["total_step"], row[name]) for row in rows if name in row]
        if points:
            ax.plot(*zip(*points, strict=True), color=colour, linewidth=1.2, alpha=0.8, marker="." if len(points) < 40
                    else None, markersize=4, label=None if labelled else WORDS.get(name, name))  # fmt: skip
            labelled = True
    first = next(iter(curves.values()))
    for before, row in pairwise(first):
        if row["training"] != before["training"]:
            ax.axvline(before["total_step"] + 0.5, color="#b9b4a9", linewidth=0.8, linestyle=":")
