"""Whole runs on vLLM, and what happens to them when it can't go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from unbench.engines.vllm import VLLMEngine
from unbench.engines.vllm_options import VLLMOptions
from unbench.errors import EnvironmentProblem
from unbench.models.load import load_tokenizer

RUN = [sys.executable, "-m", "unbench", "--quiet", "run", "--method", "unstar", "--json", "--set", "rounds=1"]
FEW = ["--set", "paraphrases=3", "--set", "anti_samples_min=1", "--set", "steps=4", "--limit", "2"]


def run(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, *words, "--out", str(out)], capture_output=True, text=True, check=False)


def kinds(out: Path) -> set[tuple[str, str, bool]]:
    """What sorts of records a run left of what the model wrote."""
    (file,) = out.rglob("anti_samples.jsonl")
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {(record["role"], record["stage"], record["kept"]) for record in records if record["kept"]}


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--train", "lora", "--rank", "4"],
        pytest.param(["--model", "smollm2", "--task", "facts/hogwarts"], marks=pytest.mark.slow),
    ],
    ids=["nano", "nano-lora", "smollm2"],
)
def test_unstar_writes_the_same_kinds_of_text_with_one_start(tmp_path: Path, words: list[str]) -> None:
    plain, fast = tmp_path / "hf", tmp_path / "vllm"
    assert run(plain, *words, *FEW, "--engine", "hf").returncode == 0
    done = run(fast, *words, *FEW, "--engine", "vllm")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["compute"]["engine_starts"] == 1
    assert result["compute"]["tokens_per_s"] > 0
    assert kinds(fast) == kinds(plain)
    assert not left_of(fast)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_no_process_and_goes_on(tmp_path: Path, how: signal.Signals) -> None:
    words = [*FEW, "--engine", "vllm", "--out", str(tmp_path)]
    # A shell starts background jobs with SIGINT ignored, and children inherit it.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "preexec_fn": listen}
    with subprocess.Popen([*RUN, *words], **quiet) as started:  # type: ignore[call-overload]
        worker = wait_for_worker(started.pid)
        started.send_signal(how)
    assert gone([worker])
    done = run(tmp_path, *FEW, "--engine", "vllm", "--resume")
    assert done.returncode == 0, done.stderr


def test_an_engine_that_is_killed_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    words = [*FEW, "--engine", "vllm", "--out", str(tmp_path)]
    with subprocess.Popen([*RUN, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as started:
        worker = wait_for_worker(started.pid)
        worker.send_signal(signal.SIGKILL)
        _, said = started.communicate()
    assert started.returncode in (3, 4), said
    assert "killed by SIGKILL" in said
    assert "Traceback" not in said
    assert gone([worker])


def test_too_little_memory(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="too little memory"):
        VLLMEngine.open(model_folder("nano"), tmp_path / "log", VLLMOptions(cpu_cache_bytes=1 << 17))


def test_a_head_size_that_vllm_has_no_kernel_for(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=1000, hidden_size=72, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        head_dim=18, max_position_embeddings=128,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "odd")
    load_tokenizer(model_folder("nano")).save_pretrained(tmp_path / "odd")
    with pytest.raises(EnvironmentProblem, match="can't serve") as found:
        VLLMEngine.open(tmp_path / "odd", tmp_path / "log")
    assert "\n" not in found.value.message
    assert found.match("--engine hf")


def wait_for_worker(pid: int) -> psutil.Process:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        for child in psutil.Process(pid).children(recursive=True):
            try:
                if "unbench.engines.vllm_worker" in child.cmdline():
                    return child
            except psutil.Error:
                continue
        time.sleep(0.2)
    raise AssertionError("no engine was started")


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=20)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


def left_of(out: Path) -> list[str]:
    """Engines whose log lies below ``out``."""
    found = []
    for process in psutil.process_iter():
        try:
            if "unbench.engines.vllm_worker" in process.cmdline():
                found += [one.path for one in process.open_files() if one.path.startswith(os.fspath(out))]
        except psutil.Error:
            continue
    return found
