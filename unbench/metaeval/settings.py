"""What a meta-evaluation is made of. Imports no torch."""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from unbench.task import Split, canonical_json

TASK = "bios/fact"
SPLIT: Split = "report"
LEARNT = 0.9
"""Share of its rows that a pool model must reproduce word for word to count as what it is meant to be."""
RETAIN = 0.8
"""Least retain of an unlearned model for robustness (as in arXiv:2506.12618: at most 20 % of utility lost)."""
METHODS = ("npo", "simnpo", "grad_diff", "wga", "kl_min", "undial", "gradient_ascent", "idk", "unstar")


class Settings(BaseModel):
    """Settings of a meta-evaluation, fixed before any of its results were seen."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    pool: Annotated[int, Field(ge=5)] = 30
    """Models in each of the two pools."""
    facts: Annotated[int, Field(ge=1)] | None = None
    """Only so many forgotten facts are asked for: a quick look; null for all."""
    lrs: tuple[float, ...] = (5e-4, 1e-3, 2e-3)
    """Learning rates of the pools' trainings."""
    checkpoints: tuple[int, ...] = (8, 16, 32)
    """Optimiser steps after which pool models are taken; the rate doesn't decay, so they lie on one path."""
    batch_size: int = 32
    """Rows a step, and as many of the reference's own training texts beside them."""
    methods: tuple[str, ...] = METHODS
    """Methods that make the unlearned models, with their own settings for nano; empty: no robustness."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of the methods."""
    relearn_steps: int = 6
    """Steps of relearning: whole epochs until the retrained control, looked at alone, is at κ 0.5 of the direct
    questions (the mark of the attack relearn_forget). After 12, as many as TOFU's epoch has (arXiv:2506.12618), it
    knows nearly all, and a change that has reached its end tells no fast learner from a slow one."""
    relearn_lr: float = 3e-4
    """Its learning rate, as in the attack relearn_forget."""
    relearn_batch: int = 15
    """Its rows a step, as in the attack relearn_forget."""
    bits: int = 4
    """Bits a weight after quantisation."""

    @property
    def hash(self) -> str:
        return hashlib.sha256(canonical_json(self.model_dump(mode="json")).encode()).hexdigest()
