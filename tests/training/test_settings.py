"""How training is carried out: reporting, gradient checkpointing, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import unbench
from unbench.errors import EnvironmentProblem
from unbench.method import Loss, LossConfig, LossMethod, MethodCard, UnlearnContext
from unbench.training.loop import train_loss
from unbench.training.settings import MachineSettings, check_reporter, curve_folder
from unbench.training.weights import prepare_model

Make = Callable[..., UnlearnContext]


class Ascent(LossMethod):
    card = MethodCard(name="ascent", title="", kind="gradient", bibtex="")

    def forget_loss(self, batch):  # type: ignore[no-untyped-def]
        return Loss.per_token(batch.token_logprobs(), batch.answer_mask)


def ascend(context: UnlearnContext) -> Any:
    model, tokenizer = prepare_model(context)
    train_loss(Ascent(LossConfig(steps=3, lr=1e-3, batch_size=4)), context, model, tokenizer)
    return model


def test_tensorboard_gets_the_curve(make_context: Make) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    context = make_context(machine=MachineSettings(report_to="tensorboard"))
    ascend(context)
    (folder,) = (context.folder / "tensorboard").iterdir()
    events = accumulator.EventAccumulator(str(folder)).Reload()
    for name in ("loss", "forget", "retain", "grad_norm", "lr"):
        told = [(event.step, event.value) for event in events.Scalars(f"train/{name}")]
        assert [step for step, _ in told] == [1, 2, 3]
        assert [value for _, value in told] == pytest.approx([one[name] for one in context.usage.losses], rel=1e-6)


def test_each_training_has_a_folder_of_its_own(tmp_path: Path) -> None:
    names = [curve_folder(tmp_path, name).name for name in ("round 1: unlearning", "round 2: unlearning", "round 2: …")]
    assert names == ["round-1-unlearning-1", "round-2-unlearning-1", "round-2-1"]
    assert curve_folder(tmp_path, "round 2: unlearning").name == "round-2-unlearning-2"


@pytest.mark.parametrize("report_to", ["tensorboard", "wandb"])
def test_a_missing_package_is_one_sentence(report_to: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("unbench.training.settings.find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match=f"needs the package {report_to}"):
        unbench.run("npo", "bios/fact", limit=2, out=tmp_path, report_to=report_to)
    assert not list(tmp_path.iterdir())
    check_reporter("none")


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_gradient_checkpointing_is_the_same_training(make_context: Make, kind: str) -> None:
    """Forced on, where nobody would turn it on: forward passes are made again, and no number moves."""
    passes: dict[bool, int] = {}
    losses = {}
    for forced in (True, False):
        context = make_context(kind, double=True, name=str(forced),
                               machine=MachineSettings(gradient_checkpointing=forced))  # fmt: skip
        calls = []
        model, tokenizer = prepare_model(context)
        layer = model.get_decoder().layers[0].mlp
        # Before, not after: a pass that is made again ends as soon as it has what it was made for.
        layer.register_forward_pre_hook(lambda *args, calls=calls: calls.append(1))
        train_loss(Ascent(LossConfig(steps=3, lr=1e-3, batch_size=4)), context, model, tokenizer)
        assert not model.is_gradient_checkpointing
        passes[forced], losses[forced] = len(calls), context.usage.losses
    assert passes[True] == 2 * passes[False]
    for one, two in zip(losses[True], losses[False], strict=True):
        assert one == pytest.approx(two, rel=1e-9)


def test_bfloat16_trains(make_context: Make) -> None:
    """The weights keep their format, losses are read in float32 and stay finite."""
    context = make_context()
    model, tokenizer = prepare_model(context)
    model.to(torch.bfloat16)
    train_loss(Ascent(LossConfig(steps=3, lr=1e-2, batch_size=4)), context, model, tokenizer)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert all(math.isfinite(value) for entry in context.usage.losses for value in entry.values())
    assert context.usage.losses[-1]["forget"] < context.usage.losses[0]["forget"]
