"""The yardstick: what target and references answer, the same for every submission of a task version and model.

``leaderboard/references/<task>/<problem>/<first 12 of the task hash>/`` holds ``probes.jsonl.gz`` (unbench.probes/1:
every probe) and for each model a folder with ``responses.jsonl.gz`` (``rows``) and
``attacks/*.jsonl.gz`` (one file an attack). ``leaderboard/tasks.lock.json`` holds their hashes and only ever grows, so
that nobody brings a yardstick of their own. Where a task's rows may not be handed on (``takes_data_dir``) its probes
are not stored: they are read from the reader's own copy of the data, whose hash must be the lock's.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from unbench.attacks.measure import Base, base_of
from unbench.errors import EnvironmentProblem, UnbenchError, UsageError
from unbench.results.store import write_bytes, write_text
from unbench.submissions.rows import AttackRows, Rows, read_attacks, read_rows
from unbench.submissions.schema import NAME, Hash, Yardstick
from unbench.submissions.strict import Refused, pack, parse, read_file, shown, unpack
from unbench.task import Knowledge, Probe, canonical_json

if TYPE_CHECKING:
    import pandas as pd

LOCK_NAME = "tasks.lock.json"
PROBES_SCHEMA = "unbench.probes/1"
MAX_YARDSTICK = 50 * 2**20
"""Bytes of a file of the yardstick: ours, so it may be larger than a stranger's."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, populate_by_name=True)


class LockedAttack(_Model):
    """What one attack found on reference and target."""

    name: str
    """Qualified name."""
    kind: str
    """weights, prompt, decoding or internal."""
    config: dict[str, Any]
    """Its settings."""
    train: dict[str, Any]
    """How it trains weights, where it does: as the run's method."""
    source: Hash
    """SHA-256 over its source file."""
    sha256: Hash
    """Over the file."""


class LockedModel(_Model):
    """One model's answers to one task version."""

    model: str
    """Model name, hub id or folder name."""
    model_hash: Hash
    """SHA-256 over the target's files."""
    references: list[str]
    """SHA-256 over each reference's files or responses."""
    responses: Hash
    """Over the file of target's and references' answers."""
    attacks: list[LockedAttack] = Field(default_factory=list)
    """What attacks found on them."""


class LockedTask(_Model):
    """One version of one task."""

    task: str = Field(pattern=rf"^{NAME}/{NAME}$")
    """task/problem."""
    version: str
    """Version of its data and probes."""
    task_hash: Hash
    """SHA-256 over its rows and probes."""
    knowledge: Knowledge
    """candidates or probability."""
    target: Literal["trained", "given"]
    """Whether the target was trained on the task's rows."""
    probes: Hash | None
    """Over the file of its probes; null where its rows may not be handed on."""
    models: list[LockedModel] = Field(default_factory=list)
    """Models that it was asked of."""

    @property
    def folder(self) -> str:
        return f"{self.task}/{self.task_hash[:12]}"


class Lock(_Model):
    """``tasks.lock.json``."""

    schema_: Literal["unbench.tasks-lock/1"] = Field(default="unbench.tasks-lock/1", alias="schema")
    """Schema and version of this file."""
    tasks: list[LockedTask] = Field(default_factory=list)
    """Every task version that results were ever held against."""

    @model_validator(mode="after")
    def _once_each(self) -> Lock:
        """Of two answers to one question nobody could say which one counts."""
        said: list[tuple[str, Any]] = [("task", (one.task, one.task_hash)) for one in self.tasks]
        for task in self.tasks:
            said += [("model", (task.task, task.task_hash, one.model_hash)) for one in task.models]
            for model in task.models:
                at = (task.task, task.task_hash, model.model_hash)
                keys = ((one.name, one.source, one.config, one.train) for one in model.attacks)
                said += [("attack", canonical_json([*at, *key])) for key in keys]
                said += [("attack's file", (*at, one.sha256)) for one in model.attacks]
        if len(set(said)) < len(said):
            raise ValueError("an entry stands there twice")
        return self

    def find(self, task: str, task_hash: str) -> LockedTask | None:
        return next((one for one in self.tasks if (one.task, one.task_hash) == (task, task_hash)), None)


