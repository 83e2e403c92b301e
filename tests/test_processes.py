"""``--num-processes``: the same weights as one process, faults told in a sentence, nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

import unbench
from unbench.errors import EnvironmentProblem, RunFailed, UsageError
from unbench.plan import make_plan
from unbench.processes import Launched, as_launched

PLUGIN = """
import os, signal
from unbench.method import Loss, LossConfig, LossMethod, MethodCard

class Faulty(LossMethod):
    card = MethodCard(name="faulty", title="Faulty", kind="gradient", bibtex="")

    class Config(LossConfig):
        fault: str = "none"

    def forget_loss(self, batch):
        first = os.environ.get("RANK") == "0"
        print("what a method prints is no progress")
        if self.config.fault == "killed" and not first:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.config.fault == "raises" and first:
            raise ZeroDivisionError("in the middle")
        return Loss.per_token(batch.token_logprobs() * (float("nan") if self.config.fault == "nan" else 1),
                              batch.answer_mask)
"""


def weights(result: unbench.Result) -> Path:
    return Path(result.dir) / "seed-0" / "unlearned" / "model.safetensors"


def left(place: Path) -> list[psutil.Process]:
    """Processes at work on a run below ``place``."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "unbench.worker" in (words := process.info["cmdline"] or []) and str(place) in " ".join(words):
            found.append(process)
    return found


def gone(place: Path) -> bool:
    deadline = time.monotonic() + 30
    while left(place) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not left(place)


@pytest.mark.parametrize("method", ["grad_diff", pytest.param("npo", marks=pytest.mark.slow)])
def test_the_same_weights_as_one_process(method: str, tmp_path: Path) -> None:
    """Per token and per sequence. A small rate: AdamW blows the rounding of a gradient near 0 up to a step's size."""
    seen: list[tuple[str, int, int]] = []
    options = {"settings": {"steps": 3, "lr": 1e-5, "batch_size": 7}, "limit": 2}
    alone = unbench.run(method, "bios/fact", out=tmp_path / "alone", **options)  # type: ignore[arg-type]
    shared = unbench.run(method, "bios/fact", out=tmp_path / "shared", num_processes=2, progress=lambda *told:
                         seen.append(told), **options)  # type: ignore[arg-type]  # fmt: skip
    assert shared.run_id == alone.run_id
    assert "2 processes" in shared.device
    one, two = load_file(weights(alone)), load_file(weights(shared))
    largest = max(float(value.abs().max()) for value in one.values())
    assert max(float((one[name] - two[name]).abs().max()) for name in one) <= 1e-6 * largest
    assert shared.compute.tokens_trained == alone.compute.tokens_trained
    assert [told for told in seen if told[0] == "unlearn"] == [("unlearn", step, 3) for step in (1, 2, 3)]
    assert not (Path(shared.dir) / "seed-0" / "processes").exists()
    assert gone(tmp_path)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("killed", "Process 2 of 2 was killed by signal 9"),
        pytest.param("raises", "raised ZeroDivisionError: in the middle", marks=pytest.mark.slow),
        pytest.param("nan", "The loss is not finite at step 1 of 3", marks=pytest.mark.slow),
    ],
)
def test_a_fault_in_one_ends_all(fault: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(PLUGIN)
    with pytest.raises(RunFailed, match=sentence):
        unbench.run(
            "faulty", "bios/fact", out=tmp_path / "runs", limit=2, num_processes=2, plugins=[tmp_path / "faulty.py"],
            settings={"steps": 3, "fault": fault},
        )  # fmt: skip
    assert gone(tmp_path)
    if fault == "raises":
        assert "ZeroDivisionError" in next(tmp_path.rglob("error.txt")).read_text()


def interrupted(place: Path, how: int) -> subprocess.CompletedProcess[str]:
    """A run in two processes, sent a signal while both are training."""
    words = [sys.executable, "-m", "unbench", "run", "--limit", "2", "--method", "grad_diff", "--num-processes", "2",
             "--set", "steps=100000", "--out", str(place)]  # fmt: skip
    # A shell starts background jobs with SIGINT ignored, and children inherit it: CI may well be one.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listen)
    deadline = time.monotonic() + 120
    while len(left(place)) < 2 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(1)
    assert child.poll() is None
    os.kill(child.pid, how)
    out, err = child.communicate(timeout=60)
    return subprocess.CompletedProcess(words, child.returncode, out, err)


def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    done = interrupted(tmp_path, signal.SIGINT)
    assert done.returncode == 130, done.stderr
    assert "--resume" in done.stderr
    assert gone(tmp_path)


@pytest.mark.slow
def test_a_killed_run_leaves_no_process(tmp_path: Path) -> None:
    assert interrupted(tmp_path, signal.SIGKILL).returncode == -signal.SIGKILL
    assert gone(tmp_path)


def test_too_few_gpus_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from unbench.worker import join

    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(EnvironmentProblem, match="1 CUDA devices for 2 processes"):
        join("cuda")


def test_the_launcher_says_how_many() -> None:
    plan = make_plan("npo", "bios/fact")
    assert as_launched(plan, Launched(0, 4)).machine.num_processes == 4
    assert as_launched(plan, Launched(0, 4)).run_id == plan.run_id
    with pytest.raises(UsageError, match="doesn't agree"):
        as_launched(make_plan("npo", "bios/fact", num_processes=2), Launched(0, 4))


@pytest.mark.slow
def test_under_a_launcher_only_the_first_does_the_rest(tmp_path: Path) -> None:
    """As ``accelerate launch`` starts processes on GPUs (on the CPU it wants MPI): torchrun's environment."""
    words = ["run", "--limit", "2", "--method", "npo", "--set", "steps=3", "--device", "cpu", "--json", "--out"]
    alone = [sys.executable, "-m", "unbench", *words, str(tmp_path / "alone"), "--num-processes", "2"]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "unbench"]
    results = []
    for command in (alone, [*start, *words, str(tmp_path / "launched")]):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stderr
        # One JSON object: the others print nothing.
        results.append(unbench.Result.model_validate_json(done.stdout))
    assert results[0].run_id == results[1].run_id
    one, two = (load_file(weights(result)) for result in results)
    assert all(one[name].equal(two[name]) for name in one)


@pytest.mark.slow
def test_a_method_that_generates_is_told_the_same_texts(tmp_path: Path) -> None:
    options = {"settings": {"rounds": 1, "steps": 3, "paraphrases": 1}, "limit": 2}
    alone = unbench.run("unstar", "bios/fact", out=tmp_path / "alone", **options)  # type: ignore[arg-type]
    shared = unbench.run("unstar", "bios/fact", out=tmp_path / "shared", num_processes=2, **options)  # type: ignore[arg-type]
    one, two = load_file(weights(alone)), load_file(weights(shared))
    largest = max(float(value.abs().max()) for value in one.values())
    assert max(float((one[name] - two[name]).abs().max()) for name in one) <= 1e-5 * largest
    assert shared.compute.tokens_generated == alone.compute.tokens_generated > 0
