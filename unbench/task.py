"""All that a task author imports: ``Task``, ``Probe``, ``Row`` and what they are made of.

A *task* is a forgetting problem. It hands a method two sets of rows (forget, retain) and the harness a list of probes
that no method ever sees. The words are those of the design: ring, kind, given, withheld, holdout.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Ring = Literal["forget", "near", "far", "world", "holdout"]
"""``holdout`` (never trained on) is asked for membership inference only; no score of UnBench's own reads it."""
Split = Literal["select", "report"]
Knowledge = Literal["candidates", "probability"]


class Message(BaseModel):
    """One chat turn."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    role: Literal["system", "user", "assistant"] = Field(description="who speaks")
    content: str = Field(min_length=1, description="plain text, no template")


class Row(BaseModel):
    """One question and answer of a forget, retain, withheld or holdout set (what methods and training see)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    question: str = Field(min_length=1, description="the user turn")
    answer: str = Field(min_length=1, description="the assistant turn, a whole sentence")
    fact: str = Field(min_length=1, description="id of the fact it states")
    subject: str = Field(min_length=1, description="whom or what the fact is about")
    relation: str = Field("", description="attribute or relation of the fact; empty where the data has none")
    value: str = Field("", description="the span of the answer that carries the fact; empty where unknown")
    aliases: tuple[str, ...] = Field((), description="other names of the value that count as the right answer")


class Probe(BaseModel):
    """One question with its right answer, its wrong alternatives and its ring."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str = Field(min_length=1, description="unique within the task, stable over versions of the code")
    ring: Ring = Field(description="how far from what is forgotten")
    kind: str = Field(min_length=1, description="form (forget: direct, cloze …) or relation (near: same_subject …)")
    subject: str = Field(min_length=1, description="whom or what the asked fact is about")
    cluster: str = Field(min_length=1, description="unit of resampling: forgotten subject (forget, near), else own")
    fact: str = Field(min_length=1, description="id of the fact asked for")
    messages: tuple[Message, ...] = Field(min_length=1, description="the prompt as chat turns, the last one the user's")
    answer_prefix: str = Field("", description="words the answer starts with, up to where the candidates differ")
    answer: str = Field(min_length=1, description="the right candidate")
    candidates: tuple[str, ...] = Field(min_length=1, description="all candidates, the right one among them")
    accept: tuple[str, ...] = Field((), description="other spellings that count as right in a greedy answer")
    given: bool = Field(False, description="whether methods are given this fact (near, far); withheld facts are scored")
    pair: str | None = Field(None, description="probes of one pair (true and false form) are averaged before anything")
    paraphrased: str | None = Field(
        None, description="the candidate that is the right answer in other words; the truth ratio reads it"
    )
    generate: bool = Field(True, description="whether a greedy answer is wanted; false where only its score is read")

    @property
    def question(self) -> str:
        """The last user turn."""
        return next(message.content for message in reversed(self.messages) if message.role == "user")

    @model_validator(mode="after")
    def _answer_among_candidates(self) -> Probe:
        if self.answer not in self.candidates:
            raise ValueError(f"probe {self.id}: the answer {self.answer!r} is not among its candidates")
        if len(set(self.candidates)) != len(self.candidates):
            raise ValueError(f"probe {self.id}: a candidate is listed twice")
        if self.paraphrased is not None and self.paraphrased not in self.candidates:
            raise ValueError(f"probe {self.id}: the paraphrased answer is not among its candidates")
        return self


@dataclass(frozen=True)
class TaskData:
    """The rows of a task. Training set of the target = forget + retain + withheld; holdout is never trained on."""

    forget: tuple[Row, ...]
    retain: tuple[Row, ...]
    withheld: tuple[Row, ...] = ()
    holdout: tuple[Row, ...] = ()


@dataclass(frozen=True)
class TaskCard:
    """What a reader wants to know of a task; shown by ``unbench tasks`` and ``unbench cite``."""

    title: str
    summary: str
    bibtex: str
    licence: str
    paper: str | None = None
    problems: dict[str, str] = field(default_factory=dict)


class Task(ABC):
    """One problem of a task family, for one split: ``Bios("fact", split="report")`` is ``bios/fact``.

    A family is registered under the entry-point group ``unbench.tasks``; its class is called with a problem name (or
    None for the default) and a split, and raises ``UsageError`` for a problem or split it doesn't have.
    """

    family: ClassVar[str]
    """Name of the family, the part before the slash."""
    version: ClassVar[str]
    """Version of the data and probes; results of different versions never share a table."""
    card: ClassVar[TaskCard]
    default_problem: ClassVar[str]
    default_model: ClassVar[str] = "nano"
    """The model a run takes when none is named."""
    knowledge: ClassVar[Knowledge] = "candidates"
    target: ClassVar[Literal["trained", "given"]] = "trained"
    """``trained``: the target is a model trained on the task's rows. ``given``: the model's own knowledge is forgotten,
    there is no reference, and facts that it doesn't know are left out and counted."""
    max_new_tokens: ClassVar[int] = 32
    """Longest greedy answer, in tokens of the model, prompt not counted."""

    takes_data_dir: ClassVar[bool] = False
    """Whether the rows may lie in a folder of the user's (``--data-dir``)."""
    path: Path | None = None
    """The file that describes the task, where it is a user's own."""
    sources: dict[str, str]
    """SHA-256 of every data file that was read, by name; empty where the rows come with the package."""

    def __init__(self, problem: str | None = None, split: Split = "report", data_dir: Path | None = None) -> None:
        self.problem = problem or self.default_problem
        self.split: Split = split
        self.data_dir = data_dir
        self.sources = {}

    @property
    def id(self) -> str:
        return f"{self.family}/{self.problem}"

    @abstractmethod
    def data(self) -> TaskData:
        """Rows for methods and training."""

    @abstractmethod
    def probes(self) -> Sequence[Probe]:
        """All probes, in a fixed order."""

    @cached_property
    def hash(self) -> str:
        """SHA-256 over version, split, every row and every probe, as canonical JSON."""
        data = self.data()
        body = {
            "id": self.id,
            "version": self.version,
            "split": self.split,
            "knowledge": self.knowledge,
            "rows": {
                name: [row.model_dump(mode="json") for row in getattr(data, name)]
                for name in ("forget", "retain", "withheld", "holdout")
            },
            "probes": [_frozen(probe) for probe in self.probes()],
        }
        return hashlib.sha256(canonical_json(body).encode()).hexdigest()


def _frozen(probe: Probe) -> dict[str, object]:
    """A probe as it enters the hash: fields that came later are left out at rest, so that older tasks keep theirs."""
    body: dict[str, object] = probe.model_dump(mode="json")
    for name in ("paraphrased", "generate"):
        if body[name] == Probe.model_fields[name].default:
            del body[name]
    return body


def canonical_json(value: object) -> str:
    """Sorted keys, no spaces, UTF-8 kept, NaN refused: equal objects give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
