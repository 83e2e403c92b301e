"""Saves a training now and then, and takes it up again (``unbench.training.checkpoint``)."""

from __future__ import annotations

import logging
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from transformers.trainer_callback import TrainerCallback

from unbench.training.checkpoint import Saved, Training, digest, put_back, put_back_random, take
from unbench.training.weights import trainable

if TYPE_CHECKING:
    from unbench.training.batch import EncodedRow
    from unbench.training.trainer import UnlearnTrainer

log = logging.getLogger(__name__)


class Keeper(TrainerCallback):
    """Saves a trainer's state when its time has come, and gives back what an earlier process saved."""

    def __init__(self, trainer: UnlearnTrainer, training: Training) -> None:
        self._trainer = trainer
        self._training = training
        usage = trainer.context.usage
        self._tokens, self._losses, self._notes = usage.tokens_trained, len(usage.losses), deepcopy(usage.notes)
        self._saved: Saved | None = None
        self._digest: str | None = None

    def begin(self) -> Saved | None:
        """What was saved of this training, its weights and usage put back already; None where there is nothing."""
        found = self._training.load(self._fingerprint)
        if found is None:
            return None
        trainer = self._trainer
        put_back(found, trainer.model, None)
        usage = trainer.context.usage
        usage.tokens_trained += found.body["tokens_trained"]
        usage.losses += found.body["losses"]
        usage.notes |= found.body["notes"]
        trainer.context.batch_size = found.body["batch_size"]
        trainer.micro.size = found.body["micro_batch"]
        if trainer.method is not None:
            trainer.method.restore(found.body["method"])
        log.warning("Going on from step %d of %d of a checkpoint.", found.step, trainer.steps)
        self._saved = found
        return found

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The optimiser exists from here on."""
        if self._saved is not None:
            put_back(self._saved, self._trainer.model, kwargs["optimizer"])
            self._trainer.report_again(self._saved.body["losses"])
            state.global_step = self._saved.step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After all that draws random numbers on the way to the first step."""
        if self._saved is not None:
            put_back_random(self._saved)
            self._saved = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save, if it is time to; a training that ends here is saved by ``end``."""
        if self._training.run.due and not control.should_training_stop:
            self._save(int(state.global_step), kwargs["optimizer"])

    def end(self) -> None:
        """The weights that the training ended with, so that a later training's resume need not repeat this one."""
        if self._training.run.writes and (self._training.kept or self._training.run.due):
            self._save(self._trainer.steps, None)

    def _save(self, step: int, optimizer: Any) -> None:
        trainer = self._trainer
        usage = trainer.context.usage
        body = {
            "tokens_trained": usage.tokens_trained - self._tokens,
            "losses": usage.losses[self._losses :],
            "notes": {key: note for key, note in usage.notes.items() if self._notes.get(key) != note},
            "batch_size": trainer.context.batch_size,
            "micro_batch": trainer.micro.size,
            "method": {} if trainer.method is None else trainer.method.state(),
        }
        self._training.save(take(trainer.model, optimizer, step, body), self._fingerprint)

    def _fingerprint(self) -> str:
        """Of all that decides a training but its starting weights, which follow from the run's plan and seed."""
        if self._digest is None:
            trainer = self._trainer
            shapes = {name: (tuple(p.shape), str(p.dtype)) for name, p in trainable(trainer.model).items()}
            terms = [(term.name, term.weight, list(term.steps), [_tokens(row) for row in term.rows])
                     for term in trainer.terms]  # fmt: skip
            self._digest = digest([trainer.steps, trainer.optimisation, trainer.args.seed, shapes, *terms])
        return self._digest


def _tokens(row: EncodedRow) -> tuple[object, ...]:
    """A row without what was read off the target."""
    return row.prompt, row.answer, row.weight, row.preferred and _tokens(row.preferred)
