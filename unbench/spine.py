"""The spine of a run: plan → prepare → unlearn → respond → measure → record, one artifact a step.

Each step writes under a temporary name and renames, so a run killed at any moment goes on with ``resume=True`` and
ends with the same result.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbench import plugins, processes, responses
from unbench.engines.room import Engines
from unbench.engines.room import check as check_engines
from unbench.errors import EnvironmentProblem, RunFailed, UnbenchError, UsageError
from unbench.guard import untouched
from unbench.method import Method, Progress, UnlearnContext, Unlearned, Usage
from unbench.models.cache import folder_hash
from unbench.plan import Plan
from unbench.plugincheck import in_words
from unbench.processes import Returned
from unbench.results.record import RunTotals, peak_memory, record, source_hash
from unbench.results.schema import Measured, Result, Score
from unbench.results.store import RunFolder, SeedFolder, read_result, write_refused, writing_to
from unbench.stdout import to_stderr
from unbench.task import Row, Task
from unbench.training.settings import check_reporter

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

    from unbench.models.prepare import Answered, Models, Prepared


def run(plan: Plan, out: Path = Path("runs"), *, resume: bool = False, progress: Progress | None = None) -> Result:
    """Carry out a plan and return its result (also in ``<run folder>/result.json``)."""
    launched = processes.launched()
    if launched is None:
        return _run(plan, out, resume, progress or _silent)
    # Started by accelerate launch or torchrun: the first process does everything, the others join it in the training.
    plan = processes.as_launched(plan, launched)
    if launched.rank > 0:
        processes.follow(plan)
        return read_result(RunFolder(out / plan.folder_name))
    with processes.leading(plan):
        return _run(plan, out, resume, progress or _silent)


def _run(plan: Plan, out: Path, resume: bool, progress: Progress) -> Result:
    totals = RunTotals(started=time.perf_counter())
    task = plan.open_task()
    asked = plan.seeds
    # Before the run has a folder: a model, device or package that can't be had must leave nothing behind.
    check_reporter(plan.machine.report_to)
    models = find_models(plan, task, progress)
    folder, plan = RunFolder.start(out, plan, resume=resume)
    engines = Engines(models.target, plan, folder.logs)
    with writing_to(folder.path), folder.alone(), clear_about_memory(), engines:
        folder.keep_plugins(plan)
        with totals.step("prepare"):
            prepared = prepare_step(plan, task, models, progress)
        tables: dict[int, pd.DataFrame] = {}
        general: dict[int, dict[str, Score]] = {}
        for seed in plan.seeds:
            place = folder.seed(seed)
            if seed in asked and not resume:
                place.restart_unlearn()
            unlearned = unlearn_step(plan, prepared, engines, place, seed, progress)
            tables[seed] = respond_step(plan, task, prepared, engines, unlearned, place, progress)
            if plan.lm_eval:
                general[seed] = capabilities_step(plan, prepared, unlearned, place, progress)
        with totals.step("measure"):
            trained = {seed: folder.seed(seed).trained_questions() for seed in plan.seeds}
            taught = {seed: folder.seed(seed).taught_answers() for seed in plan.seeds}
            measured = measure_step(task, tables, prepared, progress, trained, general, taught)
        totals.engine_starts = engines.starts
        result = record_step(plan, task, folder, prepared, tables, measured, totals)
        if plan.attacks or folder.attacked(plan.seeds):
            from unbench.attacks.step import attack_step

            # Attacks change weights in this process: the memory is theirs.
            engines.close()
            result = attack_step(plan, task, models, prepared, folder, result, tables, progress)
        return result


def attack(
    folder: RunFolder, attacks: Sequence[str], settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None, plugins: Sequence[Any] = (), data_dir: Path | None = None,
) -> Result:  # fmt: skip
    """Try attacks on a finished run; its result is kept with what they got back. Raises ``UsageError`` where the run
    has not finished or its weights are gone."""
    from unbench.attacks.choose import attack_names
    from unbench.attacks.step import attack_step

    progress = progress or _silent
    if folder.submitted:
        again = "Attack the run that it was made of, or make the run again: unbench verify RUN-ID."
        raise UsageError(f"{folder.path} is a submission: it holds answers, no weights.", again)
    result = read_result(folder)
    plan = folder.read_plan(plugins, data_dir)
    plan = plan.model_copy(update={"attacks": attack_names(attacks, plan.plugins)})
    with writing_to(folder.path), folder.alone(), clear_about_memory():
        task = plan.open_task()
        models = find_models(plan, task, progress)
        prepared = prepare_step(plan, task, models, progress)
        tables = {seed: folder.seed(seed).read_responses() for seed in plan.seeds}
        return attack_step(plan, task, models, prepared, folder, result, tables, progress, settings)


def find_models(plan: Plan, task: Task, progress: Progress) -> Models:
    """Where the weights of target and references lie (downloaded if need be) and where they are to run."""
    from unbench.models.prepare import find_models as find

    if plan.lm_eval:
        from unbench.lmeval.harness import check_tasks

        check_tasks(plan.lm_eval)
    models = find(plan, task, progress)
    check_engines(plan, models.target)
    return models


def prepare_step(plan: Plan, task: Task, models: Models, progress: Progress) -> Prepared:
    """What the target and the references know, from the cache where they were asked before."""
    from unbench.models.prepare import prepare

    return prepare(plan, task, models, progress)


def unlearn_step(
    plan: Plan, prepared: Prepared, engines: Engines, place: SeedFolder, seed: int, progress: Progress
) -> Unlearned:
    """The method. What it hands back lies in the seed's folder when this returns."""
    from unbench.training.checkpoint import Checkpoints

    done = place.unlearn_record()
    if done is not None and done.get("dtype") != str(prepared.target.dtype):
        raise UsageError(
            f"Seed {seed} was unlearned in {done.get('dtype')}, and this run would go on in {prepared.target.dtype}.",
            "Name the same --dtype, or leave out --resume.",
        )
    if done is None:
        place.restart_unlearn(keep_checkpoints=True)
        method = load_method(plan)
        context = method_context(plan, prepared, engines, place, seed, progress)
        key = f"{plan.run_id} {source_hash(type(method))} {prepared.target.dtype}"
        checkpoints = Checkpoints(place.checkpoints, plan.machine.checkpoint_every, key)
        context.checkpoints = checkpoints
        returned = _call_method(method, context, plan, place, engines)
        unlearned = returned.unlearned
        done = {
            "weights": _relative(unlearned.weights, place),
            "system_prompt": unlearned.system_prompt,
            "wall_s": checkpoints.elapsed,
            "peak_memory_bytes": returned.peak_memory_bytes,
            "dtype": str(prepared.target.dtype),
            "method_hash": source_hash(type(method)),
            "weights_hash": None if unlearned.weights is None else folder_hash(unlearned.weights),
            "usage": usage_record(context.usage),
            "work": returned.work,
        }
        place.finish_unlearn(done)
    handed_back = place.unlearned_model()
    assert handed_back is not None
    return handed_back


