"""vLLM's log-probabilities, greedy texts and scores are transformers', for the target, adapters and whole models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm_models import MODELS, TASKS, TEXTS

from unbench import api, plugins
from unbench.engines.base import Sampling, ScoreRequest
from unbench.engines.hf import HFEngine
from unbench.engines.vllm import VLLMEngine
from unbench.engines.vllm_options import VLLMOptions, adapter_shape
from unbench.method import Unlearned
from unbench.models.load import Target, load_tokenizer, load_unlearned
from unbench.responses import Answers, candidate_ids
from unbench.results.schema import Result

CLOSE, TIE = 1e-3, 2e-3
"""Nats: how far log-probabilities may lie apart, and two best tokens for which either may be written."""
NUMBER_OF_TEXTS = 200
FORGOTTEN = (0.02, 0.98)
"""Between these a forget score shows a difference."""
REQUESTS = {"nano": 200, "smollm2": 10}


@dataclass
class Pair:
    """Both engines on one model, and what they are asked."""

    name: str
    vllm: VLLMEngine
    hf: HFEngine
    requests: list[ScoreRequest]
    prompts: list[list[int]]

    def load(self, weights: Path | None) -> None:
        self.vllm.load(Unlearned(weights))
        self.hf.load(Unlearned(weights))


def pair(name: str, folder: Path, log: Path, options: VLLMOptions) -> Iterator[Pair]:
    requests = [request for answers in asked(folder, TASKS[name]) for request in answers.requests]
    step = max(1, len(requests) // REQUESTS[name])
    prompts = list({tuple(answers.prompt): answers.prompt for answers in asked(folder, TEXTS[name])}.values())
    prompts = prompts[:: len(prompts) // NUMBER_OF_TEXTS][:NUMBER_OF_TEXTS]
    assert len(prompts) == NUMBER_OF_TEXTS
    with VLLMEngine.open(folder, log, options) as vllm, HFEngine.open(folder) as hf:
        yield Pair(name, vllm, hf, requests[::step], prompts)


def asked(folder: Path, name: str) -> list[Answers]:
    task = plugins.open_task(name, "report", None)
    return candidate_ids(load_tokenizer(folder), task.probes(), None, task.knowledge)


@pytest.fixture(scope="module", params=MODELS)
def adapted(
    request: pytest.FixtureRequest, model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    options = VLLMOptions(lora_rank=4, lora_targets=("q_proj", "v_proj"))
    yield from pair(request.param, model_folder(request.param), tmp_path_factory.mktemp("log") / "vllm.log", options)


@pytest.fixture(scope="module", params=MODELS)
def reloaded(
    request: pytest.FixtureRequest, model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    log = tmp_path_factory.mktemp("log") / "vllm.log"
    yield from pair(request.param, model_folder(request.param), log, VLLMOptions())


def log_probabilities(engine: HFEngine | VLLMEngine, requests: Sequence[ScoreRequest]) -> list[float]:
    return [value for request in engine.score(requests) for scores in request for value in scores.logprob]


def assert_same_scores(both: Pair) -> list[float]:
    mine, theirs = both.vllm.score(both.requests), both.hf.score(both.requests)
    flat = [pair for one, other in zip(mine, theirs, strict=True) for pair in zip(one, other, strict=True)]
    worst = max(abs(a - b) for x, y in flat for a, b in zip(x.logprob, y.logprob, strict=True))
    print(f"{both.name}: log-probabilities to {worst:.1e}")
    assert worst < CLOSE
    first = [(a, b) for x, y in flat for a, b in zip(x.is_argmax, y.is_argmax, strict=True)]
    assert sum(a != b for a, b in first) <= len(first) / 1000
    assert any(a for a, _ in first)
    return [value for _, y in flat for value in y.logprob]


def assert_same_texts(both: Pair) -> None:
    sampling = Sampling(max_new_tokens=24)
    mine, theirs = both.vllm.generate(both.prompts, sampling), both.hf.generate(both.prompts, sampling)
    equal, widest = 0, 0.0
    for prompt, a, b in zip(both.prompts, mine, theirs, strict=True):
        if a == b:
            equal += 1
            continue
        at = next((i for i, (x, y) in enumerate(zip(a.tokens, b.tokens, strict=False)) if x != y), None)
        at = min(len(a.tokens), len(b.tokens)) if at is None else at
        with torch.no_grad():
            logits = both.hf._weights.model(input_ids=torch.tensor([[*prompt, *a.tokens[:at]]])).logits[0, -1]
        best = logits.log_softmax(dim=-1).topk(2).values
        widest = max(widest, float(best[0] - best[1]))
        assert widest < TIE
    print(f"{both.name}: {equal} of {len(both.prompts)} texts equal, the others from a tie within {widest:.1e}")
    assert equal > len(both.prompts) * 0.9


def test_target_and_adapters(adapted: Pair, changed: Callable[..., Path]) -> None:
    base = assert_same_scores(adapted)
    assert_same_texts(adapted)
    for seed in (0, 1):
        adapted.load(changed(adapted.name, "adapter", seed))
        moved = assert_same_scores(adapted)
        assert max(abs(a - b) for a, b in zip(base, moved, strict=True)) > 0.1, "the test wants an adapter that matters"
    assert_same_texts(adapted)
    for weights in (changed(adapted.name, "whole"), changed(adapted.name, "adapter")):
        adapted.load(weights)
        assert_same_scores(adapted)
    adapted.load(None)
    assert log_probabilities(adapted.vllm, adapted.requests) == pytest.approx(base, abs=CLOSE)


def test_whole_models_in_place(reloaded: Pair, changed: Callable[..., Path]) -> None:
    base = log_probabilities(reloaded.hf, reloaded.requests)
    for weights in (changed(reloaded.name, "whole"), None):
        reloaded.load(weights)
        moved = assert_same_scores(reloaded)
        assert (max(abs(a - b) for a, b in zip(base, moved, strict=True)) > 0.1) == (weights is not None)
    reloaded.load(changed(reloaded.name, "whole"))
    assert_same_texts(reloaded)
    reloaded.load(None)


def test_sampled_texts_depend_on_seed_and_place_only(reloaded: Pair) -> None:
    prompts = [*reloaded.prompts[:8], *[reloaded.prompts[0]] * 8]
    sampling = Sampling(max_new_tokens=12, temperature=1.5, seed=5)
    first = reloaded.vllm.generate(prompts, sampling)
    assert reloaded.vllm.generate(prompts, sampling) == first
    assert reloaded.vllm.generate(prompts[:3], sampling) == first[:3]
    assert len({tuple(one.tokens) for one in first[8:]}) > 1, "equal prompts get texts of their own"
    assert reloaded.vllm.generate(prompts, Sampling(max_new_tokens=12, temperature=1.5, seed=6)) != first


def test_stop_strings(reloaded: Pair) -> None:
    free = reloaded.hf.generate(reloaded.prompts[:20], Sampling(max_new_tokens=12))
    stop = free[0].text[3:6]
    cut = Sampling(max_new_tokens=12, stop=(stop,))
    mine, theirs = (engine.generate(reloaded.prompts[:20], cut) for engine in (reloaded.vllm, reloaded.hf))
    assert mine[0] == theirs[0]
    assert mine[0].finished
    assert sum(a == b for a, b in zip(mine, theirs, strict=True)) >= 18  # the rest may meet a tie


@pytest.mark.parametrize(
    ("name", "kind"),
    [("nano", "far whole"), ("nano", "far adapter"), pytest.param("smollm2", "far adapter", marks=pytest.mark.slow)],
)
def test_scores_of_an_evaluation(
    name: str, kind: str, model_folder: Callable[[str], Path], changed: Callable[..., Path], tmp_path: Path
) -> None:
    base, weights = model_folder(name), changed(name, kind)
    target = Target(base, "cpu", torch.float32)
    limit = 12 if name == "nano" else 3

    def scored(**options: Any) -> Result:
        return api.evaluate(load_unlearned(target, weights), target.tokenizer, TASKS[name], limit=limit, **options)

    plain = scored()
    rank, targets = adapter_shape(weights) if kind == "far adapter" else (0, ())
    served = VLLMOptions(lora_rank=rank, lora_targets=targets)
    with VLLMEngine.open(base, tmp_path / "vllm.log", served) as engine:
        engine.load(Unlearned(weights))
        fast = scored(engines=("vllm", None), vllm=engine)
    assert plain.scores.forget.value is not None
    assert FORGOTTEN[0] < plain.scores.forget.value < FORGOTTEN[1], "scores at an end would agree whatever is served"
    for score in type(plain.scores).model_fields:
        a, b = getattr(plain.scores, score).value, getattr(fast.scores, score).value
        print(f"{name}, {kind}: {score} {a} and {b}")
        assert (a is None) == (b is None)
        assert a is None or a == pytest.approx(b, abs=0.005), score
    unsaid = {"mia_min_k_plus_plus"}
    for metric in plain.metrics:
        a, b = plain.metrics[metric], fast.metrics[metric]
        if metric in unsaid:
            assert b.value is None
            assert b.reason
        elif a.value is not None and "rouge" not in metric:
            assert a.value == pytest.approx(b.value, abs=0.02), metric
