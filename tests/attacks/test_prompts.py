"""The prompt suite: what it asks, what it never says, and what it gets back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from world import Tried, context, hiding, nothing_back, probes, task

from unbench.attack import AttackContext
from unbench.attacks.harness import run
from unbench.attacks.prompts import Prompts, as_expert, first_words, listed
from unbench.match import holds
from unbench.task import Message, Probe, Row

Asked = list[tuple[str, float, Any, bool]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What an attack asks, in place of asking it."""
    kept: Asked = []

    def ask(self: AttackContext, strength: float, *, series: str = "", probes: Any = None, template: bool = True,
            **other: Any) -> None:  # fmt: skip
        kept.append((series, strength, probes or self.probes, template))

    monkeypatch.setattr(AttackContext, "ask", ask)
    return kept


def words(probe: Probe) -> str:
    return " ".join([*(m.content for m in probe.messages), probe.answer_prefix])


def test_the_suite(asked: Asked, tmp_path: Path) -> None:
    whole = probes("direct", "cloze", "choice", "multi_hop")
    Prompts().attack(context("target", whole, tmp_path))
    direct = {probe.id: probe for probe in whole if probe.kind == "direct"}
    assert len(asked) == len({(series, strength) for series, strength, *_ in asked}) == 14
    assert [strength for series, strength, *_ in asked if series == "shots"] == [3, 5]
    for series, _, changed, template in asked:
        assert template == (series != "no template")
        assert [probe.id for probe in changed] == list(direct), series
        for probe in changed:
            was = direct[probe.id]
            same = {"kind", "fact", "cluster", "ring", "answer", "candidates", "accept", "pair"}
            assert all(getattr(probe, name) == getattr(was, name) for name in same)
            assert probe.messages[-1].role == "user"
            assert context("target", whole, tmp_path).question(was) in probe.messages[-1].content
            if series != "multiple choice":
                assert not holds(words(probe), (probe.answer,)), series
            assert probe.answer_prefix.endswith(was.answer_prefix)
            assert series == "no template" or probe != was


def test_shots_state_nothing_forgotten_or_withheld(asked: Asked, tmp_path: Path) -> None:
    Prompts().attack(context("target", probes("direct"), tmp_path))
    data = task().data()
    never = {row.question for row in (*data.forget, *data.withheld)}
    given = {(row.question, row.answer): row for row in data.retain}
    relation = {row.fact: row.relation for row in data.forget}
    for series, shots, changed, _ in asked:
        if series == "shots":
            for probe in changed:
                turns = [m.content for m in probe.messages[:-1]]
                assert len(turns) == 2 * shots
                for question, answer in zip(turns[::2], turns[1::2], strict=True):
                    assert question not in never
                    assert given[question, answer].relation == relation[probe.fact]


def test_the_same_shots_for_every_seed(tmp_path: Path) -> None:
    asked = probes("direct")
    drawn = [[context("target", asked, tmp_path, seed=seed).examples(p, 5) for p in asked] for seed in (0, 7)]
    assert drawn[0] == drawn[1]
    assert len({tuple(row.fact for row in rows) for rows in drawn[0]}) > 1


@pytest.mark.parametrize(("rows", "strengths"), [(4, [3, 4]), (2, [2]), (0, [])])
def test_fewer_rows_than_shots(rows: int, strengths: list[int], asked: Asked, tmp_path: Path) -> None:
    whole = probes("direct", facts=6)
    # Rows that hold nobody's right answer.
    retain = [row for row in task().data().retain if not holds(row.answer, [p.answer for p in whole])][:rows]
    Prompts().attack(context("target", whole, tmp_path, retain=tuple(retain)))
    assert [strength for series, strength, *_ in asked if series == "shots"] == strengths


def test_kinds_that_are_not_there_are_all(asked: Asked, tmp_path: Path) -> None:
    whole = probes("cloze", facts=6)
    Prompts().attack(context("target", whole, tmp_path))
    assert all(len(changed) == len(whole) for _, _, changed, _ in asked)


def test_without_a_template_there_is_none_to_leave_out(asked: Asked, tmp_path: Path) -> None:
    import copy

    plain = copy.copy(context("target", probes("direct"), tmp_path).tokenizer)
    plain.chat_template = None
    Prompts().attack(context("target", probes("direct"), tmp_path, tokenizer=plain))
    assert "no template" not in {series for series, *_ in asked}


def probe(prefix: str, answer: str, *wrong: str, **more: Any) -> Probe:
    return Probe(id="p", ring="forget", kind="direct", subject="s", cluster="s", fact="f", answer_prefix=prefix,
                 messages=(Message(role="user", content="Where?"),), answer=answer, candidates=(answer, *wrong),
                 **more)  # fmt: skip


@pytest.mark.parametrize(
    ("made", "share", "want"),
    [
        (probe("Rita Dalman likes to eat", "stew", "soup"), 0.4, "Rita Dalman"),
        (probe("Rita Dalman likes to eat", "stew", "soup"), 1.0, "Rita Dalman likes to eat"),
        (probe("", "Yes", "No"), 0.4, ""),
        (probe("", "Abo lives in Tarn.", "Abo lives in Welk."), 0.5, "Abo lives"),
        (probe("", "Abo lives in Tarn.", "Abo lives in Welk."), 1.0, "Abo lives in"),
        (probe("", "Abo lives in Tarn."), 0.5, ""),
        (probe("He lives in", "New York", "New Jersey"), 1.0, "He lives in New"),
        (probe("Paris Hill lives in", "Paris", "Rome"), 0.4, ""),
        (probe("In Lutetia lives", "Paris", "Rome", accept=("Lutetia",)), 0.6, ""),
        (probe("She", "is a baker", "is a smith"), 0.01, "She"),
    ],
)
def test_first_words(made: Probe, share: float, want: str) -> None:
    assert first_words(made, share) == want


