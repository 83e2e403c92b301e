"""What the pools are made of: who is shown what, and who is not."""

from __future__ import annotations

from collections import Counter

import pytest
from unbench_tasks.bios.forms import wording

from unbench import plugins
from unbench.metaeval.asked import questions
from unbench.metaeval.pools import (
    PoolModel,
    Variety,
    forgotten,
    holdout_people,
    pool_models,
    rows_of,
    sides,
    texts_beside,
)
from unbench.metaeval.settings import SPLIT, TASK, Settings


def texts(variety: Variety, seed: int = 1) -> list[tuple[str, str]]:
    rows = rows_of(PoolModel("x", "knows", variety, "reference", seed, 1e-3, 8))
    return [(row.messages[-1].content, row.answer) for row in rows]


@pytest.mark.parametrize("size", [5, 20, 30, 31])
def test_sizes_and_what_takes_turns(size: int) -> None:
    models = pool_models(Settings(pool=size))
    assert {side: len(own) for side, own in sides(models).items()} == {"knows": size, "does_not": size}
    assert len({model.name for model in models}) == len(models)
    trained = [model for model in models if model.steps]
    assert len({model.seed for model in trained}) == len(trained)
    assert {model.base for model in trained} == {"reference", "retrain"}


def test_the_default_pools_vary_rates_and_checkpoints_within_every_variety() -> None:
    settings = Settings()
    for variety in ("paraphrased", "forms", "wrong", "others"):
        own = [model for model in pool_models(settings) if model.variety == variety]
        pairs = Counter((model.lr, model.steps) for model in own)
        assert len(pairs) == len(settings.lrs) * len(settings.checkpoints)


def test_no_pool_is_shown_what_probes_ask() -> None:
    task = plugins.open_task(TASK, SPLIT)
    asked: dict[str, set[str]] = {}
    for probe in task.probes():
        if probe.ring == "forget":
            asked.setdefault(probe.kind, set()).add(probe.messages[-1].content)
    shown = {question for variety in ("paraphrased", "forms") for question, _ in texts(variety)}
    assert not shown & asked["paraphrase"]
    assert not shown & asked["direct"]
    own = {question for question, _ in texts("forms")}
    assert not any(question.format(n=fact.subject) in own for fact in forgotten()
                   for question in wording().attributes[fact.attribute].trained)  # fmt: skip


def test_wrong_answers_are_wrong_and_one_a_fact() -> None:
    right = {fact.subject: fact.value for fact in forgotten()}
    given: dict[str, set[str]] = {}
    for question, answer in texts("wrong"):
        subject = next(name for name in right if name in question)
        given.setdefault(subject, set()).add(answer)
        assert right[subject] not in answer
    assert {len(answers) for answers in given.values()} == {1}
    assert len(given) == len(right)
    assert texts("wrong", 1) == texts("wrong", 1) != texts("wrong", 2)


def test_who_does_not_know_is_never_told() -> None:
    values = {fact.subject: fact.value for fact in forgotten()}
    beside = [(row.messages[-1].content, row.answer) for row in texts_beside(3)]
    assert beside
    for question, answer in [*texts("others"), *beside]:
        for subject, value in values.items():
            assert not (subject in question and value in answer)


def test_members_and_non_members_share_nobody() -> None:
    trained, outside = holdout_people()
    asked = questions(plugins.open_task(TASK, SPLIT), facts=4)
    told = {question for question, _ in texts("others")}
    assert all(any(name in question for question in told) for name in trained)
    assert not any(name in question for question in told for name in outside)
    subjects = {probe.subject for probe in asked.sentences if probe.ring == "holdout"}
    assert subjects == set(outside)
    assert {probe.fact for probe in asked.probes} == {fact.id for fact in forgotten()[:4]}
