"""A model's context: texts end where learned positions end, longer prompts are refused, rotated ones only noted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_llama import model, tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from unbench.engines.base import Sampling, ScoreRequest
from unbench.engines.hf import HFEngine
from unbench.errors import UsageError

POSITIONS = 12


@pytest.fixture
def learned() -> HFEngine:
    torch.manual_seed(0)
    tok: Any = tokenizer()
    config = GPT2Config(vocab_size=len(tok), n_positions=POSITIONS, n_embd=16, n_layer=1, n_head=2,
                        bos_token_id=None, eos_token_id=None)  # fmt: skip
    return HFEngine(GPT2LMHeadModel(config), tok)


def test_a_text_ends_where_the_positions_end(learned: HFEngine) -> None:
    (one,) = learned.generate([[1] * 8], Sampling(max_new_tokens=50))
    assert len(one.tokens) <= POSITIONS - 8
    assert learned.generate([[1] * 8], Sampling(max_new_tokens=POSITIONS - 8))[0].tokens == one.tokens


def test_a_prompt_that_fills_all_positions_is_refused(learned: HFEngine) -> None:
    with pytest.raises(UsageError, match="12 tokens, and this model has 12 positions"):
        learned.generate([[1] * POSITIONS], Sampling(max_new_tokens=1))
    with pytest.raises(UsageError, match="14 tokens, and this model has 12 positions"):
        learned.score([ScoreRequest([1] * 9, [[2], [2] * 5])])
    assert len(learned.score([ScoreRequest([1] * 9, [[2] * 3])])[0][0].logprob) == 3


def test_rotated_positions_are_noted_once() -> None:
    net = model()
    net.config.max_position_embeddings = 8
    engine = HFEngine(net, tokenizer())
    engine.generate([[1] * 6], Sampling(max_new_tokens=6))
    assert engine.stats.notes == []
    for _ in range(2):
        engine.score([ScoreRequest([1] * 9, [[2]])])
    assert [note for note in engine.stats.notes if "8 tokens" in note] == [
        "some texts are longer than the 8 tokens that the model was made for"
    ]
