"""A meta-evaluation on disk: interrupted and taken up, damaged, asked again; the page; the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from unbench.errors import RunFailed
from unbench.metaeval import asked as asking
from unbench.metaeval import keep, page, record, run, train
from unbench.metaeval.asked import COLUMNS, LISTS, Answers, Questions
from unbench.metaeval.pools import PoolModel
from unbench.metaeval.record import MetaEval
from unbench.metaeval.settings import Settings
from unbench.sweep.record import SweepRun

TINY = Settings(pool=5, facts=2, methods=())


def unmade(spec: PoolModel, settings: Settings) -> tuple[Any, float | None]:
    """Stands for a training: the model is only named."""
    return spec, (1.0 if spec.steps else None)


def unasked(spec: PoolModel, target: Any, tokenizer: Any, asked: Questions) -> pd.DataFrame:
    """Stands for the asking of a model that knows as much as its pool should."""
    rng = np.random.default_rng(spec.seed + (spec.side == "knows") * 10_000)
    share = rng.uniform(0.7, 1.0) if spec.side == "knows" else rng.uniform(0.0, 0.3)
    blank: dict[str, Any] = {name: [] for name in LISTS} | {"answer": "", "text": ""}
    rows: list[dict[str, Any]] = []
    for probe in (*asked.probes, *asked.sentences):
        own = share * rng.uniform(0.8, 1.0) * (probe.ring == "forget")
        row = blank | {
            "probe": probe.id, "kind": probe.kind, "cluster": probe.cluster, "fact": probe.fact, "known": own,
            "rank": (1 - own) / 2, "recall": float(own > 0.5), "candidates": len(probe.candidates),
        }  # fmt: skip
        if probe in asked.probes:
            rows.append(row | {"part": "probe", "lens": [0.0, own / 2, own]})
            continue
        part = "sentence" if probe.ring == "forget" else "holdout"
        rows.append(row | {
            "part": part, "rank": float("nan"), "answer": probe.answer, "text": probe.answer if own > 0.5 else "No.",
            "wrong": [2.0] * (len(probe.candidates) - 1), "logprobs": [-0.1, own - 1.5], "argmax": [True, own > 0.5],
            "mean": [-4.0, -5.0], "variance": [2.0, 3.0],
        })  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def knowing() -> Answers:
    return Answers(unasked(PoolModel("target", "knows", "target", "target"), None, None, run._questions(TINY.facts)))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Everything but training and asking; holds the names of what was made."""
    made: list[str] = []

    def counting(spec: PoolModel, settings: Settings) -> tuple[Any, float | None]:
        made.append(spec.name)
        return unmade(spec, settings)

    monkeypatch.setattr(train, "make", counting)
    monkeypatch.setattr(run, "ask", unasked)
    return made


def same(found: MetaEval) -> dict[str, Any]:
    return found.model_dump(mode="json", exclude={"cpu_s"})


