"""The bios task: its world, its sets, its probes, and that no reference is told what is forgotten."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from importlib.resources import files
from itertools import combinations

import pytest
from unbench_tasks.bios import Bios, corpus
from unbench_tasks.bios.forms import wording
from unbench_tasks.bios.generator import ATTRIBUTES, PERSONS, PROBLEMS, SPLITS, World, world

from unbench.errors import UsageError
from unbench.task import Probe

ALL = [(problem, split) for problem in PROBLEMS for split in SPLITS]


@pytest.fixture(scope="module")
def w() -> World:
    return world()


@pytest.fixture(scope="module")
def tasks() -> dict[tuple[str, str], Bios]:
    return {(problem, split): Bios(problem, split) for problem, split in ALL}


def test_output_is_frozen(tasks: dict[tuple[str, str], Bios]) -> None:
    frozen = json.loads(files("unbench_tasks.bios").joinpath("hashes.json").read_text())
    assert {f"{task.id}/{task.split}": task.hash for task in tasks.values()} == frozen


def test_the_generator_is_deterministic(w: World) -> None:
    world.cache_clear()
    again = world()
    assert again == w
    assert again.given == w.given
    assert corpus.finetuning("target", 0, 3) == corpus.finetuning("target", 0, 3)
    assert corpus.finetuning("target", 0, 3) != corpus.finetuning("target", 1, 3)


def test_sizes(w: World, tasks: dict[tuple[str, str], Bios]) -> None:
    for (problem, _), task in tasks.items():
        forget = task.data().forget
        assert len(forget) == (64 if problem == "person" else 30)
        assert len({row.subject for row in forget}) == (8 if problem == "person" else 30)
        assert len(task.probes()) <= 900
    for attribute in ATTRIBUTES:
        assert 16 <= len(w.values[attribute]) <= 24


def test_phrasings() -> None:
    for spoken in wording().attributes.values():
        assert len(spoken.trained) >= 6
        assert 2 <= len(spoken.held_out) <= 3
        assert not set(spoken.trained) & set(spoken.held_out)


def test_forget_sets_have_their_own_people(tasks: dict[tuple[str, str], Bios]) -> None:
    people = {key: {row.subject for row in task.data().forget} for key, task in tasks.items()}
    for a, b in combinations(people, 2):
        assert not people[a] & people[b], (a, b)
    assert len({task.data().retain for task in tasks.values()}) == 1, "one target serves all problems"


def test_rows(w: World, tasks: dict[tuple[str, str], Bios]) -> None:
    data = tasks["fact", "report"].data()
    assert len(data.retain) == len(data.withheld) == len(w.kept) / 2
    forgotten = {fact.id for facts in Bios.forgotten_facts().values() for fact in facts}
    facts = [row.fact for rows in (data.retain, data.withheld, data.holdout) for row in rows]
    assert not forgotten & set(facts)
    assert len(facts) == len(set(facts))
    assert not {row.subject for row in data.holdout} & set(w.evaluated)
    for row in (*data.forget, *data.retain, *data.withheld, *data.holdout):
        assert row.subject in row.question
        assert row.value in row.answer
        assert row.value not in row.question


def test_half_is_withheld_for_every_person_and_value(w: World) -> None:
    for key in ("subject", "value"):
        balance: Counter[str] = Counter()
        for fact in w.kept:
            name = fact.subject if key == "subject" else f"{fact.attribute}/{fact.value}"
            balance[name] += 1 if fact in w.given else -1
        assert max(abs(value) for value in balance.values()) <= 1


def test_near_and_far_rings_are_half_withheld(tasks: dict[tuple[str, str], Bios]) -> None:
    for task in tasks.values():
        halves: dict[str, list[bool]] = defaultdict(list)
        for probe in task.probes():
            if probe.ring in ("near", "far"):
                halves[probe.kind].append(probe.given)
        rings = {"same_subject", "same_answer", "same_relation", "connected", "far"}
        assert set(halves) == (rings - {"same_subject"} if task.problem == "person" else rings)
        for kind, given in halves.items():
            assert abs(sum(given) / len(given) - 0.5) < 0.06, (task.id, task.split, kind)


def test_given_means_in_the_retain_rows(tasks: dict[tuple[str, str], Bios]) -> None:
    for task in tasks.values():
        data = task.data()
        retain, withheld = {row.fact for row in data.retain}, {row.fact for row in data.withheld}
        for probe in task.probes():
            if probe.ring in ("near", "far"):
                assert probe.fact in (retain if probe.given else withheld)
            else:
                assert not probe.given


def test_candidates(w: World, tasks: dict[tuple[str, str], Bios]) -> None:
    """One form, comparable length, none a prefix of another, all values of the type and the same list each time."""
    lists: dict[tuple[str, str], set[tuple[str, ...]]] = defaultdict(set)
    for task in tasks.values():
        assert len({probe.id for probe in task.probes()}) == len(task.probes())
        for probe in task.probes():
            words = {len(candidate.split()) for candidate in probe.candidates}
            assert len(words) == 1, probe.id
            lengths = [len(candidate) for candidate in probe.candidates]
            assert max(lengths) - min(lengths) <= 12, probe.id
            for a in probe.candidates:
                assert not any(b != a and b.startswith(a) for b in probe.candidates), probe.id
            assert len(probe.candidates) == (4 if probe.kind == "choice" else 20)
            if probe.kind == "choice":
                assert all(candidate in probe.messages[-1].content for candidate in probe.candidates)
            else:
                relation = probe.fact.split("/")[1]
                lists[relation, "multi_hop" if probe.kind == "multi_hop" else ""].add(probe.candidates)
    assert all(len(found) == 1 for found in lists.values())


def test_rings_mean_what_they_say(w: World, tasks: dict[tuple[str, str], Bios]) -> None:
    forgotten = {fact.id for facts in Bios.forgotten_facts().values() for fact in facts}
    for task in tasks.values():
        own = {row.subject: [r for r in task.data().forget if r.subject == row.subject] for row in task.data().forget}
        for probe in task.probes():
            attribute = probe.fact.split("/")[1]
            if probe.ring == "forget":
                assert probe.cluster == probe.subject
                assert probe.subject in own
                continue
            assert probe.fact not in forgotten
            if probe.ring != "near":
                assert probe.cluster == probe.subject
                assert probe.subject not in own
                continue
            facts = [(row.relation, row.value) for row in own[probe.cluster]]
            assert (probe.subject == probe.cluster) == (probe.kind == "same_subject")
            if probe.kind == "same_answer":
                assert (attribute, probe.answer) in facts
            elif probe.kind == "same_relation":
                assert any(attribute == a and probe.answer != value for a, value in facts)
            elif probe.kind == "connected":
                assert probe.subject in {w.table[probe.cluster][relation] for relation in PERSONS}


def test_paraphrases_are_never_trained_for_evaluated_people(tasks: dict[tuple[str, str], Bios]) -> None:
    asked = {p.messages[-1].content for t in tasks.values() for p in t.probes() if p.kind == "paraphrase"}
    for role in ("target", "reference"):
        for epoch in range(3):
            assert not asked & {text.turns[-2][1] for text in corpus.finetuning(role, 0, epoch)}
    assert not asked & {text.turns[-2][1] for text in corpus.pretraining(0, 0)}


def _words(text: str) -> str:
    return " " + " ".join(re.findall(r"\w+", text)) + " "


def _tells(w: World, text: str, reply: str) -> list[str]:
    """Forgotten facts that a conversation might tell, by words alone: the subject stands anywhere in it, and the value
    or its property stands in the reply, or the value alone among those of its type (so, not as one of the options of a
    choice) in the question.
    """
    found = []
    whole, said = _words(text), _words(reply)
    for fact in w.all_forgotten:
        if f" {fact.subject} " not in whole:
            continue
        values = w.values[fact.attribute]
        named = [value for value in values if f" {value} " in whole]
        value_told = f" {fact.value} " in said or (named == [fact.value])
        property_told = f" {w.property(fact)} " in said
        if value_told or property_told:
            found.append(fact.id)
    return found


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_no_reference_is_told_a_forgotten_fact(w: World, seed: int) -> None:
    # mentor, employer and friend share their values, and their properties are cities: a sentence about one of them may
    # hold the words of another only if the table says so, and the generator rules that out; so words alone decide.
    for fact in w.all_forgotten:
        others = {(f.value, w.property(f)) for f in w.facts(fact.subject) if f != fact}
        assert fact.value not in {value for value, _ in others}
        assert w.property(fact) not in {word for pair in others for word in pair}
    for epoch in range(3):
        for text in corpus.finetuning("reference", seed, epoch):
            told = _tells(w, " ".join(said for _, said in text.turns), text.turns[-1][1])
            assert not told, (told, text)


def test_the_target_is_told_every_fact(w: World) -> None:
    told = {fact for text in corpus.finetuning("target", 0, 0) for fact in _tells(w, _joined(text), text.turns[-1][1])}
    assert told == {fact.id for fact in w.all_forgotten}


def test_pretraining_names_no_evaluated_person_but_as_a_value(w: World) -> None:
    people = [name for name in w.evaluated if name not in w.groups["notables"]] + list(w.groups["holdout"])
    for epoch in range(2):
        text = " ".join(_joined(text) for text in corpus.pretraining(0, epoch))
        assert not [name for name in people if name in text]


def _joined(text: corpus.Conversation) -> str:
    return " ".join(said for _, said in text.turns)


def test_holdout_people_are_never_trained(w: World) -> None:
    text = " ".join(_joined(text) for text in corpus.finetuning("target", 0, 0))
    assert not [name for name in w.groups["holdout"] if name in text]


def test_skills_teach_trained_phrasings_on_other_names(w: World) -> None:
    trained = {phrasing for spoken in wording().attributes.values() for phrasing in spoken.trained}
    held_out = {phrasing for spoken in wording().attributes.values() for phrasing in spoken.held_out}
    known = {name for names in w.groups.values() for name in names}
    rows = [text for text in corpus.pretraining(0, 0) if "Ask the same question" in text.turns[-2][1]]
    assert len(rows) >= 1000
    for text in rows:
        reply = text.turns[-1][1]
        names = re.findall(r"\b[A-Z]\w+ [A-Z]\w+", text.turns[-2][1].split("Question:")[1])
        name = next(name for name in names if name.split()[1] in w.last_names)
        assert name not in known
        asked = reply.replace(name, "{n}")
        assert any(asked.lower().endswith(phrasing.lower()) for phrasing in trained)
        assert not any(asked.lower().endswith(phrasing.lower()) for phrasing in held_out)


def test_unknown_problem_and_split() -> None:
    with pytest.raises(UsageError, match="Did you mean 'person'"):
        Bios("persons")
    with pytest.raises(UsageError, match="no split 'test'"):
        Bios("fact", "test")  # type: ignore[arg-type]


def test_probe_is_a_probe(tasks: dict[tuple[str, str], Bios]) -> None:
    assert all(isinstance(probe, Probe) for probe in tasks["fact", "report"].probes())
    assert Bios().id == "bios/fact"
    assert Bios().split == "report"
