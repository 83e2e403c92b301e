"""The sets of a task file: read, checked against one another, and half of what is kept withheld."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import get_args

from unbench.errors import UsageError
from unbench.task import Ring, Split
from unbench.taskfile import Document, Place, shown
from unbench.userdata.entries import Entry, mark, read_entries, same_text, unread_columns
from unbench.userdata.read import read_table
from unbench.userdata.spec import RowSource, Source, TaskSpec

RINGS: tuple[Ring, ...] = get_args(Ring)
KINDS: dict[str, str] = {"forget": "direct", "near": "same_subject", "far": "retain", "world": "world",
                         "holdout": "holdout"}  # fmt: skip
"""Kind of a probe whose file names none, and of the probes that are made from rows."""
TAKEN = frozenset(
    {"probability", "rouge", "truth_ratio", "truth_ratio_arithmetic", "entropy", "repetition", "quality", "ks", "worst",
     "without_overlap"}
)  # fmt: skip
"""Kinds whose metric, forget_<kind>, would be another's."""
_KIND = re.compile(r"[a-z][a-z0-9_]{0,39}")
Group = tuple[str, str, str]
"""Ring, kind and, for near, the forgotten subject: what is halved by itself."""


@dataclass
class Sets:
    """Everything one split reads. Withheld rows are out of ``retain`` already."""

    forget: list[Entry]
    retain: list[Entry]
    withheld: list[Entry]
    holdout: list[Entry]
    probes: list[Entry]
    """Of the probes file alone, each with its ring, kind, fact, subject and cluster."""
    sources: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every file read, by the name that the task file gives it."""
    warnings: list[str] = field(default_factory=list)

    def rows(self) -> dict[str, list[Entry]]:
        return {name: getattr(self, name) for name in ("forget", "retain", "withheld", "holdout")}

    @property
    def subjects(self) -> set[str]:
        """The forgotten subjects."""
        return {entry.subject for entry in self.forget}


def read_sets(spec: TaskSpec, document: Document, split: Split) -> Sets:
    """Reads and checks the sets of one split. Raises ``UsageError`` naming file and line of the first mistake."""
    if split == "select" and spec.select is None:
        raise UsageError(
            f"{shown(document.path)} has no sets for the split 'select' (tuning).",
            "Add a section 'select:' with a forget set of its own, or take --split report.",
        )
    if spec.withheld is not None and spec.withhold is not None:
        raise document.error(("withhold",), "field 'withhold' has no say beside a 'withheld' section; leave one out.")
    reader = _Reader(document)
    # The tuning forget set is read for the report split too: a row in both would make every result a tuned one.
    chosen = spec.select if split == "select" else None
    other = spec.forget if chosen else spec.select.forget if spec.select else None
    found: dict[str, list[Entry]] = {}
    for name in ("forget", "retain", "withheld", "holdout", "probes"):
        own = getattr(chosen, name, None)
        place: Place = ("select", name) if own is not None else (name,)
        found[name] = reader.read(own if own is not None else getattr(spec, name), place)
    sets = Sets(**found, sources=reader.sources, warnings=reader.warnings)
    _refuse_overlap(sets.rows(), sets.warnings)
    if other is not None:
        tuned = reader.read(other, ("forget",) if chosen else ("select", "forget"))
        _refuse_shared("both forget sets (report and select)", sets.forget, tuned)
    sets.probes = _linked(sets)
    _withhold(sets, spec)
    return sets


class _Reader:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.sources = {document.path.name: hashlib.sha256(document.path.read_bytes()).hexdigest()}
        self.warnings: list[str] = []

    def read(self, source: Source | None, place: Place) -> list[Entry]:
        if source is None:
            return []
        table = read_table(source, self.document, place)
        name, n = table.name, 1
        while self.sources.get(name, table.sha256) != table.sha256:  # a file of that name in another folder
            n += 1
            name = f"{table.name} ({n})"
        if name not in self.sources:
            self.sources[name] = table.sha256
            if source.hub and not source.revision:
                self.warnings.append(f"{table.name} names no revision, so its rows may change: add revision: COMMIT.")
        entries = read_entries(table, source, self.document, place)
        if unread := unread_columns(table, source):
            self.warnings.append(f"{table.name}: not read: {', '.join(unread)}.")
        # A row that names no subject is its own: the unit of intervals then is the fact.
        return [replace(e, subject=e.subject or e.fact) for e in entries] if isinstance(source, RowSource) else entries


def _refuse_overlap(rows: Mapping[str, Sequence[Entry]], warnings: list[str]) -> None:
    for name, entries in rows.items():
        _refuse_repeats(name, entries, warnings)
    for a, b in combinations(rows, 2):
        _refuse_shared(f"{a} and {b}", rows[a], rows[b])


def _refuse_repeats(name: str, entries: Sequence[Entry], warnings: list[str]) -> None:
    """The same row twice, or a forget question with two answers, is a mistake; elsewhere two answers are told."""
    seen: dict[str, Entry] = {}
    unclear: list[str] = []
    for entry in entries:
        first = seen.setdefault(same_text(entry.question), entry)
        if first is entry:
            continue
        if same_text(first.answer) == same_text(entry.answer):
            raise entry.where.error(f"this row is in {name} twice, at {_place(first, entry)} already.")
        if name == "forget":
            raise entry.where.error(
                f"this question has another answer at {_place(first, entry)}: {_cut(first.question)}."
            )
        unclear.append(f"{entry.where}: this question has another answer at {_place(first, entry)}")
    if unclear:
        warnings.append(f"{unclear[0]}{f' ({len(unclear)} such rows)' if len(unclear) > 1 else ''}.")


def _refuse_shared(both: str, first: Sequence[Entry], second: Sequence[Entry]) -> None:
    questions = {same_text(entry.question): entry for entry in reversed(first)}
    facts = {entry.fact: entry for entry in reversed(first)}
    shared = [
        (same, entry)
        for entry in second
        if (same := questions.get(same_text(entry.question)) or facts.get(entry.fact)) is not None
    ]
    if shared:
        same, entry = shared[0]
        what = (
            f"the question {_cut(entry.question)}"
            if same_text(same.question) == same_text(entry.question)
            else f"the fact {entry.fact!r}"
        )
        more = f" ({len(shared) - 1} more after this one.)" if len(shared) > 1 else ""
        raise entry.where.error(f"{what} is in {both}: it also stands at {same.where}.{more}")


def _linked(sets: Sets) -> list[Entry]:
    """The probes file's entries, each with what its ring, its row and the defaults add."""
    seen: dict[str, Entry] = {}
    found = []
    home = {entry.fact: (name, entry) for name, entries in sets.rows().items() for entry in reversed(entries)}
    by_question = {same_text(e.question): e for entries in sets.rows().values() for e in reversed(entries)}
    for probe in sets.probes:
        first = seen.setdefault(probe.question, probe)
        if first is not probe:
            raise probe.where.error(f"this probe asks what {_place(first, probe)} asks: {_cut(probe.question)}.")
        row = by_question.get(same_text(probe.question))
        if not probe.own_fact and row is not None:
            probe = replace(probe, fact=row.fact)
        name, row = home.get(probe.fact, ("", None))
        ring = _ring(probe)
        probe = replace(
            probe, ring=ring, kind=_kind(probe, ring), subject=probe.subject or (row.subject if row else probe.fact)
        )
        _check_home(probe, name, sets)
        found.append(replace(probe, cluster=_cluster(probe, sets.subjects)))
    _check_pairs(found)
    return found


