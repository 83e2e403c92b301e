"""Quantisation: small changes that a method made to the weights may be rounded away.

The weights of every linear layer but the output layer are rounded to the nearest of 2^bits levels, symmetric, in groups
of ``group`` inputs with a scale each: w → s · clamp(round(w / s), −2^(b−1), 2^(b−1) − 1), s = max|w| / (2^(b−1) − 1).
The same is done to the target, whose κ then is what "all of it" means. Zhang et al. 2024 (arXiv:2410.16454): 21 % of
the knowledge kept in full precision, 83 % at 4 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from unbench.attack import Attack, AttackCard, AttackConfig, AttackContext

if TYPE_CHECKING:
    import torch

BIBTEX = """@article{zhang2024catastrophic,
  title = {Catastrophic Failure of {LLM} Unlearning via Quantization},
  author = {Zhang, Zhiwei and Wang, Fali and Li, Xiaomin and Wu, Zongyu and Tang, Xianfeng and Liu, Hui and He, Qi and
    Yin, Wenpeng and Wang, Suhang},
  year = {2024},
  eprint = {2410.16454},
  archivePrefix = {arXiv}
}"""


class Quantize(Attack):
    """Rounds the weights to 8 and 4 bits."""

    card = AttackCard(
        name="quantize",
        title="Quantisation",
        kind="weights",
        paper="arXiv:2410.16454",
        year=2024,
        bibtex=BIBTEX,
        summary="Rounds the weights of the linear layers to 8 and 4 bits.",
    )
    default = True
    on_target = True

    class Config(AttackConfig):
        """Settings of quantisation."""

        bits: tuple[int, ...] = Field((8, 4), min_length=1, description="bits a weight")
        group: int = Field(128, ge=1, description="inputs that share a scale")

    def attack(self, context: AttackContext) -> None:
        for bits in self.config.bits:
            model = context.load_model()
            quantize_model(model, bits, self.config.group)
            # Fewer bits are the stronger attack.
            context.ask(32 / bits, series=f"{bits} bits", model=model)


def quantize_model(model: Any, bits: int, group: int) -> None:
    """Round every linear layer's weights in place; embeddings and the output layer stay (as bitsandbytes has it)."""
    import torch

    head = model.get_output_embeddings()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear) and module is not head:
                module.weight.copy_(rounded(module.weight, bits, group))


def rounded(weight: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """``weight`` (out, in) rounded to the nearest level of its group along ``in``; the last group may be shorter."""
    import torch

    most = 2 ** (bits - 1) - 1
    pieces = []
    for piece in torch.split(weight.float(), group, dim=1):
        scale = piece.abs().amax(dim=1, keepdim=True) / most
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        pieces.append((piece / scale).round().clamp(-most - 1, most) * scale)
    return torch.cat(pieces, dim=1).to(weight.dtype)
