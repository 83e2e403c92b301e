"""Prepare: the target, what it answers, what the references answer, and which facts it knows.

Everything is cached by the hash of what made it and shared by every method and seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from unbench import __version__, responses
from unbench.engines import open_engine
from unbench.errors import EnvironmentProblem, UsageError
from unbench.method import Progress
from unbench.metrics.knowledge import per_probe
from unbench.metrics.table import KNOWN
from unbench.models import pairs
from unbench.models.build import reference_name
from unbench.models.cache import cache_root, file_hash, folder_hash
from unbench.models.choose import prepare_command
from unbench.models.load import Target, model_folder, pick_device, pick_dtype
from unbench.plan import Plan
from unbench.task import Knowledge, Message, Probe, Row, Task

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Models:
    """Where a plan's models lie and are to run."""

    target: Target
    references: tuple[Target, ...] = ()
    """None where the references' responses ship, or where there is no reference."""
    pair: pairs.Pair | None = None
    """The prepared pair that they are parts of."""


@dataclass(kw_only=True)
class Answered:
    """What a model is held against: the probes, and what the target and the references answer."""

    probes: list[Probe]
    target_hash: str = ""
    """SHA-256 over the target's files; empty without one."""
    target_responses: pd.DataFrame | None = None
    references: list[pd.DataFrame] = field(default_factory=list)
    reference_hashes: list[str] = field(default_factory=list)
    data_hashes: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every data file of the task, by name."""
    notes: dict[str, object] = field(default_factory=dict)


@dataclass(kw_only=True)
class Prepared(Answered):
    """What the prepare step hands on."""

    target: Target
    target_responses: pd.DataFrame
    forget: list[Row]
    retain: list[Row]
    retrain: Callable[[int], Path] | None = None
    """Folder of the ``retrain`` control for a run's seed; None where the task has no reference."""


def find_models(plan: Plan, task: Task, progress: Progress) -> Models:
    """The folders of the target and the references, downloaded if need be. Raises before anything heavy starts."""
    device = pick_device(plan.device)
    dtype = pick_dtype(plan.dtype, device)
    pair = None
    if plan.prepared is None:
        folder = model_folder(plan.model_path or plan.model, plan.revision, progress)
    else:
        pair = _prepared_pair(plan, task)
        folder = pair.target.path
    return Models(Target(folder, device, dtype), find_references(plan, progress), pair)


def find_references(plan: Plan, progress: Progress) -> tuple[Target, ...]:
    """The references that don't ship, on the plan's device and in its dtype."""
    device = pick_device(plan.device)
    folders = [model_folder(one.path or one.name, None, progress) for one in plan.references]
    return tuple(Target(folder, device, pick_dtype(plan.dtype, device)) for folder in folders)


def _prepared_pair(plan: Plan, task: Task) -> pairs.Pair:
    pair = pairs.find_pair(task, plan.model, plan.model_hash, plan.revision, plan.prepared)
    if pair is None:
        raise UsageError(
            "The prepared target of this plan is no longer in the cache.",
            f"Make it again: {prepare_command(task, plan.model_path or plan.model, plan.revision)}.",
        )
    return pair


def prepare(plan: Plan, task: Task, models: Models, progress: Progress) -> Prepared:
    """Target and references of a plan, from the cache where they have been asked before."""
    probes = [*limit_probes(task.probes(), plan.limit), *holdout_probes(task, plan.limit)]
    target_hash = folder_hash(models.target.path)
    if plan.prepared not in (None, target_hash):
        words = [*(models.pair.target.part.recipe_words() if models.pair else ()), "--force"]
        raise UsageError(
            f"The files of the prepared target {models.target.path} are not those that were prepared.",
            f"Make it again: {prepare_command(task, plan.model_path or plan.model, plan.revision, *words)}.",
        )
    data = task.data()
    prepared = Prepared(
        target=models.target,
        target_hash=target_hash,
        probes=probes,
        forget=list(data.forget),
        retain=list(data.retain),
        target_responses=ask(models.target, target_hash, "target", task, probes, plan.batch_size, progress),
        data_hashes=dict(task.sources),
    )
    if task.target == "given":
        _keep_known(prepared, plan, task)
    else:
        add_references(prepared, plan, task, models.references, progress)
        prepared.retrain = _retrain(plan, task, models.pair)
        if models.pair is not None:
            prepared.notes["prepared"] = _pair_note(models.pair, plan)
    return prepared