@dataclass(frozen=True)
class Measuring:
    """A yardstick, read."""

    task: LockedTask
    model: LockedModel
    probes: tuple[Probe, ...]
    rows: Rows
    attacks: dict[str, AttackRows]
    """SHA-256 of an attack's file -> what it found."""

    @property
    def target(self) -> pd.DataFrame:
        return self.rows.frames["target"]

    @property
    def references(self) -> list[pd.DataFrame]:
        return [frame for of, frame in self.rows.frames.items() if of != "target"]

    @property
    def known_only(self) -> bool:
        return self.task.target == "given"

    @cached_property
    def base(self) -> Base:
        """What attacks are held against."""
        return base_of(self.target, self.references, self.task.knowledge, self.known_only)

    @cached_property
    def asked(self) -> dict[str, Probe]:
        """The probes that attacks ask, by id (of the pair, where they are one of two)."""
        return asked_by_attacks(self.probes, self.target, self.task)

    def locked_attack(self, sha256: str) -> LockedAttack | None:
        return next((one for one in self.model.attacks if one.sha256 == sha256), None)


def read_lock(leaderboard: Path) -> Lock:
    """The lock of a leaderboard's folder, an empty one where there is none. Raises ``UsageError`` for a broken one."""
    path = leaderboard / LOCK_NAME
    if not path.exists():
        return Lock()
    try:
        return Lock.model_validate(parse(read_file(path, MAX_YARDSTICK)))
    except Refused as why:
        raise _again(path, f"{path} can't be read: it {why}.") from why
    except ValidationError as problem:
        first = problem.errors()[0]
        where = shown(".".join(str(part) for part in first["loc"]))
        said = f"{where}: {first['msg']}" if where else first["msg"]
        raise _again(path, f"{path} can't be read: it doesn't fit its schema ({said}).") from problem


def _again(path: Path, said: str) -> UsageError:
    return UsageError(said, f"Take it from git again: git checkout {path}.")


def write_lock(leaderboard: Path, lock: Lock) -> None:
    """Write ``tasks.lock.json``. Raises ``ValidationError`` for a lock that could not be read again."""
    body = Lock.model_validate(lock.model_dump()).model_dump(mode="json", by_alias=True)
    write_text(leaderboard / LOCK_NAME, json.dumps(body, indent=1, ensure_ascii=False) + "\n")


