"""A thin subclass of transformers' Trainer: one item of its data set is one whole optimiser step.

Knowing the whole step before the first forward pass, it divides every term of the loss by that term's own count over
the step (all micro-batches, all processes). So neither the size of a micro-batch nor the number of processes changes a
gradient, and running out of memory costs a retry of the step with smaller pieces, nothing else.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback

from unbench.errors import RunFailed
from unbench.method import Loss
from unbench.training.batch import AnswerBatch, EncodedRow, LogitsOf, answer_logits
from unbench.training.memory import MicroBatch, split
from unbench.training.weights import logits_of, save_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from unbench.method import UnlearnContext

LOGGED = 200
"""About as many entries of the learning curve are kept, however long a run is."""
CHECKPOINTED_ABOVE = 1_000_000_000
"""Parameters above which activations are recomputed on a GPU to save its memory; never on the CPU."""


@dataclass(frozen=True)
class Term:
    """One term of the loss: weight · Σ loss(rows) / Σ count(rows), over the rows that a step takes from ``rows``."""

    name: str
    weight: float
    rows: Sequence[EncodedRow]
    steps: Sequence[tuple[int, ...]]
    """Numbers of the rows that each optimiser step takes."""
    loss: Callable[[AnswerBatch], Loss]
    count: Callable[[Sequence[int]], int]
    """Global count from the answer lengths of a step's rows; equals the sum of the ``Loss.count`` of its pieces."""
    target_logits: LogitsOf | None = None

    def at(self, step: int) -> list[EncodedRow]:
        """Rows of one step."""
        return [self.rows[i] for i in self.steps[step]]


@dataclass(frozen=True)
class Optimisation:
    """AdamW with linear warm-up, then linear decay. ``warmup`` is a share of the steps."""

    lr: float
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

    def factor(self, step: int, steps: int) -> float:
        """Share of the peak rate at ``step`` (from 0): no step is wasted at rate 0, at either end."""
        warm = round(self.warmup * steps)
        if step < warm:
            return (step + 1) / (warm + 1)
        return max(0.0, (steps - step) / max(1, steps - warm))


class _Recorder(TrainerCallback):
    """Tells the trainer, by the public hook, that an optimiser step is done."""

    def __init__(self, trainer: UnlearnTrainer) -> None:
        self._trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.record(state.global_step)


