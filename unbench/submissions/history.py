"""L2: what stood on the board before is never edited; entries are added, superseded or taken back."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unbench.errors import UsageError
from unbench.submissions import files as names
from unbench.submissions.check import Finding
from unbench.submissions.strict import Refused, parse, read_file, shown
from unbench.submissions.yardstick import LOCK_NAME, MAX_YARDSTICK
from unbench.task import canonical_json

MAY_CHANGE = ("retracted",)
"""Fields of an old submission.json that may be filled later."""
GROWS = ("tasks", "models", "attacks")
"""Lists of the lock that may get further entries."""


def compare_with(leaderboard: Path, base: str) -> Iterator[Finding]:
    """Everything below ``leaderboard`` that the git ref ``base`` had otherwise. Raises ``UsageError`` where git doesn't
    know the ref."""
    root = Path(_git(leaderboard, "rev-parse", "--show-toplevel").strip())
    commit = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{base}^{{commit}}").strip()
    inside = leaderboard.resolve().relative_to(root.resolve()).as_posix()
    places = [f"{inside}/{name}" for name in ("submissions", "references", LOCK_NAME)]
    for line in _git(root, "ls-tree", "-r", "-z", commit, "--", *places).split("\0"):
        if not line:
            continue
        about, _, path = line.partition("\t")
        blob = about.split()[2]
        now = root / path
        if _there(root, path) and _hash(root, now) == blob:
            continue
        why = _edited(root, now, blob, path)
        if why:
            yield Finding(shown(path), "L2", why)


def _edited(root: Path, now: Path, blob: str, path: str) -> str | None:
    """Why a change is not allowed; None where it is."""
    if not _there(root, path):
        return "was there before and is gone"
    if now.name in (LOCK_NAME, names.SUBMISSION_FILE):
        try:
            after = parse(read_file(now, MAX_YARDSTICK))
            before = parse(_git_bytes(root, "cat-file", "blob", blob))
        except Refused as why:
            return f"was there before and {why}"
        if now.name == LOCK_NAME:
            return None if _grown(before, after) else "an entry of the lock was changed or taken out"
        if _only_retracted(before, after):
            return None
    return "was there before and was edited; submit the run anew with --supersedes"


def _only_retracted(before: Any, after: Any) -> bool:
    if not isinstance(before, dict) or not isinstance(after, dict) or before.get("retracted") is not None:
        return False
    rest = [{key: value for key, value in one.items() if key not in MAY_CHANGE} for one in (before, after)]
    return canonical_json(rest[0]) == canonical_json(rest[1]) and isinstance(after.get("retracted"), str)


def _there(root: Path, path: str) -> bool:
    """Whether a file is there itself: a link, also of a folder above it, is not the file."""
    now = root
    for part in Path(path).parts:
        now = now / part
        if now.is_symlink():
            return False
    return now.is_file()


def _grown(before: Any, after: Any, name: str = "") -> bool:
    """Whether ``after`` holds all of ``before``: lists of entries may have got further ones at their end."""
    if isinstance(before, dict):
        if not isinstance(after, dict) or before.keys() != after.keys():
            return False
        return all(_grown(value, after[key], key if name in ("", *GROWS) else "-") for key, value in before.items())
    if isinstance(before, list) and name in GROWS:
        return isinstance(after, list) and len(after) >= len(before) and _all_grown(before, after, name)
    return canonical_json(before) == canonical_json(after)


def _all_grown(before: list[Any], after: list[Any], name: str) -> bool:
    return all(_grown(one, other, name) for one, other in zip(before, after, strict=False))


def _hash(root: Path, path: Path) -> str:
    return _git(root, "hash-object", "--no-filters", "--", str(path)).strip()


def _git(folder: Path, *arguments: str) -> str:
    return _git_bytes(folder, *arguments).decode("utf-8", errors="replace")


def _git_bytes(folder: Path, *arguments: str) -> bytes:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, check=True, timeout=120).stdout
    except FileNotFoundError as problem:
        raise UsageError("git is not installed here.", "Install it, or leave out --base.") from problem
    except subprocess.SubprocessError as problem:
        said = getattr(problem, "stderr", b"") or b""
        why = shown(said.decode(errors="replace").strip() or "it doesn't know it")
        name = "Name a commit or branch: --base origin/main."
        raise UsageError(f"git can't compare with the base: {why}.", name) from problem
