"""``submission.json``: one pydantic model, published with the site as a JSON Schema (unbench.submission/1)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from unbench.results.schema import Count, Result, Score

SUBMISSION_SCHEMA = "unbench.submission/1"
DIGITS = 6
"""Decimals of every score in a submission; compared exactly."""
SCORED = ("scores", "per_seed", "metrics", "groups", "interval", "attacks", "worst")
"""Fields of the result that are computed from the rows."""
NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,63})"
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{7,64}$")]
Link = Annotated[str, Field(pattern=r"^https://[^\s\"'<>`\\]+$", max_length=500)]
Line = Annotated[str, Field(max_length=500)]
Text = Annotated[str, Field(max_length=5000)]


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, populate_by_name=True, strict=True
    )


class SubmittedMethod(_Model):
    """The method, in its author's words."""

    name: str = Field(pattern=rf"^{NAME}:{NAME}$")
    """Qualified name, distribution:method."""
    version: Line
    """Version of the distribution; empty where the method is one file."""
    source: Hash
    """SHA-256 over its source."""
    title: Line
    """Name in full."""
    kind: Line
    """What sort of method it is; control for a control."""
    summary: Text = ""
    """What it does, in a sentence or two."""
    paper: Line | None = None
    """Where it was published: an arXiv number, a DOI or a link."""
    year: int | None = None
    """Year of the paper."""
    licence: Line = ""
    """Licence of its code."""
    bibtex: Text = ""
    """How to cite it."""


class Weights(_Model):
    """Where the unlearned weights are published."""

    url: Link
    """Their address."""
    revision: Line = ""
    """Commit or tag there."""
    sha256: dict[str, Hash] = Field(default_factory=dict)
    """Hash of the weights of each seed, as UnBench takes it."""


class Tuning(_Model):
    """How the settings were chosen."""

    trials: Count
    """Settings that were tried."""
    split: Literal["select"] = "select"
    """Forget set that they were scored on."""
    budget_tokens: Count | None = None
    """Most tokens a trial could train and generate."""
    space: dict[str, list[Any]] = Field(default_factory=dict)
    """Choices by setting."""


class Yardstick(_Model):
    """What target and references answered, by hash (``tasks.lock.json``)."""

    task_hash: Hash
    """Over the task's rows and probes."""
    model_hash: Hash
    """Over the target's weight and tokenizer files."""
    responses: Hash
    """SHA-256 over their answers."""
    attacks: dict[str, Hash] = Field(default_factory=dict)
    """The same of what each attack found on them, by qualified name."""


class LeftOut(_Model):
    """A score as rank sets need it (``unbench.metrics.ranks``)."""

    left_out: dict[str, float]
    """Cluster -> the score without it; a cluster that is not named changes nothing."""
    others: list[str] = Field(default_factory=list)
    """Clusters among them that are no forgotten subject: a stratum of their own."""
    by_seed: list[float]
    """The score of each seed."""


class Submission(_Model):
    """One run, as it stands on the leaderboard."""

    schema_: Literal["unbench.submission/1"] = Field(default="unbench.submission/1", alias="schema")
    """Schema and version of this file."""
    result: Result
    """The run. Its scores are those of the rows, rounded to 6 decimals."""
    ranking: dict[str, LeftOut] = Field(default_factory=dict)
    """overall and, where the run was attacked, overall_worst, without each cluster and by seed; from the rows too."""
    claimed: dict[str, Score] = Field(default_factory=dict)
    """Metrics that the rows don't give (lm-eval's): taken on trust, shown apart."""
    method: SubmittedMethod
    """The method."""
    yardstick: Yardstick
    """What the run is held against."""
    files: dict[str, Hash]
    """SHA-256 of every other file of the submission, by name."""
    weights: Weights | None = None
    """Published weights; null where there are none."""
    tuning: Tuning | None = None
    """How the settings were chosen; null where nothing was tuned or nobody says."""
    command: Text
    """The command that repeats the run."""
    submitter: Line
    """Who submits it."""
    supersedes: str | None = Field(default=None, pattern=r"^[0-9a-f]{12}$")
    """Run-id of an older submission whose place this one takes."""
    retracted: Text | None = None
    """Why it was taken back; null where it stands."""


class Verified(_Model):
    """``leaderboard/verifications/<run-id>.json``: what a maintainer found."""

    schema_: Literal["unbench.verification/1"] = Field(default="unbench.verification/1", alias="schema")
    """Schema and version of this file."""
    run_id: str = Field(pattern=r"^[0-9a-f]{12}$")
    """The run."""
    submission: Hash
    """SHA-256 over the submission.json that was verified; another one has no badge."""
    badge: Literal["re-evaluated", "reproduced", "refuted"]
    """What was done: the published weights asked again, the run made again; refuted where the numbers disagree."""
    seeds: list[int] = Field(min_length=1)
    """Seeds that were done again."""
    scores: dict[str, Score]
    """The scores that were found."""
    claimed: dict[str, Score]
    """The submission's own over the same seeds."""
    code: dict[str, Any] = Field(default_factory=dict)
    """UnBench's commit and versions."""
    device: Line = ""
    """Device in words."""
    verified_utc: Line
    """When."""


if __name__ == "__main__":
    import json

    print(json.dumps(Submission.model_json_schema(by_alias=True), indent=1, ensure_ascii=False))
