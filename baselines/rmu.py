"""RMU: the forget answers' hidden states are driven to a random direction.

    L = γ (1/d) ‖h_ℓ(t) − c·u‖² + α (1/d) ‖h_ℓ(t) − h_ℓ⁰(t)‖²         per answer token, forget and retain

h_ℓ(t) what decoder layer ℓ hands on at answer token t, h_ℓ⁰ the same of the target, d their width; u a unit vector
along U[0, 1)^d, drawn once by the seed. Li et al. 2024 (WMDP). Only the MLP's down projection of layers ℓ−2, ℓ−1 and ℓ
is trained, as in their code (layers 5, 6, 7 of 32: ℓ = ⌊7 · layers / 32⌋); with LoRA the adapter in these layers,
whatever it adapts. c = 2 and γ = α = 1 as open-unlearning's experiments on TOFU; WMDP's c and α depend on the model
(6.5 to 300, 100 to 1200).

Tokens: WMDP takes every token of a text; open-unlearning the answer's tokens at the places where they are read. Here
it is the places where the answer's tokens are predicted, the last of the prompt among them, as for every other method:
there the model decides what to say. The mean runs over all answer tokens of a step, not over means of sequences.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from unbench.errors import UsageError
from unbench.method import Loss, LossConfig, LossMethod, MethodCard, UnlearnContext

if TYPE_CHECKING:
    import torch

    from unbench.training.batch import AnswerBatch

BIBTEX = """@inproceedings{li2024wmdp,
  title = {The {WMDP} Benchmark: Measuring and Reducing Malicious Use with Unlearning},
  author = {Li, Nathaniel and Pan, Alexander and Gopal, Anjali and others},
  booktitle = {International Conference on Machine Learning},
  year = {2024},
  eprint = {2403.03218},
  archivePrefix = {arXiv}
}"""
_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


class RMU(LossMethod):
    """Noise in the middle of the network where the forget answers pass, nothing moved elsewhere."""

    card = MethodCard(
        name="rmu",
        title="Representation misdirection for unlearning",
        kind="representation",
        bibtex=BIBTEX,
        paper="arXiv:2403.03218",
        year=2024,
        summary="Drives a layer's states on forget answers to a random direction, holds them on retain answers.",
    )

    class Config(LossConfig):
        """Settings of RMU."""

        c: float = Field(2.0, gt=0, description="length of the vector that states are driven to (TOFU runs)")
        layer: int | None = Field(None, ge=0, description="ℓ, from 0; none: ⌊7 · layers / 32⌋, WMDP's place")
        trained: str = Field(
            r"mlp\.down_proj", description="pattern of the parameters that full training moves in layers ℓ−2 to ℓ"
        )
        retain_loss: Literal["hidden", "nll", "kl"] = Field(
            "hidden", description="retain term: hidden states held to the target's, NLL or KL"
        )

    needs = frozenset({"target_hidden"})
    space = {  # noqa: RUF012
        "lr": [1e-4, 2e-4, 5e-4, 1e-3, 2e-3],
        "steps": [20, 40, 60, 100, 150],
        "batch_size": [15, 30],
        "gamma": [0.25, 0.5, 1.0, 2.0, 4.0],
        "c": [2.0, 5.0, 10.0, 20.0, 50.0],
        "layer": [0, 1, 2],
        "trained": [r"mlp\.down_proj", "."],
    }
    contract = {"layer": 1, "c": 20.0, "trained": "."}  # noqa: RUF012

    def prepare(self, context: UnlearnContext, model: Any) -> None:
        import torch

        from unbench.training.weights import trainable

        layers, width = model.config.num_hidden_layers, model.config.hidden_size
        self.layer = 7 * layers // 32 if self.config.layer is None else self.config.layer
        if self.layer >= layers:
            raise UsageError(f"There is no layer {self.layer}: the model has {layers}.", "Try --set layer=…, from 0.")
        u = torch.rand(width, generator=torch.Generator().manual_seed(context.seed), dtype=torch.float64)
        self.goal = self.config.c * u / u.norm()  # (d,)
        for name, parameter in trainable(model).items():
            parameter.requires_grad = self._moves(name)
        context.usage.trainable_parameters = sum(p.numel() for p in trainable(model).values())
        if not context.usage.trainable_parameters:
            raise UsageError(
                f"Layers {max(0, self.layer - 2)} to {self.layer} have no parameter like {self.config.trained!r}.",
                "Name one with --set trained=…, '.' for all.",
            )

    def _moves(self, name: str) -> bool:
        place = _LAYER.search(name)
        if place is None or not self.layer - 2 <= int(place[1]) <= self.layer:
            return False
        return "lora_" in name or re.search(self.config.trained, name) is not None

    def forget_loss(self, batch: AnswerBatch) -> Loss:
        states = batch.hidden(self.layer)  # (batch, length, d)
        return Loss.per_token(mean_square(states, self.goal.to(states.device)), batch.answer_mask)

    def retain_loss(self, batch: AnswerBatch) -> Loss:
        if self.config.retain_loss != "hidden":
            return super().retain_loss(batch)
        states, before = batch.hidden(self.layer), batch.target_hidden(self.layer)
        return Loss.per_token(mean_square(states, before), batch.answer_mask)


def mean_square(states: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """Mean over the width of (states − goal)²: (batch, length, d), and the same or (d,), give (batch, length), in at
    least float32."""
    from unbench.training.loss import wide

    states = wide(states)
    return (states - goal.to(states.dtype)).square().mean(-1)