def test_interrupted_and_taken_up_it_ends_with_the_same_json(tmp_path: Path, quick: list[str]) -> None:
    whole = run.metaeval(tmp_path / "whole", TINY)
    assert len(quick) == 10
    quick.clear()

    def stop(description: str, done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.metaeval(tmp_path / "cut", TINY, progress=stop)
    assert not (tmp_path / "cut" / "metaeval.json").exists()
    first = list(quick)
    damaged = tmp_path / "cut" / "models" / first[0] / "answers.parquet"
    damaged.write_bytes(damaged.read_bytes()[:100])
    quick.clear()
    again = run.metaeval(tmp_path / "cut", TINY)
    assert quick == [first[0], *[entry.name for entry in whole.pools if entry.name not in first]]
    assert same(again) == same(whole)
    quick.clear()
    assert same(run.metaeval(tmp_path / "cut", TINY)) == same(whole)
    assert quick == []
    assert record.read(tmp_path / "cut") == again


def test_other_settings_make_only_what_they_need(tmp_path: Path, quick: list[str]) -> None:
    run.metaeval(tmp_path, TINY)
    quick.clear()
    found = run.metaeval(tmp_path, TINY.model_copy(update={"pool": 6}))
    assert len(found.pools) == 12
    assert sorted(quick) == ["others-01", "paraphrased-02"]


def test_a_method_that_failed_is_tried_again(tmp_path: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def failing(out: Path, settings: Settings, jobs: int, say: Any) -> list[SweepRun]:
        asked.append(1)
        return [
            SweepRun(method="unbench:npo", task="bios/fact", model="nano", seeds=[0], state="failed", error="it broke")
        ]

    monkeypatch.setattr(run, "_unlearn", failing)
    monkeypatch.setattr(run, "_states", lambda *args, **options: ({"before": keep.Kept(knowing(), None, 0.0)}, 0.0))
    settings = TINY.model_copy(update={"methods": ("npo",)})
    for time_ in (1, 2):
        found = run.metaeval(tmp_path, settings)
        assert [entry.reason for entry in found.unlearned if not entry.control] == ["it broke"]
        assert len(asked) == time_
    assert not found.is_final
    monkeypatch.setattr(run, "_unlearn", lambda *args: [])
    assert run.metaeval(tmp_path, settings).is_final


def test_a_pool_that_learnt_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "make", lambda spec, settings: (spec, 0.5 if spec.steps else None))
    monkeypatch.setattr(run, "ask", unasked)
    with pytest.raises(RunFailed, match="Hardly a model"):
        run.metaeval(tmp_path, TINY)


def test_what_a_model_is_asked_comes_back_from_the_file_as_it_was(tmp_path: Path) -> None:
    target, tokenizer = run._target()
    asked = asking.ask(target, target, tokenizer, run._questions(2))
    back = keep.keep(tmp_path, "target", "key", lambda: (asked, None)).answers
    for column in asked.columns:
        for one, other in zip(asked[column], back.table[column], strict=True):
            if isinstance(one, list):
                assert np.array_equal(one, other)
            else:
                assert one == other or (one != one and other != other)
    # Behind the target's last layer the lens reads the κ that is scored.
    assert [row[-1] for row in back.probes["lens"]] == pytest.approx(list(back.probes["known"]), abs=1e-4)
    assert back.probes["known"].min() > 0.5
    # A whole sentence with its end token: p(a|q) as TOFU has it.
    first = back.table[back.table["part"] == "sentence"].iloc[0]
    assert first["known"] == pytest.approx(np.exp(np.mean(first["logprobs"])))
    assert len(first["wrong"]) == first["candidates"] - 1 == 19
    assert keep.kept(tmp_path, "target", "another key") is None


@pytest.mark.slow
@pytest.mark.parametrize("variety", ["paraphrased", "wrong"])
def test_a_model_learns_what_its_pool_says(variety: Any) -> None:
    model, learnt = train.make(PoolModel("x", "knows", variety, "reference", 9, 2e-3, 12), TINY)
    assert learnt is not None
    assert learnt >= 0.9
    target, tokenizer = run._target()
    table = asking.ask(model, target, tokenizer, run._questions(6))
    known = table[table["kind"] == "paraphrase"]["known"].mean()
    assert known > 0.7 if variety == "paraphrased" else known < 0.2


def test_the_page_escapes_what_it_shows_and_needs_nobody(tmp_path: Path, quick: list[str]) -> None:
    found = run.metaeval(tmp_path, TINY)
    evil = "<script>alert(1)</script>"
    found.measures[0].title = evil
    found.pools[0].name = evil
    text = page.html(found)
    assert evil not in text
    assert text.count("&lt;script&gt;") >= 3  # table, plot and models
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    drawing = ElementTree.fromstring(page.svg(found.measures))
    labels = [node.text for node in drawing.iter("text") if node.get("class") == "label"]
    assert labels == [one.title for one in found.measures]
    assert (tmp_path / "index.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def unbench(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "unbench", *words], capture_output=True, text=True, check=False, **more
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--pool", "many"], "--pool is 'many'"),
        (["--pool", "3"], "pool"),
        (["--methods", "npoo"], "Did you mean 'npo'?"),
        (["--show"], "holds no meta-evaluation"),
        (["--seeds", "0"], "--seeds"),
        (["--jobs", "0"], "--jobs"),
    ],
)
def test_wrong_options_get_one_sentence(words: list[str], sentence: str, tmp_path: Path) -> None:
    done = unbench("metaeval", "--out", str(tmp_path / "out"), *words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_show_prints_the_finished_file_and_refuses_another(tmp_path: Path, quick: list[str]) -> None:
    found = run.metaeval(tmp_path, TINY)
    done = unbench("metaeval", "--show", "--json", "--out", str(tmp_path))
    assert json.loads(done.stdout) == found.model_dump(mode="json", by_alias=True)
    (tmp_path / "metaeval.json").write_text('{"schema": "other"}')
    done = unbench("metaeval", "--show", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "is no meta-evaluation" in done.stderr


@pytest.mark.slow
def test_the_command_killed_and_started_again_ends_with_the_same_json(tmp_path: Path) -> None:
    words = ["metaeval", "--pool", "small", "--out"]
    whole = unbench(*words, str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    cut = str(tmp_path / "cut")
    process = subprocess.Popen([sys.executable, "-m", "unbench", *words, cut], stderr=subprocess.PIPE, text=True)
    waited = 0.0
    while len(list((tmp_path / "cut").glob("models/*/model.json"))) < 4 and waited < 300:
        time.sleep(0.2)
        waited += 0.2
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert "go on with: unbench metaeval" in said
    again = unbench(*words, cut)
    assert again.returncode == 0, again.stderr
    files = [json.loads((tmp_path / name / "metaeval.json").read_text()) for name in ("whole", "cut")]
    for one in files:
        del one["cpu_s"]
    assert files[0] == files[1]
    attacked = [one for one in files[0]["unlearned"] if not one["control"]]
    assert [one["name"] for one in attacked] == ["gradient_ascent-0"]
    assert set(attacked[0]["before"]) == set(attacked[0]["quantised"]) == set(attacked[0]["relearnt"])


@pytest.mark.slow
def test_two_processes_make_the_same_models(tmp_path: Path) -> None:
    settings = Settings(pool=5, facts=2, checkpoints=(4,), methods=())
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    try:
        one = run.metaeval(alone, settings)
    except RunFailed:  # four steps teach too little to count, which is not what is asked here
        one = None
    try:
        other = run.metaeval(shared, settings, jobs=2)
    except RunFailed:
        other = None
    assert (one is None) == (other is None)
    for folder in sorted((alone / "models").iterdir()):
        first, second = (
            json.loads((base / "models" / folder.name / "model.json").read_text()) for base in (alone, shared)
        )
        assert {k: v for k, v in first.items() if k != "cpu_s"} == {k: v for k, v in second.items() if k != "cpu_s"}
    assert os.path.isdir(shared / "models" / "target")
