"""From entries to probes: one for every row that the probes file doesn't ask, then the file's own; and how knowledge is
read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from unbench.task import Knowledge, Message, Probe, Ring
from unbench.taskcheck import candidate_problems
from unbench.userdata.entries import Entry, mark
from unbench.userdata.sets import KINDS, RINGS, Sets
from unbench.userdata.spec import TaskSpec


@dataclass(frozen=True)
class Draft:
    """A probe before it is known how knowledge is read."""

    entry: Entry
    ring: Ring
    kind: str
    cluster: str
    given: bool
    question: str

    @property
    def name(self) -> str:
        return self.entry.id or f"{self.ring}/{self.kind}/{self.entry.fact}"


@dataclass(frozen=True)
class Asked:
    """All probes of a split."""

    probes: tuple[Probe, ...]
    knowledge: Knowledge
    why: str
    """Why knowledge is read so, one sentence."""
    warnings: list[str]


def make_probes(sets: Sets, spec: TaskSpec) -> Asked:
    """The probes in a fixed order: forget, near, far, world, holdout; those made from rows before the file's own.

    Raises ``UsageError`` for two probes of one id, and where ``knowledge: candidates`` meets a probe without them.
    """
    warnings: list[str] = []
    drafts = [*_from_rows(sets, spec, warnings), *_from_file(sets)]
    drafts.sort(key=lambda draft: RINGS.index(draft.ring))
    names = _names(drafts)
    scored = [(draft, name) for draft, name in zip(drafts, names, strict=True) if draft.ring != "holdout"]
    bare = next((draft for draft, _ in scored if not _has_wrong(draft.entry)), None)
    if spec.knowledge == "candidates" and bare is not None:
        raise bare.entry.where.error(
            f"knowledge: candidates wants wrong answers beside the right one, and this {bare.ring} question has none.",
            "Fill in its candidates, or say knowledge: auto in the task file.",
        )
    problems: list[str] = []
    if bare is None:
        trial = ((draft, _probe(draft, name, "candidates")) for draft, name in scored)
        problems = [f"{draft.entry.where}: {text}" for draft, probe in trial for text in candidate_problems(probe)]
    knowledge, why = _knowledge(spec, bare, problems)
    if knowledge == "candidates":
        warnings += problems[:5]
        warnings += [f"… and {len(problems) - 5} more about candidates."] if len(problems) > 5 else []
    # A holdout question has one answer, and only membership inference asks it, by that answer's probability.
    kept = scored if knowledge == "candidates" else list(zip(drafts, names, strict=True))
    return Asked(tuple(_probe(draft, name, knowledge) for draft, name in kept), knowledge, why, warnings)


def _knowledge(spec: TaskSpec, bare: Draft | None, problems: Sequence[str]) -> tuple[Knowledge, str]:
    if spec.knowledge != "auto":
        return spec.knowledge, "the task file says so"
    if bare is not None:
        return "probability", f"{bare.entry.where} has no wrong answers"
    if problems:
        return "probability", f"the candidates don't compare: {problems[0].rstrip('.')}"
    return "candidates", "every probe has enough candidates of one form"


def _has_wrong(entry: Entry) -> bool:
    return bool(entry.candidates or entry.perturbed)


def _from_file(sets: Sets) -> Iterator[Draft]:
    given = {entry.fact for entry in sets.retain}
    for entry in sets.probes:
        ring = cast(Ring, entry.ring)
        is_given = ring in ("near", "far") and entry.fact in given
        yield Draft(entry, ring, entry.kind, entry.cluster, is_given, entry.question)


def _from_rows(sets: Sets, spec: TaskSpec, warnings: list[str]) -> Iterator[Draft]:
    direct = {probe.fact for probe in sets.probes if (probe.ring, probe.kind) == ("forget", KINDS["forget"])}
    asked = {probe.fact for probe in sets.probes}
    for entry in sets.forget:
        if entry.fact not in direct:
            yield Draft(entry, "forget", KINDS["forget"], entry.subject, False, entry.question)
        for question in entry.paraphrases:
            yield Draft(entry, "forget", "paraphrase", entry.subject, False, question)
    far: dict[bool, list[Draft]] = {True: [], False: []}
    for given, entries in ((True, sets.retain), (False, sets.withheld)):
        for entry in entries:
            if entry.fact in asked:
                continue
            if entry.subject in sets.subjects:
                yield Draft(entry, "near", KINDS["near"], entry.subject, given, entry.question)
            else:
                far[given].append(Draft(entry, "far", KINDS["far"], entry.subject, given, entry.question))
    yield from _most_far(far, spec.far_probes, warnings)
    for entry in sets.holdout:
        if entry.fact not in asked:
            yield Draft(entry, "holdout", KINDS["holdout"], entry.subject, False, entry.question)


def _most_far(far: dict[bool, list[Draft]], most: int, warnings: list[str]) -> Iterator[Draft]:
    """At most ``most`` far probes, half of them given where there are enough of both, by their questions' SHA-256."""
    n_all = len(far[True]) + len(far[False])
    n_withheld = min(len(far[False]), max(most - most // 2, most - len(far[True])))
    wanted = {False: n_withheld, True: min(len(far[True]), most - n_withheld)}
    if n_all > most:
        warnings.append(f"{most} of {n_all} far rows are asked (far_probes: {most}).")
    for given in (True, False):
        ordered = sorted(far[given], key=lambda draft: mark(draft.question))
        chosen = {id(draft) for draft in ordered[: wanted[given]]}
        yield from (draft for draft in far[given] if id(draft) in chosen)


def _names(drafts: Sequence[Draft]) -> list[str]:
    """An id for each draft; those that share one are counted. Two of the file's own with one id are refused."""
    own: dict[str, Draft] = {}
    for draft in drafts:
        if draft.entry.id and own.setdefault(draft.entry.id, draft) is not draft:
            raise draft.entry.where.error(
                f"the probe id {draft.entry.id!r} is used at {own[draft.entry.id].entry.where} already."
            )
    count: Counter[str] = Counter()
    names = []
    for draft in drafts:
        name = draft.name
        while not draft.entry.id and (name in own or count[name]):
            count[draft.name] += 1
            name = f"{draft.name}/{count[draft.name]}"
        count[name] += 1
        names.append(name)
    return names


def _probe(draft: Draft, name: str, knowledge: Knowledge) -> Probe:
    entry = draft.entry
    texts = _candidates(entry) if knowledge == "candidates" else _whole(entry)
    accept = (entry.value, *entry.aliases) if texts["answer"] == entry.answer else entry.aliases
    return Probe(
        id=name,
        ring=draft.ring,
        kind=draft.kind,
        subject=entry.subject,
        cluster=draft.cluster,
        fact=entry.fact,
        messages=(Message(role="user", content=draft.question),),
        accept=tuple(text for text in dict.fromkeys(accept) if text and text != texts["answer"]),
        given=draft.given,
        pair=entry.pair or None,
        generate=draft.ring != "holdout",
        **texts,
    )


def _candidates(entry: Entry) -> dict[str, Any]:
    """The candidates behind the words that all answers begin with; whole sentences where they differ as such."""
    if not entry.candidates:
        return {"answer": entry.answer, "candidates": (entry.answer, *entry.perturbed)}
    before, _ = entry.around()
    # What stands before a candidate without a blank (a quotation mark) belongs to every candidate.
    stuck = re.split(r"\s", before)[-1]
    return {
        "answer_prefix": before.removesuffix(stuck).rstrip(),
        "answer": stuck + entry.right,
        "candidates": tuple(stuck + candidate for candidate in entry.candidates),
    }


def _whole(entry: Entry) -> dict[str, Any]:
    """Whole answers: the right one, the right one in other words, wrong ones."""
    paraphrased = entry.paraphrased_answer or None
    every = (entry.answer, *([paraphrased] if paraphrased else []), *entry.wrong)
    return {"answer": entry.answer, "candidates": tuple(dict.fromkeys(every)), "paraphrased": paraphrased}