def respond_step(
    plan: Plan,
    task: Task,
    prepared: Prepared,
    engines: Engines,
    unlearned: Unlearned,
    place: SeedFolder,
    progress: Progress,
) -> pd.DataFrame:
    """One pass over the unlearned model collects all that any metric needs."""
    if place.respond_record() is not None:
        with suppress(Exception):  # a damaged table is made again
            return responses.load(place.responses)
    start = time.perf_counter()
    target = prepared.target
    with engines.open(unlearned) as engine:
        engine.load(unlearned)
        frame = responses.respond(
            engine,
            target.tokenizer,
            prepared.probes,
            role="unlearned",
            max_new_tokens=task.max_new_tokens,
            knowledge=task.knowledge,
            system_prompt=unlearned.system_prompt,
            progress=progress,
            gradnorm=plan.gradnorm,
        )
        notes = list(engine.stats.notes)
    responses.save(frame, place.responses)
    wall = time.perf_counter() - start
    work, peak = engines.take_work(), peak_memory(target.device)
    place.finish_respond({"wall_s": wall, "notes": notes, "peak_memory_bytes": peak, "work": work})
    # What was stored, not what was in memory: a resumed run then reads the very same numbers.
    return responses.load(place.responses)


def capabilities_step(
    plan: Plan, prepared: Prepared, unlearned: Unlearned, place: SeedFolder, progress: Progress
) -> dict[str, Score]:
    """What lm-eval finds of the unlearned model's general capabilities (``--lm-eval``); stored, so asked once."""
    from unbench.capabilities import as_record, scores_of
    from unbench.lmeval.harness import capabilities
    from unbench.models.load import load_unlearned

    record = place.lm_eval_record(plan.lm_eval)
    if record is None:
        start = time.perf_counter()
        target = prepared.target
        found = capabilities(
            load_unlearned(target, unlearned.weights), target.tokenizer, plan.lm_eval,
            batch_size=plan.batch_size, device=target.device, limit=plan.limit,
            system_prompt=unlearned.system_prompt, progress=progress,
        )  # fmt: skip
        record = as_record(found, plan.lm_eval, time.perf_counter() - start)
        place.finish_lm_eval(record)
    return scores_of(record)


