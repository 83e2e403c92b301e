"""Attacks that train: what is trained on is never what is asked, the one training code, and a model that only hides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import world

from unbench.attack import NotPossible
from unbench.attacks import benign, neighbours, relearn_forget, relearn_heldout
from unbench.attacks.harness import run
from unbench.attacks.quantize import Quantize
from unbench.attacks.training import fine_tune_asking
from unbench.method import TrainSettings
from unbench.task import Row

Calls = list[tuple[list[Row], dict[str, Any]]]
CHANGES = {"relearn_heldout": relearn_heldout, "neighbours": neighbours, "benign": benign}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What attacks train on; nothing is trained, and every wanted step is asked at."""
    calls: Calls = []

    def instead(context: Any, rows: Any, *, at: Any, asks: Any, **how: Any) -> None:
        calls.append((list(rows), {"at": tuple(at), **how}))
        for steps in at:
            asks(steps, context.model)

    for module in (relearn_heldout, relearn_forget, benign, neighbours):
        monkeypatch.setattr(module, "fine_tune_asking", instead)
    return calls


def test_heldout_asks_only_for_the_other_half(trained: Calls, tmp_path: Path) -> None:
    asked = world.probes("direct", "cloze", facts=12)
    config = relearn_heldout.RelearnHeldout.Config(times=(1.0, 10.0), at=(2, 4), batch_size=6, lr=1e-4)
    table = run(relearn_heldout.RelearnHeldout(config), world.context("target", asked, tmp_path))
    assert [how["lr"] for _, how in trained] == pytest.approx([1e-4, 1e-4, 1e-3, 1e-3])
    points = table.groupby(["series", "strength"])["probe"].agg(["count", "nunique"])
    assert (points["count"] == len(asked)).all()
    assert (points["nunique"] == len(asked)).all()
    assert len(points) == 4
    # What is asked right after a training: never a fact, nor a subject, of its rows.
    places = {probe.id: probe for probe in asked}
    size = len(table) // 8
    for number, (rows, _) in enumerate(trained):
        own = [places[probe] for probe in table["probe"][2 * number * size : 2 * (number + 1) * size]]
        assert own
        assert not {row.fact for row in rows} & {probe.fact for probe in own}
        assert not {row.subject for row in rows} & {probe.subject for probe in own}
    first, second = trained[0][0], trained[1][0]
    assert {row.fact for row in first} | {row.fact for row in second} == {probe.fact for probe in asked}


@pytest.mark.parametrize("seed", range(5))
def test_halves(seed: int) -> None:
    rows = world.task().data().forget
    one, other = relearn_heldout.split(rows, seed)
    assert {row.fact for row in one} & {row.fact for row in other} == set()
    assert len(one) == len(other) == len(rows) // 2
    assert relearn_heldout.split(rows, seed) == (one, other)
    assert relearn_heldout.split(rows, seed + 1) != (one, other)
    few = rows[:3] + tuple(row.model_copy(update={"subject": rows[0].subject}) for row in rows[3:6])
    left, right = relearn_heldout.split(few, seed)
    assert len(left) == len(right) == 3
    with pytest.raises(NotPossible, match="a single fact"):
        relearn_heldout.split(rows[:1], seed)


