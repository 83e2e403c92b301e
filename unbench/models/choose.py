"""Which models a plan stands on: the target (given, shipped, prepared or named) and the references. No torch here."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from unbench.errors import UsageError
from unbench.models import pairs
from unbench.models.cache import folder_hash
from unbench.models.load import BUILT_IN, check_folder, check_name
from unbench.task import Task


class ReferenceModel(BaseModel):
    """A reference model that a run is held against."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(description="reference-1 … (prepared), a hub id or a folder's name")
    hash: str | None = Field(default=None, description="SHA-256 over its files; null for hub models and built-in ones")
    path: str | None = Field(default=None, description="where it lies on this machine; not in results")


def locate(model: str) -> tuple[str, str | None, str | None]:
    """Name, hash and path of a model: a folder is known by its name and contents, wherever it lies."""
    if model in BUILT_IN or not Path(model).is_dir():
        return model, None, None
    folder = check_folder(Path(model).resolve())
    return folder.name, folder_hash(folder), str(folder)


def listed(names: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Names given one by one; a single one isn't taken for its letters."""
    return tuple(map(str, (names,) if isinstance(names, str | os.PathLike) else names))


def locate_references(references: str | Sequence[str]) -> tuple[ReferenceModel, ...]:
    """References that were named one by one."""
    found = []
    for reference in listed(references):
        name, digest, path = locate(reference)
        check_name(path or name)
        found.append(ReferenceModel(name=name, hash=digest, path=path))
    return tuple(found)


def choose_models(
    task: Task, model: str | None, target: str | None, references: Sequence[str], revision: str | None
) -> dict[str, Any]:
    """The plan's fields model, model_hash, model_path, revision, prepared and references.

    A trained task takes ``target`` where one is named (then only ``references`` that are named too), else what ships
    with UnBench, else the pair that was prepared from ``model``. Raises ``UsageError`` where there is none.
    """
    if task.target == "given":
        refuse_for_given(task, target, references)
    if model and target:
        raise UsageError(
            "--target is the model that the run starts from, so --model has nothing to say.", "Give one of the two."
        )
    asked = model or target or task.default_model
    name, digest, path = locate(asked)
    check_name(path or name)
    if revision and (name in BUILT_IN or path):
        raise UsageError(f"--revision belongs to a hub model, and {asked!r} is none.", "Leave it out.")
    fields: dict[str, Any] = {"model": name, "model_hash": digest, "model_path": path, "revision": revision}
    fields["references"] = locate_references(references)
    if task.target == "given" or target or (pairs.shipped(task, name) and path is None):
        return fields
    pair = pairs.find_pair(task, name, digest, revision)
    if pair is None:
        raise UsageError(
            f"There is no target for {task.id} made from {asked!r} yet.",
            f"Make it: {prepare_command(task, asked, revision)} (or name one that knows the task: --target).",
        )
    fields["prepared"] = pair.target.part.weights_hash
    fields["references"] = fields["references"] or tuple(
        ReferenceModel(name=found.part.name, hash=found.part.weights_hash, path=str(found.path))
        for found in pair.references
    )
    return fields


def refuse_for_given(task: Task, target: str | None, references: Sequence[str]) -> None:
    """Raises ``UsageError`` for options that a task with a given target has no use for."""
    if target:
        raise UsageError(f"Task {task.id} makes any model forget what it knows, so there is no --target.",
                         f"Name the model: --model {target}.")  # fmt: skip
    if references:
        raise UsageError(f"There is no reference for {task.id}: nobody trained its facts into the model.",
                         "Leave out --reference.")  # fmt: skip


def prepare_command(task: Task, model: str, revision: str | None = None, *more: str) -> str:
    """The command that prepares a pair, as a user would type it."""
    words = ["unbench", "prepare", str(task.path or task.id), "--model", model]
    words += ["--revision", revision] if revision else []
    words += ["--split", task.split] if task.split != "report" else []
    words += ["--data-dir", str(task.data_dir)] if task.data_dir else []
    return shlex.join([*words, *more])
