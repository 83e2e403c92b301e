"""Early stop on a retain budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from unbench.contract_world import World, mean_nll
from unbench.method import Loss, LossConfig, LossMethod, MethodCard, UnlearnContext
from unbench.training.batch import TrainRow
from unbench.training.loop import fine_tune, train_loss
from unbench.training.watch import WATCHED_ROWS
from unbench.training.weights import prepare_model, save_model

Make = Callable[..., UnlearnContext]


class Ascent(LossMethod):
    card = MethodCard(name="ascent", title="", kind="gradient", bibtex="")

    def forget_loss(self, batch):  # type: ignore[no-untyped-def]
        return Loss.per_token(batch.token_logprobs(), batch.answer_mask)


def ascend(make: Make, name: str, limit: float | None, **changes: Any) -> tuple[UnlearnContext, Any]:
    context = make(name=name, max_retain_rise=limit, **changes)
    model, tokenizer = prepare_model(context)
    train_loss(Ascent(LossConfig(steps=12, lr=1e-2, batch_size=8, alpha=0)), context, model, tokenizer)
    return context, model


def test_stops_where_the_retain_rows_have_become_too_unlikely(make_context: Make, world: World) -> None:
    free, _ = ascend(make_context, "free", None)
    context, model = ascend(make_context, "watched", 0.5)
    note = context.usage.notes["retain_budget"]
    assert len(world.retain) <= WATCHED_ROWS
    assert note["nll_before"] == pytest.approx(mean_nll(world, None, world.retain), rel=1e-5)
    folder = save_model(model, world.tokenizer, context.folder / "model")
    assert note["nll_after"] == pytest.approx(mean_nll(world, folder, world.retain), rel=1e-5)
    curve = [entry["retain_nll"] - note["nll_before"] for entry in context.usage.losses]
    assert all(rise <= 0.5 for rise in curve[:-1])
    assert curve[-1] > 0.5
    assert note["stopped_after"] == len(curve) < note["planned"] == len(free.usage.losses) == 12
    # Up to there it was the same training.
    assert [one["loss"] for one in context.usage.losses] == [one["loss"] for one in free.usage.losses][: len(curve)]
    assert context.usage.tokens_trained < free.usage.tokens_trained


def test_a_split_changes_nothing(make_context: Make) -> None:
    whole, _ = ascend(make_context, "whole", 0.5, double=True)
    split, _ = ascend(make_context, "split", 0.5, double=True, batch_size=3)
    assert split.usage.notes["retain_budget"] == pytest.approx(whole.usage.notes["retain_budget"], rel=1e-9)


def test_within_the_budget_nothing_is_cut(make_context: Make) -> None:
    context, _ = ascend(make_context, "wide", 1e6)
    assert "stopped_after" not in context.usage.notes["retain_budget"]
    assert len(context.usage.losses) == 12


def test_a_later_round_does_not_start_over_the_budget(make_context: Make, world: World) -> None:
    """The budget is the method's: rounds share it, and one that finds it spent doesn't begin."""
    context = make_context(max_retain_rise=0.05)
    model, tokenizer = prepare_model(context)
    rows = [TrainRow.ask(row["question"], "Qx zv qx.") for row in world.forget]
    beside = [TrainRow.ask(row["question"], "Vq xz vq.") for row in world.retain]
    for seed in (1, 2):
        fine_tune(model, tokenizer, rows, beside=beside, steps=20, lr=1e-2, batch_size=8, seed=seed, context=context)
    note = context.usage.notes["retain_budget"]
    assert note["nll_after"] - note["nll_before"] > 0.05
    assert len(context.usage.losses) == note["stopped_after"] < 20


def test_a_training_that_is_a_means_is_not_watched(make_context: Make, world: World) -> None:
    context = make_context(max_retain_rise=1e-6)
    model, tokenizer = prepare_model(context)
    rows = [TrainRow.ask(row["question"], row["answer"]) for row in world.forget]
    fine_tune(model, tokenizer, rows, steps=5, lr=1e-2, batch_size=8, seed=0, context=context)
    assert len(context.usage.losses) == 5
    assert "retain_budget" not in context.usage.notes
