"""Every registered method keeps the contract (``unbench.contract``)."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest
import torch

from unbench.contract import Check, check_method, contract_method
from unbench.contract_world import World, context_for, mean_nll
from unbench.method import Loss, LossConfig, LossMethod, Method, MethodCard, TrainSettings

POINTS = sorted(entry_points(group="unbench.methods"), key=lambda point: point.name)


def load(point: EntryPoint) -> type[Method]:
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        if point.name == "unstar":
            pytest.skip(f"unstar can't be imported yet: {error}")
        raise


def failures(checks: list[Check]) -> list[str]:
    return [f"{check.name}: {check.detail}. {check.advice}" for check in checks if not check.passed]


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_full_training(point: EntryPoint, world: World, tmp_path: Path) -> None:
    assert failures(check_method(load(point), world, tmp_path, "full")) == []


def slow_with_lora(point: EntryPoint) -> object:
    """UnSTAR generates before it trains; once, with full training, is enough for the quick suite."""
    return pytest.param(point, marks=pytest.mark.slow if point.name == "unstar" else (), id=point.name)


@pytest.mark.parametrize("point", [slow_with_lora(point) for point in POINTS])
def test_lora(point: EntryPoint, world: World, tmp_path: Path) -> None:
    method = load(point)
    if not method.trains:
        pytest.skip("nothing to adapt")
    assert failures(check_method(method, world, tmp_path, "lora")) == []


def test_the_target_knows_its_facts(world: World) -> None:
    assert mean_nll(world, None, world.forget) < 0.1
    assert mean_nll(world, world.reference_path, world.forget) > 1


class WrongSign(LossMethod):
    card = MethodCard(name="wrong_sign", title="", kind="gradient", bibtex="")

    def forget_loss(self, batch):  # type: ignore[no-untyped-def]
        return Loss.per_token(-batch.token_logprobs(), batch.answer_mask)


class BatchMean(LossMethod):
    card = MethodCard(name="batch_mean", title="", kind="gradient", bibtex="")

    def forget_loss(self, batch):  # type: ignore[no-untyped-def]
        return Loss(batch.token_logprobs().mean() * 10, int(batch.answer_mask.sum()))


class PaddingCounts(LossMethod):
    card = MethodCard(name="padding_counts", title="", kind="gradient", bibtex="")

    def forget_loss(self, batch):  # type: ignore[no-untyped-def]
        return Loss(batch.logits.logsumexp(-1).sum(), int(batch.answer_mask.sum()))


class ReadsTheClock(LossMethod):
    card = MethodCard(name="clock", title="", kind="gradient", bibtex="")
    calls = 0

    def forget_loss(self, batch):  # type: ignore[no-untyped-def]
        type(self).calls += 1
        print("step")
        return Loss.per_token(batch.token_logprobs() * (1 + 0.1 * type(self).calls), batch.answer_mask)


@pytest.mark.parametrize(
    ("method", "clause"),
    [
        (WrongSign, "NLL rises"),
        (BatchMean, "batch splits"),
        (PaddingCounts, "padding carries no gradient"),
        (ReadsTheClock, "bit for bit"),
        (ReadsTheClock, "printed to stdout"),
    ],
)
def test_a_method_that_breaks_a_clause_is_caught(
    method: type[Method], clause: str, world: World, tmp_path: Path
) -> None:
    found = failures(check_method(method, world, tmp_path))
    assert any(clause in failure for failure in found), found


def test_contract_settings_only_where_a_method_has_them() -> None:
    class Own(LossMethod):
        card = MethodCard(name="own", title="", kind="gradient", bibtex="")
        contract = {"steps": 3}  # noqa: RUF012

        def forget_loss(self, batch):  # type: ignore[no-untyped-def]
            raise NotImplementedError

    config = contract_method(Own, "full").config
    assert isinstance(config, LossConfig)
    assert (config.steps, config.batch_size) == (3, 8)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_another_seed_gives_other_weights(kind: str, world: World, tmp_path: Path) -> None:
    from unbench_baselines.grad_diff import GradDiff

    from unbench.contract import tensors

    saved = []
    for seed in (0, 1):
        context, _ = context_for(world, tmp_path / str(seed), TrainSettings(kind=kind), seed=seed)
        weights = contract_method(GradDiff, kind).unlearn(context).weights
        assert weights is not None
        saved.append(tensors(weights))
    assert any(not torch.equal(saved[0][name], saved[1][name]) for name in saved[0])
