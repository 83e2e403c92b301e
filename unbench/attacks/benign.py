"""Benign fine-tuning: does innocent training on unrelated rows bring back what was forgotten?

A copy of the model is fine-tuned on n rows that have nothing to do with it (``AttackContext.unrelated``), one epoch or
``least_steps`` optimiser steps, whatever is more. Łucki et al. 2024 (arXiv:2409.18025): ten samples took RMU from 30 to
62 %.
"""

from __future__ import annotations

import math
import random
from typing import Any

from pydantic import Field

from unbench.attack import Attack, AttackCard, AttackConfig, AttackContext, NotPossible
from unbench.attacks.training import fine_tune_asking

BIBTEX = """@article{lucki2024adversarial,
  title = {An Adversarial Perspective on Machine Unlearning for {AI} Safety},
  author = {{\\L}ucki, Jakub and Wei, Boyi and Huang, Yangsibo and Henderson, Peter and Tram{\\`e}r, Florian and
    Rando, Javier},
  year = {2024},
  eprint = {2409.18025},
  archivePrefix = {arXiv}
}"""


class Benign(Attack):
    """Trains on rows that have nothing to do with what was forgotten."""

    card = AttackCard(
        name="benign",
        title="Benign fine-tuning",
        kind="weights",
        paper="arXiv:2409.18025",
        year=2024,
        bibtex=BIBTEX,
        summary="Fine-tunes on 10, 100 and 1000 unrelated rows.",
    )

    class Config(AttackConfig):
        """Settings of benign fine-tuning."""

        rows: tuple[int, ...] = Field((10, 100, 1000), min_length=1, description="unrelated rows, as many as there are")
        lr: float = Field(1e-5, gt=0, description="peak learning rate")
        batch_size: int = Field(8, ge=1, description="rows a step")
        least_steps: int = Field(10, ge=1, description="optimiser steps at least")

    @classmethod
    def for_model(cls, model: str) -> dict[str, Any]:
        return {"nano": {"lr": 3e-4, "batch_size": 16}, "smollm2": {"lr": 3e-4}}.get(model, {})

    def attack(self, context: AttackContext) -> None:
        rows = list(context.unrelated)
        if not rows:
            raise NotPossible("the task has no unrelated rows")
        random.Random(context.seed).shuffle(rows)
        for number in dict.fromkeys(min(n, len(rows)) for n in self.config.rows):
            steps = max(self.config.least_steps, math.ceil(number / self.config.batch_size))

            def asks(done: int, model: Any, number: int = number) -> None:
                context.ask(number, series="unrelated rows", model=model)

            fine_tune_asking(context, rows[:number], at=(steps,), lr=self.config.lr,
                             batch_size=self.config.batch_size, asks=asks)  # fmt: skip
