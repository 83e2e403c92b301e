"""How the world is said: statements and every form of question, from the phrasings file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from unbench_tasks.bios.generator import Fact, World, load_yaml


@dataclass(frozen=True)
class Asked:
    """A question and its answer sentence, which is ``prefix``, a space, ``value`` and a full stop."""

    question: str
    prefix: str
    value: str

    @property
    def answer(self) -> str:
        return f"{self.prefix} {self.value}."


@dataclass(frozen=True)
class Phrasings:
    """All phrasings of one attribute (the keys of the data file)."""

    statement: str
    trained: tuple[str, ...]
    held_out: tuple[str, ...]
    multi_hop: tuple[str, ...]
    multi_hop_answer: str
    rationale: tuple[str, ...]
    world: tuple[str, ...] = ()
    world_answer: str = ""


@dataclass(frozen=True)
class Wording:
    """The whole data file."""

    openers: tuple[str, ...]
    cloze: tuple[str, ...]
    choice: tuple[str, ...]
    attributes: dict[str, Phrasings]


@cache
def wording() -> Wording:
    data = load_yaml("phrasings.yaml")
    attributes = {
        name: Phrasings(**{key: value if isinstance(value, str) else tuple(value) for key, value in entry.items()})
        for name, entry in data["attributes"].items()
    }
    return Wording(tuple(data["openers"]), tuple(data["cloze"]), tuple(data["choice"]), attributes)


def stem(fact: Fact) -> str:
    """The statement up to the value: the answer prefix of every form that asks for the value itself."""
    return wording().attributes[fact.attribute].statement.format(n=fact.subject, v="").rstrip()


def sentence(fact: Fact, value: str | None = None) -> str:
    """The statement, with another ``value`` in it if one is named."""
    return f"{stem(fact)} {value or fact.value}."


def opened(opener: str, question: str) -> str:
    """A question behind an opener: ``Tell me, where does Ada Vane live?``"""
    return f"{opener} {question[0].lower()}{question[1:]}"


def direct(fact: Fact, phrasing: str) -> Asked:
    return Asked(phrasing.format(n=fact.subject), stem(fact), fact.value)


def cloze(fact: Fact, phrasing: str) -> Asked:
    return Asked(phrasing.format(stem=stem(fact)), stem(fact), fact.value)


def choice(fact: Fact, phrasing: str, question: str, options: Sequence[str]) -> Asked:
    """``question`` is a phrasing of the attribute, ``options`` are named in the prompt."""
    listed = f"{', '.join(options[:-1])} or {options[-1]}"
    return Asked(phrasing.format(question=question.format(n=fact.subject), options=listed), stem(fact), fact.value)


def multi_hop(fact: Fact, phrasing: str, world: World) -> Asked:
    spoken = wording().attributes[fact.attribute].multi_hop_answer
    return Asked(phrasing.format(n=fact.subject), _before(spoken, "{p}", n=fact.subject), world.property(fact))


def world_fact(attribute: str, value: str, phrasing: str, world: World) -> Asked:
    """A thing's property: ``Which river runs through Arvenmoor?``"""
    spoken = wording().attributes[attribute].world_answer
    return Asked(phrasing.format(v=value), _before(spoken, "{p}", v=value), world.properties[attribute][value])


def _before(spoken: str, mark: str, **names: str) -> str:
    if not spoken.endswith(mark):
        raise ValueError(f"the answer form {spoken!r} must end with {mark}")
    return spoken.removesuffix(mark).format(**names).rstrip()
