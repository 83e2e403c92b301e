"""AltPO: an answer that the model made up is preferred to the forget answer.

    L = −(2/β) log σ(β [log(π(a′|q)/π₀(a′|q)) − log(π(a|q)/π₀(a|q))])    per sequence, plus α · retain

a the forget answer, a′ an alternate one: plausible, of the same form, not true. Mekala et al. 2024. Before training the
target itself writes some alternates to each question (sampled at temperature 1, as in the paper); each time a row is
trained on, one of them is drawn by the seed. β = 0.1, γ = α = 1; the other defaults are TOFU's.

The paper's instruction asks a chat model for "alternate plausible facts". Here UnSTAR's few-shot prompts ask for them
(a wrong answer, put in the right one's place; a whole sentence where a row has no short value), which nano and other
small models can follow, and its filters drop alternates that hold the answer or are none. A row that gets none of its
own borrows those of other rows of its relation; one that has none then is left out, and the usage's notes say how many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field
from unbench_baselines.dpo_idk import DPO

from unbench.method import MethodCard, UnlearnContext

if TYPE_CHECKING:
    from unbench.unstar.facts import Ask

BIBTEX = """@inproceedings{mekala2025alternate,
  title = {Alternate Preference Optimization for Unlearning Factual Knowledge in Large Language Models},
  author = {Mekala, Anmol and Dorna, Vineeth and Dubey, Shreya and Lalwani, Abhishek and Koleczek, David and
    Rungta, Mukund and Hasan, Sadid and Lobo, Elita},
  booktitle = {International Conference on Computational Linguistics},
  year = {2025},
  eprint = {2409.13474},
  archivePrefix = {arXiv}
}"""
FILE_NAME = "alternates.jsonl"


class AltPO(DPO):
    """The model's own inventions win against the forget answer."""

    card = MethodCard(
        name="altpo",
        title="Alternate preference optimisation",
        kind="preference",
        bibtex=BIBTEX,
        paper="arXiv:2409.13474",
        year=2024,
        summary="Alternate answers that the model wrote itself are preferred to forget answers, retain term beside.",
        needs=("generation",),
    )

    class Config(DPO.Config):
        """Settings of AltPO."""

        alternates: int = Field(5, ge=1, description="alternate answers sampled for each forget row (Mekala et al.)")
        temperature: float = Field(1.0, gt=0, description="sampling temperature of the alternates (Mekala et al.)")

    def prepare(self, context: UnlearnContext, model: Any) -> None:
        from unbench.unstar import records
        from unbench.unstar.config import UnSTARConfig
        from unbench.unstar.facts import asks_of, candidates_of
        from unbench.unstar.filter import Filter
        from unbench.unstar.generate import Author, borrow_wrong, sentence_with

        asks = asks_of(context.forget, candidates_of(context.forget, context.retain))
        config = UnSTARConfig.model_validate({"wrong_samples": self.config.alternates})
        with context.open_engine() as engine:
            author = Author(engine, context.target.tokenizer, context, Filter(config))
            votes = author.wrong_answers(asks, self.config.temperature)
        records.write(context.folder / FILE_NAME, author.records)
        given = [(ask, list(counts)) for ask, counts in zip(asks, votes, strict=True)]
        self._alternates: dict[tuple[str, str], list[str]] = {}
        for ask, own in given:
            wrong = own or borrow_wrong(ask, given, author.filter)
            self._alternates[ask.fact, ask.answer] = alternates(ask, [sentence_with(ask, one) for one in wrong])
        context.usage.notes["alternates"] = {
            "written": sum(sum(counts.values()) for counts in votes),
            "rows": len(asks),
            "rows_that_borrow": sum(not own for _, own in given),
            "rows_left_out": sum(not self._alternates[ask.fact, ask.answer] for ask in asks),
        }

    def preferred_answers(self, rows: Sequence[dict[str, Any]], seed: int) -> Sequence[Sequence[str]]:
        return [self._alternates[str(row["fact"]), str(row["answer"])] for row in rows]


def alternates(ask: Ask, sentences: Sequence[str]) -> list[str]:
    """The different sentences among these that don't hold the right answer."""
    from unbench.match import holds

    return [text for text in dict.fromkeys(sentences) if not holds(text, ask.right, ask.question)]
