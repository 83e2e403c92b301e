"""Finding result files: what is broken is named and left out."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from unbench.errors import UsageError
from unbench.leaderboard.reader import collect, latest


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_collect_reads_any_depth_in_path_order(tmp_path, make):
    for name in ("b/fact/npo/r2", "a/fact/npo/r1"):
        _write(tmp_path / name / "result.json", make(run_id=name[-2:]).model_dump_json(by_alias=True))
    found = collect(tmp_path)
    assert [result.run_id for result in found] == ["r1", "r2"]
    assert found[0].dir == str(tmp_path / "a/fact/npo/r1")


def test_collect_skips_and_names_what_it_cannot_read(tmp_path, make, caplog):
    good = json.loads(make().model_dump_json(by_alias=True))
    _write(tmp_path / "good/result.json", json.dumps(good))
    bad = {
        "cut": '{"schema": "unbench.re',
        "other": json.dumps(good | {"schema": "unbench.result/2"}),
        "list": "[]",
        "short": json.dumps({"schema": "unbench.result/1"}),
        "nan": json.dumps(good).replace("0.95", "NaN", 1),
        "bytes": "",
    }
    for name, text in bad.items():
        _write(tmp_path / name / "result.json", text)
    (tmp_path / "bytes/result.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder/result.json").mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        assert len(collect(tmp_path)) == 1
    for name in [*bad, "folder"]:
        assert sum(str(tmp_path / name / "result.json") in message for message in caplog.messages) == 1, name


def test_collect_of_no_folder_is_one_sentence(tmp_path):
    with pytest.raises(UsageError, match="There is no folder"):
        collect(tmp_path / "runs")
    assert collect(tmp_path) == []


def test_latest_takes_the_newest_of_a_run_whatever_the_clock_format_and_order(make):
    old = make(created="2026-01-02T03:04:05Z", seeds=(0,))
    new = make(created="2026-01-02T05:00:00+01:00", seeds=(0, 1))
    other = make(run_id="ffffffffffff", created="not a date")
    for order in ([old, new, other], [other, new, old]):
        assert [r.seeds for r in latest(order)] == [[0, 1], [0, 1, 2]]


def test_latest_never_mixes_task_versions_models_or_splits(make):
    results = [make(), make(task_hash="f" * 64), make(model="smollm2"), make(split="select"), make("other:npo")]
    assert len(latest(results)) == 5
