"""The commit in a result is that of UnBench's own checkout, and says when its files differ from it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from unbench.results.code import own_code


def git(folder: Path, *arguments: str) -> str:
    name = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    return subprocess.run(["git", *name, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_commit_and_changed_files(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    head = git(tmp_path, "rev-parse", "HEAD").strip()
    assert own_code(tmp_path).model_dump() == {"commit": head, "dirty": False}
    (tmp_path / "beside.txt").write_text("not tracked\n")
    assert own_code(tmp_path).dirty is False
    (tmp_path / "code.py").write_text("a = 2\n")
    assert own_code(tmp_path).model_dump() == {"commit": head, "dirty": True}


def test_without_a_checkout_nothing_is_said(tmp_path: Path) -> None:
    assert own_code(tmp_path).model_dump() == {"commit": None, "dirty": None}


def test_a_broken_checkout_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    assert own_code(tmp_path).model_dump() == {"commit": None, "dirty": None}
