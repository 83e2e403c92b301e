"""The one training code, for attacks: a copy of the model is fine-tuned on rows and asked again along the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from unbench.attack import AttackContext
from unbench.method import UnlearnContext

if TYPE_CHECKING:
    from unbench.task import Row

Asks = Callable[[int, Any], object]
"""Told the optimiser steps done and the model in memory."""


def fine_tune_asking(
    context: AttackContext,
    rows: Sequence[Row],
    *,
    at: Sequence[int],
    lr: float,
    batch_size: int,
    asks: Asks,
) -> None:
    """Fine-tune a fresh copy of the model under attack on rows (NLL of the answers, AdamW at a constant rate after a
    short warm-up; in full or by LoRA as the run trained) and call ``asks`` after each number of steps in ``at``.

    ``lr``: peak learning rate; ``batch_size``: rows a step, at most all of them.
    """
    from transformers import TrainerCallback, set_seed

    from unbench.training.batch import TrainRow
    from unbench.training.loop import fine_tune
    from unbench.training.weights import made_trainable

    class Asking(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step in at:
                asks(int(state.global_step), model)

    set_seed(context.seed)
    model = made_trainable(context.load_model(), context.train)
    fine_tune(
        model, context.tokenizer, [TrainRow.ask(row.question, row.answer) for row in rows], steps=max(at), lr=lr,
        batch_size=batch_size, seed=context.seed, context=_unlearn_context(context), warmup=min(0.1, 2 / max(at)),
        decay=False, weight_decay=0.0, description="train", callbacks=[Asking()],
    )  # fmt: skip


def _unlearn_context(context: AttackContext) -> UnlearnContext:
    """What the shared training code reads of a method's context."""
    from datasets import Dataset

    nothing: Any = Dataset.from_dict({})

    @contextmanager
    def no_engine() -> Iterator[Any]:
        raise NotImplementedError("an attack's training asks through its own context")
        yield

    class NoTarget:
        @property
        def path(self) -> Any:
            return context.folder

        def load(self) -> Any:
            return context.load_model()

        @property
        def tokenizer(self) -> Any:
            return context.tokenizer

    return UnlearnContext(
        target=NoTarget(), forget=nothing, retain=nothing, seed=context.seed, train=context.train,
        folder=context.folder, open_engine=no_engine, progress=context.progress, device=context.device,
        batch_size=context.batch_size,
    )  # fmt: skip
