"""``unbench new-method`` and ``unbench check-method``: what is written works as it is, odd names are refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from plugin_world import GOOD

from unbench.cli import cli
from unbench.errors import EnvironmentProblem, UsageError
from unbench.method import API_VERSION
from unbench.newmethod.write import write_method
from unbench.plan import make_plan
from unbench.plugincard import describe_source
from unbench.plugins import methods


def call(*words: str) -> Result:
    return CliRunner().invoke(cli, ["-q", *words])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("class", "is a word of the Python language"),
        ("match", "is a word of the Python language"),
        ("2npo", "begins with a digit"),
        ("../up", "is a path, not a name"),
        ("a/b", "is a path, not a name"),
        ("..", "is a path, not a name"),
        ("C:\\x", "is a path, not a name"),
        ("naïve", "letters beyond a to z"),
        ("γ", "letters beyond a to z"),
        ("My-Method", "unbench new-method my_method"),
        ("my method", "unbench new-method my_method"),
        ("", "can't name a method"),
        ("_x", "can't name a method"),
        ("x" * 41, "can't name a method"),
        ("a\nb", "can't name a method"),
        ("json", "a module that Python has already"),
        ("torch", "a module that Python has already"),
        ("npo", "There is a method called 'npo' already (unbench:npo)"),
    ],
)
def test_names_that_are_refused(name: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        write_method(name, tmp_path)
    assert sentence in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("mine", "link"):
        with pytest.raises(UsageError, match="is there already"):
            write_method(name, tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(EnvironmentProblem, match="can't be written"):
        write_method("mine", tmp_path / "file")
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "mine"]
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.parametrize("package", [False, True])
def test_every_place_is_filled_in(package: bool, tmp_path: Path) -> None:
    written = write_method("two_words", tmp_path / "new" / "er", package=package)
    assert written.folder == tmp_path / "new" / "er" / "two_words"
    texts = {str(path.relative_to(written.folder)): path.read_text() for path in written.folder.rglob("*.*")}
    for place in ("NAME", "CLASS", "YEAR", "IMPORT", "DISTRIBUTION", "PACKAGE", "VERSION", "INSTALL", "CHECK", "RUN"):
        assert not [file for file, text in texts.items() if re.search(rf"\b{place}(\b|unbench)", text)], place
    for file, text in texts.items():
        if file.endswith(".py"):
            compile(text, file, "exec")
    found = describe_source(written.file, "two_words")
    assert found.card is not None
    assert (found.card.title, found.needs, found.error) == ("TwoWords", ("retain",), None)
    assert f"api = {API_VERSION}" in written.file.read_text()
    if package:
        project = tomllib.loads(texts["pyproject.toml"])
        assert project["project"]["name"] == "unbench-two-words"
        entry = {"two_words": "unbench_two_words.method:TwoWords"}
        assert project["project"]["entry-points"]["unbench.methods"] == entry
        assert set(texts) == {"README.md", "pyproject.toml", "tests/test_method.py", "unbench_two_words/__init__.py",
                              "unbench_two_words/method.py"}  # fmt: skip
    else:
        assert set(texts) == {"README.md", "two_words.py", "test_two_words.py"}
        assert make_plan(plugins=[written.file]).method == "file:two_words"
        space = methods([written.file]).load("two_words").space
        for name, choices in space.items():
            for choice in choices:
                make_plan(plugins=[written.file], settings={name: choice})


def test_its_own_test_passes_and_the_check_is_green(tmp_path: Path) -> None:
    done = call("new-method", "fresh", "--out", str(tmp_path))
    path = Path(done.stdout.strip())
    assert path == tmp_path / "fresh" / "fresh.py"
    assert f"unbench run --plugin {path}" in done.stderr
    checked = call("check-method", str(path), "--json")
    assert checked.exit_code == 0, checked.stdout + checked.stderr
    body = json.loads(checked.stdout)
    assert (body["schema"], body["passed"]) == ("unbench.check-method/1", True)
    assert {check["train"] for check in body["checks"]} == {"load", "full", "lora"}
    assert len([check for check in body["checks"] if check["check"] == "padding carries no gradient"]) == 2


def test_a_module_that_imports_torch_at_the_top_is_told(tmp_path: Path) -> None:
    # A package of that name is enough to see it, and is there in no time.
    (tmp_path / "site" / "torch").mkdir(parents=True)
    (tmp_path / "site" / "torch" / "__init__.py").touch()
    for top, passed in (("import torch\n", False), ("", True)):
        (tmp_path / "good.py").write_text(top + GOOD)
        code = (
            "import sys; from unbench.methodcheck import check_named; found = check_named(sys.argv[1]); next(found)\n"
        )
        code += "_, check = next(found); print(check.passed, check.name)"
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "good.py")],
            capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        )  # fmt: skip
        assert done.stdout == f"{passed} importing it doesn't import torch\n"


def test_a_failed_check_exits_with_one(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(GOOD.replace('name="good"', 'name="a b"'))
    done = call("check-method", str(path))
    assert done.exit_code == 1
    assert "FAIL  load: it can be loaded" in done.stdout
    assert "Method file:a b has a name that can't be a folder's" in done.stdout
    assert "Rename it on its card" in done.stdout
    body = json.loads(call("check-method", str(path), "--json").stdout)
    assert not body["passed"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["check-method", "npoo"], "Did you mean 'npo'?"),
        (["check-method", "nowhere.py"], "can't be read"),
        (["methods", "--plugin", "nowhere.py"], "can't be read"),
        (["eval", "x", "--plugin", "nowhere.py"], "can't be read"),
        (["cite", "x", "--plugin", "nowhere.py"], "can't be read"),
    ],
)
def test_wrong_input(words: list[str], sentence: str) -> None:
    done = call(*words)
    assert isinstance(done.exception, UsageError)
    assert sentence in str(done.exception)


def test_a_file_is_listed_shown_and_cited(tmp_path: Path) -> None:
    path = tmp_path / "good.py"
    path.write_text(GOOD)
    listed = json.loads(call("methods", "--plugin", str(path), "--json").stdout)["methods"]
    (entry,) = (one for one in listed if one["qualified"] == "file:good")
    assert (entry["needs"], entry["tuned"], entry["year"]) == (["retain"], ["nano"], 2030)
    shown = json.loads(call("methods", "good", "--plugin", str(path), "--json").stdout)
    assert shown["settings"]["properties"]["margin"]["default"] == 8.0
    assert call("cite", "good", "--plugin", str(path)).stdout.strip() == "@misc{good, title={Good}}"
