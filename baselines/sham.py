"""A random update as large as gradient ascent's.

    θ_unlearned = θ + ε,  ε_i = ‖Δ_i‖ · z_i / ‖z_i‖,  z_i ~ N(0, I)     for every trained tensor i

Δ_i is what gradient ascent with the same settings and seed adds to tensor i (with LoRA: to the adapter's tensors, from
the same start). A method whose scores sham reaches owes them to damage, not to direction. Gradient ascent is run to
learn the norms, so sham costs the same tokens.
"""

from __future__ import annotations

from unbench_baselines.gradient_ascent import GradientAscent

from unbench.method import Method, MethodCard, UnlearnContext, Unlearned


class Sham(Method):
    """Control: noise of the same norm as gradient ascent's update, tensor by tensor."""

    card = MethodCard(
        name="sham",
        title="Random update of gradient ascent's size",
        kind="control",
        bibtex="",
        summary="Gaussian noise in place of gradient ascent's update: what damage alone does.",
    )

    class Config(GradientAscent.Config):
        """Settings of the gradient ascent whose update is imitated."""

    def unlearn(self, context: UnlearnContext) -> Unlearned:
        import torch

        from unbench.training.loop import train_loss
        from unbench.training.weights import prepare_model, save_model, trainable

        model, tokenizer = prepare_model(context)
        start = {name: p.detach().clone() for name, p in trainable(model).items()}
        train_loss(GradientAscent(self.config), context, model, tokenizer)
        generator = torch.Generator().manual_seed(context.seed)
        with torch.no_grad():
            for name, parameter in trainable(model).items():
                norm = (parameter - start[name]).float().norm()
                noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
                parameter.copy_(start[name] + (noise * (norm / noise.norm())).to(parameter.dtype))
        return Unlearned(weights=save_model(model, tokenizer, context.folder / "model"))
