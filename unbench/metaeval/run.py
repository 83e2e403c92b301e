"""A meta-evaluation from beginning to end: pools, unlearned models, judgement, files."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbench import __version__, plugins
from unbench.errors import RunFailed
from unbench.metaeval import page, record
from unbench.metaeval.asked import Questions, ask, questions
from unbench.metaeval.judge import gate, orderings, stand
from unbench.metaeval.keep import Kept, keep, kept, key_of
from unbench.metaeval.measures import MEASURES, Anchors
from unbench.metaeval.pools import PoolModel, pool_models
from unbench.metaeval.record import MetaEval, PoolEntry, UnlearnedEntry
from unbench.metaeval.settings import LEARNT, RETAIN, SPLIT, TASK, Settings
from unbench.metrics.knowledge import per_probe
from unbench.results.store import alone_in, writing_to
from unbench.task import Task

if TYPE_CHECKING:
    import pandas as pd

    from unbench.method import Progress
    from unbench.sweep.record import SweepRun

OTHER_REFERENCES = ("reference-2", "reference-3")
"""Shipped responses that the scores' baselines come from: reference 1 is a model of the pools."""
RETRAIN_SEEDS = (0, 1, 2)
"""Seeds of the retrained control's relearning."""


def metaeval(out: Path, settings: Settings, *, jobs: int = 1, progress: Progress | None = None) -> MetaEval:
    """The record, also in ``<out>/metaeval.json`` beside ``index.html``. What was finished before is kept.

    Raises ``UsageError`` where ``out`` holds something else or another one is at work there, ``RunFailed`` where a
    pool has fewer than two models that learnt what they were to learn.
    """
    say = progress or (lambda description, done, total: None)
    before = record.read(out)
    if before is not None and before.is_final and before.settings == settings and before.version == __version__:
        with writing_to(out):
            page.write(before, out)
        return before
    task = plugins.open_task(TASK, SPLIT)
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        with alone_in(out, "metaeval.lock", "meta-evaluation"):
            found = _carry_out(out, settings, task, jobs, say)
            record.write(found, out)
            page.write(found, out)
    return found


def _carry_out(out: Path, settings: Settings, task: Task, jobs: int, say: Progress) -> MetaEval:
    specs = pool_models(settings)
    pool = _pool(out, settings, task, specs, jobs, say)
    runs = _unlearn(out, settings, jobs, say)
    anchors = Anchors(pool["target"].answers, _references(task, settings))
    entries = [_pool_entry(spec, pool[spec.name], anchors) for spec in specs]
    _check(entries)
    unlearned, cpu = _attack(out, settings, task, runs, anchors, say)
    lowest = {name: own.lowest(anchors.target, anchors) for name, own in MEASURES.items()}
    standings = {name: stand(own, entries, unlearned, lowest[name]) for name, own in MEASURES.items()}
    judged = sorted(
        (own.judged for own in standings.values()),
        key=lambda one: (one.overall.low is None, -(one.overall.value or 0.0), -(one.faithfulness.value or 0.0)),
    )
    spent = sum(own.cpu_s for own in pool.values()) + cpu
    spent += sum(run.compute.unlearn_s + run.compute.respond_s for run in runs if run.compute is not None)
    return MetaEval(
        version=__version__, task=task.id, task_hash=task.hash, settings=settings, measures=judged,
        orderings=orderings(standings), gate=gate(judged), pools=entries, unlearned=unlearned, cpu_s=spent,
    )  # fmt: skip


def _check(entries: Sequence[PoolEntry]) -> None:
    for side in ("knows", "does_not"):
        if sum(entry.side == side and entry.reason is None for entry in entries) < 2:
            raise RunFailed(
                "Hardly a model of a pool learnt what it was to learn.",
                "Give it more steps: Settings(checkpoints=…) of unbench.metaeval.settings.",
            )


def _pool(
    out: Path, settings: Settings, task: Task, specs: Sequence[PoolModel], jobs: int, say: Progress
) -> dict[str, Kept]:
    """Every pool model's answers, by name; those that are missing are made on ``jobs`` processes."""
    todo = [spec for spec in specs if kept(out, spec.name, _pool_key(spec, settings, task)) is None]
    done = len(specs) - len(todo)
    if jobs > 1 and len(todo) > 1:
        for name in _by_processes(out, settings, todo, jobs):
            done += 1
            say(f"pool: {name}", done, len(specs))
    else:
        for spec in todo:
            say(f"pool: {spec.name}", done, len(specs))
            make_kept(out, spec, settings)
            done += 1
    found = {spec.name: kept(out, spec.name, _pool_key(spec, settings, task)) for spec in specs}
    return {name: one for name, one in found.items() if one is not None}


