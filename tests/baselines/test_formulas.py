"""Each baseline's value and gradient against straight-line code: one row at a time, no padding, no batch, float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from straight import Make, answer_log_p, by_hand, check_value_and_gradient, straight_token
from unbench_baselines.grad_diff import GradDiff
from unbench_baselines.gradient_ascent import GradientAscent
from unbench_baselines.idk import IDK, PHRASINGS
from unbench_baselines.none import NoUnlearning
from unbench_baselines.npo import NPO
from unbench_baselines.retrain import Retrain
from unbench_baselines.sham import Sham

from unbench.errors import UsageError
from unbench.method import LossMethod
from unbench.training.batch import AnswerBatch, EncodedRow
from unbench.training.weights import prepare_model


def straight_npo(model: Any, target: Any, rows: list[EncodedRow], method: Any) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        ratio = sum(answer_log_p(model, row)) - sum(v.detach() for v in answer_log_p(target, row))
        total = total - 2 / method.config.beta * torch.log(1 / (1 + torch.exp(method.config.beta * ratio)))
    return total / len(rows)


CASES = [
    (GradientAscent, straight_token(1), {}),
    (GradDiff, straight_token(1), {}),
    (GradDiff, straight_token(1), {"retain_loss": "kl", "gamma": 0.5, "alpha": 3.0}),
    (NPO, straight_npo, {}),
    (NPO, straight_npo, {"beta": 0.7, "retain_loss": "kl"}),
    (IDK, straight_token(-1), {}),
]


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize(("method", "straight", "settings"), CASES)
def test_value_and_gradient(
    method: type[LossMethod], straight: Any, settings: dict[str, Any], kind: str, make_context: Make
) -> None:
    check_value_and_gradient(method, straight, settings, kind, make_context)


def test_ascent_by_hand() -> None:
    """ln ½ + ln ¼ + ln ¼ = −5 ln 2 over three tokens."""
    for method in (GradientAscent(), GradDiff()):
        assert by_hand(method) == (pytest.approx(-5 * math.log(2)), 3)
    assert by_hand(IDK()) == (pytest.approx(5 * math.log(2)), 3)


def test_npo_by_hand() -> None:
    """β = 1. Answer 1: π = 1/8, π₀ = 1/8: 2 ln 2. Answer 2: π = 1/4, π₀ = 3/4: −2 ln σ(ln 3) = 2 ln (4/3)."""
    target = [math.log(1 / 2), math.log(1 / 4), math.log(3 / 4)]
    assert by_hand(NPO(NPO.Config(beta=1.0)), target) == (pytest.approx(2 * math.log(2) + 2 * math.log(4 / 3)), 2)


def test_npo_starts_as_gradient_ascent_on_sequences() -> None:
    """At π = π₀ the gradient of L by log π is 2 σ(0) = 1, whatever β."""
    logits = torch.randn(1, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    plain = AnswerBatch([EncodedRow((0,), (1, 2, 3))], lambda b: logits)
    row = EncodedRow((0,), (1, 2, 3), 1.0, plain.token_logprobs()[0].detach())
    loss = NPO(NPO.Config(beta=0.3)).forget_loss(AnswerBatch([row], lambda b: logits))
    (a,) = torch.autograd.grad(loss.sum, logits)
    (b,) = torch.autograd.grad(plain.logprobs().sum(), logits)
    assert torch.allclose(a, b, atol=1e-12)


def test_idk_answers_are_drawn_once_by_the_seed() -> None:
    rows = [{"answer": "x"}] * 50
    assert len(set(PHRASINGS)) >= 20
    assert IDK().forget_answers(rows, 1) == IDK().forget_answers(rows, 1)
    assert IDK().forget_answers(rows, 1) != IDK().forget_answers(rows, 2)
    assert len(set(IDK().forget_answers(rows, 1))) > 10


def test_controls(make_context: Make) -> None:
    context = make_context()
    assert NoUnlearning().unlearn(context).weights is None
    assert Retrain().unlearn(context).weights is not None
    context.retrain = None
    with pytest.raises(UsageError, match="no reference"):
        Retrain().unlearn(context)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_sham_moves_every_tensor_as_far_as_gradient_ascent(kind: str, make_context: Make) -> None:
    settings = {"steps": 3, "lr": 1e-3, "batch_size": 4}
    moved = []
    for method in (GradientAscent, Sham):
        context = make_context(kind, name=method.__name__)
        weights = method(method.Config(**settings)).unlearn(context).weights
        assert weights is not None
        moved.append(_update(make_context, kind, weights))
    for name, update in moved[0].items():
        assert float(moved[1][name].norm()) == pytest.approx(float(update.norm()), rel=1e-3, abs=1e-6)
        if update.numel() > 100:
            cosine = torch.nn.functional.cosine_similarity(update.flatten(), moved[1][name].flatten(), dim=0)
            assert abs(float(cosine)) < 0.5


def _update(make_context: Make, kind: str, weights: Any) -> dict[str, torch.Tensor]:
    from unbench.contract import tensors

    model, _ = prepare_model(make_context(kind, name="start"))
    start = {name.replace(".default", ""): value for name, value in model.state_dict().items()}
    return {name: value - start[name] for name, value in tensors(weights).items()}
