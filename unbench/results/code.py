"""Which UnBench made a result: the commit of the checkout that it runs from."""

from __future__ import annotations

import subprocess
from pathlib import Path

from unbench.results.schema import Code


def own_code(root: Path | None = None) -> Code:
    """The commit of UnBench's own checkout (``root``), and whether tracked files differ from it; nothing where
    UnBench was installed from a wheel or there is no git."""
    root = root or Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return Code()
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return Code(commit=commit, dirty=None if changed is None else bool(changed))


def _git(root: Path, *arguments: str) -> str | None:
    """What git says, None where it can't. Reading takes no lock: a run must not disturb a commit made beside it."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *arguments],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
