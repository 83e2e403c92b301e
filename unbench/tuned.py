"""What tuning found: the record that ``unbench tune`` writes, and the defaults that ship with UnBench, made of such
records. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unbench.errors import UsageError
from unbench.method import Method

LIKE = {"sham": "gradient_ascent"}
"""Controls that take another method's settings, since they imitate it."""


class Trial(BaseModel):
    """One setting tried."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    trial: int
    """Number, from 0 (the method's defaults at that time)."""
    state: Literal["done", "failed"]
    """What became of it."""
    settings: dict[str, Any]
    """What was searched."""
    config: dict[str, Any] | None = None
    """Every setting of the method."""
    objective: float | None = None
    """What is maximised."""
    scores: dict[str, float | None] = Field(default_factory=dict)
    """UnBench's own scores."""
    tokens: int | None = None
    """Tokens trained and generated."""
    seconds: float | None = None
    """Wall seconds of the unlearn step."""
    error: str | None = None
    """One sentence, where it failed."""


class Tuned(BaseModel):
    """All trials of one method on one task, and the one that was chosen."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, populate_by_name=True)
    schema_: Literal["unbench.tuned/1"] = Field(default="unbench.tuned/1", alias="schema")
    """Schema and version of this file."""
    method: str
    """Qualified name, distribution:method."""
    task: str
    """task/problem."""
    task_hash: str
    """SHA-256 over the task's rows and probes."""
    model: str
    """Model name, hub id or folder name."""
    train: dict[str, Any]
    """How weights were trained."""
    dtype: str = "auto"
    """Number format of the weights, as asked for."""
    split: Literal["select"] = "select"
    """Forget set that was scored."""
    seed: int
    """Seed of the search and of every run."""
    budget_tokens: int | None
    """Most tokens a trial could train and generate."""
    objective: str
    """What was maximised; a tie goes to fewer tokens."""
    space: dict[str, list[Any]]
    """Choices by setting."""
    asked: int
    """Trials asked for."""
    best: int | None
    """Number of the chosen trial; null where none succeeded."""
    config: dict[str, Any] | None
    """Every setting of the chosen trial."""
    trials: list[Trial]
    """Every trial."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Python and the packages that bear on the numbers."""

    @property
    def file_name(self) -> str:
        """``bios-fact-npo.json``: where it lies in a folder of such records."""
        model = "" if self.model == "nano" else f"-{self.model.replace('/', '-')}"
        return f"{self.task.replace('/', '-')}-{self.method.rpartition(':')[2]}{model}.json"


def choose(trials: Iterable[Trial]) -> Trial | None:
    """The best trial that succeeded: highest objective, then fewest tokens, then the earliest."""
    done = [trial for trial in trials if trial.state == "done" and trial.objective is not None]
    return max(done, key=lambda trial: (trial.objective, -(trial.tokens or 0), -trial.trial), default=None)


def read_tuned(file: Path) -> Tuned:
    """The record in a file. Raises ``UsageError`` where there is none."""
    from unbench.results.store import read_record

    found = read_record(file)
    if found is None:
        raise UsageError(f"{file} can't be read as JSON.", "Name a tuned.json that 'unbench tune' wrote.")
    try:
        return Tuned.model_validate(found)
    except ValidationError as problem:
        raise UsageError(
            f"{file} is no record of tuning (schema {found.get('schema')!r}).",
            "Name a tuned.json that 'unbench tune' wrote.",
        ) from problem


def read_config(file: Path, method: str | None = None) -> tuple[str | None, dict[str, Any], int | None]:
    """Method, settings and budget of tokens from a file: those of a ``tuned.json``, or a plain mapping of settings
    (YAML or JSON; then the method is the caller's, and there is no budget).

    Raises ``UsageError`` where the file can't be read or is that of another method."""
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as problem:
        why = getattr(problem, "strerror", None) or "it is neither YAML nor JSON"
        raise UsageError(f"{file} can't be read: {why}.", "Name a tuned.json or a YAML file of settings.") from problem
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise UsageError(f"{file} holds no settings.", "Name a tuned.json or a YAML file like 'lr: 1e-4'.")
    if "schema" not in found:
        from unbench.plan import number_of

        return method, {key: number_of(value) for key, value in found.items()}, None
    record = read_tuned(file)
    if record.config is None:
        raise UsageError(f"No trial in {file} succeeded.", "Tune again.")
    if method is not None and method not in (record.method, record.method.rpartition(":")[2]):
        raise UsageError(f"{file} is for {record.method}, not for {method!r}.", "Leave out --method.")
    return record.method, record.config, record.budget_tokens


def tuned_settings(method_class: type[Method], model: str) -> dict[str, Any]:
    """What tuning found for a method and model: the class's own ``tuned``, else what ships with UnBench for its own
    methods."""
    return all_tuned(method_class).get(model, {})


def all_tuned(method_class: type[Method]) -> dict[str, dict[str, Any]]:
    """The same by model."""
    return {model: entry["settings"] for model, entry in shipped_entries(method_class).items()} | dict(
        method_class.tuned
    )


def tuned_budget(method_class: type[Method], model: str) -> int | None:
    """Tokens within which the shipped settings of a method and model were chosen: they are the best within it. None
    where nothing ships, or the class's own ``tuned`` takes its place."""
    if model in method_class.tuned:
        return None
    budget: int | None = shipped_entries(method_class).get(model, {}).get("budget_tokens")
    return budget


def shipped_entries(method_class: type[Method]) -> dict[str, dict[str, Any]]:
    """What ships for one of UnBench's own methods, by model; nothing for a stranger's of the same name."""
    if method_class.__module__.partition(".")[0] not in ("unbench", "unbench_baselines"):
        return {}
    name = method_class.card.name
    return {model: by_method[name] for model, by_method in shipped().items() if name in by_method}


@cache
def shipped() -> Mapping[str, Mapping[str, dict[str, Any]]]:
    """Model, method, entry: ``baselines/tuned.yaml``."""
    text = (files("unbench_baselines") / "tuned.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text) or {}


def as_defaults(records: Iterable[Tuned], published: Mapping[str, type[Method]]) -> dict[str, dict[str, Any]]:
    """What ``tuned.yaml`` holds: by model and method, where the chosen setting departs from the published one, and what
    it cost to find. ``published`` are the methods' classes by name."""
    found: dict[str, dict[str, Any]] = {}
    for record in sorted(records, key=lambda one: (one.model, one.method)):
        name = record.method.rpartition(":")[2]
        if record.config is None:
            continue
        config = published[name].Config()
        settings = {key: value for key, value in record.config.items() if getattr(config, key, ...) != value}
        entry = {"settings": settings, "task": record.task, "trials": len(record.trials),
                 "budget_tokens": record.budget_tokens}  # fmt: skip
        by_method = found.setdefault(record.model, {})
        by_method[name] = entry
        for imitator in (one for one, other in LIKE.items() if other == name):
            by_method[imitator] = {**entry, "settings": dict(settings), "like": name}
    return found
