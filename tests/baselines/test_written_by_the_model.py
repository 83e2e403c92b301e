"""What the model writes before training: AltPO's alternates, and paraphrases for any loss (``augment``)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from straight import Make
from unbench_baselines.altpo import AltPO
from unbench_baselines.dpo_idk import DPO
from unbench_baselines.grad_diff import GradDiff

from unbench.engines.base import EngineStats, Generation, Sampling
from unbench.errors import RunFailed
from unbench.match import holds
from unbench.method import UnlearnContext
from unbench.training.loop import loss_terms
from unbench.training.weights import prepare_model
from unbench.unstar import records


class Writer:
    """An engine that answers a prompt with what ``write(question, number)`` returns, the number-th time it is asked;
    a text is three tokens."""

    def __init__(self, tokenizer: Any, write: Callable[[str, int], str]) -> None:
        self.stats = EngineStats()
        self._tokenizer = tokenizer
        self._write = write
        self._asked: dict[str, int] = {}

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Generation]:
        found = []
        for prompt in prompts:
            question = re.findall(r"Question: ([^\n<]*)", str(self._tokenizer.decode(prompt)))[-1]
            self._asked[question] = self._asked.get(question, -1) + 1
            found.append(Generation([0, 0, 0], self._write(question, self._asked[question]), True))
        self.stats.tokens_generated += 3 * len(prompts)
        return found


def writing(context: UnlearnContext, write: Callable[[str, int], str]) -> UnlearnContext:
    @contextmanager
    def opened() -> Iterator[Any]:
        yield Writer(context.target.tokenizer, write)

    context.open_engine = opened
    return context


def reword(question: str, number: int) -> str:
    """Usable, then the question itself, then usable again …"""
    name, verb = re.findall(r"does (\w+) (\w+)", question)[0]
    options = [f"In which place does {name} {verb}?", question, f"In which town does {name} {verb}?", "Nobody knows."]
    return options[number % 4]


def test_paraphrases_join_the_forget_rows(make_context: Make) -> None:
    context = writing(make_context(), reword)
    model, tokenizer = prepare_model(context)
    method = GradDiff(GradDiff.Config(augment="paraphrases", paraphrases=2, batch_size=8, steps=6))
    forget, retain = loss_terms(method, context, model, tokenizer, seed=0)
    number = len(context.forget)
    assert len(forget.rows) == 3 * number
    assert len(retain.rows) == len(context.retain)
    assert all(len(forget.steps[step]) == len(retain.steps[step]) == 8 for step in range(6))
    # An epoch goes through the enlarged set.
    assert sorted(i for step in forget.steps[:3] for i in step) == list(range(24))
    answers = [row.answer for row in forget.rows]
    assert answers[::3] == answers[1::3] == answers[2::3]
    assert len({row.prompt for row in forget.rows}) == 3 * number
    for row in context.forget:
        assert {row["question"], reword(row["question"], 0), reword(row["question"], 2)} <= context.usage.questions
    assert context.usage.notes["paraphrases"] == {"wanted": 2 * number, "written": 2 * number}
    # Two usable ones at the first try: three samples each (1.5 times what is wanted).
    assert context.usage.tokens_generated == 3 * 3 * number
    written = records.read(context.folder / "paraphrases.jsonl")
    assert {(one.kept, one.reason) for one in written} == {(True, None), (False, "the question itself")}


def test_too_few_paraphrases_are_no_fault(make_context: Make) -> None:
    context = writing(make_context(), lambda question, number: question)
    model, tokenizer = prepare_model(context)
    method = DPO(DPO.Config(augment="paraphrases", paraphrases=2, steps=2))
    (forget, _) = loss_terms(method, context, model, tokenizer, seed=0)
    assert len(forget.rows) == len(context.forget)
    assert context.usage.notes["paraphrases"]["written"] == 0
    assert context.usage.tokens_generated > 0


def test_without_augment_nothing_is_written(make_context: Make) -> None:
    def refuse(question: str, number: int) -> str:
        raise AssertionError("nobody asked")

    context = writing(make_context(), refuse)
    model, tokenizer = prepare_model(context)
    assert len(loss_terms(GradDiff(), context, model, tokenizer, 0)[0].rows) == len(context.forget)
    assert context.usage.tokens_generated == 0


def test_alternates_are_wrong_and_drawn_by_the_seed(make_context: Make) -> None:
    context = make_context()
    own = {row["question"]: row for row in context.forget}
    places = sorted({row["value"] for row in context.retain})

    def write(question: str, number: int) -> str:
        row = own[question]
        wrong = [place for place in places if place != row["value"]]
        return [wrong[0], row["value"], wrong[1], row["answer"], wrong[2]][number % 5]

    writing(context, write)
    model, tokenizer = prepare_model(context)
    method = AltPO(AltPO.Config(batch_size=8, steps=40))
    (forget, _) = loss_terms(method, context, model, tokenizer, seed=0)
    told: dict[tuple[int, ...], list[str]] = {}
    for row in (row for step in range(40) for row in forget.at(step)):
        assert row.preferred is not None
        assert row.target is not None
        assert row.preferred.target is not None
        assert len(row.preferred.target) == len(row.preferred.answer)
        said = str(tokenizer.decode(row.preferred.answer, skip_special_tokens=True))
        told.setdefault(row.prompt, []).append(said)
    assert len(told) == 8
    answers = {str(tokenizer.decode(row.prompt)): texts for row, texts in
               ((row, told[row.prompt]) for row in forget.rows)}  # fmt: skip
    for question, row in own.items():
        (texts,) = [texts for prompt, texts in answers.items() if question in prompt]
        assert len(set(texts)) == 3
        assert not any(holds(text, [row["value"]], question) for text in texts)
        assert all(text.startswith(row["subject"]) for text in texts)
    assert context.usage.tokens_generated == 3 * 5 * 8
    assert context.usage.notes["alternates"] == {"written": 24, "rows": 8, "rows_that_borrow": 0, "rows_left_out": 0}
    assert (context.folder / "alternates.jsonl").exists()
    (again, _) = loss_terms(AltPO(method.config), writing(make_context(name="b"), write), model, tokenizer, seed=0)
    assert again.steps == forget.steps
    (other, _) = loss_terms(AltPO(method.config), writing(make_context(name="c"), write), model, tokenizer, seed=1)
    assert other.steps != forget.steps


def test_a_row_without_alternates_is_left_out(make_context: Make) -> None:
    context = make_context()
    relation = context.forget[0]["relation"]
    silent = {row["question"] for row in context.forget if row["relation"] == relation}
    places = {row["question"]: row["value"] for row in context.forget}

    def write(question: str, number: int) -> str:
        return places[question] if question in silent else "Wuzuwu"

    writing(context, write)
    model, tokenizer = prepare_model(context)
    (forget, _) = loss_terms(AltPO(AltPO.Config(steps=5)), context, model, tokenizer, seed=0)
    left = len(context.forget) - len(silent)
    assert 0 < left < len(context.forget)
    assert len({row.prompt for row in forget.rows}) == left
    assert all(len(step) == left for step in forget.steps)
    assert not silent & context.usage.questions - set(context.retain["question"])
    assert context.usage.notes["alternates"]["rows_left_out"] == len(silent)
    with pytest.raises(RunFailed, match="no forget row"):
        loss_terms(AltPO(), writing(make_context(), lambda question, number: "?"), model, tokenizer, seed=0)


def test_a_row_borrows_from_its_relation(make_context: Make) -> None:
    context = make_context()
    row = context.forget[0]
    others = [one for one in context.forget if one["relation"] == row["relation"] and one["value"] != row["value"]]
    assert others

    def write(question: str, number: int) -> str:
        return "?" if question == row["question"] else "Wuzuwu"

    writing(context, write)
    model, tokenizer = prepare_model(context)
    (forget, _) = loss_terms(AltPO(AltPO.Config(steps=5)), context, model, tokenizer, seed=0)
    assert len({one.prompt for one in forget.rows}) == len(context.forget)
    assert context.usage.notes["alternates"]["rows_that_borrow"] == 1
