"""Shared maths against straight-line float64 arithmetic, position by position."""

from __future__ import annotations

import math

import pytest
import torch

from unbench.method import Loss
from unbench.training.batch import AnswerBatch, EncodedRow
from unbench.training.loss import js_divergence, kl, kl_divergence, nll, shifted_cross_entropy, token_logprobs

VOCABULARY = 11
LENGTHS = ((3, 4), (7, 1), (2, 6), (5, 3))


def rows(weights: tuple[float, ...] = (1, 1, 1, 1)) -> list[EncodedRow]:
    generator = torch.Generator().manual_seed(3)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(VOCABULARY, (n,), generator=generator).tolist())

    return [EncodedRow(ids(p), ids(a), w) for (p, a), w in zip(LENGTHS, weights, strict=True)]


def random_logits(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(len(LENGTHS), 6, VOCABULARY, generator=generator, dtype=torch.float64)


def log_softmax(z: list[float]) -> list[float]:
    total = math.log(sum(math.exp(v) for v in z))
    return [v - total for v in z]


@pytest.mark.parametrize("chunk", [1 << 24, 3 * VOCABULARY, 1])
def test_token_logprobs_and_gradient(chunk: int) -> None:
    logits = random_logits(0).requires_grad_()
    batch = AnswerBatch(rows(), lambda b: logits)
    values = token_logprobs(logits, batch.labels, chunk)
    weight = torch.arange(1.0, 25.0, dtype=torch.float64).reshape(4, 6)
    (grad,) = torch.autograd.grad((values * weight).sum(), logits)
    for i, row in enumerate(rows()):
        for t in range(6):
            if t >= len(row.answer):
                assert values[i, t] == 0
                assert not grad[i, t].any()
                continue
            expected = log_softmax(logits[i, t].tolist())
            assert float(values[i, t].detach()) == pytest.approx(expected[row.answer[t]], abs=1e-6)
            for v in range(VOCABULARY):
                by_hand = float(weight[i, t]) * ((v == row.answer[t]) - math.exp(expected[v]))
                assert float(grad[i, t, v]) == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize("chunk", [1 << 24, 3 * VOCABULARY])
def test_kl_and_gradient(chunk: int) -> None:
    logits, target = random_logits(1).requires_grad_(), random_logits(2).requires_grad_()
    values = kl_divergence(target, logits, chunk)
    grad, none = torch.autograd.grad(values.sum(), (logits, target), allow_unused=True)
    assert none is None
    for i in range(4):
        for t in range(6):
            log_p, log_p0 = log_softmax(logits[i, t].tolist()), log_softmax(target[i, t].tolist())
            by_hand = sum(math.exp(q) * (q - p) for p, q in zip(log_p, log_p0, strict=True))
            assert float(values[i, t].detach()) == pytest.approx(by_hand, abs=1e-6)
            for v in range(VOCABULARY):
                assert float(grad[i, t, v]) == pytest.approx(math.exp(log_p[v]) - math.exp(log_p0[v]), abs=1e-6)


def test_kl_by_hand() -> None:
    """KL((1/2, 1/2) ‖ (1/4, 3/4)) = ½ ln 2 + ½ ln (2/3) = ½ ln (4/3)."""
    value = kl_divergence(torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.25, 0.75]])))
    assert float(value) == pytest.approx(0.5 * math.log(4 / 3), abs=1e-6)


def test_low_precision_is_summed_in_float32() -> None:
    logits = random_logits(4).to(torch.bfloat16)
    batch = AnswerBatch(rows(), lambda b: logits)
    values = batch.token_logprobs()
    assert values.dtype == torch.float32
    exact = token_logprobs(logits.double(), batch.labels)
    assert torch.allclose(values.double(), exact, atol=1e-5)


def test_nll_counts_tokens_and_weighs_rows() -> None:
    logits = random_logits(5)
    loss = nll(AnswerBatch(rows((1, 0, 2, 1)), lambda b: logits))
    values = AnswerBatch(rows(), lambda b: logits).logprobs()
    assert loss.count == 4 + 1 + 6 + 3
    assert float(loss.sum) == pytest.approx(-float(values[0] + 2 * values[2] + values[3]), abs=1e-6)


