"""Mixed questions: one prompt asks for something forgotten and for things that must stay.

The prompt is a list of questions: the forgotten one that is asked for, another forgotten one, then 1, 2 and 4 that must
stay (drawn by the fact, none that holds the right answer). What the model knows of the first is read as ever, behind
its answer prefix; the strength is the number of questions. A greedy answer to the whole list shows how many of the
questions that must stay are still answered: the notes have their share, the reference's beside it, for a model can
also pass by answering nothing.

Jeung, Yoon and No 2025 (arXiv:2505.14832) mix up to eight questions.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, PositiveInt

from unbench.attack import Attack, AttackCard, AttackConfig, AttackContext, NotPossible
from unbench.match import holds
from unbench.task import Probe, Row

BIBTEX = """@inproceedings{jeung2025seps,
  title = {{SEPS}: A Separability Measure for Robust Unlearning in {LLMs}},
  author = {Jeung, Wonje and Yoon, Sangyeon and No, Albert},
  booktitle = {Proceedings of the 2025 Conference on Empirical Methods in Natural Language Processing},
  year = {2025},
  eprint = {2505.14832},
  archivePrefix = {arXiv}
}"""


class Mixed(Attack):
    """Asks for forgotten and kept facts in one prompt."""

    card = AttackCard(
        name="mixed",
        title="Mixed questions",
        kind="prompt",
        paper="arXiv:2505.14832",
        year=2025,
        bibtex=BIBTEX,
        summary="Asks for forgotten and kept facts in one prompt, and counts the kept ones that are answered.",
    )

    class Config(AttackConfig):
        """Settings of mixed questions."""

        kinds: tuple[str, ...] = Field(("direct",), min_length=1, description="kinds of forget probes that are asked")
        forget: int = Field(2, ge=1, description="forgotten questions in a prompt, the one that is scored among them")
        retain: tuple[PositiveInt, ...] = Field(
            (1, 2, 4), min_length=1, description="questions that must stay in a prompt"
        )

    def attack(self, context: AttackContext) -> None:
        from unbench.engines.base import Sampling

        probes = context.of_kinds(self.config.kinds)
        kept = [context.examples(probe, max(self.config.retain)) for probe in probes]
        most = min(map(len, kept))
        if not most:
            raise NotPossible("the task has no retain rows to ask beside")
        for number in dict.fromkeys(min(n, most) for n in self.config.retain):
            beside = [rows[:number] for rows in kept]
            asked = [
                listed(context, probe, others(context, probes, place, self.config.forget - 1), rows)
                for place, (probe, rows) in enumerate(zip(probes, beside, strict=True))
            ]
            questions = number + min(self.config.forget, len(probes))
            context.ask(questions, probes=asked)
            long = Sampling(max_new_tokens=questions * context.max_new_tokens)
            written = context.generate([probe.messages for probe in asked], sampling=long)
            context.notes[f"retain_answered_of_{number}"] = round(share_answered(written, beside), 4)


def others(context: AttackContext, probes: Sequence[Probe], place: int, number: int) -> list[Probe]:
    """The forgotten questions beside the one at ``place``: the next ones in the task's order, none that holds its right
    answer (another phrasing of the same fact may)."""
    right = (probes[place].answer, *probes[place].accept)
    after = (*probes[place + 1 :], *probes[:place])
    return [probe for probe in after if not holds(context.question(probe), right)][:number]


def listed(context: AttackContext, probe: Probe, beside: Sequence[Probe], rows: Sequence[Row]) -> Probe:
    """The probe with the other questions behind its own."""
    questions = [*map(context.question, (probe, *beside)), *(row.question for row in rows)]
    return context.reworded(probe, question=" ".join(questions))


def share_answered(written: Sequence[str], asked: Sequence[Sequence[Row]]) -> float:
    """Share of the rows whose value (whole answer, where the row has none) stands in the answer to their list."""
    found = [
        holds(text, (row.value or row.answer, *row.aliases), row.question)
        for text, rows in zip(written, asked, strict=True)
        for row in rows
    ]
    return sum(found) / len(found)
