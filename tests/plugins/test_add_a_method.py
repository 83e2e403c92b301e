"""docs/add-a-method.md, followed line by line; and the README's method, which is the guide's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugin_world import Venv

from unbench.plan import make_plan

FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)


def blocks(path: Path) -> Iterator[tuple[str, str, str]]:
    """Language, file name and text of every fenced block."""
    yield from (match.groups("") for match in FENCE.finditer(path.read_text(encoding="utf-8")))  # type: ignore[misc]


def test_every_block_is_followed(repository: Path) -> None:
    found = list(blocks(repository / "docs" / "add-a-method.md"))
    assert {language for language, _, _ in found} == {"bash", "python"}
    assert all(file for language, file, _ in found if language == "python")


def test_the_readme_and_the_guide_show_one_method(repository: Path, tmp_path: Path) -> None:
    (shown,) = (text for language, _, text in blocks(repository / "README.md") if "class MyNPO" in text)
    (guide,) = (text for _, file, text in blocks(repository / "docs" / "add-a-method.md") if file == "my_npo.py")
    assert shown == guide
    (tmp_path / "my_npo.py").write_text(shown, encoding="utf-8")
    assert make_plan(plugins=[tmp_path / "my_npo.py"], settings={"beta": 0.5}).config["beta"] == 0.5
    body = shown[shown.index("class MyNPO") :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 20


@pytest.mark.slow
def test_the_guide_is_followed_literally(repository: Path, tmp_path: Path) -> None:
    venv, where = Venv(tmp_path / "venv"), tmp_path / "work"
    where.mkdir()
    for language, file, text in blocks(repository / "docs" / "add-a-method.md"):
        if language == "python":
            (where / file).write_text(text, encoding="utf-8")
            continue
        for line in text.strip().splitlines():
            done = venv.run(f"{line}\n", where)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            if line.startswith("cd "):
                where = where / line.removeprefix("cd ")
            if "check-method" in line:
                assert "keeps the contract" in done.stdout
            if line == "unbench methods":
                (row,) = (text for text in done.stdout.splitlines() if "my_packaged" in text)
                assert "gradient" in row
            if line.startswith("unbench run"):
                assert list((where / "runs").rglob("result.json"))
