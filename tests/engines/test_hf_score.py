"""Scores equal a loop over single sequences, however the work is shared and cut."""

from __future__ import annotations

import random

import pytest
import torch
from tiny_llama import model, straight, tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from unbench.engines.base import ScoreRequest, TokenScores
from unbench.engines.hf import HFEngine
from unbench.engines.hf_forward import SLICE_BYTES
from unbench.engines.hf_plan import MAX_PADDING, batches, chains, plan
from unbench.engines.hf_score import _reduce


def ragged(seed: int = 0, vocabulary: int = 400) -> list[ScoreRequest]:
    """Prompts of 1 to 30 tokens with 1 to 20 continuations of 1 to 6 tokens, many of which share a beginning."""
    draw = random.Random(seed)

    def ids(n: int) -> list[int]:
        return [draw.randrange(3, vocabulary) for _ in range(n)]

    requests = []
    for _ in range(12):
        prefix = ids(draw.randrange(0, 4))
        continuations = [prefix + ids(draw.randrange(1, 5)) for _ in range(draw.choice([1, 2, 20]))]
        continuations.append(continuations[0][:1])  # the start of another one
        requests.append(ScoreRequest(ids(draw.randrange(1, 31)), continuations))
    requests.append(ScoreRequest(requests[0].prompt, [[5, 6], requests[0].continuations[0]]))  # a prompt seen before
    return requests


def check(net: object, requests: list[ScoreRequest], got: list[list[TokenScores]], tolerance: float = 1e-5) -> None:
    assert len(got) == len(requests)
    for request, scores in zip(requests, got, strict=True):
        assert len(scores) == len(request.continuations)
        for continuation, score in zip(request.continuations, scores, strict=True):
            want = straight(net, request.prompt, continuation)
            assert score.logprob == pytest.approx(want["logprob"], abs=tolerance)
            assert score.mean == pytest.approx(want["mean"], abs=tolerance)
            assert score.variance == pytest.approx(want["variance"], abs=10 * tolerance, rel=tolerance)
            assert score.is_argmax == want["is_argmax"]


@pytest.mark.parametrize("batch_size", [None, 1, 7, 64])
def test_equal_to_a_straight_loop(batch_size: int | None) -> None:
    net, requests = model(), ragged()
    with HFEngine(net, tokenizer(), batch_size=batch_size) as engine:
        got = engine.score(requests)
        assert engine.stats.notes == []
    check(net, requests, got)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_kinds_share_prompts(attention: str) -> None:
    net, requests = model(attn_implementation=attention), ragged(1)
    with HFEngine(net, tokenizer()) as engine:
        check(net, requests, engine.score(requests))
        assert engine._ready().trees


def test_another_architecture() -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.2)
    net, requests = GPT2LMHeadModel(config).eval(), ragged(2)
    with HFEngine(net, tokenizer()) as engine:
        check(net, requests, engine.score(requests))


def test_a_tree_does_not_reach_beyond_a_sliding_window() -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=8, initializer_range=0.2,
    )  # fmt: skip
    net, requests = MistralForCausalLM(config).eval(), ragged(3)
    with HFEngine(net, tokenizer()) as engine:
        check(net, requests, engine.score(requests))


def test_a_model_that_changes_its_logits_is_run_whole(caplog: pytest.LogCaptureFixture) -> None:
    net, requests = model(), ragged(4)
    plain = net.forward

    def forward(**inputs: object) -> object:
        out = plain(**inputs)
        out.logits = out.logits * 0.5 + 0.1
        return out

    net.forward = forward  # type: ignore[method-assign]
    with HFEngine(net, tokenizer()) as engine:
        got = engine.score(requests)
        assert "output layer" in engine.stats.notes[0]
    check(net, requests, got)


def test_a_model_without_tree_masks_repeats_the_prompt() -> None:
    net, requests = model(), ragged(5)
    plain = net.forward

    def forward(**inputs: object) -> object:
        if getattr(inputs.get("attention_mask"), "ndim", 2) == 4:
            raise ValueError("two dimensions only")
        return plain(**inputs)

    net.forward = forward  # type: ignore[method-assign]
    with HFEngine(net, tokenizer()) as engine:
        got = engine.score(requests)
        assert "prompts are repeated" in engine.stats.notes[0]
    check(net, requests, got)


