"""PDU: flat logits on the forget answers, under a bound on the retain loss.

    min (max_v z_v − mean_v z_v)²   so that   L_retain ≤ ε             per answer token
    L = γ forget + λ L_retain,   λ ← max(0, λ + η (L_retain − ε))      after each step, from the warm-up's end on

z the logits. Entesari et al. 2025: flat logits are the uniform distribution, the multiplier λ weighs what must stay
as much as it takes. λ starts at α = 1, η = 1, and stays as it is for five epochs over the forget rows. ε is the
target's own retain loss, over all retain rows before training, plus 0.1 (their TOFU runs set ε = 0.3 by hand, with
λ₀ = 100 and η = 5). L_retain in the update is that of the whole optimiser step, so that no batch split changes λ.
The other defaults are TOFU's. Their code averages over prompt and padding too; here only the answer's tokens count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from unbench.method import Loss, LossConfig, LossMethod, MethodCard, UnlearnContext

if TYPE_CHECKING:
    import torch

    from unbench.training.batch import AnswerBatch

BIBTEX = """@inproceedings{entesari2025constrained,
  title = {Constrained Entropic Unlearning: A Primal-Dual Framework for Large Language Models},
  author = {Entesari, Taha and Hatami, Arman and Khaziev, Rinat and Ramakrishna, Anil and Fazlyab, Mahyar},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2025},
  eprint = {2506.05314},
  archivePrefix = {arXiv}
}"""


class PDU(LossMethod):
    """Unlearning as a constrained problem, solved by primal and dual steps."""

    card = MethodCard(
        name="pdu",
        title="Primal-dual unlearning",
        kind="gradient",
        bibtex=BIBTEX,
        paper="arXiv:2506.05314",
        year=2025,
        summary="Flattens the logits on forget answers; the weight of the retain term adapts to a bound on its loss.",
    )

    class Config(LossConfig):
        """Settings of PDU."""

        alpha: float = Field(1.0, gt=0, description="λ at the start: weight of the retain loss")
        eta: float = Field(1.0, ge=0, description="η: step size of λ")
        warmup_epochs: float = Field(5.0, ge=0, description="epochs over the forget rows before λ moves")
        epsilon: float | None = Field(None, description="ε: bound on the retain loss; none: the target's own + slack")
        slack: float = Field(0.1, ge=0, description="nats that the bound lies above the target's own retain loss")

    space = {  # noqa: RUF012
        "lr": [1e-4, 2e-4, 5e-4, 1e-3, 2e-3],
        "steps": [20, 40, 60, 100, 150],
        "batch_size": [15, 30],
        "gamma": [0.01, 0.03, 0.1, 0.3, 1.0],
        "eta": [0.5, 1.0, 2.0, 5.0],
        "slack": [0.02, 0.1, 0.3],
    }
    contract = {"gamma": 0.1}  # noqa: RUF012

    def prepare(self, context: UnlearnContext, model: Any) -> None:
        self._lambda = self.config.alpha
        per_step = min(self.config.batch_size, len(context.forget))
        self._warm = math.ceil(self.config.warmup_epochs * len(context.forget) / per_step)
        self._epsilon = self.config.epsilon
        if self._epsilon is None:
            own = 0.0 if self.config.retain_loss == "kl" else retain_nll(context, model)
            self._epsilon = own + self.config.slack
        context.usage.notes["pdu_epsilon"] = self._epsilon
        self._notes = context.usage.notes

    def weights(self, step: int) -> tuple[float, float]:
        return self.config.gamma, self._lambda

    def observe(self, step: int, losses: Mapping[str, float]) -> None:
        if step + 1 > self._warm:
            self._lambda = max(0.0, self._lambda + self.config.eta * (losses["retain"] - self._epsilon))
        self._notes["pdu_lambda"] = self._lambda

    def state(self) -> dict[str, Any]:
        return {"lambda": self._lambda}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._lambda = float(state["lambda"])

    def forget_loss(self, batch: AnswerBatch) -> Loss:
        from unbench.training.loss import chunked, wide

        def flat(z: torch.Tensor) -> torch.Tensor:
            z = wide(z)
            return (z.amax(-1) - z.mean(-1)).square()

        return Loss.per_token(chunked(flat, batch.logits), batch.answer_mask)


def retain_nll(context: UnlearnContext, model: Any) -> float:
    """Mean NLL of the retain rows' answer tokens, in nats, under ``model`` as it is."""
    from unbench.training.batch import TrainRow, encode
    from unbench.training.trainer import target_logprobs

    tokenizer = context.target.tokenizer
    rows = encode(tokenizer, [TrainRow.ask(row["question"], row["answer"]) for row in context.retain])
    values = [row.target for row in target_logprobs(model, tokenizer, rows, context) if row.target is not None]
    return -math.fsum(float(one.sum()) for one in values) / sum(one.numel() for one in values)
