"""A task of one's own, end to end on nano; and what the check says of it before anything runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import unbench as ub
from unbench.plugins import open_task
from unbench.task import Row
from unbench.userdata.report import describe
from unbench.userdata.template import write_template

from .conftest import CommandLine

OWN = """\
name: own
model: nano
forget: {data: forget.csv, question: q, answer: a, subject: who}
retain: {data: retain.csv, question: q, answer: a, subject: who}
"""


def save(path: Path, rows: Sequence[Row]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["who", "q", "a"])
        writer.writerows([row.subject, row.question, row.answer] for row in rows)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own CSV files, of facts that nano knows: 6 to forget, other facts of those people and of others."""
    monkeypatch.chdir(tmp_path)
    data = open_task("bios/fact").data()
    forget = data.forget[:6]
    people = {row.subject for row in forget}
    near = [row for row in data.retain if row.subject in people][:12]
    far = [row for row in data.retain if row.subject not in people][:12]
    save(tmp_path / "forget.csv", forget)
    save(tmp_path / "retain.csv", [*near, *far])
    (tmp_path / "own.yaml").write_text(OWN, encoding="utf-8")
    return tmp_path / "own.yaml"


def test_the_template_runs_as_it_is(tmp_path: Path) -> None:
    path = write_template("demo", tmp_path)
    settings = {"steps": 12}
    result = ub.run("gradient_ascent", task=str(path), out=tmp_path / "runs", limit=6, settings=settings)
    assert (result.task, result.model, result.split) == ("user/demo", "nano", "report")
    for name in ("forget", "trace", "retain", "specificity", "overall"):
        assert getattr(result.scores, name).value is not None, name
    assert result.scores.forget.value > 0.1  # type: ignore[operator]
    assert {(group.ring, group.kind) for group in result.groups} == {
        ("forget", "direct"), ("forget", "paraphrase"), ("near", "same_subject"), ("far", "far"), ("world", "world")
    }  # fmt: skip
    # nano knows every fact of it, so nobody has to wonder why rows are left out.
    assert all(group.n_unknown == 0 and (group.known_target or 0) > 0.9 for group in result.groups)
    assert result.hashes.data == open_task(str(path)).sources
    text = (Path(str(result.dir)) / "result.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert Path(str(result.dir)).relative_to(tmp_path / "runs").parts[:3] == ("user", "demo", "gradient_ascent")


def test_a_users_own_csv_runs(own: Path, command_line: CommandLine) -> None:
    code, out, err = command_line("-q", "run", "--task", "own.yaml", "--method", "none", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["task"] == "user/own"
    scores = {name: score["value"] for name, score in result["scores"].items()}
    assert (scores["forget"], scores["retain"], scores["specificity"]) == (0.0, 1.0, 1.0)
    # Knowledge is the answer's probability here, so TOFU's metrics come with it.
    assert result["metrics"]["forget_probability"]["value"] > 0.9
    assert result["metrics"]["forget_rouge"]["value"] > 0.9
    assert result["metrics"]["mia_loss"]["reason"].startswith("no holdout probes")
    # The check had said before what would be null, and why.
    said = describe(open_task("own.yaml"))["null"]
    every = result["scores"] | result["metrics"]
    null = {name: score["reason"] for name, score in every.items() if score["value"] is None}
    assert said == {name: reason for name, reason in null.items() if name in said}
    assert set(null) - set(said) <= {"forget_without_overlap"}
    assert "trace" in said


def test_a_model_in_memory_is_scored_on_ones_own_task(own: Path) -> None:
    model, tokenizer = ub.load_target(str(own))
    result = ub.evaluate(model, tokenizer, task=str(own), limit=3)
    assert result.task == "user/own"
    assert result.scores.retain.value == pytest.approx(1.0)


def test_one_forgotten_row_has_scores_without_interval(own: Path, command_line: CommandLine) -> None:
    rows = Path("forget.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    Path("forget.csv").write_text("".join(rows[:2]), encoding="utf-8")
    code, out, _ = command_line("check-task", "own.yaml")
    assert code == 0
    assert "note: Only one subject is forgotten, so forget and specificity have no interval" in " ".join(out.split())
    score = ub.run("none", task="own.yaml").scores.forget
    assert (score.value, score.low, score.high) == (0.0, None, None)
    assert score.reason == "one fact; interval: one subject"


@pytest.mark.parametrize("n", [2, 4])
def test_a_few_forgotten_rows_are_told_to_be_too_few(own: Path, n: int, command_line: CommandLine) -> None:
    rows = Path("forget.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    Path("forget.csv").write_text("".join(rows[: n + 1]), encoding="utf-8")
    code, out, _ = command_line("check-task", "own.yaml", "--json")
    body = json.loads(out)
    assert (code, body["ok"]) == (0, True)
    assert f"direct left out: {n} facts, fewer than 5" in body["null"]["forget"]
    assert "forget can't be had" in body["null"]["overall"]
    assert any(f"Only {n} subjects are forgotten" in warning for warning in body["warnings"])


def test_facts_that_a_model_does_not_know(own: Path, command_line: CommandLine) -> None:
    Path("forget.csv").write_text("who,q,a\nAnn,Who is Ann?,Nobody knows.\n", encoding="utf-8")
    code, _, err = command_line("-q", "run", "--task", "own.yaml", "--method", "none")
    assert code == 2
    assert "Model 'nano' knows none of the 1 facts that user/own would make it forget." in err


def test_the_check_says_what_a_task_holds(own: Path, command_line: CommandLine) -> None:
    code, out, _ = command_line("-q", "check-task", "own.yaml", "--model", "nano", "--json")
    body = json.loads(out)
    assert code == 0
    assert body["schema"] == "unbench.check-task/1"
    sizes = {name: part["rows"] for name, part in body["sets"].items()}
    assert sizes == {"forget": 6, "retain": 12, "withheld": 12, "holdout": 0}
    assert body["sets"]["forget"]["subjects"] == 6
    asked = {(group["ring"], group["given"]): group["n"] for group in body["probes"]}
    assert asked == {("forget", False): 6, ("near", True): 6, ("near", False): 6, ("far", True): 6, ("far", False): 6}
    assert (body["knowledge"], body["why_knowledge"]) == ("probability", "forget.csv, line 2 has no wrong answers")
    known = {(group["ring"], group["given"]): group for group in body["known"]["groups"]}
    assert known["forget", False]["known"] == 6
    assert known["forget", False]["mean"] > 0.9
    assert body["sources"] == open_task("own.yaml").sources
    code, out, _ = command_line("-q", "check-task", "own.yaml", "--model", "nano")
    assert code == 0
    shown = " ".join(out.split())
    assert "user/own, version 1 (report): nothing is wrong with it." in shown
    assert "6 of 6, mean 1.00" in shown
    assert "mia_loss, mia_zlib, mia_min_k" in shown
    assert "no holdout probes" in shown


def test_registered_tasks_are_checked_too(command_line: CommandLine) -> None:
    code, out, _ = command_line("check-task", "bios/fact", "--json")
    body = json.loads(out)
    assert (code, body["task"], body["null"]) == (0, "bios/fact", {})


def test_the_check_imports_no_torch(own: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom unbench.cli import cli\n"
        "cli.main(['check-task', 'own.yaml'], standalone_mode=False)\n"
        "cli.main(['run', '--task', 'own.yaml', '--dry-run'], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'datasets', 'peft'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
