"""Each baseline's value and gradient against straight-line code: one row at a time, no padding, no batch, float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from unbench_baselines.grad_diff import GradDiff
from unbench_baselines.gradient_ascent import GradientAscent
from unbench_baselines.idk import IDK, PHRASINGS
from unbench_baselines.none import NoUnlearning
from unbench_baselines.npo import NPO
from unbench_baselines.retrain import Retrain
from unbench_baselines.sham import Sham

from unbench.errors import UsageError
from unbench.method import LossMethod, UnlearnContext
from unbench.training.batch import AnswerBatch, EncodedRow
from unbench.training.loop import step_trainer
from unbench.training.weights import prepare_model, trainable

Make = Callable[..., UnlearnContext]


def log_p(model: Any, row: EncodedRow) -> torch.Tensor:
    """(answer, vocabulary) log-probabilities at the answer's tokens of one row alone."""
    logits = model(torch.tensor([row.prompt + row.answer])).logits[0]
    rows = [logits[len(row.prompt) - 1 + t] for t in range(len(row.answer))]
    return torch.stack([z - torch.log(torch.exp(z).sum()) for z in rows])


def answer_log_p(model: Any, row: EncodedRow) -> list[torch.Tensor]:
    return [line[token] for line, token in zip(log_p(model, row), row.answer, strict=True)]


def straight_token(sign: float) -> Callable[..., torch.Tensor]:
    def loss(model: Any, target: Any, rows: list[EncodedRow], config: Any) -> torch.Tensor:
        values = [value for row in rows for value in answer_log_p(model, row)]
        return sign * sum(values[1:], values[0]) / len(values)

    return loss


def straight_npo(model: Any, target: Any, rows: list[EncodedRow], config: Any) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        ratio = sum(answer_log_p(model, row)) - sum(v.detach() for v in answer_log_p(target, row))
        total = total - 2 / config.beta * torch.log(1 / (1 + torch.exp(config.beta * ratio)))
    return total / len(rows)


def straight_kl(model: Any, target: Any, rows: list[EncodedRow]) -> torch.Tensor:
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in rows:
        p0, p = log_p(target, row).detach(), log_p(model, row)
        total = total + (torch.exp(p0) * (p0 - p)).sum()
        count += len(row.answer)
    return total / count


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
    context = make_context(kind, double=True)
    model, tokenizer = prepare_model(context)
    instance = method(method.Config(**{"steps": 2, "batch_size": 5} | settings))
    trainer = step_trainer(instance, context, model, tokenizer)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # away from the target, where every ratio is 1
        for parameter in trainable(model).values():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(noise * 0.05)
    target = context.target.load()
    found = trainer.accumulate(model, 1, 2)
    gradients = {n: p.grad.clone() for n, p in trainable(model).items() if p.grad is not None}
    model.zero_grad()
    config, rows = instance.config, {term.name: term.at(1) for term in trainer.terms}
    forget = straight(model, target, rows["forget"], config)
    assert found["forget"] == pytest.approx(float(forget.detach()), abs=1e-6)
    total = config.gamma * forget
    if config.alpha:
        retain = (
            straight_kl(model, target, rows["retain"])
            if config.retain_loss == "kl"
            else straight_token(-1)(model, target, rows["retain"], config)
        )
        assert found["retain"] == pytest.approx(float(retain.detach()), abs=1e-6)
        total = total + config.alpha * retain
    total.backward()
    largest = 0.0
    for name, parameter in trainable(model).items():
        assert parameter.grad is not None
        assert torch.allclose(gradients[name], parameter.grad, rtol=0, atol=1e-6), name
        largest = max(largest, float(parameter.grad.abs().max()))
    assert largest > 1e-3


def by_hand(method: LossMethod, target: list[float] | None = None) -> tuple[float, int]:
    """The loss on two answers over a vocabulary of two: p = (1/2, 1/4) and p = (1/4)."""
    quarter = [0.0, -math.log(3)]  # softmax (3/4, 1/4)
    logits = torch.tensor([[[0.0, 0.0], quarter], [quarter, [9.0, -9.0]]], dtype=torch.float64)
    targets: list[Any] = [None, None]
    if target is not None:
        targets = [torch.tensor(target[:2], dtype=torch.float64), torch.tensor(target[2:], dtype=torch.float64)]
    rows = [EncodedRow((0,), (0, 1), 1.0, targets[0]), EncodedRow((0, 0), (1,), 1.0, targets[1])]
    loss = method.forget_loss(AnswerBatch(rows, lambda b: logits))
    return float(loss.sum), loss.count


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
