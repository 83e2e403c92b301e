"""Greedy texts equal transformers' own ``generate``; sampled ones don't depend on how the work was cut."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import torch
from tiny_llama import model, tokenizer

from unbench.engines.base import Generation, Sampling
from unbench.engines.hf import HFEngine


def ragged(n: int = 23, seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(10, 400) for _ in range(draw.randrange(1, 25))] for _ in range(n)]


def by_transformers(net: torch.nn.Module, prompts: list[list[int]], limit: int) -> list[list[int]]:
    """All prompts in one left-padded batch; what follows the end token is cut."""
    length = max(map(len, prompts))
    ids = torch.tensor([[0] * (length - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts])
    out = net.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=limit, pad_token_id=0)
    rows = [row[length:].tolist() for row in out]
    return [row[: row.index(2)] if 2 in row else row for row in rows]


def ending(seed: int = 0) -> torch.nn.Module:
    """A model that ends its texts at different lengths."""
    net = model(seed=seed)
    with torch.no_grad():
        net.lm_head.weight[2] *= 3
    return net


@pytest.mark.parametrize("batch_size", [None, 1, 7, 64])
def test_greedy_equals_transformers(batch_size: int | None) -> None:
    net, prompts = ending(), ragged()
    want = by_transformers(net, prompts, 12)
    lengths = {len(row) for row in want}
    assert len(lengths) > 3, "the test wants rows that end at different times"
    words = tokenizer()
    words.chat_template = None  # its end of turn is the EOS token, as in the model's generation_config
    with HFEngine(net, words, batch_size=batch_size) as engine:
        got = engine.generate(prompts, Sampling(max_new_tokens=12))
    assert [g.tokens for g in got] == want
    assert [g.finished for g in got] == [len(row) < 12 for row in want]
    assert [g.text for g in got] == [words.decode(row, skip_special_tokens=True) for row in want]


def test_equal_prompts_are_generated_once_when_greedy() -> None:
    net, prompt = ending(), [20, 30, 40]
    with HFEngine(net, tokenizer(None)) as engine:
        got = engine.generate([prompt, [50], prompt], Sampling(max_new_tokens=5))
        assert got[0] == got[2]
        drawn = engine.stats.tokens_generated
        engine.generate([prompt, [50]], Sampling(max_new_tokens=5))
        assert engine.stats.tokens_generated == 2 * drawn


def sampled(batch_size: int | None, prompts: list[list[int]], sampling: Sampling) -> list[Generation]:
    with HFEngine(ending(), tokenizer(None), batch_size=batch_size) as engine:
        return engine.generate(prompts, sampling)


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_sampling_does_not_depend_on_the_batch(top_p: float) -> None:
    prompts = [*ragged(15), [20, 30], [20, 30], [20, 30]]
    sampling = Sampling(max_new_tokens=10, temperature=0.9, top_p=top_p, seed=5)
    whole = sampled(None, prompts, sampling)
    assert sampled(1, prompts, sampling) == whole
    assert sampled(4, prompts, sampling) == whole
    assert len({tuple(g.tokens) for g in whole[-3:]}) == 3, "equal prompts get texts of their own"
    other = sampled(None, prompts, Sampling(max_new_tokens=10, temperature=0.9, top_p=top_p, seed=6))
    assert [g.tokens for g in other] != [g.tokens for g in whole]


def test_sampling_follows_the_distribution() -> None:
    net, n = model(vocabulary=8, spread=0.4), 4000
    words = tokenizer(None)
    with torch.no_grad():
        p = (net(input_ids=torch.tensor([[3, 4]])).logits[0, -1].double() / 0.7).softmax(dim=-1)
    with HFEngine(net, words) as engine:
        free = engine.generate([[3, 4]] * n, Sampling(max_new_tokens=1, temperature=0.7))
        cut = engine.generate([[3, 4]] * n, Sampling(max_new_tokens=1, temperature=0.7, top_p=0.5))
    counts = Counter(g.tokens[0] if g.tokens else 2 for g in free)
    for token in range(8):
        assert counts[token] / n == pytest.approx(p[token].item(), abs=4 * (p[token].item() / n) ** 0.5 + 1e-3)
    order = p.argsort(descending=True).tolist()
    kept = next(k for k in range(1, 9) if p[order[:k]].sum() >= 0.5)
    assert {g.tokens[0] if g.tokens else 2 for g in cut} == set(order[:kept])


def test_sampling_leaves_the_global_random_state() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    sampled_net = model(seed=3)
    torch.set_rng_state(before)
    with HFEngine(sampled_net, tokenizer(None)) as engine:
        engine.generate([[5, 6]], Sampling(max_new_tokens=4, temperature=1.0))
    assert torch.equal(torch.get_rng_state(), before)


def test_stop_strings() -> None:
    net, prompts = model(seed=1), ragged(6, seed=1)
    words = tokenizer(None)
    with HFEngine(net, words) as engine:
        free = engine.generate(prompts, Sampling(max_new_tokens=12))
        stop = free[0].text[4:7]  # three characters of the first text
        got = engine.generate(prompts, Sampling(max_new_tokens=12, stop=(stop, "never said")))
    for g, f in zip(got, free, strict=True):
        at = f.text.find(stop)
        assert g.text == (f.text if at < 0 else f.text[:at])
        assert g.tokens == f.tokens[: len(g.tokens)]
        assert g.finished == (at >= 0 or f.finished)
    assert got[0].finished
    assert len(got[0].tokens) < 12


def test_limits() -> None:
    with HFEngine(model(), tokenizer()) as engine:
        assert engine.generate([], Sampling()) == []
        assert engine.generate([[5]], Sampling(max_new_tokens=0)) == [Generation([], "", False)]
        with pytest.raises(ValueError, match="at least one token"):
            engine.generate([[]], Sampling())


def test_a_cache_that_cannot_lose_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbench.engines.hf_generate.keep", lambda cache, order, device: False)
    net, prompts = ending(), ragged()
    with HFEngine(net, tokenizer(None)) as engine:
        got = engine.generate(prompts, Sampling(max_new_tokens=12))
        engine.generate([[4], [4]], Sampling(max_new_tokens=3, temperature=1.0))
    assert [g.tokens for g in got] == by_transformers(net, prompts, 12)


def test_a_model_whose_output_layer_cannot_be_run_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its prompts' logits are made whole, so only a few prompts go in at once."""
    net, prompts = ending(), ragged()
    want = by_transformers(net, prompts, 12)
    plain, largest = net.forward, 0

    def forward(**inputs: Any) -> Any:
        nonlocal largest
        out = plain(**inputs)
        out.logits = out.logits * 0.5 + 0.1
        largest = max(largest, out.logits.numel() * 4)
        return out

    net.forward = forward  # type: ignore[method-assign]
    monkeypatch.setattr("unbench.engines.hf.TABLE_BYTES", 4 * 24 * 400 * 4)
    with HFEngine(net, tokenizer(None)) as engine:
        got = engine.generate(prompts, Sampling(max_new_tokens=12))
    assert [g.tokens for g in got] == want
    assert largest <= 4 * 24 * 400 * 4
