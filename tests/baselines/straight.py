"""What the tests of the formulas share: straight-line code, one row at a time, no padding, no batch, float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from unbench.method import LossMethod, UnlearnContext
from unbench.training.batch import AnswerBatch, EncodedRow
from unbench.training.loop import step_trainer
from unbench.training.weights import prepare_model, trainable

Make = Callable[..., UnlearnContext]
Straight = Callable[[Any, Any, list[EncodedRow], Any], torch.Tensor]
"""``straight(model, target, rows, method)``: the mean of a term over the rows, with gradient."""


def log_p(model: Any, row: EncodedRow) -> torch.Tensor:
    """(answer, vocabulary) log-probabilities at the answer's tokens of one row alone."""
    logits = model(torch.tensor([row.prompt + row.answer])).logits[0]
    rows = [logits[len(row.prompt) - 1 + t] for t in range(len(row.answer))]
    return torch.stack([z - torch.log(torch.exp(z).sum()) for z in rows])


def answer_log_p(model: Any, row: EncodedRow) -> list[torch.Tensor]:
    return [line[token] for line, token in zip(log_p(model, row), row.answer, strict=True)]


def straight_token(sign: float) -> Straight:
    def loss(model: Any, target: Any, rows: list[EncodedRow], method: Any) -> torch.Tensor:
        values = [value for row in rows for value in answer_log_p(model, row)]
        return sign * sum(values[1:], values[0]) / len(values)

    return loss


def straight_kl(model: Any, target: Any, rows: list[EncodedRow], method: Any) -> torch.Tensor:
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in rows:
        p0, p = log_p(target, row).detach(), log_p(model, row)
        total = total + (torch.exp(p0) * (p0 - p)).sum()
        count += len(row.answer)
    return total / count


def check_value_and_gradient(
    method: type[LossMethod],
    straight: Straight,
    settings: dict[str, Any],
    kind: str,
    make_context: Make,
    straight_retain: Straight | None = None,
) -> None:
    """Both terms of a step of five rows, and every trainable parameter's gradient, against ``straight``.
    ``straight_retain``: a retain term of the method's own."""
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
    forget = straight(model, target, rows["forget"], instance)
    assert found["forget"] == pytest.approx(float(forget.detach()), abs=1e-6)
    total = config.gamma * forget
    if config.alpha:
        plain = straight_kl if config.retain_loss == "kl" else straight_token(-1)
        retain = (straight_retain or plain)(model, target, rows["retain"], instance)
        assert found["retain"] == pytest.approx(float(retain.detach()), abs=1e-6)
        total = total + config.alpha * retain
    total.backward()
    largest = 0.0
    for name, parameter in trainable(model).items():
        assert parameter.grad is not None
        assert torch.allclose(gradients[name], parameter.grad, rtol=0, atol=1e-6), name
        largest = max(largest, float(parameter.grad.abs().max()))
    assert largest > 1e-3


def by_hand(
    method: LossMethod, target: list[float] | None = None, target_logits: torch.Tensor | None = None
) -> tuple[float, int]:
    """The loss on two answers over a vocabulary of two: p = (1/2, 1/4) and p = (1/4)."""
    quarter = [0.0, -math.log(3)]  # softmax (3/4, 1/4)
    logits = torch.tensor([[[0.0, 0.0], quarter], [quarter, [9.0, -9.0]]], dtype=torch.float64)
    targets: list[Any] = [None, None]
    if target is not None:
        targets = [torch.tensor(target[:2], dtype=torch.float64), torch.tensor(target[2:], dtype=torch.float64)]
    rows = [EncodedRow((0,), (0, 1), 1.0, targets[0]), EncodedRow((0, 0), (1,), 1.0, targets[1])]
    loss = method.forget_loss(AnswerBatch(rows, lambda b: logits, lambda b: target_logits))
    return float(loss.sum), loss.count
