"""``FileTask``: a task that a YAML file describes, ``unbench run --task my.yaml``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, get_args

from unbench.errors import UsageError
from unbench.task import Probe, Row, Split, Task, TaskCard, TaskData, canonical_json
from unbench.userdata.entries import Entry
from unbench.userdata.probes import make_probes
from unbench.userdata.read import kind_of, read_spec
from unbench.userdata.sets import read_sets
from unbench.userdata.spec import TaskSpec

FAMILY = "user"
SHORTEST, LONGEST = 32, 256
"""Bounds of a greedy answer, in tokens, where the task file doesn't say."""


class FileTask(Task):
    """The task of one YAML file, for one split: ``FileTask(Path("my.yaml"))`` is ``user/<name>``.

    Everything is read and checked at once. Raises ``UsageError`` naming file and line of the first mistake, and
    ``EnvironmentProblem`` where rows come from the hub and it can't be reached.
    """

    family: ClassVar[str] = FAMILY
    default_problem: ClassVar[str] = "task"
    version: ClassVar[str] = "1"
    card: ClassVar[TaskCard] = TaskCard(title="A task of one's own", summary="", bibtex="", licence="")

    spec: TaskSpec
    path: Path
    why_knowledge: str
    """Why knowledge is read as it is, one sentence."""
    warnings: tuple[str, ...]
    """What is allowed and yet worth a look, each one sentence."""

    def __init__(self, path: Path, split: Split = "report") -> None:
        if split not in get_args(Split):
            raise UsageError(f"There is no split {split!r}.", "Use 'report' (results) or 'select' (tuning).")
        document = read_spec(path)
        if not isinstance(document.values, dict):
            raise document.error(
                (), f"a task file has fields such as name: and forget:, and this is {kind_of(document.values)}."
            )
        spec = document.parse(TaskSpec)
        super().__init__(spec.name, split)
        self.path, self.spec = path, spec
        sets = read_sets(spec, document, split)
        asked = make_probes(sets, spec)
        self.sources = dict(sets.sources)
        self.why_knowledge = asked.why
        self._probes = asked.probes
        self._data = TaskData(**{name: tuple(map(_row, entries)) for name, entries in sets.rows().items()})
        self.warnings = (*sets.warnings, *asked.warnings, *_untrained(spec, sets.probes, self._data))
        # A family's are its class's; here each file says its own.
        vars(self).update(
            version=spec.version,
            default_model=spec.model,
            target=spec.target,
            knowledge=asked.knowledge,
            max_new_tokens=spec.max_new_tokens or _answer_limit(asked.probes),
            card=TaskCard(spec.name, spec.description, bibtex="", licence=""),
        )

    def data(self) -> TaskData:
        return self._data

    def probes(self) -> Sequence[Probe]:
        return self._probes

    @cached_property
    def hash(self) -> str:
        """SHA-256 over rows, probes and what else of the task file decides a number."""
        body = {"content": super().hash, "target": self.target, "max_new_tokens": self.max_new_tokens}
        return hashlib.sha256(canonical_json(body).encode()).hexdigest()


def _row(entry: Entry) -> Row:
    return Row(
        question=entry.question,
        answer=entry.answer,
        fact=entry.fact,
        subject=entry.subject,
        relation=entry.relation,
        value=entry.value if entry.value in entry.answer else "",
        aliases=entry.aliases,
    )


def _answer_limit(probes: Sequence[Probe]) -> int:
    """Twice the longest right answer, a token counted as four bytes of UTF-8 (so that scripts of three bytes a letter
    get a token a letter and more)."""
    longest = max(len(f"{probe.answer_prefix} {probe.answer}".strip().encode()) for probe in probes)
    return min(LONGEST, max(SHORTEST, longest // 2))


def _untrained(spec: TaskSpec, probes: Sequence[Entry], data: TaskData) -> list[str]:
    if spec.target != "trained":
        return []
    trained = {row.fact for rows in (data.forget, data.retain, data.withheld) for row in rows}
    strange = [probe for probe in probes if probe.ring in ("near", "far") and probe.fact not in trained]
    if not strange:
        return []
    return [
        f"{strange[0].where}: this {strange[0].ring} probe asks for a fact without a row, and the target is trained on "
        f"rows ({len(strange)} such)."
    ]
