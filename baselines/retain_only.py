"""Fine-tuning on the retain set alone: does time spent on something else forget anything?

    L = nll(retain)                                                   per answer token

One step takes ``batch_size`` retain rows and no forget row. The default is twice the 32 of the other methods, which
put 32 forget rows and 32 retain rows into a step: about the same budget of tokens. As "finetune" it is a usual control
(e.g. Golatkar et al. 2020, "Finetune"). Learning rate, warm-up and weight decay are TOFU's (arXiv:2401.06121).
"""

from __future__ import annotations

from pydantic import Field

from unbench.method import Method, MethodCard, MethodConfig, UnlearnContext, Unlearned

BIBTEX = """@inproceedings{golatkar2020eternal,
  title = {Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep Networks},
  author = {Golatkar, Aditya and Achille, Alessandro and Soatto, Stefano},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2020}
}"""


class RetainOnly(Method):
    """Control: plain fine-tuning on the retain rows, the forget rows never seen."""

    card = MethodCard(
        name="retain_only",
        title="Fine-tuning on the retain set alone",
        kind="control",
        bibtex=BIBTEX,
        paper="arXiv:1911.04933",
        year=2020,
        summary="Forgetting by time alone, on the same budget of tokens.",
        needs=("retain",),
    )

    class Config(MethodConfig):
        """Settings of the control."""

        steps: int = Field(60, ge=1, description="optimiser steps")
        lr: float = Field(1e-5, gt=0, description="peak learning rate (AdamW, linear warm-up then linear decay)")
        batch_size: int = Field(64, ge=1, description="retain rows a step")
        warmup: float = Field(0.1, ge=0, le=1, description="share of the steps that warm up")
        weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay")
        max_grad_norm: float = Field(1.0, gt=0, description="gradient clipping")

    tuned = {"nano": {"steps": 60, "lr": 1e-4}}  # noqa: RUF012

    def unlearn(self, context: UnlearnContext) -> Unlearned:
        from unbench.training.batch import TrainRow
        from unbench.training.loop import fine_tune
        from unbench.training.weights import prepare_model, save_model

        model, tokenizer = prepare_model(context)
        rows = [TrainRow.ask(row["question"], row["answer"]) for row in context.retain]
        fine_tune(model, tokenizer, rows, seed=context.seed, context=context, **self.config.model_dump())
        return Unlearned(weights=save_model(model, tokenizer, context.folder / "model"))
