"""What CI does with a pull request: ``.ci/submissions`` on a repository with a good, a bad and a meddling change, and
the workflow around it, which must never run the pull request's code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .test_history import git
from .world import SOURCE, Forged, World, submit

WORKFLOWS = sorted((Path(__file__).parents[2] / ".github" / "workflows").glob("*.yml"))


@pytest.fixture
def pull(small: World) -> World:
    """A pull request's checkout: the base has the first submission, HEAD is for the test to make."""
    top = small.root.parent
    shutil.copytree(Path(__file__).parents[2] / ".ci", top / ".ci")
    git(top, "init", "-q", "-b", "main")
    git(top, "add", "-A")
    git(top, "commit", "-q", "-m", "base")
    git(top, "tag", "base")
    return small


def ci(pull: World, out: Path) -> subprocess.CompletedProcess[str]:
    top = pull.root.parent
    git(top, "add", "-A")
    git(top, "commit", "-q", "-m", "pull request", "--allow-empty")
    # The tool is this checkout's, as in the workflow it is the base branch's.
    tool = out.parent / "bin"
    tool.mkdir()
    (tool / "unbench").write_text(f'#!/bin/sh\nexec {sys.executable} -m unbench "$@"\n')
    (tool / "unbench").chmod(0o755)
    script = Path(__file__).parents[2] / ".ci" / "submissions"
    return subprocess.run([script, top, "base", out], capture_output=True, text=True, check=False,
                          env={**os.environ, "PATH": f"{tool}{os.pathsep}{os.environ['PATH']}"})  # fmt: skip


def test_a_new_submission_passes_and_shows_in_the_difference(pull: World, tmp_path: Path) -> None:
    submit(pull, method="file:newer", source=SOURCE.format(sentinel=tmp_path / "sentinel").replace("demo", "newer"))
    done = ci(pull, tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    added = [line for line in (tmp_path / "out" / "boards.diff").read_text().splitlines() if line[:1] == "+"]
    assert any("newer" in line for line in added)
    assert (tmp_path / "out" / "after" / "index.html").is_file()
    # The row that stood there has another range of ranks now.
    assert "2 new lines and 1 gone" in done.stdout
    assert not (tmp_path / "sentinel").exists()


def test_an_edited_entry_fails_and_is_named(pull: World, forged: Forged, tmp_path: Path) -> None:
    forged.body["submitter"] = "somebody else"
    forged.seal()
    done = ci(pull, tmp_path / "out")
    assert done.returncode == 1
    assert "was there before and was edited" in (tmp_path / "out" / "findings.txt").read_text()


def test_what_is_the_maintainers_fails(pull: World, tmp_path: Path) -> None:
    places = ("verifications/0123456789ab.json", "tasks.lock.json", "references/more.txt")
    for place in places:
        path = pull.root / place
        path.parent.mkdir(exist_ok=True)
        path.write_text((path.read_text() if path.exists() else "") + "\n")
    done = ci(pull, tmp_path / "out")
    assert done.returncode == 1
    for place in places:
        assert f"leaderboard/{place}: only a maintainer changes this" in done.stdout


def test_wrong_use_is_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run([Path(__file__).parents[2] / ".ci" / "submissions"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflows_hold_no_more_rights_than_they_need(file: Path) -> None:
    body: dict[Any, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    triggers = body[True]  # YAML 1.1 reads the key "on" as a truth value
    assert "pull_request_target" not in triggers
    assert body["permissions"]["contents"] == "read"
    for job in body["jobs"].values():
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), "an expression in a script is an injection"
            if "actions/checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


def test_the_pull_request_is_only_read() -> None:
    body = yaml.safe_load(next(file for file in WORKFLOWS if file.stem == "submissions").read_text(encoding="utf-8"))
    tool, data, *rest = body["jobs"]["validate"]["steps"]
    assert "base.sha" in tool["with"]["ref"]
    assert tool["with"]["path"] == "tool"
    assert "head.sha" in data["with"]["ref"]
    assert data["with"]["path"] == "pull"
    scripts = [step["run"] for step in rest if "run" in step]
    assert any("./tool" in script for script in scripts)
    for script in scripts:
        for line in script.splitlines():
            words = line.split()
            assert words[0] not in ("pull", "./pull")
            assert not words[0].startswith("pull/")
            assert "./pull" not in line
            assert "pull/" not in line
