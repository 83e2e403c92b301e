"""The Python API: ``prepare``, ``run``, ``evaluate``, ``load_target``. The command line calls these too."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from unbench.errors import UsageError
from unbench.method import Progress, TrainSettings
from unbench.models.choose import listed, locate, locate_references, refuse_for_given
from unbench.models.pairs import Pair, shipped
from unbench.plan import Plan, data_folder, first_error, make_plan
from unbench.pluginfile import plugin_files
from unbench.plugins import open_task
from unbench.results.schema import Compute, Hashes, Measured, Result
from unbench.task import Split, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from unbench.engines.room import Work
    from unbench.engines.settings import EngineName
    from unbench.engines.vllm import VLLMEngine
    from unbench.models.prepare import Answered


def run(
    method: str | None = None,
    task: str = "bios/fact",
    model: str | None = None,
    *,
    out: str | Path = "runs",
    resume: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """Run a method (UnSTAR where none is named) on a task and score what it hands back.

    ``options`` are those of :func:`unbench.plan.make_plan`: ``seeds=(0, 1, 2)``, ``split="select"``,
    ``train="lora"``, ``settings={"lr": 1e-4}``, ``device``, ``dtype``, ``batch_size``, ``limit``, ``budget_tokens``,
    ``data_dir``, ``target`` and ``references`` (models that take the place of a prepared pair), ``lm_eval``,
    ``plugins=["my_method.py"]`` (files with a method of your own; with no ``method`` their single one is run) …
    Raises ``UnbenchError`` with one sentence for anything the caller can mend.
    """
    from unbench import spine

    if method is not None and not isinstance(method, str):
        raise UsageError(
            "unbench.run takes the name of a registered method.",
            "Put the class into a file and name it: plugins=['my_method.py'] (README, 'A method in 20 lines').",
        )
    plan = make_plan(method, task, model, **options)
    return spine.run(plan, Path(out), resume=resume, progress=progress)


def prepare(
    task: str,
    model: str | None = None,
    *,
    split: Split = "report",
    data_dir: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Pair:
    """Fine-tune the target and the references of a task from a base model; what is finished is kept.

    ``options`` are those of :func:`unbench.models.makepair.prepare_pair`: ``train="lora"``, ``references=3``,
    ``retrain=True``, ``epochs``, ``lr``, ``global_batch``, ``until``, ``device``, ``dtype``, ``batch_size``, ``force``.
    A run with the same task and model takes the pair.
    """
    from unbench.models.makepair import prepare_pair

    problem = open_task(task, split, data_folder(task, data_dir))
    return prepare_pair(problem, model, progress=progress, **options)


def load_target(
    task: str = "bios/fact",
    model: str | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    target: str | None = None,
    data_dir: str | Path | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that knows everything a task asks for, and its tokenizer: where unlearning starts.

    ``model`` and ``target`` as in :func:`unbench.run`: a base model with a prepared target, or a target as it is.
    """
    from unbench.models.prepare import find_models

    plan = make_plan("none", task, model, target=target, data_dir=data_dir, device=device, dtype=dtype)
    found = find_models(plan, plan.open_task(), _silent).target
    return found.load(), found.tokenizer


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: str = "bios/fact",
    *,
    target: str | None = None,
    references: Sequence[str] = (),
    data_dir: str | Path | None = None,
    name: str = "in-memory",
    split: Split = "report",
    limit: int | None = None,
    batch_size: int | None = None,
    system_prompt: str | None = None,
    gradnorm: bool = False,
    lm_eval: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
    vllm: VLLMEngine | None = None,
    engines: tuple[EngineName, EngineName | None] = ("hf", None),
    weights_hash: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Score a model in memory against the task's target and references.

    ``target`` names the model that ``model`` was made from (default: the task's own, where it has one) and
    ``references`` the models that never saw the forget set. Without a target UnBench's own scores are null, and what
    needs none (TOFU's metrics) is computed all the same. The model is left as it was. ``weights_hash``
    (``unbench.models.cache.folder_hash``) tells models of one ``name`` apart: it enters the run-id and the result.
    ``plugins`` are files that may hold the task. ``engines`` names what generates and, where that is another, what
    scores; ``vllm`` is an open engine with the same weights, for what it says is vLLM's.
    """
    from unbench import responses
    from unbench.engines.hf import HFEngine
    from unbench.engines.room import counted, engine_names, joined
    from unbench.lmeval.harness import capabilities, check_tasks
    from unbench.results.probes import probe_table
    from unbench.spine import measure_step

    progress = progress or _silent
    started = time.perf_counter()
    if not hasattr(model, "parameters") or not callable(tokenizer):
        raise UsageError(
            "unbench.evaluate takes a model and its tokenizer in memory.",
            "Load them by from_pretrained, or give the folder to 'unbench eval'.",
        )
    lm_eval = listed(lm_eval)
    if lm_eval:
        check_tasks(lm_eval)
    files = plugin_files(plugins)
    folder = data_folder(task, data_dir, files)
    problem = open_task(task, split, folder, files)
    device = str(next(model.parameters()).device)
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    machine = {"device": device, "batch_size": batch_size, "data_dir": str(folder) if folder else None}
    config = {"weights": weights_hash} if weights_hash else {}
    more = {"config": config, "limit": limit, "gradnorm": gradnorm, "lm_eval": lm_eval, "plugins": files} | machine
    more |= {"engine": engines[0], "score_engine": engines[1]}
    plan = _evaluation_plan(problem, name, target, references, dtype, more)
    answered = _answered(plan, problem, target, progress)
    prepared_s = time.perf_counter() - started
    with (
        HFEngine(model, tokenizer, device=device, batch_size=batch_size) as own,
        counted(engine := joined(engine_names(plan), own, vllm)) as work,
    ):
        frame = responses.respond(
            engine,
            tokenizer,
            answered.probes,
            role="unlearned",
            max_new_tokens=problem.max_new_tokens,
            knowledge=problem.knowledge,
            system_prompt=system_prompt,
            progress=progress,
            gradnorm=gradnorm,
        )
        if engine.stats.notes:
            answered.notes["engine"] = list(engine.stats.notes)
    found = None
    if lm_eval:
        found = capabilities(model, tokenizer, plan.lm_eval, batch_size=batch_size, device=device, limit=limit,
                             system_prompt=system_prompt, progress=progress)  # fmt: skip
        answered.notes["lm_eval"] = found.settings
    responded_s = time.perf_counter() - started - prepared_s
    measured = measure_step(problem, {0: frame}, answered, progress, general={0: found.scores} if found else None)
    result = _evaluation_result(plan, answered, measured, device, (started, prepared_s, responded_s), work)
    result.versions |= found.versions if found else {}
    result.keep_probes(probe_table({0: frame}, answered.target_responses, answered.references, problem.knowledge))
    return result


def _answered(plan: Plan, task: Task, target: str | None, progress: Progress) -> Answered:
    from unbench.models import prepare as step

    if target is None and not has_own_target(task):
        return step.answer_without_target(plan, task, progress)
    return step.prepare(plan, task, step.find_models(plan, task, progress), progress)


def has_own_target(task: Task) -> bool:
    """Whether a model can be scored on the task with no target named: any task but one that is trained from a base."""
    return task.target == "given" or shipped(task, task.default_model)


def _evaluation_plan(
    task: Task, name: str, target: str | None, references: Sequence[str], dtype: str, more: dict[str, Any]
) -> Plan:
    if dtype not in ("float32", "bfloat16", "float16"):
        raise UsageError(f"The model's weights are {dtype}.", "Load it in float32, bfloat16 or float16.")
    if task.target == "given":
        refuse_for_given(task, None, references)
    if target is None and not has_own_target(task):
        model: tuple[str, str | None, str | None] = (name, None, None)
    else:
        model = locate(str(target or task.default_model))
    try:
        return Plan(
            schema="unbench.plan/1",
            method=f"model:{name}",
            task=task.id,
            split=task.split,
            task_version=task.version,
            task_hash=task.hash,
            task_path=str(task.path.resolve()) if task.path else None,
            model=model[0],
            model_hash=model[1],
            model_path=model[2],
            revision=None,
            train=TrainSettings(),
            dtype=dtype,  # type: ignore[arg-type]
            budget_tokens=None,
            seeds=(0,),
            references=locate_references(references),
            **more,
        )
    except ValidationError as problem:
        raise UsageError(first_error(problem), "unbench.evaluate's docstring tells its arguments.") from problem


def _evaluation_result(
    plan: Plan, prepared: Answered, measured: Measured, device: str, clock: tuple[float, float, float], work: Work
) -> Result:
    from dataclasses import asdict
    from datetime import UTC, datetime

    from unbench.engines.room import engine_names, engine_versions
    from unbench.models.load import device_words
    from unbench.results.record import peak_memory, shares, versions

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
            **shares([asdict(work)], wall),
            engine_starts=int("vllm" in engine_names(plan)),
        ),
        plan=plan.public(),
        hashes=Hashes(
            task=plan.task_hash,
            model=prepared.target_hash,
            method="",
            references=prepared.reference_hashes,
            data=prepared.data_hashes,
            unlearned={"0": plan.config["weights"]} if plan.config else {},
        ),
        versions=versions() | engine_versions(plan),
        device=device_words(device),
        dtype=plan.dtype,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        notes=dict(prepared.notes),
    )


def _silent(description: str, done: int, total: int) -> None:
    """No progress shown."""
