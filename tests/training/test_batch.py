"""Encoding, layout and masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from unbench.contract_world import TinyTarget, World, context_for
from unbench.method import TrainSettings
from unbench.training.batch import AnswerBatch, EncodedRow, TrainRow, answer_hidden, answer_logits, encode
from unbench.training.draw import FORGET, RETAIN, draw
from unbench.training.weights import FrozenTarget, prepare_model, trainable


def test_encoding_masks_the_prompt_and_keeps_the_end_token(world: World) -> None:
    tokenizer: Any = world.tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    (row,) = encode(world.tokenizer, [TrainRow.ask("Where?", "Here.")])
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}], tokenize=False
    )
    assert tokenizer.decode(row.prompt + row.answer) == whole
    assert tokenizer.decode(row.answer) == "Here.<end>"
    batch = AnswerBatch([row, EncodedRow(row.prompt, row.answer * 3)], lambda b: b.input_ids)
    assert batch.labels[0, len(row.answer) - 1] == tokenizer.eos_token_id
    assert batch.labels[0, len(row.answer) :].tolist() == [-100] * (2 * len(row.answer))


def test_layout() -> None:
    batch = AnswerBatch([EncodedRow((1, 2), (3, 4, 5)), EncodedRow((6, 7, 8), (9,))], lambda b: b.input_ids, pad_id=0)
    assert batch.input_ids.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 0, 0]]
    assert batch.labels.tolist() == [[3, 4, 5], [9, -100, -100]]
    assert batch.answer_mask.tolist() == [[True] * 3, [True, False, False]]
    assert batch.padded


@pytest.mark.parametrize("pad_id", [0, 5])
def test_answer_logits_equal_those_of_each_row_alone(world: World, pad_id: int) -> None:
    model = TinyTarget(world.target_path, world.tokenizer, double=True).load().eval()
    rows = encode(world.tokenizer, [TrainRow.ask(r["question"], r["answer"]) for r in world.forget])
    rows = [*rows, EncodedRow((4, 4, 4), (5,)), EncodedRow((9,), tuple(range(20)))]
    with torch.no_grad():
        logits = AnswerBatch(rows, lambda b: answer_logits(model, b), pad_id=pad_id).logits
        for i, row in enumerate(rows):
            alone = model(torch.tensor([row.prompt + row.answer])).logits[0, len(row.prompt) - 1 : -1]
            assert torch.allclose(logits[i, : len(row.answer)], alone, atol=1e-9)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_head_without_gradient_sees_positions_that_lie_together(world: World, frozen: bool) -> None:
    """Torch would copy a frozen head for every sequence of a slice. Logits and gradients are a whole pass's."""
    model = TinyTarget(world.target_path, world.tokenizer, double=True).load().eval()
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.lm_head.requires_grad_(not frozen)
    rows = encode(world.tokenizer, [TrainRow.ask(r["question"], r["answer"]) for r in world.forget])
    seen: list[bool] = []
    hook = model.lm_head.register_forward_pre_hook(lambda module, given: seen.append(given[0].is_contiguous()))
    batch = AnswerBatch(rows, lambda b: answer_logits(model, b))
    batch.logits.sum().backward()
    hook.remove()
    assert seen == [frozen]
    weight = model.model.layers[0].self_attn.q_proj.weight
    got, weight.grad = weight.grad, None
    mask = batch.attention_mask[:, :-1].long()
    places = (mask.cumsum(-1) - 1).clamp_min(0)
    whole = model(batch.input_ids[:, :-1], attention_mask=mask, position_ids=places).logits
    whole = whole[:, -batch.labels.shape[1] :]
    assert torch.allclose(batch.logits, whole, atol=1e-9)
    whole.sum().backward()
    assert torch.allclose(got, weight.grad, atol=1e-9)


