"""A result comes from a stranger: what it holds is shown as it stands, and a damaged one is one sentence."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import unbench as ub

EVIL = "[/nope][red]x[/red][link=http://e]y[/link] \x1b[31m\x07\x9b1m\x7f :smile:"
SEEN = "[/nope][red]x[/red][link=http://e]y[/link]"
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def unbench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "unbench", *words],
        capture_output=True, text=True, check=False, env=_environment(),
    )  # fmt: skip


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONIOENCODING": "utf-8"}


def squeezed(text: str) -> str:
    """A table's text without frames and folds."""
    return re.sub(r"[\s│┃|]", "", text)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real run."""
    return Path(ub.run("none", "bios/fact", limit=6, out=tmp_path_factory.mktemp("runs")).dir)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def alter(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    body = json.loads((run / "result.json").read_text())
    change(body)
    (run / "result.json").write_text(json.dumps(body))


def poison(run: Path) -> None:
    def change(body: dict[str, Any]) -> None:
        body |= dict.fromkeys(("run_id", "method", "task", "split", "model", "device", "dtype"), EVIL)
        body["scores"]["forget"] |= {"reason": EVIL}
        for group in body["groups"]:
            group |= {"ring": EVIL, "kind": EVIL, "counted": False, "given": False, "reason": EVIL}

    alter(run, change)
    frame = pd.read_parquet(run / "probes.parquet")
    for name in ("kind", "question", "text_target", "text_seed_0"):
        frame[name] = EVIL
    frame.to_parquet(run / "probes.parquet")


@pytest.mark.parametrize("words", [["show"], ["show", "--probes"], ["compare"]])
def test_values_are_neither_markup_nor_controls(run: Path, words: list[str]) -> None:
    poison(run)
    done = unbench(*words, str(run))
    assert done.returncode == 0, done.stderr
    assert squeezed(SEEN)[:6] in squeezed(done.stdout)
    assert not CONTROLS.search(done.stdout)
    assert "😃" not in done.stdout


@pytest.mark.parametrize("words", [["show"], ["show", "--probes"], ["compare"]])
def test_json_escapes_every_control(run: Path, words: list[str]) -> None:
    poison(run)
    done = unbench(*words, str(run), "--json")
    assert done.returncode == 0, done.stderr
    assert not CONTROLS.search(done.stdout)
    assert EVIL in _strings(json.loads(done.stdout))


def _strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for one in value.values() for text in _strings(one)]
    if isinstance(value, list):
        return [text for one in value for text in _strings(one)]
    return [value] if isinstance(value, str) else []


DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "no scores": lambda body: body.pop("scores"),
    "no seeds": lambda body: body.update(seeds=[]),
    "huge": lambda body: body["compute"].update(peak_memory_bytes=10**400),
    "negative": lambda body: body["compute"].update(tokens_trained=-1),
    "evil key": lambda body: body.update({EVIL: 1}),
    "evil schema": lambda body: body.update(schema=EVIL),
}
BYTES = {
    "list": b"[]",
    "empty": b"",
    "random": b"\xff\xfe\x00\x9b31m",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep plan": b'{"schema": "unbench.result/1", "plan": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
    "infinite": b'{"schema": "unbench.result/1", "plan": {"a": 1e999}}',
}


@pytest.mark.parametrize("what", [*DAMAGE, *BYTES])
def test_a_damaged_result_is_one_sentence(run: Path, what: str) -> None:
    file = run / "result.json"
    if what in BYTES:
        file.write_bytes(BYTES[what])
    else:
        alter(run, DAMAGE[what])
    for words in (["show"], ["show", "--probes"], ["compare"]):
        assert_one_sentence(unbench(*words, str(run)), file)


def test_missing_or_damaged_probes_are_one_sentence(run: Path) -> None:
    file = run / "probes.parquet"
    whole = file.read_bytes()
    alter(run, lambda body: body.update(seeds=[0, 7]))
    done = unbench("show", "--probes", str(run))
    assert_one_sentence(done, file)
    assert "known_seed_7" in done.stderr
    for content in (whole[: len(whole) // 2], b""):
        file.write_bytes(content)
        assert_one_sentence(unbench("show", "--probes", str(run)), file)
    file.unlink()
    assert_one_sentence(unbench("show", "--probes", str(run)), file)


def assert_one_sentence(done: subprocess.CompletedProcess[str], file: Path) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1
    assert str(file) in done.stderr
    assert not CONTROLS.search(done.stderr.rstrip("\n"))
    assert done.stdout == ""


def test_warnings_of_collect_hold_no_controls(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    from unbench.leaderboard.reader import collect

    alter(run, DAMAGE["evil key"])
    with caplog.at_level(logging.WARNING):
        assert collect(run.parent) == []
    assert len(caplog.messages) == 1
    assert not CONTROLS.search(caplog.text.rstrip("\n"))


def test_probes_as_json_and_by_ring(run: Path) -> None:
    frame = pd.read_parquet(run / "probes.parquet")
    frame.loc[0, "known_seed_0"] = float("nan")
    frame.to_parquet(run / "probes.parquet")
    body = json.loads(unbench("show", "--probes", "--json", str(run)).stdout)
    assert body["schema"] == "unbench.probes/1"
    assert len(body["rows"]) == len(frame)
    assert body["rows"][0]["known_seed_0"] is None
    assert set(body["rows"][0]) == set(frame.columns)
    near = json.loads(unbench("show", "--ring", "near", "--json", str(run)).stdout)
    assert {row["ring"] for row in near["rows"]} == {"near"}
    assert "Probes, seeds 0" in unbench("show", "--ring", "near", str(run)).stdout


def test_probes_of_several_seeds(run: Path) -> None:
    alter(run, lambda body: body.update(seeds=[0, 1]))
    frame = pd.read_parquet(run / "probes.parquet")
    frame["known_seed_0"], frame["known_seed_1"], frame["text_seed_1"] = 0.25, 0.75, "other"
    frame.to_parquet(run / "probes.parquet")
    shown = unbench("show", "--probes", str(run)).stdout
    for figure in ("0.25", "0.50", "0.75"):
        assert figure in shown


@pytest.mark.parametrize("words", [["show"], ["show", "--probes"], ["show", "--probes", "--json"]])
def test_a_reader_that_goes_away_is_no_error(run: Path, words: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "unbench", *words, str(run)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_environment(),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0
    assert errors == b""


def test_anti_samples_are_shown_as_written() -> None:
    from io import StringIO

    from rich.console import Console

    from unbench.unstar.records import AntiSample, render

    out = StringIO()
    record = AntiSample(round=1, role="forget", stage="anti_sample", fact=EVIL, question=EVIL, completion=EVIL,
                        kept=True, reason=EVIL)  # fmt: skip
    dropped = AntiSample(round=1, role="forget", stage="rationale", fact=EVIL, question=EVIL, rationale=EVIL,
                         kept=False, reason=EVIL)  # fmt: skip
    render([record, dropped], Console(file=out, width=400))
    assert SEEN in out.getvalue()
    assert not CONTROLS.search(out.getvalue())


def test_a_date_before_the_calendar(run: Path) -> None:
    from unbench.leaderboard.reader import created, parse_result

    alter(run, lambda body: body.update(created_utc="0001-01-01T00:00:00+14:00"))
    assert created(parse_result(run / "result.json")).year == 1


def test_progress_reads_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    from unbench.cli.progress import progress_bars

    with progress_bars(quiet=False) as progress:
        progress(EVIL, 1, 2)
    seen = capsys.readouterr().err
    assert SEEN in seen
    assert not CONTROLS.search(seen.rstrip("\n"))
