"""L2: what stood on the board before is never edited; entries are added, superseded or taken back, and get further
attacks: those take hours on a large model, and belong to the same run-id whenever they are done."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unbench.errors import UsageError
from unbench.submissions import files as names
from unbench.submissions.check import Finding
from unbench.submissions.strict import Refused, parse, read_file, shown, unpacked_lines
from unbench.submissions.yardstick import LOCK_NAME, MAX_YARDSTICK
from unbench.task import canonical_json

OF_ATTACKS = (
    ("result", "attacks"), ("result", "worst"), ("ranking", "overall_worst"), ("yardstick", "attacks"),
    ("files", names.ATTACKS_FILE),
)  # fmt: skip
"""Places of an old submission.json that further attacks change."""
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
    judge = JUDGES.get(now.name)
    if judge is not None:
        allowed, why = judge
        try:
            after = read_file(now, MAX_YARDSTICK)
            before = _git_bytes(root, "cat-file", "blob", blob)
            return None if allowed(before, after) else why
        except Refused as problem:
            return f"was there before and {problem}"
    return EDITED


def _entry_stands(before: bytes, after: bytes) -> bool:
    """Whether a submission.json was only taken back, or only got further attacks."""
    old, new = parse(before), parse(after)
    if not isinstance(old, dict) or not isinstance(new, dict):
        return False
    return _only_retracted(old, new) or _only_attacked(old, new)


def _only_retracted(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    rest = [{key: value for key, value in one.items() if key != "retracted"} for one in (old, new)]
    fresh = old.get("retracted") is None and isinstance(new.get("retracted"), str)
    return fresh and canonical_json(rest[0]) == canonical_json(rest[1])


def _only_attacked(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Every number that stood there stands there still; an attack that could not be carried out may have been."""
    if canonical_json(_without_attacks(old)) != canonical_json(_without_attacks(new)):
        return False
    try:
        found = {one["name"]: canonical_json(one) for one in new["result"]["attacks"]}
        done = {one["name"]: canonical_json(one) for one in old["result"]["attacks"] if one["points"]}
        tried = {one["name"] for one in old["result"]["attacks"]}
        held, held_now = (dict(one["yardstick"]["attacks"]) for one in (old, new))
    except (LookupError, TypeError, ValueError):
        return False
    return tried <= found.keys() and done.items() <= found.items() and held.items() <= held_now.items()


def _without_attacks(body: Mapping[str, Any]) -> dict[str, Any]:
    left = dict(body)
    for outer, inner in OF_ATTACKS:
        part = left.get(outer)
        if isinstance(part, dict):
            left[outer] = {key: value for key, value in part.items() if key != inner}
    return left


def _rows_stand(before: bytes, after: bytes) -> bool:
    """Whether a packed file holds every line that it had."""
    missing = {line for _, line in unpacked_lines(before)}
    for _, line in unpacked_lines(after):
        missing.discard(line)
    return not missing


def _lock_stands(before: bytes, after: bytes) -> bool:
    return _grown(parse(before), parse(after))


EDITED = "was there before and was edited; submit the run anew with --supersedes"
JUDGES: dict[str, tuple[Callable[[bytes, bytes], bool], str]] = {
    LOCK_NAME: (_lock_stands, "an entry of the lock was changed or taken out"),
    names.SUBMISSION_FILE: (_entry_stands, EDITED),
    names.ATTACKS_FILE: (_rows_stand, EDITED),
}
"""What may change, and why where it may not: a file's name -> whether what it held before still stands in it."""


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
