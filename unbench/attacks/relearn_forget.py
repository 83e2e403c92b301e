"""Relearning: how fast what was forgotten is learnt again, against a model that never knew it.

A copy of the model is fine-tuned on the forget rows themselves. After one epoch (the published protocol) it is asked
again: that point counts, less what the reference has learnt by then. Further epochs tell the speed: ``steps`` is the
first number of optimiser steps asked at that brings the direct questions' κ to ``reached`` of the rows; the notes hold
it for every model, null where it is never reached. Savings (Ebbinghaus) = 1 - steps / steps of the reference.

One epoch: Dorna et al. 2025 (arXiv:2506.12618).
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from unbench.attack import Attack, AttackCard, AttackConfig, AttackContext, NotPossible
from unbench.attacks.training import fine_tune_asking

BIBTEX = """@article{dorna2025openunlearning,
  title = {{OpenUnlearning}: Accelerating {LLM} Unlearning via Unified Benchmarking of Methods and Metrics},
  author = {Dorna, Vineeth and Mekala, Anmol and Zhao, Wenlong and McCallum, Andrew and Lipton, Zachary C. and Kolter,
    J. Zico and Maini, Pratyush},
  year = {2025},
  eprint = {2506.12618},
  archivePrefix = {arXiv}
}"""


class RelearnForget(Attack):
    """Trains on the forget rows again and counts the steps."""

    card = AttackCard(
        name="relearn_forget",
        title="Relearning the forget set",
        kind="weights",
        paper="arXiv:2506.12618",
        year=2025,
        bibtex=BIBTEX,
        summary="Fine-tunes on the forget rows for an epoch, then on, and counts the steps to know them again.",
    )

    class Config(AttackConfig):
        """Settings of relearning."""

        lr: float = Field(1e-5, gt=0, description="peak learning rate")
        batch_size: int = Field(8, ge=1, description="rows a step")
        epochs: tuple[int, ...] = Field((1, 2, 3, 5, 8, 12, 20), min_length=1, description="epochs after which it asks")
        reached: float = Field(0.5, gt=0, le=1, description="κ of the direct questions that counts as relearnt")

    @classmethod
    def for_model(cls, model: str) -> dict[str, Any]:
        return {"nano": {"lr": 3e-4, "batch_size": 15}, "smollm2": {"lr": 3e-4}}.get(model, {})

    def attack(self, context: AttackContext) -> None:
        if not context.forget:
            raise NotPossible("there is no forget row")
        epoch = math.ceil(len(context.forget) / self.config.batch_size)
        steps = {number * epoch: number for number in self.config.epochs}
        relearnt: list[int] = []

        def asks(done: int, model: Any) -> None:
            found = context.ask(done, series="forget rows", model=model, counted=steps[done] == 1)
            direct = found[found["kind"] == "direct"]
            known = float((direct if len(direct) else found)["known"].mean())
            if known >= self.config.reached and not relearnt:
                relearnt.append(done)

        fine_tune_asking(context, context.forget, at=tuple(steps), lr=self.config.lr,
                         batch_size=self.config.batch_size, asks=asks)  # fmt: skip
        context.notes["steps"] = relearnt[0] if relearnt else None
        context.notes["most_steps"] = max(steps)