def answer_without_target(plan: Plan, task: Task, progress: Progress) -> Answered:
    """What a bare model is held against where no target is known: the references, if any were named."""
    probes = limit_probes(task.probes(), plan.limit)
    answered = Answered(probes=probes, data_hashes=dict(task.sources))
    add_references(answered, plan, task, find_references(plan, progress), progress)
    return answered


def limit_probes(probes: Sequence[Probe], limit: int | None) -> list[Probe]:
    """The first ``limit`` probes of each ring, kind and given-or-withheld half; all of them without a limit."""
    if limit is None:
        return list(probes)
    seen: dict[tuple[str, str, bool], set[str]] = {}
    kept = []
    for probe in probes:
        group = seen.setdefault((probe.ring, probe.kind, probe.given), set())
        # The true and the false form of one pair count once, so that neither is left alone.
        group.add(probe.pair or probe.id)
        if len(group) <= limit:
            kept.append(probe)
    return kept


def holdout_probes(task: Task, limit: int | None) -> list[Probe]:
    """The holdout rows' own questions, where the task asks none itself: what the model says of people that it has never
    seen. No score of knowledge reads them, so they are no part of the task's hash."""
    if any(probe.ring == "holdout" for probe in task.probes()):
        return []
    return [
        Probe(id=f"holdout/{number}", ring="holdout", kind="holdout", subject=row.subject, cluster=row.subject,
              fact=row.fact, messages=(Message(role="user", content=row.question),), answer=row.answer,
              candidates=(row.answer,), answer_prefix="", accept=(), given=False, pair=None, paraphrased=None,
              generate=True)
        for number, row in enumerate(task.data().holdout[:limit])
    ]  # fmt: skip


def ask(
    model: Target,
    weights_hash: str,
    role: str,
    task: Task,
    probes: list[Probe],
    batch_size: int | None,
    progress: Progress,
) -> pd.DataFrame:
    """What a model answers to the probes, asked once and then read from the cache."""
    # Not keyed by device name: the cache is this machine's. Keyed by code version and columns: the pass may change.
    ids = hashlib.sha256("\n".join(probe.id for probe in probes).encode()).hexdigest()
    code = ",".join((__version__, *responses.COLUMNS))
    key = "\0".join((weights_hash, task.hash, str(model.dtype), model.device, ids, code))
    path = cache_root() / "responses" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.parquet"
    if path.is_file():
        try:
            return responses.load(path).assign(role=role)
        except Exception:
            # A damaged cache file is made again.
            path.unlink(missing_ok=True)
    try:  # before the model is asked: its answers must not be lost
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise EnvironmentProblem(
            f"Can't write to the cache {cache_root()}: {problem.strerror or problem}.",
            "Point UNBENCH_CACHE to another folder.",
        ) from problem
    with open_engine(model.path, model.device, model.dtype, batch_size) as engine:
        frame = responses.respond(
            engine,
            model.tokenizer,
            probes,
            role=role,
            max_new_tokens=task.max_new_tokens,
            knowledge=task.knowledge,
            progress=progress,
        )
    responses.save(frame, path)
    return frame


def _keep_known(prepared: Prepared, plan: Plan, task: Task) -> None:
    """Leave out the forget rows of facts that a given target doesn't know: there is nothing to forget. The retain rows
    stay as they are: whoever asks for a deletion says what must stay without knowing what the model holds of it."""
    known = known_facts(prepared.target_responses, task.knowledge)
    forget = [row for row in prepared.forget if row.fact in known]
    if not forget:
        raise UsageError(
            f"Model {plan.model!r} knows none of the {len(prepared.forget)} facts that {task.id} would make it forget.",
            "Name another task or a model that knows them.",
        )
    prepared.notes["forget_rows"] = {"known": len(forget), "unknown": len(prepared.forget) - len(forget)}
    kept = sum(row.fact in known for row in prepared.retain)
    prepared.notes["retain_rows"] = {"known": kept, "unknown": len(prepared.retain) - kept}
    prepared.forget = forget


