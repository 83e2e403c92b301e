"""What goes wrong in the middle of a run: one sentence, the right exit code, nothing lost."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import unbench
from unbench import plugins, spine
from unbench.errors import EnvironmentProblem, RunFailed
from unbench.method import Method, MethodCard, UnlearnContext, Unlearned

RUN = [sys.executable, "-m", "unbench", "run", "--limit", "2"]


def command(*words: str, limit_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    def small_files() -> None:
        # A real refusal by the system, at the size given, for every writer (Python, Arrow, safetensors).
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes or 0, limit_bytes or 0))

    return subprocess.run(
        [*RUN, *words], capture_output=True, text=True, check=False, preexec_fn=small_files if limit_bytes else None
    )


def test_nan_loss_stops_and_names_the_step(tmp_path: Path) -> None:
    done = command("--method", "gradient_ascent", "--set", "lr=1e30", "--set", "steps=8", "--out", str(tmp_path))
    assert done.returncode == 4, done.stderr
    assert "step" in done.stderr
    assert "Traceback" not in done.stderr
    (good,) = tmp_path.rglob("last-good")
    assert list(good.glob("*.safetensors"))


def test_out_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    done = command("--method", "none", "--out", str(tmp_path / "taken"))
    assert done.returncode == 3, done.stderr
    assert "Can't write to" in done.stderr
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("limit_bytes", [1_000, 100_000])
def test_full_disk(tmp_path: Path, limit_bytes: int) -> None:
    # 1 kB stops plan.json, 100 kB the weights. Afterwards the run goes on.
    words = ("--method", "retain_only", "--set", "steps=2", "--out", str(tmp_path))
    done = command(*words, limit_bytes=limit_bytes)
    assert done.returncode == 3, done.stderr
    assert "Can't write to" in done.stderr
    assert "Traceback" not in done.stderr
    assert command(*words, "--resume", "--json").returncode == 0


class Raises(Method):
    """A method that fails in the middle."""

    card = MethodCard(name="raises", title="Raises", kind="control", bibtex="")

    def unlearn(self, context: UnlearnContext) -> Unlearned:
        (context.folder / "half").write_text("written before the fault")
        raise ZeroDivisionError("in the middle")


class ReturnsNothing(Method):
    """A method that forgets to return."""

    card = MethodCard(name="returns_nothing", title="Returns nothing", kind="control", bibtex="")

    def unlearn(self, context: UnlearnContext) -> Unlearned:
        return None  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("method", "sentence"), [(Raises, "ZeroDivisionError: in the middle"), (ReturnsNothing, "not Unlearned")]
)
def test_method_that_fails(
    method: type[Method], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins.Registry, "load_plugin", lambda self, plugin: method if self.what == "method" else
                        plugin.entry.load())  # fmt: skip
    with pytest.raises(RunFailed, match=sentence):
        unbench.run("npo", "bios/fact", limit=2, out=tmp_path)
    assert list(tmp_path.rglob("plan.json"))
    if method is Raises:
        assert "ZeroDivisionError" in next(tmp_path.rglob("error.txt")).read_text()


def test_out_of_memory_gives_up_clearly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    real = spine.respond_step

    def respond(*args: object, **kwargs: object) -> object:
        monkeypatch.setattr("transformers.LlamaForCausalLM.forward", full)
        monkeypatch.setattr("transformers.LlamaModel.forward", full)
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(spine, "respond_step", respond)
    with pytest.raises(EnvironmentProblem, match="memory"):
        unbench.run("none", "bios/fact", limit=2, out=tmp_path)


def test_ctrl_c_exits_130_and_says_how_to_resume(tmp_path: Path) -> None:
    words = [*RUN, "--method", "retain_only", "--set", "steps=100000", "--out", str(tmp_path)]
    # A shell starts background jobs with SIGINT ignored, and children inherit it: CI may well be one.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listen)
    deadline = time.monotonic() + 120
    # The unlearn step has begun once its work folder is there.
    while not list(tmp_path.rglob("seed-0/work")) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(2)
    os.kill(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert out == ""
    assert "--resume" in err
    assert "Traceback" not in err


def test_result_json_follows_its_schema(tmp_path: Path) -> None:
    import jsonschema

    done = command("--method", "none", "--out", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    jsonschema.validate(body, unbench.Result.model_json_schema(by_alias=True))
    stored = json.loads((Path(body["dir"]) / "result.json").read_text())
    assert {**stored, "dir": body["dir"]} == body
    for field in ("schema", "run_id", "method", "task", "model", "seeds", "per_seed", "metrics", "dir"):
        assert field in body
    for score in ("forget", "trace", "retain", "specificity", "overall"):
        assert {"value", "low", "high"} <= body["scores"][score].keys()
    assert {"wall_s", "unlearn_s", "respond_s", "peak_memory_bytes"} <= body["compute"].keys()
