"""Training: gradients, budget, memory, faults, what is left behind."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unbench.contract import tensors
from unbench.contract_world import World
from unbench.errors import EnvironmentProblem, RunFailed, UsageError
from unbench.method import Loss, LossConfig, LossMethod, MethodCard, TrainSettings, UnlearnContext
from unbench.training.batch import TrainRow
from unbench.training.loop import fine_tune, step_trainer, train_loss
from unbench.training.trainer import Optimisation, Term, UnlearnTrainer
from unbench.training.weights import prepare_model, save_model, trainable

Make = Callable[..., UnlearnContext]


class Ascent(LossMethod):
    card = MethodCard(name="ascent", title="", kind="gradient", bibtex="")

    def forget_loss(self, batch):  # type: ignore[no-untyped-def]
        return Loss.per_token(batch.token_logprobs(), batch.answer_mask)


def ascent(**settings: Any) -> Ascent:
    return Ascent(LossConfig(**{"steps": 4, "lr": 1e-3, "batch_size": 4} | settings))


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def test_micro_batches_change_no_weight(make_context: Make) -> None:
    """A whole run in pieces of any size ends at the same weights, up to rounding (float64)."""
    found = []
    for size in (1, 3, None):
        context = make_context(double=True, name=str(size), batch_size=size)
        model, tokenizer = prepare_model(context)
        train_loss(ascent(), context, model, tokenizer)
        found.append(state(model))
    for other in found[1:]:
        assert all(torch.allclose(found[0][n], other[n], rtol=0, atol=1e-6) for n in other)


def test_usage_progress_and_quiet(make_context: Make, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[str, int, int]] = []
    context = make_context(progress=lambda *args: seen.append(args))
    model, tokenizer = prepare_model(context)
    trainer = step_trainer(ascent(), context, model, tokenizer)
    expected = sum(row.tokens for term in trainer.terms for step in range(4) for row in term.at(step))
    train_loss(ascent(), context, model, tokenizer)
    assert seen == [("unlearn", step, 4) for step in (1, 2, 3, 4)]
    assert context.usage.tokens_trained == expected
    assert context.usage.trainable_parameters == sum(p.numel() for p in model.parameters())
    assert [entry["step"] for entry in context.usage.losses] == [1, 2, 3, 4]
    assert context.usage.losses[0].keys() == {"step", "loss", "forget", "retain", "grad_norm", "lr"}
    first = context.usage.losses[0]
    assert first["loss"] == pytest.approx(first["forget"] + first["retain"])
    assert capsys.readouterr().out == ""


def test_the_model_is_left_as_it_came(make_context: Make, world: World) -> None:
    context = make_context()
    model, tokenizer = prepare_model(context)
    model.eval()
    assert model.config.use_cache
    train_loss(ascent(), context, model, tokenizer)
    assert model.config.use_cache
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


def test_schedule_wastes_no_step() -> None:
    optimisation = Optimisation(lr=1.0, warmup=0.2)
    factors = [optimisation.factor(step, 10) for step in range(10)]
    assert factors == pytest.approx([1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])


def test_budget_cuts_at_a_whole_step(make_context: Make, caplog: pytest.LogCaptureFixture) -> None:
    context = make_context(name="free")
    model, tokenizer = prepare_model(context)
    train_loss(ascent(steps=2), context, model, tokenizer)
    two_steps = context.usage.tokens_trained
    context = make_context(name="tight", budget_tokens=two_steps + 5 + 30)
    context.usage.tokens_generated = 30
    model, tokenizer = prepare_model(context)
    with caplog.at_level(logging.WARNING, "unbench"):
        train_loss(ascent(steps=9), context, model, tokenizer)
    assert context.usage.tokens_trained == two_steps
    assert context.usage.notes["budget_cut"] == {"steps": 2, "planned": 9}
    assert "2 of 9 steps" in caplog.text
    # Nothing is left for another round.
    before = state(model)
    train_loss(ascent(), context, model, tokenizer)
    assert same(before, state(model))


class Poisoned(Ascent):
    """Loss turns NaN, or only its gradient does, in the third step."""

    what = "loss"
    calls = 0

    def forget_loss(self, batch):  # type: ignore[no-untyped-def]
        self.calls += 1
        values = batch.token_logprobs()
        if self.calls == 3:
            values = values * float("nan") if self.what == "loss" else values + (values * 0).sqrt()
        return Loss.per_token(values, batch.answer_mask)


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_nan_stops_and_keeps_the_last_good_weights(make_context: Make, what: str, kind: str) -> None:
    config = LossConfig(steps=6, lr=1e-3, batch_size=4)
    context = make_context(kind)
    model, tokenizer = prepare_model(context)
    method = Poisoned(config)
    method.what = what
    with pytest.raises(RunFailed, match=f"{what} is not finite at step 3 of 6"):
        train_loss(method, context, model, tokenizer)
    saved = tensors(context.folder / "last-good")
    assert all(bool(value.isfinite().all()) for value in saved.values())
    assert same({n: p.detach() for n, p in trainable(model).items()}, _clean_steps(make_context, kind, 2, config))
    reloaded = {n.replace(".default", ""): p.detach() for n, p in trainable(model).items()}
    assert all(saved[n].equal(reloaded[n]) for n in saved)


def _clean_steps(make_context: Make, kind: str, steps: int, config: LossConfig) -> dict[str, torch.Tensor]:
    """Weights after the first steps of the same run without the fault."""

    class Stop(Exception):
        pass

    def progress(description: str, done: int, total: int) -> None:
        if done == steps:
            raise Stop

    context = make_context(kind, name="clean", progress=progress)
    model, tokenizer = prepare_model(context)
    with pytest.raises(Stop):
        train_loss(Ascent(config), context, model, tokenizer)
    return {n: p.detach() for n, p in trainable(model).items()}


def test_out_of_memory_halves_and_goes_on(
    make_context: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clean = make_context(double=True, name="clean")
    model, tokenizer = prepare_model(clean)
    train_loss(ascent(), clean, model, tokenizer)
    expected = state(model)
    _limit_memory(monkeypatch, rows=1)
    context = make_context(double=True, name="small")
    model, tokenizer = prepare_model(context)
    with caplog.at_level(logging.WARNING, "unbench"):
        train_loss(ascent(), context, model, tokenizer)
    assert all(torch.allclose(expected[n], v, rtol=0, atol=1e-6) for n, v in state(model).items())
    assert "halved from 4 to 2" in caplog.text
    assert "halved from 2 to 1" in caplog.text
    assert context.batch_size == 1
    assert context.usage.tokens_trained == clean.usage.tokens_trained


def test_out_of_memory_with_one_row_gives_up(make_context: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    _limit_memory(monkeypatch, rows=0)
    context = make_context()
    model, tokenizer = prepare_model(context)
    with pytest.raises(EnvironmentProblem, match="single sequence"):
        train_loss(ascent(), context, model, tokenizer)


def _limit_memory(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """More than ``rows`` in a forward pass of the retain term run out of memory: the forget term's gradient is there
    already then, and must not count twice."""
    real = UnlearnTrainer._term_loss

    def limited(self: UnlearnTrainer, model: Any, term: Term, piece: Any) -> Loss:
        if term.name == "retain" and len(piece) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(self, model, term, piece)

    monkeypatch.setattr(UnlearnTrainer, "_term_loss", limited)


def test_other_errors_are_not_taken_for_memory(make_context: Make) -> None:
    class Broken(Ascent):
        def forget_loss(self, batch):  # type: ignore[no-untyped-def]
            raise RuntimeError("shapes don't match")

    context = make_context()
    model, tokenizer = prepare_model(context)
    with pytest.raises(RuntimeError, match="shapes"):
        train_loss(Broken(LossConfig(steps=1)), context, model, tokenizer)


def test_a_count_that_disagrees_is_named(make_context: Make) -> None:
    class Miscounted(Ascent):
        normaliser = "sequence"

    context = make_context()
    model, tokenizer = prepare_model(context)
    with pytest.raises(RunFailed, match="forget loss counted"):
        train_loss(Miscounted(LossConfig(steps=1)), context, model, tokenizer)


def test_fine_tune_goes_on_with_the_same_model(make_context: Make, world: World) -> None:
    context = make_context("lora")
    model, tokenizer = prepare_model(context)
    rows = [TrainRow.ask(row["question"], "I was told otherwise.") for row in world.forget]
    beside = [TrainRow.ask(row["question"], row["answer"]) for row in world.retain]
    base = {n: p.clone() for n, p in model.named_parameters() if "lora_" not in n}
    for seed in (1, 2):
        fine_tune(model, tokenizer, rows, beside=beside, steps=10, lr=3e-2, batch_size=8, seed=seed, context=context)
    losses = context.usage.losses
    assert [entry["step"] for entry in losses] == [*range(1, 11), *range(1, 11)]
    assert losses[-1]["forget"] < losses[10]["forget"] < losses[0]["forget"]
    assert same(base, {n: p.detach() for n, p in model.named_parameters() if "lora_" not in n})


def test_lora_names_what_it_could_adapt(make_context: Make) -> None:
    context = make_context(train=TrainSettings(kind="lora", targets=("query",)))
    with pytest.raises(UsageError, match=r"no modules named query.*q_proj"):
        prepare_model(context)


def test_saving_replaces_and_leaves_no_half(make_context: Make, tmp_path: Path) -> None:
    context = make_context()
    model, tokenizer = prepare_model(context)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").write_text("old")
    (tmp_path / "model.partial").mkdir()
    save_model(model, tokenizer, folder)
    assert not (folder / "old").exists()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in folder.iterdir()}
    assert not (tmp_path / "model.partial").exists()


def test_a_folder_that_cannot_be_written(make_context: Make, tmp_path: Path) -> None:
    context = make_context()
    model, tokenizer = prepare_model(context)
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="can't be written"):
        save_model(model, tokenizer, tmp_path / "file" / "model")
