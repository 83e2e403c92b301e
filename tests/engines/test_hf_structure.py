"""What a pass costs, by counting at the model: nothing goes through it twice, little padding, no large table."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny_llama import model, tokenizer
from tofu_like import DATA, requests
from torch.utils._python_dispatch import TorchDispatchMode

from unbench.engines.base import Sampling, ScoreRequest
from unbench.engines.hf import HFEngine

LARGEST = 256 << 20
"""Bytes of a float tensor with a vocabulary dimension (Must hold)."""
VOCABULARY = 131072


class Forwarded:
    """Every forward pass of a model: token ids and the positions that each token sees."""

    def __init__(self) -> None:
        self.tokens = 0
        """Padding included."""
        self.sequences: list[tuple[list[int], list[list[int]]]] = []
        """Per sequence of a pass without a past: its tokens without padding, and per token the places it sees."""
        self.steps: list[int] = []
        """Rows of every pass that goes on from a past."""

    def take(self, module: object, args: object, inputs: dict[str, Any]) -> None:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        self.tokens += ids.numel()
        if inputs.get("past_key_values") is not None:
            self.steps.append(len(ids))
            return
        length = ids.shape[1]
        for row, one in zip(ids.tolist(), mask, strict=True):
            if mask.ndim == 2:
                real = one.nonzero()[:, 0].tolist()
                sees = [list(range(i + 1)) for i in range(len(real))]
            else:
                # A token sees the first one; padding sees itself only.
                visible = one[0] == 0
                real = [i for i in range(length) if i == 0 or visible[i, 0]]
                sees = [visible[i].nonzero()[:, 0].tolist() for i in real]
            self.sequences.append(([row[i] for i in real], sees))


@contextmanager
def watched(net: torch.nn.Module) -> Iterator[Forwarded]:
    seen = Forwarded()
    handle = net.register_forward_pre_hook(seen.take, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def necessary(asked: list[ScoreRequest]) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(prompt, prefix of an answer) for every token that must go through the model behind its prompt: all but an
    answer's last, which nothing follows."""
    return {
        (tuple(request.prompt), tuple(answer[:n]))
        for request in asked
        for answer in request.continuations
        for n in range(1, len(answer))
    }


def check_scoring(asked: list[ScoreRequest]) -> None:
    net = model(max_position_embeddings=2048)
    with HFEngine(net, tokenizer()) as engine:
        engine.score(asked[:1])  # the engine's own check of the model
        with watched(net) as seen:
            engine.score(asked)
    prompts = {tuple(request.prompt) for request in asked}
    found: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = Counter()
    times: Counter[tuple[int, ...]] = Counter()
    for tokens, sees in seen.sequences:
        [prompt] = [p for p in prompts if tuple(tokens[: len(p)]) == p]
        times[prompt] += 1
        assert all(sees[i] == list(range(i + 1)) for i in range(len(prompt)))
        for places in sees[len(prompt) :]:
            path = [tokens[place] for place in places]
            assert tuple(path[: len(prompt)]) == prompt
            found[prompt, tuple(path[len(prompt) :])] += 1
    assert times == dict.fromkeys(prompts, 1), "each prompt goes through the model once"
    assert found == dict.fromkeys(necessary(asked), 1), "each token of an answer goes through once, behind its prompt"
    assert seen.tokens <= 1.10 * (len(found) + sum(map(len, prompts)))


def test_scoring_forwards_each_prompt_and_pair_once() -> None:
    check_scoring(requests(tokenizer(), 20))


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="TOFU's files are not there")
def test_scoring_all_of_forget01() -> None:
    check_scoring(requests(tokenizer(), 400))


def test_pairs_that_are_asked_again_are_not_forwarded_again() -> None:
    asked = requests(tokenizer(), 6)
    # A second metric's requests: the same prompts, answers in another order, one at a time.
    again = [ScoreRequest(list(r.prompt), [list(answer)]) for r in asked for answer in reversed(r.continuations)]
    check_scoring([*asked, *again])