def measure_step(
    task: Task,
    tables: dict[int, pd.DataFrame],
    prepared: Answered,
    progress: Progress,
    trained: dict[int, frozenset[str]] | None = None,
    general: dict[int, dict[str, Score]] | None = None,
    taught: dict[int, dict[str, list[str]]] | None = None,
) -> Measured:
    """Pure functions over the responses of the unlearned, target and reference models. ``trained`` holds the questions
    that each seed trained on, where that is known; ``general`` what lm-eval found of each seed; ``taught`` the answers
    that each seed's method taught, by fact."""
    from unbench.metrics.whole import measure_all

    progress("measure", 0, 1)
    measured = measure_all(
        tables, prepared.target_responses, prepared.references,
        knowledge=task.knowledge, known_only=task.target == "given", trained=trained, taught=taught,
    )  # fmt: skip
    if general:
        from unbench.capabilities import over_seeds

        measured.metrics |= over_seeds(list(general.values()))
    progress("measure", 1, 1)
    return measured


def record_step(
    plan: Plan,
    task: Task,
    folder: RunFolder,
    prepared: Prepared,
    tables: dict[int, pd.DataFrame],
    measured: Measured,
    totals: RunTotals,
) -> Result:
    """One result file with provenance; the leaderboard reads only these."""
    from unbench.results.probes import probe_table

    table = probe_table(tables, prepared.target_responses, prepared.references, task.knowledge)
    responses.save_table(table, folder.probes_file)
    return record(plan, folder, prepared, measured, totals)


def load_method(plan: Plan) -> Method:
    """The plan's method with the plan's settings."""
    method_class = plugins.methods(plan.plugins).load(plan.method)
    return method_class(method_class.Config.model_validate(plan.config))


def method_context(
    plan: Plan, prepared: Prepared, engines: Engines, place: SeedFolder, seed: int, progress: Progress
) -> UnlearnContext:
    """What the method is given: never a probe."""
    retrain = prepared.retrain
    return UnlearnContext(
        target=prepared.target,
        forget=as_dataset(prepared.forget),
        retain=as_dataset(prepared.retain),
        seed=seed,
        train=plan.train,
        folder=place.work,
        open_engine=engines.open,
        while_training=engines.training,
        progress=progress,
        device=prepared.target.device,
        batch_size=plan.batch_size,
        budget_tokens=plan.budget_tokens,
        max_retain_rise=plan.max_retain_rise,
        machine=plan.machine,
        retrain=None if retrain is None else (lambda: retrain(seed)),
    )


