"""TOFU's lines as rows and probes, and which questions ``tofu/fact`` forgets, gives and withholds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from unbench_tasks.tofu.files import RawRow

from unbench.task import Message, Probe, Ring, Row

PER_AUTHOR = 20
"""Questions of one author; they stand one after another in every file."""


@dataclass(frozen=True)
class Item:
    """One line of a file, with the names TOFU doesn't give it."""

    raw: RawRow
    fact: str
    """Id of the fact, from the line's place in ``full`` (or in ``holdout10``): a question may occur twice."""
    subject: str
    name: str
    """What probe ids end with."""

    @property
    def row(self) -> Row:
        return Row(question=self.raw["question"], answer=self.raw["answer"], fact=self.fact, subject=self.subject)


def authors(rows: Sequence[RawRow], first: int = 0) -> list[Item]:
    """Lines ``first``, ``first + 1``, … of ``full``; the subject is the author, a block of 20 lines."""
    return [
        Item(raw, f"tofu/{i}", f"author-{i // PER_AUTHOR:03d}", f"{i // PER_AUTHOR:03d}-{i % PER_AUTHOR:02d}")
        for i, raw in enumerate(rows, first)
    ]


def strangers(rows: Sequence[RawRow]) -> list[Item]:
    """Lines of a holdout file: authors whom no model was told about."""
    found = authors(rows)
    return [Item(i.raw, f"tofu/holdout/{n}", f"holdout-{i.subject}", i.name) for n, i in enumerate(found)]


def world(rows: Sequence[RawRow], kind: str) -> list[Item]:
    """Questions on the real world, each its own subject."""
    return [Item(raw, f"tofu/{kind}/{i}", f"{kind}-{i:03d}", f"{i:03d}") for i, raw in enumerate(rows)]


def places(items: Iterable[Item]) -> dict[str, int]:
    """Fact -> place (from 0) of its question among its author's, in the order of their SHA-256 in hexadecimal."""
    found = {}
    for _, block in groupby(items, key=lambda item: item.subject):
        for place, item in enumerate(sorted(block, key=_digest)):
            found[item.fact] = place
    return found


def _digest(item: Item) -> str:
    return hashlib.sha256(item.raw["question"].encode()).hexdigest()


def probe(item: Item, ring: Ring, kind: str, given: bool = False) -> Probe:
    """A line as a probe; candidates are the answer, the same in other words (if there is one) and the wrong answers.

    ``paraphrase`` asks the reworded question. A holdout answer is only scored: nothing reads what a model writes there.
    """
    raw = item.raw
    reworded = raw.get("paraphrased_answer")
    candidates = [raw["answer"], *([reworded] if reworded else []), *raw.get("perturbed_answer", ())]
    question = raw["paraphrased_question"] if kind == "paraphrase" else raw["question"]
    return Probe(
        id=f"{ring}/{item.name}" if ring == kind else f"{ring}/{kind}/{item.name}",
        ring=ring,
        kind=kind,
        subject=item.subject,
        cluster=item.subject,
        fact=item.fact,
        messages=(Message(role="user", content=question),),
        answer=raw["answer"],
        candidates=tuple(dict.fromkeys(candidates)),
        paraphrased=reworded,
        given=given,
        generate=ring != "holdout",
    )
