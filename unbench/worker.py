"""One of several processes that carry out a method together: ``python -m unbench.worker JOB`` (``unbench.processes``).

stdout carries the first process's progress, one JSON list a line; everything else that is printed goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbench.errors import UnbenchError
from unbench.method import Progress, UnlearnContext, Unlearned

if TYPE_CHECKING:
    from unbench.engines.base import Engine, EngineStats, Generation, Sampling, ScoreRequest, TokenScores
    from unbench.engines.room import Engines
    from unbench.plan import Plan

PATIENCE = timedelta(days=7)
"""The others wait as long as the first one generates; a process that dies is seen by the one that started them."""


def main() -> None:
    """Carry out the job named on the command line; exit code 1 with a report where that fails."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    rank, scratch = int(os.environ["RANK"]), Path(job["scratch"])
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What a method or a library prints must not land among the progress.
    os.dup2(2, 1)

    def tell(description: str, done: int, total: int) -> None:
        print(json.dumps([description, done, total]), file=told, flush=True)

    try:
        join(job["target"]["device"], f"file://{scratch / 'meeting'}")
        report = carry_out(job, rank, tell if rank == 0 else _silent)
    except (Exception, SystemExit) as problem:
        report = {"error": _in_words(problem)}
    partial = scratch / f".report-{rank}.json"
    partial.write_text(json.dumps(report), encoding="utf-8")
    os.replace(partial, scratch / f"report-{rank}.json")
    # Without the usual farewells: a process group whose members end one by one waits for them in vain.
    sys.stderr.flush()
    os._exit(1 if "error" in report else 0)


def join(device: str, meeting: str = "env://") -> None:
    """Meet the other processes. Raises ``EnvironmentProblem`` where there are fewer GPUs than processes."""
    import torch

    from unbench.errors import EnvironmentProblem

    rank, number, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if torch.distributed.is_initialized():
        return
    if device.startswith("cuda"):
        if torch.cuda.device_count() <= local:
            raise EnvironmentProblem(
                f"There are {torch.cuda.device_count()} CUDA devices for {number} processes.",
                f"Give --num-processes {max(1, torch.cuda.device_count())}.",
            )
        torch.cuda.set_device(local)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    torch.distributed.init_process_group(backend, init_method=meeting, rank=rank, world_size=number, timeout=PATIENCE)


def share(value: Any, group: Any = None) -> Any:
    """What the first process gives (JSON), in every process. Bytes travel, never pickled objects."""
    import torch

    device = f"cuda:{torch.cuda.current_device()}" if torch.distributed.get_backend(group) == "nccl" else "cpu"
    said = json.dumps(value).encode() if torch.distributed.get_rank() == 0 else b""
    length = torch.tensor([len(said)], device=device)
    torch.distributed.broadcast(length, src=0, group=group)
    content = torch.zeros(int(length), dtype=torch.uint8, device=device)
    if said:
        content.copy_(torch.frombuffer(bytearray(said), dtype=torch.uint8))
    torch.distributed.broadcast(content, src=0, group=group)
    return json.loads(bytes(content.cpu().tolist()))


def meet() -> None:
    """Wait until every process has come here."""
    import torch

    torch.distributed.barrier()


def carry_out(job: dict[str, Any], rank: int, progress: Progress) -> dict[str, Any]:
    """The method on the job's rows; what the process that started this wants to know (JSON)."""
    from unbench import spine
    from unbench.plan import Plan
    from unbench.results.record import peak_memory
    from unbench.results.store import writing_to
    from unbench.stdout import to_stderr

    plan = Plan.model_validate(job["plan"])
    context, engines = _context(job, plan, rank, progress)
    method = spine.load_method(plan)
    with writing_to(context.folder), spine.clear_about_memory(), to_stderr(), engines:
        unlearned: Any = method.unlearn(context)
    unlearned = spine.check_returned(unlearned, plan)
    return {
        "weights": None if unlearned.weights is None else str(Path(unlearned.weights).resolve()),
        "system_prompt": unlearned.system_prompt,
        "usage": spine.usage_record(context.usage),
        "peak_memory_bytes": peak_memory(context.device),
        "work": engines.take_work(),
        "seconds_before": 0.0 if context.checkpoints is None else context.checkpoints.before,
    }


