"""What a method teaches in place of the right answer is noted, and told in the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unbench_baselines.dpo_idk import DPO
from unbench_baselines.idk import IDK
from unbench_baselines.npo import NPO

from unbench.method import UnlearnContext, Usage
from unbench.training.loop import loss_terms
from unbench.training.weights import prepare_model

Make = Callable[..., UnlearnContext]


def test_each_answer_is_noted_once() -> None:
    usage = Usage()
    usage.teach("a")
    usage.teach("b", "one", "two", "one")
    usage.teach("b", "two", "three")
    assert usage.taught == {"b": ["one", "two", "three"]}


@pytest.mark.parametrize("method", [IDK, DPO, NPO])
def test_losses_tell_what_they_teach(method: Any, make_context: Make) -> None:
    context = make_context()
    model, tokenizer = prepare_model(context)
    loss_terms(method(method.Config(steps=1)), context, model, tokenizer, 0)
    taught = context.usage.taught
    if method is NPO:
        assert taught == {}
        return
    assert set(taught) == set(context.forget["fact"])
    assert not {text for texts in taught.values() for text in texts} & set(context.forget["answer"])


@pytest.mark.slow
def test_unstar_tells_its_wrong_answers(tmp_path: Path) -> None:
    """On nano: those of its records, by fact; some of them are then what the model says."""
    from unbench import api
    from unbench.results.store import RunFolder
    from unbench.unstar.records import read

    result = api.run("unstar", out=tmp_path, limit=8, device="cpu", settings={"rationale": False, "rounds": 1})
    place = RunFolder(Path(result.dir)).seed(0)
    records = [one for one in read(place.work / "anti_samples.jsonl") if one.stage == "anti_sample"]
    own: dict[str, set[str]] = {}
    for one in records:
        if one.role == "forget" and one.kept and one.wrong_answer:
            own.setdefault(one.fact, set()).add(one.wrong_answer)
    assert own
    assert {fact: set(answers) for fact, answers in place.taught_answers().items()} == own
    assert (result.metrics["honesty_taught"].value or 0) > 0
