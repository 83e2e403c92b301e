"""Making a yardstick: what a maintainer adds before the first result of a task version and model is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbench.errors import UsageError
from unbench.method import Progress
from unbench.results.store import RunFolder
from unbench.submissions.pack import refuse_unfit
from unbench.submissions.rows import Of, write_attacks, write_rows
from unbench.submissions.yardstick import (
    Lock,
    LockedAttack,
    LockedModel,
    LockedTask,
    attack_file,
    keep_files,
    model_folder,
    probes_content,
    read_lock,
    sha256,
    write_lock,
)
from unbench.task import canonical_json

if TYPE_CHECKING:
    import pandas as pd

    from unbench.models.prepare import Prepared
    from unbench.plan import Plan
    from unbench.results.schema import AttackResult
    from unbench.task import Task


@dataclass(frozen=True)
class Added:
    """What a call added to the lock."""

    task: str
    model: str
    new_model: bool
    attacks: tuple[str, ...]


def add_yardstick(folder: RunFolder, leaderboard: Path, progress: Progress, data_dir: Path | None = None) -> Added:
    """What target and references answer to the task of a finished run, and what its attacks find on them, into the
    lock. What stands there stays as it is: a machine that computes otherwise can't change it."""
    from unbench import spine
    from unbench.attacks.choose import choose
    from unbench.attacks.harness import Harness
    from unbench.attacks.step import reference_of
    from unbench.results.store import read_result

    plan = folder.read_plan((), data_dir)
    result = read_result(folder)
    refuse_unfit(result, plan)
    task = plan.open_task()
    models = spine.find_models(plan, task, progress)
    prepared = spine.prepare_step(plan, task, models, progress)
    lock = read_lock(leaderboard)
    locked, model, files = _model(lock, plan, task, prepared, leaderboard)
    new = bool(files)
    added = []
    harness = Harness(plan, task, prepared, reference_of(plan, task, models), progress)
    where = model_folder(leaderboard, locked, model)
    for attack in result.attacks:
        if not attack.points or not attack.name.startswith("unbench:"):
            continue
        settings = {f"{attack.name}.{key}": value for key, value in attack.config.items()}
        (chosen,) = choose([attack.name], plan.model, settings)
        if chosen.source != attack.method_hash:
            raise UsageError(
                f"Run {result.run_id} was attacked by another version of {attack.name}.",
                f"Attack it again: unbench attack {folder.path} --attacks {chosen.short}.",
            )
        train = plan.train.model_dump(mode="json")
        key = (attack.name, chosen.source, attack.config, train)
        if any((one.name, one.source, one.config, one.train) == key for one in model.attacks):
            continue
        beside: dict[Of, pd.DataFrame] = dict(harness.beside(chosen).items())
        entry, content = locked_attack(attack, train, chosen.source, beside)
        files[attack_file(where, entry)] = content
        model.attacks.append(entry)
        added.append(attack.name)
    keep_files(files)
    write_lock(leaderboard, lock)
    return Added(task.id, plan.model, new, tuple(added))


def locked_attack(
    attack: AttackResult, train: dict[str, Any], source: str, found: Mapping[Of, pd.DataFrame]
) -> tuple[LockedAttack, bytes]:
    """One attack's entry in the lock and its file; ``found``: what it found on reference and target, where it was
    tried on them."""
    key = sha256(canonical_json([attack.name, source, attack.config, train]).encode())
    content = write_attacks({attack.name: found}, key)
    entry = LockedAttack(name=attack.name, kind=attack.kind, config=attack.config, train=train, source=source,
                         sha256=sha256(content))  # fmt: skip
    return entry, content


def _model(
    lock: Lock, plan: Plan, task: Task, prepared: Prepared, leaderboard: Path
) -> tuple[LockedTask, LockedModel, dict[Path, bytes]]:
    """The entries of the lock, made where they aren't there, with the files that are to be written for them."""
    files: dict[Path, bytes] = {}
    locked = lock.find(task.id, task.hash)
    if locked is None:
        content = None if task.takes_data_dir else probes_content(prepared.probes)
        locked = LockedTask(task=task.id, version=task.version, task_hash=task.hash, knowledge=task.knowledge,
                            target=task.target, probes=None if content is None else sha256(content))  # fmt: skip
        lock.tasks.append(locked)
        if content is not None:
            files[leaderboard / "references" / locked.folder / "probes.jsonl.gz"] = content
    model = next((one for one in locked.models if one.model_hash == prepared.target_hash), None)
    if model is None:
        frames: dict[Of, pd.DataFrame] = {"target": prepared.target_responses}
        frames |= {f"reference-{number}": frame for number, frame in enumerate(prepared.references, start=1)}
        content = write_rows(frames, {}, prepared.probes, task.knowledge)
        model = LockedModel(model=plan.model, model_hash=prepared.target_hash, references=prepared.reference_hashes,
                            responses=sha256(content))  # fmt: skip
        locked.models.append(model)
        files[model_folder(leaderboard, locked, model) / "responses.jsonl.gz"] = content
    return locked, model, files
