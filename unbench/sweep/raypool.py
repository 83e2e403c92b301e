"""Jobs on a Ray cluster (extra ``unbench[ray]``): Ray schedules them by CPU and GPU, and does one again whose node is
lost."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any

from unbench.errors import EnvironmentProblem
from unbench.sweep.job import Job, Outcome, do
from unbench.sweep.pool import Watch

RETRIES = 3
"""How often a job is done again whose node or process was lost."""
HERE = "here"
"""In an address' place: a cluster of this machine alone, ended with the sweep."""


class RayPool:
    """``with RayPool("auto") as pool: for outcome in pool.run(jobs, watch): …``

    ``cpus`` and ``gpus`` are what one run takes; without ``gpus`` it is one where the cluster has any."""

    def __init__(self, address: str = HERE, *, cpus: float = 1, gpus: float | None = None) -> None:
        self._address = address
        self._cpus = cpus
        self._gpus = gpus
        self._ours = False
        self._under_way: dict[Any, Job] = {}

    def __enter__(self) -> RayPool:
        try:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            import ray
        except ImportError as problem:
            raise EnvironmentProblem("Ray isn't installed.", "Install it: pip install 'unbench[ray]'.") from problem
        if ray.is_initialized():
            return self
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if self._address == HERE:
            options |= {"include_dashboard": False, "num_cpus": os.cpu_count()}
        try:
            _knock(self._address)
            ray.init(address="local" if self._address == HERE else self._address, **options)
        except (OSError, RuntimeError, ValueError) as problem:
            raise EnvironmentProblem(
                f"There is no Ray cluster at {self._address}: {' '.join(str(problem).split())[:200]}",
                "Start one ('ray start --head'), or give --ray without an address.",
            ) from problem
        self._ours = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        for ref in self._under_way:
            # Where the cluster is gone, so are its tasks.
            with suppress(Exception):
                ray.cancel(ref, force=True)
        if self._ours:
            ray.shutdown()

    def run(self, jobs: Iterable[Job], watch: Watch) -> Iterator[Outcome]:
        """Outcomes in the order in which they come. All jobs are handed to Ray at once, so that a cluster that grows by
        demand sees it; watchers hear of as many as there is room for."""
        import ray

        room = self._room()
        task = ray.remote(num_cpus=self._cpus, num_gpus=self._wanted_gpus(), max_retries=RETRIES)(_do)
        waiting = []
        for job in jobs:
            ref = task.remote(job.model_copy(update={"scratch": True}).model_dump_json())
            self._under_way[ref] = job
            waiting.append(job)
        for job in waiting[:room]:
            watch.started(job)
        del waiting[:room]
        while self._under_way:
            (ref,), _ = ray.wait(list(self._under_way), num_returns=1)
            job = self._under_way.pop(ref)
            outcome = self._outcome(ref, job)
            if job in waiting:
                waiting.remove(job)
                watch.started(job)
            watch.ended(job, outcome)
            if waiting:
                watch.started(waiting.pop(0))
            yield outcome

    def _outcome(self, ref: Any, job: Job) -> Outcome:
        import ray

        try:
            return Outcome.model_validate_json(ray.get(ref))
        except ray.exceptions.RayError as problem:
            text = " ".join(str(problem).split())[:300]
            return Outcome(key=job.key, state="failed", error=f"Ray gave it up: {type(problem).__name__}: {text}")

    def _wanted_gpus(self) -> float:
        if self._gpus is not None:
            return self._gpus
        return 1 if _resources().get("GPU", 0) >= 1 else 0

    def _room(self) -> int:
        """How many runs the cluster can do at a time, as it is now."""
        has = _resources()
        gpus = self._wanted_gpus()
        room = has.get("CPU", 0) / self._cpus if self._cpus else float("inf")
        return max(1, int(min(room, has.get("GPU", 0) / gpus if gpus else room)))


def _knock(address: str) -> None:
    """Raises ``OSError`` where nobody listens at ``host:port``; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _resources() -> dict[str, float]:
    import ray

    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found


def _do(text: str) -> str:
    from unbench.cli.run import quiet_libraries

    quiet_libraries()
    return do(Job.model_validate_json(text), lambda description, done, total: None).model_dump_json()
