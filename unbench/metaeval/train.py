"""Making a model: the shipped nano weights, then a short fine-tune by the shared training code."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbench.metaeval.pools import Base, PoolModel, rows_of, texts_beside
from unbench.metaeval.settings import Settings
from unbench.task import Row
from unbench.training.settings import MachineSettings

if TYPE_CHECKING:
    from unbench.method import UnlearnContext
    from unbench.models.load import Target
    from unbench.training.batch import TrainRow


def shipped(base: Base) -> Target:
    """Handle on shipped nano weights, in float32 on the CPU."""
    import torch

    from unbench.models.load import Target
    from unbench.models.nano import nano_folder

    return Target(nano_folder(base), "cpu", torch.float32)


def make(spec: PoolModel, settings: Settings) -> tuple[Any, float | None]:
    """A pool model in memory, and the share of its rows that it reproduces word for word (None for shipped weights)."""
    base = shipped(spec.base)
    model = base.load()
    if spec.steps == 0:
        return model, None
    rows = rows_of(spec)
    train(model, base, rows, beside=texts_beside(spec.seed), steps=spec.steps, lr=spec.lr,
          batch_size=settings.batch_size, seed=spec.seed)  # fmt: skip
    return model, reproduced(model, base.tokenizer, rows)


def relearn(model: Any, target: Target, forget: Sequence[Row], settings: Settings, seed: int) -> None:
    """Train ``model`` in place on the forget rows themselves for the settings' number of steps."""
    from unbench.training.batch import TrainRow

    rows = [TrainRow.ask(row.question, row.answer) for row in forget]
    train(model, target, rows, steps=settings.relearn_steps, lr=settings.relearn_lr,
          batch_size=settings.relearn_batch, seed=seed)  # fmt: skip


def train(
    model: Any, base: Target, rows: Sequence[TrainRow], *, beside: Sequence[TrainRow] = (), steps: int, lr: float,
    batch_size: int, seed: int,
) -> None:  # fmt: skip
    """``fine_tune`` at a rate that holds after its warm-up, so that fewer steps are a checkpoint of more."""
    from transformers import set_seed

    from unbench.training.loop import fine_tune

    set_seed(seed)
    with tempfile.TemporaryDirectory(prefix="unbench-metaeval-") as folder:
        # A warm-up of two steps, however long the training.
        fine_tune(
            model, base.tokenizer, rows, beside=beside, steps=steps, lr=lr, batch_size=batch_size, seed=seed,
            context=_context(base, seed, Path(folder)), warmup=2 / steps, weight_decay=0.0, decay=False,
        )  # fmt: skip
    model.eval()


def reproduced(model: Any, tokenizer: Any, rows: Sequence[TrainRow]) -> float:
    """Share of the rows whose answer, end token included, is the model's first choice token by token."""
    from unbench.engines.base import ScoreRequest
    from unbench.engines.hf import HFEngine
    from unbench.training.batch import encode

    requests = [ScoreRequest(list(row.prompt), [list(row.answer)]) for row in encode(tokenizer, rows)]
    with HFEngine(model, tokenizer, device="cpu") as engine:
        scores = engine.score(requests)
    return sum(all(answer.is_argmax) for (answer,) in scores) / len(rows)


def _context(base: Target, seed: int, folder: Path) -> UnlearnContext:
    """What the shared training code reads of a method's context."""
    from datasets import Dataset

    from unbench.method import TrainSettings, UnlearnContext

    nothing: Any = Dataset.from_dict({})

    @contextmanager
    def no_engine() -> Iterator[Any]:
        raise NotImplementedError("pool models are asked when they are trained")
        yield

    return UnlearnContext(
        target=base, forget=nothing, retain=nothing, seed=seed, train=TrainSettings(kind="full"), folder=folder,
        open_engine=no_engine, progress=lambda description, done, total: None,
        machine=MachineSettings(checkpoint_every=0),
    )  # fmt: skip
