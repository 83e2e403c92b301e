"""Where a submission lies and which files it may hold."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from unbench.submissions.schema import NAME

SUBMISSION_FILE = "submission.json"
ROWS_FILE = "responses.jsonl.gz"
ATTACKS_FILE = "attacks.jsonl.gz"
PLAN_FILE = "plan.json"
METHOD_FILE = "method.py"
SAMPLES_FILE = "anti_samples.jsonl.gz"
MAX_SIZES = {
    SUBMISSION_FILE: 2 * 2**20,
    ROWS_FILE: 5 * 2**20,
    ATTACKS_FILE: 5 * 2**20,
    PLAN_FILE: 256 * 2**10,
    METHOD_FILE: 256 * 2**10,
    SAMPLES_FILE: 2**20,
}
"""Bytes by file; no other file belongs to a submission."""
NEEDED = (ROWS_FILE, PLAN_FILE)
MAX_LEVELS = 8
"""Folders below each other that are searched; a submission lies four below ``submissions``."""
BESIDE = frozenset({"README.md", ".gitkeep"})
"""Files that may lie in the folder of submissions itself."""
_PART = re.compile(NAME)
_RUN = re.compile(r"[0-9a-f]{12}")


def dump(body: Any) -> bytes:
    """JSON as every file of a submission is written: the same bytes for the same content."""
    return (json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


@dataclass(frozen=True)
class Place:
    """``<task>/<problem>/<method>/<run-id>``, below the folder of submissions."""

    task: str
    method: str
    run_id: str

    @property
    def path(self) -> PurePosixPath:
        return PurePosixPath(self.task) / self.method / self.run_id

    @classmethod
    def of(cls, folder: Path) -> Place | None:
        """The place that the last four parts of a path say; None where they are no place."""
        parts = folder.parts[-4:]
        if len(parts) < 4 or not all(_PART.fullmatch(part) for part in parts[:3]) or not _RUN.fullmatch(parts[3]):
            return None
        return cls(f"{parts[0]}/{parts[1]}", parts[2], parts[3])


@dataclass
class Walk:
    """What lies below a folder."""

    submissions: list[Path]
    """Folders with a ``submission.json``, in the order of their paths."""
    strays: list[tuple[Path, str]]
    """What has no place there, and why: links, and among the submissions files that belong to none."""


def walk(root: Path) -> Walk:
    """Everything below a folder; links are not followed."""
    found = Walk([], [])
    if root.is_symlink():
        found.strays.append((root, "is a symbolic link"))
        return found
    among = leaderboard_of(root) / "submissions"
    waiting = [(root, 0)]
    while waiting:
        folder, level = waiting.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as problem:
            found.strays.append((folder, f"can't be read ({problem.strerror})"))
            continue
        own = any(entry.name == SUBMISSION_FILE for entry in entries)
        place = folder.resolve()
        inside = place.is_relative_to(among)
        if own:
            found.submissions.append(folder)
        for entry in entries:
            path = folder / entry.name
            if entry.is_symlink():
                found.strays.append((path, "is a symbolic link"))
            elif entry.is_dir(follow_symlinks=False):
                if level < MAX_LEVELS:
                    waiting.append((path, level + 1))
                elif inside:
                    found.strays.append((path, "lies deeper than any submission"))
            elif inside and not own and not (place == among and entry.name in BESIDE):
                found.strays.append((path, "belongs to no submission"))
    return Walk(sorted(found.submissions), sorted(found.strays))


def leaderboard_of(folder: Path) -> Path:
    """The folder that holds the lock and, below it, the submissions; ``folder`` is it, or lies in it.

    A lock that lies among the submissions is a stranger's and counts for nothing."""
    from unbench.submissions.yardstick import LOCK_NAME

    whole = folder.resolve()
    line = (whole, *whole.parents)
    above = [one.parent for one in line if one.name == "submissions" and (one.parent / LOCK_NAME).is_file()]
    if above:
        return above[-1]
    for one in line:
        if (one / LOCK_NAME).is_file():
            return one
    for one in line:
        if one.name == "submissions":
            return one.parent
    return whole
