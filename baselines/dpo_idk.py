"""Direct preference optimisation: "I don't know" is preferred to the answer.

    L = −(2/β) log σ(β [log(π(r|q)/π₀(r|q)) − log(π(a|q)/π₀(a|q))])      per sequence, plus α · retain

r the refusal, a the forget answer, π the model, π₀ the target, log-probabilities summed over the answer's tokens (the
end token included). Maini et al. 2024 (TOFU) use DPO so ("preference optimisation"); the factor 2/β, by which the
gradient doesn't depend on β at the start, is NPO's and open-unlearning's. NPO is what is left without r. Each row
draws one refusal by the seed and keeps it, as in ``idk``. β = 0.1, γ = α = 1 and the other defaults are TOFU's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field
from unbench_baselines.idk import PHRASINGS

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


class DPO(LossMethod):
    """A refusal wins against the forget answer."""

    card = MethodCard(
        name="dpo_idk",
        title='DPO towards "I don\'t know"',
        kind="preference",
        bibtex=BIBTEX,
        paper="arXiv:2401.06121",
        year=2024,
        summary="Refusals are preferred to forget answers by DPO, retain term beside.",
    )

    class Config(LossConfig):
        """Settings of DPO."""

        beta: float = Field(0.1, gt=0, description="inverse temperature (TOFU)")

    normaliser = "sequence"
    needs = frozenset({"target_logprobs"})
    space = {  # noqa: RUF012
        "lr": [1e-4, 2e-4, 5e-4, 1e-3, 2e-3],
        "steps": [20, 40, 60, 100, 150],
        "batch_size": [15, 30],
        "gamma": [0.25, 0.5, 1.0, 2.0, 4.0],
        "beta": [0.05, 0.1, 0.2, 0.5, 1.0],
    }
    contract = {"gamma": 3.0, "alpha": 0.1}  # noqa: RUF012

    def preferred_answers(self, rows: Sequence[dict[str, Any]], seed: int) -> Sequence[Sequence[str]]:
        generator = random.Random(f"dpo_idk/{seed}")
        return [[generator.choice(PHRASINGS)] for _ in rows]

    def forget_loss(self, batch: AnswerBatch) -> Loss:
        from torch.nn.functional import logsigmoid

        beta, won = self.config.beta, batch.preferred
        gain = won.logprobs() - won.target_logprobs  # (batch,) nats
        loss = batch.logprobs() - batch.target_logprobs
        return Loss.per_sequence(-2 / beta * logsigmoid(beta * (gain - loss)))
