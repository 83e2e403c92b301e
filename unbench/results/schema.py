"""The result: one pydantic model feeds ``result.json``, ``--json``, the docs and the leaderboard (unbench.result/1)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from unbench.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

RESULT_SCHEMA = "unbench.result/1"
Count = Annotated[int, Field(ge=0, le=2**63)]
"""A number of things, small enough for a float to hold and for a table to show."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Score(_Model):
    """One number with its interval."""

    value: float | None
    """The estimate; null with a reason where it can't be had."""
    low: float | None = None
    """Lower end of the 95 % interval (jackknife-t); null with a reason in ``reason``."""
    high: float | None = None
    """Upper end of the 95 % interval."""
    n: Count = 0
    """Probes that entered."""
    reason: str | None = None
    """Why the value or the interval is null, or what was left out."""


class Group(_Model):
    """Knowledge and rank of one group of probes (a ring, a kind, given or withheld), means over probes and seeds."""

    ring: str
    """forget, near, far or world."""
    kind: str
    """Probe kind (forget), near ring, or the ring's own name."""
    given: bool
    """Whether the methods were given these facts."""
    n: Count
    """Probes counted."""
    n_unknown: Count = 0
    """Probes left out because the target doesn't know them (only where the target is given)."""
    known_unlearned: float | None
    """Mean κ (or p(a|q)) of the unlearned model, over seeds."""
    known_target: float | None
    """Mean κ of the target."""
    known_reference: float | None
    """Mean κ of the references; null without one."""
    rank_unlearned: float | None = None
    """Mean rank of the right answer among the wrong ones: 0 known, about 0.5 a stranger."""
    rank_target: float | None = None
    """The same of the target."""
    rank_reference: float | None = None
    """The same of the references."""
    recall_unlearned: float | None = None
    """Share of greedy answers that hold the right answer, unlearned model."""
    recall_target: float | None = None
    """The same of the target."""
    counted: bool = True
    """Whether the group enters the scores."""
    reason: str | None = None
    """Why it doesn't."""


class SeedScores(_Model):
    """The scores of one seed alone."""

    seed: int
    """Seed of the method."""
    forget: float | None
    """forget of this seed."""
    trace: float | None
    """trace of this seed."""
    retain: float | None
    """retain of this seed."""
    specificity: float | None
    """specificity of this seed."""
    overall: float | None
    """overall of this seed."""


class Scores(_Model):
    """UnBench's own scores, each in [0, 1], higher is better (see docs/metrics)."""

    forget: Score
    """How much of what the target knew beyond a reference is gone, mean over the forget probe kinds."""
    trace: Score
    """How much the ranking of the candidates looks like that of a model that never knew."""
    retain: Score
    """How much of the far and world knowledge is left, times the share of fluent answers."""
    specificity: Score
    """How much of the near knowledge (same subject, same answer, same relation, connected) is left."""
    overall: Score
    """Harmonic mean of forget, retain and specificity."""


class Measured(_Model):
    """What the measure step hands to the record step."""

    scores: Scores
    """The headline scores."""
    per_seed: list[SeedScores]
    """The same of each seed alone."""
    metrics: dict[str, Score]
    """Further metrics by name (selectivity, recall, given scores …)."""
    groups: list[Group]
    """Every group of probes, counted or not."""
    interval: str = "jackknife-t"
    """How the intervals were made."""


class AttackPoint(_Model):
    """One point of an attack's curve: what is given away at one strength."""

    series: str = ""
    """Curve that the point belongs to, where the attack has several (a learning rate, a prompt)."""
    strength: float
    """Place on the curve: training steps, rows, samples, shots …"""
    counted: bool = True
    """Whether the point may enter forget_worst."""
    known_unlearned: float
    """Mean over kinds and seeds of what the unlearned model gives away (κ, p(a|q), or the attack's own measure)."""
    known_reference: float | None = None
    """The same of a model that never knew, under the same attack."""
    known_target: float | None = None
    """The same of the target under the same attack, where it is carried out on it."""
    excess: Score
    """What is given away beyond the attacked reference."""
    forget: Score
    """forget under the attack: 1 where nothing beyond the reference comes back."""


