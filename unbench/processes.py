"""The unlearn step in several processes: ``--num-processes N``, or ``accelerate launch -m unbench run …``.

Every process carries out the method on the same job and takes its share of each training step's rows
(``UnlearnTrainer.accumulate``). What the first one hands back is the result; the others write to folders that are
thrown away. One that dies ends them all. Imports no torch: the processes that train do.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from unbench.errors import EnvironmentProblem, RunFailed, UnbenchError, UsageError
from unbench.method import Progress, UnlearnContext, Unlearned, Usage

if TYPE_CHECKING:
    from unbench.plan import Plan

GRACE_S = 1.0
"""The process that failed first is told from those that fell with it: so long is waited for the others' words."""
ERRORS: dict[str, type[UnbenchError]] = {one.__name__: one for one in (UsageError, EnvironmentProblem, RunFailed)}


LED = "UNBENCH_LAUNCHED_AS"
"""What the launcher said, while the first process works alone."""
LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Returned:
    """What a method handed back, and what that took."""

    unlearned: Unlearned
    peak_memory_bytes: int
    work: dict[str, Any]
    """What engines and training did (``unbench.engines.room.Work``)."""


@dataclass(frozen=True)
class Launched:
    """This process's place among those that accelerate launch or torchrun started."""

    rank: int
    number: int


class WorkerTraceback(Exception):
    """The traceback of another process, as the cause of its error here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def write_job(plan: Plan, context: UnlearnContext, scratch: Path, logs: Path) -> Path:
    """All that a process needs to carry out the method, as JSON."""
    scratch.mkdir(parents=True, exist_ok=True)
    kept = context.checkpoints
    target: Any = context.target
    job = {
        "plan": plan.model_dump(mode="json", by_alias=True),
        "target": {"path": str(target.path.resolve()), "device": context.device,
                   "dtype": str(target.dtype).removeprefix("torch.")},
        "forget": context.forget.to_list(),
        "retain": context.retain.to_list(),
        "seed": context.seed,
        "folder": str(context.folder.resolve()),
        "scratch": str(scratch.resolve()),
        "logs": str(logs.resolve()),
        "checkpoints": None if kept is None else {"folder": str(kept.folder.resolve()), "key": kept.key},
    }  # fmt: skip
    path = scratch / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    return path


def unlearn(plan: Plan, context: UnlearnContext, scratch: Path, logs: Path) -> Returned:
    """Carry out the plan's method in ``plan.machine.num_processes`` processes: what the first one hands back, its usage
    entered in the context's. What they leave behind lies in ``scratch``, where one fails; engines write to ``logs``.

    Raises what a process raised; ``RunFailed`` where one was killed. No process that was started here outlives it.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    job = write_job(plan, context, scratch, logs)
    report = _lead(job, context.progress) if _led() else _in_own_processes(plan, context, job)
    shutil.rmtree(scratch, ignore_errors=True)
    questions = set(report["usage"]["questions"])
    context.usage = Usage(**{**report["usage"], "questions": questions})
    if context.checkpoints is not None:
        context.checkpoints.went_on(report["seconds_before"])
    weights = report["weights"]
    unlearned = Unlearned(None if weights is None else Path(weights), report["system_prompt"])
    return Returned(unlearned, report["peak_memory_bytes"], report["work"])


def _in_own_processes(plan: Plan, context: UnlearnContext, job: Path) -> dict[str, Any]:
    number, scratch = plan.machine.num_processes, job.parent
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    workers: list[subprocess.Popen[str]] = []
    try:
        for rank in range(number):
            workers.append(_start(job, rank, number, context.device))
        threading.Thread(target=_read, args=(workers[0].stdout, lines), daemon=True).start()
        while any(worker.poll() is None for worker in workers):
            if any(worker.poll() for worker in workers):
                break
            _tell(lines, context.progress)
            time.sleep(0.1)
        if any(worker.poll() for worker in workers):
            time.sleep(GRACE_S)
            _raise_first(workers, scratch)
    finally:
        _end(workers)
    _tell(lines, context.progress)
    report = _report(scratch / "report-0.json")
    if report is None:
        raise RunFailed("The first process ended without a report.", "Give the command again with --resume.")
    return report


def _start(job: Path, rank: int, number: int, device: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(number),
                   "LOCAL_WORLD_SIZE": str(number)}  # fmt: skip
    if device == "cpu":
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // number)))
    with open(job.parent / f"log-{rank}.txt", "w", encoding="utf-8") as log:
        # Its stdin ends with this process, however that ends: so no worker is left behind. In a session of its own it
        # hears no Ctrl-C.
        return subprocess.Popen(
            [sys.executable, "-m", "unbench.worker", str(job)],
            stdin=subprocess.PIPE, stdout=log if rank else subprocess.PIPE, stderr=log if rank else None, text=True,
            env=environment, start_new_session=True,
        )  # fmt: skip


