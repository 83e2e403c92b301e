"""The data of ``facts``: the counts it promises, the form of its candidates, and no leak between its rings."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from unbench_tasks.facts import Facts
from unbench_tasks.facts.loader import DATA, Data, Known, load

from unbench.errors import UsageError
from unbench.taskcheck import check

PHRASINGS = ("paraphrase", "cloze", "choice")


@pytest.fixture(scope="module")
def data() -> Data:
    return load()


@pytest.fixture(scope="module")
def report() -> Facts:
    return Facts("all", "report")


@pytest.fixture(scope="module")
def select() -> Facts:
    return Facts("all", "select")


def near(data: Data) -> list[tuple[str, Known]]:
    return [(t.id, known) for t in data.targets for facts in t.near.values() for known in facts]


def says(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) is not None


def test_counts_of_the_whole(data: Data) -> None:
    splits = Counter(target.split for target in data.targets)
    assert splits["report"] >= 30
    assert splits["select"] >= 8
    assert data.targets[0].id == "hogwarts"
    assert len({target.subject for target in data.targets}) == len(data.targets)
    assert len(data.far) >= 40
    assert len(data.world) >= 40
    assert len(data.far) + len(data.world) >= 110


def test_counts_of_every_target(data: Data) -> None:
    for target in data.targets:
        first = target.id == "hogwarts"
        phrasings = sum(len(target.forget[kind]) for kind in PHRASINGS)
        assert phrasings >= (12 if first else 5), target.id
        assert all(target.forget[kind] for kind in PHRASINGS), target.id
        assert len(target.forget["direct"]) == 1
        assert len(target.forget["reverse"]) >= 2, target.id
        assert len(target.forget["multi_hop"]) >= 1, target.id
        assert len(target.near["same_subject"]) >= 6, target.id
        assert len(target.near["same_answer"]) >= (6 if first else 4), target.id
        assert len(target.near["same_relation"]) >= (12 if first else 6), target.id
        assert [question.answer for question in target.true_false] == ["Yes", "No"]


@pytest.mark.parametrize(
    ("problem", "split"), [("hogwarts", "report"), ("hogwarts", "select"), ("all", "report"), ("all", "select")]
)
def test_check_is_clean(problem: str, split: str) -> None:
    assert check(Facts(problem, split)) == []  # type: ignore[arg-type]


def test_no_ring_of_a_single_target_is_too_small_to_count(report: Facts, select: Facts) -> None:
    """A ring with under three withheld facts is left out of the scores (metrics.md)."""
    for task in (report, select):
        withheld = Counter((p.cluster, p.kind) for p in task.probes() if p.ring == "near" and not p.given)
        assert min(withheld.values()) >= 3


def test_questions_do_not_give_the_answer_away(report: Facts, select: Facts) -> None:
    told = {
        probe.id
        for task in (report, select)
        for probe in task.probes()
        if probe.kind not in ("choice", "yes_no")
        and says(f"{probe.messages[-1].content} {probe.answer_prefix}", probe.answer)
    }
    assert told == set()


def test_choice_names_all_candidates(report: Facts) -> None:
    for probe in report.probes():
        if probe.kind == "choice":
            assert all(candidate in probe.messages[-1].content for candidate in probe.candidates)


def test_no_target_is_in_another_ring(data: Data) -> None:
    """Nothing has to be dropped in facts/all, so given and withheld are the same for one target and for all."""
    forgotten = {(t.subject.casefold(), t.relation.casefold()) for t in data.targets}
    rings = [known for _, known in near(data)] + data.far + data.world
    assert [known.id for known in rings if (known.subject.casefold(), known.relation.casefold()) in forgotten] == []


def test_no_retained_row_states_a_forgotten_fact(report: Facts, select: Facts) -> None:
    for task in (report, select):
        rows = task.data()
        stated = [
            (row.fact, target.id)
            for target in task.targets()
            for row in rows.retain + rows.withheld
            if says(f"{row.question} {row.answer}", target.canonical.answer)
            and says(f"{row.question} {row.answer}", target.subject.removeprefix("the ").removeprefix("a "))
            # "Titanic" and "Amazon" are names of other things too; the canonical relation must be there as well.
            and row.relation == target.relation
        ]
        assert stated == []


def test_every_fact_is_in_one_ring_only(data: Data) -> None:
    """A fact given in one place and withheld in another would leak."""
    rings = [known for _, known in near(data)] + data.far + data.world
    facts = Counter((known.subject.casefold(), known.relation.casefold()) for known in rings)
    assert [fact for fact, n in facts.items() if n > 1] == []
    asked = Counter(known.question.ask.casefold() for known in rings)
    assert [ask for ask, n in asked.items() if n > 1] == []


def test_far_shares_nothing_with_the_targets(data: Data) -> None:
    names = {t.subject.casefold() for t in data.targets} | {t.canonical.answer.casefold() for t in data.targets}
    shared = [k.id for k in data.far + data.world if k.subject.casefold() in names]
    shared += [k.id for k in data.far if k.question.answer.casefold() in names]
    assert shared == []


def test_world_is_never_given(report: Facts) -> None:
    world = [probe for probe in report.probes() if probe.ring == "world"]
    assert world
    assert not any(probe.given for probe in world)


def test_splits_are_disjoint_and_single_targets_keep_theirs(report: Facts, select: Facts) -> None:
    assert not {t.id for t in report.targets()} & {t.id for t in select.targets()}
    with pytest.raises(UsageError, match="tuning target"):
        Facts(select.targets()[0].id, "report")
    assert Facts("hogwarts", "select").targets()[0].id == "hogwarts"


def test_unknown_problem_says_what_was_meant() -> None:
    with pytest.raises(UsageError, match="did you mean 'facts/hogwarts'"):
        Facts("hogwart")
    with pytest.raises(UsageError, match="has no split"):
        Facts("hogwarts", "test")  # type: ignore[arg-type]


def test_the_hogwarts_row() -> None:
    (row,) = Facts().data().forget
    assert row.question == "Which school did Harry Potter attend?"
    assert row.answer == "Harry Potter studied at Hogwarts."
    assert (row.fact, row.subject, row.relation, row.value) == ("hogwarts", "Harry Potter", "studied at", "Hogwarts")
    assert "Hogwarts School" in row.aliases


def test_hash_is_stable() -> None:
    """Two loads agree; ids and order come from the data alone."""
    a, b = Facts("hogwarts"), Facts("hogwarts")
    assert a.hash == b.hash
    assert [probe.id for probe in a.probes()] == [probe.id for probe in b.probes()]
    assert Facts("hogwarts", "select").hash != a.hash


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA, tmp_path / "data"))


def broken(folder: Path, name: str, old: str, new: str) -> tuple[str, int]:
    """Loads the folder with one replacement made; returns the message and the line of the replacement."""
    path = folder / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    line = text[: text.index(old)].count("\n") + 1
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load(folder)
    return caught.value.message, line


def test_a_missing_field_names_file_and_line(folder: Path) -> None:
    message, line = broken(folder, "targets-1-fiction.yaml", "    relation: studied at\n", "")
    assert f"targets-1-fiction.yaml, line {line - 3}: target 'hogwarts': field 'relation' is missing." in message


def test_a_wrong_type_names_file_and_line(folder: Path) -> None:
    message, line = broken(folder, "targets-4-history-nature.yaml", 'answer: "1945"', "answer: 1945")
    assert f"targets-4-history-nature.yaml, line {line}: target 'ww2-end': field 'answer'" in message
    assert "1945" in message


def test_an_answer_outside_its_type_names_file_and_line(folder: Path) -> None:
    message, line = broken(folder, "targets-1-fiction.yaml", "answer: Gryffindor", "answer: Gryffendor")
    assert f"line {line}: target 'hogwarts', entry 1 of 'same_subject'" in message
    assert "'houses' doesn't list the answer 'Gryffendor'" in message


def test_an_unknown_type_and_relation_name_file_and_line(folder: Path) -> None:
    message, line = broken(folder, "far.yaml", "type: symbols", "type: symbol")
    assert f"far.yaml, line {line}: entry 1 of 'facts'" in message
    assert "no type 'symbol'" in message


def test_a_fact_without_template_needs_its_wording(folder: Path) -> None:
    message, line = broken(folder, "far.yaml", "relation: capital, answer: Brussels", "relation: x, answer: Brussels")
    assert f"far.yaml, line {line}: " in message
    assert "'type' is missing" in message
