"""Everything that is measured of one run, from responses alone: a run and a submission are scored by this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from unbench.metrics.honesty import Taught, honesty
from unbench.metrics.overlap import overlap
from unbench.metrics.scores import measure
from unbench.results.schema import Measured
from unbench.task import Knowledge

if TYPE_CHECKING:
    import pandas as pd


def measure_all(
    unlearned: Mapping[int, pd.DataFrame],
    target: pd.DataFrame | None,
    references: Sequence[pd.DataFrame],
    *,
    knowledge: Knowledge,
    known_only: bool,
    trained: Mapping[int, frozenset[str]] | None = None,
    taught: Mapping[int, Taught] | None = None,
) -> Measured:
    """Scores (``scores.measure``), overlap and honesty.

    Args:
        unlearned: seed -> responses of that seed's unlearned model (columns: ``unbench.responses``).
        target: responses of the target; None for a bare model.
        references: responses of each reference model.
        knowledge: of the task.
        known_only: leave out what the target doesn't know (tasks whose target is given).
        trained: seed -> questions that it trained on, where that is known.
        taught: seed -> fact -> answers that its method taught.
    """
    measured = measure(unlearned, target, references, knowledge=knowledge, known_only=known_only)
    if trained is not None and target is not None:
        measured.metrics |= overlap(unlearned, target, references, trained, knowledge, known_only)
    measured.metrics |= honesty(unlearned, target, taught)
    return measured
