"""PALU: the target's likeliest logits are flattened, on the first tokens of the answer.

    flat_t = (1/K) Σ_{j ∈ top-K of z₀} (z_j − mean_v z_v)²
    L = γ mean_{t ≤ N} flat_t + α KL(π₀ ‖ π) elsewhere                per answer token

z the model's logits, z₀ the target's, both at answer token t; the mean of z runs over the whole vocabulary, with
gradient. "Elsewhere" is the retain answers and, where N cuts an answer short, the rest of it (each answer's rest
counts by its mean, as often as tokens were flattened in it). Zhai et al. 2026: a flat top-K is enough for the model not
to know, and a sensitive prefix enough for the answer not to follow. α = 1, K = 1000 (at most the vocabulary); the
paper marks the sensitive span, which no task here does, so N is the whole answer. The other defaults are TOFU's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from unbench.method import Loss, LossConfig, LossMethod, MethodCard

if TYPE_CHECKING:
    import torch

    from unbench.training.batch import AnswerBatch

BIBTEX = """@article{zhai2026maximizing,
  title = {Maximizing Local Entropy Where It Matters: Prefix-Aware Localized {LLM} Unlearning},
  author = {Zhai, Naixin and Shao, Pengyang and Zheng, Binbin and Yang, Yonghui and Shen, Fei and Bai, Long and
    Yang, Xun},
  year = {2026},
  eprint = {2601.03190},
  archivePrefix = {arXiv}
}"""


class PALU(LossMethod):
    """Uncertainty among what the target would have said, nothing changed elsewhere."""

    card = MethodCard(
        name="palu",
        title="PALU",
        kind="gradient",
        bibtex=BIBTEX,
        paper="arXiv:2601.03190",
        year=2026,
        summary="Flattens the target's top-K logits on the answer's first tokens, KL to the target elsewhere.",
    )

    class Config(LossConfig):
        """Settings of PALU."""

        top: int = Field(1000, ge=1, description="K: logits that are flattened, at most the vocabulary (Zhai et al.)")
        first: int | None = Field(None, ge=1, description="N: first answer tokens that are flattened; none: all")
        retain_loss: Literal["nll", "kl"] = Field("kl", description="retain term: KL(target ‖ model), or NLL")

    needs = frozenset({"target_logits"})
    space = {  # noqa: RUF012
        "lr": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3),
        "steps": (40, 60, 100, 150),
        "batch_size": (15, 30),
        "gamma": (0.3, 1.0, 3.0),
        "top": (100, 1000),
    }
    contract = {"gamma": 3.0}  # noqa: RUF012

    def forget_count(self, lengths: Sequence[int]) -> int:
        return sum(min(length, self.config.first or length) for length in lengths)

    def forget_loss(self, batch: AnswerBatch) -> Loss:
        from unbench.training.loss import chunked, kl_divergence, wide

        def flat(z: torch.Tensor, z0: torch.Tensor) -> torch.Tensor:
            top = z0.topk(min(self.config.top, z0.shape[-1]), dim=-1, sorted=False).indices
            z = wide(z)
            return (z.gather(-1, top) - z.mean(-1, keepdim=True)).square().mean(-1)

        target, head = batch.target_logits(), batch.answer_mask.clone()
        head[:, self.config.first or head.shape[1] :] = False
        loss = Loss.per_token(chunked(flat, batch.logits, target), head)
        rest = batch.answer_mask & ~head
        if not bool(rest.any()):
            return loss
        kl = kl_divergence(target, batch.logits).masked_fill(~rest, 0.0).sum(-1) / rest.sum(-1).clamp_min(1)
        # The trainer multiplies by γ what the formula weighs by α.
        return Loss(loss.sum + self.config.alpha / self.config.gamma * (kl * head.sum(-1)).sum(), loss.count)
