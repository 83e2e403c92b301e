"""Where a submission lies and which files it may hold."""

from __future__ import annotations

import json
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
_PART = re.compile(rf"^{NAME}$")
_RUN = re.compile(r"^[0-9a-f]{12}$")


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
        if len(parts) < 4 or not all(_PART.match(part) for part in parts[:3]) or not _RUN.match(parts[3]):
            return None
        return cls(f"{parts[0]}/{parts[1]}", parts[2], parts[3])


def leaderboard_of(folder: Path) -> Path:
    """The folder that holds the lock: the nearest one above a submission, or above submissions, that has one; else the
    one above ``submissions``, else the folder itself."""
    from unbench.submissions.yardstick import LOCK_NAME

    whole = folder.resolve()
    for one in (whole, *whole.parents):
        if (one / LOCK_NAME).is_file():
            return one
    for one in (whole, *whole.parents):
        if one.name == "submissions":
            return one.parent
    return whole
