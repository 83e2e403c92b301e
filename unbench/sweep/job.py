"""One run as a job: JSON goes in and comes out, so that a process, a Ray task or a test can do it."""

from __future__ import annotations

import gc
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from unbench.errors import UnbenchError
from unbench.method import Progress
from unbench.plan import Plan
from unbench.results.schema import Compute, Result, Score, SeedScores
from unbench.results.store import RunFolder
from unbench.sweep.place import Place


class Job(BaseModel):
    """A run to be done."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    key: str = Field(description="what the caller knows it by; unique in its pool")
    label: str = Field(description="what a reader sees")
    plan: Plan
    out: str = Field(description="folder of the runs, or an fsspec URL")
    scratch: bool = Field(
        default=False, description="work in a folder of this machine, put what is finished into out (always for a URL)"
    )


class Outcome(BaseModel):
    """What became of a job."""

    model_config = ConfigDict(extra="forbid")
    key: str
    state: Literal["done", "failed"]
    scores: dict[str, Score] = {}
    """UnBench's own scores, those under the worst attack too where any was tried."""
    per_seed: list[SeedScores] = []
    compute: Compute | None = None
    device: str | None = None
    error: str | None = None
    """One sentence, where it failed."""


def do(job: Job, progress: Progress, worker: int = 0) -> Outcome:
    """Run the job's plan; what an earlier attempt finished is kept. Never raises for what a run may meet."""
    place = Place(job.out)
    try:
        if not (job.scratch or place.is_url):
            return _outcome(job.key, _run(job.plan, Path(job.out), progress, worker))
        before = done_before(job.plan, place)
        if before is not None:
            # An earlier attempt finished it, and its machine was lost before it could say so.
            return before.model_copy(update={"key": job.key})
        with tempfile.TemporaryDirectory(prefix="unbench-") as folder:
            place.fetch(job.plan.folder_name, Path(folder))
            try:
                result = _run(job.plan, Path(folder), progress, worker)
            except UnbenchError as problem:
                place.store(job.plan.folder_name, Path(folder))
                error = str(problem).replace(folder, job.out)
                return Outcome(key=job.key, state="failed", error=error)
            place.store(job.plan.folder_name, Path(folder))
        return _outcome(job.key, result)
    except UnbenchError as problem:
        return Outcome(key=job.key, state="failed", error=str(problem))
    except Exception as problem:
        traceback.print_exc(file=sys.stderr)
        text = " ".join(str(problem).split())[:300]
        return Outcome(key=job.key, state="failed", error=f"{type(problem).__name__}: {text}")
    finally:
        gc.collect()


def done_before(plan: Plan, place: Place) -> Outcome | None:
    """The outcome of a run whose result lies there with all the plan's seeds; else None. Imports no torch."""
    from unbench.leaderboard.reader import parse_result

    text = place.read(f"{plan.folder_name}/result.json")
    if text is None:
        return None
    with tempfile.TemporaryDirectory(prefix="unbench-") as folder:
        file = Path(folder) / "result.json"
        file.write_bytes(text)
        try:
            result = parse_result(file)
        except UnbenchError:
            return None
    if result.run_id != plan.run_id or not set(plan.seeds) <= set(result.seeds):
        return None
    if not set(plan.attacks) <= {attack.name for attack in result.attacks}:
        return None
    return _outcome(plan.folder_name, result)


def _run(plan: Plan, out: Path, progress: Progress, worker: int) -> Result:
    from unbench import spine

    _forget_peaks()
    # Told to resume where nothing lies, a run looks for an unfinished one beside it and would refuse its other plan.
    resume = RunFolder(out / plan.folder_name).plan_file.is_file()
    return spine.run(_placed(plan, worker), out, resume=resume, progress=progress)


def _outcome(key: str, result: Result) -> Outcome:
    scores = {name: getattr(result.scores, name) for name in type(result.scores).model_fields}
    if result.worst is not None:
        scores |= {"forget_worst": result.worst.forget_worst, "overall_worst": result.worst.overall_worst}
    return Outcome(
        key=key,
        state="done",
        scores=scores,
        per_seed=result.per_seed,
        compute=result.compute,
        device=result.device,
    )


def _placed(plan: Plan, worker: int) -> Plan:
    """Where a machine has several GPUs and nobody chose, each worker takes the next one."""
    import torch

    count = torch.cuda.device_count() if plan.device == "auto" else 0
    return plan.model_copy(update={"device": f"cuda:{worker % count}"}) if count > 1 else plan


def _forget_peaks() -> None:
    """A process takes several runs; each is to count its own memory."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    # Linux: 5 sets the highest resident memory back to the present one. Elsewhere it counts over the process's runs.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
