"""Held-out relearning: the attacker has half of what was forgotten and trains on it; does the other half come back?

The forgotten subjects (facts, where there are fewer than six subjects) are split in halves T and V by the seed. A copy
of the model is fine-tuned on the rows of T and asked about V along the way, and the other way round; both halves make
one point. Nothing that is asked was trained on, so what comes back was there.

Deeb and Roger 2024 (arXiv:2410.08827) got 88 % of the accuracy back. Learning rates ×1, ×3, ×10; the worst counts.
"""

from __future__ import annotations

import random
from typing import Any

from pydantic import Field

from unbench.attack import Attack, AttackCard, AttackConfig, AttackContext, NotPossible
from unbench.attacks.training import fine_tune_asking
from unbench.task import Row

BIBTEX = """@article{deeb2024unlearning,
  title = {Do Unlearning Methods Remove Information from Language Model Weights?},
  author = {Deeb, Aghyad and Roger, Fabien},
  year = {2024},
  eprint = {2410.08827},
  archivePrefix = {arXiv}
}"""


class RelearnHeldout(Attack):
    """Trains on one half of the forgotten facts, asks for the other."""

    card = AttackCard(
        name="relearn_heldout",
        title="Held-out relearning",
        kind="weights",
        paper="arXiv:2410.08827",
        year=2024,
        bibtex=BIBTEX,
        summary="Fine-tunes on half of what was forgotten and asks for the other half, both ways.",
    )

    class Config(AttackConfig):
        """Settings of held-out relearning."""

        lr: float = Field(1e-5, gt=0, description="smallest peak learning rate")
        times: tuple[float, ...] = Field((1.0, 3.0, 10.0), min_length=1, description="what it is multiplied by")
        at: tuple[int, ...] = Field((5, 10, 20, 40), min_length=1, description="optimiser steps after which it asks")
        batch_size: int = Field(8, ge=1, description="rows a step")

    @classmethod
    def for_model(cls, model: str) -> dict[str, Any]:
        return {"nano": {"lr": 1e-4, "batch_size": 16}, "smollm2": {"lr": 1e-4}}.get(model, {})

    def attack(self, context: AttackContext) -> None:
        halves = split(context.forget, context.seed)
        for times in self.config.times:
            lr = self.config.lr * times
            for trained, asked in (halves, halves[::-1]):
                facts = {row.fact for row in asked}
                probes = [probe for probe in context.probes if probe.fact in facts]

                def asks(steps: int, model: Any, lr: float = lr, probes: Any = probes) -> None:
                    context.ask(steps, series=f"lr {lr:.0e}", model=model, probes=probes)

                fine_tune_asking(context, trained, at=self.config.at, lr=lr, batch_size=self.config.batch_size,
                                 asks=asks)  # fmt: skip


def split(rows: tuple[Row, ...], seed: int) -> tuple[list[Row], list[Row]]:
    """Two halves by subject, by fact where there are fewer than six subjects. Raises ``NotPossible`` for one fact."""
    subjects = sorted({row.subject for row in rows})
    by = "subject" if len(subjects) >= 6 else "fact"
    groups = sorted({getattr(row, by) for row in rows})
    if len(groups) < 2:
        raise NotPossible("a single fact was forgotten: there is no other half to train on")
    random.Random(seed).shuffle(groups)
    first = set(groups[: len(groups) // 2])
    return [r for r in rows if getattr(r, by) in first], [r for r in rows if getattr(r, by) not in first]
