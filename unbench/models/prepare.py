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
from unbench.engines.hf import HFEngine
from unbench.errors import UsageError
from unbench.method import Progress
from unbench.metrics.knowledge import per_probe
from unbench.models.build import reference_name
from unbench.models.cache import cache_root, file_hash, folder_hash
from unbench.models.load import Target, model_folder, pick_device, pick_dtype
from unbench.plan import Plan
from unbench.task import Probe, Row, Task

if TYPE_CHECKING:
    import pandas as pd

KNOWN = 0.5
"""A fact counts as known to a given target from this mean κ on (design: metrics, who saw what)."""


@dataclass
class Prepared:
    """What the prepare step hands on."""

    target: Target
    target_hash: str
    probes: list[Probe]
    forget: list[Row]
    retain: list[Row]
    target_responses: pd.DataFrame
    references: list[pd.DataFrame] = field(default_factory=list)
    reference_hashes: list[str] = field(default_factory=list)
    retrain: Callable[[int], Path] | None = None
    """Folder of the ``retrain`` control for a run's seed; None where the task has no reference."""
    notes: dict[str, object] = field(default_factory=dict)


def find_target(plan: Plan, task: Task, progress: Progress) -> Target:
    """The target's folder and where it is to run. Raises before anything heavy starts."""
    if task.target == "trained" and plan.model != "nano":
        raise UsageError(
            f"Task {task.id} needs a target that was trained on its rows, and only nano has one so far.",
            "Leave out --model, or take --task facts/all, which any model can run.",
        )
    folder = model_folder(plan.model_path or plan.model, plan.revision, progress)
    device = pick_device(plan.device)
    return Target(folder, device, pick_dtype(plan.dtype, device))


def prepare(plan: Plan, task: Task, target: Target, progress: Progress) -> Prepared:
    """Target and references of a plan, from the cache where they have been asked before."""
    probes = limit_probes(task.probes(), plan.limit)
    target_hash = folder_hash(target.path)
    target_responses = _cached_responses(target, target_hash, task, probes, plan.batch_size, progress)
    data = task.data()
    prepared = Prepared(target, target_hash, probes, list(data.forget), list(data.retain), target_responses)
    if task.target == "given":
        _keep_known(prepared, plan, task)
    else:
        _add_references(prepared, task)
    return prepared


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


def _cached_responses(
    target: Target, target_hash: str, task: Task, probes: list[Probe], batch_size: int | None, progress: Progress
) -> pd.DataFrame:
    # Not keyed by device: the cache is this machine's. Keyed by code version: the pass may change.
    ids = hashlib.sha256("\n".join(probe.id for probe in probes).encode()).hexdigest()
    key = "\0".join((target_hash, task.hash, str(target.dtype), target.device, ids, __version__))
    path = cache_root() / "responses" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.parquet"
    if path.is_file():
        try:
            return responses.load(path)
        except Exception:
            # A damaged cache file is made again.
            path.unlink(missing_ok=True)
    with HFEngine.open(target.path, device=target.device, dtype=target.dtype, batch_size=batch_size) as engine:
        frame = responses.respond(
            engine,
            target.tokenizer,
            probes,
            role="target",
            max_new_tokens=task.max_new_tokens,
            knowledge=task.knowledge,
            progress=progress,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    responses.save(frame, path)
    return frame


def _keep_known(prepared: Prepared, plan: Plan, task: Task) -> None:
    """Leave out the forget rows of facts that a given target doesn't know: there is nothing to forget. The retain rows
    stay as they are: whoever asks for a deletion says what must stay without knowing what the model holds of it."""
    table = per_probe(prepared.target_responses, knowledge=task.knowledge)
    # A forgotten fact is known if its own question is answered; how it fares in other forms is measured, not assumed.
    own = table[(table["ring"] != "forget") | (table["kind"] == "direct")]
    known_by_fact = own.groupby("fact")["known"].mean()
    known = set(known_by_fact.index[known_by_fact >= KNOWN])
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


def _add_references(prepared: Prepared, task: Task) -> None:
    from unbench.models.nano import retrain_folder

    path = reference_file(task)
    if not path.is_file():
        raise UsageError(
            f"UnBench ships no reference responses for {task.id} ({task.split}).",
            "Make them with 'unbench models build'.",
        )
    frame = responses.load(path)
    wanted = {probe.id for probe in prepared.probes}
    frame = frame[frame["probe"].isin(wanted)]
    if set(frame["probe"].unique()) != wanted:
        raise UsageError(
            f"The reference responses of {task.id} ({task.split}) belong to other probes.",
            "Make them again with 'unbench models build'.",
        )
    prepared.references = [part for _, part in frame.groupby("role", sort=True)]
    prepared.reference_hashes = [file_hash(path)]
    prepared.retrain = retrain_folder


def reference_file(task: Task) -> Path:
    """Where the shipped reference responses of a task and split lie."""
    return Path(str(files("unbench.models"))) / "nano_weights" / "references" / reference_name(task)
