"""Prepared pairs: where the target and references that ``unbench prepare`` makes lie, and how they are found again.

``<cache>/prepared/<key>/<name>/`` holds one *part*: a whole model in transformers' layout and ``prepared.json``. The
key is the hash of the base's files, the training rows, the recipe and ``VERSION``; the name is ``target``,
``reference-1`` … or ``retrain``. The key knows no task: problems that train their target on the same rows share it, as
TOFU's all do. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unbench.errors import UsageError
from unbench.method import TrainSettings
from unbench.models.cache import PART_FILE, cache_root
from unbench.task import Task, canonical_json

VERSION = 1
"""Raised when the training changes, so that what an earlier version made is not taken for this one's."""
TARGET_SEED, RETRAIN_SEED = 0, 1000
"""References have the seeds 1, 2, …; the ``retrain`` control is a reference of this further one."""
LARGE = 1_000_000_000
"""Parameters from which on a model counts as large in the recipe."""
LEARNING_RATES = {"large": 1e-5, "small": 5e-5, "lora": 2e-4}

Role = Literal["target", "reference", "retrain"]
Rows = tuple[tuple[str, str], ...]
"""Questions and answers."""
DType = Literal["float32", "bfloat16", "float16"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Recipe(_Model):
    """How a base model is taught a task's rows. Epochs, rows a step, weight decay, the warm-up epoch and the learning
    rate of a large model are TOFU's (Maini et al. 2024, arXiv:2401.06121); the others and the stop are UnBench's."""

    train: TrainSettings = Field(description="all weights, or a LoRA adapter that is merged in the end")
    epochs: int = Field(5, ge=1, description="most passes over the rows")
    lr: float = Field(gt=0, description="peak learning rate (AdamW, linear warm-up then linear decay)")
    global_batch: int = Field(32, ge=1, description="rows an optimiser step")
    until: float = Field(0.9, gt=0, le=1, description="stop after the epoch in which mean p(a|q) reaches this")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay")
    warmup_epochs: float = Field(1.0, ge=0, description="epochs of linear warm-up")
    max_grad_norm: float = Field(1.0, gt=0, description="gradient clipping")
    dtype: DType = Field(description="number format of the weights in training and on disk")


class Part(_Model):
    """``prepared.json``: how one model came to be, and what it reached."""

    schema_: Literal["unbench.prepared/1"] = Field("unbench.prepared/1", alias="schema", description="schema, version")
    role: Role = Field(description="target, reference, or the retrain control")
    seed: int = Field(description="seed of row order and LoRA start")
    task: str = Field(description="task it was first made for; others with the same rows share it")
    model: str = Field(description="base model: built-in name, hub id or folder's name")
    revision: str | None = Field(description="revision of a hub model")
    base_hash: str = Field(description="SHA-256 over the base model's files")
    rows_hash: str = Field(description="SHA-256 over the training rows")
    rows: int = Field(description="training rows")
    recipe: Recipe = Field(description="how it was trained")
    default: bool = Field(description="whether the recipe is the default one of its base")
    reached: float = Field(description="mean p(a|q) on the training rows in the end")
    curve: tuple[float, ...] = Field(description="the same after each epoch")
    checked_rows: int = Field(description="rows that mean was taken over: evenly spaced, at most 400")
    epochs: int = Field(description="epochs trained")
    steps: int = Field(description="optimiser steps")
    tokens: int = Field(description="prompt and answer tokens sent forward and backward")
    seconds: float = Field(description="wall seconds, checks included")
    device: str = Field(description="device in words")
    weights_hash: str = Field(description="SHA-256 over the files beside this one")
    created_utc: str = Field(description="when it was finished")
    versions: dict[str, str] = Field(description="packages that bear on the numbers")

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    @property
    def name(self) -> str:
        """Its folder's name."""
        return part_name(self.role, self.seed)

    @property
    def group(self) -> tuple[str, str]:
        """What the parts of a pair have in common: base and recipe."""
        return self.base_hash, canonical_json(self.recipe.model_dump(mode="json"))

    def recipe_words(self) -> list[str]:
        """The options of ``unbench prepare`` that ask for its recipe; none where that is the default."""
        if self.default:
            return []
        recipe, lora = self.recipe, self.recipe.train
        words = ["--epochs", str(recipe.epochs), "--lr", str(recipe.lr), "--until", str(recipe.until)]
        words += ["--global-batch", str(recipe.global_batch), "--dtype", recipe.dtype, "--train", lora.kind]
        if lora.kind == "lora":
            words += ["--rank", str(lora.rank), "--lora-alpha", str(lora.lora_alpha)]
            words += ["--lora-targets", ",".join(lora.targets)]
        return words

    def note(self) -> dict[str, Any]:
        """What a result says of it."""
        body: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude={"curve", "versions", "schema_"})
        return body


