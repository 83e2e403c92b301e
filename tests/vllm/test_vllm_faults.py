"""What goes wrong with an engine: one sentence, the right exit code, nothing lost, no process left behind."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from vllm_processes import FEW, RUN, children, engines, gone, left_of, run, unbench, wait_until

from unbench.models.load import load_model, load_tokenizer

VLLM = [*FEW, "--engine", "vllm"]
Started = subprocess.Popen[str]


@contextmanager
def started(out: Path, *words: str) -> Iterator[Started]:
    # A shell starts background jobs with SIGINT ignored, and children inherit it.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    command = [*RUN, *words, "--out", str(out)]
    with subprocess.Popen(command, **pipes, preexec_fn=listen) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def engine_starts(process: Started, out: Path) -> bool:
    return bool(engines(process.pid))


def weights_were_trained(process: Started, out: Path) -> bool:
    assert process.poll() is None, "the run was over before it could be disturbed"
    return bool(list(out.rglob("seed-0/**/model.safetensors")))


def one_sentence(said: str) -> bool:
    """A sentence that names the fault, and the next command; log lines may stand between them."""
    return said.startswith("Error: ") and "Traceback" not in said


@pytest.mark.parametrize(
    ("when", "how"),
    [
        (engine_starts, signal.SIGKILL),
        (weights_were_trained, signal.SIGINT),
        (weights_were_trained, signal.SIGTERM),
        (weights_were_trained, signal.SIGKILL),
    ],
)
def test_a_run_that_is_ended_leaves_no_process_and_goes_on(
    tmp_path: Path, when: Callable[[Started, Path], bool], how: signal.Signals
) -> None:
    with started(tmp_path, *VLLM) as process:
        wait_until(lambda: when(process, tmp_path), when.__name__)
        family = children(process.pid)
        assert engines(process.pid)
        process.send_signal(how)
    assert gone(family)
    assert not left_of(tmp_path)
    done = run(tmp_path, *VLLM, "--resume")
    assert done.returncode == 0, done.stderr


def test_an_engine_that_is_killed_as_it_starts(tmp_path: Path) -> None:
    with started(tmp_path, *VLLM) as process:
        wait_until(lambda: engine_starts(process, tmp_path), "the engine's start")
        family = children(process.pid)
        engines(process.pid)[0].kill()
        _, said = process.communicate()
    assert process.returncode == 3, said
    assert one_sentence(said)
    assert "killed by SIGKILL while it started" in said
    assert "--engine hf" in said
    assert gone(family)


def test_an_engine_that_is_killed_in_the_middle(tmp_path: Path) -> None:
    undisturbed = run(tmp_path / "whole", *VLLM, "--seeds", "2")
    assert undisturbed.returncode == 0, undisturbed.stderr
    out = tmp_path / "killed"
    with started(out, *VLLM, "--seeds", "2") as process:
        wait_until(lambda: list(out.rglob("seed-1/work")), "the second seed")
        family = children(process.pid)
        engines(process.pid)[0].kill()
        _, said = process.communicate()
    assert process.returncode == 4, said
    assert one_sentence(said)
    assert "killed by SIGKILL before it had answered" in said
    assert "Its last lines:\n" in said
    assert "--resume" in said
    assert gone(family)
    assert not left_of(out)
    finished = {file: file.stat().st_mtime_ns for file in out.rglob("seed-0/*.*")}
    assert {"unlearn.json", "respond.json", "responses.parquet"} <= {file.name for file in finished}
    done = run(out, *VLLM, "--seeds", "2", "--resume")
    assert done.returncode == 0, done.stderr
    assert {file: file.stat().st_mtime_ns for file in finished} == finished, "what was finished is kept"
    assert json.loads(done.stdout)["per_seed"] == json.loads(undisturbed.stdout)["per_seed"]


def test_too_little_memory(tmp_path: Path) -> None:
    done = run(tmp_path, *VLLM, "--gpu-memory", "0.00001")
    assert done.returncode == 3, done.stderr
    assert one_sentence(done.stderr)
    assert "too little memory for vLLM" in done.stderr
    assert "Try a larger --gpu-memory" in done.stderr
    assert not left_of(tmp_path)
    again = run(tmp_path, *VLLM, "--gpu-memory", "0.02", "--resume")
    assert again.returncode == 0, again.stderr


def test_a_head_size_that_vllm_has_no_kernel_for(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    tokenizer = load_tokenizer(model_folder("nano"))
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=72, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        head_dim=18, max_position_embeddings=512,
    )  # fmt: skip
    odd, out = tmp_path / "odd", tmp_path / "runs"
    LlamaForCausalLM(config).save_pretrained(odd)
    tokenizer.save_pretrained(odd)
    for words in (
        ("eval", str(odd), "--limit", "1"),
        ("run", "--method", "none", "--target", str(odd), "--limit", "1", "--out", str(out)),
    ):
        done = unbench(*words, "--engine", "vllm")
        assert done.returncode == 3, done.stderr
        assert one_sentence(done.stderr)
        assert "\n" not in done.stderr.strip()
        assert "can't serve" in done.stderr
        assert "head" in done.stderr.lower()
        assert "--engine hf" in done.stderr
        assert unbench(*words, "--engine", "hf").returncode == 0
    assert not left_of(tmp_path)


def test_an_adapter_rank_above_the_limit(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "runs"
    done = run(out, *VLLM, "--train", "lora", "--rank", "513")
    assert done.returncode == 3, done.stderr
    assert "up to rank 512, not 513" in done.stderr
    assert "\n" not in done.stderr.strip()
    assert not out.exists(), "known before the run has a folder"
    lora = LoraConfig(r=513, target_modules=["q_proj"], task_type="CAUSAL_LM")
    net = get_peft_model(load_model(model_folder("nano"), "cpu", torch.float32), lora)
    net.save_pretrained(str(tmp_path / "adapter"))
    done = unbench("eval", str(tmp_path / "adapter"), "--limit", "1", "--engine", "vllm")
    assert done.returncode == 3, done.stderr
    assert "up to rank 512, not 513" in done.stderr


METHOD = '''
from peft import LoraConfig, get_peft_model
from unbench.engines.base import Sampling
from unbench.method import Method, MethodCard, Unlearned


class Wide(Method):
    """Hands back an adapter of a higher rank than the plan's."""

    card = MethodCard(name="wide", title="Wide", kind="control", bibtex="")

    def unlearn(self, context):
        with context.open_engine() as engine:
            engine.generate([[1, 2, 3]], Sampling(max_new_tokens=2))
        net = get_peft_model(context.target.load(), LoraConfig(r=12, target_modules=["q_proj"], task_type="CAUSAL_LM"))
        net.save_pretrained(str(context.folder / "adapter"))
        return Unlearned(context.folder / "adapter")
