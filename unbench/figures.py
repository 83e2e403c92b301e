"""Figures as files: the same drawing gives the same SVG bytes, and a file is whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from unbench.errors import EnvironmentProblem, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = {".png": "png", ".svg": "svg"}
DPI = 150
INK, SOFT, METHOD = "#1c2127", "#575f69", "#0a655f"


def check_format(path: Path) -> str:
    """The format that a file's name asks for. Raises ``UsageError`` for another than PNG or SVG."""
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"A plot can't be saved as {path.name!r}.", "Name a file that ends in .png or .svg.")
    return kind


def save(draw: Callable[[], Figure], path: Path) -> Path:
    """Save what ``draw`` returns and return ``path``. Raises ``UsageError`` for another suffix than .png or .svg,
    ``EnvironmentProblem`` where ``path`` can't be written."""
    import matplotlib as mpl

    kind = check_format(path)
    # The salt makes the ids inside the SVG depend on the drawing alone; a date would change every time.
    with mpl.rc_context({"svg.hashsalt": "unbench", "font.family": ["DejaVu Sans"], "font.size": 9}):
        figure = draw()
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(temporary, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else None)
            os.replace(temporary, path)
        except OSError as problem:
            raise EnvironmentProblem(
                f"The plot can't be written to {str(path)!r}: {problem.strerror or problem}.", "Name another file."
            ) from problem
        finally:
            if temporary.exists():
                temporary.unlink()
    return path
