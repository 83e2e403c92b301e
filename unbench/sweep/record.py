"""What a sweep writes: ``sweep.json``, brought up to date after every run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from unbench.results.schema import Compute, Score, SeedScores
from unbench.results.store import write_json
from unbench.sweep.job import Outcome
from unbench.sweep.place import Place
from unbench.sweep.spec import Cell, SweepSpec


class SweepRun(BaseModel):
    """One run of a sweep."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    method: str
    """Qualified name, distribution:method."""
    task: str
    """task/problem."""
    model: str
    """Model name, hub id or folder name."""
    train: str | None = None
    """full or lora."""
    seeds: list[int] = Field(default_factory=list)
    """Seeds of the method."""
    run_id: str | None = None
    """The run's id; null where no plan could be made."""
    folder: str | None = None
    """The run's folder, below that of the sweep."""
    state: Literal["done", "failed", "todo"]
    """What became of it."""
    kept: bool = False
    """Whether it was done before this sweep began."""
    scores: dict[str, Score] = Field(default_factory=dict)
    """Headline scores with intervals, those under the worst attack too where any was tried."""
    per_seed: list[SeedScores] = Field(default_factory=list)
    """The scores of each seed alone."""
    compute: Compute | None = None
    """What it cost."""
    device: str | None = None
    """Device in words."""
    error: str | None = None
    """One sentence, where it failed."""


class SweepRecord(BaseModel):
    """A sweep and what became of each of its runs."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, populate_by_name=True)
    schema_: Literal["unbench.sweep/1"] = Field(default="unbench.sweep/1", alias="schema")
    """Schema and version of this file."""
    spec: SweepSpec
    """What was asked for."""
    runs: list[SweepRun]
    """Every run, in the order of the grid."""

    def public(self) -> dict[str, object]:
        """As JSON, without a path of this machine."""
        body: dict[str, object] = self.model_dump(mode="json", by_alias=True)
        spec = self.spec.model_dump(mode="json")
        spec |= {"data_dir": None, "plugins": [Path(one).name for one in self.spec.plugins]}
        return {**body, "spec": spec}

    def write(self, place: Place) -> None:
        """Write ``sweep.json``; in a folder whole or not at all."""
        if place.is_url:
            place.write_json("sweep.json", self.public())
        else:
            write_json(Path(place.out) / "sweep.json", self.public())

    def count(self, state: str) -> int:
        return sum(run.state == state for run in self.runs)


def todo_run(cell: Cell) -> SweepRun:
    """A cell before anything happened."""
    if cell.plan is None:
        return SweepRun(method=cell.method, task=cell.task, model=cell.model, state="failed", error=cell.error)
    plan = cell.plan
    return SweepRun(
        method=cell.method, task=cell.task, model=cell.model, train=plan.train.kind, seeds=list(plan.seeds),
        run_id=plan.run_id, folder=plan.folder_name, state="todo",
    )  # fmt: skip


def fill(run: SweepRun, outcome: Outcome) -> None:
    """Enter what became of a run."""
    run.state, run.error = outcome.state, outcome.error
    run.scores, run.per_seed = outcome.scores, outcome.per_seed
    run.compute, run.device = outcome.compute, outcome.device
