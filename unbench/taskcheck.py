"""What every task must keep to, whoever wrote it: ``check(task)`` lists what it breaks.

The rules are those of the metrics: κ compares total probabilities, so candidates must be of one form and comparable
length; specificity counts withheld facts only, so half of every near and far ring must be withheld. Published data
whose knowledge is a probability may withhold nothing at all; its scores are labelled as given.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations, pairwise

from unbench.task import Probe, Task, TaskData

ARTICLES = ("a", "an", "the")
MAX_WORD_GAP = 3
"""Candidates of one probe differ by at most so many words."""
MIN_WRONG = 9
"""Wrong alternatives a probe needs; below that a guesser's κ scatters too much (metrics.md)."""
MIN_OPTIONS = 3
"""Wrong options of a choice probe, which names all its candidates in the question."""


def check(task: Task) -> list[str]:
    """Problems of a task, each one sentence; an empty list where all is well."""
    data, probes = task.data(), task.probes()
    all_given = task.knowledge == "probability" and not data.withheld
    problems = [*_ids(probes), *_rows(data, probes), *_pairs(probes), *_halves(probes, all_given)]
    if task.knowledge == "candidates":
        problems += [problem for probe in probes for problem in candidate_problems(probe)]
    return problems


def _ids(probes: Sequence[Probe]) -> list[str]:
    counts = Counter(probe.id for probe in probes)
    return [f"The probe id {name!r} is used {n} times." for name, n in counts.items() if n > 1]


def candidate_problems(probe: Probe) -> list[str]:
    """Same form, comparable length, none the beginning of another; yes_no and choice have few candidates by nature."""
    found: list[str] = []
    words = [len(candidate.split()) for candidate in probe.candidates]
    if max(words) - min(words) > MAX_WORD_GAP:
        found.append(f"candidates have between {min(words)} and {max(words)} words")
    if len({_case(candidate) for candidate in probe.candidates}) > 1:
        found.append(f"candidates begin differently (capital, small letter, digit): {probe.candidates}")
    if len({candidate.split()[0].lower() in ARTICLES for candidate in probe.candidates}) > 1:
        found.append(f"some candidates have an article and some have none: {probe.candidates}")
    folded = Counter(candidate.casefold() for candidate in probe.candidates)
    found += [f"the candidate {name!r} is listed twice" for name, n in folded.items() if n > 1]
    # Sorted, a string and its nearest continuation are neighbours, so neighbours are all that must be compared.
    ordered = sorted(folded)
    found += [f"{a!r} is the beginning of {b!r}" for a, b in pairwise(ordered) if b.startswith(a)]
    needed = {"yes_no": 1, "choice": MIN_OPTIONS}.get(probe.kind, MIN_WRONG)
    if len(probe.candidates) - 1 < needed:
        found.append(f"only {len(probe.candidates) - 1} wrong candidates, {needed} are needed")
    return [f"Probe {probe.id!r}: {problem}." for problem in found]


def _case(text: str) -> str:
    first = next((letter for letter in text if letter.isalnum()), "")
    return "digit" if first.isdigit() else "capital" if first.isupper() else "small"


def _halves(probes: Sequence[Probe], all_given: bool = False) -> list[str]:
    """As many facts given as withheld, for each kind around each forgotten subject (near) and for far as a whole.

    Counted by fact, as one fact may be asked in several phrasings; and no fact may be both. With ``all_given`` the task
    withholds nothing, and then every fact is given.
    """
    found: list[str] = []
    sides: dict[tuple[str, str, str], dict[str, bool]] = defaultdict(dict)
    for probe in probes:
        if probe.ring not in ("near", "far"):
            if probe.given:
                found.append(f"Probe {probe.id!r} of the {probe.ring} ring is marked as given.")
            continue
        group = (probe.ring, probe.kind, probe.cluster if probe.ring == "near" else "")
        if sides[group].setdefault(probe.fact, probe.given) != probe.given:
            found.append(f"The fact {probe.fact!r} is given in one probe and withheld in another.")
    for (ring, kind, cluster), facts in sides.items():
        given = sum(facts.values())
        if all_given and given == len(facts):
            continue
        if abs(len(facts) - 2 * given) > 1:
            around = f" around {cluster!r}" if cluster else ""
            found.append(f"{ring}/{kind}{around}: {given} of {len(facts)} facts are given, half should be.")
    return found


def _rows(data: TaskData, probes: Sequence[Probe]) -> list[str]:
    """Each set of rows holds the facts it should, and none of another's."""
    found: list[str] = []
    facts = {name: {row.fact for row in getattr(data, name)} for name in ("forget", "retain", "withheld", "holdout")}
    if not data.forget:
        found.append("There is no forget row.")
    for a, b in combinations(facts, 2):
        found += [f"The fact {fact!r} has a row in {a} and in {b}." for fact in sorted(facts[a] & facts[b])]
    for probe in probes:
        if probe.ring == "forget" and probe.fact not in facts["forget"]:
            found.append(f"Probe {probe.id!r} asks for {probe.fact!r}, which has no forget row.")
        if probe.ring == "holdout" and probe.fact not in facts["holdout"]:
            found.append(f"Probe {probe.id!r} asks for {probe.fact!r}, which has no holdout row.")
        if probe.ring in ("near", "far"):
            if probe.given and probe.fact not in facts["retain"]:
                found.append(f"Probe {probe.id!r} is given, but {probe.fact!r} has no retain row.")
            if not probe.given and probe.fact in facts["retain"]:
                found.append(f"Probe {probe.id!r} is withheld, but {probe.fact!r} has a retain row.")
            if probe.fact in facts["forget"]:
                found.append(f"Probe {probe.id!r} of the {probe.ring} ring asks for the forgotten {probe.fact!r}.")
    asked = {probe.fact for probe in probes if probe.ring == "forget"}
    found += [f"The forget row of {fact!r} has no forget probe." for fact in sorted(facts["forget"] - asked)]
    # A row without an answer span can't be checked further; one with a span must contain it.
    for name in ("forget", "retain", "withheld", "holdout"):
        found += [
            f"The {name} row of {row.fact!r} doesn't contain its value {row.value!r}."
            for row in getattr(data, name)
            if row.value and row.value not in row.answer
        ]
    return found


def _pairs(probes: Sequence[Probe]) -> list[str]:
    """A pair is one true and one false form of one fact."""
    found: list[str] = []
    pairs: dict[str, list[Probe]] = defaultdict(list)
    for probe in probes:
        if probe.pair is not None:
            pairs[probe.pair].append(probe)
        elif probe.kind == "yes_no":
            found.append(f"Probe {probe.id!r} is a yes_no without a pair.")
    for name, members in pairs.items():
        if len(members) != 2 or len({probe.answer for probe in members}) != 2 or len({p.fact for p in members}) != 1:
            found.append(f"The pair {name!r} is not one true and one false form of one fact.")
    return found
