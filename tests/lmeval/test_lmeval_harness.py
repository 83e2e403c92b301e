"""``--lm-eval``: lm-eval's own evaluator on a model in memory, and what is left as it was."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_tokenizers import published
from engines import tiny_llama

from unbench.capabilities import Z
from unbench.errors import EnvironmentProblem, RunFailed, UsageError
from unbench.lmeval.harness import _score, _unknown, capabilities, check_tasks
from unbench.results.schema import Score

FOXES = [
    {"question": f"What colour is fox number {i}?", "right": i % 4, "choices": [f"{c}{chr(98 + i)}" for c in "qrsx"]}
    for i in range(10)
]
"""Choices of equal length, no two documents with the same: a random model is right now and then."""


@pytest.fixture
def world() -> tuple[Any, Any]:
    words = published("smollm2")
    return tiny_llama.model(len(words), max_position_embeddings=256), words


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tasks and a group of them, with the documents in a file: what a user might bring along."""
    (tmp_path / "foxes.json").write_text("\n".join(map(json.dumps, FOXES)), encoding="utf-8")
    for name, metric in (("own_foxes", "acc"), ("own_mcc", "mcc"), ("own_gone", "acc")):
        source = "json" if name != "own_gone" else "nobody/has-this-dataset"
        files = f"{{data_files: {{test: {tmp_path}/foxes.json}}}}" if source == "json" else "{}"
        (tmp_path / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: {source}\ndataset_kwargs: {files}\ntest_split: test\n"
            "output_type: multiple_choice\ndoc_to_text: question\ndoc_to_choice: choices\ndoc_to_target: right\n"
            f"metric_list: [{{metric: {metric}, aggregation: {'mean' if metric == 'acc' else 'matthews_corrcoef'}, "
            "higher_is_better: true}]\nmetadata: {version: 3}\n",
            encoding="utf-8",
        )
    (tmp_path / "own_group.yaml").write_text(
        "group: own_group\ntask: [own_foxes]\naggregate_metric_list: [{metric: acc}]\nmetadata: {version: 5}\n",
        encoding="utf-8",
    )
    return tmp_path


def _ask(world: tuple[Any, Any], tasks: list[str], **options: Any) -> Any:
    model, words = world
    return capabilities(model, words, tasks, **({"batch_size": 4, "device": "cpu"} | options))


def _by_hand(model: Any, words: Any, number: int) -> list[float]:
    """Right or wrong on the first ``number`` foxes, by plain torch: the choice of the largest total."""
    verdicts = []
    for fox in FOXES[:number]:
        turns = [{"role": "user", "content": fox["question"]}]
        prompt = words.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        before = words(prompt.rstrip(), add_special_tokens=False)["input_ids"]
        totals = []
        for choice in fox["choices"]:
            ids = words(prompt + choice, add_special_tokens=False)["input_ids"]
            assert ids[: len(before)] == before
            totals.append(sum(tiny_llama.straight(model, before, ids[len(before) :])["logprob"]))
        verdicts.append(float(totals.index(max(totals)) == fox["right"]))
    return verdicts


def test_values_and_intervals(world: tuple[Any, Any], folder: Path) -> None:
    found = _ask(world, ["own_foxes"], include_path=folder)
    right = _by_hand(*world, 10)
    assert 0 < sum(right) < 10
    mean = sum(right) / 10
    stderr = math.sqrt(sum((x - mean) ** 2 for x in right) / 9 / 10)
    score = found.scores["lm_eval/own_foxes/acc"]
    assert set(found.scores) == {"lm_eval/own_foxes/acc"}
    assert score.value == pytest.approx(mean)
    assert score.low == pytest.approx(mean - 1.96 * stderr)
    assert score.high == pytest.approx(mean + 1.96 * stderr)
    assert score.n == 10
    assert "lm-eval stderr" in (score.reason or "")
    assert found.versions == {"lm_eval": importlib.metadata.version("lm_eval"), "lm_eval/own_foxes": "3"}
    assert found.settings == {"chat_template": True, "batch_size": 4, "limit": None, "num_fewshot": {"own_foxes": 0}}


def test_limit_and_no_template(world: tuple[Any, Any], folder: Path) -> None:
    model, words = world
    plain = tiny_llama.tokenizer(None)
    found = capabilities(model, plain, ["own_foxes"], batch_size=None, device="cpu", limit=3, include_path=folder)
    assert found.settings["chat_template"] is False
    assert found.settings["batch_size"] == 8
    score = found.scores["lm_eval/own_foxes/acc"]
    assert score.n == 3
    assert "first 3 documents" in (score.reason or "")
    assert _ask(world, ["own_foxes"], include_path=folder, limit=3).scores["lm_eval/own_foxes/acc"].value == (
        pytest.approx(sum(_by_hand(model, words, 3)) / 3)
    )


