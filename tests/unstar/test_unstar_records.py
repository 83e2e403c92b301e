"""``anti_samples.jsonl``: written, read, shown."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from unstar_fakes import World

from unbench.errors import UsageError
from unbench.unstar.records import AntiSample, read, reasons, render, write

LINE = AntiSample(round=1, role="forget", stage="paraphrase", fact="f", question="q?", paraphrase="p?", kept=True)


def shown(records: list[AntiSample]) -> str:
    out = io.StringIO()
    render(records, Console(file=out, width=160))
    return out.getvalue()


def test_a_run_reads_back_as_written(world: World, tmp_path: Path) -> None:
    world.run()
    records = world.records
    write(tmp_path / "copy.jsonl", records)
    assert read(tmp_path / "copy.jsonl") == records == read(world.folder)
    assert {record.stage for record in records} == {"paraphrase", "wrong_answer", "rationale", "anti_sample"}
    assert {record.role for record in records} == {"forget", "retain"}
    assert all(record.reason for record in records if not record.kept)


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_any_text_round_trips(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("any") / "anti_samples.jsonl"
    line = LINE.model_copy(update={"paraphrase": text, "reason": text})
    write(path, [line, line])
    assert read(path) == [line, line]
    shown([line, line.model_copy(update={"kept": False})])


def test_a_missing_file_and_a_broken_line_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no anti-samples"):
        read(tmp_path)
    path = tmp_path / "anti_samples.jsonl"
    path.write_text(LINE.model_dump_json() + "\n{}\n", encoding="utf-8")
    with pytest.raises(UsageError, match="line 2"):
        read(path)


def test_reasons_count_every_writing() -> None:
    bad = LINE.model_copy(update={"kept": False, "reason": "empty", "times": 3})
    assert reasons([LINE, bad, bad]) == {"paraphrase": {"empty": 6, "usable": 1}}


def test_shown_readably(world: World) -> None:
    world.run()
    text = shown(world.records)
    assert "city/Ada Vane (forget) Where does Ada Vane live?" in text
    assert text.index("→ Ada Vane lives in") < text.index("wrong answers:")
    assert "paraphrase: " in text
    assert "usable" in text
    assert text.index("(forget)") < text.index("(retain)")


def test_markup_in_a_generation_is_only_text() -> None:
    line = LINE.model_copy(update={"stage": "anti_sample", "completion": "[bold]x[/nothing]", "fact": "[red]"})
    assert "[bold]x[/nothing]" in shown([line])
