"""Task vectors: what fine-tuning on the forget answers adds is taken away.

    θ_unlearned = θ − λ (θ_forget − θ),   θ_forget: the target fine-tuned on the forget rows by plain NLL

Ilharco et al. 2023, "forgetting via negation"; λ = 1. With LoRA the update is s B A, from B = 0, so the adapter with
−λ B in B's place is −λ times the update, and peft loads it like any other. There is no retain term. Steps and rate are
TOFU's: 60 steps, lr 1e-5.
"""

from __future__ import annotations

from pydantic import Field

from unbench.method import Method, MethodCard, MethodConfig, UnlearnContext, Unlearned

BIBTEX = """@inproceedings{ilharco2023editing,
  title = {Editing Models with Task Arithmetic},
  author = {Ilharco, Gabriel and Ribeiro, Marco Tulio and Wortsman, Mitchell and Gururangan, Suchin and
    Schmidt, Ludwig and Hajishirzi, Hannaneh and Farhadi, Ali},
  booktitle = {International Conference on Learning Representations},
  year = {2023},
  eprint = {2212.04089},
  archivePrefix = {arXiv}
}"""


class TaskVector(Method):
    """The step towards the forget answers, walked backwards."""

    card = MethodCard(
        name="task_vector",
        title="Task vector negation",
        kind="gradient",
        bibtex=BIBTEX,
        paper="arXiv:2212.04089",
        year=2022,
        summary="Fine-tunes on forget answers, then subtracts the change of the weights.",
    )

    class Config(MethodConfig):
        """Settings of task vectors."""

        scale: float = Field(1.0, gt=0, description="λ: how many times the vector is subtracted (Ilharco et al.)")
        steps: int = Field(60, ge=1, description="optimiser steps of the fine-tuning")
        lr: float = Field(1e-5, gt=0, description="peak learning rate (AdamW, linear warm-up then linear decay)")
        batch_size: int = Field(32, ge=1, description="forget rows a step")
        warmup: float = Field(0.1, ge=0, le=1, description="share of the steps that warm up")
        weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay; the vector holds no decay by default")
        max_grad_norm: float = Field(1.0, gt=0, description="gradient clipping")

    space = {  # noqa: RUF012
        "lr": [1e-4, 2e-4, 5e-4, 1e-3, 2e-3],
        "steps": [20, 40, 60, 100, 150],
        "batch_size": [15, 30],
        "scale": [0.5, 1.0, 2.0, 4.0, 8.0],
    }
    contract = {"scale": 8.0}  # noqa: RUF012

    def unlearn(self, context: UnlearnContext) -> Unlearned:
        import torch

        from unbench.training.batch import TrainRow
        from unbench.training.loop import fine_tune
        from unbench.training.weights import prepare_model, save_model, trainable

        model, tokenizer = prepare_model(context)
        lora = context.train.kind == "lora"
        start = {} if lora else {name: p.detach().clone() for name, p in trainable(model).items()}
        rows = [TrainRow.ask(row["question"], row["answer"]) for row in context.forget]
        settings = self.config.model_dump(exclude={"scale"})
        fine_tune(model, tokenizer, rows, seed=context.seed, context=context, **settings)
        with torch.no_grad():
            for name, parameter in trainable(model).items():
                if not lora:
                    parameter.copy_(start[name] - self.config.scale * (parameter - start[name]))
                elif "lora_B" in name:
                    parameter.mul_(-self.config.scale)
        return Unlearned(weights=save_model(model, tokenizer, context.folder / "model"))