def _ring(probe: Entry) -> Ring:
    wanted = probe.ring.casefold() or "forget"
    for ring in RINGS:
        if ring == wanted:
            return ring
    close = difflib.get_close_matches(wanted, RINGS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"the rings are {', '.join(RINGS)}."
    raise probe.where.error(f"there is no ring {probe.ring!r}; {hint}")


def _kind(probe: Entry, ring: str) -> str:
    kind = probe.kind or KINDS[ring]
    if not _KIND.fullmatch(kind):
        raise probe.where.error(f"the kind {kind!r} names a metric, so it has small letters, digits and '_' only.")
    if ring == "forget" and kind in TAKEN:
        raise probe.where.error(f"the kind {kind!r} is taken: forget_{kind} is a metric of its own.")
    return kind


def _check_home(probe: Entry, home: str, sets: Sets) -> None:
    """A forget probe asks a forgotten fact, no other does, and what the file says is given is given."""
    if probe.ring == "forget" and home != "forget":
        known = ", ".join(dict.fromkeys(e.fact for e in sets.forget if e.own_fact)) or "none has an id yet"
        what = f"the fact {probe.fact!r}" if probe.own_fact else f"the question {_cut(probe.question)}"
        raise probe.where.error(
            f"this forget probe asks for {what}, which no forget row has.",
            f"Give the forget rows and this probe a column 'fact' with one id; there: {_cut_list(known)}.",
        )
    if probe.ring != "forget" and home == "forget":
        raise probe.where.error(f"this {probe.ring} probe asks for a fact that is to be forgotten.")
    if probe.ring != "holdout" and home == "holdout":
        raise probe.where.error(f"this {probe.ring} probe asks for a fact of the holdout set.")
    if probe.given and (probe.ring not in ("near", "far") or home != "retain"):
        raise probe.where.error("this probe is marked as given, but no retain row has its fact.")


def _cluster(probe: Entry, forgotten: set[str]) -> str:
    """The unit of resampling: the forgotten subject that a near probe lies around, else the probe's own subject."""
    if probe.ring != "near":
        return probe.subject
    cluster = probe.cluster or (probe.subject if probe.subject in forgotten else "")
    if not cluster and len(forgotten) == 1:
        return next(iter(forgotten))
    if cluster in forgotten:
        return cluster
    close = difflib.get_close_matches(cluster or probe.subject, sorted(forgotten), n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    problem = f"{cluster!r} is no forgotten subject{hint}." if cluster else "it is not said which forgotten subject."
    raise probe.where.error(
        f"this near probe lies around a forgotten subject: {problem}", "Name it in a column 'cluster'."
    )


def _check_pairs(probes: Iterable[Entry]) -> None:
    pairs: dict[str, list[Entry]] = defaultdict(list)
    for probe in probes:
        if probe.pair:
            pairs[probe.pair].append(probe)
        elif probe.kind == "yes_no":
            raise probe.where.error("a yes_no probe needs a pair: the id that its true and its false form share.")
    for name, members in pairs.items():
        alike = {(probe.ring, probe.kind, probe.fact, probe.cluster) for probe in members}
        if len(members) != 2 or len(alike) != 1 or len({probe.answer for probe in members}) != 2:
            raise members[-1].where.error(f"the pair {name!r} is not one true and one false form of one fact.")


def _withhold(sets: Sets, spec: TaskSpec) -> None:
    """Takes every second retain fact out of what methods are given, in the order of the questions' SHA-256, each near
    group by itself and the far ones as a whole. A probe that the file calls given keeps its fact given."""
    said = {probe.fact: probe for probe in sets.probes if probe.given is not None}
    if spec.withheld is None and spec.withhold != "none":
        sets.withheld = _second_half(sets, said)
        out = {entry.fact for entry in sets.withheld}
        sets.retain = [entry for entry in sets.retain if entry.fact not in out]
        if not sets.retain:
            raise sets.withheld[0].where.error(
                "the retain set is too small: half of it is withheld, which leaves nothing to give to methods.",
                "Add retain rows, or say withhold: none in the task file.",
            )
    given = {entry.fact for entry in sets.retain}
    for probe in sets.probes:
        if probe.given is not None and probe.given != (probe.fact in given):
            side = "given" if probe.fact in given else "not given"
            raise probe.where.error(f"given is {str(probe.given).lower()}, but by its row this fact is {side}.")


def _second_half(sets: Sets, said: Mapping[str, Entry]) -> list[Entry]:
    asked = {probe.fact: probe for probe in sets.probes if probe.ring in ("near", "far")}
    groups: dict[Group, dict[str, str]] = defaultdict(dict)
    for entry in sets.retain:
        probe = asked.get(entry.fact)
        near = probe.ring == "near" if probe else entry.subject in sets.subjects
        kind, cluster = (probe.kind, probe.cluster) if probe else (KINDS["near"], entry.subject)
        group = ("near", kind, cluster) if near else ("far", "", "")
        groups[group].setdefault(entry.fact, mark(entry.question))
    out: set[str] = set()
    turn = 0
    # Groups take turns with the odd fact out, so that many groups of one fact are halved too.
    for group in sorted(groups):
        for fact in sorted(groups[group], key=groups[group].__getitem__):
            if fact in said:
                out |= set() if said[fact].given else {fact}
                continue
            if turn % 2 == 0:
                out.add(fact)
            turn += 1
    return [entry for entry in sets.retain if entry.fact in out]


def _place(first: Entry, later: Entry) -> str:
    """Where the first one stands, said briefly if it is in the same file."""
    return f"{first.where.unit} {first.where.number}" if first.where.file == later.where.file else str(first.where)


def _cut(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")


def _cut_list(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "…"
