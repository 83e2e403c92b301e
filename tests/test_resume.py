"""kill -9 in each of the six steps, then resume: the same scores as an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import unbench
from unbench.errors import UsageError

OPTIONS = {"method": "grad_diff", "task": "bios/fact", "limit": 6, "settings": {"steps": 6}}

# A child that runs the plan and kills itself in the middle of one step. Nothing in the product helps it: it wraps
# what the step calls.
CHILD = """
import os, signal, sys
import unbench
from unbench import responses, spine
from unbench.results import record, store

step, out = sys.argv[1:3]

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def progress(description, done, total):
    if step in ("unlearn", "measure") and description.startswith(step) and (done >= 2 or step == "measure"):
        die()

if step == "plan":
    store.os.replace = die  # plan.json written under its temporary name, not yet renamed
if step == "prepare":
    real = responses.save
    responses.save = lambda frame, path: die() if frame["role"].iloc[0] == "target" else real(frame, path)
if step == "respond":
    spine.SeedFolder.finish_respond = die  # the responses lie there, the step is not marked as finished
if step == "record":
    record.write_json = die
unbench.run(**{options!r}, out=out, progress=progress)
"""


def scores(result: unbench.Result) -> dict[str, object]:
    return result.model_dump(include={"scores", "per_seed", "metrics", "groups"})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return scores(unbench.run(**OPTIONS, out=tmp_path_factory.mktemp("undisturbed")))  # type: ignore[arg-type]


@pytest.mark.parametrize("step", ["plan", "prepare", "unlearn", "respond", "measure", "record"])
def test_kill_and_resume(step: str, tmp_path: Path, undisturbed: dict[str, object]) -> None:
    code = CHILD.replace("{options!r}", repr(OPTIONS))
    # The child has a cache of its own, so that its prepare step has something to do.
    cache = {"UNBENCH_CACHE": str(tmp_path / "cache")} if step == "prepare" else {}
    child = subprocess.run(
        [sys.executable, "-c", code, step, str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        env={**os.environ, **cache},
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    resumed = unbench.run(**OPTIONS, out=tmp_path / "runs", resume=True)  # type: ignore[arg-type]
    assert scores(resumed) == undisturbed


def test_resume_with_nothing_there_starts(tmp_path: Path) -> None:
    result = unbench.run("none", "bios/fact", limit=2, out=tmp_path, resume=True)
    assert (Path(result.dir) / "result.json").is_file()


def test_resume_refuses_another_plan_and_names_the_field(tmp_path: Path) -> None:
    first = unbench.run("none", "bios/fact", limit=2, out=tmp_path)
    (Path(first.dir) / "result.json").unlink()
    with pytest.raises(UsageError, match=r"limit \(2 there, 3 asked\)"):
        unbench.run("none", "bios/fact", limit=3, out=tmp_path, resume=True)


def test_resume_adds_seeds_to_those_finished(tmp_path: Path) -> None:
    unbench.run("none", "bios/fact", limit=2, seeds=(0,), out=tmp_path)
    both = unbench.run("none", "bios/fact", limit=2, seeds=(1,), out=tmp_path, resume=True)
    assert both.seeds == [0, 1]
