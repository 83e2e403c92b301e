"""Gradient ascent on the forget answers.

    L = −nll(a | q)  =  (1/T) Σ_tokens log π(a_t | q, a_<t)            T: answer tokens of the step

Maini et al. 2024 (TOFU), their baseline "Gradient Ascent": the answer's tokens only, no retain term. Unbounded below,
it must be stopped in time. Defaults: TOFU trains 5 to 10 epochs of batches of 32 at lr 1e-5, weight decay 0.01, one
warm-up epoch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

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


class GradientAscent(LossMethod):
    """The answer's log-likelihood goes down, nothing else is asked for."""

    card = MethodCard(
        name="gradient_ascent",
        title="Gradient ascent",
        kind="gradient",
        bibtex=BIBTEX,
        paper="arXiv:2401.06121",
        year=2024,
        summary="Minimises the log-likelihood of the forget answers; no retain term.",
    )

    class Config(LossConfig):
        """Settings of gradient ascent."""

        alpha: float = Field(0.0, ge=0, description="weight of the retain loss (TOFU: none)")

    space = {  # noqa: RUF012
        "lr": (1e-5, 3e-5, 1e-4, 2e-4, 3e-4),
        "steps": (4, 8, 12, 20, 30),
        "batch_size": (15, 30),
    }

    def forget_loss(self, batch: AnswerBatch) -> Loss:
        return Loss.per_token(batch.token_logprobs(), batch.answer_mask)