class AttackResult(_Model):
    """What one attack got back."""

    name: str
    """Qualified name, distribution:attack."""
    kind: str
    """weights, prompt, decoding or internal."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Settings of the attack."""
    points: list[AttackPoint] = Field(default_factory=list)
    """Its curve."""
    worst: Count | None = None
    """Number (from 0) of the point with the least forget among those whose excess lies clear of 0; null where none
    does."""
    forget: Score
    """forget at that point; 1 where nothing was got back beyond the reference; null with a reason where the attack
    could not be carried out."""
    reason: str | None = None
    """Why it could not be carried out, or against what it was held."""
    wall_s: float = 0.0
    """Wall seconds on the unlearned models, summed over seeds."""
    method_hash: str = ""
    """SHA-256 over the source file of the attack."""
    notes: dict[str, Any] = Field(default_factory=dict)
    """What the attack wants a reader to know, by model."""


class Worst(_Model):
    """The scores under the worst that was tried."""

    forget_worst: Score
    """The least of forget, trace and forget under every attack that got something back for certain."""
    overall_worst: Score
    """Harmonic mean of forget_worst, retain and specificity."""
    unattacked: AttackPoint | None = None
    """The same probes asked by nobody's attack: what every excess is to be held against."""
    by: str
    """What gave it: forget, trace, or an attack with the point of its curve."""
    attacks: list[str]
    """Attacks that were tried, by qualified name: the attack budget."""


class Compute(_Model):
    """What the run cost."""

    wall_s: float
    """Wall seconds of all steps and seeds."""
    prepare_s: float
    """Wall seconds of the prepare step (target and references; near 0 when cached)."""
    unlearn_s: float
    """Wall seconds of the unlearn steps, summed over seeds."""
    respond_s: float
    """Wall seconds of the respond steps, summed over seeds."""
    measure_s: float
    """Wall seconds of the measure step."""
    peak_memory_bytes: Count
    """Highest resident memory of the process (CPU) or allocated device memory (GPU); vLLM's own is not counted."""
    tokens_trained: Count
    """Tokens sent forward and backward by the method, summed over seeds."""
    tokens_generated: Count
    """Tokens generated by the method, summed over seeds."""
    trainable_parameters: Count
    """Parameters that the method could change."""
    tokens_per_s: float | None = None
    """Tokens generated a second, by the method and for the answers; null where none were."""
    generation_share: float | None = None
    """Share of the wall time in which text was generated; null where it was not counted."""
    scoring_share: float | None = None
    """Share of the wall time in which answers were scored."""
    training_share: float | None = None
    """Share of the wall time in which weights were trained."""
    engine_starts: Count = 0
    """How often vLLM was started in the process that wrote the result."""


class Hashes(_Model):
    """SHA-256 of what went in."""

    task: str
    """Over the task's version, rows and probes."""
    model: str
    """Over the target's weight and tokenizer files; empty where no target is known."""
    method: str
    """Over the source file of the method."""
    references: list[str] = Field(default_factory=list)
    """Over each reference's weight and tokenizer files, or over the responses of those that ship with UnBench."""
    data: dict[str, str] = Field(default_factory=dict)
    """Over each data file of the task, by name; empty where the rows come with the package."""
    unlearned: dict[str, str] = Field(default_factory=dict)
    """Over the weights each seed's method handed back, by seed; empty where none were written."""


class Code(_Model):
    """Which UnBench made the result."""

    commit: str | None = None
    """Commit of the checkout that it ran from; null where it was installed without one."""
    dirty: bool | None = None
    """Whether tracked files differed from that commit; null where nobody could say."""