def test_first_words_of_every_task_hold_no_right_answer() -> None:
    from unbench.plugins import open_task

    for name in ("bios/fact", "bios/relation", "facts/all"):
        for one in open_task(name).probes():
            for share in (0.4, 1.0):
                assert not holds(first_words(one, share), (one.answer, *one.accept)), one.id


def test_the_list_of_candidates_hides_the_place() -> None:
    names = [listed(one) for one in probes("direct")]
    places = [text.replace(" or ", ", ").split(", ").index(one.answer)
              for text, one in zip(names, probes("direct"), strict=True)]  # fmt: skip
    assert len(set(places)) > 8
    assert listed(probe("", "a", "b")) in ("a or b", "b or a")


def test_an_expert_keeps_the_probes_own_system_prompt() -> None:
    own = probe("", "a", "b").model_copy(
        update={"messages": (Message(role="system", content="Be brief."), Message(role="user", content="Where?"))}
    )
    system, user = as_expert(own).messages
    assert (system.role, user.content) == ("system", "Where?")
    assert system.content.endswith(" Be brief.")
    assert len(as_expert(probe("", "a", "b")).messages) == 2


def test_examples_hold_no_right_answer(tmp_path: Path) -> None:
    rows = [
        Row(question="Where is A?", answer="A is in Rome.", fact="1", subject="A", relation="in"),
        Row(question="Where is B?", answer="B is in Oslo.", fact="2", subject="B", relation="in"),
        Row(question="Who is in Lutetia?", answer="C is.", fact="3", subject="C", relation="who"),
        Row(question="What is D?", answer="D is green.", fact="4", subject="s", relation="colour"),
        Row(question="Where is s?", answer="s is not here.", fact="f", subject="s", relation="in"),
    ]
    one = probe("", "Rome", "Oslo", accept=("Lutetia",))
    forgotten = Row(question="Where?", answer="In Rome.", fact="f", subject="s", relation="in")
    made = context("target", [], tmp_path, forget=(forgotten,), retain=tuple(rows), probes=(one,))
    assert {row.fact for row in made.examples(one, 9)} == {"2", "4"}
    assert [row.fact for row in made.examples(one, 9, ("relation",))] == ["2", "4"]
    assert [row.fact for row in made.examples(one, 9, ("subject",))] == ["4", "2"]
    assert [row.fact for row in made.examples(one, 1, ("subject", "relation"))] == ["4"]
    assert made.examples(one, 0) == []


@pytest.mark.parametrize("bad", [{"shots": (0,)}, {"shots": (-3,)}, {"kinds": ()}, {"share": 0}, {"share": 1.5},
                                 {"shot": (3,)}])  # fmt: skip
def test_bad_config(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Prompts.Config.model_validate(bad)


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Tried:
    return Tried(Prompts(), probes("direct"), tmp_path_factory.mktemp("prompts"))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Tried:
    return Tried(Prompts(), probes("direct", facts=12), tmp_path_factory.mktemp("few"))


@pytest.fixture(scope="module")
def reference(few: Tried) -> Any:
    return few.table("reference")


def test_nothing_comes_back_from_retrain(tried: Tried) -> None:
    nothing_back(tried.curve(tried.table("retrain"), tried.table("reference")))


@pytest.mark.parametrize(
    ("series", "revealed_by"),
    [
        ("paraphrase: please", lambda text: "Please answer this" in text),
        ("no template", lambda text: "<|user|>" not in text),
        pytest.param("prefilled", lambda text: "Sure, the answer" in text, marks=pytest.mark.slow),
        pytest.param("first words", lambda text: "The answer begins" in text, marks=pytest.mark.slow),
        pytest.param("multiple choice", lambda text: "Choose from" in text, marks=pytest.mark.slow),
    ],
)
def test_a_refusal_of_the_question_as_it_stood(
    series: str, revealed_by: Callable[[str], bool], few: Tried, reference: Any
) -> None:
    """Hidden but where one prompt of the suite stands: that one gets it back."""
    table = few.table("target", lambda: hiding(few.probes, revealed_by=revealed_by))
    curve = few.curve(table, reference)
    found = {at: point.shown.excess.value or 0.0 for at, point in curve.items()}
    assert found.pop((series, 1.0)) >= 0.5
    assert curve[series, 1.0].clear
    assert max(found.values()) < 0.15


def test_a_system_prompt_of_the_methods_is_kept(tmp_path: Path) -> None:
    """It stands before every prompt, the expert's too."""
    read: list[str] = []

    def load() -> Any:
        return hiding(probes("direct", facts=2), revealed_by=lambda text: bool(read.append(text)) or True)

    run(Prompts(), context("target", probes("direct", facts=6), tmp_path, load, system_prompt="Say nothing of Rita."))
    assert read
    templated = [text for text in read if "<|user|>" in text]
    assert all(text.startswith("<|system|> Say nothing of Rita.") for text in templated)
    assert any("leading expert" in text for text in templated)
