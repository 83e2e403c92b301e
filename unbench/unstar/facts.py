"""The rows as UnSTAR sees them: facts with their questions, and the retain rows that lie near or far."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from unbench.unstar.config import RetainMix
from unbench.unstar.words import normal


@dataclass(frozen=True)
class Ask:
    """One row: a question about a fact and the target's own answer sentence."""

    fact: str
    question: str
    answer: str
    subject: str = ""
    relation: str = ""
    value: str = ""
    aliases: tuple[str, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Other values of the same relation that the rows hold, normal form → spelling: none is a misspelling of the right
    one, a rationale that names one contradicts its answer, and a wrong answer among them is surely of the right type.
    """

    gap: bool = False
    """The question is a sentence with a gap, which no one asks in other words."""
    back: bool = False
    """The fact the other way round: the question names the value and asks for the subject."""

    @property
    def right(self) -> tuple[str, ...]:
        """Everything that counts as the right answer; the whole answer where the value is unknown."""
        return (self.value, *self.aliases) if self.value else (self.answer, *self.aliases)

    @property
    def key(self) -> tuple[str, str]:
        """Rows with one key share one wrong answer: a fact may also be asked backwards, for another value."""
        return self.fact, normal(self.value or self.answer)


_TEXTS = ("fact", "question", "answer", "subject", "relation", "value")


def asks_of(rows: Iterable[Mapping[str, Any]], candidates: Mapping[str, Mapping[str, str]]) -> list[Ask]:
    """Rows of a Dataset; a column that is missing or None is empty."""
    found = []
    for row in rows:
        text: dict[str, Any] = {name: str(row.get(name) or "") for name in _TEXTS}
        aliases = tuple(str(alias) for alias in row.get("aliases") or ())
        own = {normal(name) for name in (text["value"], *aliases)}
        values = candidates.get(text["relation"], {})
        others = {name: spelling for name, spelling in values.items() if name not in own}
        found.append(Ask(**text, aliases=aliases, others=others))
    return found


def candidates_of(*sets: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Values of each relation, normal form → spelling."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for rows in sets:
        for row in rows:
            if row.get("relation") and row.get("value") and (name := normal(str(row["value"]))):
                found[str(row["relation"])].setdefault(name, str(row["value"]))
    return dict(found)


def other_forms(asks: Iterable[Ask]) -> list[Ask]:
    """Each fact in the forms that its answer sentence can be put into without a model: as a gap to fill, and the other
    way round, where the value is given and the subject is asked for. Rows whose answer doesn't name both have none.

    "Harry Potter studied at Hogwarts." gives "Fill in the blank: Harry Potter studied at ___.", "Fill in the blank: ___
    studied at Hogwarts." and "Who studied at Hogwarts?"; "The capital of Japan is Tokyo." gives "Tokyo is the capital
    of ___." and "Tokyo is the capital of what?". "Who" and "what" are both put; the model need not answer to both.
    """
    found = []
    for ask in asks:
        said = ask.answer.rstrip(" .!")
        subject, value = _span(said, ask.subject), _span(said, ask.value)
        if subject is None or value is None or max(subject[0], value[0]) < min(subject[1], value[1]):
            continue
        found.append(replace(ask, question=_gap(said, value), gap=True))
        head, copula, tail = said.partition(" is ")
        if copula and normal(tail) == normal(ask.value):
            said = f"{tail[:1].upper()}{tail[1:]} is {head[:1].lower()}{head[1:]}"
            subject = _span(said, ask.subject)
        if subject is None:
            continue
        back = replace(
            ask, answer=f"{said}.", subject=ask.value, relation="", value=ask.subject, aliases=(), others={}, back=True
        )
        found.append(replace(back, question=_gap(said, subject), gap=True))
        for word in ("who", "what"):
            text = f"{said[: subject[0]]}{word}{said[subject[1] :]}?"
            found.append(replace(back, question=f"{text[:1].upper()}{text[1:]}"))
    return found


def _span(text: str, part: str) -> tuple[int, int] | None:
    """Where ``part`` last stands in ``text`` as whole words, case ignored."""
    hits = list(re.finditer(rf"(?<!\w){re.escape(part)}(?!\w)", text, re.IGNORECASE)) if part else []
    return hits[-1].span() if hits else None


def _gap(said: str, place: tuple[int, int]) -> str:
    return f"Fill in the blank: {said[: place[0]]}___{said[place[1] :]}."


def group(asks: Iterable[Ask]) -> dict[tuple[str, str], list[Ask]]:
    """Rows by fact, in their order."""
    groups: dict[tuple[str, str], list[Ask]] = defaultdict(list)
    for ask in asks:
        groups[ask.key].append(ask)
    return dict(groups)


@dataclass(frozen=True)
class _Seen:
    subjects: frozenset[str]
    relations: frozenset[str]
    values: frozenset[str]

    @classmethod
    def of(cls, forget: Iterable[Ask]) -> _Seen:
        rows = list(forget)
        return cls(
            frozenset(row.subject for row in rows) - {""},
            frozenset(row.relation for row in rows) - {""},
            frozenset(normal(row.value) for row in rows) - {""},
        )


def is_near(row: Ask, forget: _Seen) -> bool:
    """Whether a retain row shares its subject, its value or its relation with a forgotten fact."""
    return row.subject in forget.subjects or row.relation in forget.relations or normal(row.value) in forget.values


def mix(retain: Sequence[Ask], forget: Sequence[Ask], how: RetainMix, number: int, seed: int) -> list[Ask]:
    """``number`` retain rows (fewer where there are fewer), near and far as ``how`` says. Among near rows those that
    share most with what is forgotten come first; ties and far rows are drawn by ``seed``."""
    if how == "none":
        return []
    rng = random.Random(f"unstar/retain/{seed}")
    seen = _Seen.of(forget)
    near = [row for row in retain if is_near(row, seen)]
    far = [row for row in retain if not is_near(row, seen)]
    rng.shuffle(near)
    rng.shuffle(far)
    near.sort(key=lambda row: -_shared(row, seen))
    if how == "near":
        chosen = near[:number]
    elif how == "far":
        chosen = far[:number]
    else:
        # Half of it the nearest, then far rows. Where there are too few (a forget set that covers every relation makes
        # every row near) any near row fills up: only the nearest would be "near" again.
        chosen = near[: number // 2]
        others = near[number // 2 :]
        rng.shuffle(others)
        chosen += [*far, *others][: number - len(chosen)]
    rng.shuffle(chosen)
    return chosen


def names_beside(retain: Iterable[Ask], forget: Sequence[Ask]) -> list[str]:
    """Proper names in the retain rows, as subject or value, that have nothing to do with what is forgotten: no row that
    names one shares subject, value or relation with it. In the order of the rows."""
    seen = _Seen.of(forget)
    near: set[str] = set()
    found: dict[str, str] = {}
    for row in retain:
        for name in (row.subject, row.value):
            if is_near(row, seen):
                near.add(normal(name))
            elif name[:1].isupper():
                found.setdefault(normal(name), name)
    return [name for key, name in found.items() if key not in near]


def near_forms(rows: Iterable[Ask], forget: Sequence[Ask]) -> list[Ask]:
    """The near rows with a gap to fill, forwards and backwards: what is forgotten is asked so too, and only the names
    must tell the difference."""
    seen = _Seen.of(forget)
    return [form for form in other_forms(row for row in rows if is_near(row, seen)) if form.gap]


def near_count(rows: Iterable[Ask], forget: Iterable[Ask]) -> int:
    """How many of ``rows`` lie near ``forget``."""
    seen = _Seen.of(forget)
    return sum(is_near(row, seen) for row in rows)


def _shared(row: Ask, seen: _Seen) -> int:
    return (row.subject in seen.subjects) + (row.relation in seen.relations) + (normal(row.value) in seen.values)
