"""kill -9 in the middle of a training, then ``--resume``: the very weights of an undisturbed run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import unbench
from unbench.models.cache import file_hash

CHILD = """
import os, signal, sys, json
import unbench

def progress(description, done, total):
    if (description, done) == ("unlearn", 5):
        os.kill(os.getpid(), signal.SIGKILL)

unbench.run(**json.loads(sys.argv[1]), out=sys.argv[2], progress=progress)
"""


def killed(options: dict[str, Any], out: Path) -> None:
    words = [sys.executable, "-c", CHILD, json.dumps(options), str(out)]
    child = subprocess.run(words, capture_output=True, text=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert list(out.rglob("checkpoints/training-0/step-*/state.safetensors"))


def check(options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alone = unbench.run(**options, out=tmp_path / "alone")
    killed(options, tmp_path / "killed")
    resumed = unbench.run(**options, out=tmp_path / "killed", resume=True)
    seeds = [Path(result.dir) / "seed-0" for result in (alone, resumed)]
    (name,) = (path.name for path in (seeds[0] / "unlearned").glob("*.safetensors"))
    assert file_hash(seeds[0] / "unlearned" / name) == file_hash(seeds[1] / "unlearned" / name)
    usages = [json.loads((seed / "unlearn.json").read_text())["usage"] for seed in seeds]
    assert usages[0] == usages[1]
    assert [entry["step"] for entry in usages[1]["losses"]] == list(range(1, 8))
    assert resumed.scores == alone.scores
    # Once the step is done there is nothing to go on from.
    assert not (seeds[1] / "checkpoints").exists()


@pytest.mark.parametrize("kind", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_goes_on_after_kill_9(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"method": "npo", "task": "bios/fact", "limit": 2, "train": kind, "checkpoint_every": 0,
               "settings": {"steps": 7, "lr": 1e-3}}  # fmt: skip
    check(options, tmp_path, caplog)
    assert "Going on from step 4 of 7" in caplog.text


@pytest.mark.slow
def test_several_processes_go_on_after_kill_9(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"method": "grad_diff", "task": "bios/fact", "limit": 2, "checkpoint_every": 0, "num_processes": 2,
               "settings": {"steps": 7, "lr": 1e-3}}  # fmt: skip
    check(options, tmp_path, caplog)


@pytest.mark.slow
def test_without_resume_a_training_starts_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"method": "npo", "task": "bios/fact", "limit": 2, "checkpoint_every": 0, "settings": {"steps": 7}}
    killed(options, tmp_path)
    seen: list[int] = []
    unbench.run(**options, out=tmp_path, progress=lambda what, done, total: what == "unlearn" and seen.append(done))  # type: ignore[arg-type, func-returns-value]
    assert seen == list(range(1, 8))
    assert "Going on" not in caplog.text
