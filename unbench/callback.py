"""Score a model along its training: ``Trainer(…, callbacks=[unbench.UnlearningCallback(task=…, every=50)])``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from unbench.task import Split


class UnlearningCallback(TrainerCallback):
    """Evaluates every ``every`` optimiser steps and at the end, on at most ``limit`` probes of each ring and kind.

    ``history`` holds one entry an evaluation: step and the five scores (None where a score can't be had). The same
    entry, prefixed ``unbench_``, goes into the trainer's ``state.log_history``.
    """

    def __init__(
        self,
        task: str = "bios/fact",
        every: int = 50,
        *,
        tokenizer: Any = None,
        target: str | None = None,
        references: Sequence[str] = (),
        data_dir: str | Path | None = None,
        split: Split = "report",
        limit: int | None = 10,
    ) -> None:
        if every < 1:
            raise ValueError("every must be at least 1")
        self.every = every
        self.history: list[dict[str, float | int | None]] = []
        self._tokenizer = tokenizer
        self._options: dict[str, Any] = {"task": task, "target": target, "references": references,
                                         "data_dir": data_dir, "split": split, "limit": limit}  # fmt: skip

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Evaluate when ``every`` steps have passed."""
        if state.global_step % self.every == 0:
            self._evaluate(state, kwargs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate the end state, unless the last step was evaluated already."""
        if not self.history or self.history[-1]["step"] != state.global_step:
            self._evaluate(state, kwargs)

    def _evaluate(self, state: TrainerState, given: dict[str, Any]) -> None:
        from unbench.api import evaluate

        tokenizer = self._tokenizer or given.get("processing_class")
        if tokenizer is None:
            raise ValueError("give the Trainer processing_class=tokenizer, or the callback tokenizer=…")
        result = evaluate(given["model"], tokenizer, name=f"step-{state.global_step}", **self._options)
        scores = {name: getattr(result.scores, name).value for name in type(result.scores).model_fields}
        self.history.append({"step": state.global_step, **scores})
        state.log_history.append(
            {"step": state.global_step, **{f"unbench_{key}": value for key, value in scores.items()}}
        )
