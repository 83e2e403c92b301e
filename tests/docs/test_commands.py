"""Every command in the docs and the README is run, or says why not; every one is at least parsed.

Each page is followed from top to bottom in a folder of its own. What takes no training is run by every ``make test``,
the whole of each page by ``make test-all``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
import yaml
from documented import NEEDS, PAGES, ROOT, Block, blocks, commands, inline_commands, left_out

from unbench.cli import cli

QUICK = frozenset(
    {"methods", "tasks", "models", "metrics", "attacks", "cite", "env", "new-task", "new-method", "new-attack"}
)
"""Commands that train nothing and need nothing but what the page wrote before."""
HEAVY = ("load_target", "unbench.run(", "unbench.evaluate(")
"""A Python block with one of these loads a model."""
DEMO = "unbench run --method unstar --limit 5 --attacks none"
"""What ``make demo`` would have left, where a page shows anti-samples and no other run of UnSTAR's is made here."""
SMALLER = (
    ("unbench attack RUN", "unbench attack RUN --attacks multi_turn"),
    ("--methods all --tasks bios/fact,bios/relation,bios/person", "--methods none,retrain --tasks bios/fact"),
    ("--task bios/relation --seeds 3", "--task bios/relation --seeds 1"),
    ("unstar --seeds 3", "unstar --seeds 1"),
    ("--seeds 3 --jobs 2", "--seeds 1 --jobs 2"),
    ("--trials 12", "--trials 1"),
    ("tuned.json --seeds 3", "tuned.json --seeds 1"),
    ("npo/…/tuned.json", "npo/*/tuned.json"),
    ("--num-processes 4", "--num-processes 2"),
    ("unbench methods | tasks | models | metrics", "unbench methods; unbench tasks; unbench models; unbench metrics"),
)
"""Command lines that are run smaller than they are shown, so that no page takes an hour."""
FOLLOWED = {"add-a-method.md": "tests/plugins/test_add_a_method.py"}
"""Pages that a test of their own follows line by line."""
EVERY = [(block, line) for page in PAGES for block in blocks(page) for line in block.lines()]


def smaller(line: str) -> str:
    for shown, run in SMALLER:
        line = line.replace(shown, run)
    return line


def is_quick(line: str) -> bool:
    """Whether every command of a line is a quick one."""
    found = commands(smaller(line))
    return bool(found) and all(
        "--dry-run" in words or (words[0] in {*QUICK, "--version"} and words[:2] != ["models", "build"])
        for words in found
    )


def parse(words: list[str]) -> None:
    """Read the words as the command line would, without doing anything. Names and options must exist."""
    command: click.Command = cli
    context = click.Context(cli, info_name="unbench")
    words = ["run" if word == "COMMAND" else word for word in words if word not in ("--version", "--debug", "-q")]
    while isinstance(command, click.Group):
        if not words:
            return
        below = command.get_command(context, words[0])
        if below is None:
            assert isinstance(command, click.Group)
            assert command.invoke_without_command, f"there is no command {words[0]}"
            break
        command, words = below, words[1:]
        context = click.Context(command, info_name=command.name, parent=context)
    try:
        command.make_context(command.name, list(words), parent=context)
    except (click.exceptions.Exit, click.MissingParameter):
        pass  # --help; or a command that is spoken of without its arguments
    except click.BadParameter as problem:
        if "does not exist" not in problem.message:  # a file that only following the page makes
            raise


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_command_is_one(page: Path) -> None:
    lines = [line for block in blocks(page) for line in block.lines()]
    inline = [line.replace("…", "").rstrip(": ") for line in inline_commands(page)]
    for line in [smaller(line) for line in lines] + inline:
        for words in commands(line):
            try:
                parse(words)
            except (click.ClickException, AssertionError) as problem:
                raise AssertionError(f"{page.name}: {line}: {getattr(problem, 'message', problem)}") from problem


