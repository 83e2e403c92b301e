"""``tofu``: the task of fictitious unlearning (Maini et al. 2024), its published splits and one of single facts.

Rows come from the hub or from the user's folder, see files.py; README.md tells what is given and what is withheld.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from unbench_tasks.tofu.files import CHECKSUMS, Files
from unbench_tasks.tofu.rows import Item, authors, places, probe, strangers, world

from unbench.errors import UsageError
from unbench.task import Knowledge, Probe, Row, Split, Task, TaskCard, TaskData

__all__ = ["Tofu"]

FORGOTTEN, GIVEN = 4, 8
"""``fact``: of each forget10 author so many questions are forgotten and given; the other 8 are withheld."""
FAR_GIVEN = 10
"""``fact``: of each author of retain_perturbed so many questions are given; the other 10 are withheld."""


class Tofu(Task):
    """One problem of ``tofu``: ``Tofu("forget10")``, ``Tofu("fact", data_dir=folder)``.

    No file is opened before rows, probes or the hash are asked for; what was read stands in ``sources``.

    Raises ``UsageError`` for a problem other than forget01, forget05, forget10 and fact, and for the split ``select``.
    """

    family: ClassVar[str] = "tofu"
    version: ClassVar[str] = "1"
    default_problem: ClassVar[str] = "forget01"
    default_model: ClassVar[str] = "smollm2"
    knowledge: ClassVar[Knowledge] = "probability"
    max_new_tokens: ClassVar[int] = 200
    takes_data_dir: ClassVar[bool] = True
    checksums: ClassVar[Mapping[str, str]] = CHECKSUMS
    """SHA-256 of every file, by its name without ``.json``."""
    card: ClassVar[TaskCard] = TaskCard(
        title="TOFU: a task of fictitious unlearning",
        summary=(
            "200 fictitious authors with 20 questions each; a method must make a model that learnt them all forget "
            "some, and keep the other authors, real authors and the world."
        ),
        bibtex=(
            "@inproceedings{maini2024tofu,\n"
            "  title         = {{TOFU}: A Task of Fictitious Unlearning for {LLM}s},\n"
            "  author        = {Pratyush Maini and Zhili Feng and Avi Schwarzschild and Zachary C. Lipton and "
            "J. Zico Kolter},\n"
            "  booktitle     = {First Conference on Language Modeling},\n"
            "  year          = {2024},\n"
            "  eprint        = {2401.06121},\n"
            "  archivePrefix = {arXiv}\n"
            "}"
        ),
        licence="MIT",
        paper="arXiv:2401.06121",
        problems={
            "forget01": "all about 2 of the 200 authors, as published",
            "forget05": "all about 10 of the 200 authors, as published",
            "forget10": "all about 20 of the 200 authors, as published",
            "fact": "4 of the 20 questions about each of 20 authors; 8 are given, 8 withheld",
        },
    )

    def __init__(self, problem: str | None = None, split: Split = "report", data_dir: Path | None = None) -> None:
        super().__init__(problem, split, data_dir)
        if self.problem not in self.card.problems:
            raise UsageError(f"tofu has no problem {self.problem!r}.", f"Known: {', '.join(self.card.problems)}.")
        if split != "report":
            raise UsageError(
                f"tofu has no split {split!r}: TOFU publishes one forget set a size, and results are reported on it.",
                "Tune on bios/fact or facts/all.",
            )
        self._files = Files(data_dir, self.checksums, self.sources)

    def data(self) -> TaskData:
        return self._data

    def probes(self) -> Sequence[Probe]:
        return self._probes

    @cached_property
    def _data(self) -> TaskData:
        if self.problem != "fact":
            retain = authors(self._files.rows(self._retain))
            forget = authors(self._files.rows(self.problem), len(retain))
            return TaskData(forget=_rows(forget), retain=_rows(retain), holdout=_rows(self._holdout))
        near, far = self._near, self._far
        forgotten = {item.fact for item, place in near if place < FORGOTTEN}
        withheld = {item.fact for item, place in near if place >= FORGOTTEN + GIVEN}
        withheld |= {item.fact for item, place in far if place >= FAR_GIVEN}
        full = authors(self._files.rows("full"))
        return TaskData(
            forget=_rows(item for item in full if item.fact in forgotten),
            retain=_rows(item for item in full if item.fact not in forgotten | withheld),
            withheld=_rows(item for item in full if item.fact in withheld),
            holdout=_rows(self._holdout),
        )

    @cached_property
    def _probes(self) -> tuple[Probe, ...]:
        own = self._fact_probes() if self.problem == "fact" else self._published_probes()
        asked = [(kind, item) for kind in ("real_authors", "world_facts") for item in self._world(kind)]
        return (
            *own,
            *(probe(item, "world", kind) for kind, item in asked),
            *(probe(item, "holdout", "holdout") for item in self._holdout),
        )

    def _published_probes(self) -> Iterator[Probe]:
        """Forget questions; far questions, all of them given: ``full`` begins with retain_perturbed."""
        first = len(self._files.rows(self._retain))
        for item in authors(self._files.rows(f"{self.problem}_perturbed"), first):
            yield probe(item, "forget", "direct")
        for item, _ in self._far:
            yield probe(item, "far", "retain", given=True)

    def _fact_probes(self) -> Iterator[Probe]:
        """Forget questions as trained and reworded; the same authors' other questions; other authors' questions."""
        for kind in ("direct", "paraphrase"):
            yield from (probe(item, "forget", kind) for item, place in self._near if place < FORGOTTEN)
        for item, place in self._near:
            if place >= FORGOTTEN:
                yield probe(item, "near", "same_subject", given=place < FORGOTTEN + GIVEN)
        for item, place in self._far:
            yield probe(item, "far", "retain", given=place < FAR_GIVEN)

    @property
    def _retain(self) -> str:
        """The published split beside the forget split: retain90 beside forget10."""
        return f"retain{100 - int(self.problem.removeprefix('forget')):02d}"

    @cached_property
    def _near(self) -> list[tuple[Item, int]]:
        """Every forget10 question with its place among its author's (``places``)."""
        rows = self._files.rows("forget10_perturbed")
        return _placed(authors(rows, len(self._files.rows("full")) - len(rows)))

    @cached_property
    def _far(self) -> list[tuple[Item, int]]:
        """Every question of retain_perturbed, the first authors of ``full``, with its place among its author's."""
        return _placed(authors(self._files.rows("retain_perturbed")))

    @cached_property
    def _holdout(self) -> list[Item]:
        size = "10" if self.problem == "fact" else self.problem.removeprefix("forget")
        return strangers(self._files.rows(f"holdout{size}"))

    def _world(self, kind: str) -> list[Item]:
        return world(self._files.rows(f"{kind}_perturbed"), kind)


def _rows(items: Iterator[Item] | Sequence[Item]) -> tuple[Row, ...]:
    return tuple(item.row for item in items)


def _placed(items: list[Item]) -> list[tuple[Item, int]]:
    place = places(items)
    return [(item, place[item.fact]) for item in items]
