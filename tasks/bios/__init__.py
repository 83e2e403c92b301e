"""``bios``: synthetic biographies of fictitious people, and three grains of what is to be forgotten of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import cached_property
from typing import cast

from unbench_tasks.bios.forms import direct, wording
from unbench_tasks.bios.generator import PROBLEMS, SPLITS, Fact, Problem, SplitName, world
from unbench_tasks.bios.probes import make_probes

from unbench.errors import UsageError
from unbench.task import Probe, Row, Split, Task, TaskCard, TaskData

__all__ = ["Bios", "Fact"]


class Bios(Task):
    """One problem of ``bios``: ``Bios("fact", split="report")``.

    Raises ``UsageError`` for a problem other than fact, relation and person, or a split other than select and report.
    """

    family = "bios"
    version = "1"
    default_problem = "fact"
    card = TaskCard(
        title="Bios: forgetting facts of fictitious people",
        summary=(
            "A closed world of 156 fictitious people with 8 facts each, which a small model learns completely; a "
            "method must take out a few facts and leave all that lies around them."
        ),
        bibtex=(
            "@misc{unbench_bios,\n"
            "  title  = {Bios: synthetic biographies for targeted unlearning},\n"
            "  author = {{The UnBench authors}},\n"
            "  year   = {2026},\n"
            "  note   = {Task family bios, version 1, of UnBench}\n"
            "}"
        ),
        licence="Apache-2.0",
        problems={
            "fact": "30 facts of 30 people, scattered over all attributes",
            "relation": "one attribute of 30 people, hardest for its neighbours",
            "person": "everything about 8 people",
        },
    )

    def __init__(self, problem: str | None = None, split: Split = "report") -> None:
        super().__init__(problem, split)
        _known("problem", self.problem, PROBLEMS)
        _known("split", self.split, SPLITS)

    @staticmethod
    def forgotten_facts() -> dict[tuple[Problem, SplitName], tuple[Fact, ...]]:
        """What each of the six forget sets consists of; no reference is trained on any of them."""
        return dict(world().forgotten)

    def data(self) -> TaskData:
        return self._data

    def probes(self) -> Sequence[Probe]:
        return self._probes

    @cached_property
    def _data(self) -> TaskData:
        w = world()
        return TaskData(
            forget=_rows(w.forgotten[cast(Problem, self.problem), self.split]),
            retain=_rows(fact for fact in w.kept if fact in w.given),
            withheld=_rows(fact for fact in w.kept if fact not in w.given),
            holdout=_rows(fact for name in w.groups["holdout"] for fact in w.facts(name)),
        )

    @cached_property
    def _probes(self) -> tuple[Probe, ...]:
        return make_probes(world(), cast(Problem, self.problem), self.split)


def _rows(facts: Iterable[Fact]) -> tuple[Row, ...]:
    rows = []
    for fact in facts:
        asked = direct(fact, wording().attributes[fact.attribute].trained[0])
        rows.append(
            Row(
                question=asked.question,
                answer=asked.answer,
                fact=fact.id,
                subject=fact.subject,
                relation=fact.attribute,
                value=fact.value,
            )
        )
    return tuple(rows)


def _known(what: str, name: str, known: Sequence[str]) -> None:
    if name in known:
        return
    close = get_close_matches(name, known, 1)
    hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known)}."
    raise UsageError(f"bios has no {what} {name!r}.", hint)