def test_what_is_not_run_says_why() -> None:
    for page in PAGES:
        for block in blocks(page):
            if block.marker.startswith("not run: "):
                assert any(need in block.marker for need in NEEDS), f"{block.place}: {block.marker}"
            if block.marker.startswith("run by "):
                other = ROOT / block.marker.removeprefix("run by ").split(":")[0]
                assert other.is_file(), f"{block.place}: {block.marker}"
                assert block.page in other.read_text(encoding="utf-8"), f"{block.place}: {block.marker}"
    for name, other in FOLLOWED.items():
        assert name in (ROOT / other).read_text(encoding="utf-8")


def test_no_other_command_is_left_out() -> None:
    """What isn't marked is a command of UnBench's, which the tests below run; nothing here may change the machine."""
    shells = {block.place for page in PAGES for block in blocks(page) if block.is_shell}
    assert {block.place for block, _ in EVERY} == shells
    foreign = [f"{block.place}: {line}" for block, line in EVERY
               if not left_out(block, line) and not line.startswith(("unbench ", "cd "))]  # fmt: skip
    assert not foreign
    targets = set(re.findall(r"^([\w.$()/-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    targets |= {".venv-vllm/.installed"}  # written with variables there
    assert {line.split()[1] for _, line in EVERY if line.startswith("make ")} <= targets


def test_python_compiles_and_data_parses() -> None:
    for page in PAGES:
        for block in blocks(page):
            if block.language == "python":
                compile(block.text, block.place, "exec")
            if block.language == "yaml":
                yaml.safe_load(block.text)
            if block.language == "toml":
                tomllib.loads(block.text)


class Reader:
    """Somebody who follows a page in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.start = self.where = folder
        self.env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def save(self, block: Block) -> None:
        (self.where / block.file).write_text(block.text, encoding="utf-8")

    def named(self, line: str) -> str:
        """The line with a run in the place of each RUN: the last one that was made, then another one of its task."""
        if not re.search(r"\bRUN\b", line):
            return line
        if "--anti-samples" in line and not self.runs("unstar"):
            self._do(["bash", "-c", DEMO], f"{DEMO}, for {line}")
        first = self.runs("unstar" if "--anti-samples" in line else "*")[0]
        others = [path for path in self.runs("*") if path.parents[1] == first.parents[1] and path != first]
        folders = iter([first, *others, first])
        return re.sub(r"\bRUN\b", lambda match: str(next(folders)), line)

    def runs(self, method: str) -> list[Path]:
        """Folders of finished runs, the newest first."""
        found = self.start.glob(f"**/runs/*/*/{method}/*/result.json")
        return [path.parent for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)]

    def type(self, line: str, place: str) -> None:
        """Enter one line, which must end well."""
        if line.startswith("cd "):
            self.where = self.where / line.removeprefix("cd ")
            return
        line = self.named(smaller(line))
        self._do(["bash", "-c", line], f"{place}: {line}")

    def python(self, block: Block) -> None:
        self._do([sys.executable, "-c", block.text], block.place)

    def _do(self, words: list[str], what: str) -> None:
        done = subprocess.run(words, cwd=self.where, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{what}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_quick_commands(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, without the seconds that a start takes."""
    reader = Reader(tmp_path)
    for block in blocks(page):
        if block.file:
            reader.save(block)
        elif block.language == "python" and not block.marked and not any(word in block.text for word in HEAVY):
            reader.python(block)
        for line in block.lines():
            if left_out(block, line):
                continue
            if line.startswith("cd "):
                reader.type(line, block.place)
            if not is_quick(line):
                continue
            for words in commands(reader.named(smaller(line))):
                monkeypatch.chdir(reader.where)
                try:
                    code = cli.main(words, standalone_mode=False)
                except click.exceptions.Exit as stop:
                    code = stop.exit_code
                assert not code, f"{block.place}: {line}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in FOLLOWED], ids=lambda path: path.name)
def test_a_page_is_followed(page: Path, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    for block in blocks(page):
        if block.marked:
            continue
        if block.file:
            reader.save(block)
        elif block.language == "python":
            reader.python(block)
        for line in block.lines():
            if not left_out(block, line):
                reader.type(line, block.place)
