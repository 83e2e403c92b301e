"""A user's own files, small and sound, for the tests to damage; and the command line, called in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TASK = """\
name: mine
forget: {data: forget.csv, question: q, answer: a}
retain: {data: retain.csv, question: q, answer: a}
"""
FORGET = "q,a\n" + "".join(f"Where does Person{i} live?,Person{i} lives in Town{i}.\n" for i in range(6))
RETAIN = "q,a\n" + "".join(f"Where does Other{i} live?,Other{i} lives in Town{i}.\n" for i in range(6))
SOUND = {"my.yaml": TASK, "forget.csv": FORGET, "retain.csv": RETAIN}

Contents = str | bytes | None
Writer = Callable[..., Path]
CommandLine = Callable[..., tuple[int, str, str]]


def write(folder: Path, changes: dict[str, Contents]) -> Path:
    """The sound files with changes (None: no such file), and the path of the task file."""
    for name, text in (SOUND | changes).items():
        if isinstance(text, bytes):
            (folder / name).write_bytes(text)
        elif text is not None:
            (folder / name).write_text(text, encoding="utf-8", newline="")
    return folder / "my.yaml"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Writer:
    """Writes the files into an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return lambda **changes: write(tmp_path, {name.replace("__", "."): text for name, text in changes.items()})


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """``command_line("check-task", "my.yaml")`` gives the exit code, stdout and stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        from unbench.cli import main

        monkeypatch.setattr(sys, "argv", ["unbench", *words])
        with pytest.raises(SystemExit) as stop:
            main()
        shown = capsys.readouterr()
        code = stop.value.code
        assert isinstance(code, int)
        return code, shown.out, shown.err

    return call
