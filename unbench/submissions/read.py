"""Reading a submission from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from unbench.errors import UnbenchError
from unbench.submissions import files as names
from unbench.submissions.rows import AttackRows, Rows, read_attacks, read_rows
from unbench.submissions.schema import Submission
from unbench.submissions.strict import Refused, parse, read_file
from unbench.submissions.yardstick import Measuring, Yardsticks, sha256

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Opened:
    """One submission's files, read and within their limits; nothing in them has been believed yet."""

    folder: Path
    body: dict[str, Any]
    """``submission.json`` as it stands there."""
    submission: Submission
    contents: Mapping[str, bytes]
    """Every other file by name."""

    def rows(self, yard: Measuring) -> tuple[Rows, AttackRows]:
        """What the unlearned models answered. Raises ``Refused``."""
        rows = read_rows(self.contents[names.ROWS_FILE], yard.probes, yard.task.knowledge)
        packed = self.contents.get(names.ATTACKS_FILE)
        return rows, AttackRows({}) if packed is None else read_attacks(packed, yard.asked)


def find(root: Path) -> list[Path]:
    """Folders below ``root`` that hold a ``submission.json``, in the order of their paths; links are not followed."""
    if not root.is_dir():
        return [root.parent] if root.name == names.SUBMISSION_FILE else []
    return names.walk(root).submissions


def read_submission(folder: Path) -> tuple[dict[str, Any], Submission]:
    """``submission.json``, as it stands there and as the schema reads it. Raises ``Refused``."""
    path = folder / names.SUBMISSION_FILE
    try:
        content = read_file(path, names.MAX_SIZES[names.SUBMISSION_FILE])
        body = parse(content)
        if not isinstance(body, dict):
            raise Refused("is no JSON object")
        # Strict all through: the result in it takes "1" and true for a number elsewhere.
        return body, Submission.model_validate(body, strict=True)
    except Refused as why:
        raise Refused(f"{path.name} {why}") from why
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused(f"{path.name} doesn't fit its schema ({where}: {first['msg']})") from problem


def open_submission(folder: Path) -> Opened:
    """A submission with all its files. Raises ``Refused`` with the first reason why it can't be taken."""
    body, submission = read_submission(folder)
    contents = {}
    try:
        paths = sorted(folder.iterdir())
    except OSError as problem:
        raise Refused(f"can't be read ({problem.strerror})") from problem
    for path in paths:
        if path.name == names.SUBMISSION_FILE:
            continue
        if path.name not in names.MAX_SIZES:
            raise Refused(f"holds {path.name}, which is no file of a submission")
        if path.name not in submission.files:
            raise Refused(f"holds {path.name}, which submission.json doesn't name")
        try:
            content = read_file(path, names.MAX_SIZES[path.name])
        except Refused as why:
            raise Refused(f"{path.name} {why}") from why
        if sha256(content) != submission.files[path.name]:
            raise Refused(f"{path.name} is not the file whose hash submission.json holds")
        contents[path.name] = content
    missing = [name for name in {*names.NEEDED, *submission.files} if name not in contents]
    if missing:
        raise Refused(f"has no {min(missing)}")
    return Opened(folder, body, submission, contents)


@cache
def yardsticks(leaderboard: Path) -> Yardsticks:
    """The yardsticks of a leaderboard's folder, each read once a process."""
    return Yardsticks(leaderboard)


def probe_table(folder: Path, submission: Submission, leaderboard: Path) -> pd.DataFrame | None:
    """What each model knew of each probe and said to it (``unbench.results.probes``); None where the rows or the
    yardstick can't be had."""
    from unbench.results.probes import probe_table as table

    try:
        yard = yardsticks(leaderboard).find(submission.result.task, submission.yardstick)
        content = read_file(folder / names.ROWS_FILE, names.MAX_SIZES[names.ROWS_FILE])
        rows = read_rows(content, yard.probes, yard.task.knowledge)
    except (Refused, UnbenchError):
        return None
    frames = {int(of): frame for of, frame in rows.frames.items()}
    return table(frames, yard.target, yard.references, yard.task.knowledge)