def test_kl_has_no_gradient_on_padding() -> None:
    logits, target = random_logits(6).requires_grad_(), random_logits(7)
    batch = AnswerBatch(rows(), lambda b: logits, lambda b: target)
    loss = kl(batch)
    (grad,) = torch.autograd.grad(loss.sum, logits)
    assert loss.count == 14
    assert not grad[~batch.answer_mask].any()
    assert grad[batch.answer_mask].any(-1).all()


@pytest.mark.parametrize("chunk", [1 << 24, 3 * VOCABULARY, 1])
def test_js_divergence_and_gradient(chunk: int) -> None:
    logits, target = random_logits(1).requires_grad_(), random_logits(2).requires_grad_()
    values = js_divergence(target, logits, chunk)
    (grad,) = torch.autograd.grad(values.sum(), logits, retain_graph=True)
    assert torch.autograd.grad(values.sum(), target, allow_unused=True) == (None,)
    for i in range(4):
        for t in range(6):
            p, q = ([math.exp(v) for v in log_softmax(z[i, t].tolist())] for z in (logits, target))
            m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
            to_m = [math.log(a / c) for a, c in zip(p, m, strict=True)]
            by_hand = sum(a * d + b * math.log(b / c) for a, b, c, d in zip(p, q, m, to_m, strict=True)) / 2
            assert float(values[i, t].detach()) == pytest.approx(by_hand, abs=1e-6)
            # dJSD/dp_v = ½ ln(p_v / m_v), through the softmax.
            mean = sum(a * d for a, d in zip(p, to_m, strict=True))
            for v in range(VOCABULARY):
                assert float(grad[i, t, v]) == pytest.approx(p[v] * (to_m[v] - mean) / 2, abs=1e-6)


@pytest.mark.parametrize("shift", [-2.5, -math.inf])
@pytest.mark.parametrize("chunk", [1 << 24, 3 * VOCABULARY, 1])
def test_shifted_cross_entropy_and_gradient(chunk: int, shift: float) -> None:
    logits, target = random_logits(1).requires_grad_(), random_logits(2).requires_grad_()
    labels = AnswerBatch(rows(), lambda b: logits).labels
    values = shifted_cross_entropy(target, logits, labels, shift, chunk)
    (grad,) = torch.autograd.grad(values.sum(), logits, retain_graph=True)
    assert torch.autograd.grad(values.sum(), target, allow_unused=True) == (None,)
    for i in range(4):
        for t in range(6):
            label = int(labels[i, t])
            if label < 0:
                assert values[i, t] == 0
                assert not grad[i, t].any()
                continue
            q = [math.exp(z + shift if v == label else z) for v, z in enumerate(target[i, t].tolist())]
            q = [v / sum(q) for v in q]
            log_p = log_softmax(logits[i, t].tolist())
            by_hand = -sum(a * b for a, b in zip(q, log_p, strict=True))
            assert float(values[i, t].detach()) == pytest.approx(by_hand, abs=1e-6)
            for v in range(VOCABULARY):
                assert float(grad[i, t, v]) == pytest.approx(math.exp(log_p[v]) - q[v], abs=1e-6)


def test_divergences_of_far_apart_models_are_finite() -> None:
    """Float32, 200 nats between the logits: no logarithm of zero, no gradient that is no number."""
    logits = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    target = logits.detach().flip(-1)
    for values in (js_divergence(target, logits), shifted_cross_entropy(target, logits, torch.tensor([0]), -10.0)):
        (grad,) = torch.autograd.grad(values.sum(), logits)
        assert bool(torch.isfinite(values).all())
        assert bool(torch.isfinite(grad).all())
    assert float(js_divergence(target, logits.detach())) == pytest.approx(math.log(2), abs=1e-6)


def test_loss_constructors() -> None:
    values = torch.tensor([[1.0, 2.0], [4.0, float("nan")]])
    mask = torch.tensor([[True, True], [True, False]])
    assert (float(Loss.per_token(values, mask).sum), Loss.per_token(values, mask).count) == (7.0, 3)
    assert Loss.per_sequence(torch.tensor([1.0, 5.0])) == Loss(torch.tensor(6.0), 2)
