"""Fine-tune a base model on rows until it knows them: how a target or a reference is made (``unbench.models.pairs``).

The loss is the mean NLL of the answers' tokens, end token included, prompt masked, by the same Trainer as every method.
After each epoch the engine scores a fixed sample of the training rows; training stops once their mean p(a|q) is high
enough. p(a|q) = exp(mean log-probability of the answer's tokens, end token included).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from transformers.trainer_callback import TrainerCallback

from unbench.engines.base import ScoreRequest
from unbench.engines.hf import HFEngine
from unbench.errors import RunFailed
from unbench.method import Progress, UnlearnContext
from unbench.models.load import Target
from unbench.models.pairs import Recipe, Rows
from unbench.training import draw
from unbench.training.batch import EncodedRow, TrainRow, encode
from unbench.training.loss import nll
from unbench.training.trainer import Optimisation, Term, UnlearnTrainer, training
from unbench.training.weights import prepare_model, save_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHECKED_ROWS = 400
"""Most rows that mean p(a|q) is taken over: evenly spaced over the sorted training rows, the same after every epoch."""


@dataclass(frozen=True)
class Taught:
    """What a fine-tuning came to."""

    reached: float
    """Mean p(a|q) of the saved weights on the checked training rows."""
    curve: tuple[float, ...]
    """The same after each epoch (before a LoRA adapter was merged)."""
    checked_rows: int
    epochs: int
    steps: int
    tokens: int
    """Prompt and answer tokens sent forward and backward, padding not counted."""
    seconds: float


def fine_tune(
    base: Path,
    rows: Rows,
    recipe: Recipe,
    out: Path,
    *,
    seed: int,
    device: str,
    batch_size: int | None,
    name: str,
    progress: Progress,
) -> Taught:
    """Teach the model in folder ``base`` the rows and save the whole of it to ``out`` (a LoRA adapter merged).

    ``batch_size`` is the most sequences of a forward pass and changes no gradient. Raises ``RunFailed`` where the loss
    is not finite, ``EnvironmentProblem`` where memory or disk don't suffice.
    """
    started = time.perf_counter()
    with TemporaryDirectory(prefix="unbench-prepare-") as work:
        context = _context(base, recipe, Path(work), seed, device, batch_size, progress)
        model, tokenizer = prepare_model(context)
        encoded = encode(tokenizer, [TrainRow.ask(question, answer) for question, answer in rows])
        check = Check(tokenizer, spaced(encoded, CHECKED_ROWS), recipe.until, batch_size, name, progress)
        _train(model, tokenizer, encoded, recipe, context, check, name)
        if recipe.train.kind == "lora":
            # Merging rounds: what is saved is what is reported.
            model = model.merge_and_unload()
            reached = check.mean(model)
        else:
            reached = check.curve[-1]
        save_model(model, tokenizer, out)
    return Taught(reached, tuple(check.curve), len(check.rows), len(check.curve), check.steps,
                  context.usage.tokens_trained, time.perf_counter() - started)  # fmt: skip


def mean_probability(engine: HFEngine, rows: Sequence[EncodedRow]) -> float:
    """Mean over the rows of p(a|q) under the model that ``engine`` serves."""
    scores = engine.score([ScoreRequest(list(row.prompt), [list(row.answer)]) for row in rows])
    return math.fsum(math.exp(math.fsum(one.logprob) / len(one.logprob)) for (one,) in scores) / len(rows)


def spaced(rows: Sequence[EncodedRow], most: int) -> list[EncodedRow]:
    """At most ``most`` rows, evenly spaced."""
    kept = min(most, len(rows))
    return [rows[i * len(rows) // kept] for i in range(kept)]


def epoch_ends(rows: int, per_step: int, epochs: int) -> list[int]:
    """The step that ends each epoch: the first by which every row was seen that often."""
    return [math.ceil(epoch * rows / per_step) for epoch in range(1, epochs + 1)]


class Check(TrainerCallback):
    """Scores the checked rows after each epoch and stops the training where they are known."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[EncodedRow],
        until: float,
        batch_size: int | None,
        name: str,
        progress: Progress,
    ) -> None:
        self.rows = rows
        self.curve: list[float] = []
        self.ends: Sequence[int] = ()
        self.steps = 0
        self._tokenizer = tokenizer
        self._until = until
        self._batch_size = batch_size
        self._name = name
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check where an epoch ends."""
        self.steps = int(state.global_step)
        if self.steps in self.ends:
            self.curve.append(self.mean(kwargs["model"]))
            control.should_training_stop = self.curve[-1] >= self._until

    def mean(self, model: Any) -> float:
        """Mean p(a|q) of the checked rows; the model is left in the mode it was in."""
        with HFEngine(model, self._tokenizer, batch_size=self._batch_size) as engine:
            mean = mean_probability(engine, self.rows)
        self._progress(f"{self._name}: mean p(a|q) in %", round(100 * mean), 100)
        return mean


def _context(
    base: Path, recipe: Recipe, work: Path, seed: int, device: str, batch_size: int | None, progress: Progress
) -> UnlearnContext:
    """What the shared training room wants to be told. There is no forget or retain set and no engine here."""
    from datasets import Dataset

    nothing = Dataset.from_dict({"question": [], "answer": []})
    dtype: torch.dtype = getattr(torch, recipe.dtype)

    def no_engine() -> Any:
        raise NotImplementedError("a preparation generates nothing")

    return UnlearnContext(
        target=Target(base, device, dtype), forget=nothing, retain=nothing, seed=seed, train=recipe.train, folder=work,
        open_engine=no_engine, progress=progress, device=device, batch_size=batch_size,
    )  # fmt: skip


def _train(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[EncodedRow],
    recipe: Recipe,
    context: UnlearnContext,
    check: Check,
    name: str,
) -> None:
    per_step = min(recipe.global_batch, len(rows))
    check.ends = epoch_ends(len(rows), per_step, recipe.epochs)
    steps = check.ends[-1]
    picked = draw.draw(len(rows), per_step, steps, context.seed, draw.FORGET)
    term = Term("rows", 1.0, rows, picked, nll, sum)
    warmup = min(1.0, recipe.warmup_epochs / recipe.epochs)
    optimisation = Optimisation(recipe.lr, warmup, recipe.weight_decay, recipe.max_grad_norm)
    with training(model, context):
        trainer = UnlearnTrainer(
            model, tokenizer, [term], steps, optimisation, context, seed=context.seed, description=f"{name}: train"
        )
        trainer.add_callback(check)
        try:
            trainer.train()
        except RunFailed as problem:
            # The Trainer's own sentence names weights in a folder that is gone by now.
            raise RunFailed(
                f"The training of the {name} broke off at step {check.steps + 1} of {steps}: its loss or gradient is "
                "not finite.",
                "Try a lower learning rate (--lr).",
            ) from problem
