"""KL minimisation: ascent on the forget answers, the retain answers held to the target's distribution.

    L = −γ nll(forget) + α KL(π₀ ‖ π)(retain)                         both per answer token

π the model, π₀ the target, KL over the vocabulary at every answer token. Maini et al. 2024 (TOFU, their baseline
"KL Minimization", γ = α = 1, as many retain rows as forget rows a step). TOFU takes the KL over the prompt's tokens
too; here, as in every loss, the answer's tokens count alone. Other defaults are TOFU's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

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


class KLMin(LossMethod):
    """Down with the forget answers, no move on the retain answers."""

    card = MethodCard(
        name="kl_min",
        title="KL minimisation",
        kind="gradient",
        bibtex=BIBTEX,
        paper="arXiv:2401.06121",
        year=2024,
        summary="Gradient ascent on forget answers, retain answers held to the target's distribution by a KL term.",
    )

    class Config(LossConfig):
        """Settings of KL minimisation."""

        retain_loss: Literal["kl"] = Field("kl", description="retain term: KL(target ‖ model), what the method is")

    space = {  # noqa: RUF012
        "lr": (3e-5, 1e-4, 2e-4, 3e-4, 5e-4),
        "steps": (20, 40, 60, 100, 150),
        "batch_size": (15, 30),
        "gamma": (0.1, 0.3, 1.0),
    }

    def forget_loss(self, batch: AnswerBatch) -> Loss:
        return Loss.per_token(batch.token_logprobs(), batch.answer_mask)