def test_no_token_is_forwarded_twice() -> None:
    """Counted at the model: each prompt once, each answer token that another follows once, little padding."""
    net, requests = model(), ragged(6)
    necessary = {
        (tuple(request.prompt), (*request.prompt, *continuation)[:n])
        for request in requests
        for continuation in request.continuations
        for n in range(1, len(request.prompt) + len(continuation))
    }
    with HFEngine(net, tokenizer()) as engine:
        engine._ready()
        forwarded = 0

        def count(module: object, args: object, inputs: dict[str, torch.Tensor]) -> None:
            nonlocal forwarded
            forwarded += inputs["input_ids"].numel()

        handle = net.register_forward_pre_hook(count, with_kwargs=True)
        engine.score(requests)
        handle.remove()
    assert len(necessary) <= forwarded <= 1.10 * len(necessary)


def test_plan_by_hand() -> None:
    work = plan([ScoreRequest([1, 2], [[7], [8, 9], [8, 5]]), ScoreRequest([1, 2], [[8, 9]])])
    assert len(work.rows) == 1
    row = work.rows[0]
    assert (row.tokens, row.parents, row.positions) == ([1, 2, 8], [-1, 0, 1], [0, 1, 2])
    assert row.is_chain
    assert sorted(row.wanted) == [(1, 7, 0), (1, 8, 1), (2, 5, 3), (2, 9, 2)]
    assert work.slots == [[[0], [1, 2], [1, 3]], [[1, 2]]]
    assert work.n_slots == 4


def test_chains_of_a_tree_by_hand() -> None:
    row = plan([ScoreRequest([1], [[7, 3, 4], [8, 9]])]).rows[0]
    assert (row.tokens, row.parents, row.positions) == ([1, 7, 3, 8], [-1, 0, 1, 0], [0, 1, 2, 1])
    assert not row.is_chain
    first, second = chains(row)
    assert (first.tokens, second.tokens) == ([1, 7, 3], [1, 8])
    assert sorted(first.wanted + second.wanted) == [(0, 7, 0), (0, 8, 3), (1, 3, 1), (1, 9, 4), (2, 4, 2)]


def test_batches_hold_little_padding_and_every_row() -> None:
    rows = plan([ScoreRequest(list(range(3, 4 + n)), [[1]]) for n in range(1, 80)]).rows
    made = list(batches(rows, lambda rows, length, wanted: rows * length <= 300))
    assert sum(map(len, made)) == len(rows)
    for batch in made:
        padded = len(batch) * max(len(row.tokens) for row in batch)
        assert padded <= 300 or len(batch) == 1
        assert padded <= MAX_PADDING * sum(len(row.tokens) for row in batch)
    assert len(made[0][0].tokens) == 80


def test_no_table_of_tokens_by_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for three positions only, logits are made three at a time and the scores stay the same."""
    net, requests = model(), ragged(7)
    with HFEngine(net, tokenizer()) as engine:
        whole = engine.score(requests)
        monkeypatch.setitem(SLICE_BYTES, "cpu", 3 * 4 * 400)
        largest = 0

        def watch(module: object, args: object, out: torch.Tensor) -> None:
            nonlocal largest
            largest = max(largest, out.numel() // out.shape[-1])

        handle = net.lm_head.register_forward_hook(watch)
        sliced = engine.score(requests)
        handle.remove()
    assert largest == 3
    for a, b in zip(whole, sliced, strict=True):
        for x, y in zip(a, b, strict=True):
            assert x.logprob == pytest.approx(y.logprob, abs=1e-5)


def test_a_masked_token_costs_no_nan() -> None:
    logits = torch.tensor([[0.0, 0.0, -float("inf")]])
    got = _reduce(logits, torch.tensor([0, 0]), torch.tensor([0, 2]))
    half = torch.tensor(0.5).log().item()
    assert got[0].tolist() == pytest.approx([half, -float("inf")])
    assert got[1].tolist() == pytest.approx([half, half])
    assert got[2].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert got[3].tolist() == [1.0, 0.0]


def test_empty_parts_are_refused() -> None:
    with HFEngine(model(), tokenizer()) as engine:
        with pytest.raises(ValueError, match="prompt token"):
            engine.score([ScoreRequest([], [[1]])])
        with pytest.raises(ValueError, match="empty continuation"):
            engine.score([ScoreRequest([1], [[]])])
        assert engine.score([]) == []
        assert engine.score([ScoreRequest([1], [])]) == [[]]


def test_bfloat16() -> None:
    net, requests = model().to(torch.bfloat16), ragged(8)
    with HFEngine(net, tokenizer()) as engine:
        got = engine.score(requests)
        assert engine.stats.notes == []
    scored = [t for r in got for s in r for t in s.logprob]
    want = [t for r in requests for c in r.continuations for t in straight(net, r.prompt, c)["logprob"]]
    assert torch.tensor(scored).sub(torch.tensor(want)).abs().mean() < 0.1