def slug(model: str) -> str:
    """A model's name as a folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "--", model).strip(".-") or "model"


def model_folder(leaderboard: Path, task: LockedTask, model: LockedModel) -> Path:
    return leaderboard / "references" / task.folder / f"{slug(model.model)}-{model.model_hash[:8]}"


def attack_file(folder: Path, attack: LockedAttack) -> Path:
    return folder / "attacks" / f"{slug(attack.name.removeprefix('unbench:'))}-{attack.sha256[:8]}.jsonl.gz"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Yardsticks:
    """Yardsticks of a leaderboard's folder, each read once."""

    def __init__(self, leaderboard: Path, data_dir: Path | None = None) -> None:
        self.leaderboard = leaderboard
        self.lock = read_lock(leaderboard)
        self._data_dir = data_dir
        self._read: dict[tuple[str, str, str], Measuring] = {}

    def find(self, task: str, named: Yardstick) -> Measuring:
        """The yardstick that a submission names. Raises ``Refused`` where there is none, ``EnvironmentProblem`` where
        the task's data is wanted and isn't there, ``UsageError`` where the files are not those of the lock."""
        locked = self.lock.find(task, named.task_hash)
        if locked is None:
            raise Refused(f"is of a version of {task} that {LOCK_NAME} doesn't know")
        model = next((one for one in locked.models if one.model_hash == named.model_hash), None)
        if model is None:
            raise Refused(f"is of a model whose answers {LOCK_NAME} doesn't know")
        if model.responses != named.responses:
            raise Refused("is held against other answers than the lock's")
        return self.read(locked, model)

    def read(self, task: LockedTask, model: LockedModel) -> Measuring:
        """A yardstick of the lock."""
        key = (task.task, task.task_hash, model.model_hash)
        if key not in self._read:
            self._read[key] = self._open(task, model)
        return self._read[key]

    def _open(self, task: LockedTask, model: LockedModel) -> Measuring:
        probes = self._probes(task)
        folder = model_folder(self.leaderboard, task, model)
        try:
            rows = read_rows(self._content(folder / "responses.jsonl.gz", model.responses), probes, task.knowledge)
            if "target" not in rows.frames:
                raise Refused("has no answers of the target")
            asked = asked_by_attacks(probes, rows.frames["target"], task)
            attacks = {
                one.sha256: read_attacks(self._content(attack_file(folder, one), one.sha256), asked, keyed=True)
                for one in model.attacks
            }
        except Refused as why:
            raise _again(folder, f"The yardstick in {folder} {why}.") from why
        return Measuring(task, model, probes, rows, attacks)

    def _probes(self, task: LockedTask) -> tuple[Probe, ...]:
        if task.probes is None:
            return self._probes_of_data(task)
        path = self.leaderboard / "references" / task.folder / "probes.jsonl.gz"
        try:
            lines = [parse(line) for line in unpack(self._content(path, task.probes)).splitlines()]
            return tuple(Probe.model_validate(line) for line in lines[1:])
        except (Refused, ValidationError) as why:
            raise _again(path, f"The probes in {path} can't be read.") from why

    def _probes_of_data(self, task: LockedTask) -> tuple[Probe, ...]:
        from unbench.models.prepare import holdout_probes
        from unbench.plan import data_folder
        from unbench.plugins import names_file, open_task

        if names_file(task.task):
            raise Refused(f"is of {task.task}, whose rows lie in a file of somebody's own")
        give = f"Give the folder of its data: --data-dir (or UNBENCH_DATA); 'unbench tasks {task.task}' says which."
        try:
            found = open_task(task.task, "report", data_folder(task.task, self._data_dir), ())
            own = found.hash
        except UnbenchError as problem:
            said = f"The probes of {task.task} are read from its data: {problem.message}"
            raise EnvironmentProblem(said, give) from problem
        if own != task.task_hash:
            raise EnvironmentProblem(f"The data of {task.task} here is another version than the lock's.", give)
        return (*found.probes(), *holdout_probes(found, None))

    def _content(self, path: Path, expected: str) -> bytes:
        content = read_file(path, MAX_YARDSTICK)
        if sha256(content) != expected:
            raise Refused(f"({path.name}) is not the one of {LOCK_NAME}")
        return content


def asked_by_attacks(probes: Sequence[Probe], target: pd.DataFrame, task: LockedTask) -> dict[str, Probe]:
    """The probes that attacks ask again, by id (of the pair, where they are one of two); ``target``: its responses."""
    from unbench.attacks.harness import forget_probes
    from unbench.models.prepare import known_facts

    facts = {probe.fact for probe in probes if probe.ring == "forget"}
    if task.target == "given":
        facts &= known_facts(target, task.knowledge)
    return {probe.pair or probe.id: probe for probe in forget_probes(probes, facts)}


def probes_content(probes: Sequence[Probe]) -> bytes:
    """``probes.jsonl.gz``."""
    lines = [canonical_json({"schema": PROBES_SCHEMA, "probes": len(probes)})]
    lines += [canonical_json(one.model_dump(mode="json")) for one in probes]
    return pack(("\n".join(lines) + "\n").encode())


def keep_files(files: Mapping[Path, bytes]) -> None:
    """Write files that aren't there; one that is there with other content is never overwritten."""
    for path, content in files.items():
        if path.exists() and path.read_bytes() != content:
            raise UsageError(
                f"{path} is there with other content.", "The lock only grows: give the task a new version."
            )
        if not path.exists():
            write_bytes(path, content)
