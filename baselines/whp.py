"""WHP ("Who's Harry Potter?"): what a model tuned further on the forget answers likes more is made less likely.

    L = −Σ_v q(v) log π(v),   q = softmax(z₀ − κ relu(z_r − z₀)), sg     per answer token, plus α · retain

z₀ the target's logits, z_r those of the reinforced model: the target tuned three more epochs on the forget rows.
Eldan and Russinovich 2023, eq. 1; κ (their α) = 5. They also replace names of the text by generic ones from a
dictionary that GPT-4 wrote, which has no counterpart for arbitrary rows and is left out. No retain term, as published;
α > 0 adds one. The reinforced model is trained like the unlearned one (in full, or as an adapter), at the same rate
unless told otherwise; its tokens count. The other defaults are TOFU's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pydantic import Field

from unbench.method import Loss, LossConfig, LossMethod, MethodCard, UnlearnContext

if TYPE_CHECKING:
    import torch

    from unbench.training.batch import AnswerBatch

BIBTEX = """@article{eldan2023whos,
  title = {Who's {Harry Potter}? Approximate Unlearning in {LLMs}},
  author = {Eldan, Ronen and Russinovich, Mark},
  year = {2023},
  eprint = {2310.02238},
  archivePrefix = {arXiv}
}"""


class WHP(LossMethod):
    """Distils the target with what a reinforced model adds taken out."""

    card = MethodCard(
        name="whp",
        title="Who's Harry Potter",
        kind="distillation",
        bibtex=BIBTEX,
        paper="arXiv:2310.02238",
        year=2023,
        summary="Distils the target's logits, lowered where a model tuned further on the forget rows raises them.",
    )

    class Config(LossConfig):
        """Settings of WHP."""

        kappa: float = Field(5.0, ge=0, description="κ: how far raised logits are lowered (Eldan and Russinovich's α)")
        reinforce_epochs: float = Field(3.0, gt=0, description="epochs of the reinforced model on the forget rows")
        reinforce_lr: float | None = Field(None, gt=0, description="peak learning rate of these; none: lr")
        alpha: float = Field(0.0, ge=0, description="weight of the retain loss (published: none)")

    needs = frozenset({"target_logits"})
    space = {  # noqa: RUF012
        "lr": [1e-4, 2e-4, 5e-4, 1e-3, 2e-3],
        "steps": [20, 40, 60, 100, 150],
        "batch_size": [15, 30],
        "alpha": [0.0, 0.5, 1.0, 2.0],
        "kappa": [2.0, 5.0, 10.0, 20.0],
        "reinforce_epochs": [3.0, 10.0, 20.0],
    }
    contract = {"kappa": 1000.0, "reinforce_epochs": 10.0, "steps": 40}  # noqa: RUF012

    def prepare(self, context: UnlearnContext, model: Any) -> None:
        from unbench.training.batch import TrainRow
        from unbench.training.loop import fine_tune
        from unbench.training.weights import prepare_model

        config = self.config
        reinforced, tokenizer = prepare_model(context)
        rows = [TrainRow.ask(row["question"], row["answer"]) for row in context.forget]
        per_step = min(config.batch_size, len(rows))
        fine_tune(
            reinforced, tokenizer, rows, steps=math.ceil(config.reinforce_epochs * len(rows) / per_step),
            lr=config.reinforce_lr or config.lr, batch_size=config.batch_size, seed=context.seed, context=context,
            warmup=config.warmup, weight_decay=config.weight_decay, max_grad_norm=config.max_grad_norm,
            description="reinforce",
        )  # fmt: skip
        self._reinforced: Any = reinforced.requires_grad_(False).eval()

    def forget_loss(self, batch: AnswerBatch) -> Loss:
        import torch

        from unbench.training.batch import answer_logits
        from unbench.training.loss import chunked, wide

        def cross_entropy(z: torch.Tensor, z0: torch.Tensor, zr: torch.Tensor) -> torch.Tensor:
            z0 = wide(z0)
            q = (z0 - self.config.kappa * (wide(zr) - z0).relu()).softmax(-1)
            return -(q * wide(z).log_softmax(-1)).sum(-1)

        with torch.no_grad():
            raised = answer_logits(self._reinforced, batch)
        return Loss.per_token(chunked(cross_entropy, batch.logits, batch.target_logits(), raised), batch.answer_mask)