@pytest.mark.parametrize("batch_size", [None, 7])
def test_generation_steps_only_rows_that_go_on(batch_size: int | None) -> None:
    net, words = model(max_position_embeddings=2048), tokenizer(None)
    with torch.no_grad():
        net.lm_head.weight[2] *= 2
    prompts = [r.prompt for r in requests(tokenizer(), 12)]
    limit = 40
    with HFEngine(net, words, batch_size=batch_size) as engine:
        engine.generate(prompts[:1], Sampling(max_new_tokens=2))
        with watched(net) as seen:
            texts = engine.generate(prompts, Sampling(max_new_tokens=limit))
    assert len({len(text.tokens) for text in texts}) > 5, "the test wants rows that end at different times"
    distinct = {tuple(prompt): text for prompt, text in zip(prompts, texts, strict=True)}
    # The end token goes nowhere, and neither does the last one of a text that is cut.
    steps = sum(len(text.tokens) if text.finished else limit - 1 for text in distinct.values())
    assert sum(seen.steps) == steps
    assert Counter(tuple(tokens) for tokens, _ in seen.sequences) == dict.fromkeys(distinct, 1)
    assert seen.tokens <= 1.10 * (steps + sum(map(len, distinct)))


class Tables(TorchDispatchMode):
    """Float tensors with a vocabulary dimension: the largest, and the most bytes alive at once."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.largest = self.peak = self.largest_of_all = 0
        self._weights = weights
        self._alive: list[weakref.ref[torch.Tensor]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                continue
            if tensor.untyped_storage().data_ptr() in self._weights:
                continue
            size = tensor.numel() * tensor.element_size()
            self.largest_of_all = max(self.largest_of_all, size)
            if VOCABULARY in tensor.shape:
                self.largest = max(self.largest, size)
                self._alive.append(weakref.ref(tensor))
        alive = [(ref, tensor) for ref in self._alive if (tensor := ref()) is not None]
        storages = [tensor.untyped_storage() for _, tensor in alive]
        self._alive = [ref for ref, _ in alive]
        self.peak = max(self.peak, sum({s.data_ptr(): s.nbytes() for s in storages}.values()))
        return out


def large_vocabulary() -> tuple[torch.nn.Module, set[int]]:
    net = model(vocabulary=VOCABULARY, max_position_embeddings=2048)
    return net, {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}


def check_tables(tables: Tables) -> None:
    assert 0 < tables.largest <= LARGEST
    assert tables.largest_of_all <= LARGEST
    assert tables.peak <= LARGEST, "a few slices at once, not more"


def test_scoring_makes_no_large_table() -> None:
    net, weights = large_vocabulary()
    asked = requests(tokenizer(), 2)
    positions = sum(len(r.prompt) + sum(map(len, r.continuations)) for r in asked)
    assert positions * VOCABULARY * 4 > 2 * LARGEST, "the obvious way would make one"
    with HFEngine(net, tokenizer()) as engine, Tables(weights) as tables:
        engine.score(asked)
    check_tables(tables)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generation_makes_no_large_table(temperature: float) -> None:
    net, weights = large_vocabulary()
    prompts = [[3 + i, 5, 7] for i in range(600)]
    assert len(prompts) * VOCABULARY * 4 > LARGEST
    with HFEngine(net, tokenizer(), batch_size=600) as engine, Tables(weights) as tables:
        engine.generate(prompts, Sampling(max_new_tokens=2, temperature=temperature))
    check_tables(tables)


def test_the_table_watch_sees_a_large_table() -> None:
    net, weights = large_vocabulary()
    with Tables(weights) as tables, torch.no_grad():
        net(input_ids=torch.zeros((1, 600), dtype=torch.long))
    assert tables.largest == 600 * VOCABULARY * 4
    assert tables.peak >= tables.largest