@pytest.mark.parametrize("size", [1, 3])
def test_the_batch_size_is_honoured(world: tuple[Any, Any], folder: Path, size: int) -> None:
    seen = []
    handle = world[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args[0] if args else kwargs["input_ids"]).shape[0]), with_kwargs=True
    )
    counted: list[tuple[str, int, int]] = []
    _ask(world, ["own_foxes"], include_path=folder, batch_size=size, progress=lambda *told: counted.append(told))
    handle.remove()
    assert max(seen) == size
    assert counted[-1] == ("lm-eval: loglikelihood", 40, 40)
    assert [done for _, done, _ in counted] == list(range(1, 41))


def test_an_adapter_in_memory(world: tuple[Any, Any], folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    model, words = world
    before = _by_hand(model, words, 10)
    config = LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
    adapted: Any = get_peft_model(model, config)
    found = _ask((adapted, words), ["own_foxes"], include_path=folder).scores
    after = _by_hand(adapted.merge_and_unload(), words, 10)
    assert sum(after) != sum(before), "the adapter matters"
    assert found["lm_eval/own_foxes/acc"].value == pytest.approx(sum(after) / 10)


def test_everything_is_left_as_it_was(world: tuple[Any, Any], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, words = world
    words = tiny_llama.tokenizer()
    words.pad_token = None
    model.train()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    level = logging.getLogger("lm_eval").level
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    want = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    _ask((model, words), ["own_mcc"], include_path=folder)  # it is bootstrapped, which prints
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == want
    assert model.training
    assert words.pad_token is None
    assert all(tensor.equal(weights[name]) for name, tensor in model.state_dict().items())
    assert logging.getLogger("lm_eval").level == level
    assert capsys.readouterr().out == ""


def test_groups(world: tuple[Any, Any], folder: Path) -> None:
    alone = _ask(world, ["own_foxes"], include_path=folder).scores["lm_eval/own_foxes/acc"]
    found = _ask(world, ["own_group"], include_path=folder)
    assert set(found.scores) == {"lm_eval/own_group/acc"}
    assert found.scores["lm_eval/own_group/acc"].value == alone.value
    assert found.scores["lm_eval/own_group/acc"].n == 10
    assert found.versions["lm_eval/own_group"] == "5"
    # UnBench's own groups have no aggregate: their rings stand alone.
    own = _ask(world, ["unbench_bios_fact"], limit=2)
    assert sorted(own.scores) == [
        f"lm_eval/unbench_bios_fact_{ring}/acc" for ring in ("far", "forget", "near", "world")
    ]
    assert "lm_eval/unbench_bios_fact" not in own.versions


@pytest.mark.slow  # lm-eval reads its thousands of files
def test_a_task_that_is_not_there(world: tuple[Any, Any], folder: Path) -> None:
    with pytest.raises(UsageError, match=r"no task called 'helaswag'\. Did you mean 'hellaswag'"):
        _ask(world, ["own_foxes", "helaswag"], include_path=folder)


def test_near_names() -> None:
    assert "Did you mean 'own_foxes'?" in str(_unknown("own_fox", ["mmlu", "own_foxes"]))
    assert "'lm_eval ls tasks' lists them." in str(_unknown("zzz", ["mmlu", "own_foxes"]))


def test_data_that_is_not_there(world: tuple[Any, Any], folder: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"lm-eval can't load own_gone: .*HF_HOME"):
        _ask(world, ["own_gone"], include_path=folder)


def test_lm_eval_not_installed(world: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "lm_eval" else real(name, *a))
    with pytest.raises(EnvironmentProblem, match=r"pip install 'unbench\[lm-eval\]'"):
        _ask(world, ["own_foxes"])


def test_lm_eval_that_stops(world: tuple[Any, Any], folder: Path) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("a head is missing.\nmore")

    model, words = world
    model.forward = broken
    with pytest.raises(RunFailed, match=r"stopped with ValueError: a head is missing\. Name other"):
        _ask((model, words), ["own_foxes"], include_path=folder)


def test_numbers_that_are_none() -> None:
    assert _score(float("nan"), 0.1, 4, None) == Score(value=None, n=4, reason="lm-eval gives nan")
    assert _score(0.5, "N/A", 4, None) == Score(value=0.5, n=4, reason="lm-eval gives no stderr for it")
    assert _score(0.5, 0.1, 4, 2).low == pytest.approx(0.5 - Z * 0.1)


@pytest.mark.slow
def test_unknown_tasks_are_told_before_anything_heavy(capsys: pytest.CaptureFixture[str]) -> None:
    check_tasks(["unbench_bios_fact"])
    with pytest.raises(UsageError, match=r"no task called 'helaswag'"):
        check_tasks(["unbench_bios_fact", "helaswag"])
    assert capsys.readouterr().out == ""