def known_facts(target: pd.DataFrame, knowledge: Knowledge) -> set[str]:
    """Facts that the target knows (on the average of their probes); ``target``: its responses."""
    table = per_probe(target, knowledge=knowledge)
    # A forgotten fact is known if its own question is answered; how it fares in other forms is measured, not assumed.
    own = table[(table["ring"] != "forget") | (table["kind"] == "direct")]
    known_by_fact = own.groupby("fact")["known"].mean()
    return set(known_by_fact.index[known_by_fact >= KNOWN])


def add_references(
    answered: Answered, plan: Plan, task: Task, references: Sequence[Target], progress: Progress
) -> None:
    """Ask the references, or read what the shipped ones answered. None at all is no error: Kr is 0 then."""
    if not references and _shipped(task, plan):
        _add_shipped_references(answered, task)
    for number, (planned, reference) in enumerate(zip(plan.references, references, strict=True), start=1):
        weights_hash = folder_hash(reference.path)
        if planned.hash not in (None, weights_hash):
            raise UsageError(
                f"The files of the reference {reference.path} are not those that the plan stands on.",
                "Make or get the reference again.",
            )
        role = f"reference-{number}"
        answered.references.append(ask(reference, weights_hash, role, task, answered.probes, plan.batch_size, progress))
        answered.reference_hashes.append(weights_hash)


def ships_references(plan: Plan, task: Task, models: Models) -> bool:
    """Whether the plan's references are nano's, whose responses ship instead of their weights."""
    return not models.references and plan.prepared is None and _shipped(task, plan)


def _shipped(task: Task, plan: Plan) -> bool:
    """A folder that happens to be called nano is another model."""
    return plan.model_path is None and pairs.shipped(task, plan.model)


def _add_shipped_references(answered: Answered, task: Task) -> None:
    path = reference_file(task)
    if not path.is_file():
        raise UsageError(
            f"UnBench ships no reference responses for {task.id} ({task.split}).",
            "Make them with 'unbench models build'.",
        )
    frame = responses.load(path)
    wanted = {probe.id for probe in answered.probes if probe.ring != "holdout"}
    frame = frame[frame["probe"].isin(wanted)]
    if set(frame["probe"].unique()) != wanted:
        raise UsageError(
            f"The reference responses of {task.id} ({task.split}) belong to other probes.",
            "Make them again with 'unbench models build'.",
        )
    answered.references = [part for _, part in frame.groupby("role", sort=True)]
    answered.reference_hashes = [file_hash(path)]


def _retrain(plan: Plan, task: Task, pair: pairs.Pair | None) -> Callable[[int], Path]:
    """Where the ``retrain`` control finds its weights: a reference that no score is held against."""
    if _shipped(task, plan):
        from unbench.models.nano import retrain_folder

        return retrain_folder
    if pair is None:
        return _fails(
            "The retrain control takes a reference that 'unbench prepare' made, and this target was named by hand.",
            f"Prepare a pair of your own: {prepare_command(task, 'BASE', None, '--retrain')}.",
        )
    if pair.retrain is None:
        base, words = plan.model_path or plan.model, [*pair.target.part.recipe_words(), "--retrain"]
        return _fails(
            "The retrain control needs a reference of a further seed, and none was prepared.",
            f"Make it: {prepare_command(task, base, plan.revision, *words)}.",
        )
    folder = pair.retrain.path
    return lambda seed: folder


def _fails(message: str, try_next: str) -> Callable[[int], Path]:
    def fail(seed: int) -> Path:
        raise UsageError(message, try_next)

    return fail


def _pair_note(pair: pairs.Pair, plan: Plan) -> dict[str, object]:
    """How the pair was made and what it reached; the references only where they are the pair's own."""
    used = {reference.hash for reference in plan.references}
    own = [found.part.note() for found in pair.references if found.part.weights_hash in used]
    return {"target": pair.target.part.note(), "references": own}


def reference_file(task: Task) -> Path:
    """Where the shipped reference responses of a task and split lie."""
    return Path(str(files("unbench.models"))) / "nano_weights" / "references" / reference_name(task)
