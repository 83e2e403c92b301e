"""WHP ("Who's Harry Potter?"): what a model tuned further on the forget answers likes more is made less likely.

    L = −Σ_v q(v) log π(v),   q = softmax(z₀ − κ relu(z_r − z₀)), sg     per answer token, plus α · retain

z₀ the target's logits, z_r those of the reinforced model: the target tuned three more epochs on the forget rows.
Eldan and Russinovich 2023, eq. 1; κ (their α) = 5. They also replace names of the text by generic ones from a
dictionary that GPT-4 wrote, which has no counterpart for arbitrary rows and is left out. No retain term, as published;
α > 0 adds one. The reinforced model is trained like the unlearned one (in full, or as an adapter), at the same rate
unless told otherwise; its tokens count. The other defaults are TOFU's.

z₀ and z_r never change, so their blend is made once for every forget row, each alone, and kept while all of it fits in
``KEPT_BYTES``; beyond that every step reads both frozen models again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pydantic import Field

from unbench.method import Loss, LossConfig, LossMethod, MethodCard, UnlearnContext

if TYPE_CHECKING:
    import torch

    from unbench.training.batch import AnswerBatch, EncodedRow

BIBTEX = """@article{eldan2023whos,
  title = {Who's {Harry Potter}? Approximate Unlearning in {LLMs}},
  author = {Eldan, Ronen and Russinovich, Mark},
  year = {2023},
  eprint = {2310.02238},
  archivePrefix = {arXiv}
}"""


KEPT_BYTES = 1 << 30
BYTES = 4
"""Of a kept logit, a float32."""


class Teacher:
    """What WHP distils, q = softmax(z₀ − κ relu(z_r − z₀)), for batches out of rows that hold ``tokens`` answer tokens
    in all. ``reinforced`` is the model that gives z_r."""

    def __init__(self, reinforced: Any, kappa: float, tokens: int) -> None:
        self.reinforced = reinforced
        self._kappa = kappa
        self._tokens = tokens
        self._kept: dict[EncodedRow, torch.Tensor] = {}

    def cross_entropy(self, batch: AnswerBatch) -> torch.Tensor:
        """(batch, length) −Σ_v q(v) log π(v) in nats; what stands on padding means nothing."""
        from torch.nn.utils.rnn import pad_sequence

        from unbench.training.loss import chunked, wide

        def of(z: torch.Tensor, *teacher: torch.Tensor) -> torch.Tensor:
            lowered = teacher[0] if len(teacher) == 1 else self._lower(*teacher)
            return -(lowered.softmax(-1) * wide(z).log_softmax(-1)).sum(-1)

        # Which rows are kept must not hang on what came before: a training that is resumed repeats the same numbers.
        if self._tokens * batch.logits.shape[-1] * BYTES > KEPT_BYTES:
            return chunked(of, batch.logits, batch.target_logits(), self._raised(batch))
        for i, row in enumerate(batch.rows):
            if row not in self._kept:
                alone = batch.alone(i)
                self._kept[row] = self._lower(alone.target_logits()[0], self._raised(alone)[0])
        return chunked(of, batch.logits, pad_sequence([self._kept[row] for row in batch.rows], batch_first=True))

    def _raised(self, batch: AnswerBatch) -> torch.Tensor:
        import torch

        from unbench.training.batch import answer_logits

        with torch.no_grad():
            return answer_logits(self.reinforced, batch)

    def _lower(self, z0: torch.Tensor, raised: torch.Tensor) -> torch.Tensor:
        from unbench.training.loss import wide

        z0 = wide(z0)
        return z0 - self._kappa * (wide(raised) - z0).relu()


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
        from unbench.training.batch import TrainRow, encode
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
        tokens = sum(len(row.answer) for row in encode(tokenizer, rows))
        asked = 1 + config.paraphrases * (config.augment == "paraphrases")
        self._teacher = Teacher(reinforced.requires_grad_(False).eval(), config.kappa, tokens * asked)

    def forget_loss(self, batch: AnswerBatch) -> Loss:
        return Loss.per_token(self._teacher.cross_entropy(batch), batch.answer_mask)
