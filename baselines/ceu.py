"""CE-U: cross entropy towards the model's own distribution without the true token.

    q = softmax(z with z_a = −∞)                                     a: the true token, sg
    L = −Σ_v q(v) log π(v)                                           per answer token but the first

z the model's own logits. Yang 2025: the true token's probability is shared out over the others in their own
proportion, and the gradient fades with it: ∂L/∂z_a = π(a), where gradient ascent has 1 − π(a). No retain term. The
first answer token is skipped (a footnote of the paper, and open-unlearning's code). An answer of no more tokens than
are skipped keeps its last one, where the public code drops the row: no forget row is left out in silence. The other
defaults are TOFU's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from unbench.method import Loss, LossConfig, LossMethod, MethodCard

if TYPE_CHECKING:
    from unbench.training.batch import AnswerBatch

BIBTEX = """@article{yang2025ceu,
  title = {{CE-U}: Cross Entropy Unlearning},
  author = {Yang, Bo},
  year = {2025},
  eprint = {2503.01224},
  archivePrefix = {arXiv}
}"""


class CEU(LossMethod):
    """The true token goes, the others keep their proportion."""

    card = MethodCard(
        name="ceu",
        title="Cross entropy unlearning",
        kind="gradient",
        bibtex=BIBTEX,
        paper="arXiv:2503.01224",
        year=2025,
        summary="Cross entropy towards the model's own distribution with the true token taken out; no retain term.",
    )

    class Config(LossConfig):
        """Settings of CE-U."""

        alpha: float = Field(0.0, ge=0, description="weight of the retain loss (Yang 2025: none)")
        skip: int = Field(1, ge=0, description="first answer tokens left out (Yang 2025)")

    space = {  # noqa: RUF012
        "lr": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3),
        "steps": (10, 20, 40, 60, 100),
        "batch_size": (15, 30),
        "skip": (0, 1),
        "alpha": (0.0, 1.0),
    }

    def forget_count(self, lengths: Sequence[int]) -> int:
        return sum(length - self._start(length) for length in lengths)

    def forget_loss(self, batch: AnswerBatch) -> Loss:
        from unbench.training.loss import shifted_cross_entropy

        mask = batch.answer_mask.clone()
        for i, row in enumerate(batch.rows):
            mask[i, : self._start(len(row.answer))] = False
        values = shifted_cross_entropy(batch.logits, batch.logits, batch.labels, -float("inf"))  # (batch, length)
        return Loss.per_token(values, mask)

    def _start(self, length: int) -> int:
        return min(self.config.skip, length - 1)
