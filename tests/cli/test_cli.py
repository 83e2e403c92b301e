"""The command line: help without torch, exit codes, one sentence for every wrong input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def unbench(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "unbench", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


@pytest.mark.parametrize(
    "code",
    [
        "import unbench",
        "from unbench.cli import cli; cli.main(['--help'], standalone_mode=False)",
        "from unbench.cli import cli; cli.main(['run', '--help'], standalone_mode=False)",
        "from unbench.cli import cli; cli.main(['run', '--dry-run'], standalone_mode=False)",
        "from unbench.cli import cli; cli.main(['methods'], standalone_mode=False)",
        "from unbench.cli import cli; cli.main(['tasks'], standalone_mode=False)",
    ],
)
def test_torch_is_not_imported(code: str) -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'peft'} & set(sys.modules)"
    check = f"import sys\n{code}\nassert not {heavy}, {heavy}"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["run", "--method", "unstarr"], 2, "Did you mean 'unstar'?"),
        (["run", "--task", "bioss/fact"], 2, "There is no task called 'bioss'"),
        (["run", "--task", "bios/fct"], 2, "fact"),
        (["run", "--model", "./nowhere", "--task", "facts/hogwarts"], 2, "There is no model './nowhere'"),
        (["run", "--set", "lrr=1"], 2, "no setting called 'lrr'"),
        (["run", "--set", "lr=fast"], 2, "setting 'lr' is 'fast'"),
        (["run", "--set", "lr=nan"], 2, "setting 'lr'"),
        (["run", "--set", "lr"], 2, "key=value"),
        (["run", "--seed", "1", "--seeds", "2"], 2, "not both"),
        (["run", "--seed", "-1"], 2, "--seed"),
        (["run", "--set", "lr=1", "--set", "lr=2"], 2, "twice"),
        (["run", "--device", "meta", "--method", "none"], 2, "not on 'meta'"),
        (["cite", "bios/zzz"], 2, "zzz"),
        (["runn"], 2, "Did you mean 'run'?"),
        (["show", "nowhere"], 2, "There is no run at 'nowhere'"),
        (["cite", "npoo"], 2, "Did you mean 'npo'?"),
        (["run", "--device", "gpu9", "--method", "none"], 2, "no device called 'gpu9'"),
    ],
)
def test_wrong_input(words: list[str], code: int, sentence: str, tmp_path: Path) -> None:
    done = unbench(*words, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_model_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    done = unbench("run", "--model", "m", "--task", "facts/hogwarts", cwd=tmp_path)
    assert done.returncode == 2
    assert "no weights in safetensors" in done.stderr


def test_dry_run_prints_the_plan(tmp_path: Path) -> None:
    done = unbench("run", "--dry-run", "--method", "npo", "--set", "beta=0.2", "--seeds", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["schema"] == "unbench.plan/1"
    assert plan["method"] == "unbench:npo"
    assert plan["config"]["beta"] == 0.2
    assert plan["seeds"] == [0, 1, 2]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["methods", "tasks", "models", "metrics"])
def test_lists_as_json(command: str) -> None:
    done = unbench(command, "--json")
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    assert body["schema"] == f"unbench.{command}/1"
    assert len(body[command]) >= 2


def test_every_method_and_task_can_be_cited() -> None:
    for name in ("unstar", "npo", "gradient_ascent", "grad_diff", "idk", "bios", "facts", "tofu", "unbench"):
        done = unbench("cite", name)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("@"), name


def test_a_run_and_an_attack_can_be_cited(repository: Path, tmp_path: Path) -> None:
    run = next((repository / "results" / "facts" / "hogwarts" / "unstar").glob("*/result.json")).parent
    said = unbench("cite", str(run))
    assert said.returncode == 0
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert said.stdout.startswith(f"@misc{{unbench_run_{result['run_id']},")
    seeds = ", ".join(map(str, result["seeds"]))
    assert f"Run {result['run_id']} of {result['created_utc'][:10]}, seeds {seeds}," in said.stdout
    assert said.stdout.count("{") == said.stdout.count("}")
    assert "arXiv" in unbench("cite", "quantize").stdout
    assert "has no paper" in unbench("cite", "none").stdout


def test_a_submission_can_be_cited(repository: Path) -> None:
    """By its folder, as docs/cite.md shows it."""
    (folder,) = (repository / "leaderboard" / "submissions" / "bios" / "fact" / "retrain").iterdir()
    said = unbench("cite", str(folder))
    assert said.returncode == 0
    assert said.stdout.startswith(f"@misc{{unbench_run_{folder.name},")


def test_what_a_run_is_called_does_no_harm_in_bibtex() -> None:
    from unbench.cite import _tex

    assert _tex("evil}\\input{x}_50%") == "evilinputx\\_50\\%"
