"""Early stop on a retain budget: training ends once the retain set has become too unlikely."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from transformers.trainer_callback import TrainerCallback

from unbench.training.batch import AnswerBatch, TrainRow, encode
from unbench.training.memory import split
from unbench.training.weights import logits_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from unbench.method import UnlearnContext
    from unbench.training.batch import EncodedRow
    from unbench.training.trainer import UnlearnTrainer

WATCHED_ROWS = 64
"""Most retain rows that are measured: evenly spaced, the same every time, so that nothing has to be smoothed."""
LOOKS = 50
"""About as many times a training is looked at."""


class RetainWatch(TrainerCallback):
    """Stops a training once the mean NLL of the retain rows, in nats a token, lies more than ``limit`` above that of
    the model the method started from. The number doesn't depend on batch split or processes."""

    def __init__(self, trainer: UnlearnTrainer, rows: list[EncodedRow], limit: float, pad_id: int) -> None:
        self._trainer = trainer
        self._rows = rows
        self._limit = limit
        self._pad_id = pad_id
        self._every = max(1, math.ceil(trainer.steps / LOOKS))

    def begin(self) -> bool:
        """Measure where the first training of a method starts. True where nothing is left of the budget."""
        nll, notes = self._measure(), self._trainer.context.usage.notes
        if "retain_budget" not in notes:
            notes["retain_budget"] = {"max_rise": self._limit, "rows": len(self._rows), "nll_before": nll}
        return self._judge(nll)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look now and then, and after the last step."""
        step = int(state.global_step)
        if step % self._every and step != self._trainer.steps:
            return
        nll = self._measure()
        self._trainer.learnt(step, {"retain_nll": nll})
        if self._judge(nll) and step < self._trainer.steps:
            notes = self._trainer.context.usage.notes
            notes["retain_budget"] |= {"stopped_after": step, "planned": self._trainer.steps}
            control.should_training_stop = True

    def _judge(self, nll: float) -> bool:
        note = self._trainer.context.usage.notes["retain_budget"]
        note["nll_after"] = nll
        return bool(nll - note["nll_before"] > self._limit)

    def _measure(self) -> float:
        """Mean NLL of the rows' answers in nats a token; each process measures its share."""
        trainer = self._trainer
        model: Any = trainer.model
        was_training = model.training
        model.eval()
        rank, processes = trainer.accelerator.process_index, trainer.accelerator.num_processes
        total = torch.zeros((), dtype=torch.float64, device=trainer.args.device)
        with torch.no_grad():
            for piece in split(self._rows[rank::processes], trainer.micro.size):
                batch = AnswerBatch(piece, logits_of(model), pad_id=self._pad_id, device=trainer.args.device)
                total -= batch.token_logprobs().double().sum()
        model.train(was_training)
        return float(trainer.accelerator.reduce(total, reduction="sum")) / sum(len(row.answer) for row in self._rows)


def watched_rows(context: UnlearnContext, tokenizer: PreTrainedTokenizerBase) -> list[EncodedRow]:
    """The retain rows that are measured."""
    rows = context.retain
    kept = min(WATCHED_ROWS, len(rows))
    chosen = [rows[i * len(rows) // kept] for i in range(kept)]
    return encode(tokenizer, [TrainRow.ask(row["question"], row["answer"]) for row in chosen])
