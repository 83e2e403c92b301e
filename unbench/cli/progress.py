"""Progress on stderr: bars on a terminal, one line a step elsewhere, nothing with --quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from unbench.cli.output import clean
from unbench.method import Progress

if TYPE_CHECKING:
    from rich.progress import TaskID


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Progress]:
    """A progress callable; the bars vanish at the end."""
    if quiet:
        yield lambda description, done, total: None
    elif not sys.stderr.isatty():
        yield _Lines()
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        console = Console(stderr=True)
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Bars(*columns, console=console, transient=True) as bars:
            ids: dict[str, TaskID] = {}

            def show(description: str, done: int, total: int) -> None:
                if description not in ids:
                    ids[description] = bars.add_task(clean(description), total=total or None)
                bars.update(ids[description], completed=done, total=total or None)

            yield show


class _Lines:
    """For logs: a line when a step begins, and one every 20 seconds while it lasts."""

    def __init__(self) -> None:
        self._description = ""
        self._last = 0.0

    def __call__(self, description: str, done: int, total: int) -> None:
        now = time.monotonic()
        if description == self._description and now - self._last < 20:
            return
        count = f" {done}/{total}" if total else ""
        print(f"{clean(description)}{count}", file=sys.stderr, flush=True)
        self._description, self._last = description, now