def _read(stream: IO[str] | None, lines: queue.SimpleQueue[str]) -> None:
    for line in stream or ():
        lines.put(line)


def _tell(lines: queue.SimpleQueue[str], progress: Progress) -> None:
    with suppress(queue.Empty):
        while True:
            description, done, total = json.loads(lines.get_nowait())
            progress(description, done, total)


def _end(workers: list[subprocess.Popen[str]]) -> None:
    for worker in workers:
        if worker.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
    for worker in workers:
        worker.wait()
        if worker.stdin is not None:
            worker.stdin.close()


def _raise_first(workers: list[subprocess.Popen[str]], scratch: Path) -> None:
    """Raise for the process whose end explains that of the others: one that was killed, else one with a sentence of its
    own, else any that raised (a process whose peer is gone raises too)."""
    number = len(workers)
    reports = {rank: _report(scratch / f"report-{rank}.json") for rank in range(number)}
    for rank, worker in enumerate(workers):
        code = worker.poll()
        if code and rank not in {r for r, report in reports.items() if report}:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            log = scratch / f"log-{rank}.txt"
            where = f" ({log})" if log.is_file() and log.stat().st_size else ""
            raise RunFailed(
                f"Process {rank + 1} of {number} {how}{where}, and the others were ended.",
                "If memory ran out, lower --num-processes or --batch-size; add --resume.",
            )
    failures = [report["error"] for report in reports.values() if report and "error" in report]
    failures.sort(key=lambda error: (error["kind"] is None, error["lost_peer"]))
    raise _as_error(failures[0])


def _as_error(error: dict[str, Any]) -> Exception:
    if error["kind"] is not None:
        return ERRORS.get(error["kind"], RunFailed)(error["message"], error["try_next"])
    # Of the same name here, so that it is told as if it had been raised here.
    raised: Exception = type(error["type"], (RuntimeError,), {})(error["message"])
    raised.__cause__ = WorkerTraceback(error["traceback"])
    return raised


def _report(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def launched() -> Launched | None:
    """Where this process stands among several, if a launcher started them."""
    number = os.environ.get("WORLD_SIZE", "1")
    rank = os.environ.get("RANK", "")
    return Launched(int(rank), int(number)) if number.isdigit() and int(number) > 1 and rank.isdigit() else None


def as_launched(plan: Plan, place: Launched) -> Plan:
    """The plan with as many processes as there are."""
    if plan.machine.num_processes not in (1, place.number):
        raise UsageError(
            f"--num-processes {plan.machine.num_processes} doesn't agree with the {place.number} processes started.",
            "Leave it out: the launcher says how many there are.",
        )
    return plan.model_copy(update={"machine": plan.machine.model_copy(update={"num_processes": place.number})})


@contextmanager
def leading(plan: Plan) -> Iterator[None]:
    """The first of several launched processes: within the block it works alone, but for the training."""
    from unbench.models.load import pick_device
    from unbench.worker import join, share

    join(pick_device(plan.device))
    kept = {name: os.environ.pop(name) for name in LAUNCHER_VARIABLES if name in os.environ}
    # What else trains in this process (a reference model) must not wait for the others.
    os.environ[LED] = json.dumps(kept)
    try:
        yield
        share(None)
    finally:
        del os.environ[LED]
        os.environ.update(kept)


def follow(plan: Plan) -> None:
    """Another of several launched processes: takes part in every training until the first one has done all."""
    from unbench.models.load import pick_device
    from unbench.worker import carry_out, join, meet, share

    join(pick_device(plan.device))
    while (job := share(None)) is not None:
        carry_out(json.loads(Path(job).read_text(encoding="utf-8")), int(os.environ["RANK"]), _silent)
        meet()


def _led() -> bool:
    return LED in os.environ


def _lead(job: Path, progress: Progress) -> dict[str, Any]:
    from unbench.worker import carry_out, meet, share

    share(str(job))
    told = json.loads(os.environ[LED])
    os.environ.update(told)
    try:
        report = carry_out(json.loads(job.read_text(encoding="utf-8")), 0, progress)
        # The others may still be writing where this process is about to clean up.
        meet()
        return report
    finally:
        for name in told:
            os.environ.pop(name, None)


def _silent(description: str, done: int, total: int) -> None:
    """Only the first process tells."""
