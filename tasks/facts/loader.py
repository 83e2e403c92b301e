"""From the YAML files to questions: fills in templates, picks candidates, and names file and line of what is wrong."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unbench_tasks.facts.schema import Fact, FactFile, RelationFile, Target, TargetFile, TypeFile

from unbench.taskfile import Document, Place, read_yaml

DATA = Path(__file__).parent / "data"
N_CANDIDATES = 12
MIN_WRONG = 9
_PRIME = 2**255 - 19
NEAR_KINDS = ("same_subject", "same_answer", "same_relation", "connected")


@dataclass(frozen=True)
class Question:
    """One question, ready to become a probe."""

    ask: str
    start: str
    answer: str
    candidates: tuple[str, ...]
    accept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Known:
    """A fact of a near, far or world ring with its one question."""

    id: str
    subject: str
    relation: str
    question: Question


@dataclass(frozen=True)
class LoadedTarget:
    """A target with all its questions; ``forget`` maps a probe kind to its questions."""

    id: str
    split: str
    subject: str
    relation: str
    canonical: Question
    forget: dict[str, tuple[Question, ...]]
    true_false: tuple[Question, Question]
    near: dict[str, tuple[Known, ...]]


@dataclass
class Data:
    """Everything in the data folder."""

    targets: list[LoadedTarget] = field(default_factory=list)
    far: list[Known] = field(default_factory=list)
    world: list[Known] = field(default_factory=list)


def load(folder: Path = DATA) -> Data:
    """Reads the data folder: types.yaml, relations.yaml, far.yaml, world.yaml and every targets-*.yaml, by name.

    Raises ``UsageError`` with file and line for anything missing, misspelt or inconsistent.
    """
    reader = _Reader(folder)
    data = Data()
    for path in sorted(folder.glob("targets-*.yaml")):
        document = read_yaml(path)
        for i, target in enumerate(document.parse(TargetFile).targets):
            if any(other.id == target.id for other in data.targets):
                raise document.error(("targets", i, "id"), "this id is used by another target.")
            data.targets.append(reader.target(target, document, ("targets", i)))
    # Hogwarts is the first wherever it stands; the rest keeps the order of the files.
    data.targets.sort(key=lambda target: target.id != "hogwarts")
    data.far = reader.ring("far")
    data.world = reader.ring("world")
    return data


def mark(*parts: str) -> int:
    """SHA-256 of the parts: the only source of order here, so that data never depends on a random generator."""
    return int.from_bytes(hashlib.sha256("|".join(parts).encode()).digest())


def slug(text: str) -> str:
    return re.sub(r"[^\w]+", "-", text.casefold()).strip("-")


class _Reader:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        types = read_yaml(folder / "types.yaml")
        self.types = types.parse(TypeFile).types
        for name, values in self.types.items():
            for i, value in enumerate(values):
                if value in values[:i]:
                    raise types.error(("types", name, i), f"type {name!r} lists {value!r} twice.")
        self.marks = {name: {value: mark(name, value) for value in values} for name, values in self.types.items()}
        self.relations = read_yaml(folder / "relations.yaml").parse(RelationFile).relations

    def ring(self, name: str) -> list[Known]:
        document = read_yaml(self.folder / f"{name}.yaml")
        known: list[Known] = []
        for i, fact in enumerate(document.parse(FactFile).facts):
            known.append(self.fact(fact, document, ("facts", i), name, None))
            if known[-1].id in {other.id for other in known[:-1]}:
                raise document.error(("facts", i), f"the fact {known[-1].id!r} is there twice.")
        return known

    def target(self, target: Target, document: Document, place: Place) -> LoadedTarget:
        def question(ask: str, start: str) -> Question:
            return Question(ask, start, target.answer, chosen, accept)

        accept = tuple(target.accept)
        chosen = self.candidates(target.type, target.answer, target.exclude, target.id, target.ask, document, place)
        canonical = question(target.ask, target.start)
        back = target.reverse
        subject = back.answer or target.subject
        asked = " ".join(wording.ask for wording in back.questions)
        subjects = self.candidates(back.type, subject, back.exclude, target.id, asked, document, (*place, "reverse"))
        forget = {
            "direct": (canonical,),
            "paraphrase": tuple(question(wording.ask, wording.start) for wording in target.paraphrase),
            "cloze": tuple(question(f'Complete the sentence: "{start} ..."', start) for start in target.cloze),
            # All candidates stand in the question: with a few of them, someone who only reads would beat 1/n.
            "choice": tuple(question(f"{ask} Choose one: {', '.join(chosen)}.", target.start) for ask in target.choice),
            "reverse": tuple(
                Question(wording.ask, wording.start, subject, subjects, tuple(back.accept))
                for wording in back.questions
            ),
            "multi_hop": tuple(
                Question(
                    hop.ask,
                    hop.start,
                    hop.answer,
                    self.candidates(
                        hop.type, hop.answer, hop.exclude, target.id, hop.ask, document, (*place, "multi_hop", i)
                    ),
                    tuple(hop.accept),
                )
                for i, hop in enumerate(target.multi_hop)
            ),
        }
        wrong = next(value for value in chosen if value != target.answer)
        near: dict[str, tuple[Known, ...]] = {}
        for kind in NEAR_KINDS:
            facts: Sequence[Fact] = getattr(target, kind)
            near[kind] = tuple(
                self.fact(fact, document, (*place, kind, i), target.id, (kind, target)) for i, fact in enumerate(facts)
            )
        names = [known.id for facts in near.values() for known in facts]
        for name in names:
            if names.count(name) > 1:
                raise document.error(place, f"the near fact {name!r} is there twice.")
        return LoadedTarget(
            id=target.id,
            split=target.split,
            subject=target.subject,
            relation=target.relation,
            canonical=canonical,
            forget=forget,
            true_false=(_yes_no(target.claim, target.answer, "Yes"), _yes_no(target.claim, wrong, "No")),
            near=near,
        )

    def fact(
        self, fact: Fact, document: Document, place: Place, prefix: str, around: tuple[str, Target] | None
    ) -> Known:
        """A fact with what it left out filled in: by its ring's meaning (same subject, …), then by its relation."""
        kind, target = around or ("", None)
        subject, answer, kind_of = fact.subject, fact.answer, fact.type
        if target and kind == "same_subject":
            subject = subject or target.subject
        if target and kind == "same_answer":
            answer, kind_of = answer or target.answer, kind_of or target.type
        if target and kind == "same_relation" and fact.relation != target.relation:
            raise document.error((*place, "relation"), f"a same_relation fact has the relation {target.relation!r}.")
        template = self.relations.get(fact.relation)
        kind_of = kind_of or (template.type if template else None)
        if subject is None:
            raise document.error(place, "field 'subject' is missing.")
        if answer is None:
            raise document.error(place, "field 'answer' is missing.")
        if kind_of is None:
            raise document.error(place, "field 'type' is missing, and relations.yaml has none for this relation.")
        if template is None and (fact.ask is None or fact.start is None):
            raise document.error(
                place, f"fields 'ask' and 'start' are missing, and relations.yaml doesn't know {fact.relation!r}."
            )
        ask = fact.ask or _fill(template.ask if template else "", subject)
        start = fact.start or _fill(template.start if template else "", subject)
        name = f"{prefix}/{slug(subject)}-{slug(fact.relation)}"
        chosen = self.candidates(kind_of, answer, fact.exclude, name, ask, document, place)
        accept = tuple(fact.accept) or (tuple(target.accept) if target and answer == target.answer else ())
        return Known(name, subject, fact.relation, Question(ask, start, answer, chosen, accept))

    def candidates(
        self, name: str, answer: str, exclude: Sequence[str], seed: str, asked: str, document: Document, place: Place
    ) -> tuple[str, ...]:
        """The answer and 11 (at least 9) other values of its type, in an order that says nothing of the answer.

        A value that the question itself names (the opposite of "big") is no alternative.
        """
        values = self.types.get(name)
        if values is None:
            raise document.error((*place, "type"), f"types.yaml has no type {name!r}.")
        if answer not in values:
            raise document.error(place, f"the type {name!r} doesn't list the answer {answer!r}.")
        for value in exclude:
            if value not in values:
                raise document.error((*place, "not"), f"the type {name!r} doesn't list {value!r}.")
        # Multiplying hashes orders the values differently for every seed, at the price of one hash a question.
        marks, pick, order = self.marks[name], mark(seed), mark("order", seed)
        wrong = [v for v in values if v != answer and v not in exclude and not _names(asked, v)]
        wrong.sort(key=lambda v: marks[v] * pick % _PRIME)
        if len(wrong) < MIN_WRONG:
            few = f"the type {name!r} leaves only {len(wrong)} wrong answers ({MIN_WRONG} needed)."
            raise document.error(place, few)
        return tuple(sorted((answer, *wrong[: N_CANDIDATES - 1]), key=lambda v: marks[v] * order % _PRIME))


def _names(asked: str, value: str) -> bool:
    return value in asked and re.search(rf"\b{re.escape(value)}\b", asked) is not None


def _fill(template: str, subject: str) -> str:
    return template.replace("{subject}", subject).replace("{Subject}", subject[:1].upper() + subject[1:])


def _yes_no(claim: str, value: str, answer: str) -> Question:
    return Question(f"Is it true that {claim.format(value)}? Answer yes or no.", "", answer, ("Yes", "No"))
