"""Gradient difference: ascent on the forget answers, descent on retain answers.

    L = −γ nll(forget) + α nll(retain)                                both per answer token

Liu, Liu, Stone 2022 (CoLLAs, "Continual Learning and Private Unlearning"), in the form of TOFU (Maini et al. 2024,
their baseline "Gradient Difference", γ = α = 1, as many retain rows as forget rows a step). Other defaults are TOFU's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unbench.method import Loss, LossConfig, LossMethod, MethodCard

if TYPE_CHECKING:
    from unbench.training.batch import AnswerBatch

BIBTEX = """@inproceedings{liu2022continual,
  title = {Continual Learning and Private Unlearning},
  author = {Liu, Bo and Liu, Qiang and Stone, Peter},
  booktitle = {Conference on Lifelong Learning Agents},
  year = {2022}
}
@inproceedings{maini2024tofu,
  title = {{TOFU}: A Task of Fictitious Unlearning for {LLMs}},
  author = {Maini, Pratyush and Feng, Zhili and Schwarzschild, Avi and Lipton, Zachary C. and Kolter, J. Zico},
  booktitle = {First Conference on Language Modeling},
  year = {2024},
  eprint = {2401.06121},
  archivePrefix = {arXiv}
}"""


class GradDiff(LossMethod):
    """Down with the forget answers, up with the retain answers."""

    card = MethodCard(
        name="grad_diff",
        title="Gradient difference",
        kind="gradient",
        bibtex=BIBTEX,
        paper="arXiv:2401.06121",
        year=2022,
        summary="Gradient ascent on forget answers with plain training on retain answers beside it.",
    )

    class Config(LossConfig):
        """Settings of gradient difference."""

    space = {  # noqa: RUF012
        "lr": (3e-5, 1e-4, 2e-4, 3e-4, 5e-4),
        "steps": (20, 40, 60, 100, 150),
        "batch_size": (15, 30),
        "gamma": (0.1, 0.3, 1.0),
    }

    def forget_loss(self, batch: AnswerBatch) -> Loss:
        return Loss.per_token(batch.token_logprobs(), batch.answer_mask)