@pytest.mark.parametrize("layer", [0, 1])
def test_hidden_states_equal_those_of_each_row_alone(world: World, layer: int) -> None:
    model = TinyTarget(world.target_path, world.tokenizer, double=True).load().eval()
    rows = encode(world.tokenizer, [TrainRow.ask(r["question"], r["answer"]) for r in world.forget])
    rows = [*rows, EncodedRow((4, 4, 4), (5,)), EncodedRow((9,), tuple(range(20)))]
    caught: list[torch.Tensor] = []
    module = model.model.layers[0] if layer == 0 else model.model.norm  # the last layer's is read behind the norm
    module.register_forward_hook(lambda m, given, out: caught.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        states = answer_hidden(model, AnswerBatch(rows, lambda b: b.input_ids), layer)
        for i, row in enumerate(rows):
            model(torch.tensor([row.prompt + row.answer]))
            alone = caught[-1].reshape(-1, states.shape[-1])[len(row.prompt) - 1 : -1]
            assert torch.allclose(states[i, : len(row.answer)], alone, atol=1e-9)


def test_frozen_target_leaves_still_what_is_still(world: World, tmp_path: Path) -> None:
    """peft switches a whole adapter back on; a parameter that a method froze stays frozen."""
    context, _ = context_for(world, tmp_path, TrainSettings(kind="lora"))
    model, _ = prepare_model(context)
    held = next(name for name in trainable(model) if "layers.1" in name)
    dict(model.named_parameters())[held].requires_grad_(False)
    before = set(trainable(model))
    frozen, batch = FrozenTarget(context, model), AnswerBatch([EncodedRow((4,), (5, 6))], lambda b: b.input_ids)
    bare = context.target.load().eval()
    model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
        assert torch.equal(frozen(batch), answer_logits(bare, batch))
        assert torch.equal(frozen.hidden(batch, 0), answer_hidden(bare, batch, 0))
        assert not torch.equal(answer_logits(model, batch), answer_logits(bare, batch))
    assert set(trainable(model)) == before


def test_padding_ids_change_no_bit(world: World) -> None:
    model = TinyTarget(world.target_path, world.tokenizer).load()
    rows = [EncodedRow((4, 4, 4), (5, 6)), EncodedRow((9,), tuple(range(20)))]
    found = []
    for pad_id in (0, 7):
        model.zero_grad()
        AnswerBatch(rows, lambda b: answer_logits(model, b), pad_id=pad_id).logprobs().sum().backward()
        found.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_one_forward_pass_whatever_is_asked() -> None:
    calls = []

    def logits(batch: AnswerBatch) -> torch.Tensor:
        calls.append(1)
        return torch.zeros(*batch.labels.shape, 12)

    batch = AnswerBatch([EncodedRow((1,), (2, 3))], logits)
    assert batch.logits.shape == (1, 2, 12)
    assert batch.token_logprobs().shape == (1, 2)
    assert batch.logprobs().shape == (1,)
    assert len(calls) == 1


def test_what_was_not_asked_for_is_said() -> None:
    batch = AnswerBatch([EncodedRow((1,), (2,))], lambda b: b.input_ids)
    with pytest.raises(RuntimeError, match="target_logprobs"):
        _ = batch.target_logprobs
    with pytest.raises(RuntimeError, match="target_logits"):
        batch.target_logits()
    with pytest.raises(RuntimeError, match="hidden states"):
        batch.hidden(0)
    with pytest.raises(RuntimeError, match="hidden states"):
        batch.target_hidden(0)
    with pytest.raises(RuntimeError, match="preferred_answers"):
        _ = batch.preferred
    with pytest.raises(ValueError, match="at least one"):
        EncodedRow((), (1,))


def test_draws_depend_on_the_seed_only() -> None:
    steps = draw(10, 4, 5, seed=1, stream=FORGET)
    assert steps == draw(10, 4, 5, seed=1, stream=FORGET)
    assert steps[:3] == draw(10, 4, 3, seed=1, stream=FORGET)
    assert steps != draw(10, 4, 5, seed=2, stream=FORGET)
    assert steps != draw(10, 4, 5, seed=1, stream=RETAIN)
    flat = [i for step in steps for i in step]
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert len(draw(2, 5, 1, seed=0, stream=RETAIN)[0]) == 5