class Result(_Model):
    """One run, one or more seeds."""

    schema_: Literal["unbench.result/1"] = Field(default="unbench.result/1", alias="schema")
    """Schema and version of this file."""
    run_id: str
    """First 12 hex digits of the SHA-256 of the plan without seeds and machine fields."""
    method: str
    """Qualified name, distribution:method."""
    task: str
    """task/problem."""
    split: str
    """Forget set scored: report, or select while tuning."""
    model: str
    """Model name, hub id or folder name."""
    seeds: list[int] = Field(min_length=1)
    """Seeds of the method."""
    scores: Scores
    """Headline scores with intervals."""
    per_seed: list[SeedScores]
    """The scores of each seed alone."""
    metrics: dict[str, Score]
    """Further metrics."""
    groups: list[Group]
    """Knowledge and rank by ring and kind."""
    interval: str
    """Name of the interval's method."""
    attacks: list[AttackResult] = Field(default_factory=list)
    """What each attack got back; empty where none was tried."""
    worst: Worst | None = None
    """The scores under the worst of them; null where none was tried."""
    compute: Compute
    """Time, memory, tokens."""
    plan: dict[str, Any]
    """The resolved plan."""
    hashes: Hashes
    """What went in."""
    versions: dict[str, str]
    """Python, unbench and the packages that bear on the numbers."""
    code: Code = Field(default_factory=Code)
    """The commit of UnBench that wrote the result."""
    device: str
    """Device in words."""
    dtype: str
    """Number format of the weights while the run was made."""
    created_utc: str
    """When the result was written."""
    notes: dict[str, Any] = Field(default_factory=dict)
    """What the method or harness wants a reader to know, by seed."""
    dir: str = ""
    """Run folder (filled when a result is read or printed; empty in the stored file)."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, populate_by_name=True)
    _probes: Any = PrivateAttr(None)

    @property
    def table(self) -> pd.DataFrame:
        """The scores as a frame: one row a score with value, low, high, n, reason."""
        import pandas as pd

        rows = {name: getattr(self.scores, name).model_dump() for name in Scores.model_fields}
        return pd.DataFrame.from_dict(rows, orient="index")

    @property
    def probes(self) -> pd.DataFrame:
        """One row a probe: ring, kind, fact, what the target, the references and each seed know of it, and the greedy
        texts. Read from the run folder where the result has one; raises ``UsageError`` where its file is missing or
        broken."""
        if self._probes is None:
            self._probes = _submitted_probes(Path(self.dir))
        if self._probes is None:
            self._probes = _read_probes(Path(self.dir) / "probes.parquet", self.seeds)
        frame: pd.DataFrame = self._probes
        return frame

    def keep_probes(self, frame: pd.DataFrame) -> None:
        """Give a result without a folder its probes."""
        self._probes = frame

    def summary(self) -> dict[str, Any]:
        """The object that ``--json`` prints: this result with its folder."""
        body: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        return body


def _submitted_probes(folder: Path) -> pd.DataFrame | None:
    """The same of a submission, from its rows; None where the folder is none."""
    if not (folder / "submission.json").is_file():
        return None
    from unbench.submissions.files import leaderboard_of
    from unbench.submissions.read import probe_table, read_submission

    return probe_table(folder, read_submission(folder)[1], leaderboard_of(folder))


def _read_probes(path: Path, seeds: list[int]) -> pd.DataFrame:
    import pandas as pd

    again = "Give the run's command again with --resume, or get the whole run folder."
    if not path.is_file():
        raise UsageError(f"There is no {path}, which holds the probes.", again)
    try:
        frame = pd.read_parquet(path)
    except Exception as problem:
        # pyarrow has an error of its own for every way in which a file can be damaged.
        raise UsageError(f"{path} is damaged ({type(problem).__name__}).", again) from problem
    after = [f"{what}_seed_{seed}" for seed in seeds for what in ("known", "text")]
    for name in ("ring", "kind", "question", "known_target", "text_target", *after):
        if name not in frame.columns:
            raise UsageError(f"{path} has no column {name!r}, so it doesn't belong to its result.json.", again)
        if name.startswith("known_") and not pd.api.types.is_float_dtype(frame[name]):
            raise UsageError(f"{path} has no numbers in its column {name!r}.", again)
    return frame


if __name__ == "__main__":
    import json

    print(json.dumps(Result.model_json_schema(by_alias=True), indent=1, ensure_ascii=False))
