"""The committed results are valid, and the README's table says what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from unbench.attacks.choose import attack_names, choose
from unbench.leaderboard.reader import parse_result
from unbench.results.schema import Result
from unbench.submissions.read import read_submission
from unbench.submissions.schema import Submission
from unbench.submissions.yardstick import read_lock
from unbench.task import canonical_json


def test_every_committed_result_is_valid(repository: Path) -> None:
    """Runs that were not submitted; submissions are validated elsewhere."""
    for file in sorted((repository / "results").rglob("result.json")):
        result = parse_result(file)
        assert file.parent.name == result.run_id
        assert result.split == "report"
        assert result.plan["limit"] is None


def own_run(repository: Path) -> Result:
    """UnSTAR's submission of bios/fact with its usual settings."""
    folders = (repository / "leaderboard" / "submissions" / "bios" / "fact" / "unstar").iterdir()
    (found,) = (one for one in map(read, folders) if one.tuning is not None)
    return found.result


def read(folder: Path) -> Submission:
    return read_submission(folder)[1]


def test_the_tables_are_those_of_the_results(repository: Path) -> None:
    """The tables of ``results/README.md`` and of the project's README, made anew, and one cell worked out here."""
    done = subprocess.run(
        [sys.executable, str(repository / "benchmarks" / "results_table.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    forget = own_run(repository).scores.forget
    cell = f"| unstar | {forget.value:.2f} [{forget.low:.2f}, {forget.high:.2f}] |"
    assert cell in (repository / "README.md").read_text(encoding="utf-8")


def test_the_findings_are_those_of_the_submissions(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(repository / "benchmarks" / "findings.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_lock_knows_the_attacks_as_they_are_now(repository: Path) -> None:
    """Else a stranger's attacks would be left out of a submission. Where it fails: attack a run of the task anew
    (``unbench run --method none --task TASK --attacks all``) and add what is found (``unbench leaderboard lock RUN``).
    """
    tasks = read_lock(repository / "leaderboard").tasks
    assert {task.task for task in tasks} == {"bios/fact", "bios/relation", "bios/person", "facts/all"}
    for task in tasks:
        for model in task.models:
            known = {(one.name, one.source, canonical_json(one.config)) for one in model.attacks}
            names = attack_names(["all"], ()) if model.model == "nano" else {one.name for one in model.attacks}
            assert names
            for one in choose(sorted(names), model.model):
                config = canonical_json(one.attack.config.model_dump(mode="json"))
                assert (one.name, one.source, config) in known, f"{task.task}: {one.name}"


@pytest.mark.parametrize("score", ["forget", "trace", "retain", "specificity", "overall"])
def test_the_readmes_run_is_the_committed_one(repository: Path, score: str) -> None:
    result = own_run(repository)
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert f"unbench show leaderboard/submissions/bios/fact/unstar/{result.run_id}" in text
    found = getattr(result.scores, score)
    assert f"│ {score:11} │ {found.value:.2f} [{found.low:.2f}, {found.high:.2f}]" in text
