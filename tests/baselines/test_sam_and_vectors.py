"""SAM around other methods and task vectors: gradients and weights against straight-line code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from straight import Make, Straight, straight_token
from test_formulas_pairs import straight_dpo
from unbench_baselines.grad_diff import GradDiff
from unbench_baselines.pdu import PDU
from unbench_baselines.sam import SAM
from unbench_baselines.task_vector import TaskVector
from unbench_baselines.undial import UNDIAL

from unbench.contract import tensors
from unbench.errors import UsageError
from unbench.training.batch import TrainRow, encode
from unbench.training.loop import fine_tune, step_trainer
from unbench.training.trainer import step_tokens
from unbench.training.weights import prepare_model, trainable


def gradients(loss: torch.Tensor, model: Any) -> dict[str, torch.Tensor]:
    named = trainable(model)
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(("inner", "straight"), [("grad_diff", straight_token(1)), ("dpo_idk", straight_dpo)])
def test_gradient_at_the_worst_place_nearby(
    inner: str, straight: Straight, size: int, kind: str, make_context: Make
) -> None:
    context = make_context(kind, double=True)
    model, tokenizer = prepare_model(context)
    method = SAM(SAM.Config(inner=inner, rho=0.3, gamma=0.5, alpha=2.0, steps=2, batch_size=5))
    trainer = step_trainer(method, context, model, tokenizer)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = trainer.accumulate(model, 1, size)
    assert all(p.equal(before[name]) for name, p in model.named_parameters())
    summed = {name: p.grad.clone() for name, p in trainable(model).items() if p.grad is not None}
    model.zero_grad()

    target, rows = context.target.load(), {term.name: term.at(1) for term in trainer.terms}
    uphill = gradients(straight(model, target, rows["forget"], method.inner), model)
    norm = sum(float((g**2).sum()) for g in uphill.values()) ** 0.5
    retain = gradients(straight_token(-1)(model, target, rows["retain"], method), model)
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.add_(0.3 * uphill[name] / norm)
    there = straight(model, target, rows["forget"], method.inner)
    worst = gradients(there, model)
    assert found["forget"] == pytest.approx(float(there.detach()), abs=1e-6)
    for name, grad in summed.items():
        assert torch.allclose(grad, 0.5 * worst[name] + 2.0 * retain[name], rtol=0, atol=1e-6), name
    assert max(float((worst[name] - uphill[name]).abs().max()) for name in worst) > 1e-3


def test_a_forget_row_counts_twice(make_context: Make) -> None:
    tokens = []
    for method in (GradDiff(GradDiff.Config(batch_size=4)), SAM(SAM.Config(inner="grad_diff", batch_size=4))):
        context = make_context()
        model, tokenizer = prepare_model(context)
        trainer = step_trainer(method, context, model, tokenizer)
        tokens.append(step_tokens(trainer.terms, 0))
    assert tokens[1] - tokens[0] == sum(row.tokens for row in trainer.terms[0].at(0))


def test_settings_default_to_the_inner_methods() -> None:
    method = SAM(SAM.Config(inner="undial", inner_settings={"beta": 3.0}, steps=7))
    assert isinstance(method.inner, UNDIAL)
    assert (method.config.lr, method.config.alpha, method.config.steps) == (1e-4, 0.0, 7)
    assert (method.inner.config.beta, method.inner.config.steps, method.inner.config.lr) == (3.0, 7, 1e-4)
    assert SAM.Config(**method.config.model_dump()) == method.config
    assert SAM().config.inner == "npo"
    assert SAM().normaliser == "sequence"
    assert SAM().needs == {"target_logprobs"}


def test_settings_that_cannot_be() -> None:
    for settings, said in (
        ({"inner": "sam"}, "can't go around"),
        ({"inner": "task_vector"}, "can't go around"),
        ({"inner": "nosuch"}, "no method called"),
        ({"inner_settings": {"nosuch": 1}}, "no setting 'nosuch'"),
        ({"inner_settings": {"lr": 1.0}}, "sam itself"),
    ):
        with pytest.raises(UsageError, match=said):
            SAM.Config(**settings)


def test_what_the_inner_method_adapts(make_context: Make) -> None:
    method = SAM(SAM.Config(inner="pdu", inner_settings={"warmup_epochs": 0.0, "epsilon": 1.0}, batch_size=4))
    assert isinstance(method.inner, PDU)
    method.prepare(make_context(), None)
    method.observe(0, {"forget": 0.0, "retain": 3.0})
    assert method.weights(1) == (1.0, 3.0)
    assert method.state() == {"lambda": 3.0}
    method.restore({"lambda": 5.0})
    assert method.weights(1) == (1.0, 5.0)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_task_vector_is_taken_away(kind: str, make_context: Make) -> None:
    """Each saved weight lies where the fine-tuned one is mirrored at the target's, λ times as far; with LoRA so does
    each product B A, and peft loads the adapter."""
    settings = {"steps": 4, "lr": 1e-2, "batch_size": 4, "weight_decay": 0.0}
    context = make_context(kind, name="tuned")
    model, tokenizer = prepare_model(context)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    rows = [TrainRow.ask(row["question"], row["answer"]) for row in context.forget]
    fine_tune(model, tokenizer, rows, seed=context.seed, context=context, **settings)
    tuned = {name: p.detach() for name, p in model.named_parameters()}
    method = TaskVector(TaskVector.Config(scale=2.0, **settings))
    weights = method.unlearn(make_context(kind, name="vector")).weights
    assert weights is not None
    saved = tensors(weights)
    if kind == "full":
        assert saved.keys() <= tuned.keys()
        for name, value in saved.items():
            assert torch.allclose(value, start[name] - 2 * (tuned[name] - start[name]), rtol=0, atol=1e-6)
        return
    from peft import PeftModel

    loaded = PeftModel.from_pretrained(context.target.load(), str(weights)).merge_and_unload()
    base, merged = dict(context.target.load().named_parameters()), dict(loaded.named_parameters())
    wholly = dict(model.merge_and_unload().named_parameters())
    for name, value in base.items():
        assert torch.allclose(merged[name] - value, -2 * (wholly[name] - value), rtol=0, atol=1e-5)
    assert any(not wholly[name].equal(value) for name, value in base.items())


def test_a_training_without_steps_that_count_changes_nothing_else(make_context: Make) -> None:
    """A budget that pays for no step leaves the target: the vector is nothing."""
    context = make_context(budget_tokens=1)
    weights = TaskVector(TaskVector.Config(steps=3)).unlearn(context).weights
    assert weights is not None
    saved = tensors(weights)
    start = dict(context.target.load().named_parameters())
    assert all(value.equal(start[name]) for name, value in saved.items())
    assert encode(context.target.tokenizer, [TrainRow.ask("a", "b")])[0].tokens > 1
