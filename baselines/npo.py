"""Negative preference optimisation.

    L = −(2/β) log σ(−β log(π(a|q) / π₀(a|q)))                         per sequence, plus α · retain

π the model, π₀ the target, both over the whole answer (log-probabilities summed over its tokens, the end token
included). Zhang, Lin, Bai, Mei 2024, eq. 3; with a retain term it is their NPO+RT. β = 0.1 is the paper's on TOFU;
γ = α = 1 and the other defaults are TOFU's. At β → 0 it is gradient ascent; unlike it, its gradient fades as the answer
becomes unlikely: ∂L/∂log π = 2 σ(β log(π/π₀)), 1 at the start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from unbench.method import Loss, LossConfig, LossMethod, MethodCard

if TYPE_CHECKING:
    from unbench.training.batch import AnswerBatch

BIBTEX = """@inproceedings{zhang2024npo,
  title = {Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning},
  author = {Zhang, Ruiqi and Lin, Licong and Bai, Yu and Mei, Song},
  booktitle = {First Conference on Language Modeling},
  year = {2024},
  eprint = {2404.05868},
  archivePrefix = {arXiv}
}"""


class NPO(LossMethod):
    """The forget answers are the losing half of a preference pair without a winner."""

    card = MethodCard(
        name="npo",
        title="Negative preference optimisation",
        kind="preference",
        bibtex=BIBTEX,
        paper="arXiv:2404.05868",
        year=2024,
        summary="Pushes forget answers below the target's probability with a gradient that fades, retain term beside.",
    )

    class Config(LossConfig):
        """Settings of NPO."""

        beta: float = Field(0.1, gt=0, description="inverse temperature (Zhang et al. 2024, TOFU experiments)")

    normaliser = "sequence"
    needs = frozenset({"target_logprobs"})

    space = {  # noqa: RUF012
        "lr": (3e-5, 1e-4, 2e-4, 3e-4, 5e-4),
        "steps": (40, 60, 100, 150),
        "batch_size": (15, 30),
        "beta": (0.05, 0.1, 0.3, 1.0),
        "gamma": (0.3, 1.0),
    }

    def forget_loss(self, batch: AnswerBatch) -> Loss:
        from torch.nn.functional import logsigmoid

        beta = self.config.beta
        ratio = batch.logprobs() - batch.target_logprobs  # (batch,) nats
        return Loss.per_sequence(-2 / beta * logsigmoid(-beta * ratio))
