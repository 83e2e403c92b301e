"""Attacks on nano's models, carried out directly: no run, no cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from unbench.attack import Attack, AttackContext
from unbench.attacks.harness import forget_probes, run
from unbench.attacks.measure import Base, Point, points
from unbench.method import TrainSettings
from unbench.models.load import load_model, load_tokenizer
from unbench.models.nano import nano_folder
from unbench.plugins import open_task
from unbench.task import Probe, Task

ROLES: dict[str, Any] = {"target": "target", "reference": "reference", "retrain": "unlearned"}
"""Shipped folder -> role under attack."""


@cache
def task() -> Task:
    return open_task("bios/fact")


@cache
def tokenizer() -> Any:
    return load_tokenizer(nano_folder("target"))


def load(folder: Any) -> Any:
    return load_model(nano_folder(folder), "cpu", torch.float32)


def probes(*kinds: str, facts: int | None = None) -> tuple[Probe, ...]:
    """The forget probes of these kinds, of the first ``facts`` facts."""
    rows = task().data().forget
    found = forget_probes(task().probes(), {row.fact for row in rows[:facts]})
    return tuple(probe for probe in found if probe.kind in kinds)


def context(folder: str, asked: Sequence[Probe], tmp: Path, load_changed: Callable[[], Any] | None = None,
            **changes: Any) -> AttackContext:  # fmt: skip
    """One of nano's models under attack, or whatever ``load_changed`` gives, as an unlearned one."""
    data = task().data()
    facts = {probe.fact for probe in asked}
    given: dict[str, Any] = {
        "role": "unlearned" if load_changed else ROLES[folder],
        "load_model": load_changed or (lambda: load(folder)),
        "load_target": lambda: load("target"),
        "tokenizer": tokenizer(),
        "system_prompt": None,
        "probes": tuple(asked),
        "forget": tuple(row for row in data.forget if row.fact in facts),
        "retain": data.retain,
        "unrelated": data.holdout,
        "seed": 0,
        "device": "cpu",
        "model_name": "nano",
        "train": TrainSettings(),
        "knowledge": "candidates",
        "folder": tmp,
        "progress": lambda *what: None,
    }
    return AttackContext(**(given | changes))


@dataclass
class Tried:
    """An attack on several models."""

    attack: Attack
    probes: Sequence[Probe]
    tmp: Path

    def table(self, folder: str, load_changed: Callable[[], Any] | None = None) -> pd.DataFrame:
        return run(self.attack, context(folder, self.probes, self.tmp, load_changed))

    def curve(self, unlearned: pd.DataFrame, reference: pd.DataFrame) -> dict[tuple[str, float], Point]:
        """The attack's points by series and strength."""
        known = {folder: context(folder, self.probes, self.tmp).ask(0) for folder in ("target", "reference")}
        base = Base(known["target"], [known["reference"]], False)
        target = self.table("target") if self.attack.on_target else None
        found = points({0: unlearned}, reference, target, base)
        return {(point.shown.series, point.shown.strength): point for point in found}


def nothing_back(curve: dict[tuple[str, float], Point]) -> None:
    """No point's interval lies above 0, and none is far from it: what one seed guesses differs from another's."""
    assert curve
    for at, point in curve.items():
        excess = point.shown.excess
        assert excess.value is not None, at
        assert excess.low is not None, at
        assert excess.low <= 0, (at, excess)
        assert abs(excess.value) < 0.1, (at, excess)
        assert not point.clear, at


class Suppressed(torch.nn.Module):
    """An output layer that takes ``nats`` off the logits of some tokens while ``hides``."""

    def __init__(self, head: Any, tokens: Sequence[int], nats: float) -> None:
        super().__init__()
        self.head = head
        self.off = torch.zeros(head.weight.shape[0])
        self.off[list(tokens)] = nats
        self.hides = True

    def forward(self, states: Any) -> Any:
        return self.head(states) - self.off * self.hides


def hiding(asked: Sequence[Probe], nats: float = 30.0, revealed_by: Callable[[str], bool] | None = None) -> Any:
    """The target, whose output layer suppresses the right answers' tokens; ``revealed_by``: whether it doesn't, given
    the text it reads (all texts of a batch agree in these tests)."""
    model = load("target")
    words = {f" {probe.answer}" for probe in asked}
    tokens = {token for word in words for token in tokenizer()(word, add_special_tokens=False)["input_ids"]}
    blank = set(tokenizer()(" ", add_special_tokens=False)["input_ids"])
    head = Suppressed(model.get_output_embeddings(), sorted(tokens - blank), nats)
    model.set_output_embeddings(head)

    def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"]
        if revealed_by is not None and ids.shape[1] > 8:  # not a single step of generation, nor the engine's check
            head.hides = not revealed_by(tokenizer().decode(ids[0]))

    model.register_forward_pre_hook(look, with_kwargs=True)
    return model
