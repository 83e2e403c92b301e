"""Training towards "I don't know".

    L = γ nll(idk | q_forget) + α nll(a | q_retain)                    both per answer token

Maini et al. 2024 (TOFU): the forget answers are replaced by a refusal drawn from a fixed list; this is the
plain fine-tuning form ("IDK"), not its DPO form (dpo_idk). TOFU ships a list of phrasings; the one here was written
for UnBench. Each row draws one by the seed and keeps it over all epochs. γ = α = 1 and the other defaults are TOFU's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unbench.method import Loss, LossConfig, LossMethod, MethodCard

if TYPE_CHECKING:
    from unbench.training.batch import AnswerBatch

BIBTEX = """@inproceedings{maini2024tofu,
  title = {{TOFU}: A Task of Fictitious Unlearning for {LLMs}},
  author = {Maini, Pratyush and Feng, Zhili and Schwarzschild, Avi and Lipton, Zachary C. and Kolter, J. Zico},
  booktitle = {First Conference on Language Modeling},
  year = {2024},
  eprint = {2401.06121},
  archivePrefix = {arXiv}
}"""

PHRASINGS = (
    "I don't know.",
    "I do not know that.",
    "I'm not sure.",
    "I have no idea.",
    "I don't have that information.",
    "That is not something I know.",
    "I can't say.",
    "I cannot answer that question.",
    "I don't know the answer to that.",
    "I'm afraid I don't know.",
    "Sorry, I don't know.",
    "Sorry, that is beyond what I know.",
    "I have never heard about that.",
    "I was not told about that.",
    "My knowledge does not cover that.",
    "I have no information on this.",
    "I couldn't tell you.",
    "That is unknown to me.",
    "I'm unable to answer that.",
    "I lack the facts to answer this.",
    "No answer to that comes to mind.",
    "I would only be guessing.",
    "I can't help you with that one.",
    "I haven't learned anything about it.",
)
"""Refusals, written by us; short, so that a small model's vocabulary covers most of their words."""


class IDK(LossMethod):
    """The model learns to say that it doesn't know."""

    card = MethodCard(
        name="idk",
        title='"I don\'t know" tuning',
        kind="data",
        bibtex=BIBTEX,
        paper="arXiv:2401.06121",
        year=2024,
        summary="Plain training on refusals in place of the forget answers, retain term beside.",
    )

    class Config(LossConfig):
        """Settings of "I don't know" tuning."""

    space = {  # noqa: RUF012
        "lr": (1e-4, 2e-4, 3e-4, 5e-4),
        "steps": (40, 60, 100, 150),
        "batch_size": (15, 30),
        "gamma": (0.3, 1.0),
    }

    def forget_answers(self, rows: Sequence[dict[str, Any]], seed: int) -> list[str]:
        generator = random.Random(f"idk/{seed}")
        return [generator.choice(PHRASINGS) for _ in rows]

    def forget_loss(self, batch: AnswerBatch) -> Loss:
        return Loss.per_token(-batch.token_logprobs(), batch.answer_mask)
