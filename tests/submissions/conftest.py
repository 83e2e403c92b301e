"""A small leaderboard, built once and copied for every test, and the command line in this process."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from .world import SOURCE, Forged, World, build_world, submit

FAULT = re.compile(r"Traceback|Error: \w+(Error|Exception|Interrupt|Exit|Warning)\b")
"""What a failure must never say: it is one sentence, and a foreseen one."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def unbench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``unbench("validate", …)`` as the shell would do it, in this process."""
    from unbench.cli import main

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["unbench", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        assert not FAULT.search(said.out + said.err), said
        code = stop.value.code
        return Done(code if isinstance(code, int) else 0, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The leaderboard that the others are copies of, and its submission's folder."""
    root = tmp_path_factory.mktemp("pattern") / "leaderboard"
    small = build_world(root)
    folder = submit(small, method="file:demo", source=SOURCE.format(sentinel="sentinel"))
    return root, folder.relative_to(root)


@pytest.fixture
def small(pattern: tuple[Path, Path], tmp_path: Path) -> World:
    """A leaderboard with one good submission, whose method would write ``sentinel`` into the folder it is run in."""
    return World(Path(shutil.copytree(pattern[0], tmp_path / "leaderboard")))


@pytest.fixture
def forged(small: World, pattern: tuple[Path, Path]) -> Forged:
    """That submission, to be tampered with."""
    return Forged(small.root / pattern[1])
