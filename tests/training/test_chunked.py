"""Losses over the vocabulary in pieces: computed once, gradients that can be asked for again, pairs counted as two."""

from __future__ import annotations

import pytest
import torch

from unbench.contract_world import World
from unbench.training.batch import AnswerBatch, EncodedRow, answer_logits
from unbench.training.loss import chunked
from unbench.training.memory import split


def square(logits: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (logits.square() * weight[:, None]).sum(-1)


def test_each_position_is_computed_once_and_the_gradient_can_be_had_again() -> None:
    seen: list[int] = []

    def counted(logits: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        seen.append(len(logits))
        return square(logits, weight)

    logits = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    weight, factor = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    values = chunked(counted, logits, weight, chunk_elements=4 * 7)
    (first,) = torch.autograd.grad((values * factor).sum(), logits, retain_graph=True)
    assert seen == [4, 4, 2]
    expected = 2 * logits * (weight * factor)[..., None]
    assert torch.allclose(values, (logits.square() * weight[..., None]).sum(-1))
    assert torch.allclose(first, expected)
    (second,) = torch.autograd.grad(values.sum(), logits)
    assert torch.allclose(second, 2 * logits * weight[..., None])
    assert torch.allclose(first, expected)


def test_nothing_is_differentiated_where_nobody_asks() -> None:
    graphs: list[bool] = []

    def told(logits: torch.Tensor) -> torch.Tensor:
        graphs.append(torch.is_grad_enabled())
        return logits.sum(-1)

    assert not chunked(told, torch.randn(3, 4)).requires_grad
    with torch.no_grad():
        assert not chunked(told, torch.randn(3, 4, requires_grad=True)).requires_grad
    assert graphs == [False, False]


def test_the_gradient_has_the_format_of_the_logits() -> None:
    logits = torch.randn(4, 6).bfloat16().requires_grad_()
    values = chunked(lambda z: z.float().square().sum(-1), logits, chunk_elements=6)
    assert values.dtype == torch.float32
    # 1/3 is no bfloat16: it is multiplied in float32 and rounded once.
    (found,) = torch.autograd.grad((values / 3).sum(), logits)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, ((2 * logits.detach()).float() / 3).bfloat16())


def test_a_forward_pass_without_gradient_gives_the_same_logits(world: World) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(world.target_path, dtype=torch.float64).eval()
    batch = AnswerBatch(world.ragged_rows(), lambda batch: answer_logits(model, batch))
    with torch.no_grad():
        picked = answer_logits(model, batch)
    assert picked.shape == batch.logits.shape
    assert torch.allclose(picked, batch.logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "pieces"), [(4, [2, 1]), (1, [1, 1, 1]), (6, [3])])
def test_a_pair_is_two_sequences_of_a_forward_pass(size: int, pieces: list[int]) -> None:
    other = EncodedRow((1,), (2,))
    rows = [EncodedRow((1,), (2, 3), preferred=other) for _ in range(3)]
    assert [len(piece) for piece in split(rows, size)] == pieces
    assert [len(piece) for piece in split([other] * 3, 4)] == [3]
