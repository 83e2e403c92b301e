"""Which runs a sweep holds: every method on every task with every model, each with all the seeds."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from unbench.errors import EnvironmentProblem, UnbenchError, UsageError
from unbench.plan import Plan, Seed, first_error, make_plan, number_of
from unbench.task import Split


def _several(value: Any) -> Any:
    """One thing, text with commas or a list, as a list."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, Mapping) else value


def _seeds(value: Any) -> Any:
    """A number N stands for the seeds 0 … N-1."""
    if isinstance(value, int) and not isinstance(value, bool):
        return list(range(value))
    return _several(value)


def _numbers(value: Any) -> Any:
    """Values as YAML reads them, with 1e-4 taken as a number."""
    if isinstance(value, Mapping):
        return {key: _numbers(one) for key, one in value.items()}
    return [_numbers(one) for one in value] if isinstance(value, list) else number_of(value)


Names = Annotated[list[str], BeforeValidator(_several), Field(min_length=1)]
Settings = Annotated[list[dict[str, Any]], BeforeValidator(_several), BeforeValidator(_numbers), Field(min_length=1)]


class SweepSpec(BaseModel):
    """What ``unbench sweep`` takes, from a YAML file or from options."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    methods: Names = Field(description="methods, or all")
    tasks: Names = Field(default=["bios/fact"], description="tasks")
    models: Annotated[list[str], BeforeValidator(_several)] = Field(
        default=[], description="models; without any, each task's own"
    )
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(_seeds), Field(min_length=1)] = Field(
        default=(0,), description="a list of seeds, or a number N for the seeds 0 to N-1"
    )
    train: Annotated[list[Literal["full", "lora"]], BeforeValidator(_several)] = Field(
        default=[], description="full, lora or both; without, the model's own way"
    )
    split: Split = Field(default="report", description="forget set: report for results, select for tuning")
    settings: dict[str, Settings] = Field(
        default={}, description="settings by method; a list of them gives a run for each"
    )
    budget_tokens: int | None = Field(default=None, ge=1, description="most tokens a method may train and generate")
    limit: int | None = Field(default=None, ge=1, description="most probes of each kind: a quick look")
    device: str = Field(default="auto", description="auto, cpu, cuda …")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(default="auto", description="number format")
    batch_size: int | None = Field(default=None, ge=1, description="sequences a forward pass")
    data_dir: str | None = Field(default=None, description="folder of the task's data files")
    references: Annotated[list[str], BeforeValidator(_several)] = Field(
        default=[], description="models that never saw the forget set"
    )
    gradnorm: bool = Field(default=False, description="take gradient norms too")
    lm_eval: Annotated[list[str], BeforeValidator(_several)] = Field(default=[], description="tasks of lm-eval")
    attacks: Annotated[list[str], BeforeValidator(_several)] = Field(
        default=[], description="attacks on what the methods hand back: names, all or default"
    )
    plugins: Annotated[list[str], BeforeValidator(_several)] = Field(
        default=[], description="Python files with methods of your own"
    )
    options: Annotated[dict[str, Any], BeforeValidator(_numbers)] = Field(
        default={}, description="further options of every run, as 'unbench run' has them (rank, engine, …)"
    )


@dataclass(frozen=True)
class Cell:
    """One place of the grid: a plan, or why there is none."""

    method: str
    task: str
    model: str
    plan: Plan | None
    error: str | None = None


def make_spec(values: Mapping[str, Any]) -> SweepSpec:
    """Checked values. Raises ``UsageError`` naming what is wrong."""
    try:
        return SweepSpec.model_validate(dict(values))
    except ValidationError as problem:
        unknown = [str(one["loc"][0]) for one in problem.errors() if one["type"] == "extra_forbidden"]
        if unknown:
            import difflib

            near = difflib.get_close_matches(unknown[0], SweepSpec.model_fields, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(SweepSpec.model_fields)}."
            raise UsageError(f"A sweep has no entry called {unknown[0]!r}.", hint) from problem
        if any(one["type"] == "missing" for one in problem.errors()):
            raise UsageError("A sweep needs methods.", "Name them: --methods npo,unstar or --methods all.") from problem
        raise UsageError(f"The sweep's {first_error(problem)}", "'unbench sweep --help' says more.") from problem


def read_spec(file: Path) -> dict[str, Any]:
    """What a YAML file says, not yet checked. Raises ``UsageError`` where it can't be read."""
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as problem:
        raise UsageError(f"{file} can't be read: {problem.strerror or problem}.", "Name a YAML file.") from problem
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as problem:
        where = getattr(problem, "problem_mark", None)
        line = f" (line {where.line + 1})" if where else ""
        raise UsageError(f"{file} is not YAML{line}.", "Mend it; docs/tuning-and-sweeps.md has one.") from problem
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise UsageError(f"{file} holds no entries like 'methods: [npo, unstar]'.", "Write some.")
    return found


