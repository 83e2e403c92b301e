"""Broken task files and data: each gives one clear sentence with file and line, exit code 2, and leaves nothing."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unbench.errors import UnbenchError
from unbench.plugins import open_task
from unbench.userdata.read import MAX_BYTES

from .conftest import FORGET, RETAIN, TASK, CommandLine, Contents, Writer, write

PROBES = TASK + "probes: probes.jsonl\n"
WITH_CANDIDATES = "name: mine\nforget: forget.csv\nretain: retain.csv\n"
HEAD = "question,answer,candidates\n"


def line(**values: object) -> str:
    return json.dumps(values) + "\n"


def candidates(cell: str, answer: str = "Ann lives in Oslo.") -> dict[str, Contents]:
    rest = "".join(f"Where is {n}?,{n} is in Rome.,Oslo|Rome|Bonn\n" for n in ("Bea", "Cleo"))
    other = "".join(f"Where is {n}?,{n} is in Bonn.,Oslo|Rome|Bonn\n" for n in ("Dora", "Elsa"))
    return {"my.yaml": WITH_CANDIDATES, "forget.csv": f"{HEAD}Where is Ann?,{answer},{cell}\n{rest}",
            "retain.csv": HEAD + other}  # fmt: skip


def parquet(**columns: object) -> bytes:
    stream = io.BytesIO()
    pd.DataFrame(columns).to_parquet(stream)
    return stream.getvalue()


def probes(*lines: str) -> dict[str, Contents]:
    return {"my.yaml": PROBES, "probes.jsonl": "".join(lines)}


ASK = {"question": "Who is it?", "answer": "It is Ann."}
WHERE0 = "Where does Person0 live?"

BROKEN: dict[str, tuple[dict[str, Contents], str, str]] = {
    # the task file
    "no such task file": ({"my.yaml": None}, "my.yaml: ", "there is no such file"),
    "bad YAML": ({"my.yaml": "name: mine\nforget: [\n"}, "my.yaml, line ", "this is not valid YAML"),
    "empty task file": ({"my.yaml": ""}, "my.yaml, line 1: ", "the file is empty"),
    "not a mapping": ({"my.yaml": "- a\n- b\n"}, "my.yaml, line 1: ",
                      "fields such as name: and forget:, and this is a list"),
    "unknown field": ({"my.yaml": TASK + "retian: x.csv\n"}, "my.yaml, line 4: ", "did you mean 'retain'?"),
    "unknown field of a set": (
        {"my.yaml": TASK.replace("question: q, answer: a}\nretain", "qestion: q, answer: a}\nretain")},
        "my.yaml, line 2: ", "field 'qestion' is unknown; did you mean 'question'?"),
    "no forget set": ({"my.yaml": "name: mine\nretain: retain.csv\n"}, "my.yaml, line 1: ",
                      "field 'forget' is missing"),
    "a set that is a number": ({"my.yaml": "name: mine\nforget: 5\nretain: r.csv\n"}, "my.yaml, line 2: ",
                               "it is a file's name, or a mapping"),
    "a name that leaves the folder": ({"my.yaml": TASK.replace("mine", "../../etc")}, "my.yaml, line 1: ",
                                      "can't name a folder"),
    "a name with a control character": ({"my.yaml": TASK.replace("mine", '"a\\e[31m"')}, "my.yaml, line 1: ",
                                        "can't name a folder"),
    "wrong type": ({"my.yaml": TASK + "max_new_tokens: many\n"}, "my.yaml, line 4: ", "not 'many'"),
    "unknown target": ({"my.yaml": TASK + "target: taken\n"}, "my.yaml, line 4: ", "'given' or 'trained'"),
    "a version that is a float": ({"my.yaml": TASK + "version: 1.10\n"}, "my.yaml, line 4: ", "text in quotes"),
    "aliases that unfold": ({"my.yaml": "a: &a [x, x]\nb: &b [*a, *a]\n"}, "my.yaml, line 2: ", "no aliases (*a)"),
    "nested too deep": ({"my.yaml": "a: " + "[" * 2000}, "my.yaml, line 1: ", "nested too deep"),
    "python tags": ({"my.yaml": TASK + "description: !!python/name:os.system\n"}, "my.yaml, line 4: ",
                    "not valid YAML"),
    "withheld and withhold": ({"my.yaml": TASK + "withhold: half\nwithheld: retain.csv\n"}, "my.yaml, line 4: ",
                              "leave one out"),
    "a file and the hub": ({"my.yaml": "name: mine\nforget: {data: forget.csv, hub: a/b}\nretain: retain.csv\n"},
                           "my.yaml, line 2: ", "one of the two"),
    "a hub id that is a path": ({"my.yaml": "name: mine\nforget: {hub: ../x}\nretain: retain.csv\n"},
                                "my.yaml, line 2: ", "looks like owner/name"),
    # files
    "missing file": ({"forget.csv": None, "forgte.csv": FORGET}, "my.yaml, line 2: ",
                     "there is no file 'forget.csv'; did you mean 'forgte.csv'?"),
    "unknown format": ({"my.yaml": TASK.replace("forget.csv", "forget.xlsx"), "forget.xlsx": "x"}, "my.yaml, line 2: ",
                       "the format of 'forget.xlsx' is unknown"),
    "a folder": ({"my.yaml": TASK.replace("forget.csv", ".")}, "my.yaml, line 2: ", "is not a file"),
    "empty file": ({"forget.csv": ""}, "forget.csv: ", "the file is empty"),
    "header only": ({"forget.csv": "q,a\n"}, "forget.csv: ", "there are no rows in it"),
    "not UTF-8": ({"forget.csv": FORGET.encode() + "Wo?,Zürich.\n".encode("latin-1")}, "forget.csv, line 8: ",
                  "the byte 0xfc is not UTF-8"),
    "UTF-16": ({"forget.csv": FORGET.encode("utf-16")}, "forget.csv, line 1: ", "the text is UTF-16"),
    "NUL bytes": ({"forget.csv": FORGET.encode() + b"a\0b,c\n"}, "forget.csv, line 8: ", "there is a NUL byte"),
    # columns and cells
    "missing column": ({"forget.csv": FORGET.replace("q,a", "q,b", 1)}, "my.yaml, line 2: ",
                       "forget.csv has no column 'a'; it has: q, b."),
    "missing default column": ({"my.yaml": TASK.replace(", question: q, answer: a", "")}, "forget.csv, line 1: ",
                               "there is no column 'question'. There are: q, a."),
    "semicolons": ({"forget.csv": FORGET.replace(",", ";")}, "forget.csv, line 1: ", "separated by semicolons?"),
    "a column twice": ({"forget.csv": FORGET.replace("q,a", "q,q", 1)}, "forget.csv, line 1: ", "'q' is there twice"),
    "ragged row": ({"forget.csv": FORGET + "Who?,It is Ann, of course.\n"}, "forget.csv, line 8: ",
                   "3 cells under 2 columns; a cell that holds commas needs quotes"),
    "open quote": ({"forget.csv": FORGET + 'Who?,"It is Ann.\n'}, "forget.csv, line 8: ", "never closed"),
    "a cell without an end": ({"forget.csv": FORGET + f"Who?,{'x' * 140_000}\n"}, "forget.csv, line 8: ",
                              "a cell has over 131,072 characters"),
    "empty question": ({"forget.csv": FORGET + ",It is Ann.\n"}, "forget.csv, line 8: ", "the question is empty"),
    "empty answer": ({"forget.csv": FORGET + "Who?,  \n"}, "forget.csv, line 8: ", "the answer is empty"),
    "line behind quoted line breaks": ({"forget.csv": FORGET + '"Who\nis\nit?",It is Ann.\nWhere?,\n'},
                                       "forget.csv, line 11: ", "the answer is empty"),
    # rows against one another
    "the same row twice": ({"forget.csv": FORGET + FORGET.split("\n")[1] + "\n"}, "forget.csv, line 8: ",
                           "this row is in forget twice, at line 2 already"),
    "two answers": ({"forget.csv": FORGET + "where does person0 live,Person0 lives in Rome.\n"}, "forget.csv, line 8: ",
                    "this question has another answer at line 2"),
    "overlap": ({"retain.csv": RETAIN + "WHERE does Person2 live?,Person2 lives in Town2.\n"}, "retain.csv, line 8: ",
                "is in forget and retain: it also stands at forget.csv, line 4"),
    "overlap of facts": (
        {"my.yaml": TASK, "forget.csv": "fact,q,a\nx,Who?,Ann.\n", "retain.csv": RETAIN.replace("q,a", "q,a,fact", 1)
         .replace(".\n", ".,\n") + "Who is she?,Ann.,x\n"}, "retain.csv, line 8: ",
        "the fact 'x' is in forget and retain"),
    "both forget sets": ({"my.yaml": TASK + "select: {forget: {data: forget.csv, question: q, answer: a}}\n"},
                         "forget.csv, line 2: ", "is in both forget sets (report and select)"),
    "too few rows to withhold half": ({"retain.csv": RETAIN.split("\n")[0] + "\n" + RETAIN.split("\n")[1] + "\n"},
                                      "retain.csv, line 2: ", "leaves nothing to give"),
    # candidates
    "candidates without the answer": (candidates("Rome|Bonn"), "forget.csv, line 2: ",
                                      "the answer 'Ann lives in Oslo.' holds none of the candidates 'Rome', 'Bonn'"),
    "one candidate": (candidates("Oslo"), "forget.csv, line 2: ", "the only candidate is 'Oslo'"),
    "a candidate twice": (candidates("Oslo|Rome|Rome"), "forget.csv, line 2: ", "lists 'Rome' twice"),
    "a wrong candidate that is right": (candidates("Oslo|oslo."), "forget.csv, line 2: ",
                                        "the wrong candidate 'oslo.' is also a right answer"),
    "two candidates in the answer": (candidates("Oslo|Rome", "Ann left Rome for Oslo."), "forget.csv, line 2: ",
                                     "2 candidates stand in the answer"),
    "no candidates where they are wanted": (
        {**candidates(""), "my.yaml": WITH_CANDIDATES + "knowledge: candidates\n"}, "forget.csv, line 2: ",
        "this forget question has none"),
    "a wrong answer that is right": (
        {"my.yaml": TASK, "forget.csv": 'q,a,perturbed\nWho?,It is Ann.,It is Bea.|it is ann\n'},
        "forget.csv, line 2: ", "the wrong answer 'it is ann' is also the right answer"),
    "a value that is not in the answer": ({"forget.csv": "q,a,value\nWho?,It is Ann.,Bea\n"}, "forget.csv, line 2: ",
                                          "the value 'Bea' doesn't stand in the answer"),
    # JSON lines, JSON, Parquet
    "bad JSON line": (probes(line(**ASK, ring="world"), "{'question': 1}\n"), "probes.jsonl, line 2: ",
                      "this is not valid JSON (Expecting property name"),
    "a list for a row": (probes("[1, 2]\n"), "probes.jsonl, line 1: ", "an object is wanted"),
    "nested JSON": (probes("[" * 100_000 + "\n"), "probes.jsonl, line 1: ", "this is not valid JSON"),
    "wrong type in JSON": (probes(line(question="When?", answer=1969, ring="world")), "probes.jsonl, line 1: ",
                           "'answer' must be text, not a number (1969)"),
    "a candidate that is a number": (
        probes(line(question="When?", answer="In 1969.", candidates=[1969, 1970], ring="world")),
        "probes.jsonl, line 1: ", "'candidates' must hold texts, not a number (1969)"),
    "half a character": (probes('{"question": "\\ud800", "answer": "x"}\n'), "probes.jsonl, line 1: ",
                         "half of a character"),
    "a NUL character": (probes('{"question": "a\\u0000", "answer": "x"}\n'), "probes.jsonl, line 1: ",
                        "a NUL character"),
    "a control character in an id": (probes(line(**ASK, ring="world", id="a\x1b[31m")), "probes.jsonl, line 1: ",
                                     "'id' holds a control character"),
    "a comma too many": (
        {"my.yaml": TASK + "probes: probes.json\n", "probes.json": f"[\n{line(**ASK, ring='world')},\n]"},
        "probes.json, line 3: ", "this is not valid JSON"),
    "a bad entry of a JSON list": (
        {"my.yaml": TASK + "probes: probes.json\n", "probes.json": f"[\n{line(**ASK, ring='world')},\n7]"},
        "probes.json, line 4: ", "an object is wanted"),
    "not Parquet": ({"my.yaml": TASK + "probes: p.parquet\n", "p.parquet": "question"}, "p.parquet: ",
                    "this can't be read as Parquet"),
    "wrong type in Parquet": (
        {"my.yaml": TASK + "probes: p.parquet\n",
         "p.parquet": parquet(question=["a", "b"], answer=[1.5, 2.5], ring=["world", "world"])},
        "p.parquet, row 1: ", "'answer' must be text, not a number (1.5)"),
    # probes
    "duplicate probe": (probes(line(**ASK, ring="world"), line(**ASK, ring="world", kind="other")),
                        "probes.jsonl, line 2: ", "this probe asks what line 1 asks"),
    "duplicate probe id": (probes(line(**ASK, ring="far", id="x"), line(question="?", answer="x", ring="far", id="x")),
                           "probes.jsonl, line 2: ", "the probe id 'x' is used at probes.jsonl, line "),
    "unknown ring": (probes(line(**ASK, ring="wrold")), "probes.jsonl, line 1: ",
                     "there is no ring 'wrold'; did you mean 'world'?"),
    "a kind that is no name": (probes(line(**ASK, ring="world", kind="A b")), "probes.jsonl, line 1: ",
                               "the kind 'A b' names a metric"),
    "a kind that is taken": (probes(line(question=WHERE0, answer="In Town0.", kind="quality")),
                             "probes.jsonl, line 1: ", "forget_quality is a metric of its own"),
    "a forget probe of nothing": (probes(line(**ASK)), "probes.jsonl, line 1: ", "which no forget row has"),
    "a far probe of what is forgotten": (probes(line(question=WHERE0, answer="In Town0.", ring="far")),
                                         "probes.jsonl, line 1: ", "a fact that is to be forgotten"),
    "a near probe of nobody": (probes(line(**ASK, ring="near", cluster="Person9")), "probes.jsonl, line 1: ",
                               "'Person9' is no forgotten subject"),
    "given that is not": (probes(line(**ASK, ring="far", given=True)), "probes.jsonl, line 1: ",
                          "no retain row has its fact"),
    "given that is no truth value": (probes(line(**ASK, ring="far", given="perhaps")), "probes.jsonl, line 1: ",
                                     "'given' must be true or false"),
    "half a pair": (probes(line(question=WHERE0 + " Yes?", answer="Yes.", ring="world", kind="yes_no", pair="p")),
                    "probes.jsonl, line 1: ", "is not one true and one false form"),
    "yes_no without a pair": (probes(line(**ASK, ring="world", kind="yes_no")), "probes.jsonl, line 1: ",
                              "needs a pair"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_data_gives_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_line: CommandLine
) -> None:
    changes, where, sentence = BROKEN[name]
    monkeypatch.chdir(tmp_path)
    write(tmp_path, changes)
    before = sorted(tmp_path.rglob("*"))
    for words in (["check-task", "my.yaml"], ["run", "--task", "my.yaml", "--method", "none", "--model", "nano"]):
        code, out, err = command_line(*words)
        assert code == 2, err
        assert out == ""
        assert err.startswith(f"Error: {where}"), err
        assert sentence in err
        assert len(err.splitlines()) == 1
        assert str(tmp_path) not in err
        assert not re.search("[\x00-\x09\x0b-\x1f]", err)
    assert sorted(tmp_path.rglob("*")) == before


def test_json_says_what_is_wrong(mine: Writer, command_line: CommandLine) -> None:
    mine(forget__csv="")
    code, out, err = command_line("check-task", "my.yaml", "--json")
    body = json.loads(out)
    assert (code, body["ok"]) == (2, False)
    assert body["error"] == err.removeprefix("Error: ").strip()


def test_rows_are_no_task(mine: Writer, command_line: CommandLine) -> None:
    mine()
    code, _, err = command_line("run", "--task", "forget.csv")
    assert code == 2
    assert "forget.csv holds rows; a task is a YAML file that names them. 'unbench new-task NAME'" in err


def test_a_large_file_is_refused_unread(mine: Writer, command_line: CommandLine) -> None:
    mine()
    with open("forget.csv", "ab") as stream:
        stream.truncate(MAX_BYTES + 1)
    code, _, err = command_line("check-task", "my.yaml")
    assert code == 2
    assert "forget.csv has over 256 MiB" in err


def test_an_unreachable_hub_is_the_environments_fault(mine: Writer, command_line: CommandLine) -> None:
    mine(my__yaml=TASK.replace("data: forget.csv", "hub: nobody/nothing"))
    code, out, err = command_line("check-task", "my.yaml")
    assert (code, out) == (3, "")
    assert "my.yaml, line 2: " in err
    assert "'nobody/nothing' can't be fetched from the hub" in err
    assert len(err.splitlines()) == 1


def test_folders_and_ids_are_not_files(mine: Writer, command_line: CommandLine) -> None:
    mine()
    Path("inside").mkdir()
    Path("my.yaml").rename("inside/task.yaml")
    code, _, err = command_line("run", "--task", "inside")
    assert code == 2
    assert "Did you mean 'inside/task.yaml'?" in err
    assert "Name the file" in command_line("run", "--task", "user/mine")[2]
    assert "takes no --data-dir" in command_line("run", "--task", "inside/task.yaml", "--data-dir", ".")[2]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["my.yaml", "forget.csv", "probes.jsonl", "probes.json", "p.parquet"]),
    kept=st.integers(0, 200),
    noise=st.one_of(st.binary(max_size=80), st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace"))),
)
def test_noise_never_gives_anything_but_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, name: str, kept: int, noise: bytes
) -> None:
    folder = tmp_path_factory.mktemp("noise")
    sound: dict[str, bytes] = {
        "my.yaml": TASK.encode(),
        "forget.csv": FORGET.encode(),
        "probes.jsonl": (line(**ASK, ring="world") * 3).encode(),
        "probes.json": f"[{line(**ASK, ring='world')}]".encode(),
        "p.parquet": parquet(question=["a"], answer=["b"], ring=["world"]),
    }
    changes: dict[str, Contents] = {name: sound[name][:kept] + noise + sound[name][kept:]}
    if name.startswith("p"):
        changes["my.yaml"] = TASK + f"probes: {name}\n"
    try:
        task = open_task(str(write(folder, changes)))
    except UnbenchError as problem:
        assert str(problem)  # noqa: PT017
    else:
        assert len(task.hash) == 64


def test_no_kind_of_forget_probe_takes_the_name_of_a_published_metric() -> None:
    from unbench.metrics.catalogue import PUBLISHED
    from unbench.userdata.sets import TAKEN

    assert {name.removeprefix("forget_") for name in PUBLISHED if name.startswith("forget_")} <= TAKEN
