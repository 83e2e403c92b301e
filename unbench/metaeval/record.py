"""The result of a meta-evaluation: one pydantic model feeds ``metaeval.json``, ``--json`` and the page
(unbench.metaeval/1)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unbench.errors import UsageError
from unbench.metaeval.settings import Settings
from unbench.results.schema import Score

FILE = "metaeval.json"
UNCHANGED = "the method changes no weights"
"""Reason of an unlearned model that can't be attacked."""
Verdict = Literal["holds", "fails", "not told apart", "no value"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class PoolEntry(_Model):
    """One model of a pool."""

    name: str
    """Its name, also of its folder."""
    side: Literal["knows", "does_not"]
    """P or N."""
    variety: str
    """What it was made of."""
    base: str
    """Shipped weights that it started from."""
    seed: int
    """Seed of its training."""
    lr: float
    """Learning rate; 0 where nothing was trained."""
    steps: int
    """Optimiser steps; 0 where nothing was trained."""
    learnt: float | None
    """Share of its rows that it reproduces word for word; null where nothing was trained."""
    reason: str | None = None
    """Why it does not count."""
    values: dict[str, float | None]
    """Every metric, larger = knows more."""


class UnlearnedEntry(_Model):
    """One unlearned model, or the retrained control."""

    name: str
    """Its name."""
    method: str
    """Qualified name of the method; the control's is retrain."""
    run_id: str | None = None
    """The run that made it."""
    seed: int
    """Seed of the method; of relearning too."""
    control: bool = False
    """Whether it is the retrained control."""
    retain: float | None = None
    """Its retain; null for the control and where the run failed."""
    reason: str | None = None
    """Why robustness does not count it."""
    before: dict[str, float | None] = Field(default_factory=dict)
    """Every metric of the model as it is."""
    relearnt: dict[str, float | None] = Field(default_factory=dict)
    """Every metric after relearning the forget set."""
    quantised: dict[str, float | None] = Field(default_factory=dict)
    """Every metric after quantisation; empty for the control."""


class Judged(_Model):
    """What is found of one metric."""

    name: str
    """Its name in the registry (unbench.metaeval.measures)."""
    title: str
    """Its name for a reader."""
    source: str
    """Paper, or UnBench."""
    score: str | None
    """UnBench's score that it enters; null where it enters none."""
    faithfulness: Score
    """F: ROC AUC of P against N; n counts models."""
    threshold: float | None
    """Above it a model counts as knowing: the cut of highest accuracy."""
    accuracy: float | None
    """Share of pool models that the threshold gets right."""
    passes: bool
    """The gate: F's interval ends no lower than the floor."""
    retrained: float | None = None
    """Change of the retrained control by relearning."""
    models: list[str] = Field(default_factory=list)
    """Unlearned models that keep retain and that the metric calls forgotten: R and Q are means over them."""
    relearning: Score
    """R = min(Δretrained / Δunlearned, 1)."""
    quantisation: Score
    """Q = min(before / after, 1)."""
    overall: Score
    """HM(F, HM(R, Q))."""
    relearning_symmetric: Score
    """R = 1 - |Δu - Δr| / (|Δu| + |Δr|)."""
    quantisation_symmetric: Score
    """Q = 1 - |a - b| / (|a| + |b|)."""
    overall_symmetric: Score
    """HM(F, HM(R, Q)) of the symmetric forms."""


class Ordering(_Model):
    """Two metrics in the order that was published for TOFU."""

    higher: str
    """The metric with the higher published Overall."""
    lower: str
    """The other one."""
    published: tuple[float, float]
    """Their published values."""
    symmetric: bool
    """Whether the symmetric form is compared (where the logit lens is one of them)."""
    difference: Score
    """Overall of the first less that of the second on our pools."""
    verdict: Verdict
    """holds, fails: the interval lies on one side of 0."""
    faithfulness: Score
    """F of the first less that of the second."""
    verdict_faithfulness: Verdict
    """The same of F alone."""


class Gate(_Model):
    """Which scores may enter ``overall``."""

    floor: float
    """Least lower end of F's interval."""
    passed: list[str]
    """Metrics that pass."""
    failed: list[str]
    """Metrics that don't."""
    scores: dict[str, bool]
    """UnBench's own scores: whether what enters them (the mean over kinds, as scored) passes."""


class MetaEval(_Model):
    """A whole meta-evaluation."""

    model_config = ConfigDict(populate_by_name=True)
    schema_: Literal["unbench.metaeval/1"] = Field(default="unbench.metaeval/1", alias="schema")
    """Schema and version of this file."""
    version: str
    """Version of UnBench."""
    task: str
    """task/problem whose facts are known or not."""
    task_hash: str
    """SHA-256 over its rows and probes."""
    model: str = "nano"
    """The model family of the pools: findings are controlled."""
    settings: Settings
    """What it was made with."""
    interval: str = "F: Newcombe's score interval over models, widened where DeLong's variance is larger; others: \
jackknife-t over pool models and methods, where an F of 1 adds no width"
    """How the intervals were made."""
    measures: list[Judged]
    """Every metric: those with robustness of enough models for an interval first, by Overall."""
    orderings: list[Ordering]
    """Orderings published for TOFU."""
    gate: Gate
    """What may enter ``overall``."""
    pools: list[PoolEntry]
    """The models of both pools."""
    unlearned: list[UnlearnedEntry]
    """The unlearned models and the retrained control."""
    cpu_s: float
    """Seconds of CPU that making and asking took, over all processes."""

    @property
    def is_final(self) -> bool:
        """Whether every method was carried out: a failed one is tried again."""
        return all(entry.before or entry.reason == UNCHANGED for entry in self.unlearned)


def write(record: MetaEval, out: Path) -> Path:
    """``<out>/metaeval.json``, whole or not at all."""
    from unbench.results.store import write_json

    write_json(out / FILE, record.model_dump(mode="json", by_alias=True))
    return out / FILE


def read(out: Path) -> MetaEval | None:
    """What lies in a folder; None where nothing does. Raises ``UsageError`` for a file of another kind."""
    path = out / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as problem:
        raise UsageError(f"{path} can't be read.", "Name another folder: --out.") from problem
    try:
        return MetaEval.model_validate_json(text)
    except ValidationError as problem:
        raise UsageError(f"{path} is no meta-evaluation of this version.", "Remove it, or name another --out.") from (
            problem
        )
