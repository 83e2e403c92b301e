"""Mixed questions: what stands in a prompt, who is scored, and what is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from world import Tried, context, hiding, nothing_back, probes, task

from unbench.attack import AttackContext, NotPossible
from unbench.attacks.harness import run
from unbench.attacks.mixed import Mixed, others, share_answered
from unbench.match import holds
from unbench.task import Row


def test_what_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept: list[tuple[float, Any]] = []
    monkeypatch.setattr(AttackContext, "ask", lambda self, strength, *, probes: kept.append((strength, probes)))
    lengths = []

    def generate(self: AttackContext, prompts: Any, *, sampling: Any) -> list[str]:
        lengths.append(sampling.max_new_tokens)
        return [""] * len(prompts)

    monkeypatch.setattr(AttackContext, "generate", generate)
    whole = probes("direct", "choice")
    made = context("target", whole, tmp_path)
    Mixed().attack(made)
    assert [strength for strength, _ in kept] == [3, 4, 6]
    assert lengths == [3 * 32, 4 * 32, 6 * 32]
    assert made.notes == {"retain_answered_of_1": 0, "retain_answered_of_2": 0, "retain_answered_of_4": 0}
    direct = {probe.id: probe for probe in whole if probe.kind == "direct"}
    questions = {row.question: "retain" for row in task().data().retain}
    questions |= {made.question(probe): "forget" for probe in direct.values()}
    for strength, asked in kept:
        assert [probe.id for probe in asked] == list(direct)
        for probe in asked:
            was = direct[probe.id]
            same = {"kind", "answer", "candidates", "answer_prefix", "fact"}
            assert all(getattr(probe, name) == getattr(was, name) for name in same)
            text = made.question(probe)
            assert text.startswith(made.question(was))
            parts = [f"{part}?" for part in text.rstrip("?").split("? ")]
            kinds = [questions[part] for part in parts]
            assert kinds == ["forget", "forget"] + ["retain"] * (int(strength) - 2)
            assert len(set(parts)) == len(parts)
            assert not holds(text, (probe.answer,))


def test_no_question_beside_holds_the_right_answer(tmp_path: Path) -> None:
    """Several phrasings of one fact, one of which says it."""
    one, *rest = probes("direct", "choice", facts=2)
    made = context("target", [one, *rest], tmp_path)
    beside = others(made, [one, *rest], 0, 9)
    assert [probe.id for probe in beside] == [probe.id for probe in rest if probe.fact != one.fact]
    assert others(made, [one], 0, 3) == []


def test_share_answered_by_hand() -> None:
    rows = [
        Row(question="Where is A?", answer="A is in Rome.", fact="1", subject="A", value="Rome", aliases=("Roma",)),
        Row(question="Where is B?", answer="B is in Oslo.", fact="2", subject="B", value="Oslo"),
        Row(question="What is C?", answer="C is green.", fact="3", subject="C"),
    ]
    assert share_answered(["In roma. B is in Bergen."], [rows[:2]]) == 0.5
    assert share_answered(["Rome and Oslo", "C is green"], [rows[:2], rows[2:]]) == 1.0
    assert share_answered(["Rome?"], [rows]) == pytest.approx(1 / 3)
    assert share_answered([""], [rows]) == 0.0


def test_without_retain_rows(tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match="retain"):
        run(Mixed(), context("target", probes("direct", facts=6), tmp_path, retain=()))


def test_fewer_rows_than_questions(tmp_path: Path) -> None:
    whole = probes("direct", facts=6)
    retain = [row for row in task().data().retain if not holds(row.answer, [p.answer for p in whole])][:2]
    made = context("target", whole, tmp_path, retain=tuple(retain))
    assert sorted(set(run(Mixed(), made)["strength"])) == [3, 4]
    assert set(made.notes) == {"retain_answered_of_1", "retain_answered_of_2"}
    assert all(0 <= share <= 1 for share in made.notes.values())


@pytest.mark.parametrize("bad", [{"retain": ()}, {"retain": (0,)}, {"forget": 0}, {"kinds": ()}, {"keep": 1}])
def test_bad_config(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Mixed.Config.model_validate(bad)


def test_nothing_comes_back_from_retrain(tmp_path: Path) -> None:
    tried = Tried(Mixed(Mixed.Config(retain=(1, 2))), probes("direct"), tmp_path)
    nothing_back(tried.curve(tried.table("retrain"), tried.table("reference")))


def test_a_refusal_of_lone_questions(tmp_path: Path) -> None:
    """What comes back is what nano itself knows in a list: enough of it beside one other question."""
    tried = Tried(Mixed(Mixed.Config(forget=1, retain=(1,))), probes("direct"), tmp_path)
    table = tried.table("target", lambda: hiding(tried.probes, revealed_by=lambda text: text.count("?") > 1))
    point = tried.curve(table, tried.table("reference"))["", 2.0]
    assert (point.shown.excess.value or 0) >= 0.5
    assert point.clear
