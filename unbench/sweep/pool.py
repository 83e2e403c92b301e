"""Jobs on processes of this machine. A process is started fresh, used for several jobs and replaced when it dies."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import unbench
from unbench.errors import EnvironmentProblem
from unbench.sweep.job import Job, Outcome

PATIENCE_S = 5.0
"""Seconds that a process is given to end by itself."""


class Watch(Protocol):
    """What is told about jobs along the way."""

    def started(self, job: Job) -> None: ...

    def progress(self, job: Job, description: str, done: int, total: int) -> None: ...

    def ended(self, job: Job, outcome: Outcome) -> None: ...


class Pool(Protocol):
    """Does jobs. ``jobs`` is asked for the next one when there is room for it, not before: what the caller learns from
    an outcome may decide what comes next."""

    def run(self, jobs: Iterable[Job], watch: Watch) -> Iterator[Outcome]: ...


class Silent:
    """Watches and says nothing."""

    def started(self, job: Job) -> None:
        """Nothing."""

    def progress(self, job: Job, description: str, done: int, total: int) -> None:
        """Nothing."""

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Nothing."""


def threads_for(models: Iterable[str], workers: int) -> int | None:
    """Threads for each process: nano is quickest with one; other models share the cores. None where it is the user's
    choice (``OMP_NUM_THREADS``) or there is nothing to share."""
    if os.environ.get("OMP_NUM_THREADS"):
        return None
    if set(models) == {"nano"}:
        return 1
    return max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None


class LocalPool:
    """``with LocalPool(2, logs) as pool: for outcome in pool.run(jobs, watch): …``

    ``logs`` is the folder where what the processes say is kept, a file each. On leaving the block, however, no process
    is left."""

    def __init__(
        self, workers: int, logs: Path, threads: int | None = None, command: Sequence[str] | None = None
    ) -> None:
        self._logs = logs
        self._threads = threads
        self._command = command or (sys.executable, "-m", "unbench.sweep.worker")
        self._inbox: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self._workers: list[_Worker | None] = [None] * workers

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            if worker is not None:
                worker.hang_up()
        for worker in self._workers:
            if worker is not None:
                worker.end(PATIENCE_S if kind is None else 0.0)

    def run(self, jobs: Iterable[Job], watch: Watch) -> Iterator[Outcome]:
        """Outcomes in the order in which they come. A process that dies fails its job alone."""
        source = iter(jobs)
        more = True
        while True:
            for place in range(len(self._workers)):
                if more and self._is_free(place):
                    job = next(source, None)
                    more = job is not None
                    if job is not None:
                        watch.started(job)
                        self._worker_at(place).give(job)
            if not any(worker is not None and worker.job is not None for worker in self._workers):
                return
            worker, message = self._inbox.get()
            outcome = self._heard(worker, message, watch)
            if outcome is not None:
                yield outcome

    def _is_free(self, place: int) -> bool:
        worker = self._workers[place]
        return worker is None or worker.job is None

    def _worker_at(self, place: int) -> _Worker:
        worker = self._workers[place]
        if worker is None:
            env = {"OMP_NUM_THREADS": str(self._threads)} if self._threads else {}
            worker = _Worker(place, self._command, self._logs / f"worker-{place + 1}.log", env, self._inbox)
            self._workers[place] = worker
        return worker

    def _heard(self, worker: _Worker, message: dict[str, Any] | None, watch: Watch) -> Outcome | None:
        job = worker.job
        if message is None:
            if self._workers[worker.place] is worker:
                self._workers[worker.place] = None
            how = worker.end(PATIENCE_S)
            if job is None:
                return None
            error = f"The process at work on it {how}. What it said is in {worker.log}."
            outcome = Outcome(key=job.key, state="failed", error=error)
        elif job is None:
            return None
        elif "progress" in message:
            watch.progress(job, *message["progress"])
            return None
        else:
            outcome = Outcome.model_validate(message["outcome"])
            worker.job = None
        watch.ended(job, outcome)
        return outcome


class _Worker:
    """Handle of one process."""

    def __init__(
        self,
        place: int,
        command: Sequence[str],
        log: Path,
        env: dict[str, str],
        inbox: queue.Queue[tuple[_Worker, dict[str, Any] | None]],
    ) -> None:
        self.place = place
        self.log = log
        self.job: Job | None = None
        # The package as this process found it, installed or not.
        path = os.pathsep.join(filter(None, [str(Path(unbench.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(log, "ab") as stream:
                # A session of its own: Ctrl-C reaches the parent alone, which then ends the group.
                self._process = subprocess.Popen(
                    list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream,
                    env=os.environ | {"PYTHONPATH": path} | env, start_new_session=True, text=True, encoding="utf-8",
                )  # fmt: skip
        except OSError as problem:
            raise EnvironmentProblem(
                f"No process could be started: {problem.strerror or problem}.", "Ask for fewer: --jobs."
            ) from problem
        threading.Thread(target=self._listen, args=(inbox,), daemon=True).start()

    def _listen(self, inbox: queue.Queue[tuple[_Worker, dict[str, Any] | None]]) -> None:
        assert self._process.stdout is not None
        # The pipe is closed under this thread's hands when the pool ends.
        with suppress(ValueError, OSError):
            for line in self._process.stdout:
                inbox.put((self, json.loads(line)))
        inbox.put((self, None))

    def give(self, job: Job) -> None:
        """Send a job. Where the process has died meanwhile, its listener says so."""
        self.job = job
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(json.dumps({"job": job.model_dump(mode="json"), "worker": self.place}) + "\n")
            self._process.stdin.flush()

    def hang_up(self) -> None:
        """The process ends when its input does."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def end(self, patience: float) -> str:
        """See the process (and what it started) off, and say how it ended."""
        self.hang_up()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        code = self._process.returncode
        if code >= 0:
            return f"ended with code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = str(-code)
        return f"was killed by signal {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
