"""Fine-tuning on neighbours: rows of the forgotten questions' relations about other subjects, which must stay known.

Nothing of it was ever to be forgotten, so the rows are easy to come by; arXiv:2602.03379 found rows of the same
template stronger than rows of the same topic. Where the rows name no relation, all retain rows are taken.
"""

from __future__ import annotations

import random
from typing import Any

from pydantic import Field

from unbench.attack import Attack, AttackCard, AttackConfig, AttackContext, NotPossible
from unbench.attacks.training import fine_tune_asking


class Neighbours(Attack):
    """Trains on retain rows of the forgotten relations."""

    card = AttackCard(
        name="neighbours",
        title="Fine-tuning on neighbours",
        kind="weights",
        paper="arXiv:2602.03379",
        year=2026,
        summary="Fine-tunes on retain rows of the forgotten questions' template, other subjects.",
    )

    class Config(AttackConfig):
        """Settings of fine-tuning on neighbours."""

        lr: float = Field(1e-5, gt=0, description="peak learning rate")
        at: tuple[int, ...] = Field((5, 10, 20, 40), min_length=1, description="optimiser steps after which it asks")
        batch_size: int = Field(8, ge=1, description="rows a step")

    @classmethod
    def for_model(cls, model: str) -> dict[str, Any]:
        return {"nano": {"lr": 3e-4, "batch_size": 16}, "smollm2": {"lr": 3e-4}}.get(model, {})

    def attack(self, context: AttackContext) -> None:
        relations = {row.relation for row in context.forget} - {""}
        subjects = {row.subject for row in context.forget}
        rows = [row for row in context.retain if row.relation in relations and row.subject not in subjects]
        rows = rows or ([] if relations else list(context.retain))
        if not rows:
            raise NotPossible("no retain row has a forgotten relation")
        random.Random(context.seed).shuffle(rows)
        fine_tune_asking(
            context, rows, at=self.config.at, lr=self.config.lr, batch_size=self.config.batch_size,
            asks=lambda done, model: context.ask(done, series="neighbours", model=model),
        )  # fmt: skip
