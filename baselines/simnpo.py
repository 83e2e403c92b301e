"""SimNPO: negative preference optimisation without a reference model.

    L = −(2/β) log σ(β (nll(a|q) / |a| − δ))                          per sequence, plus α · retain

nll(a|q) summed over the answer's |a| tokens, the end token included. Fan et al. 2024: NPO's log-ratio to the target is
replaced by the answer's own length-normalised likelihood, so that long and short answers, and answers that the target
knows well or badly, are pushed alike. Their margin γ (not the weight γ below) is β δ. β = 4.5, δ = 0 and the weights
0.125 (forget) and 1 (retain NLL) are theirs on TOFU, as in open-unlearning; the other defaults are TOFU's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from unbench.method import Loss, LossConfig, LossMethod, MethodCard

if TYPE_CHECKING:
    from unbench.training.batch import AnswerBatch

BIBTEX = """@article{fan2024simplicity,
  title = {Simplicity Prevails: Rethinking Negative Preference Optimization for {LLM} Unlearning},
  author = {Fan, Chongyu and Liu, Jiancheng and Lin, Licong and Jia, Jinghan and Zhang, Ruiqi and Mei, Song and
    Liu, Sijia},
  year = {2024},
  eprint = {2410.07163},
  archivePrefix = {arXiv}
}"""


class SimNPO(LossMethod):
    """NPO on the length-normalised likelihood, the target not asked."""

    card = MethodCard(
        name="simnpo",
        title="SimNPO",
        kind="preference",
        bibtex=BIBTEX,
        paper="arXiv:2410.07163",
        year=2024,
        summary="NPO with the answer's length-normalised likelihood in place of its ratio to the target's.",
    )

    class Config(LossConfig):
        """Settings of SimNPO."""

        beta: float = Field(4.5, gt=0, description="inverse temperature (Fan et al. 2024, TOFU)")
        delta: float = Field(0.0, description="NLL, nats a token, up to which an answer is pushed hardest")
        gamma: float = Field(0.125, ge=0, description="weight of the forget loss (Fan et al. 2024, TOFU)")

    normaliser = "sequence"
    space = {  # noqa: RUF012
        "lr": (1e-4, 2e-4, 3e-4, 5e-4, 1e-3),
        "steps": (40, 60, 100, 150),
        "batch_size": (15, 30),
        "beta": (2.5, 4.5),
        "delta": (0.0, 1.0, 2.0),
        "gamma": (0.125, 0.3, 1.0),
    }

    def forget_loss(self, batch: AnswerBatch) -> Loss:
        from torch.nn.functional import logsigmoid

        beta, delta = self.config.beta, self.config.delta
        nll = -batch.logprobs() / batch.answer_mask.sum(-1)  # (batch,) nats a token
        return Loss.per_sequence(-2 / beta * logsigmoid(beta * (nll - delta)))
