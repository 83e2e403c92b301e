"""What a board is made of: runs, as submissions with what maintainers found of them, or as plain run folders."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from unbench.leaderboard.labels import printable
from unbench.leaderboard.reader import collect, created, newest, run_key
from unbench.results.schema import Result

if TYPE_CHECKING:
    from unbench.submissions.schema import Submission, Verified


logger = logging.getLogger(__name__)

BADGES: Mapping[str, str] = {
    "local": "A run of this machine that nobody submitted.",
    "claimed": "Submitted; nobody has checked its numbers yet.",
    "consistent": "Every number follows from the answers that came with it.",
    "re-evaluated": "A maintainer asked the published weights again and found the same.",
    "reproduced": "A maintainer made the run again and found the same.",
    "refuted": "A maintainer tried it and found other numbers.",
}
"""What stands behind a number, the least first."""
VERIFIED = frozenset({"re-evaluated", "reproduced"})
"""Badges that only a maintainer gives."""


@dataclass(frozen=True)
class Entry:
    """One run, and what is known of it."""

    result: Result
    submission: Submission | None = None
    folder: Path | None = None
    """Where its files lie; None for a result that came without."""
    digest: str = ""
    """SHA-256 of submission.json."""
    verified: Verified | None = None
    consistent: bool = False
    """Whether its rows were found to give its numbers."""
    superseded_by: str | None = None
    """Run-id of the submission that took its place."""

    @property
    def badge(self) -> str:
        """One of ``BADGES``."""
        if self.submission is None:
            return "local"
        if self.verified is not None:
            return self.verified.badge
        return "consistent" if self.consistent else "claimed"

    @property
    def retracted(self) -> str | None:
        """Why it was taken back; None where it stands."""
        return None if self.submission is None else self.submission.retracted

    @property
    def standing(self) -> bool:
        """Whether it has a place on a board."""
        return self.retracted is None and self.superseded_by is None


def as_entries(runs: Iterable[Result | Entry]) -> list[Entry]:
    """Plain results count as local runs."""
    return [one if isinstance(one, Entry) else Entry(one) for one in runs]


def latest_entries(entries: Iterable[Entry]) -> list[Entry]:
    """The newest entry of each run (``reader.latest``), in that order, with who superseded whom."""
    kept = newest(entries, lambda entry: entry.result)
    heirs = {
        entry.submission.supersedes: entry
        for entry in sorted(kept, key=lambda entry: (created(entry.result), entry.result.run_id))
        if entry.submission is not None and entry.submission.supersedes and entry.retracted is None
    }
    found = []
    for entry in kept:
        heir = heirs.get(entry.result.run_id)
        if entry.submission is not None and heir is not None and heir is not entry and _may_supersede(heir, entry):
            entry = replace(entry, superseded_by=heir.result.run_id)
        found.append(entry)
    return found


def _may_supersede(new: Entry, old: Entry) -> bool:
    """A submission takes the place of its own method's older run on the same board, never a rival's."""
    a, b = new.result, old.result
    same = (a.method, a.task, a.hashes.task, a.model) == (b.method, b.task, b.hashes.task, b.model)
    return same and created(a) >= created(b)


def read_entries(folder: Path, consistent: AbstractSet[Path] = frozenset()) -> list[Entry]:
    """Every submission, and every plain run, anywhere below ``folder``, in the order of their paths.

    ``consistent`` are folders of submissions whose rows were found to give their numbers. What is broken
    is skipped with a warning. Raises ``UsageError`` where ``folder`` is no folder.
    """
    from unbench.submissions.files import SUBMISSION_FILE, leaderboard_of
    from unbench.submissions.read import find

    plain = {Path(result.dir): Entry(result, folder=Path(result.dir)) for result in collect(folder)}
    home = leaderboard_of(folder)
    for place in find(folder):
        entry = _read_submission(place / SUBMISSION_FILE, home, consistent)
        if entry is not None:
            plain[place] = entry
    return [plain[key] for key in sorted(plain)]


def _read_submission(path: Path, home: Path, consistent: AbstractSet[Path]) -> Entry | None:
    from pydantic import ValidationError

    from unbench.submissions.schema import Submission
    from unbench.submissions.strict import Refused, read_file

    try:
        content = read_file(path)
        submission = Submission.model_validate_json(content)
    except (Refused, ValueError, RecursionError) as problem:
        why = problem.errors()[0]["msg"] if isinstance(problem, ValidationError) else str(problem)
        logger.warning("skipped: %s", printable(f"{path} is no submission: {why[:200]}."))
        return None
    digest = hashlib.sha256(content).hexdigest()
    run_id = submission.result.run_id
    return Entry(
        submission.result.model_copy(update={"dir": ""}),
        submission=submission,
        folder=path.parent,
        digest=digest,
        verified=_read_verified(home, run_id, digest),
        consistent=path.parent in consistent,
    )


def _read_verified(home: Path, run_id: str, digest: str) -> Verified | None:
    """What a maintainer found of this very file; None where nobody looked, or looked at another."""
    from unbench.leaderboard.names import RUN_ID
    from unbench.submissions.schema import Verified

    path = home / "verifications" / f"{run_id}.json"
    if not RUN_ID.fullmatch(run_id) or not path.is_file():
        return None
    try:
        found = Verified.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as problem:
        logger.warning("skipped: %s", printable(f"{path} is no verification: {str(problem)[:200]}."))
        return None
    return found if found.run_id == run_id and found.submission == digest else None


def entry_key(entry: Entry) -> tuple[str, ...]:
    """What tells runs apart."""
    return run_key(entry.result)


def standing(entries: Sequence[Entry]) -> list[Entry]:
    """Those that boards show: on the ``report`` split, neither retracted nor superseded."""
    return [entry for entry in entries if entry.standing and entry.result.split == "report"]
