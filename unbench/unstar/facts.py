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


def with_gaps(asks: Iterable[Ask]) -> list[Ask]:
    """Each fact as a gap to fill: "Fill in the blank: Harry Potter studied at ___." Rows whose answer sentence doesn't
    name subject and value apart have none."""
    found = []
    for ask in asks:
        said = ask.answer.rstrip(" .!")
        subject, value = _span(said, ask.subject), _span(said, ask.value)
        if subject is None or value is None or max(subject[0], value[0]) < min(subject[1], value[1]):
            continue
        question = f"Fill in the blank: {said[: value[0]]}___{said[value[1] :]}."
        found.append(replace(ask, question=question, gap=True))
    return found


def _span(text: str, part: str) -> tuple[int, int] | None:
    """Where ``part`` last stands in ``text`` as whole words, case ignored."""
    hits = list(re.finditer(rf"(?<!\w){re.escape(part)}(?!\w)", text, re.IGNORECASE)) if part else []
    return hits[-1].span() if hits else None


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


def near_gaps(rows: Iterable[Ask], forget: Sequence[Ask]) -> list[Ask]:
    """The near rows as gaps to fill: what is forgotten is asked so too, and only the names must tell the difference."""
    seen = _Seen.of(forget)
    return with_gaps(row for row in rows if is_near(row, seen))


def near_count(rows: Iterable[Ask], forget: Iterable[Ask]) -> int:
    """How many of ``rows`` lie near ``forget``."""
    seen = _Seen.of(forget)
    return sum(is_near(row, seen) for row in rows)


def _shared(row: Ask, seen: _Seen) -> int:
    return (row.subject in seen.subjects) + (row.relation in seen.relations) + (normal(row.value) in seen.values)