class UnlearnTrainer(Trainer):
    """Trains ``model`` on ``terms``. Raises ``RunFailed`` at a loss or gradient that is not finite (the weights before
    that step lie in ``context.folder / "last-good"``), ``EnvironmentProblem`` where not one sequence fits."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        terms: Sequence[Term],
        steps: int,
        optimisation: Optimisation,
        context: UnlearnContext,
        *,
        seed: int,
        description: str,
    ) -> None:
        super().__init__(model=model, args=_arguments(context, steps, optimisation, seed), train_dataset=range(steps))
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        # The batches are whole steps already, so there is nothing for the Trainer to scale.
        self.loss_is_scaled_for_ga = True
        self.terms = terms
        self.steps = steps
        self.optimisation = optimisation
        self.context = context
        self.description = description
        self.micro = MicroBatch(context.batch_size)
        self._tokenizer = tokenizer
        self._pad_id = _pad_id(tokenizer)
        self._last: dict[str, float] = {}
        self.add_callback(_Recorder(self))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Step numbers in order. Not sharded: each process takes its share of every step (``training_step``)."""
        return DataLoader(range(self.steps), batch_size=1, shuffle=False, collate_fn=_only)  # type: ignore[arg-type]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Linear warm-up and decay (``Optimisation.factor``)."""
        if self.lr_scheduler is None:
            moved: Any = optimizer or self.optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                moved, lambda step: self.optimisation.factor(step, num_training_steps)
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward passes of one optimiser step; returns its loss (detached scalar)."""
        model.train()
        step = int(inputs["step"])
        largest = max(len(term.steps[step]) for term in self.terms)
        losses = self.micro.run(lambda size: self.accumulate(model, step, size), largest, reset=model.zero_grad)
        self.context.batch_size = self.micro.size if self.micro.size < largest else self.context.batch_size
        total = math.fsum(term.weight * losses[term.name] for term in self.terms)
        if not math.isfinite(total):
            self._stop("loss", step)
        # Clipped here, not by the Trainer: an infinite gradient must stop the run before the optimiser moves.
        norm = float(self.accelerator.clip_grad_norm_(model.parameters(), self.optimisation.max_grad_norm))
        if not math.isfinite(norm):
            self._stop("gradient", step)
        self._last = {"loss": total, **losses, "grad_norm": norm}
        return torch.tensor(total, device=self.args.device)

    def accumulate(self, model: Any, step: int, size: int) -> dict[str, float]:
        """Gradients of one step in pieces of ``size`` rows; the value of each term over all processes."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        pieces: list[tuple[Term, int, list[EncodedRow]]] = []
        for term in self.terms:
            rows = term.at(step)
            count = max(1, term.count([len(row.answer) for row in rows]))
            if len(rows) < processes:
                raise RunFailed(f"A step of {len(rows)} rows can't be shared by {processes} processes.",
                                "Raise batch_size or lower --num-processes.")  # fmt: skip
            pieces += [(term, count, piece) for piece in split(rows[rank::processes], size)]
        sums = {term.name: torch.zeros((), device=self.args.device, dtype=torch.float64) for term in self.terms}
        counted = dict.fromkeys(sums, 0)
        for number, (term, count, piece) in enumerate(pieces):
            last = number == len(pieces) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                loss = self._term_loss(model, term, piece)
                # Gradients are averaged over processes, so that each must weigh its share by their number.
                self.accelerator.backward(loss.sum * (term.weight / count * processes))
            sums[term.name] += loss.sum.detach().double() / count
            counted[term.name] += loss.count
        if processes == 1:
            self._check_counts(step, counted)
        return {name: float(self.accelerator.reduce(value, reduction="sum")) for name, value in sums.items()}

    def _term_loss(self, model: Any, term: Term, rows: Sequence[EncodedRow]) -> Loss:
        return term.loss(
            AnswerBatch(rows, logits_of(model), term.target_logits, pad_id=self._pad_id, device=self.args.device)
        )

    def _check_counts(self, step: int, counted: dict[str, int]) -> None:
        for term in self.terms:
            expected = term.count([len(row.answer) for row in term.at(step)])
            if counted[term.name] != expected:
                raise RunFailed(
                    f"The {term.name} loss counted {counted[term.name]} where the step holds {expected}; a batch split "
                    "would change its gradient.",
                    "Set the method's `normaliser`, or override `forget_count`, to what its loss counts.",
                )

    def _stop(self, what: str, step: int) -> None:
        """The optimiser has not moved yet: the weights are those before this step."""
        folder = self.context.folder / "last-good"
        if self.is_world_process_zero():
            save_model(self.accelerator.unwrap_model(self.model), self._tokenizer, folder)
        self.context.usage.losses.append({"step": float(step)})
        raise RunFailed(
            f"The {what} is not finite at step {step + 1} of {self.steps}; the weights before it are kept in {folder}.",
            "Try a lower learning rate (--set lr=…).",
        )

    def record(self, done: int) -> None:
        """After an optimiser step: usage, learning curve, progress."""
        usage = self.context.usage
        usage.tokens_trained += step_tokens(self.terms, done - 1)
        if (done - 1) % math.ceil(self.steps / LOGGED) == 0 or done == self.steps:
            rate = self.optimisation.lr * self.optimisation.factor(done - 1, self.steps)
            usage.losses.append({"step": float(done), **self._last, "lr": rate})
        self.context.progress(self.description, done, self.steps)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: the budget is in tokens."""
        return 0


def step_tokens(terms: Sequence[Term], step: int) -> int:
    """Prompt and answer tokens that a step trains on, padding not counted."""
    return sum(row.tokens for term in terms for row in term.at(step))


@contextlib.contextmanager
def training(model: Any, context: UnlearnContext) -> Iterator[None]:
    """What the Trainer changes about a model or the process, changed back; the same bits twice on a GPU too."""
    config = getattr(model, "config", None)
    use_cache = getattr(config, "use_cache", None)
    was_training = model.training
    on_gpu = context.device.startswith("cuda")
    modes = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    recompute = on_gpu and sum(p.numel() for p in model.parameters()) > CHECKPOINTED_ABOVE
    if on_gpu:
        torch.use_deterministic_algorithms(True, warn_only=True)
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        yield
    finally:
        if recompute:
            model.gradient_checkpointing_disable()
        torch.use_deterministic_algorithms(modes[0], warn_only=modes[1])
        model.train(was_training)
        model.zero_grad(set_to_none=True)
        if config is not None and use_cache is not None:
            # Saved as it came: a config without the cache would slow every later generation.
            config.use_cache = use_cache


def _arguments(context: UnlearnContext, steps: int, optimisation: Optimisation, seed: int) -> TrainingArguments:
    args = TrainingArguments(
        output_dir=str(context.folder / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=1,
        learning_rate=optimisation.lr,
        weight_decay=optimisation.weight_decay,
        max_grad_norm=0.0,
        seed=seed,
        use_cpu=context.device == "cpu",
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    # Several visible GPUs without a launcher would make the Trainer wrap the model in DataParallel.
    if args.n_gpu > 1:
        args._n_gpu = 1
    return args


def _only(items: list[int]) -> dict[str, int]:
    return {"step": items[0]}


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    for value in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(value, int):
            return value
    return 0


def target_logprobs(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[EncodedRow], context: UnlearnContext
) -> list[EncodedRow]:
    """The rows with the target's token log-probabilities, read off ``model`` before any training (an adapter that
    hasn't moved adds nothing)."""
    micro = MicroBatch(context.batch_size)
    was_training = model.training
    model.eval()

    def read(size: int) -> dict[int, torch.Tensor]:
        found: dict[int, torch.Tensor] = {}
        for piece in split(rows, size):
            batch = AnswerBatch(
                piece, lambda b: answer_logits(model, b), pad_id=_pad_id(tokenizer), device=context.device
            )
            values = batch.token_logprobs().cpu()
            found |= {id(row): values[i, : len(row.answer)].clone() for i, row in enumerate(piece)}
        return found

    with torch.no_grad():
        values = micro.run(read, len(rows))
    model.train(was_training)
    return [EncodedRow(row.prompt, row.answer, row.weight, values[id(row)]) for row in rows]