@dataclass(frozen=True)
class Found:
    """A finished part and its folder."""

    path: Path
    part: Part


@dataclass(frozen=True)
class Pair:
    """A target, the references that a run is held against, and the ``retrain`` control where there is one."""

    target: Found
    references: tuple[Found, ...]
    retrain: Found | None = None

    def parts(self) -> list[Found]:
        return [self.target, *self.references, *([self.retrain] if self.retrain else [])]


def shipped(task: Task, model: str) -> bool:
    """Whether target and references come with the package: nano's for ``bios``."""
    return model == "nano" and task.family == "bios"


def training_rows(task: Task, role: Role) -> Rows:
    """What a role is trained on: forget, retain and withheld rows for a target, retain and withheld for a reference.

    Sorted, so that tasks that cut the same rows differently train the very same target."""
    data = task.data()
    rows = [*data.retain, *data.withheld, *(data.forget if role == "target" else ())]
    return tuple(sorted((row.question, row.answer) for row in rows))


def rows_hash(rows: Rows) -> str:
    """SHA-256 over questions and answers."""
    return hashlib.sha256(canonical_json(rows).encode()).hexdigest()


def part_name(role: Role, seed: int) -> str:
    """Folder name of a part."""
    return f"reference-{seed}" if role == "reference" else role


def part_folder(base_hash: str, rows: str, recipe: Recipe, name: str) -> Path:
    """Where a part of that base, rows hash and recipe lies or is to lie."""
    body = {"base": base_hash, "rows": rows, "recipe": recipe.model_dump(mode="json"), "version": VERSION}
    return root() / hashlib.sha256(canonical_json(body).encode()).hexdigest()[:16] / name


def root() -> Path:
    """Folder of all prepared parts."""
    return cache_root() / "prepared"


def read_part(folder: Path) -> Found | None:
    """The finished part in a folder; None where there is none, or a damaged one."""
    try:
        part = Part.model_validate(json.loads((folder / PART_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError, RecursionError):
        return None
    whole = (folder / "config.json").is_file() and bool(list(folder.glob("*.safetensors")))
    return Found(folder, part) if whole else None


def finished_parts() -> Iterator[Found]:
    """Every finished part in the cache."""
    for file in sorted(root().glob(f"*/*/{PART_FILE}")):
        found = None if file.parent.name.startswith(".") else read_part(file.parent)
        if found is not None:
            yield found


def find_pair(
    task: Task, model: str, base_hash: str | None, revision: str | None, weights_hash: str | None = None
) -> Pair | None:
    """The pair of a base model for a task: made by the default recipe where there is one, else the newest.

    ``base_hash`` is that of a folder; a built-in or hub model is known by its name and revision. ``weights_hash`` asks
    for the pair of that very target. A target without a reference is no pair."""
    own = [
        found for found in finished_parts()
        if (found.part.base_hash == base_hash if base_hash else
            (found.part.model, found.part.revision) == (model, revision))
    ]  # fmt: skip
    rows = {role: rows_hash(training_rows(task, role)) for role in ("target", "reference")}
    targets = [found for found in own if found.part.role == "target" and found.part.rows_hash == rows["target"]]
    targets = [found for found in targets if weights_hash in (None, found.part.weights_hash)]
    others = [found for found in own if found.part.role != "target" and found.part.rows_hash == rows["reference"]]
    pairs = [pair for target in targets if (pair := _pair(target, others)) is not None]
    return max(pairs, key=_preference, default=None)


def _pair(target: Found, others: Sequence[Found]) -> Pair | None:
    beside = [found for found in others if found.part.group == target.part.group]
    references = sorted((f for f in beside if f.part.role == "reference"), key=lambda found: found.part.seed)
    retrain = next((found for found in beside if found.part.role == "retrain"), None)
    return Pair(target, tuple(references), retrain) if references else None


def _preference(pair: Pair) -> tuple[bool, str]:
    return pair.target.part.default, max(found.part.created_utc for found in pair.parts())


def parameter_count(folder: Path) -> int:
    """Numbers in a folder's safetensors files, read off their headers (shared tensors lie there once)."""
    count = 0
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as stream:
            try:
                header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            except (ValueError, OverflowError, MemoryError) as problem:
                raise UsageError(f"{path} is damaged: it has no header.", "Get the model again.") from problem
        count += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return count


def default_lr(kind: str, parameters: int) -> float:
    """1e-5 from a thousand million parameters on, 5e-5 below, 2e-4 with LoRA."""
    if kind == "lora":
        return LEARNING_RATES["lora"]
    return LEARNING_RATES["large" if parameters >= LARGE else "small"]
