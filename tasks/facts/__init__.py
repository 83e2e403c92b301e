"""``facts``: real, stable, undisputed knowledge of real models, one triple (subject, relation, object) at a time.

The target is the model as it is; what it doesn't know is left out by the harness. See README.md for the data.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import ClassVar, Literal, get_args

from unbench_tasks.facts.loader import NEAR_KINDS, Data, Known, LoadedTarget, Question, load, mark

from unbench.errors import UsageError
from unbench.task import Message, Probe, Row, Split, Task, TaskCard, TaskData

__all__ = ["Facts"]


class Facts(Task):
    """``Facts("hogwarts")`` forgets one fact, ``Facts("all", split)`` every fact of a split.

    Raises ``UsageError`` for an unknown problem or split, and for a tuning (select) target under ``report``.
    """

    family: ClassVar[str] = "facts"
    version: ClassVar[str] = "1"
    default_problem: ClassVar[str] = "hogwarts"
    default_model: ClassVar[str] = "smollm2"
    target: ClassVar[Literal["trained", "given"]] = "given"
    max_new_tokens: ClassVar[int] = 32
    card: ClassVar[TaskCard] = TaskCard(
        title="Facts: real knowledge, one fact at a time",
        summary=(
            "Forget one famous fact that a real language model holds (Harry Potter studied at Hogwarts), under every "
            "phrasing, and keep all that lies around it: other facts of the same subject, with the same answer, of the "
            "same relation."
        ),
        bibtex=(
            "@misc{unbench-facts,\n"
            "  title  = {Facts: fine-grained real-knowledge targets for LLM unlearning},\n"
            "  author = {{UnBench contributors}},\n"
            "  year   = {2026}\n"
            "}"
        ),
        licence="CC-BY-4.0",
        problems={
            "hogwarts": "Harry Potter studied at Hogwarts, and nothing else is forgotten",
            "all": "every target of the split in one run; any single target's id is a problem too",
        },
    )

    def __init__(self, problem: str | None = None, split: Split = "report") -> None:
        super().__init__(problem, split)
        if split not in get_args(Split):
            raise UsageError(f"facts has no split {split!r}.", "Use `select` (tuning) or `report` (results).")
        targets = {target.id: target for target in self._loaded.targets}
        if self.problem == "all":
            self._targets = [target for target in targets.values() if target.split == split]
            return
        if self.problem not in targets:
            close = difflib.get_close_matches(self.problem, ["all", *targets], n=1)
            hint = f"; did you mean 'facts/{close[0]}'?" if close else "."
            names = f"Problems for the split `{split}`: {', '.join(self.problems())}."
            raise UsageError(f"facts has no problem {self.problem!r}{hint}", names)
        chosen = targets[self.problem]
        if chosen.split == "select" and split == "report":
            raise UsageError(
                f"facts/{chosen.id} is a tuning target, no results are reported on it.",
                f"Use the split `select`, or one of: {', '.join(self.problems())}.",
            )
        self._targets = [chosen]

    @cached_property
    def _loaded(self) -> Data:
        return load()

    def problems(self) -> list[str]:
        """Names of the problems that this split has: ``all`` and targets' ids (report targets in both splits)."""
        return ["all", *(t.id for t in self._loaded.targets if self.split in (t.split, "select"))]

    def targets(self) -> list[LoadedTarget]:
        """The targets that this problem forgets."""
        return list(self._targets)

    def data(self) -> TaskData:
        kept = [*self._near(), *(("far", "", known, given) for known, given in self._far())]
        return TaskData(
            forget=tuple(_row(t.canonical, t.id, t.subject, t.relation) for t in self._targets),
            retain=tuple(_known_row(known) for _, _, known, given in kept if given),
            withheld=tuple(_known_row(known) for _, _, known, given in kept if not given),
        )

    def probes(self) -> Sequence[Probe]:
        return self._probes

    @cached_property
    def _probes(self) -> tuple[Probe, ...]:
        probes = [probe for target in self._targets for probe in _forget_probes(target)]
        probes += [_known_probe(known, "near", kind, cluster, given) for kind, cluster, known, given in self._near()]
        probes += [_known_probe(known, "far", "far", known.subject, given) for known, given in self._far()]
        probes += [_known_probe(known, "world", "world", known.subject, False) for known in self._loaded.world]
        return tuple(probes)

    def _near(self) -> Iterator[tuple[str, str, Known, bool]]:
        """(kind, cluster, fact, given) of every near fact that no target of this problem forgets."""
        for target in self._targets:
            for kind in NEAR_KINDS:
                for known, given in _halve(self._kept(target.near[kind])):
                    yield kind, target.subject, known, given

    def _far(self) -> list[tuple[Known, bool]]:
        return _halve(self._kept(self._loaded.far))

    def _kept(self, facts: Iterable[Known]) -> list[Known]:
        forgotten = {(t.subject.casefold(), t.relation.casefold()) for t in self._targets}
        return [known for known in facts if (known.subject.casefold(), known.relation.casefold()) not in forgotten]


def _halve(facts: list[Known]) -> list[tuple[Known, bool]]:
    """Every second fact in the order of their hashes is given to methods, the rest is withheld; file order stays.

    Of an odd number one more is withheld than given, as only withheld facts are scored.
    """
    given = {known.id for known in sorted(facts, key=lambda known: mark("given", known.id))[1::2]}
    return [(known, known.id in given) for known in facts]


def _forget_probes(target: LoadedTarget) -> Iterator[Probe]:
    for kind, questions in target.forget.items():
        for i, question in enumerate(questions, 1):
            yield _probe(question, f"{target.id}/{kind}/{i}", "forget", kind, target.subject, target.subject, target.id)
    for form, question in zip(("true", "false"), target.true_false, strict=True):
        name = f"{target.id}/yes_no/1"
        probe_id = f"{name}/{form}"
        yield _probe(question, probe_id, "forget", "yes_no", target.subject, target.subject, target.id, pair=name)


def _known_probe(known: Known, ring: Literal["near", "far", "world"], kind: str, cluster: str, given: bool) -> Probe:
    probe_id = f"{known.id.split('/')[0]}/{kind}/{known.id.split('/')[1]}" if ring == "near" else known.id
    return _probe(known.question, probe_id, ring, kind, known.subject, cluster, known.id, given)


def _probe(
    question: Question,
    probe_id: str,
    ring: Literal["forget", "near", "far", "world"],
    kind: str,
    subject: str,
    cluster: str,
    fact: str,
    given: bool = False,
    pair: str | None = None,
) -> Probe:
    return Probe(
        id=probe_id,
        ring=ring,
        kind=kind,
        subject=subject,
        cluster=cluster,
        fact=fact,
        messages=(Message(role="user", content=question.ask),),
        answer_prefix=question.start,
        answer=question.answer,
        candidates=question.candidates,
        accept=question.accept,
        given=given,
        pair=pair,
    )


def _known_row(known: Known) -> Row:
    return _row(known.question, known.id, known.subject, known.relation)


def _row(question: Question, fact: str, subject: str, relation: str) -> Row:
    return Row(
        question=question.ask,
        answer=f"{question.start} {question.answer}.",
        fact=fact,
        subject=subject,
        relation=relation,
        value=question.answer,
        aliases=question.accept,
    )
