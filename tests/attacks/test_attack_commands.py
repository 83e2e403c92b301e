"""``unbench attack``, ``attacks``, ``new-attack``, ``show --attacks``, runs and sweeps with attacks; the guide."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from unbench import api
from unbench.cli import cli
from unbench.errors import UnbenchError

FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)


def call(*words: str) -> Result:
    return CliRunner().invoke(cli, ["-q", *words])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished and attacked run."""
    out = tmp_path_factory.mktemp("runs")
    return Path(api.run("none", out=out, limit=6, device="cpu", attacks=["quantize"]).dir)


def test_list() -> None:
    body = json.loads(call("attacks", "--json").stdout)
    assert body["schema"] == "unbench.attacks/1"
    found = {entry["name"]: entry for entry in body["attacks"]}
    assert {"unbench:quantize", "unbench:relearn_heldout", "unbench:benign", "unbench:neighbours",
            "unbench:relearn_forget"} <= set(found)  # fmt: skip
    assert found["unbench:quantize"]["default"]
    assert not found["unbench:relearn_heldout"]["default"]
    assert found["unbench:quantize"]["settings"]["bits"]["default"] == [8, 4]
    assert all(entry["error"] is None for entry in body["attacks"])
    assert "relearn_heldout" in call("attacks").output


def test_attack_a_finished_run(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    done = call("attack", str(folder), "-a", "benign", "--set", "benign.rows=[5]", "--json")
    assert done.exit_code == 0, done.output
    body = json.loads(done.stdout)
    assert [attack["name"] for attack in body["attacks"]] == ["unbench:benign", "unbench:quantize"]
    assert body["attacks"][0]["config"]["rows"] == [5]
    assert body["worst"]["attacks"] == ["unbench:benign", "unbench:quantize"]
    table = call("attack", str(folder), "-a", "benign", "--set", "benign.rows=[5]")
    assert "forget_worst" in table.output
    assert "unrelated rows" in table.output


def test_show(run: Path, tmp_path: Path) -> None:
    shown = call("show", str(run), "--attacks", "--plot", str(tmp_path / "a.png"))
    assert shown.exit_code == 0, shown.output
    assert "4 bits" in shown.output
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    body = json.loads(call("show", str(run), "--attacks", "--json").stdout)
    assert body["schema"] == "unbench.attacks_of/1"
    assert body["plot"] is None
    assert [point["series"] for point in body["attacks"][0]["points"]] == ["8 bits", "4 bits"]
    again = call("show", str(run), "--attacks", "--plot", str(tmp_path / "b.svg"))
    first = (tmp_path / "b.svg").read_bytes()
    call("show", str(run), "--attacks", "--plot", str(tmp_path / "b.svg"))
    assert (tmp_path / "b.svg").read_bytes() == first
    assert again.exit_code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("attack", "RUN", "-a", "quantise"), "There is no attack called 'quantise'. Did you mean 'quantize'?"),
        (("attack", "nowhere"), "There is no run at 'nowhere'"),
        (("attack", "RUN", "-a", "benign", "--set", "benign.rows=many"), "Attack unbench:benign"),
        (("attack", "RUN", "-a", "benign", "--set", "rows=3"), "names no attack"),
        (("run", "--attacks", "none,benign", "--dry-run"), "none goes with nothing else"),
        (("run", "--attacks", "nothing", "--dry-run"), "There is no attack called 'nothing'"),
        (("sweep", "--methods", "none", "--attacks", "nothing", "--dry-run"), "There is no attack called 'nothing'"),
        (("new-attack", "quantize"), "There is an attack called 'quantize' already"),
        (("new-attack", "My-Attack"), "unbench new-attack my_attack"),
    ],
)
def test_wrong_words(words: tuple[str, ...], said: str, run: Path) -> None:
    done = call(*(str(run) if word == "RUN" else word for word in words))
    assert isinstance(done.exception, UnbenchError)
    assert done.exception.exit_code == 2
    assert said in str(done.exception)


def test_a_run_that_was_not_attacked(tmp_path: Path) -> None:
    folder = Path(api.run("none", out=tmp_path, limit=3, device="cpu").dir)
    done = call("show", str(folder), "--attacks")
    assert isinstance(done.exception, UnbenchError)
    assert f"unbench attack {folder}" in str(done.exception)
    shutil.rmtree(folder / "seed-0")
    gone = call("attack", str(folder), "-a", "quantize")
    assert isinstance(gone.exception, UnbenchError)
    assert "is gone" in str(gone.exception)


@pytest.mark.slow
def test_a_sweep_attacks_what_was_not_attacked_yet(tmp_path: Path) -> None:
    words = ("sweep", "--methods", "none,retrain", "--limit", "3", "--device", "cpu", "--out", str(tmp_path), "--json")
    first = json.loads(call(*words).stdout)
    assert [run["state"] for run in first["runs"]] == ["done", "done"]
    assert "overall_worst" not in first["runs"][0]["scores"]
    marks = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("unlearn.json")}
    second = json.loads(call(*words, "--attacks", "quantize").stdout)
    assert not any(run["kept"] for run in second["runs"])
    assert all("overall_worst" in run["scores"] for run in second["runs"])
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("unlearn.json")} == marks
    third = json.loads(call(*words, "--attacks", "quantize").stdout)
    assert all(run["kept"] for run in third["runs"])


def test_the_guide_lists_every_attack_and_its_example_runs(repository: Path, tmp_path: Path) -> None:
    guide = (repository / "docs" / "attacks.md").read_text(encoding="utf-8")
    names = {entry["name"].partition(":")[2] for entry in json.loads(call("attacks", "--json").stdout)["attacks"]}
    assert set(re.findall(r"^\| `(\w+)` \|", guide, re.M)) == names
    (example,) = ((file, text) for _, file, text in FENCE.findall(guide) if file)
    (tmp_path / example[0]).write_text(example[1], encoding="utf-8")
    result = api.run("none", out=tmp_path, limit=6, device="cpu", plugins=[tmp_path / example[0]],
                     attacks=["shouting"])  # fmt: skip
    assert [attack.name for attack in result.attacks] == ["file:shouting"]
    assert result.attacks[0].points


def test_every_command_of_the_guide_is_one(repository: Path) -> None:
    guide = (repository / "docs" / "attacks.md").read_text(encoding="utf-8")
    commands = [line for language, _, text in FENCE.findall(guide) if language == "bash" for line in text.splitlines()]
    assert len(commands) > 6
    for line in commands:
        words = line.partition("#")[0].split()
        assert words[0] == "unbench"
        command = cli.get_command(None, words[1])  # type: ignore[arg-type]
        assert command is not None, line
        options = {option for parameter in command.params for option in parameter.opts}
        assert [word for word in words if word.startswith("-") and word not in options] == [], line


@pytest.mark.slow
def test_a_new_attack_works_as_it_is(tmp_path: Path) -> None:
    import subprocess
    import sys

    assert call("new-attack", "mine", "--out", str(tmp_path)).exit_code == 0
    folder = tmp_path / "mine"
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "mine.py", "test_mine.py"]
    assert "NAME" not in "".join(file.read_text() for file in folder.iterdir())
    done = subprocess.run([sys.executable, "-m", "pytest", "-q"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
