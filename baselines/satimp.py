"""SatImp: gradient ascent with saturation and importance weights.

    L = sg(p^β₁ (1 − p)^β₂) log p  =  −sg(p^β₁ (1 − p)^β₂) · CE       per answer token, plus α · retain

p = π(a_t | q, a_<t), sg: no gradient through it. Yang et al. 2025: p^β₁ leaves tokens alone that are forgotten
(saturation), (1 − p)^β₂ those that any context makes sure (importance). At β₂ = 0 it is weighted gradient ascent.
β₁ = 5, β₂ = 1, γ = 0.1, α = 1 are open-unlearning's; the other defaults are TOFU's. Tokens that the target is sure of
hardly move at first: where it knows its facts by heart, raise γ or lower β₂.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from unbench.method import Loss, LossConfig, LossMethod, MethodCard

if TYPE_CHECKING:
    from unbench.training.batch import AnswerBatch

BIBTEX = """@inproceedings{yang2025exploring,
  title = {Exploring Criteria of Loss Reweighting to Enhance {LLM} Unlearning},
  author = {Yang, Puning and Wang, Qizhou and Huang, Zhuo and Liu, Tongliang and Zhang, Chengqi and Han, Bo},
  booktitle = {International Conference on Machine Learning},
  year = {2025},
  eprint = {2505.11953},
  archivePrefix = {arXiv}
}"""


class SatImp(LossMethod):
    """Gradient ascent on tokens that are neither forgotten nor certain."""

    card = MethodCard(
        name="satimp",
        title="SatImp",
        kind="gradient",
        bibtex=BIBTEX,
        paper="arXiv:2505.11953",
        year=2025,
        summary="Gradient ascent, each token weighed by how much is left to forget and how little context tells it.",
    )

    class Config(LossConfig):
        """Settings of SatImp."""

        beta1: float = Field(5.0, ge=0, description="power of p, the saturation weight (open-unlearning)")
        beta2: float = Field(1.0, ge=0, description="power of 1 − p, the importance weight (open-unlearning)")
        gamma: float = Field(0.1, ge=0, description="weight of the forget loss (open-unlearning)")

    space = {  # noqa: RUF012
        "lr": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3),
        "steps": (40, 60, 100, 150),
        "batch_size": (15, 30),
        "beta1": (1.0, 3.0, 5.0),
        "beta2": (0.1, 1.0),
        "gamma": (0.1, 1.0, 10.0),
    }
    # The tiny model knows its facts by heart: 1 − p is next to nothing.
    contract = {"beta1": 1.0, "gamma": 10.0}  # noqa: RUF012

    def forget_loss(self, batch: AnswerBatch) -> Loss:
        import torch

        log_p = batch.token_logprobs()  # (batch, length) nats
        known = log_p.detach()
        rest = -torch.expm1(known).clamp_max(0)  # 1 − p; rounding can put p above 1
        weight = (self.config.beta1 * known).exp() * rest**self.config.beta2
        return Loss.per_token(weight * log_p, batch.answer_mask)
