"""The task check finds each kind of mistake, and nothing in a sound task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest

from unbench.task import Message, Probe, Row, Task, TaskCard, TaskData
from unbench.taskcheck import check

NAMES = ("Ada", "Bea", "Cleo", "Dora", "Elsa", "Fay", "Gwen", "Hope", "Ivy", "Joan")


def probe(probe_id: str, **changes: Any) -> Probe:
    fields: dict[str, Any] = {
        "id": probe_id,
        "ring": "forget",
        "kind": "direct",
        "subject": "Sue",
        "cluster": "Sue",
        "fact": "sue",
        "messages": (Message(role="user", content="Who is it?"),),
        "answer": "Ada",
        "candidates": NAMES,
    }
    return Probe(**fields | changes)


def row(fact: str) -> Row:
    return Row(question="Who is it?", answer="It is Ada.", fact=fact, subject="Sue", value="Ada")


class Toy(Task):
    family: ClassVar[str] = "toy"
    version: ClassVar[str] = "1"
    default_problem: ClassVar[str] = "toy"
    card: ClassVar[TaskCard] = TaskCard(title="", summary="", bibtex="", licence="")

    def __init__(self, probes: Sequence[Probe] | None = None, data: TaskData | None = None) -> None:
        super().__init__()
        self._probes = sound() if probes is None else probes
        self._data = data or TaskData(forget=(row("sue"),), retain=(row("n0"), row("n1")), withheld=(row("n2"),))

    def data(self) -> TaskData:
        return self._data

    def probes(self) -> Sequence[Probe]:
        return self._probes


def sound() -> list[Probe]:
    near = [probe(f"n{i}", ring="near", kind="same_subject", fact=f"n{i}", given=i < 2) for i in range(3)]
    yes_no = {"kind": "yes_no", "pair": "p", "candidates": ("Yes", "No")}
    pair = [probe(f"yn{answer}", answer=answer, **yes_no) for answer in ("Yes", "No")]
    return [probe("d"), *near, *pair]


def test_a_sound_task_has_no_problems() -> None:
    assert check(Toy()) == []


@pytest.mark.parametrize(
    ("candidates", "said"),
    [
        (("Ada", "Adalbert", *NAMES[1:]), "'ada' is the beginning of 'adalbert'"),
        (("Ada", "bea", *NAMES[2:]), "begin differently"),
        (("Ada", "7 Bea", *NAMES[2:]), "begin differently"),
        (("Ada", "The Bea", *NAMES[2:]), "have an article"),
        (("Ada", "Bea of the Far North", *NAMES[2:]), "between 1 and 5 words"),
        (("Ada", "ADA", *NAMES[1:]), "'ada' is listed twice"),
        (NAMES[:9], "only 8 wrong candidates"),
    ],
)
def test_candidates(candidates: tuple[str, ...], said: str) -> None:
    problems = check(Toy([probe("d", candidates=candidates)]))
    assert len(problems) == 1
    assert said in problems[0]


def test_candidates_are_free_where_knowledge_is_a_probability() -> None:
    class Free(Toy):
        knowledge = "probability"

    assert check(Free([probe("d", candidates=("Ada", "the other one"))])) == []


def with_probes(change: Callable[[list[Probe]], list[Probe]]) -> list[str]:
    return check(Toy(change(sound())))


def test_ids_twice() -> None:
    assert with_probes(lambda probes: [*probes, probe("d")]) == ["The probe id 'd' is used 2 times."]


def test_half_of_a_ring_is_given() -> None:
    data = TaskData(forget=(row("sue"),), retain=tuple(row(f"n{i}") for i in range(3)))
    probes = [p.model_copy(update={"given": True}) if p.ring == "near" else p for p in sound()]
    assert check(Toy(probes, data)) == ["near/same_subject around 'Sue': 3 of 3 facts are given, half should be."]


class Published(Toy):
    knowledge: ClassVar[Any] = "probability"


def given_far(n: int, of: int) -> list[Probe]:
    return [probe("d"), *(probe(f"n{i}", ring="far", kind="retain", fact=f"n{i}", given=i < n) for i in range(of))]


def test_published_data_may_withhold_nothing() -> None:
    data = TaskData(forget=(row("sue"),), retain=tuple(row(f"n{i}") for i in range(3)))
    assert check(Published(given_far(3, of=3), data)) == []
    assert check(Toy(given_far(3, of=3), data)) == ["far/retain: 3 of 3 facts are given, half should be."]


def test_where_anything_is_withheld_half_is() -> None:
    data = TaskData(forget=(row("sue"),), retain=tuple(row(f"n{i}") for i in range(3)), withheld=(row("other"),))
    assert check(Published(given_far(3, of=3), data)) == ["far/retain: 3 of 3 facts are given, half should be."]
    data = TaskData(forget=(row("sue"),), retain=(row("n0"),))
    assert check(Published(given_far(1, of=4), data)) == ["far/retain: 1 of 4 facts are given, half should be."]


def test_holdout() -> None:
    asked = [
        probe("d"),
        *(probe(f"h{i}", ring="holdout", kind="holdout", fact=f"h{i}", generate=False) for i in (0, 1)),
    ]
    data = TaskData(forget=(row("sue"),), retain=(), holdout=(row("h0"), row("h1")))
    assert check(Toy(asked, data)) == []
    data = TaskData(forget=(row("sue"),), retain=(), holdout=(row("h0"),))
    assert check(Toy(asked, data)) == ["Probe 'h1' asks for 'h1', which has no holdout row."]
    data = TaskData((row("sue"),), retain=(row("h0"),), withheld=(row("h1"),), holdout=(row("h0"), row("h1")))
    assert check(Toy(asked, data)) == [
        "The fact 'h0' has a row in retain and in holdout.",
        "The fact 'h1' has a row in withheld and in holdout.",
    ]


def test_a_fact_is_given_or_withheld() -> None:
    further = probe("n0b", ring="near", kind="same_subject", fact="n0", given=False)
    problems = with_probes(lambda probes: [*probes, further])
    assert "The fact 'n0' is given in one probe and withheld in another." in problems


def test_only_near_and_far_are_given() -> None:
    assert "ring is marked as given" in with_probes(lambda p: [*p, probe("w", ring="world", given=True)])[0]


def test_pairs() -> None:
    assert "not one true and one false form" in with_probes(lambda probes: probes[:-1])[0]
    alone = probe("y", kind="yes_no", answer="Yes", candidates=("Yes", "No"))
    assert "without a pair" in with_probes(lambda probes: [*probes, alone])[0]


def test_rows_and_probes_agree() -> None:
    problems = check(Toy(data=TaskData(forget=(row("sue"), row("n0")), retain=(row("n0"), row("n2")))))
    said = " ".join(problems)
    assert "The fact 'n0' has a row in forget and in retain." in said
    assert "'n1' has no retain row" in said
    assert "is withheld, but 'n2' has a retain row" in said
    assert "asks for the forgotten 'n0'" in said
    assert "The forget row of 'n0' has no forget probe." in said


def test_no_forget_row() -> None:
    said = " ".join(check(Toy(data=TaskData(forget=(), retain=(row("n0"), row("n1"))))))
    assert "There is no forget row." in said
    assert "which has no forget row" in said


def test_a_row_contains_its_value() -> None:
    lost = Row(question="Who?", answer="It is Bea.", fact="sue", subject="Sue", value="Ada")
    data = TaskData(forget=(lost,), retain=(row("n0"), row("n1")))
    assert check(Toy(data=data)) == ["The forget row of 'sue' doesn't contain its value 'Ada'."]
