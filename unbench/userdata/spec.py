"""The task file: what ``my.yaml`` may say. These models are its schema, its checks and the text of the docs."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A task's name becomes a folder's name."""
NAME_RULE = "letters, digits, '-', '_' and '.', at most 64, the first a letter or a digit"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)

Format = Literal["csv", "tsv", "jsonl", "json", "parquet"]
Column = Annotated[str | None, Field(min_length=1)]


class Source(BaseModel):
    """Where rows lie: a file beside the task file, or a data set of the hub. Column names default to the field's."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    data: str | None = Field(None, min_length=1, description="file, from the task file's folder")
    format: Format | None = Field(None, description="csv, tsv, jsonl, json or parquet; default: by the file's ending")
    delimiter: str | None = Field(None, description="what stands between the cells of a CSV file; default: a comma")
    separator: str = Field(
        "|", min_length=1, description="what stands between the entries of a cell that is a list; default: a bar"
    )
    hub: str | None = Field(None, description="id of a hub data set, owner/name")
    config: str | None = Field(None, min_length=1, description="configuration of the hub data set")
    split: str | None = Field(None, min_length=1, description="split of the hub data set; default: train")
    revision: str | None = Field(None, min_length=1, description="commit or tag of the hub data set")

    question: Column = Field(None, description="column of the question (wanted)")
    answer: Column = Field(None, description="column of the answer, a whole sentence (wanted)")
    fact: Column = Field(None, description="column of the fact's id; rows of one fact share it")
    subject: Column = Field(None, description="column of whom or what the fact is about: the unit of intervals")
    value: Column = Field(None, description="column of the words of the answer that carry the fact")
    aliases: Column = Field(None, description="column of other names of the value that count as right (a list)")
    candidates: Column = Field(None, description="column of all possible answers, the right one among them (a list)")
    perturbed: Column = Field(None, description="column of wrong answers, whole sentences (a list)")
    paraphrased_answer: Column = Field(None, description="column of the right answer in other words")

    @field_validator("hub")
    @classmethod
    def _hub_id(cls, hub: str | None) -> str | None:
        if hub is not None and not _HUB_ID.fullmatch(hub):
            raise ValueError(f"{hub!r} is not the id of a data set, which looks like owner/name")
        return hub

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, delimiter: str | None) -> str | None:
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n\0'):
            raise ValueError('the delimiter is one character, such as ";" or "\\t"')
        return delimiter

    @model_validator(mode="after")
    def _file_or_hub(self) -> Source:
        if (self.data is None) == (self.hub is None):
            raise ValueError("it names its rows by data: (a file) or by hub: (a data set), one of the two")
        idle = [name for name in ("config", "split", "revision") if getattr(self, name) is not None]
        if self.hub is None and idle:
            raise ValueError(f"{idle[0]} belongs to a hub data set, and the rows come from a file")
        idle = [name for name in ("format", "delimiter") if getattr(self, name) is not None]
        if self.hub is not None and idle:
            raise ValueError(f"{idle[0]} belongs to a file, and the rows come from the hub")
        return self


class RowSource(Source):
    """Rows of a forget, retain, withheld or holdout set."""

    relation: Column = Field(None, description="column of the attribute that is asked for")
    paraphrases: Column = Field(
        None, description="column of the question in other words (a list); asked of forget rows"
    )


class ProbeSource(Source):
    """Probes: questions that no method ever sees."""

    id: Column = Field(None, description="column of the probe's id")
    ring: Column = Field(None, description="column of forget, near, far, world or holdout; default: forget")
    kind: Column = Field(
        None, description="column of the form (forget: direct, cloze …) or relation (near) of the probe"
    )
    cluster: Column = Field(None, description="column of the forgotten subject that a near probe lies around")
    given: Column = Field(None, description="column of whether methods are given the fact; checked against the rows")
    pair: Column = Field(None, description="column of the id shared by the true and the false form of a yes_no probe")


def _shorthand(value: Any) -> Any:
    """``forget: forget.csv`` stands for ``forget: {data: forget.csv}``."""
    if isinstance(value, str) and value.strip():
        return {"data": value}
    if not isinstance(value, dict):
        raise ValueError("it is a file's name, or a mapping with data: or hub: and column names")
    return value


Rows = Annotated[RowSource, BeforeValidator(_shorthand)]
Probes = Annotated[ProbeSource, BeforeValidator(_shorthand)]


class Selection(BaseModel):
    """The sets of the tuning split; what it doesn't name is the report split's."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    forget: Rows = Field(
        description="rows to forget while tuning; none of them may be in the report split's forget set"
    )
    retain: Rows | None = Field(None, description="rows to keep")
    withheld: Rows | None = Field(None, description="rows to keep that no method is given")
    probes: Probes | None = Field(None, description="probes")


class TaskSpec(BaseModel):
    """A task of one's own, ``unbench run --task my.yaml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(description="name of the task; results stand under user/NAME")
    version: str = Field("1", description="version of the data, in quotes; default: 1")
    description: str = Field("", description="one sentence for readers")
    model: str = Field(
        "smollm2", min_length=1, description="the model a run takes when none is named; default: smollm2"
    )
    target: Literal["given", "trained"] = Field(
        "given",
        description="given (default): forget what the model knows by itself; trained: train it on all rows first",
    )
    knowledge: Literal["auto", "candidates", "probability"] = Field(
        "auto", description="how knowledge is read: candidates, probability, or auto (default), which picks"
    )
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="longest greedy answer in tokens; default: twice the longest answer, at most 256",
    )
    withhold: Literal["half", "none"] | None = Field(
        None, description="half (default): every second retain fact is never given to a method; none: all are given"
    )
    far_probes: int = Field(400, ge=0, description="most far probes that are made from rows; default: 400")
    forget: Rows = Field(description="rows to forget")
    retain: Rows = Field(description="rows to keep, which methods are given")
    withheld: Rows | None = Field(None, description="rows to keep that no method is given; instead of withhold")
    holdout: Rows | None = Field(None, description="rows like the forget rows that the model was never trained on")
    probes: Probes | None = Field(None, description="further probes")
    select: Selection | None = Field(None, description="the sets of the tuning split")

    @field_validator("name")
    @classmethod
    def _safe_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} can't name a folder; a name has {NAME_RULE}")
        return name

    @field_validator("version", mode="before")
    @classmethod
    def _version(cls, version: Any) -> Any:
        if isinstance(version, int) and not isinstance(version, bool):
            return str(version)
        if not isinstance(version, str) or not NAME.fullmatch(version):
            raise ValueError('a version is short text in quotes, such as "1" or "2.1"')
        return version