def _by_processes(out: Path, settings: Settings, todo: Sequence[PoolModel], jobs: int) -> Iterator[str]:
    """Make pool models on several processes; their names as they are done."""
    from multiprocessing import get_context

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the new processes read it: nano is quickest with one thread
    workers = min(jobs, len(todo))
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_deaf_to_interrupts) as processes:
        futures = {processes.submit(make_kept, out, spec, settings): spec.name for spec in todo}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BrokenProcessPool as problem:
            raise RunFailed(
                "A process at work on a pool model died (out of memory?).", "Start it again, with fewer --jobs."
            ) from problem
        finally:
            processes.shutdown(wait=False, cancel_futures=True)


def _deaf_to_interrupts() -> None:
    """Ctrl-C is the parent's: a model under way is finished and kept."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def make_kept(out: Path, spec: PoolModel, settings: Settings) -> None:
    """Make one pool model, ask it and keep what it answers; nothing where that was done before."""
    from unbench.metaeval.train import make

    task = _task()

    def made() -> tuple[pd.DataFrame, float | None]:
        model, learnt = make(spec, settings)
        target, tokenizer = _target()
        return ask(model, target, tokenizer, _questions(settings.facts)), learnt

    keep(out, spec.name, _pool_key(spec, settings, task), made)


@cache
def _task() -> Task:
    return plugins.open_task(TASK, SPLIT)


@cache
def _questions(facts: int | None) -> Questions:
    return questions(_task(), facts)


@cache
def _target() -> tuple[Any, Any]:
    """The target in memory, for the logit lens, and the tokenizer."""
    from unbench.metaeval.train import shipped

    target = shipped("target")
    return target.load(), target.tokenizer


@cache
def _weights_hash(base: str) -> str:
    from unbench.metaeval.train import shipped
    from unbench.models.cache import folder_hash

    return folder_hash(shipped(base).path)  # type: ignore[arg-type]


def _pool_key(spec: PoolModel, settings: Settings, task: Task) -> str:
    shipped = [_weights_hash("target"), _weights_hash(spec.base)]
    return key_of("pool", task.hash, asdict(spec), shipped, settings.batch_size, settings.facts)


def _pool_entry(spec: PoolModel, own: Kept, anchors: Anchors) -> PoolEntry:
    enough = own.learnt is None or own.learnt >= LEARNT
    reason = None if enough else f"reproduces {own.learnt:.2f} of its rows, fewer than {LEARNT}"
    return PoolEntry(**asdict(spec), learnt=own.learnt, reason=reason, values=_values(own, anchors))


def _values(own: Kept, anchors: Anchors) -> dict[str, float | None]:
    found = {name: measure.value(own.answers, anchors) for name, measure in MEASURES.items()}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def _references(task: Task, settings: Settings) -> list[pd.DataFrame]:
    """``per_probe`` of references that are in no pool."""
    from unbench import responses
    from unbench.models.prepare import reference_file

    asked = {probe.id for probe in _questions(settings.facts).probes}
    frame = responses.load(reference_file(task))
    frame = frame[frame["probe"].isin(asked)]
    return [per_probe(frame[frame["role"] == role]) for role in OTHER_REFERENCES]


def _unlearn(out: Path, settings: Settings, jobs: int, say: Progress) -> list[SweepRun]:
    """The unlearned models, as runs of a sweep below ``<out>/runs``, which goes on where it was."""
    if not settings.methods:
        return []
    from unbench import sweep
    from unbench.sweep.spec import make_spec

    spec = make_spec(
        {"methods": list(settings.methods), "tasks": [TASK], "models": ["nano"], "seeds": list(settings.seeds),
         "split": SPLIT, "device": "cpu"}
    )  # fmt: skip
    with _passing_on(say) as watch:
        return sweep.sweep(spec, out / "runs", jobs=jobs, watch=watch).runs


@contextmanager
def _passing_on(say: Progress) -> Iterator[Any]:
    class Watch:
        def started(self, job: Any) -> None:
            say(f"unlearn: {job.plan.method_name}", 0, 0)

        def progress(self, job: Any, description: str, done: int, total: int) -> None:
            say(f"unlearn: {job.plan.method_name}, {description}", done, total)

        def ended(self, job: Any, outcome: Any) -> None:
            say(f"unlearn: {job.plan.method_name} {outcome.state}", 1, 1)

    yield Watch()


def _attack(
    out: Path, settings: Settings, task: Task, runs: Sequence[SweepRun], anchors: Anchors, say: Progress
) -> tuple[list[UnlearnedEntry], float]:
    """Every unlearned model and the retrained control: as it is, relearnt, and quantised; and the CPU seconds."""
    from unbench.metaeval.train import shipped

    if not runs:
        return [], 0.0
    entries: list[UnlearnedEntry] = []
    spent = 0.0
    total = sum(len(run.seeds) for run in runs) + len(RETRAIN_SEEDS)
    control, own_hash = shipped("retrain").path, _weights_hash("retrain")
    for seed in RETRAIN_SEEDS:
        say(f"attack: retrain, seed {seed}", len(entries), total)
        states, cpu = _states(out, settings, task, f"retrain-{seed}", control, own_hash, seed, quantised=False)
        spent += cpu
        entry = UnlearnedEntry(name=f"retrain-{seed}", method="unbench:retrain", seed=seed, control=True)
        entries.append(entry.model_copy(update=_all_values(states, anchors)))
    for run in runs:
        for seed in run.seeds:
            name = f"{run.method.removeprefix('unbench:')}-{seed}"
            say(f"attack: {name}", len(entries), total)
            entry, cpu = _unlearned(out, settings, task, run, name, seed, anchors)
            entries.append(entry)
            spent += cpu
    return entries, spent


def _unlearned(
    out: Path, settings: Settings, task: Task, run: SweepRun, name: str, seed: int, anchors: Anchors
) -> tuple[UnlearnedEntry, float]:
    from unbench.results.store import RunFolder

    retain = next((own.retain for own in run.per_seed if own.seed == seed), None)
    entry = UnlearnedEntry(name=name, method=run.method, run_id=run.run_id, seed=seed, retain=retain)
    if run.state != "done" or run.folder is None:
        return entry.model_copy(update={"reason": run.error or "the run failed"}), 0.0
    place = RunFolder(out / "runs" / run.folder).seed(seed)
    done, unlearned = place.unlearn_record() or {}, place.unlearned_model()
    if unlearned is None or unlearned.weights is None:
        return entry.model_copy(update={"reason": record.UNCHANGED}), 0.0
    states, cpu = _states(out, settings, task, name, unlearned.weights, str(done.get("weights_hash")), seed)
    low = None if retain is not None and retain >= RETAIN else f"retain {retain or 0.0:.2f} is under {RETAIN}"
    return entry.model_copy(update={"reason": low, **_all_values(states, anchors)}), cpu


def _group() -> int:
    """Inputs that share a scale, as the attack ``quantize`` has it."""
    from unbench.attacks.quantize import Quantize

    return int(Quantize().config.group)


def _all_values(states: Mapping[str, Kept], anchors: Anchors) -> dict[str, dict[str, float | None]]:
    return {state: _values(own, anchors) for state, own in states.items()}


def _states(
    out: Path, settings: Settings, task: Task, name: str, weights: Path, weights_hash: str, seed: int, *,
    quantised: bool = True,
) -> tuple[dict[str, Kept], float]:  # fmt: skip
    """One model's answers as it is, after relearning and after quantisation."""
    from unbench.attacks.harness import plain
    from unbench.attacks.quantize import quantize_model
    from unbench.metaeval.train import relearn, shipped
    from unbench.models.load import load_unlearned

    base = shipped("target")
    forget = task.data().forget

    def made(state: str) -> tuple[pd.DataFrame, float | None]:
        model = plain(load_unlearned(base, weights))
        if state == "relearnt":
            relearn(model, base, forget, settings, seed)
        elif state == "quantised":
            quantize_model(model, settings.bits, _group())
        target, tokenizer = _target()
        return ask(model, target, tokenizer, _questions(settings.facts)), None

    how: dict[str, list[Any]] = {
        "before": [],
        "relearnt": [settings.relearn_steps, settings.relearn_lr, settings.relearn_batch, seed],
        "quantised": [settings.bits],
    }
    if not quantised:
        del how["quantised"]
    found = {
        state: keep(out, f"{name}-{state}",
                    key_of("attack", task.hash, weights_hash, _weights_hash("target"), state, options, settings.facts),
                    lambda state=state: made(state))  # type: ignore[misc]
        for state, options in how.items()
    }  # fmt: skip
    return found, sum(own.cpu_s for own in found.values())
