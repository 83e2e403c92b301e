"""The committed results are valid, and the README's table says what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from unbench.leaderboard.reader import parse_result


def test_every_committed_result_is_valid(repository: Path) -> None:
    files = sorted((repository / "results").rglob("result.json"))
    assert files
    for file in files:
        result = parse_result(file)
        assert file.parent.name == result.run_id
        assert result.split == "report"
        assert result.plan["limit"] is None


def test_the_tables_are_those_of_the_results(repository: Path) -> None:
    """The tables of ``results/README.md`` and of the project's README, made anew, and one cell worked out here."""
    done = subprocess.run(
        [sys.executable, str(repository / "benchmarks" / "results_table.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (repository / "results" / "bios" / "fact" / "unstar").rglob("result.json")
    forget = json.loads(file.read_text(encoding="utf-8"))["scores"]["forget"]
    cell = f"| unstar | {forget['value']:.2f} [{forget['low']:.2f}, {forget['high']:.2f}] |"
    assert cell in (repository / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("score", ["forget", "trace", "retain", "specificity", "overall"])
def test_the_readmes_run_is_the_committed_one(repository: Path, score: str) -> None:
    (file,) = (repository / "results" / "bios" / "fact" / "unstar").rglob("result.json")
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert f"unbench show results/bios/fact/unstar/{file.parent.name}" in text
    found = getattr(parse_result(file).scores, score)
    assert f"│ {score:11} │ {found.value:.2f} [{found.low:.2f}, {found.high:.2f}]" in text
