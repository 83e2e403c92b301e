"""UNDIAL: self-distillation from the target with the true token's logit lowered.

    q = softmax(z₀ − β e_a)                                          e_a: one at the true token, sg
    L = −Σ_v q(v) log π(v)                                           per answer token

z₀ the target's logits. Dong et al. 2024/2025: the student copies the target everywhere but at the token to forget,
which loses β nats against every other; the optimum is known and finite, so training is stable. β = 10, lr 1e-4 and no
retain term are open-unlearning's. Its code averages over prompt and padding too; here only the answer's tokens count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from unbench.method import Loss, LossConfig, LossMethod, MethodCard

if TYPE_CHECKING:
    from unbench.training.batch import AnswerBatch

BIBTEX = """@inproceedings{dong2025undial,
  title = {{UNDIAL}: Self-Distillation with Adjusted Logits for Robust Unlearning in Large Language Models},
  author = {Dong, Yijiang River and Lin, Hongzhou and Belkin, Mikhail and Huerta, Ramon and Vuli{\\'c}, Ivan},
  booktitle = {Conference of the Nations of the Americas Chapter of the Association for Computational Linguistics},
  year = {2025},
  eprint = {2402.10052},
  archivePrefix = {arXiv}
}"""


class UNDIAL(LossMethod):
    """The target's distribution without the memorised token is learnt."""

    card = MethodCard(
        name="undial",
        title="UNDIAL",
        kind="distillation",
        bibtex=BIBTEX,
        paper="arXiv:2402.10052",
        year=2024,
        summary="Distils the target's own distribution with the true token's logit lowered by a constant.",
    )

    class Config(LossConfig):
        """Settings of UNDIAL."""

        beta: float = Field(10.0, ge=0, description="nats that the true token's logit is lowered by (open-unlearning)")
        lr: float = Field(1e-4, gt=0, description="peak learning rate (open-unlearning)")
        alpha: float = Field(0.0, ge=0, description="weight of the retain loss (open-unlearning: none)")

    needs = frozenset({"target_logits"})

    space = {  # noqa: RUF012
        "lr": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3),
        "steps": (40, 60, 100, 150),
        "batch_size": (15, 30),
        "beta": (3.0, 10.0, 30.0),
        "alpha": (0.0, 1.0),
    }

    def forget_loss(self, batch: AnswerBatch) -> Loss:
        from unbench.training.loss import shifted_cross_entropy

        target = batch.target_logits()
        values = shifted_cross_entropy(target, batch.logits, batch.labels, -self.config.beta)  # (batch, length)
        return Loss.per_token(values, batch.answer_mask)