def narrowed(values: dict[str, Any], methods: str) -> dict[str, Any]:
    """What a file says, for these of its methods alone: settings of the others are of no use then, and no mistake."""
    settings, named = values.get("settings"), _several(methods)
    if not isinstance(settings, dict) or "all" in named:
        return values
    return values | {"settings": {name: one for name, one in settings.items() if name in named}}


def grid(spec: SweepSpec) -> list[Cell]:
    """Every run once, task by task. A wrong name or setting raises ``UsageError``; of *all* methods, one that is broken
    has a cell that says so."""
    every = spec.methods == ["all"]
    names = _all_methods(spec) if every else list(dict.fromkeys(spec.methods))
    unused = sorted(spec.settings.keys() - set(names))
    if unused:
        raise UsageError(f"The sweep has settings for {unused[0]!r}, which is none of its methods.", "Leave them out.")
    _check_options(spec)
    cells: list[Cell] = []
    seen: set[str] = set()
    for options in _combinations(spec, names):
        try:
            plan = _plan(spec, **options)
        except EnvironmentProblem as problem:
            if not every:
                raise
            model = options["model"] or ""
            cells.append(Cell(options["method"], options["task"], model, None, str(problem)))
            continue
        if plan.folder_name not in seen:
            seen.add(plan.folder_name)
            cells.append(Cell(plan.method, plan.task, plan.model, plan))
    return cells


def _combinations(spec: SweepSpec, names: list[str]) -> Iterator[dict[str, Any]]:
    models: list[str | None] = [*spec.models] or [None]
    ways: list[str | None] = [*spec.train] or [None]
    for task in spec.tasks:
        for model in models:
            for train in ways:
                for method in names:
                    for settings in spec.settings.get(method, [{}]):
                        yield {"method": method, "task": task, "model": model, "train": train, "settings": settings}


def _all_methods(spec: SweepSpec) -> list[str]:
    """Names of every method, the bare one where it is unique."""
    from unbench.plugins import methods

    registry = methods(spec.plugins)
    names = []
    for plugin in registry.plugins:
        try:
            names.append(plugin.name if registry.find(plugin.name) == plugin else plugin.qualified)
        except UnbenchError:
            names.append(plugin.qualified)
    return names


def _plan(spec: SweepSpec, method: str, task: str, model: str | None, train: str | None, settings: Any) -> Plan:
    return make_plan(
        method, task, model, train=train, settings=settings, seeds=spec.seeds, split=spec.split,
        budget_tokens=spec.budget_tokens, limit=spec.limit, device=spec.device, dtype=spec.dtype,
        batch_size=spec.batch_size, data_dir=spec.data_dir, references=spec.references, gradnorm=spec.gradnorm,
        lm_eval=spec.lm_eval, attacks=spec.attacks, plugins=spec.plugins, **spec.options,
    )  # fmt: skip


def _check_options(spec: SweepSpec) -> None:
    """Only what a run takes and the sweep has no entry for."""
    known = inspect.signature(make_plan).parameters.keys() - SweepSpec.model_fields.keys() - {"method", "task", "model"}
    for name in spec.options:
        if name not in known:
            raise UsageError(f"A sweep's options have no {name!r}.", f"There are: {', '.join(sorted(known))}.")