def test_benign_trains_on_nothing_that_was_forgotten(trained: Calls, tmp_path: Path) -> None:
    asked = world.probes("direct", facts=6)
    attack = benign.Benign(benign.Benign.Config(rows=(10, 40, 1000, 2000), batch_size=8, least_steps=4))
    table = run(attack, world.context("target", asked, tmp_path))
    most = len(world.task().data().holdout)
    assert [len(rows) for rows, _ in trained] == [10, 40, most]
    assert [how["at"] for _, how in trained] == [(4,), (5,), (max(4, -(-most // 8)),)]
    assert sorted(set(table["strength"])) == [10, 40, most]
    for rows, _ in trained:
        assert not {row.subject for row in rows} & {probe.subject for probe in asked}
    with pytest.raises(NotPossible, match="no unrelated rows"):
        run(attack, world.context("target", asked, tmp_path, unrelated=()))


def test_neighbours_are_kept_rows_of_the_same_relations(trained: Calls, tmp_path: Path) -> None:
    asked = world.probes("direct", facts=4)
    attack = neighbours.Neighbours(neighbours.Neighbours.Config(at=(3,)))
    context = world.context("target", asked, tmp_path)
    run(attack, context)
    ((rows, _),) = trained
    relations, kept = {row.relation for row in context.forget}, set(context.retain)
    assert rows
    assert set(rows) <= kept
    assert {row.relation for row in rows} == relations
    assert not {row.subject for row in rows} & {row.subject for row in context.forget}
    nothing = tuple(row for row in context.retain if row.relation not in relations)
    with pytest.raises(NotPossible, match="no retain row has a forgotten relation"):
        run(attack, world.context("target", asked, tmp_path, retain=nothing))


def test_relearning_counts_the_steps_of_each_model(trained: Calls, tmp_path: Path) -> None:
    asked = world.probes("direct", facts=12)
    config = relearn_forget.RelearnForget.Config(epochs=(1, 3), batch_size=5, reached=0.5)
    for folder, steps in (("target", 3), ("reference", None)):
        context = world.context(folder, asked, tmp_path)
        table = run(relearn_forget.RelearnForget(config), context)
        assert list(dict.fromkeys(table["strength"])) == [3.0, 9.0]  # three steps an epoch
        assert list(dict.fromkeys(table["counted"])) == [True, False]
        assert context.notes == {"steps": steps, "most_steps": 9}
    assert {row.fact for row in trained[0][0]} == {probe.fact for probe in asked}


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_training_moves_a_copy_and_asks_along_the_way(kind: Any, tmp_path: Path) -> None:
    asked = world.probes("direct", facts=6)
    context = world.context("reference", asked, tmp_path, train=TrainSettings(kind=kind))
    before = {name: value.clone() for name, value in world.load("reference").state_dict().items()}
    known, moved = [], []

    def asks(steps: int, model: Any) -> None:
        found = context.ask(steps, model=model)
        known.append((steps, float(found["known"].mean())))
        moved.append(model.training)

    fine_tune_asking(context, context.forget, at=(1, 60), lr=3e-3, batch_size=6, asks=asks)
    assert [steps for steps, _ in known] == [1, 60]
    assert known[1][1] > known[0][1] + 0.3
    assert all(moved)  # asked in the middle of a training, which then goes on
    assert all(value.equal(before[name]) for name, value in context.load_model().state_dict().items())


def test_the_same_seed_gives_the_same_curve(tmp_path: Path) -> None:
    asked = world.probes("direct", facts=6)
    attack = neighbours.Neighbours(neighbours.Neighbours.Config(at=(2, 4), lr=1e-3))
    tables = [run(attack, world.context("target", asked, tmp_path, seed=seed)) for seed in (0, 0, 1)]
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])


def rounded_away(step: float = 0.05, steps: int = 30, bits: int = 4, group: int = 128) -> Any:
    """The target under a change of its weights that makes the forgotten answers unlikely, and that leaves every weight
    within the cell that 4 bits round it to."""
    from unbench.training.batch import AnswerBatch, TrainRow, answer_logits, encode

    model = world.load("target")
    rows = encode(world.tokenizer(), [TrainRow.ask(row.question, row.answer) for row in world.task().data().forget])
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not model.get_output_embeddings()]
    was = [layer.weight.detach().clone() for layer in layers]
    most = 2 ** (bits - 1) - 1
    for _ in range(steps):
        model.zero_grad()
        AnswerBatch(rows, lambda batch: answer_logits(model, batch)).logprobs().mean().backward()
        with torch.no_grad():
            for layer, own in zip(layers, was, strict=True):
                for first in range(0, own.shape[1], group):
                    part = slice(first, first + group)
                    old, largest = own[:, part], own[:, part].abs().amax(1, keepdim=True)
                    scale = largest / most
                    level = (old / scale).round()
                    new = layer.weight[:, part] - step * scale * layer.weight.grad[:, part].sign()
                    new = torch.clamp(new, (level - 0.49) * scale, (level + 0.49) * scale)
                    new = torch.clamp(new, -0.999 * largest, 0.999 * largest)
                    layer.weight[:, part] = torch.where(old.abs() == largest, old, new)
    return model


def test_quantisation_brings_back_what_it_rounds_away(tmp_path: Path) -> None:
    asked = world.probes("direct", "paraphrase", "cloze")
    hidden = rounded_away()
    tried = world.Tried(Quantize(), asked, tmp_path)
    reference = tried.table("reference")
    curve = tried.curve(tried.table("target", lambda: _copy(hidden)), reference)
    eight, four = curve["8 bits", 4.0].shown, curve["4 bits", 8.0].shown
    assert eight.excess.value is not None
    assert four.excess.value is not None
    assert eight.excess.value < 0.1
    assert four.excess.value >= 0.9
    assert curve["4 bits", 8.0].clear
    world.nothing_back(tried.curve(tried.table("retrain"), reference))


def switched_off(strength: float = 3.0) -> Any:
    """The target with a random change of rank one in every MLP, which could be taken off again: an adapter in the way
    of all knowledge."""
    model, draw = world.load("target"), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("mlp.down_proj.weight"):
                change = torch.randn(weight.shape[0], 1, generator=draw) @ torch.randn(
                    1, weight.shape[1], generator=draw
                )
                weight += strength * weight.norm() * change / change.norm()
    return model


@pytest.mark.slow
def test_neighbours_bring_back_what_an_adapter_is_in_the_way_of(tmp_path: Path) -> None:
    asked = world.probes("direct", "paraphrase", "cloze")
    hidden = switched_off()
    before = float(world.context("target", asked, tmp_path, lambda: _copy(hidden)).ask(0)["known"].mean())
    tried = world.Tried(neighbours.Neighbours(neighbours.Neighbours.Config(lr=1e-3, at=(30, 90), batch_size=16)),
                        asked, tmp_path)  # fmt: skip
    reference = tried.table("reference")
    curve = tried.curve(tried.table("target", lambda: _copy(hidden)), reference)
    last = curve["neighbours", 90.0].shown.excess.value
    assert last is not None
    assert last >= 0.5
    assert last > before + 0.1
    world.nothing_back(tried.curve(tried.table("retrain"), reference))


def _copy(model: Any) -> Any:
    import copy

    return copy.deepcopy(model)
