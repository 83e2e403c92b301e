"""Everything that a model wrote for its own unlearning, as JSON lines: read, write, show."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unbench.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

FILE_NAME = "anti_samples.jsonl"
Role = Literal["forget", "retain"]
Stage = Literal["paraphrase", "wrong_answer", "rationale", "anti_sample"]


class AntiSample(BaseModel):
    """One generated text, or (stage ``anti_sample``) what was put together from them and trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    round: int = Field(ge=0, description="round it was written in; 0 is before the first")
    role: Role = Field(description="forget: a wrong answer is taught; retain: the right one is kept")
    stage: Stage = Field(description="which generated text this line is about, or the anti-sample as trained")
    fact: str = Field(description="id of the fact")
    question: str = Field(description="the row's own question")
    paraphrase: str | None = Field(default=None, description="the question as the model put it")
    wrong_answer: str | None = Field(default=None, description="wrong answer (retain: the right one)")
    rationale: str | None = Field(default=None, description="why the answer should hold, in the model's words")
    completion: str | None = Field(default=None, description="what is trained: answer sentence, then rationale")
    temperature: float | None = Field(default=None, description="sampling temperature of the generated text")
    times: int = Field(default=1, ge=1, description="how often the same text was written")
    kept: bool = Field(description="whether it was used")
    reason: str | None = Field(default=None, description="why it was dropped, or kept without rationale")

    @property
    def text(self) -> str | None:
        """The generated text that this line is about."""
        if self.stage == "anti_sample":
            return self.completion
        texts = {"paraphrase": self.paraphrase, "wrong_answer": self.wrong_answer, "rationale": self.rationale}
        return texts[self.stage]


def write(path: Path, records: Iterable[AntiSample]) -> None:
    """Replaces the file whole, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.part")
    with fresh.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(record.model_dump_json(exclude_none=True) + "\n")
    os.replace(fresh, path)


def read(path: Path) -> list[AntiSample]:
    """All lines; raises ``UsageError`` naming file and line where one can't be read."""
    if path.is_dir():
        path = path / FILE_NAME
    try:
        text = _unpacked(path) if path.suffix == ".gz" else path.read_text(encoding="utf-8")
    except FileNotFoundError:
        problem = f"{path}: there are no anti-samples here."
        raise UsageError(problem, "Only a run made with `--method unstar` has them.") from None
    except (OSError, UnicodeDecodeError) as broken:
        raise UsageError(f"{path}: the anti-samples can't be read ({broken}).") from None
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                found.append(AntiSample.model_validate_json(line))
            except ValidationError as broken:
                what = broken.errors(include_url=False)[0]["msg"]
                raise UsageError(f"{path}, line {number}: not an anti-sample ({what}).") from None
    return found


def _unpacked(path: Path) -> str:
    """What a submission's packed file holds."""
    from unbench.submissions.strict import Refused, read_file, unpack

    try:
        return unpack(read_file(path)).decode("utf-8")
    except Refused as why:
        raise UsageError(f"{path} {why}.") from None


def reasons(records: Iterable[AntiSample]) -> dict[str, dict[str, int]]:
    """For each stage how many texts were kept and how many dropped for which reason."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        if record.stage != "anti_sample":
            what = "usable" if record.kept else (record.reason or "dropped")
            counts.setdefault(record.stage, Counter())[what] += record.times
    return {stage: dict(count.most_common()) for stage, count in counts.items()}


def render(records: Iterable[AntiSample], console: Console, *, dropped: int = 3) -> None:
    """Per fact a block, what was trained on first, then the wrong answers and up to ``dropped`` dropped texts; at the
    end how many texts were dropped for which reason."""
    everything = list(records)
    by_fact: dict[tuple[str, str], list[AntiSample]] = {}
    for record in everything:
        by_fact.setdefault((record.role, record.fact), []).append(record)
    for (role, fact), lines in sorted(by_fact.items(), key=lambda item: item[0][0] == "retain"):
        console.print()
        _say(console, (fact, "bold"), (f" ({role})", "dim"), f" {lines[0].question}")
        for line in (line for line in lines if line.stage == "anti_sample"):
            _say(console, (f"  round {line.round}", "dim"), f" {line.paraphrase or line.question}")
            without = f" ({line.reason})" if line.reason else ""
            _say(console, ("    →", "green"), f" {line.completion or ''}", (without, "yellow"))
        _render_written(lines, console, dropped)
    console.print()
    for stage, counts in reasons(everything).items():
        parts = ", ".join(f"{what} {number}" for what, number in counts.items())
        _say(console, (stage.replace("_", " "), "bold"), f": {parts}")


def _render_written(lines: list[AntiSample], console: Console, dropped: int) -> None:
    answers = [line for line in lines if line.stage == "wrong_answer" and line.kept]
    if answers:
        said = ", ".join(f"{line.wrong_answer} ×{line.times}" for line in answers)
        _say(console, ("  wrong answers:", "dim"), f" {said}")
    bad = [line for line in lines if line.stage != "anti_sample" and not line.kept]
    for line in bad[:dropped]:
        text = " ".join((line.text or "").split())
        _say(console, ("  ✗", "red"), (f" {text} ({line.reason or ''})", "dim"))
    if len(bad) > dropped:
        _say(console, (f"  and {len(bad) - dropped} more dropped", "dim"))


def _say(console: Console, *parts: str | tuple[str, str]) -> None:
    """Print texts, each plain or with a style: a model's words are never read as markup or obeyed by a terminal."""
    from rich.text import Text

    from unbench.cli.output import clean

    pairs = (part if isinstance(part, tuple) else (part, "") for part in parts)
    console.print(Text.assemble(*((clean(text), style) for text, style in pairs)), highlight=False)
