"""The Python API: ``run``, ``evaluate``, ``load_target``. The command line calls these too."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbench import plugins
from unbench.errors import UsageError
from unbench.method import Progress, TrainSettings
from unbench.plan import Plan, locate, make_plan
from unbench.results.schema import Compute, Hashes, Result
from unbench.task import Split, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def run(
    method: str = "unstar",
    task: str = "bios/fact",
    model: str | None = None,
    *,
    out: str | Path = "runs",
    resume: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """Run a method on a task and score what it hands back.

    ``options`` are those of :func:`unbench.plan.make_plan`: ``seeds=(0, 1, 2)``, ``split="select"``,
    ``train="lora"``, ``settings={"lr": 1e-4}``, ``device``, ``dtype``, ``batch_size``, ``limit``, ``budget_tokens`` …
    Raises ``UnbenchError`` with one sentence for anything the caller can mend.
    """
    from unbench import spine

    if not isinstance(method, str):
        raise UsageError(
            "unbench.run takes the name of a registered method.",
            "Register the class under the entry-point group unbench.methods (README, 'A method in 20 lines').",
        )
    plan = make_plan(method, task, model, **options)
    return spine.run(plan, Path(out), resume=resume, progress=progress)


def load_target(
    task: str = "bios/fact", model: str | None = None, *, device: str = "auto", dtype: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that knows everything a task asks for, and its tokenizer: where unlearning starts."""
    from unbench.models.load import Target, model_folder, pick_device, pick_dtype

    problem = plugins.open_task(task)
    folder = model_folder(model or problem.default_model, None, _silent)
    device = pick_device(device)
    target = Target(folder, device, pick_dtype(dtype, device))
    return target.load(), target.tokenizer


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: str = "bios/fact",
    *,
    target: str | None = None,
    name: str = "in-memory",
    split: Split = "report",
    limit: int | None = None,
    batch_size: int | None = None,
    system_prompt: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Score a model in memory against the task's target and references.

    ``target`` names the model that ``model`` was made from (default: the task's own). The model is left as it was.
    """
    from unbench import responses
    from unbench.engines.hf import HFEngine
    from unbench.models.prepare import find_target, prepare
    from unbench.results.probes import probe_table
    from unbench.spine import measure_step

    progress = progress or _silent
    started = time.perf_counter()
    problem = plugins.open_task(task, split)
    device = str(next(model.parameters()).device)
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    plan = _evaluation_plan(problem, name, target, dtype, device, limit, batch_size)
    prepared = prepare(plan, problem, find_target(plan, problem, progress), progress)
    prepared_s = time.perf_counter() - started
    with HFEngine(model, tokenizer, device=device, batch_size=batch_size) as engine:
        frame = responses.respond(
            engine,
            tokenizer,
            prepared.probes,
            role="unlearned",
            max_new_tokens=problem.max_new_tokens,
            knowledge=problem.knowledge,
            system_prompt=system_prompt,
            progress=progress,
        )
    responded_s = time.perf_counter() - started - prepared_s
    measured = measure_step(problem, {0: frame}, prepared, progress)
    result = _evaluation_result(plan, prepared, measured, device, (started, prepared_s, responded_s))
    result.keep_probes(probe_table({0: frame}, prepared.target_responses, prepared.references, problem.knowledge))
    return result


def _evaluation_plan(
    task: Task, name: str, target: str | None, dtype: str, device: str, limit: int | None, batch_size: int | None
) -> Plan:
    if dtype not in ("float32", "bfloat16", "float16"):
        raise UsageError(f"The model's weights are {dtype}.", "Load it in float32, bfloat16 or float16.")
    model_name, model_hash, model_path = locate(target or task.default_model)
    return Plan(
        schema="unbench.plan/1",
        method=f"model:{name}",
        config={},
        task=task.id,
        split=task.split,
        task_version=task.version,
        task_hash=task.hash,
        model=model_name,
        model_hash=model_hash,
        model_path=model_path,
        revision=None,
        train=TrainSettings(),
        dtype=dtype,  # type: ignore[arg-type]
        limit=limit,
        budget_tokens=None,
        seeds=(0,),
        device=device,
        batch_size=batch_size,
    )


def _evaluation_result(
    plan: Plan, prepared: Any, measured: Any, device: str, clock: tuple[float, float, float]
) -> Result:
    from datetime import UTC, datetime

    from unbench.models.load import device_words
    from unbench.results.record import peak_memory, versions

    started, prepared_s, responded_s = clock
    wall = time.perf_counter() - started
    return Result(
        schema="unbench.result/1",
        run_id=plan.run_id,
        method=plan.method,
        task=plan.task,
        split=plan.split,
        model=plan.model,
        seeds=[0],
        scores=measured.scores,
        per_seed=measured.per_seed,
        metrics=measured.metrics,
        groups=measured.groups,
        interval=measured.interval,
        compute=Compute(
            wall_s=wall,
            prepare_s=prepared_s,
            unlearn_s=0.0,
            respond_s=responded_s,
            measure_s=wall - prepared_s - responded_s,
            peak_memory_bytes=peak_memory(device),
            tokens_trained=0,
            tokens_generated=0,
            trainable_parameters=0,
        ),
        plan=plan.public(),
        hashes=Hashes(task=plan.task_hash, model=prepared.target_hash, method="", references=prepared.reference_hashes),
        versions=versions(),
        device=device_words(device),
        dtype=plan.dtype,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        notes=dict(prepared.notes),
    )


def _silent(description: str, done: int, total: int) -> None:
    """No progress shown."""
