"""Make a prepared pair: the target fine-tuned on all rows, the references on all but the forget set.

Each part is trained under a temporary name and renamed when it is whole, so that a command that was killed goes on with
the parts that are missing when it is given again.
"""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from unbench.errors import EnvironmentProblem, UnbenchError, UsageError
from unbench.method import Progress, TrainSettings
from unbench.models import pairs
from unbench.models.cache import PART_FILE, cache_root, folder_hash
from unbench.models.choose import listed
from unbench.models.load import BUILT_IN, check_name, model_folder, pick_device
from unbench.models.pairs import Found, Pair, Part, Recipe, Role
from unbench.task import Task

if TYPE_CHECKING:
    from unbench.models.finetune import Taught


@dataclass(frozen=True)
class Base:
    """The model that everything starts from, and where it is trained."""

    name: str
    revision: str | None
    folder: Path
    hash: str
    device: str


def prepare_pair(
    task: Task,
    model: str | None = None,
    *,
    revision: str | None = None,
    train: Literal["full", "lora"] = "full",
    rank: int | None = None,
    lora_alpha: int | None = None,
    lora_targets: Sequence[str] | None = None,
    references: int = 1,
    retrain: bool = False,
    epochs: int | None = None,
    lr: float | None = None,
    global_batch: int | None = None,
    until: float | None = None,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Pair:
    """The pair of ``model`` for ``task``; parts that are finished are kept, unless ``force``.

    What is None takes the recipe's default. ``references`` are those of the seeds 1 … N; ``retrain`` asks for one of a
    further seed beside them, for the control of that name. Raises ``UsageError`` for a task that has nothing to prepare
    or a wrong setting, ``EnvironmentProblem`` and ``RunFailed`` as training does.
    """
    if references < 1:
        raise UsageError(f"A pair has at least one reference, not {references}.", "Give references=1 or more.")
    progress = progress or _silent
    base = open_base(task, model, revision, device, progress)
    if train == "full" and (rank or lora_alpha or lora_targets):
        raise UsageError("LoRA options change nothing where all weights are trained.", "Add --train lora.")
    lora = {"rank": rank, "lora_alpha": lora_alpha, "targets": listed(lora_targets) if lora_targets else None}
    settings = {"epochs": epochs, "lr": lr, "global_batch": global_batch, "until": until}
    recipe = make_recipe(base, {"kind": train} | lora, settings, dtype)
    default = recipe == make_recipe(base, {"kind": "full"}, {}, "auto")
    wanted: list[tuple[Role, int]] = [("target", pairs.TARGET_SEED)]
    wanted += [("reference", seed) for seed in range(1, references + 1)]
    wanted += [("retrain", pairs.RETRAIN_SEED)] if retrain else []
    with _clear_errors():
        parts = [
            make_part(task, base, recipe, role, seed, default, batch_size, force, progress)
            for role, seed in wanted
        ]  # fmt: skip
    return Pair(parts[0], tuple(parts[1 : references + 1]), parts[-1] if retrain else None)


def open_base(task: Task, model: str | None, revision: str | None, device: str, progress: Progress) -> Base:
    """The base model's folder (downloaded if need be) and its hash. Raises before anything heavy starts."""
    name = model or task.default_model
    if task.target == "given":
        raise UsageError(
            f"Task {task.id} forgets what a model knows already, so there is nothing to prepare.",
            f"Run it: unbench run --task {task.id} --model {name}.",
        )
    if pairs.shipped(task, name):
        raise UsageError(
            f"The target and references of {task.id} on nano ship with UnBench, so there is nothing to prepare.",
            f"Run it: unbench run --task {task.id}.",
        )
    # Before the rows are read: they may have to come from the hub.
    check_name(name)
    if not pairs.training_rows(task, "reference") or not task.data().forget:
        raise UsageError(f"Task {task.id} lacks forget rows or rows to retain.", "Check it: unbench check-task.")
    where = pick_device(device)
    folder = base_folder(name, revision, progress)
    known_as = folder.resolve().name if Path(name).is_dir() and name not in BUILT_IN else name
    return Base(known_as, revision, folder, folder_hash(folder), where)


def base_folder(name: str, revision: str | None, progress: Progress) -> Path:
    """Folder of a base model. nano's own name stands for its target elsewhere; here for what that was made from."""
    if name == "nano":
        from unbench.models.nano import nano_folder

        return nano_folder("base")
    if revision and Path(name).is_dir():
        raise UsageError(f"--revision belongs to a hub model, and {name!r} is a folder.", "Leave it out.")
    return model_folder(name, revision, progress)


def make_recipe(base: Base, train: dict[str, Any], settings: dict[str, Any], dtype: str) -> Recipe:
    """The recipe with its defaults filled in for this base and device."""
    parameters = pairs.parameter_count(base.folder)
    given = {name: value for name, value in settings.items() if value is not None}
    given.setdefault("lr", pairs.default_lr(train["kind"], parameters))
    given["dtype"] = training_dtype(dtype, base.device, parameters)
    try:
        settings_of = TrainSettings.model_validate({k: v for k, v in train.items() if v is not None})
        return Recipe.model_validate(given | {"train": settings_of})
    except ValidationError as problem:
        first = problem.errors()[0]
        raise UsageError(
            f"Setting {'.'.join(map(str, first['loc']))!r} is {first['input']!r}: {first['msg']}.",
            "'unbench prepare --help' lists the options.",
        ) from problem


def training_dtype(wanted: str, device: str, parameters: int) -> str:
    """``auto`` is float32, and bfloat16 for a large model on CUDA. At TOFU's learning rates many steps are smaller than
    half a unit of bfloat16's last place and are rounded away; a small model can afford to avoid that."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if device.startswith("cuda") and parameters >= pairs.LARGE else "float32"


def make_part(
    task: Task,
    base: Base,
    recipe: Recipe,
    role: Role,
    seed: int,
    default: bool,
    batch_size: int | None,
    force: bool,
    progress: Progress,
) -> Found:
    """One part, from the cache or trained now."""
    from unbench.models.finetune import fine_tune

    rows = pairs.training_rows(task, role)
    name = pairs.part_name(role, seed)
    folder = pairs.part_folder(base.hash, pairs.rows_hash(rows), recipe, name)
    with _alone(folder, progress):
        found = pairs.read_part(folder)
        if found is not None and not force:
            return found
        temporary = folder.with_name(f".{name}.{os.getpid()}.tmp")
        try:
            taught = fine_tune(
                base.folder, rows, recipe, temporary / "model",
                seed=seed, device=base.device, batch_size=batch_size, name=name, progress=progress,
            )  # fmt: skip
            _free_memory()
            _write_part(temporary / "model", task, base, recipe, role, seed, default, len(rows), taught)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary / "model", folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    found = pairs.read_part(folder)
    if found is None:
        raise EnvironmentProblem(f"{folder} can't be read back.", "Check the disk, then give the command again.")
    return found


def _free_memory() -> None:
    """The trained model and its optimiser go before the next part comes: they are held by cycles only."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _write_part(
    folder: Path, task: Task, base: Base, recipe: Recipe, role: Role, seed: int, default: bool, rows: int,
    taught: Taught,
) -> None:  # fmt: skip
    from unbench.models.load import device_words
    from unbench.results.record import versions
    from unbench.results.store import write_json

    part = Part(
        schema="unbench.prepared/1",
        role=role,
        seed=seed,
        task=task.id,
        model=base.name,
        revision=base.revision,
        base_hash=base.hash,
        rows_hash=pairs.rows_hash(pairs.training_rows(task, role)),
        rows=rows,
        recipe=recipe,
        default=default,
        reached=taught.reached,
        curve=taught.curve,
        checked_rows=taught.checked_rows,
        epochs=taught.epochs,
        steps=taught.steps,
        tokens=taught.tokens,
        seconds=taught.seconds,
        device=device_words(base.device),
        weights_hash=folder_hash(folder),
        created_utc=datetime.now(UTC).isoformat(),
        versions=versions(),
    )
    write_json(folder / PART_FILE, part.model_dump(mode="json", by_alias=True))


@contextmanager
def _alone(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold a part: a second process that wants the same one waits and then finds it. What killed ones left is gone."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "w", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"{folder.name}: another process is at work on it", 0, 0)
            fcntl.flock(stream, fcntl.LOCK_EX)
        for stale in folder.parent.glob(f".{folder.name}.*.tmp*"):
            shutil.rmtree(stale, ignore_errors=True)
        yield


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Running out of memory or disk as one sentence."""
    from unbench.results.store import write_refused
    from unbench.training.memory import is_out_of_memory

    try:
        yield
    except Exception as problem:
        # The training room's own sentence speaks of --out, which there is none of here.
        why = write_refused(problem.__cause__ or problem)
        if isinstance(problem, UnbenchError) and why is None:
            raise
        if why is not None:
            raise EnvironmentProblem(
                f"Can't write to {cache_root()}: {why}.", "Free some space or point UNBENCH_CACHE to another folder."
            ) from problem
        if not is_out_of_memory(problem):
            raise
        raise EnvironmentProblem(
            "Out of memory, and smaller batches can't help here.",
            "Try --dtype bfloat16, --train lora, a smaller --model or a device with more memory.",
        ) from problem


def _silent(description: str, done: int, total: int) -> None:
    """No progress shown."""
