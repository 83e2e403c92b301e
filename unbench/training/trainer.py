"""A thin subclass of transformers' Trainer: one item of its data set is one whole optimiser step.

Knowing the whole step before the first forward pass, it divides every term of the loss by that term's own count over
the step (all micro-batches, all processes). So neither the size of a micro-batch nor the number of processes changes a
gradient, and running out of memory costs a retry of the step with smaller pieces, nothing else.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback

from unbench.errors import RunFailed, UsageError
from unbench.method import Loss
from unbench.training.batch import AnswerBatch, EncodedRow, HiddenOf, LogitsOf, answer_logits
from unbench.training.keep import Keeper
from unbench.training.memory import MicroBatch, split
from unbench.training.nearby import uphill
from unbench.training.settings import check_reporter, curve_folder
from unbench.training.watch import RetainWatch, watched_rows
from unbench.training.weights import hidden_of, logits_of, save_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from unbench.method import LossMethod, UnlearnContext

LOGGED = 5000
"""Most entries of the learning curve that a training keeps: every step, unless there are more."""
CHECKPOINTED_ABOVE = 1_000_000_000
"""Parameters above which activations are recomputed on a GPU to save its memory, where nobody said."""


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
    target_hidden: HiddenOf | None = None
    radius: float = 0.0
    """ρ: the gradient is taken at θ + ρ g/‖g‖ over all trained weights, g the term's own gradient of the whole step at
    θ; 0 is plain. Such a term comes first."""

    def at(self, step: int) -> list[EncodedRow]:
        """Rows of one step."""
        return [self.rows[i] for i in self.steps[step]]


@dataclass(frozen=True)
class Optimisation:
    """AdamW with linear warm-up, then linear decay (none where ``decay`` is False). ``warmup`` is a share of the
    steps."""

    lr: float
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    decay: bool = True

    def factor(self, step: int, steps: int) -> float:
        """Share of the peak rate at ``step`` (from 0): no step is wasted at rate 0, at either end."""
        warm = round(self.warmup * steps)
        if step < warm:
            return (step + 1) / (warm + 1)
        return max(0.0, (steps - step) / max(1, steps - warm)) if self.decay else 1.0


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
        method: LossMethod | None = None,
    ) -> None:
        super().__init__(model=model, args=_arguments(context, steps, optimisation, seed), train_dataset=range(steps))
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise UsageError("UnBench's processes each hold the whole model: it can't be sharded (FSDP, DeepSpeed).",
                             "Start them without, and with --train lora if memory is short.")  # fmt: skip
        # Not wrapped: a step adds up the processes' gradients itself (``share_gradients``). A wrapper would hold a
        # second copy of them, and wait in a forward pass for processes that have no rows.
        self.accelerator.prepare_model = _as_it_is
        # The batches are whole steps already, so there is nothing for the Trainer to scale.
        self.loss_is_scaled_for_ga = True
        self.terms = terms
        self.steps = steps
        self.optimisation = optimisation
        self.context = context
        self.description = description
        self.method = method
        self.micro = MicroBatch(context.batch_size)
        self._tokenizer = tokenizer
        self._pad_id = _pad_id(tokenizer)
        self._last: dict[str, float] = {}
        self._uphill: tuple[torch.Tensor | None, ...] = ()
        self._start = 0
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                callback.logging_dir = str(curve_folder(context.folder / "tensorboard", description))
        self.add_callback(_Recorder(self))
        self._watch: RetainWatch | None = None
        # A training without a retain term of a method that is no loss is a means (a reinforced model, a task vector).
        watched = method is not None or any(term.name == "retain" for term in terms)
        if watched and context.max_retain_rise is not None:
            self._watch = RetainWatch(self, watched_rows(context, tokenizer), context.max_retain_rise, self._pad_id)
            self.add_callback(self._watch)
        self._keeper: Keeper | None = None
        if context.checkpoints is not None:
            self._keeper = Keeper(self, context.checkpoints.next())
            self.add_callback(self._keeper)

    def train(self, *args: Any, **options: Any) -> Any:
        """All steps; those that a checkpoint holds are not repeated. None where nothing was left to do."""
        spent = self._watch is not None and self._watch.begin()
        saved = self._keeper.begin() if self._keeper else None
        if spent or (saved is not None and saved.done):
            return None
        self._start = saved.step if saved else 0
        done = super().train(*args, **options)
        if self._keeper:
            self._keeper.end()
        return done

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Step numbers in order. Not sharded: each process takes its share of every step (``training_step``)."""
        return DataLoader(range(self._start, self.steps), batch_size=1, shuffle=False, collate_fn=_only)  # type: ignore[arg-type]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Linear warm-up and decay (``Optimisation.factor``)."""
        if self.lr_scheduler is None:
            moved: Any = optimizer or self.optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                moved, lambda step: self.optimisation.factor(self._start + step, num_training_steps)
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward passes of one optimiser step; returns its loss (detached scalar)."""
        model.train()
        step = int(inputs["step"])
        largest = math.ceil(max(len(term.steps[step]) for term in self.terms) / self.accelerator.num_processes)
        losses = self.micro.run(lambda size: self.accumulate(model, step, size), largest, reset=model.zero_grad)
        self.context.batch_size = self.micro.size if self.micro.size < largest else self.context.batch_size
        weights = self.weights(step)
        total = math.fsum(weights[name] * losses[name] for name in weights)
        if not math.isfinite(total):
            self._stop("loss", step)
        # Clipped here, not by the Trainer: an infinite gradient must stop the run before the optimiser moves.
        norm = float(self.accelerator.clip_grad_norm_(model.parameters(), self.optimisation.max_grad_norm))
        if not math.isfinite(norm):
            self._stop("gradient", step)
        self._last = {"loss": total, **losses, "grad_norm": norm}
        if self.method is not None:
            self.method.observe(step, losses)
        return torch.tensor(total, device=self.args.device)

    def accumulate(self, model: Any, step: int, size: int) -> dict[str, float]:
        """Gradients of one step in pieces of ``size`` rows; the value of each term over all processes."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        found = {term.name: torch.zeros(2, device=self.args.device, dtype=torch.float64) for term in self.terms}
        weights = self.weights(step)
        for term in self.terms:
            mine = term.at(step)[rank::processes]
            with self._at_worst(model, term, step, mine, size):
                found[term.name] += self._add_gradients(model, term, step, mine, size, weights[term.name])
        self._uphill = ()
        # Shares are added once, at the end: a process that is short of memory repeats its own alone.
        self.share_gradients(model)
        values = {name: self.accelerator.reduce(value, reduction="sum").tolist() for name, value in found.items()}
        self._check_counts(step, {name: round(value[1]) for name, value in values.items()})
        return {name: value[0] for name, value in values.items()}

    def weights(self, step: int) -> dict[str, float]:
        """What each term is multiplied by at ``step``: its own weight, or what the method says (γ, α)."""
        if self.method is None:
            return {term.name: term.weight for term in self.terms}
        gamma, alpha = self.method.weights(step)
        return {term.name: gamma if term.name == "forget" else alpha for term in self.terms}

    def _add_gradients(
        self, model: Any, term: Term, step: int, rows: Sequence[EncodedRow], size: int, weight: float
    ) -> torch.Tensor:
        """Adds this process's share of a term's gradient; returns (its share of the term's value, what it counted)."""
        found = torch.zeros(2, device=self.args.device, dtype=torch.float64)
        count = max(1, term.count([len(row.answer) for row in term.at(step)]))
        for piece in split(rows, size):
            loss = self._term_loss(model, term, piece)
            self.accelerator.backward(loss.sum * (weight / count))
            found[0] += loss.sum.detach().double() / count
            found[1] += loss.count
        return found

    def _at_worst(
        self, model: Any, term: Term, step: int, rows: Sequence[EncodedRow], size: int
    ) -> contextlib.AbstractContextManager[None]:
        """The trained weights at θ + ρ g/‖g‖ (``Term.radius``) while the context lasts; nothing where ρ is 0."""
        if not term.radius:
            return contextlib.nullcontext()
        moved = [p for p in model.parameters() if p.requires_grad]
        gradients = self._uphill
        if not gradients:
            self._add_gradients(model, term, step, rows, size, 1.0)
            self.share_gradients(model)
            gradients = tuple(p.grad for p in moved)
            model.zero_grad()
            if self.accelerator.num_processes > 1:
                # Kept until the step is through: a process that repeats its share alone can't ask the others again.
                self._uphill = gradients
        return uphill(moved, gradients, term.radius)

    def share_gradients(self, model: Any) -> None:
        """Add the gradients of all processes, each of which has gone through its own rows of a step."""
        if self.accelerator.num_processes == 1:
            return
        for parameter in model.parameters():
            if parameter.requires_grad:
                # A process without rows of its own still takes part.
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                torch.distributed.all_reduce(parameter.grad)

    def _term_loss(self, model: Any, term: Term, rows: Sequence[EncodedRow]) -> Loss:
        batch = AnswerBatch(
            rows, logits_of(model), term.target_logits, hidden_of=hidden_of(model),
            target_hidden_of=term.target_hidden, pad_id=self._pad_id, device=self.args.device,
        )  # fmt: skip
        return term.loss(batch)

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
            self._report({**self._last, "lr": rate})
        self.context.progress(self.description, done, self.steps)

    def learnt(self, step: int, values: dict[str, float]) -> None:
        """More about the step just done, for the learning curve."""
        losses = self.context.usage.losses
        if losses and losses[-1]["step"] == step:
            losses[-1] |= values
        else:
            losses.append({"step": float(step), **values})
        self._report(values)

    def report_again(self, losses: Sequence[dict[str, float]]) -> None:
        """Send the part of the curve that an earlier process had logged."""
        for entry in losses:
            self.state.global_step = round(entry["step"])
            self._report({name: value for name, value in entry.items() if name != "step"})

    def _report(self, values: dict[str, float]) -> None:
        if self.context.machine.report_to != "none":
            self.log(dict(values))

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: the budget is in tokens."""
        return 0


def step_tokens(terms: Sequence[Term], step: int) -> int:
    """Prompt and answer tokens that a step trains on, padding not counted; a term that is gone through twice counts
    twice."""
    return sum(row.tokens * (2 if term.radius else 1) for term in terms for row in term.at(step))


@contextlib.contextmanager
def training(model: Any, context: UnlearnContext) -> Iterator[None]:
    """What the Trainer changes about a model or the process, changed back; the same bits twice on a GPU too."""
    config = getattr(model, "config", None)
    use_cache = getattr(config, "use_cache", None)
    was_training = model.training
    on_gpu = context.device.startswith("cuda")
    modes = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    recompute = context.machine.gradient_checkpointing
    if recompute is None:
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
    report_to = context.machine.report_to
    check_reporter(report_to)
    args = TrainingArguments(
        output_dir=str(context.folder / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=1,
        learning_rate=optimisation.lr,
        weight_decay=optimisation.weight_decay,
        max_grad_norm=0.0,
        seed=seed,
        use_cpu=context.device == "cpu",
        report_to=report_to,
        run_name=f"{context.folder.parent.parent.name or 'unbench'} seed {context.seed}",
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


def _as_it_is(model: Any, *args: Any, **options: Any) -> Any:
    return model


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
    return [replace(row, target=values[id(row)]) for row in rows]
