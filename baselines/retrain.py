"""Retraining without the forget set: the gold standard of exact unlearning.

    θ_unlearned = train(θ_base; retain + withheld)

A reference model of a seed that no score is measured against, so that what it falls short of 1 is seed noise. It is
built by the task's own preparation, not here.
"""

from __future__ import annotations

from unbench.errors import UsageError
from unbench.method import Method, MethodCard, UnlearnContext, Unlearned

BIBTEX = """@inproceedings{cao2015towards,
  title = {Towards Making Systems Forget with Machine Unlearning},
  author = {Cao, Yinzhi and Yang, Junfeng},
  booktitle = {IEEE Symposium on Security and Privacy},
  year = {2015},
  doi = {10.1109/SP.2015.35}
}"""


class Retrain(Method):
    """Control: a reference model of a further seed."""

    card = MethodCard(
        name="retrain",
        title="Retraining without the forget set",
        kind="control",
        bibtex=BIBTEX,
        paper="doi:10.1109/SP.2015.35",
        year=2015,
        summary="A model that never saw the forget set: what exact unlearning would give.",
        needs=("retain",),
    )
    trains = False

    def unlearn(self, context: UnlearnContext) -> Unlearned:
        """Raises ``UsageError`` where the task has no reference model."""
        if context.retrain is None:
            raise UsageError(
                "The retrain control needs a reference model, and this task has no reference.",
                "Choose a task with one (unbench tasks) or another method (unbench methods).",
            )
        return Unlearned(weights=context.retrain())
