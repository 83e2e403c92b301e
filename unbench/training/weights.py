"""The model that is trained: loaded, made trainable (everything, or a LoRA adapter), saved."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unbench.errors import EnvironmentProblem, UsageError
from unbench.training.batch import AnswerBatch, HiddenOf, LogitsOf, answer_hidden, answer_logits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from unbench.method import TrainSettings, UnlearnContext


def prepare_model(context: UnlearnContext) -> tuple[Any, PreTrainedTokenizerBase]:
    """A fresh copy of the target, ready to train as ``context.train`` says, and its tokenizer.

    Returns a transformers model (full) or a peft model (LoRA) whose trainable parameters alone require gradients;
    LoRA's start depends on the seed only. Raises ``UsageError`` where the model has none of the LoRA targets.
    """
    from transformers import set_seed

    set_seed(context.seed)
    model: Any = context.target.load()
    model = made_trainable(model, context.train)
    context.usage.trainable_parameters = sum(p.numel() for p in trainable(model).values())
    return model, context.target.tokenizer


def made_trainable(model: Any, settings: TrainSettings) -> Any:
    """``model`` with gradients for all weights, or with a LoRA adapter around it whose weights alone have them."""
    return _with_adapter(model, settings) if settings.kind == "lora" else model.requires_grad_(True)


def _with_adapter(model: Any, settings: TrainSettings) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.lora_alpha,
        target_modules=list(settings.targets),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        linear = sorted({n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
        raise UsageError(
            f"This model has no modules named {', '.join(settings.targets)} for LoRA to adapt.",
            f"Choose among: {', '.join(linear)}.",
        ) from error


def trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    """Parameters that training moves, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def save_model(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    """Write a whole model (safetensors) or a peft adapter, with its tokenizer, to ``folder`` and return it.

    Written beside and renamed, so that a killed run never leaves half a model under the final name. The dtype is the
    loaded one.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        extra = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
        model.save_pretrained(str(partial), **extra)
        tokenizer.save_pretrained(str(partial))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    except OSError as error:
        raise EnvironmentProblem(
            f"The model can't be written to {folder}: {error.strerror or error}.",
            "Free some space or choose another --out folder.",
        ) from error
    return folder


class FrozenTarget:
    """The target's logits (called) and hidden states while another copy trains: the same weights with the adapter off
    (LoRA), or one frozen copy that is loaded when first needed (full)."""

    def __init__(self, context: UnlearnContext, model: Any) -> None:
        self._context = context
        self._model = model
        self._copy: Any = None

    def __call__(self, batch: AnswerBatch) -> torch.Tensor:
        with torch.no_grad(), self._frozen() as model:
            return answer_logits(model, batch)

    def hidden(self, batch: AnswerBatch, layer: int) -> torch.Tensor:
        """``answer_hidden`` of the target."""
        with torch.no_grad(), self._frozen() as model:
            return answer_hidden(model, batch, layer)

    @contextmanager
    def _frozen(self) -> Iterator[Any]:
        if hasattr(self._model, "disable_adapter"):
            trained = list(trainable(self._model).values())
            with self._model.disable_adapter():
                yield self._model
            # peft switches the whole adapter on again, what a method holds still too.
            self._model.requires_grad_(False)
            for parameter in trained:
                parameter.requires_grad_(True)
            return
        if self._copy is None:
            model: Any = self._context.target.load()
            self._copy = model.requires_grad_(False).eval()
        yield self._copy


def logits_of(model: Any) -> LogitsOf:
    """``answer_logits`` of one model."""

    def logits(batch: AnswerBatch) -> torch.Tensor:
        return answer_logits(model, batch)

    return logits


def hidden_of(model: Any) -> HiddenOf:
    """``answer_hidden`` of one model."""

    def hidden(batch: AnswerBatch, layer: int) -> torch.Tensor:
        return answer_hidden(model, batch, layer)

    return hidden