def as_dataset(rows: list[Row]) -> Dataset:
    """Rows as a ``datasets.Dataset`` with the row's fields as columns."""
    from datasets import Dataset

    columns = list(Row.model_fields)
    dumped = [row.model_dump(mode="json") for row in rows]
    return Dataset.from_dict({name: [row[name] for row in dumped] for name in columns})


def _call_method(method: Method, context: UnlearnContext, plan: Plan, place: SeedFolder, engines: Engines) -> Returned:
    """What the method hands back, and what that took."""
    try:
        with to_stderr(), untouched(context.target.path, plan.method):
            if method.trains and plan.machine.num_processes > 1:
                returned = processes.unlearn(plan, context, place.path / "processes", engines.logs)
            else:
                returned = Returned(method.unlearn(context), peak_memory(context.device), engines.take_work())
        unlearned: Any = returned.unlearned
        weights = unlearned.weights if isinstance(unlearned, Unlearned) else None
        if weights is not None and not list(Path(weights).glob("*.safetensors")):
            raise FileNotFoundError(f"no weights in safetensors format in {weights}")
    except UnbenchError:
        raise
    except (Exception, SystemExit) as problem:
        if write_refused(problem) or _out_of_memory(problem):
            raise
        report = place.path / "error.txt"
        report.write_text(traceback.format_exc(), encoding="utf-8")
        raise RunFailed(
            f"Method {plan.method} raised {type(problem).__name__}: {problem}.",
            f"The traceback is in {report}; mend the method and add --resume.",
        ) from problem
    return replace(returned, unlearned=_keep_weights(check_returned(unlearned, plan), place))


def check_returned(unlearned: Any, plan: Plan) -> Unlearned:
    """What a method returned. Raises ``RunFailed`` where that is nothing a method may return."""
    if not isinstance(unlearned, Unlearned):
        raise RunFailed(
            f"Method {plan.method} returned {in_words(unlearned)}, not Unlearned.",
            "Its unlearn() must return unbench.method.Unlearned(weights=folder).",
        )
    return unlearned


def _keep_weights(unlearned: Unlearned, place: SeedFolder) -> Unlearned:
    """Move what the method wrote in its work folder to ``unlearned/``; weights that lie elsewhere are only named."""
    weights = unlearned.weights
    if weights is None or not Path(weights).resolve().is_relative_to(place.work.resolve()):
        return unlearned
    Path(weights).replace(place.unlearned)
    return Unlearned(place.unlearned, unlearned.system_prompt)


def _relative(weights: Path | None, place: SeedFolder) -> str | None:
    if weights is None:
        return None
    full = Path(weights).resolve()
    root = place.path.resolve()
    return str(full.relative_to(root)) if full.is_relative_to(root) else str(full)


def usage_record(usage: Usage) -> dict[str, Any]:
    """What a method used, as JSON; what a plugin noted may be anything."""
    notes = json.loads(json.dumps(usage.notes, default=str), parse_constant=str)
    return {
        "tokens_trained": usage.tokens_trained,
        "tokens_generated": usage.tokens_generated,
        "trainable_parameters": usage.trainable_parameters,
        "losses": usage.losses,
        "questions": sorted(usage.questions),
        "taught": {fact: list(answers) for fact, answers in sorted(usage.taught.items())},
        "notes": notes,
    }


@contextmanager
def clear_about_memory() -> Iterator[None]:
    """Turn running out of memory, where smaller batches can't help (loading a model, say), into one sentence."""
    try:
        yield
    except (RuntimeError, MemoryError) as problem:
        if not _out_of_memory(problem):
            raise
        raise EnvironmentProblem(
            "Out of memory, and smaller batches can't help here.",
            "Try --dtype bfloat16, a smaller --model or a device with more memory, and add --resume.",
        ) from problem


def _out_of_memory(problem: BaseException) -> bool:
    from unbench.training.memory import is_out_of_memory

    return is_out_of_memory(problem)


def _silent(description: str, done: int, total: int) -> None:
    """No progress shown."""