def _context(job: dict[str, Any], plan: Plan, rank: int, progress: Progress) -> tuple[UnlearnContext, Engines]:
    import torch
    from datasets import Dataset

    from unbench.engines.room import Engines
    from unbench.models.load import Target
    from unbench.training.checkpoint import Checkpoints

    device = job["target"]["device"]
    if device.startswith("cuda"):
        device = f"cuda:{torch.cuda.current_device()}"
    target = Target(Path(job["target"]["path"]), device, getattr(torch, job["target"]["dtype"]))
    folder = Path(job["folder"] if rank == 0 else f"{job['scratch']}/work-{rank}")
    folder.mkdir(parents=True, exist_ok=True)
    kept = job["checkpoints"]
    engines = Engines(target, plan, Path(job["logs"]))
    context = UnlearnContext(
        target=target,
        forget=Dataset.from_list(job["forget"]),
        retain=Dataset.from_list(job["retain"]),
        seed=job["seed"],
        train=plan.train,
        folder=folder,
        open_engine=_opener(engines, rank),
        while_training=engines.training,
        progress=progress,
        device=device,
        batch_size=plan.batch_size,
        budget_tokens=plan.budget_tokens,
        max_retain_rise=plan.max_retain_rise,
        machine=plan.machine,
        checkpoints=kept and Checkpoints(Path(kept["folder"]), plan.machine.checkpoint_every, kept["key"], rank == 0),
    )
    return context, engines


class SharedEngine:
    """The first process's engine; the others are told what it answers, so that all train on the same texts."""

    def __init__(self, engine: Engine | None, group: Any) -> None:
        self._engine = engine
        self._group = group
        self.stats: EngineStats
        self._share(lambda own: None)

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Generation]:
        from unbench.engines.base import Generation

        told = self._share(lambda own: [asdict(one) for one in own.generate(prompts, sampling)])
        return [Generation(**one) for one in told]

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[TokenScores]]:
        from unbench.engines.base import TokenScores

        told = self._share(lambda own: [[asdict(one) for one in scores] for scores in own.score(requests)])
        return [[TokenScores(**one) for one in scores] for scores in told]

    def load(self, unlearned: Unlearned) -> None:
        self._share(lambda own: own.load(unlearned))

    def close(self) -> None:
        """The engine is closed by the one that opened it."""

    def _share(self, ask: Callable[[Engine], Any]) -> Any:
        from unbench.engines.base import EngineStats

        said = None if self._engine is None else [ask(self._engine), asdict(self._engine.stats)]
        answer, stats = share(said, self._group)
        self.stats = EngineStats(**stats)
        return answer


def _opener(engines: Engines, rank: int) -> Callable[[], AbstractContextManager[Any]]:
    @contextmanager
    def opened() -> Iterator[SharedEngine]:
        import torch

        # Texts travel by the CPU, whatever the gradients travel by; every process has to take part in this.
        group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
        if rank > 0:
            yield SharedEngine(None, group)
            return
        with engines.open() as engine:
            yield SharedEngine(engine, group)

    return opened


def _in_words(problem: BaseException) -> dict[str, Any]:
    known = isinstance(problem, UnbenchError)
    return {
        "kind": type(problem).__name__ if known else None,
        "type": type(problem).__name__,
        "message": problem.message if isinstance(problem, UnbenchError) else str(problem),
        "try_next": problem.try_next if isinstance(problem, UnbenchError) else None,
        "traceback": traceback.format_exc(),
        # A process whose peer has died fails in the next exchange of gradients.
        "lost_peer": "distributed_c10d" in traceback.format_exc(),
    }


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _silent(description: str, done: int, total: int) -> None:
    """Only the first process tells."""


if __name__ == "__main__":
    main()
