"""What jobs are doing, on stderr: a live table on a terminal, a line a job elsewhere, nothing with --quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from unbench.cli.output import clean

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

    from unbench.sweep.job import Job, Outcome
    from unbench.sweep.pool import Watch

Words = Callable[["Outcome"], str]
"""Says in a few words what came out of a job."""
LATEST = 8
"""Jobs that ended last, shown beside those under way."""


@contextmanager
def watching(title: str, total: int, done: int, quiet: bool, words: Words) -> Iterator[Watch]:
    """Something to watch ``total`` jobs, ``done`` of them done before."""
    from unbench.sweep.pool import Silent

    if quiet:
        yield Silent()
    elif not sys.stderr.isatty():
        yield Lines(total, done, words)
    else:
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(stderr=True), transient=True, refresh_per_second=4) as live:
            yield Table(live, title, total, done, words)


class Lines:
    """For logs: a line when a job begins and one when it ends."""

    def __init__(self, total: int, done: int, words: Words) -> None:
        self._total = total
        self._done = done
        self._words = words

    def started(self, job: Job) -> None:
        self._print(f"begin {job.label}")

    def progress(self, job: Job, description: str, done: int, total: int) -> None:
        """Too much for a log."""

    def ended(self, job: Job, outcome: Outcome) -> None:
        self._done += 1
        self._print(f"{self._done}/{self._total} {outcome.state} {job.label}: {outcome.error or self._words(outcome)}")

    def _print(self, line: str) -> None:
        print(clean(line), file=sys.stderr, flush=True)


class Table:
    """For a terminal: what is under way and what ended last."""

    def __init__(self, live: Live, title: str, total: int, done: int, words: Words) -> None:
        self._live = live
        self._title = title
        self._total = total
        self._counts = {"done": done, "failed": 0}
        self._words = words
        self._under_way: dict[str, tuple[Job, float, str]] = {}
        self._ended: list[tuple[Job, Outcome, float]] = []

    def started(self, job: Job) -> None:
        self._under_way[job.key] = (job, time.monotonic(), "starting")
        self._show()

    def progress(self, job: Job, description: str, done: int, total: int) -> None:
        since = self._under_way[job.key][1] if job.key in self._under_way else time.monotonic()
        self._under_way[job.key] = (job, since, f"{description} {done}/{total}" if total else description)
        self._show()

    def ended(self, job: Job, outcome: Outcome) -> None:
        since = self._under_way.pop(job.key)[1]
        self._counts[outcome.state] += 1
        self._ended = [*self._ended, (job, outcome, time.monotonic() - since)][-LATEST:]
        self._show()

    def _show(self) -> None:
        self._live.update(self._picture())

    def _picture(self) -> Group:
        from rich.console import Group
        from rich.table import Table as Grid

        from unbench.cli.output import plain

        left = self._total - sum(self._counts.values()) - len(self._under_way)
        line = (
            f"{self._title}: {self._counts['done']} done, {self._counts['failed']} failed, "
            f"{len(self._under_way)} under way, {left} to do"
        )
        table = Grid(box=None, padding=(0, 2, 0, 0))
        for name in ("state", "job", "what", "s"):
            table.add_column(name, justify="right" if name == "s" else "left", no_wrap=True, overflow="ellipsis")
        for job, outcome, seconds in self._ended:
            text = outcome.error or self._words(outcome)
            table.add_row(*(plain(cell) for cell in (outcome.state, job.label, text, f"{seconds:.0f}")))
        now = time.monotonic()
        for job, since, what in self._under_way.values():
            table.add_row(*(plain(cell) for cell in ("running", job.label, what, f"{now - since:.0f}")))
        return Group(plain(line), table)
