"""What the YAML files of ``facts`` may say. Field names are short because they are written a thousand times."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    # Strict: a bare 1945 in YAML is a number, and candidates must be text; say so instead of converting in silence.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=False)


class Wording(Strict):
    """One way to ask: the question, and the words the answer starts with up to where the candidates differ."""

    ask: str = Field(min_length=1)
    start: str = Field(min_length=1)


class Relation(Wording):
    """A relation with a question template; ``{subject}`` as written, ``{Subject}`` with a capital first letter."""

    type: str = Field(min_length=1, description="the answers' type, a list in types.yaml")


class Fact(Strict):
    """A near, far or world fact. Whatever is left out comes from the relation's template or from the target."""

    relation: str = Field(min_length=1)
    subject: str | None = Field(None, min_length=1)
    answer: str | None = Field(None, min_length=1)
    ask: str | None = Field(None, min_length=1)
    start: str | None = Field(None, min_length=1)
    type: str | None = Field(None, min_length=1)
    exclude: list[str] = Field([], alias="not", description="values of the type that would be right as well")
    accept: list[str] = Field([], description="other spellings of the answer")


class OtherQuestion(Wording):
    """A question around the target whose answer is not the target's object (multi-hop)."""

    answer: str = Field(min_length=1)
    type: str = Field(min_length=1)
    exclude: list[str] = Field([], alias="not")
    accept: list[str] = Field([])


class Reverse(Strict):
    """Questions from the object back to the subject."""

    type: str = Field(min_length=1)
    answer: str | None = Field(None, description="the subject as it stands in the type's list, where that differs")
    exclude: list[str] = Field([], alias="not")
    accept: list[str] = Field([])
    questions: list[Wording] = Field(min_length=1)


class Target(Strict):
    """One fact to forget with every question around it."""

    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    split: Literal["select", "report"]
    subject: str = Field(min_length=1)
    relation: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    type: str = Field(min_length=1)
    exclude: list[str] = Field([], alias="not")
    accept: list[str] = Field([])
    ask: str = Field(min_length=1)
    start: str = Field(min_length=1)
    claim: str = Field(description="for true and false: 'Harry Potter studied at {}'", pattern=r"\{\}")
    paraphrase: list[Wording] = Field(min_length=1)
    cloze: list[str] = Field(min_length=1, description="sentences that break off before the answer")
    choice: list[str] = Field(min_length=1, description="questions; the loader adds the candidates")
    reverse: Reverse
    multi_hop: list[OtherQuestion] = Field(min_length=1)
    same_subject: list[Fact]
    same_answer: list[Fact]
    same_relation: list[Fact]
    connected: list[Fact] = Field([])


class TargetFile(Strict):
    targets: list[Target] = Field(min_length=1)


class FactFile(Strict):
    facts: list[Fact] = Field(min_length=1)


class TypeFile(Strict):
    types: dict[str, list[str]]


class RelationFile(Strict):
    relations: dict[str, Relation]
