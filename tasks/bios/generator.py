"""The world of ``bios``: who exists, what is true of them, what is forgotten, given and withheld.

Everything follows from one fixed seed and the two data files; nothing here depends on a model. The world is a table of
people by attributes. Values are drawn balanced within each group of people and independently of one another, so that a
model that never saw a fact has nothing to guess it by (the one exception is documented at ``_draw_values``).
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any, Literal

import yaml

Problem = Literal["fact", "relation", "person"]
SplitName = Literal["select", "report"]
PROBLEMS: tuple[Problem, ...] = ("fact", "relation", "person")
SPLITS: tuple[SplitName, ...] = ("select", "report")

SEED = "bios/1"
PEOPLE_OF_PROBLEM: dict[Problem, int] = {"fact": 30, "relation": 30, "person": 8}
NOTABLES, HOLDOUT, BACKGROUND = 20, 8, 160
THINGS = ("city", "university", "profession", "instrument", "dish")
PERSONS = ("mentor", "employer", "friend")
ATTRIBUTES = THINGS + PERSONS
FORGOTTEN_RELATION: dict[SplitName, str] = {"select": "instrument", "report": "university"}
"""The one attribute that ``bios/relation`` forgets."""


@dataclass(frozen=True, order=True)
class Fact:
    """One cell of the table: ``subject``'s ``attribute`` is ``value``."""

    subject: str
    attribute: str
    value: str

    @property
    def id(self) -> str:
        return f"{slug(self.subject)}/{self.attribute}"


def slug(name: str) -> str:
    """A name as part of an id: ``Ada Vane`` is ``ada_vane``."""
    return name.lower().replace(" ", "_")


@dataclass(frozen=True)
class World:
    """The table and everything that is decided once for all problems and splits."""

    groups: dict[str, tuple[str, ...]]
    """Names by group: ``notables``, ``holdout``, ``background`` and ``<problem>/<split>``."""
    table: dict[str, dict[str, str]]
    """name -> attribute -> value."""
    values: dict[str, tuple[str, ...]]
    """All values of an attribute, in the order in which every probe lists them."""
    properties: dict[str, dict[str, str]]
    """attribute -> value -> its property (a person's is the city where that notable lives)."""
    forgotten: dict[tuple[Problem, SplitName], tuple[Fact, ...]]
    first_names: tuple[str, ...]
    last_names: tuple[str, ...]

    def fact(self, subject: str, attribute: str) -> Fact:
        return Fact(subject, attribute, self.table[subject][attribute])

    def facts(self, subject: str) -> tuple[Fact, ...]:
        return tuple(self.fact(subject, attribute) for attribute in ATTRIBUTES)

    def property(self, fact: Fact) -> str:
        return self.properties[fact.attribute][fact.value]

    def property_values(self, attribute: str) -> tuple[str, ...]:
        """All properties that values of ``attribute`` have, in a fixed order."""
        return tuple(sorted(self.properties[attribute].values()))

    @cached_property
    def evaluated(self) -> tuple[str, ...]:
        """Everybody whose facts the target learns and probes ask for: all problems' people and the notables."""
        names = [name for group in self.groups if "/" in group for name in self.groups[group]]
        return (*names, *self.groups["notables"])

    @cached_property
    def all_forgotten(self) -> frozenset[Fact]:
        return frozenset(fact for facts in self.forgotten.values() for fact in facts)

    @cached_property
    def kept(self) -> tuple[Fact, ...]:
        """The evaluated people's facts that no problem forgets."""
        every = (fact for name in self.evaluated for fact in self.facts(name))
        return tuple(fact for fact in every if fact not in self.all_forgotten)

    @cached_property
    def given(self) -> frozenset[Fact]:
        """The half of ``kept`` that methods are given; the other half is withheld."""
        return frozenset(_half(self.kept))


def load_yaml(name: str) -> dict[str, Any]:
    """One of the data files beside this module."""
    loaded: dict[str, Any] = yaml.safe_load(files("unbench_tasks.bios").joinpath(name).read_text(encoding="utf-8"))
    return loaded


@cache
def world() -> World:
    """The one world of this version."""
    data = load_yaml("world.yaml")
    rng = random.Random(SEED)
    first = tuple(data["first_names"])
    last = tuple(stem + end for stem in data["last_name_stems"] for end in data["last_name_endings"])
    groups = _draw_names(rng, first, last)
    things = {attribute: tuple(sorted(data[attribute])) for attribute in THINGS}
    values = {**things, **{attribute: tuple(sorted(groups["notables"])) for attribute in PERSONS}}
    table = _draw_values(rng, groups, values)
    lives_in = {name: table[name]["city"] for name in groups["notables"]}
    properties = {**{attribute: dict(data[attribute]) for attribute in THINGS}, **dict.fromkeys(PERSONS, lives_in)}
    return World(groups, table, values, properties, _draw_forgotten(rng, groups, table), first, last)