'''


def test_an_adapter_that_the_running_engine_was_not_started_for(tmp_path: Path) -> None:
    plugin, out = tmp_path / "wide.py", tmp_path / "runs"
    plugin.write_text(METHOD)
    words = ("run", "--plugin", str(plugin), "--train", "lora", "--rank", "4", "--limit", "1", "--engine", "vllm")
    done = unbench(*words, "--out", str(out))
    assert done.returncode == 3, done.stderr
    assert "has rank 12, and the vLLM engine was started for up to 8" in done.stderr
    assert "--resume" in done.stderr
    assert not left_of(out)
    (kept,) = out.rglob("seed-0/unlearn.json")
    before = kept.stat().st_mtime_ns
    done = unbench(*words, "--out", str(out), "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert kept.stat().st_mtime_ns == before
    assert json.loads(done.stdout)["compute"]["engine_starts"] == 1


def test_an_engine_on_its_own_ends_with_its_block(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    from unbench.engines.vllm import VLLMEngine
    from unbench.engines.vllm_options import VLLMOptions

    with VLLMEngine.open(model_folder("nano"), tmp_path / "log", VLLMOptions(data_parallel=2)) as engine:
        family = [psutil.Process(pid) for pid in engine.pids] + children(psutil.Process().pid)
        assert len(engine.pids) == 2
    assert gone(family)
