"""JensUn: Jensen-Shannon divergence to a refusal, and to the target on the retain answers.

    L = γ JSD(π, e_r)(forget) + α JSD(π, π₀)(retain)                  both per answer token
    JSD(p, q) = ½ KL(p ‖ m) + ½ KL(q ‖ m),  m = ½ (p + q)

e_r is one at token r_t, the tokens of "No idea" repeated along the answer: r₁ r₂ … r₁ r₂ … (the model still reads the
true answer's tokens). With p = π(r_t) the first term is ln 2 + ½ p ln p − ½ (1 + p) ln(1 + p), so it needs no sum
over the vocabulary. Singh, Müller, Croce, Hein 2025: bounded by ln 2, so that it neither explodes nor has to be
stopped. γ = α = 1; the other defaults are TOFU's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from unbench.method import Loss, LossConfig, LossMethod, MethodCard, UnlearnContext

if TYPE_CHECKING:
    from unbench.training.batch import AnswerBatch

BIBTEX = """@article{singh2025unlearning,
  title = {Unlearning That Lasts: Utility-Preserving, Robust, and Almost Irreversible Forgetting in {LLMs}},
  author = {Singh, Naman Deep and M{\\"u}ller, Maximilian and Croce, Francesco and Hein, Matthias},
  year = {2025},
  eprint = {2509.02820},
  archivePrefix = {arXiv}
}"""


class JensUn(LossMethod):
    """Towards a refusal by a bounded loss, the retain answers held by the same one."""

    card = MethodCard(
        name="jensun",
        title="JensUn",
        kind="distillation",
        bibtex=BIBTEX,
        paper="arXiv:2509.02820",
        year=2025,
        summary="Bounded Jensen-Shannon divergence to a refusal on forget answers, to the target on retain answers.",
    )

    class Config(LossConfig):
        """Settings of JensUn."""

        refusal: str = Field("No idea", min_length=1, description="its tokens are repeated along the answer")
        retain_loss: Literal["jsd", "nll", "kl"] = Field("jsd", description="retain term: JSD to the target, NLL or KL")

    space = {  # noqa: RUF012
        "lr": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3),
        "steps": (40, 60, 100, 150),
        "batch_size": (15, 30),
        "gamma": (0.3, 1.0, 3.0),
        "alpha": (0.1, 0.3, 1.0),
    }
    contract = {"alpha": 0.1}  # noqa: RUF012

    def prepare(self, context: UnlearnContext, model: Any) -> None:
        from unbench.templates import answer_ids

        # As the tokens stand at the start of an answer, which is where they will be generated.
        question = {"role": "user", "content": "?"}
        self.refusal_ids = answer_ids(context.target.tokenizer, [question], self.config.refusal, end=False)[1]

    def forget_loss(self, batch: AnswerBatch) -> Loss:
        import math

        import torch

        from unbench.training.loss import token_logprobs

        place = torch.arange(batch.labels.shape[1], device=batch.labels.device) % len(self.refusal_ids)
        refusal = torch.tensor(self.refusal_ids, device=place.device)[place]  # (length,)
        log_p = token_logprobs(batch.logits, torch.where(batch.answer_mask, refusal, -100))  # (batch, length) nats
        p = log_p.exp()
        values = math.log(2) + (p * log_p - (1 + p) * torch.log1p(p)) / 2
        return Loss.per_token(values, batch.answer_mask)

    def retain_loss(self, batch: AnswerBatch) -> Loss:
        if self.config.retain_loss != "jsd":
            return super().retain_loss(batch)
        from unbench.training.loss import js_divergence

        return Loss.per_token(js_divergence(batch.target_logits(), batch.logits), batch.answer_mask)
