"""``sweep``: do what is left of a grid."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from unbench.results.store import alone_in, writing_to
from unbench.sweep.job import Job, done_before
from unbench.sweep.place import Place
from unbench.sweep.pool import LocalPool, Pool, Silent, Watch, threads_for
from unbench.sweep.record import SweepRecord, fill, todo_run
from unbench.sweep.spec import Cell, SweepSpec, grid

LOGS = "sweep-logs"
"""Folder below the runs' where what the processes say is kept."""


def survey(spec: SweepSpec, out: Path | str) -> tuple[list[Cell], SweepRecord]:
    """The grid and what is done of it. Imports no torch, writes nothing."""
    cells, place = grid(spec), Place(str(out))
    runs = []
    for cell in cells:
        run = todo_run(cell)
        before = None if cell.plan is None else done_before(cell.plan, place)
        if before is not None:
            fill(run, before)
            run.kept = True
        runs.append(run)
    return cells, SweepRecord(spec=spec, runs=runs)


def sweep(
    spec: SweepSpec,
    out: Path | str = "runs",
    *,
    jobs: int = 1,
    watch: Watch | None = None,
    pool: AbstractContextManager[Pool] | None = None,
) -> SweepRecord:
    """Do every run of the grid that isn't done, on ``jobs`` processes of this machine (or on ``pool``), and return the
    record (also in ``<out>/sweep.json``). ``out`` is a folder or an fsspec URL.

    A run that fails is recorded and the rest goes on. Killed and called again, it goes on with what is left, inside a
    run too (on a cluster or a URL, a run begins anew). Raises ``UsageError`` for a wrong spec before anything starts.
    """
    # Workers of a cluster may stand in another folder.
    place = Place(str(out) if "://" in str(out) else str(Path(out).resolve()))
    cells, record = survey(spec, place.out)
    by_key = {cell.plan.folder_name: i for i, cell in enumerate(cells) if cell.plan is not None}
    todo = [i for i in by_key.values() if record.runs[i].state == "todo"]
    with ExitStack() as stack:
        if not place.is_url:
            stack.enter_context(writing_to(Path(place.out)))
            Path(place.out).mkdir(parents=True, exist_ok=True)
            stack.enter_context(alone_in(Path(place.out), "sweep.lock", "sweep"))
        record.write(place)
        if todo:
            asked = pool or _local(place, max(1, min(jobs, len(todo))), {cells[i].model for i in todo})
            open_pool = stack.enter_context(asked)
            for outcome in open_pool.run(_jobs(cells, todo, place), watch or Silent()):
                fill(record.runs[by_key[outcome.key]], outcome)
                record.write(place)
    return record


def _local(place: Place, workers: int, models: set[str]) -> LocalPool:
    logs = Path(tempfile.mkdtemp(prefix="unbench-")) if place.is_url else Path(place.out)
    return LocalPool(workers, logs / LOGS, threads_for(models, workers))


def _jobs(cells: list[Cell], todo: list[int], place: Place) -> Iterator[Job]:
    for i in todo:
        plan: Any = cells[i].plan
        yield Job(key=plan.folder_name, label=label(plan), plan=plan, out=place.out)


def label(plan: Any) -> str:
    """A run in a few words."""
    seeds = ",".join(str(seed) for seed in plan.seeds)
    return f"{plan.task} {plan.method_name} {plan.model} seeds {seeds}"
