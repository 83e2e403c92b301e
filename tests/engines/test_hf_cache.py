"""The cache with room holds what transformers' own holds, row by row."""

from __future__ import annotations

import random

import pytest
import torch
from tiny_llama import model, tokenizer
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from unbench.engines.base import Sampling
from unbench.engines.hf import HFEngine
from unbench.engines.hf_cache import compact, is_plain, join, keep

CPU = torch.device("cpu")


def filled(rows: int, tokens: int, seed: int = 0) -> DynamicCache:
    """Two layers of (rows, 2 heads, tokens, width 3)."""
    cache, draw = DynamicCache(), torch.Generator().manual_seed(seed)
    for layer in range(2):
        cache.update(*torch.randn((2, rows, 2, tokens, 3), generator=draw), layer)
    return cache


def test_compact_by_hand() -> None:
    assert compact([0, 1, 2], 3) == [0, 1, 2]
    assert compact([1, 3, 4], 5) == [3, 1, 4]  # row 0 left: row 3 comes into its place; row 2 too: row 4
    assert compact([4], 5) == [4]
    assert compact([0, 1], 5) == [0, 1]


def test_join_pads_on_the_left_and_repeats_rows() -> None:
    long, short = filled(2, 5, 0), filled(3, 4, 1)
    want = [(layer.keys.clone(), layer.values.clone()) for cache in (long, short) for layer in cache.layers]
    whole = join([(long, [0, 1, 1]), (short, [2, 0, 1])], tokens=5, room=2)
    assert whole.get_seq_length() == 5
    for number, layer in enumerate(whole.layers):
        for kind, found in enumerate((layer.keys, layer.values)):
            assert found.shape == (6, 2, 5, 3)
            assert torch.equal(found[:3], want[number][kind][[0, 1, 1]])
            assert torch.equal(found[3:, :, 1:], want[2 + number][kind][[2, 0, 1]])
            assert not found[3:, :, 0].any()


def test_updates_and_leaving_rows_equal_a_concatenation() -> None:
    """Over more tokens than there is room for, with rows that leave between."""
    draw, torch_draw = random.Random(0), torch.Generator().manual_seed(2)
    plain = filled(7, 3)
    roomy = join([(filled(7, 3), list(range(7)))], tokens=3, room=2)
    rows = 7
    for _ in range(12):
        new = torch.randn((2, rows, 2, 1, 3), generator=torch_draw)
        for layer in range(2):
            want, got = plain.update(*new, layer), roomy.update(*new, layer)
            assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))
        staying = [i for i in range(rows) if draw.random() < 0.85] or [0]
        order = compact(staying, rows)
        assert sorted(order) == staying
        assert keep(plain, order, CPU)
        assert keep(roomy, order, CPU)
        rows = len(order)
    assert rows < 7
    assert roomy.get_seq_length() == 15


def by_transformers(net: torch.nn.Module, prompts: list[list[int]], limit: int) -> list[list[int]]:
    """One at a time; what follows the end token is cut."""
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = net.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=limit, pad_token_id=0
        )
        row = out[0, len(prompt) :].tolist()
        found.append(row[: row.index(2)] if 2 in row else row)
    return found


def gpt2() -> torch.nn.Module:
    config = GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.2,
                        eos_token_id=2, bos_token_id=1)  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def sliding() -> torch.nn.Module:
    config = MistralConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=8, initializer_range=0.2, eos_token_id=2, bos_token_id=1,
        tie_word_embeddings=False,
    )  # fmt: skip
    return MistralForCausalLM(config).eval()


@pytest.mark.parametrize(("make", "plain"), [(model, True), (gpt2, True), (sliding, False)])
def test_other_architectures_generate_as_transformers_does(make: object, plain: bool) -> None:
    torch.manual_seed(0)
    net = make()  # type: ignore[operator]
    with torch.no_grad():
        net.get_output_embeddings().weight[2] *= 3
    draw = random.Random(1)
    prompts = [[draw.randrange(10, 400) for _ in range(draw.randrange(1, 25))] for _ in range(17)]
    with HFEngine(net, tokenizer(None)) as engine:
        got = engine.generate(prompts, Sampling(max_new_tokens=14))
        same = engine.generate([prompts[0]] * 3 + [prompts[1]], Sampling(max_new_tokens=6, temperature=0.8))
        assert engine._ready().plain_cache is plain
    with HFEngine(net, tokenizer(None), batch_size=1) as engine:
        single = engine.generate([prompts[0]] * 3 + [prompts[1]], Sampling(max_new_tokens=6, temperature=0.8))
    assert [text.tokens for text in got] == by_transformers(net, prompts, 14)
    assert same == single


def test_is_plain() -> None:
    assert is_plain(filled(1, 1))
    assert not is_plain(DynamicCache())
    assert not is_plain(object())
