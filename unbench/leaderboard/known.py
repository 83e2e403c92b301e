"""What this UnBench itself knows of the methods and tasks on a site: cards, docstrings, example questions."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from unbench.leaderboard.entries import Entry
from unbench.leaderboard.reader import created
from unbench.leaderboard.scores import OWN_CONTROLS, Facts, bare, facts_of_card
from unbench.method import MethodCard
from unbench.task import Probe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """One kind of probe, with a question of it."""

    ring: str
    kind: str
    given: int
    withheld: int
    question: str
    answer: str


@dataclass(frozen=True)
class TaskFacts:
    """A task of this UnBench."""

    title: str
    summary: str
    problem: str
    """What this problem asks."""
    version: str
    hash: str
    licence: str
    paper: str | None
    bibtex: str
    rows: dict[str, int] = field(default_factory=dict)
    """Rows of each set; empty where they don't come with the package."""
    examples: tuple[Example, ...] = ()


def method_facts(entries: Sequence[Entry], cards: Mapping[str, MethodCard | Facts]) -> dict[str, Facts]:
    """Facts of every method that has a run: by its card where this UnBench knows it, else as its newest submission
    says. A built-in's card can't be overridden by a submission."""
    found: dict[str, Facts] = {}
    for entry in sorted(entries, key=lambda entry: created(entry.result)):
        method = entry.result.method
        card = cards.get(method)
        if isinstance(card, Facts):
            found[method] = card
        elif card is not None:
            found[method] = facts_of_card(method, card, docstring(method))
        elif entry.submission is not None:
            said = entry.submission.method
            kind = "control" if method in OWN_CONTROLS else said.kind
            found[method] = Facts(method, said.title, kind, said.summary, said.paper, said.year, said.licence,
                                  said.bibtex.strip())  # fmt: skip
        elif method not in found:
            found[method] = Facts(method, bare(method), "control" if method in OWN_CONTROLS else "")
    return found


def docstring(method: str) -> str:
    """The docstring of a built-in's module, where its formula stands; empty for others."""
    from unbench.errors import UnbenchError
    from unbench.plugins import methods

    if not method.startswith("unbench:"):
        return ""
    try:
        registry = methods()
        loaded = registry.load_plugin(registry.find(method))
    except UnbenchError:
        return ""
    module = sys.modules.get(loaded.__module__)
    return (module.__doc__ or "") if module is not None else ""


def task_facts(tasks: Iterable[str]) -> dict[str, TaskFacts]:
    """Facts of those tasks that come with this UnBench; one whose rows aren't here has no examples."""
    from unbench.errors import UnbenchError
    from unbench.plugins import open_task
    from unbench.plugins import tasks as registry

    own = {plugin.name for plugin in registry().plugins if plugin.built_in}
    found = {}
    for name in sorted(set(tasks)):
        if name.partition("/")[0] not in own:
            continue
        try:
            task = open_task(name)
        except UnbenchError as problem:
            logger.info("nothing known of task %s: %s", name, problem)
            continue
        card = task.card
        facts = TaskFacts(card.title, card.summary, card.problems.get(name.partition("/")[2], ""), str(task.version),
                          "", card.licence, card.paper, card.bibtex.strip())  # fmt: skip
        try:
            data, probes = task.data(), task.probes()
            rows = {part: len(getattr(data, part)) for part in ("forget", "retain", "withheld", "holdout")}
            facts = TaskFacts(**{**vars(facts), "hash": task.hash, "rows": rows, "examples": _examples(probes)})
        except (UnbenchError, OSError) as problem:
            logger.info("no rows of task %s: %s", name, problem)
        found[name] = facts
    return found


def _examples(probes: Sequence[Probe]) -> tuple[Example, ...]:
    groups: dict[tuple[str, str], list[Probe]] = {}
    for probe in probes:
        groups.setdefault((probe.ring, probe.kind), []).append(probe)
    found = []
    for (ring, kind), own in groups.items():
        first = own[0]
        question = first.messages[-1].content
        given = sum(bool(probe.given) for probe in own)
        found.append(Example(ring, kind, given, len(own) - given, question[:300], first.answer[:120]))
    return tuple(found)
