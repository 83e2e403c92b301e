"""Checkpoints: a training that is broken off and taken up again ends with the very bits of one that was left alone."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from unbench.contract_world import World
from unbench.method import Loss, LossConfig, LossMethod, MethodCard, UnlearnContext
from unbench.training.batch import TrainRow
from unbench.training.checkpoint import Checkpoints
from unbench.training.loop import fine_tune, train_loss
from unbench.training.weights import prepare_model, trainable

Make = Callable[..., UnlearnContext]
STEPS = 6


class Stopped(Exception):
    """Stands for the process's end: what it held in memory is not used again."""


class Noisy(LossMethod):
    """A loss that draws random numbers of all three kinds, and weighs by what it has seen."""

    card = MethodCard(name="noisy", title="", kind="gradient", bibtex="")

    def prepare(self, context: UnlearnContext, model: Any) -> None:
        self.seen = 0.0

    def weights(self, step: int) -> tuple[float, float]:
        return 1.0, 1.0 + self.seen

    def observe(self, step: int, losses: Mapping[str, float]) -> None:
        self.seen += losses["retain"] / 10

    def state(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.seen = state["seen"]

    def forget_loss(self, batch):  # type: ignore[no-untyped-def]
        noise = random.random() + np.random.rand() + torch.rand(())
        return Loss.per_token(batch.token_logprobs() * noise, batch.answer_mask)


def train(make: Make, name: str, kind: str, folder: Path | None, stop: int = 0, **settings: Any) -> UnlearnContext:
    """One training, broken off after ``stop`` steps where that is not 0. ``context.model`` is what was trained."""

    def progress(description: str, done: int, total: int) -> None:
        if done == stop:
            raise Stopped

    context = make(kind, name=name, progress=progress)
    if folder is not None:
        context.checkpoints = Checkpoints(folder, every=0.0, key="key")
    model, tokenizer = prepare_model(context)
    context.model = model  # type: ignore[attr-defined]
    train_loss(Noisy(LossConfig(**{"steps": STEPS, "lr": 1e-2, "batch_size": 4} | settings)), context, model, tokenizer)
    return context


def weights(context: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainable(context.model).items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_goes_on_with_the_same_bits(
    make_context: Make, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    alone = train(make_context, "alone", kind, None)
    with pytest.raises(Stopped):
        train(make_context, "broken", kind, tmp_path / "kept", stop=4)
    # Whatever else draws random numbers in the new process before it comes to the training.
    random.seed(1)
    torch.manual_seed(99)
    resumed = train(make_context, "resumed", kind, tmp_path / "kept")
    assert "Going on from step 3 of 6" in caplog.text
    assert same(weights(alone), weights(resumed))
    assert resumed.usage.tokens_trained == alone.usage.tokens_trained
    assert resumed.usage.losses == alone.usage.losses


def test_the_state_is_needed(make_context: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above would see a random state, an optimiser or a method's state that was not put back."""
    alone = train(make_context, "alone", "full", None)
    for number, what in enumerate(("unbench.training.keep.put_back_random", "torch.optim.AdamW.load_state_dict")):
        with pytest.raises(Stopped):
            train(make_context, f"broken-{number}", "full", tmp_path / what, stop=4)
        with monkeypatch.context() as patched:
            patched.setattr(what, lambda *args: None)
            resumed = train(make_context, f"resumed-{number}", "full", tmp_path / what)
        assert not same(weights(alone), weights(resumed)), what


def rounds(make: Make, world: World, name: str, folder: Path | None, stop: tuple[str, int] = ("", 0)) -> Any:
    """Three fine-tunings of one model, as UnSTAR's rounds are."""

    def progress(description: str, done: int, total: int) -> None:
        if (description, done) == stop:
            raise Stopped

    context: Any = make("lora", name=name, progress=progress)
    if folder is not None:
        context.checkpoints = Checkpoints(folder, every=0.0)
    context.model, tokenizer = prepare_model(context)
    rows = [TrainRow.ask(row["question"], "I was told otherwise.") for row in world.forget]
    for number in (1, 2, 3):
        fine_tune(context.model, tokenizer, rows, steps=3, lr=1e-2, batch_size=4, seed=number, context=context,
                  description=f"round {number}")  # fmt: skip
    return context


def test_rounds_that_ended_are_not_repeated(make_context: Make, world: World, tmp_path: Path) -> None:
    alone = rounds(make_context, world, "alone", None)
    with pytest.raises(Stopped):
        rounds(make_context, world, "broken", tmp_path / "kept", stop=("round 2", 3))
    steps: list[tuple[str, int]] = []
    context: Any = None

    def counted(*args: Any, **changes: Any) -> UnlearnContext:
        told = changes.pop("progress")
        return make_context(*args, **changes, progress=lambda d, n, t: (steps.append((d, n)), told(d, n, t)))

    context = rounds(counted, world, "resumed", tmp_path / "kept")
    assert steps == [("round 2", 3), ("round 3", 1), ("round 3", 2), ("round 3", 3)]
    assert same(weights(alone), weights(context))
    assert context.usage.losses == alone.usage.losses
    assert context.usage.tokens_trained == alone.usage.tokens_trained


def test_another_training_starts_from_its_beginning(
    make_context: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Stopped):
        train(make_context, "broken", "full", tmp_path / "kept", stop=4)
    alone = train(make_context, "alone", "full", None, lr=2e-2)
    other = train(make_context, "other", "full", tmp_path / "kept", lr=2e-2)
    assert "another training" in caplog.text
    assert same(weights(alone), weights(other))


@pytest.mark.parametrize("damage", ["half", "empty", "no json"])
def test_a_damaged_checkpoint_is_passed_over(make_context: Make, tmp_path: Path, damage: str) -> None:
    alone = train(make_context, "alone", "full", None)
    with pytest.raises(Stopped):
        train(make_context, "broken", "full", tmp_path / "kept", stop=4)
    (place,) = (tmp_path / "kept" / "training-0").glob("step-*")
    if damage == "no json":
        (place / "state.json").unlink()
    else:
        content = (place / "state.safetensors").read_bytes()
        (place / "state.safetensors").write_bytes(content[: len(content) // 2] if damage == "half" else b"")
    resumed = train(make_context, "resumed", "full", tmp_path / "kept")
    assert same(weights(alone), weights(resumed))


def test_nothing_but_safetensors_and_json_is_written(make_context: Make, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(make_context, "broken", "lora", tmp_path / "kept", stop=4)
    files = sorted(path.name for path in (tmp_path / "kept").rglob("*") if path.is_file())
    assert files == ["state.json", "state.safetensors"]
    (place,) = (tmp_path / "kept").rglob("step-*")
    body = json.loads((place / "state.json").read_text())
    assert (body["schema"], body["step"], body["done"]) == ("unbench.checkpoint/1", 3, False)
    with safe_open(place / "state.safetensors", "pt") as tensors:
        kinds = {name.split("/")[0] for name in tensors.keys()}  # noqa: SIM118
    assert kinds == {"weights", "optimizer", "rng"}


def test_a_short_training_writes_none(make_context: Make, tmp_path: Path) -> None:
    context = make_context()
    context.checkpoints = Checkpoints(tmp_path / "kept", every=600.0)
    model, tokenizer = prepare_model(context)
    train_loss(Noisy(LossConfig(steps=2, batch_size=4)), context, model, tokenizer)
    assert not (tmp_path / "kept").exists()


def test_a_place_that_cannot_be_written_costs_the_checkpoint_only(
    make_context: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "kept").write_text("a file")
    alone = train(make_context, "alone", "full", None)
    told = train(make_context, "told", "full", tmp_path / "kept")
    assert "No checkpoint could be written" in caplog.text
    assert same(weights(alone), weights(told))
