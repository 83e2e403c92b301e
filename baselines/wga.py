"""Weighted gradient ascent.

    L = sg(p^β) log p  =  −sg(p^β) · CE                               per answer token, plus α · retain

p = π(a_t | q, a_<t), sg: no gradient through it. Wang et al. 2025: gradient ascent's weight 1/p makes tokens that are
already forgotten dominate; weighing each token by its own confidence takes that out. At β = 0 it is gradient ascent.
β = γ = α = 1 are open-unlearning's; the other defaults are TOFU's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from unbench.method import Loss, LossConfig, LossMethod, MethodCard

if TYPE_CHECKING:
    from unbench.training.batch import AnswerBatch

BIBTEX = """@inproceedings{wang2025rethinking,
  title = {Rethinking {LLM} Unlearning Objectives: A Gradient Perspective and Go Beyond},
  author = {Wang, Qizhou and Zhou, Jin Peng and Zhou, Zhanke and Shin, Saebyeol and Han, Bo and
    Weinberger, Kilian Q.},
  booktitle = {International Conference on Learning Representations},
  year = {2025},
  eprint = {2502.19301},
  archivePrefix = {arXiv}
}"""


class WGA(LossMethod):
    """Gradient ascent on the tokens that the model still knows."""

    card = MethodCard(
        name="wga",
        title="Weighted gradient ascent",
        kind="gradient",
        bibtex=BIBTEX,
        paper="arXiv:2502.19301",
        year=2025,
        summary="Gradient ascent, each token weighed by the model's own confidence in it, retain term beside.",
    )

    class Config(LossConfig):
        """Settings of weighted gradient ascent."""

        beta: float = Field(1.0, ge=0, description="power of the token's probability in its weight (open-unlearning)")

    space = {  # noqa: RUF012
        "lr": (3e-5, 1e-4, 2e-4, 5e-4, 1e-3),
        "steps": (40, 60, 100, 150),
        "batch_size": (15, 30),
        "beta": (0.5, 1.0, 2.0),
        "gamma": (0.1, 0.3, 1.0),
    }

    def forget_loss(self, batch: AnswerBatch) -> Loss:
        log_p = batch.token_logprobs()  # (batch, length) nats
        weight = (self.config.beta * log_p).exp().detach()
        return Loss.per_token(weight * log_p, batch.answer_mask)
