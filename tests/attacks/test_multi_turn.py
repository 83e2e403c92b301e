"""Several turns: the model's own answers come back to it, and a dialogue that says nothing forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from world import Tried, context, hiding, nothing_back, probes, task

from unbench.attack import AttackContext
from unbench.attacks.multi_turn import AGAIN, SILENCE, MultiTurn
from unbench.match import holds


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Tried:
    return Tried(MultiTurn(), probes("direct"), tmp_path_factory.mktemp("turns"))


@pytest.fixture(scope="module")
def reference(tried: Tried) -> Any:
    return tried.table("reference")


def test_what_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept: list[tuple[str, float, Any]] = []
    monkeypatch.setattr(AttackContext, "ask", lambda self, strength, *, series, probes: kept.append(
        (series, strength, probes)))  # fmt: skip
    answers = iter(["first", ""])
    monkeypatch.setattr(AttackContext, "generate", lambda self, prompts: [next(answers)] * len(prompts))
    whole = probes("direct", "cloze", facts=8)
    direct = {probe.id: probe for probe in whole if probe.kind == "direct"}
    MultiTurn().attack(context("target", whole, tmp_path))
    assert [point[:2] for point in kept] == [("are you sure", 1), ("are you sure", 2), ("related dialogue", 1),
                                             ("related dialogue", 3)]  # fmt: skip
    data = task().data()
    given = {row.question: row for row in data.retain}
    for series, strength, asked in kept:
        assert [probe.id for probe in asked] == list(direct)
        for probe in asked:
            was, turns = direct[probe.id], [(m.role, m.content) for m in probe.messages]
            own = [(m.role, m.content) for m in was.messages]
            if series == "are you sure":
                doubts = [("assistant", "first"), ("user", AGAIN), ("assistant", SILENCE), ("user", AGAIN)]
                assert turns == own + doubts[: 2 * int(strength)]
            else:
                assert turns[-1:] == own
                assert len(turns) == 2 * strength + 1
                for (_, question), (_, answer) in zip(turns[:-1:2], turns[1::2], strict=True):
                    assert given[question].answer == answer
                    assert not holds(f"{question} {answer}", (probe.answer,))
                assert given[turns[0][1]].subject == probe.subject
            assert (probe.kind, probe.answer, probe.candidates) == (was.kind, was.answer, was.candidates)


def test_fewer_rows_than_the_dialogue_wants(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept: list[tuple[str, float]] = []
    monkeypatch.setattr(AttackContext, "ask", lambda self, strength, *, series, probes: kept.append((series, strength)))
    monkeypatch.setattr(AttackContext, "generate", lambda self, prompts: ["x"] * len(prompts))
    whole = probes("direct", facts=6)
    retain = [row for row in task().data().retain if not holds(row.answer, [p.answer for p in whole])]
    for rows, want in ((2, [1, 2]), (1, [1]), (0, [])):
        kept.clear()
        MultiTurn().attack(context("target", whole, tmp_path, retain=tuple(retain[:rows])))
        assert [strength for series, strength in kept if series == "related dialogue"] == want


@pytest.mark.parametrize("bad", [{"again": 0}, {"dialogue": (0,)}, {"kinds": ()}, {"turns": 2}])
def test_bad_config(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MultiTurn.Config.model_validate(bad)


def test_texts_are_the_models_own_greedy_answers(tmp_path: Path) -> None:
    """As the responses pass writes them, and drawn texts differ from one another but not from call to call."""
    from unbench import responses
    from unbench.engines.base import Sampling
    from unbench.engines.hf import HFEngine

    made = context("reference", probes("direct", facts=6), tmp_path)
    with HFEngine(made.model, made.tokenizer) as engine:
        frame = responses.respond(engine, made.tokenizer, made.probes, role="reference", max_new_tokens=32)
    prompts = [probe.messages for probe in made.probes]
    assert made.generate(prompts) == list(frame.drop_duplicates("probe")["text"])
    drawn = [made.generate([prompts[0]] * 12, sampling=Sampling(32, 1.0, seed=seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) > 1


def test_nothing_comes_back_from_retrain(tried: Tried, reference: Any) -> None:
    nothing_back(tried.curve(tried.table("retrain"), reference))


@pytest.mark.parametrize(
    ("series", "revealed_by"),
    [
        ("are you sure", lambda text: AGAIN in text),
        ("related dialogue", lambda text: text.count("<|user|>") > 1 and AGAIN not in text),
    ],
)
def test_a_refusal_of_the_first_question_only(series: str, revealed_by: Any, tried: Tried, reference: Any) -> None:
    table = tried.table("target", lambda: hiding(tried.probes, revealed_by=revealed_by))
    for (name, strength), point in tried.curve(table, reference).items():
        if name != series:
            assert not point.clear
        elif (name, strength) != ("are you sure", 2.0):  # nano knows little after two doubts
            assert (point.shown.excess.value or 0) >= 0.5
            assert point.clear
