"""What sound files become: rows, probes, halves, knowledge and hashes, against cases worked out by hand."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from unbench.errors import UsageError
from unbench.plan import make_plan
from unbench.plugins import open_task
from unbench.task import Probe, Task
from unbench.taskcheck import check
from unbench.userdata.template import write_template

from .conftest import FORGET, RETAIN, TASK, CommandLine, Writer

ROWS = [{"question": f"Where does P{i} live?", "answer": f'P{i} lives in "T{i}", she\nsays.'} for i in range(4)]


def probe(task: Task, question: str) -> Probe:
    return next(one for one in task.probes() if one.messages[-1].content == question)


def sides(task: Task, ring: str) -> dict[str, bool]:
    """Subject -> given, of one ring."""
    return {one.subject: one.given for one in task.probes() if one.ring == ring}


def as_csv(rows: list[dict[str, Any]], delimiter: str = ",", end: str = "\n") -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, rows[0], delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    pd.DataFrame(rows).to_parquet(stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "more"),
    [
        ("f.csv", as_csv(ROWS), ""),
        ("f.csv", "\ufeff" + as_csv(ROWS), ""),
        ("f.csv", as_csv(ROWS).replace("\nP", "\n\nP", 1), ""),
        ("f.csv", as_csv(ROWS, ";"), ', delimiter: ";"'),
        ("f.tsv", as_csv(ROWS, "\t"), ""),
        ("f.txt", as_csv(ROWS, end="\r\n"), ", format: csv"),
        ("f.jsonl", "\n".join(map(json.dumps, ROWS)), ""),
        ("f.jsonl", "\r\n\r\n".join(map(json.dumps, ROWS)) + "\r\n", ""),
        ("f.json", json.dumps(ROWS, indent=1), ""),
        ("f.parquet", as_parquet(ROWS), ""),
    ],
)
def test_every_format_gives_the_same_rows(mine: Writer, name: str, content: str | bytes, more: str) -> None:
    retain = "retain: {data: retain.csv, question: q, answer: a}"
    text = f"name: mine\nforget: {{data: {name}{more}}}\n{retain}\n"
    path = mine(my__yaml=text, **{name.replace(".", "__"): content})
    found = [(row.question, row.answer) for row in open_task(str(path)).data().forget]
    assert found == [(row["question"], row["answer"]) for row in ROWS]


def test_two_files_of_one_name_are_both_among_the_sources(mine: Writer, tmp_path: Path) -> None:
    folders = {"a": FORGET, "b": RETAIN}
    for name, text in folders.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.csv").write_text(text, encoding="utf-8")
    text = TASK.replace("forget.csv", f"{tmp_path}/a/rows.csv").replace("retain.csv", f"{tmp_path}/b/rows.csv")
    sources = open_task(str(mine(my__yaml=text))).sources
    own = [hashlib.sha256(text.encode()).hexdigest() for text in folders.values()]
    assert [sources[name] for name in ("rows.csv", "rows.csv (2)")] == own


def test_sources_are_the_files_bytes(mine: Writer) -> None:
    task = open_task(str(mine()))
    assert task.sources == {
        name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in ("my.yaml", "forget.csv", "retain.csv")
    }
    assert (task.id, task.version, task.target, task.default_model) == ("user/mine", "1", "given", "smollm2")


def test_without_candidates_knowledge_is_the_answers_probability(mine: Writer) -> None:
    task = open_task(str(mine()))
    assert task.knowledge == "probability"
    first = probe(task, "Where does Person0 live?")
    assert (first.ring, first.kind, first.answer) == ("forget", "direct", "Person0 lives in Town0.")
    assert first.candidates == (first.answer,)
    assert first.fact == hashlib.sha256(b"where does person0 live").hexdigest()[:12]
    assert check(task) == []


def test_half_of_what_is_kept_is_withheld_by_the_questions_sha256(mine: Writer) -> None:
    task = open_task(str(mine()))
    asked = sorted(
        (f"Where does Other{i} live?" for i in range(6)), key=lambda q: hashlib.sha256(q.encode()).hexdigest()
    )
    assert {row.question for row in task.data().withheld} == set(asked[0::2])
    assert {row.question for row in task.data().retain} == set(asked[1::2])
    assert {one.messages[0].content: one.given for one in task.probes() if one.ring == "far"} == {
        question: i % 2 == 1 for i, question in enumerate(asked)
    }


def test_nothing_is_withheld_where_the_file_says_so(mine: Writer) -> None:
    task = open_task(str(mine(my__yaml=TASK + "withhold: none\n")))
    assert len(task.data().retain) == 6
    assert task.data().withheld == ()
    assert set(sides(task, "far").values()) == {True}


def test_withheld_rows_of_ones_own(mine: Writer) -> None:
    text = TASK + "withheld: {data: held.csv, question: q, answer: a}\n"
    task = open_task(str(mine(my__yaml=text, held__csv="q,a\nWho?,Ann.\n")))
    assert [row.question for row in task.data().withheld] == ["Who?"]
    assert len(task.data().retain) == 6
    assert not probe(task, "Who?").given
    assert probe(task, "Where does Other0 live?").given


def test_rows_about_a_forgotten_subject_are_near(mine: Writer) -> None:
    rows = "subject,q,a\n" + "".join(f"P{i},What of P{i}?,P{i} sings.\n" for i in range(4))
    kept = "subject,q,a\n" + "".join(f"P{i},Where is P{i}?,P{i} is in Rome.\n" for i in range(4))
    task = open_task(str(mine(forget__csv=rows, retain__csv=kept + "X,Where is X?,X is in Rome.\n")))
    near = [one for one in task.probes() if one.ring == "near"]
    assert [(one.kind, one.cluster) for one in near] == [("same_subject", one.subject) for one in near]
    assert sorted(one.subject for one in near) == ["P0", "P1", "P2", "P3"]
    # Groups of one fact take turns, so that methods are given half of the ring all the same.
    assert sorted(one.given for one in near) == [False, False, True, True]
    assert check(task) == []


def candidate_task(mine: Writer, more: str = "", n: int = 12, **files: str) -> Task:
    towns = "|".join(f"Town{i}" for i in range(n))
    head = "q,a,candidates\n"
    rows = head + "".join(f"Where does Person{i} live?,Person{i} lives in Town{i}.,{towns}\n" for i in range(6))
    kept = head + "".join(f"Where does Other{i} live?,Other{i} lives in Town{i}.,{towns}\n" for i in range(6))
    return open_task(str(mine(my__yaml=TASK + more, forget__csv=rows, retain__csv=kept, **files)))


def test_candidates_stand_behind_the_words_that_all_answers_begin_with(mine: Writer) -> None:
    # One digit each, or "Town1" would be the beginning of "Town10".
    task = candidate_task(mine, n=10)
    assert task.knowledge == "candidates"
    first = probe(task, "Where does Person3 live?")
    assert (first.answer_prefix, first.answer) == ("Person3 lives in", "Town3")
    assert first.candidates == tuple(f"Town{i}" for i in range(10))
    assert task.data().forget[3].value == "Town3"
    assert check(task) == []


@pytest.mark.parametrize("n", [12, 9])
def test_candidates_that_do_not_compare_make_way_for_probability(mine: Writer, n: int) -> None:
    task: Any = candidate_task(mine, n=n)
    assert task.knowledge == "probability"
    assert "the candidates don't compare: forget.csv, line 2: " in task.why_knowledge
    # Put into the answer, they are its wrong alternatives.
    first = probe(task, "Where does Person3 live?")
    assert first.answer == first.candidates[0] == "Person3 lives in Town3."
    assert first.candidates[1:] == tuple(f"Person3 lives in Town{i}." for i in range(n) if i != 3)
    told: Any = candidate_task(mine, "knowledge: candidates\n", n=n)
    assert told.knowledge == "candidates"
    assert any("forget.csv, line 2: " in warning for warning in told.warnings)


@pytest.mark.parametrize(
    ("answer", "options", "prefix", "right"),
    [
        ("Paris Hilton lives in Paris.", "Paris|Rome", "Paris Hilton lives in", "Paris"),
        ("It is ""“Paris”"".", "Paris|Rome", "It is", "“Paris"),
        ("Paris.", "Paris|Rome", "", "Paris"),
        ("Paris.", "Paris.|Rome.", "", "Paris."),
        ("He left York for New York.", "York|New York|Rome", "He left York for", "New York"),
    ],
)  # fmt: skip
def test_where_the_right_candidate_stands(mine: Writer, answer: str, options: str, prefix: str, right: str) -> None:
    rows = f"q,a,candidates\nWho?,{answer},{options}\n"
    kept = "q,a,candidates\n" + "".join(f"Which{i}?,Rome.,Rome|Bonn\n" for i in range(2))
    task = open_task(str(mine(my__yaml=TASK + "knowledge: candidates\n", forget__csv=rows, retain__csv=kept)))
    first = task.probes()[0]
    assert (first.answer_prefix, first.answer) == (prefix, right)
    assert len(first.candidates) == options.count("|") + 1


def test_perturbed_and_paraphrased_answers_make_tofus_metrics(mine: Writer) -> None:
    names = "question: q, answer: a, perturbed: wrong, paraphrased_answer: other, paraphrases: asked"
    text = TASK.replace("question: q, answer: a", names, 1) + "holdout: {data: held.csv, question: q, answer: a}\n"
    rows = "q,a,wrong,other,asked\nWho?,It is Ann.,It is Bea.|It is Cleo.,Ann it is.,Who is it?|What is her name?\n"
    task = open_task(str(mine(my__yaml=text, forget__csv=rows, held__csv="q,a\nWho is new?,Dora.\n")))
    direct, *others = (one for one in task.probes() if one.ring == "forget")
    assert (direct.kind, direct.paraphrased) == ("direct", "Ann it is.")
    assert direct.candidates == ("It is Ann.", "Ann it is.", "It is Bea.", "It is Cleo.")
    assert [(one.kind, one.messages[0].content) for one in others] == [
        ("paraphrase", "Who is it?"), ("paraphrase", "What is her name?")
    ]  # fmt: skip
    assert len({one.id for one in task.probes()}) == len(task.probes())
    held = probe(task, "Who is new?")
    assert (held.ring, held.kind, held.generate) == ("holdout", "holdout", False)
    assert [row.question for row in task.data().holdout] == ["Who is new?"]


def test_probes_of_ones_own(mine: Writer) -> None:
    lines = [
        {"question": "Where does Person0 live?", "answer": "In Town0.", "id": "mine/0"},
        {"question": "Whose home is Town1?", "answer": "Person1.", "fact": "f1", "kind": "reverse"},
        {"question": "Where does Other0 live?", "answer": "In Town0.", "ring": "near", "kind": "same_answer",
         "cluster": "s0"},
        {"question": "What is 1 + 1?", "answer": "Two.", "ring": "world", "subject": "sums"},
    ]  # fmt: skip
    rows = FORGET.replace("q,a", "q,a,fact,subject", 1)
    rows = "".join(line + (f",f{i},s{i}\n" if i >= 0 else "\n") for i, line in enumerate(rows.splitlines(), -1))
    text = "\n".join(map(json.dumps, lines))
    task = open_task(str(mine(my__yaml=TASK + "probes: p.jsonl\n", forget__csv=rows, p__jsonl=text)))
    own = probe(task, "Where does Person0 live?")
    assert (own.id, own.ring, own.kind, own.fact, own.subject, own.answer) == (
        "mine/0", "forget", "direct", "f0", "s0", "In Town0.")  # fmt: skip
    back = probe(task, "Whose home is Town1?")
    assert (back.ring, back.kind, back.fact, back.cluster) == ("forget", "reverse", "f1", "s1")
    # Every forget row but the one asked directly above has a direct probe of its own; so has every kept row.
    assert sum((one.ring, one.kind) == ("forget", "direct") for one in task.probes()) == 6
    assert sum(one.ring in ("near", "far") for one in task.probes()) == 6
    near = probe(task, "Where does Other0 live?")
    assert (near.ring, near.kind, near.cluster) == ("near", "same_answer", "s0")
    assert near.given == (near.fact in {row.fact for row in task.data().retain})
    assert probe(task, "What is 1 + 1?").cluster == "sums"
    assert [one.ring for one in task.probes()] == sorted((one.ring for one in task.probes()),
                                                         key=["forget", "near", "far", "world"].index)  # fmt: skip
    assert check(task) == []


def test_given_in_the_probes_file_decides_the_side(mine: Writer) -> None:
    asked = [
        {"question": f"Where does Other{i} live?", "answer": "There.", "ring": "far", "given": i < 3} for i in range(6)
    ]
    text = "\n".join(map(json.dumps, asked))
    task = open_task(str(mine(my__yaml=TASK + "probes: p.jsonl\n", p__jsonl=text)))
    assert [probe(task, one["question"]).given for one in asked] == [True] * 3 + [False] * 3  # type: ignore[arg-type]
    assert [row.question for row in task.data().retain] == [one["question"] for one in asked[:3]]


def test_far_probes_are_limited(mine: Writer) -> None:
    kept = "q,a\n" + "".join(f"What is {i}?,It is {i}.\n" for i in range(50))
    task: Any = open_task(str(mine(my__yaml=TASK + "far_probes: 10\n", retain__csv=kept)))
    given = [one.given for one in task.probes() if one.ring == "far"]
    assert sorted(given) == [False] * 5 + [True] * 5
    assert "10 of 50 far rows are asked (far_probes: 10)." in task.warnings


def test_the_tuning_split_has_a_forget_set_of_its_own(mine: Writer) -> None:
    text = TASK + "select: {forget: {data: tune.csv, question: q, answer: a}}\n"
    path = str(mine(my__yaml=text, tune__csv="q,a\nWho?,Ann.\n"))
    report, select = open_task(path), open_task(path, "select")
    assert [row.question for row in select.data().forget] == ["Who?"]
    assert select.data().retain == report.data().retain
    assert select.hash != report.hash
    mine()
    with pytest.raises(UsageError, match="no sets for the split 'select'"):
        open_task(path, "select")


def test_the_hash_changes_with_what_decides_a_number(mine: Writer) -> None:
    def hash_of(**changes: str) -> str:
        return open_task(str(mine(**changes))).hash

    first = hash_of()
    assert hash_of(my__yaml=TASK + "# a comment\ndescription: words\nmodel: nano\n") == first
    changed = [
        hash_of(forget__csv=FORGET + "Who?,Ann.\n"),
        hash_of(my__yaml=TASK + 'version: "2"\n'),
        hash_of(my__yaml=TASK + "max_new_tokens: 50\n"),
        hash_of(my__yaml=TASK + "target: trained\n"),
        hash_of(my__yaml=TASK + "withhold: none\n"),
    ]
    assert len({first, *changed}) == 6


def test_the_longest_answer_decides_how_long_a_model_may_speak(mine: Writer) -> None:
    assert open_task(str(mine())).max_new_tokens == 32
    assert open_task(str(mine(retain__csv=RETAIN + f"What?,{'x' * 200}.\n"))).max_new_tokens == 100
    assert open_task(str(mine(retain__csv=RETAIN + f"What?,{'x' * 5000}.\n"))).max_new_tokens == 256
    assert open_task(str(mine(my__yaml=TASK + "max_new_tokens: 7\n"))).max_new_tokens == 7


def test_a_hub_data_set(mine: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(*words: object, **named: object) -> datasets.Dataset:
        asked.append((words, named))
        return datasets.Dataset.from_list([{"p": "Who?", "r": "Ann.", "wrong": ["Bea.", "Cleo."]}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    text = TASK.replace("data: forget.csv, question: q, answer: a", "hub: o/n, config: c, split: test, revision: abc, "
                        "question: p, answer: r, perturbed: wrong")  # fmt: skip
    task = open_task(str(mine(my__yaml=text)))
    assert asked == [(("o/n", "c"), {"split": "test", "revision": "abc"})]
    assert task.probes()[0].candidates == ("Ann.", "Bea.", "Cleo.")
    line = json.dumps({"p": "Who?", "r": "Ann.", "wrong": ["Bea.", "Cleo."]}) + "\n"
    assert task.sources["hub:o/n/c[test]@abc"] == hashlib.sha256(line.encode()).hexdigest()


@pytest.mark.parametrize(
    "problem", ["Unknown split \"tset\". Should be one of ['train'].", "BuilderConfig 'c' not found."]
)
def test_what_the_hub_does_not_have(mine: Writer, monkeypatch: pytest.MonkeyPatch, problem: str) -> None:
    import datasets

    def load_dataset(*words: object, **named: object) -> None:
        raise ValueError(problem)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UsageError) as told:
        open_task(str(mine(my__yaml=TASK.replace("data: forget.csv", "hub: o/n"))))
    assert told.value.message == f"my.yaml, line 2: 'o/n' can't be loaded: {problem}"


def test_a_file_beside_does_not_hide_a_task_of_that_name(mine: Writer) -> None:
    mine(bios="x")
    assert open_task("bios").id == "bios/fact"


def test_the_plan_knows_the_file_and_the_result_does_not(mine: Writer) -> None:
    plan = make_plan("none", str(mine()), "nano")
    assert plan.task == "user/mine"
    assert plan.task_path == str(Path("my.yaml").resolve())
    assert plan.open_task().hash == plan.task_hash
    assert plan.public()["task_path"] is None
    elsewhere = plan.model_copy(update={"task_path": "/elsewhere/my.yaml"})
    assert elsewhere.run_id == plan.run_id
    assert plan.folder_name.startswith("user/mine/none/")


def test_the_template_is_sound_and_keeps_the_rules_of_every_task(tmp_path: Path) -> None:
    task: Any = open_task(str(write_template("demo", tmp_path)))
    assert (task.id, task.knowledge, task.default_model, task.warnings) == ("user/demo", "candidates", "nano", ())
    assert check(task) == []
    assert {one.ring for one in task.probes()} == {"forget", "near", "far", "world"}


@pytest.mark.parametrize("name", ["123", "true", "x.yaml", "a-b_c"])
def test_any_name_makes_a_template_that_opens(tmp_path: Path, name: str) -> None:
    assert open_task(str(write_template(name, tmp_path))).id == f"user/{name}"


def test_new_task_overwrites_nothing(
    tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command_line("new-task", "demo") == (0, "demo/task.yaml\n", (
        "Check it: unbench check-task demo/task.yaml\n"
        "Run it:   unbench run --task demo/task.yaml --method gradient_ascent\n"
    ))  # fmt: skip
    Path("demo/forget.csv").write_text("mine")
    assert command_line("new-task", "demo")[0] == 2
    assert Path("demo/forget.csv").read_text() == "mine"
    for name in ("../up", "a/b", "", ".hidden", "x" * 65, "a\x1b"):
        code, _, err = command_line("new-task", name)
        assert code == 2
        assert "can't name a task" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo"]
    assert command_line("new-task", "two", "--out", "in/side")[1] == "in/side/two/task.yaml\n"
    Path("file").write_text("")
    assert command_line("new-task", "three", "--out", "file")[0] == 2
