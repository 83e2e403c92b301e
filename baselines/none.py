"""Nothing at all: the target itself.

    θ_unlearned = θ

The floor of every forget score and the ceiling of every retain score.
"""

from __future__ import annotations

from unbench.method import Method, MethodCard, UnlearnContext, Unlearned


class NoUnlearning(Method):
    """Control: hands the target back."""

    card = MethodCard(
        name="none",
        title="No unlearning",
        kind="control",
        bibtex="",
        summary="The target model as it is: forget 0, retain and specificity 1.",
    )
    trains = False

    def unlearn(self, context: UnlearnContext) -> Unlearned:
        return Unlearned()
