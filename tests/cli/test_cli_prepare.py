"""``unbench prepare``, and the options of ``run`` and ``eval`` that name targets, references and data."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import prepare_world as world
import pytest
from click.testing import CliRunner, Result

from unbench import plugins
from unbench.cli import cli
from unbench.errors import UsageError
from unbench.models.cache import folder_hash

QUICK = ["--epochs", "1", "--lr", "1e-3"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.save_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "tasks", world.registry(world.Small))
    monkeypatch.setenv("UNBENCH_CACHE", str(tmp_path / "cache"))


def unbench(*words: str) -> Result:
    return CliRunner().invoke(cli, ["-q", *words], catch_exceptions=True, standalone_mode=False)


def printed(*words: str) -> Any:
    done = unbench(*words, "--json")
    assert done.exception is None, done.exception
    return json.loads(done.stdout)


def test_prepare_prints_where_things_lie_and_the_next_command(base: Path, tmp_path: Path) -> None:
    done = unbench("prepare", "small/first", "--model", str(base), *QUICK)
    assert done.exception is None, done.exception
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["target", "reference-1", "next"]
    folder = Path(lines[0].rsplit(": ", 1)[1])
    assert (folder / "prepared.json").is_file()
    assert lines[-1] == f"next: unbench run --task small/first --model {base}"
    assert "Not all of it was learnt" in done.stderr
    body = printed("prepare", "small/first", "--model", str(base), *QUICK)
    assert body["schema"] == "unbench.prepare/1"
    assert [part["name"] for part in body["parts"]] == ["target", "reference-1"]
    assert body["parts"][0]["dir"] == str(folder)
    run = printed("run", "--method", "none", "--task", "small/first", "--model", str(base), "--out", str(tmp_path))
    assert run["plan"]["prepared"] == body["parts"][0]["weights_hash"]


def test_the_next_command_names_what_was_made_where_model_stands_for_another_pair(base: Path, tmp_path: Path) -> None:
    printed("prepare", "small/first", "--model", str(base))
    words = ["prepare", "small/first", "--model", str(base), *QUICK, "--json"]
    done = unbench(*words)
    assert "Not all of it was learnt" in done.stderr  # with --json, too
    body = json.loads(done.stdout)
    assert "--target" in body["next"]
    run = printed(*shlex.split(body["next"])[1:], "--method", "none", "--out", str(tmp_path))
    assert run["hashes"]["model"] == body["parts"][0]["weights_hash"]
    assert run["hashes"]["references"] == [body["parts"][1]["weights_hash"]]


def test_tables_show_the_published_metrics(base: Path, tmp_path: Path) -> None:
    shown = unbench("eval", str(base), "--task", "small/first", "--reference", str(base)).stdout
    assert "p(a|q) by ring" in shown
    assert "κ" not in shown
    (line,) = (line for line in shown.splitlines() if "forget_quality" in line)
    assert "│ 1 " in line
    made = unbench("run", "--method", "none", "--task", "small/first", "--target", str(base), "--out", str(tmp_path))
    (run,) = tmp_path.glob("small/first/none/*")
    again = unbench("show", str(run)).stdout
    assert "model_utility" in again
    assert again.splitlines()[-1] in made.stdout
    assert "κ" not in unbench("show", str(run), "--probes").stdout


def test_eval_tells_the_hash_of_what_it_loaded(base: Path) -> None:
    assert printed("eval", str(base), "--task", "small/first")["hashes"]["unlearned"] == {"0": folder_hash(base)}


def test_eval_of_a_bare_folder(base: Path, tmp_path: Path) -> None:
    words = ["eval", str(base), "--task", "small/first", "--data-dir", str(tmp_path)]
    bare = printed(*words)
    assert bare["scores"]["forget"]["value"] is None
    assert bare["metrics"]["forget_probability"]["value"] is not None
    assert bare["metrics"]["forget_quality"]["value"] is None
    assert bare["metrics"]["forget_quality"]["reason"]
    assert bare["hashes"]["data"] == {"rows": "0" * 64}
    held = printed(*words, "--reference", str(base), "--gradnorm")
    assert held["metrics"]["forget_quality"]["value"] == 1
    assert held["metrics"]["mia_gradnorm"]["value"] is not None
    whole = printed(*words, "--target", str(base), "--reference", str(base))
    assert whole["scores"]["retain"]["reason"] != bare["scores"]["retain"]["reason"]
    assert len(whole["hashes"]["model"]) == 64
    assert unbench(*words).exception is None  # tables, too


def test_an_adapter_needs_its_target(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    done = unbench("eval", str(tmp_path), "--task", "small/first")
    assert isinstance(done.exception, UsageError)
    assert "--target" in str(done.exception)


def test_what_ships_needs_no_preparation() -> None:
    done = unbench("prepare", "bios/fact", "--model", "nano")
    assert done.exception is None
    assert "ship with UnBench" in done.stdout
    assert "unbench run --task bios/fact" in done.stdout
    assert printed("prepare", "bios/fact")["shipped"] is True


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["prepare", "facts/hogwarts"], "nothing to prepare"),
        (["prepare", "small/first", "--model", "./nowhere"], "There is no model"),
        (["prepare", "small/first", "--model", "nano", "--rank", "4"], "--train lora"),
        (["prepare", "bios/fact", "--data-dir", "."], "takes no --data-dir"),
        (["prepare", "smal/first"], "Did you mean 'small'?"),
        (["run", "--task", "small/first", "--model", "nano"], "unbench prepare small/first --model nano"),
        (["run", "--task", "small/first", "--reference", "./nowhere"], "There is no model"),
        (["run", "--task", "facts/hogwarts", "--target", "smollm2"], "there is no --target"),
        (["run", "--task", "small/first", "--model", "nano", "--target", "nano"], "nothing to say"),
        (["run", "--data-dir", "."], "takes no --data-dir"),
    ],
)
def test_wrong_input_is_one_sentence(words: list[str], sentence: str) -> None:
    done = unbench(*words)
    assert isinstance(done.exception, UsageError), done.exception
    assert sentence in str(done.exception)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "x"])
def test_learning_rates_that_are_none(value: str, base: Path) -> None:
    done = unbench("prepare", "small/first", "--model", str(base), "--lr", value)
    assert isinstance(done.exception, (UsageError, click.BadParameter))
    if isinstance(done.exception, click.BadParameter):
        assert "--lr" in done.exception.format_message()


@pytest.mark.parametrize("command", ["prepare", "run", "eval"])
def test_help_names_the_options_without_torch(command: str) -> None:
    code = (
        f"import sys\nfrom unbench.cli import cli\ncli.main(['{command}', '--help'], standalone_mode=False)\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    options = {
        "prepare": ["--train", "--seeds", "--retrain", "--until", "--force", "--data-dir"],
        "run": ["--target", "--reference", "--data-dir", "--gradnorm", "--lm-eval"],
        "eval": ["--target", "--reference", "--data-dir", "--gradnorm", "--lm-eval"],
    }
    assert all(option in done.stdout for option in options[command])
    assert "UNBENCH_DATA" in done.stdout


def test_dry_run_of_a_prepared_model_needs_no_torch(base: Path) -> None:
    printed("prepare", "small/first", "--model", str(base), *QUICK)
    code = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nimport prepare_world as world\nfrom unbench import plugins\n"
        "plugins.tasks = world.registry(world.Small)\nfrom unbench.cli import cli\n"
        "cli.main(['run', '--dry-run', '--task', 'small/first', '--model', sys.argv[2]], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(world.__file__).parent), str(base)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["references"]) == 1


def test_a_model_that_there_is_not_is_named_before_any_row_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_rows(self: Any) -> Any:
        raise AssertionError("the rows were read")

    monkeypatch.setattr(world.Small, "data", no_rows)
    problem = unbench("prepare", "small/first", "--model", "nosuch").exception
    assert isinstance(problem, UsageError)
    assert "There is no model 'nosuch'" in str(problem)