def _draw_names(rng: random.Random, first: tuple[str, ...], last: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Evaluated and holdout people have a last name of their own; first names recur. Background people use the same
    words in other pairs, so no single word tells who is evaluated."""
    sizes = {"notables": NOTABLES}
    sizes |= {f"{problem}/{split}": PEOPLE_OF_PROBLEM[problem] for problem in PROBLEMS for split in SPLITS}
    sizes["holdout"] = HOLDOUT
    lasts = rng.sample(last, sum(sizes.values()))
    firsts: list[str] = []
    while len(firsts) < len(lasts):
        firsts += rng.sample(first, len(first))  # the first round gives each notable a first name of its own
    names = [f"{a} {b}" for a, b in zip(firsts, lasts, strict=False)]
    groups, start = {}, 0
    for group, size in sizes.items():
        groups[group] = tuple(names[start : start + size])
        start += size
    taken = set(names)
    background: list[str] = []
    while len(background) < BACKGROUND:
        name = f"{rng.choice(first)} {rng.choice(last)}"
        if name not in taken:
            taken.add(name)
            background.append(name)
    groups["background"] = tuple(background)
    return groups


def _draw_values(
    rng: random.Random, groups: dict[str, tuple[str, ...]], values: dict[str, tuple[str, ...]]
) -> dict[str, dict[str, str]]:
    """Values balanced within each group: each occurs equally often, give or take one.

    Three rules bind a row, so that every sentence says one thing: mentor, employer and best friend are three notables,
    none of them oneself, and none living in one's own city (else a two-hop answer would equal a one-hop one). Knowing a
    person's other facts therefore leaves at worst 17 of 20 notables possible.
    """
    table: dict[str, dict[str, str]] = {}
    for group, names in groups.items():
        columns = {attribute: _balanced(rng, values[attribute], len(names)) for attribute in ATTRIBUTES}
        rows = [{attribute: columns[attribute][i] for attribute in ATTRIBUTES} for i in range(len(names))]
        lives_in = {name: table[name]["city"] for name in groups["notables"]} if group != "notables" else {}
        if not lives_in:
            lives_in = {name: row["city"] for name, row in zip(names, rows, strict=True)}
        _repair(rng, names, rows, lives_in)
        table.update(zip(names, rows, strict=True))
    return table


def _balanced(rng: random.Random, values: tuple[str, ...], size: int) -> list[str]:
    drawn: list[str] = []
    while len(drawn) < size:
        drawn += rng.sample(values, len(values))
    drawn = drawn[:size]
    rng.shuffle(drawn)
    return drawn


def _repair(rng: random.Random, names: tuple[str, ...], rows: list[dict[str, str]], lives_in: dict[str, str]) -> None:
    """Swap values between rows until every row obeys the three rules; swaps keep the balance."""

    def broken(i: int) -> list[str]:
        row, bad = rows[i], []
        for position, attribute in enumerate(PERSONS):
            earlier = {row[other] for other in PERSONS[:position]}
            value = row[attribute]
            if value == names[i] or value in earlier or lives_in[value] == row["city"]:
                bad.append(attribute)
        return bad

    while any(found := [(i, attribute) for i in range(len(rows)) for attribute in broken(i)]):
        for i, attribute in found:
            j = rng.randrange(len(rows))
            rows[i][attribute], rows[j][attribute] = rows[j][attribute], rows[i][attribute]


def _draw_forgotten(
    rng: random.Random, groups: dict[str, tuple[str, ...]], table: dict[str, dict[str, str]]
) -> dict[tuple[Problem, SplitName], tuple[Fact, ...]]:
    forgotten: dict[tuple[Problem, SplitName], tuple[Fact, ...]] = {}
    for split in SPLITS:
        people = groups[f"fact/{split}"]
        scattered = _balanced(rng, ATTRIBUTES, len(people))
        pairs: dict[Problem, list[tuple[str, str]]] = {
            "fact": list(zip(people, scattered, strict=True)),
            "relation": [(name, FORGOTTEN_RELATION[split]) for name in groups[f"relation/{split}"]],
            "person": [(name, attribute) for name in groups[f"person/{split}"] for attribute in ATTRIBUTES],
        }
        for problem in PROBLEMS:
            forgotten[problem, split] = tuple(Fact(name, a, table[name][a]) for name, a in pairs[problem])
    return forgotten


def _half(facts: tuple[Fact, ...]) -> list[Fact]:
    """Half of the facts, so that every person and every value has as many in it as out of it, give or take one.

    A fact is an edge between a person and a value. Walking along edges and taking every other one splits each node's
    edges evenly (Euler); nodes of odd degree are first joined to a spare node on the other side, which keeps the graph
    bipartite and thus every closed walk even.
    """
    edges: list[tuple[str, str, Fact | None]] = [("p" + f.subject, f"v{f.attribute}/{f.value}", f) for f in facts]
    degree: dict[str, int] = defaultdict(int)
    for left, right, _ in edges:
        degree[left] += 1
        degree[right] += 1
    odd = [node for node in degree if degree[node] % 2]
    edges += [(node, "v", None) if node[0] == "p" else ("p", node, None) for node in odd]
    if sum(node[0] == "p" for node in odd) % 2:
        edges.append(("p", "v", None))
    at: dict[str, list[int]] = defaultdict(list)
    for index, (left, right, _) in enumerate(edges):
        at[left].append(index)
        at[right].append(index)
    used, chosen = set[int](), []
    for start in list(at):
        node, take = start, True
        while True:
            while at[node] and at[node][-1] in used:
                at[node].pop()
            if not at[node]:
                break  # back at the start: a walk in an even graph ends where it began
            index = at[node].pop()
            used.add(index)
            left, right, fact = edges[index]
            if take and fact is not None:
                chosen.append(fact)
            take = not take
            node = right if node == left else left
    return chosen
