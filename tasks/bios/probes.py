"""The probes of one problem and split: what is forgotten, what lies near it, what lies far, and the world."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

from unbench_tasks.bios import forms
from unbench_tasks.bios.forms import Asked, wording
from unbench_tasks.bios.generator import PERSONS, THINGS, Fact, Problem, SplitName, World, slug

from unbench.task import Message, Probe, Ring

FAR, WORLD = 60, 40


def make_probes(world: World, problem: Problem, split: SplitName) -> tuple[Probe, ...]:
    """All probes in a fixed order: forget, near, far, world."""
    rng = random.Random(f"bios/probes/{problem}/{split}")
    forgotten = world.forgotten[problem, split]
    forget = [probe for i, fact in enumerate(forgotten) for probe in _forget(rng, world, problem, i, fact)]
    near = list(_near(rng, world, problem, forgotten))
    near_facts = {probe.fact for probe in near}
    return (*forget, *near, *_far(rng, world, problem, split, near_facts), *_world(rng, world))


def _forget(rng: random.Random, world: World, problem: Problem, i: int, fact: Fact) -> Iterator[Probe]:
    words = wording()
    spoken = words.attributes[fact.attribute]
    values = world.values[fact.attribute]

    def probe(kind: str, asked: Asked, candidates: Sequence[str], suffix: str = "") -> Probe:
        return _probe(f"forget/{kind}/{fact.id}{suffix}", "forget", kind, fact, fact.subject, asked, candidates)

    def alternating(phrasings: Sequence[str]) -> str:
        """A trained phrasing for every other fact, the held-out one (the last) for the rest."""
        return phrasings[-1] if i % 2 else phrasings[i // 2 % (len(phrasings) - 1)]

    yield probe("direct", forms.direct(fact, spoken.trained[0]), values)
    for k in range(1 if problem == "person" else 2):
        asked = forms.direct(fact, spoken.held_out[(i + k) % len(spoken.held_out)])
        yield probe("paraphrase", asked, values, f"/{k}")
    yield probe("cloze", forms.cloze(fact, alternating(words.cloze)), values)
    options = [fact.value, *rng.sample([value for value in values if value != fact.value], 3)]
    rng.shuffle(options)
    yield probe("choice", forms.choice(fact, alternating(words.choice), spoken.trained[0], options), options)
    properties = world.property_values(fact.attribute)
    yield probe("multi_hop", forms.multi_hop(fact, alternating(spoken.multi_hop), world), properties)


def _near(rng: random.Random, world: World, problem: Problem, forgotten: Sequence[Fact]) -> Iterator[Probe]:
    """Kept facts around each forgotten one, as many given as withheld where there are enough of both. A fact stands
    once in a cluster, in the first ring that takes it."""
    used: dict[str, set[Fact]] = {fact.subject: set() for fact in forgotten}
    each = 1 if problem == "person" else 2
    last: dict[str, Fact] = {fact.subject: fact for fact in forgotten}
    for fact in forgotten:
        taken = used[fact.subject]

        def rows(kind: str, pool: Iterable[Fact], count: int) -> Iterator[Probe]:
            # bound now, used before the loop's next turn
            picked = _halves(rng, world, [f for f in pool if f not in taken], count)  # noqa: B023
            taken.update(picked)  # noqa: B023
            for near in picked:
                name = f"near/{kind}/{slug(fact.subject)}/{near.id}"  # noqa: B023
                yield _asked_directly(rng, world, name, "near", kind, near, fact.subject)  # noqa: B023

        kept = [f for f in world.kept if f.subject != fact.subject]
        alike = [f for f in kept if f.attribute == fact.attribute]
        if problem != "person":
            yield from rows("same_subject", (f for f in world.kept if f.subject == fact.subject), 4)
        yield from rows("same_answer", (f for f in alike if f.value == fact.value), each)
        if problem != "person" or fact is last[fact.subject]:
            linked = _linked(world, problem, fact)
            yield from rows("connected", (f for f in kept if f.subject in linked), each if problem != "person" else 4)
        yield from rows("same_relation", (f for f in alike if f.value != fact.value), each)


def _linked(world: World, problem: Problem, fact: Fact) -> set[str]:
    """The notables a forgotten subject is linked to: the one the fact names, else the mentor; all three where the whole
    person is forgotten."""
    if problem == "person":
        return {world.table[fact.subject][attribute] for attribute in PERSONS}
    return {fact.value if fact.attribute in PERSONS else world.table[fact.subject]["mentor"]}


def _far(rng: random.Random, world: World, problem: Problem, split: SplitName, near_facts: set[str]) -> Iterator[Probe]:
    """One kept fact each of people whom this problem does not forget anything about, and who are no notables."""
    here = f"{problem}/{split}"
    people = [name for group, names in world.groups.items() if "/" in group and group != here for name in names]
    rng.shuffle(people)
    left = {True: FAR // 2, False: FAR // 2}
    kept: dict[str, list[Fact]] = {}
    for fact in world.kept:
        kept.setdefault(fact.subject, []).append(fact)
    for name in people:
        for given in sorted(left, key=lambda key: -left[key]):
            pool = [f for f in kept.get(name, []) if (f in world.given) == given and f.id not in near_facts]
            if pool and left[given]:
                left[given] -= 1
                fact = rng.choice(pool)
                yield _asked_directly(rng, world, f"far/{fact.id}", "far", "far", fact, name)
                break


def _world(rng: random.Random, world: World) -> Iterator[Probe]:
    """Properties of things, told to every model in training but in no row: general knowledge."""
    for attribute in THINGS:
        for value in sorted(rng.sample(world.values[attribute], WORLD // len(THINGS))):
            asked = forms.world_fact(attribute, value, wording().attributes[attribute].world[0], world)
            fact = Fact(value, f"{attribute}_property", asked.value)
            candidates = world.property_values(attribute)
            yield _probe(f"world/{fact.id}", "world", "world", fact, value, asked, candidates)


def _halves(rng: random.Random, world: World, pool: Sequence[Fact], count: int) -> list[Fact]:
    """Up to ``count`` given and ``count`` withheld facts."""
    drawn = list(pool)
    rng.shuffle(drawn)
    return [fact for given in (True, False) for fact in [f for f in drawn if (f in world.given) == given][:count]]


def _asked_directly(
    rng: random.Random, world: World, name: str, ring: Ring, kind: str, fact: Fact, cluster: str
) -> Probe:
    """Three in four as the rows ask it, the others in another trained phrasing."""
    trained = wording().attributes[fact.attribute].trained
    phrasing = rng.choice(trained[1:]) if rng.random() < 0.25 else trained[0]
    asked = forms.direct(fact, phrasing)
    given = fact in world.given
    return _probe(name, ring, kind, fact, cluster, asked, world.values[fact.attribute], given)


def _probe(
    name: str,
    ring: Ring,
    kind: str,
    fact: Fact,
    cluster: str,
    asked: Asked,
    candidates: Sequence[str],
    given: bool = False,
) -> Probe:
    return Probe(
        id=name,
        ring=ring,
        kind=kind,
        subject=fact.subject,
        cluster=cluster,
        fact=fact.id,
        messages=(Message(role="user", content=asked.question),),
        answer_prefix=asked.prefix,
        answer=asked.value,
        candidates=tuple(candidates),
        given=given,
    )
