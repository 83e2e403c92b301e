"""Rows: what is written is what is read, and its scores are those of the answers themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from unbench.metrics.scores import measure
from unbench.responses import table_of
from unbench.results.schema import AttackResult, Score
from unbench.submissions.lock import locked_attack
from unbench.submissions.rows import LEAST, MAX_ANSWER, Of, Own, plain_text, read_attacks, read_rows, write_attacks
from unbench.submissions.rows import write_rows as write
from unbench.submissions.strict import Refused, pack, unpack
from unbench.submissions.yardstick import Lock, LockedModel, LockedTask, read_lock, write_lock
from unbench.task import Knowledge, Probe

from .world import REFERENCE, TARGET, UNLEARNED, attack_table, frame_of, probes_of

READ = ("probe", "ring", "kind", "subject", "cluster", "fact", "given", "pair", "continuation", "candidate",
        "is_right", "is_paraphrase", "question", "text", "finished", "recalled")  # fmt: skip
"""Columns that metrics read and that stay as they were."""
KINDS: tuple[Knowledge, ...] = ("candidates", "probability")


def models(knowledge: Knowledge) -> tuple[tuple[Probe, ...], dict[Of, pd.DataFrame]]:
    tokens = knowledge == "probability"
    probes = probes_of(knowledge, pairs=not tokens)
    return probes, {seed: frame_of(probes, "unlearned", UNLEARNED, 7 + seed, tokens=tokens) for seed in (0, 5)}


def rounded(frame: pd.DataFrame) -> pd.DataFrame:
    """The same answers with four decimals: by numpy, not by the code under test."""

    def four(value: Any) -> Any:
        return value if value is None else [float(x) for x in np.round(np.asarray(value, dtype=np.float64), 4)]

    columns = {name: list(frame[name]) for name in frame.columns}
    columns["logprob"] = [round(float(x), 4) for x in frame["logprob"]]
    for name in ("token_logprobs", "token_mean", "token_variance"):
        columns[name] = [four(value) for value in columns[name]]
    return table_of(columns)


@pytest.mark.parametrize("knowledge", KINDS)
def test_what_is_written_is_read(knowledge: Knowledge) -> None:
    probes, frames = models(knowledge)
    own: dict[Of, Own] = {0: Own({"f": ["It is Ghent.", "é\n\tü"]}, ("forget/direct/0",)), 5: Own()}
    found = read_rows(write(frames, own, probes, knowledge), probes, knowledge)
    assert list(found.frames) == [0, 5]
    assert found.own == own
    for seed, frame in frames.items():
        again = found.frames[seed]
        pd.testing.assert_frame_equal(again[list(READ)], frame[list(READ)], check_dtype=True)
        np.testing.assert_allclose(again["logprob"], frame["logprob"], atol=5.1e-5)
        assert again["logprob"].dtype == frame["logprob"].dtype
        if knowledge == "probability":
            same_tokens(again, frame)


def same_tokens(again: pd.DataFrame, frame: pd.DataFrame) -> None:
    right = frame["is_right"].to_numpy(dtype=bool)
    assert list(again["n_tokens"]) == list(frame["n_tokens"])
    assert list(again.loc[right, "token_argmax"]) == list(frame.loc[right, "token_argmax"])
    for name in ("token_logprobs", "token_mean", "token_variance"):
        for one, other in zip(again.loc[right, name], frame.loc[right, name], strict=True):
            np.testing.assert_allclose(one, other, atol=5.1e-5)
    means = [[np.mean(row) for row in table.loc[~right, "token_logprobs"]] for table in (again, frame)]
    np.testing.assert_allclose(*means, atol=1e-4)
    np.testing.assert_allclose(again["gradnorm"], frame["gradnorm"], atol=5.1e-5)


@pytest.mark.parametrize("knowledge", KINDS)
def test_scores_are_those_of_the_answers(knowledge: Knowledge) -> None:
    probes, frames = models(knowledge)
    tokens = knowledge == "probability"
    target = frame_of(probes, "target", TARGET, 1, tokens=tokens)
    references = [frame_of(probes, f"reference-{k}", REFERENCE, 10 + k, tokens=tokens) for k in (1, 2)]
    beside: dict[Of, pd.DataFrame] = {"target": target, "reference-1": references[0], "reference-2": references[1]}
    after = read_rows(write(frames, {}, probes, knowledge), probes, knowledge).frames
    yard = read_rows(write(beside, {}, probes, knowledge), probes, knowledge).frames
    found = measure({int(of): one for of, one in after.items()}, yard["target"],
                    [yard["reference-1"], yard["reference-2"]], knowledge=knowledge)  # fmt: skip
    expected = measure({int(of): rounded(one) for of, one in frames.items()}, rounded(target),
                       [rounded(one) for one in references], knowledge=knowledge)  # fmt: skip
    exact = measure({int(of): one for of, one in frames.items()}, target, references, knowledge=knowledge)
    assert len(found.metrics) > 10
    for one, other, first in zip(*(numbers(m.model_dump()) for m in (found, expected, exact)), strict=True):
        assert one[0] == other[0] == first[0]
        # A wrong answer's tokens are kept as their mean alone, so the last digits may differ there.
        assert math.isclose(one[1], other[1], rel_tol=2e-4 if tokens else 1e-9, abs_tol=2e-4 if tokens else 1e-9), one
        if "ks" not in one[0] and "quality" not in one[0]:
            assert math.isclose(one[1], first[1], rel_tol=2e-2, abs_tol=5e-3), (one, first)


def numbers(value: Any, where: str = "") -> list[tuple[str, float]]:
    if isinstance(value, Mapping):
        return [found for key, inner in value.items() for found in numbers(inner, f"{where}.{key}")]
    if isinstance(value, list):
        return [found for i, inner in enumerate(value) for found in numbers(inner, f"{where}.{i}")]
    return [(where, float(value))] if isinstance(value, int | float) else []


def test_a_pair_stays_a_pair() -> None:
    probes, frames = models("candidates")
    again = read_rows(write(frames, {}, probes, "candidates"), probes, "candidates").frames[0]
    pair = again[again["pair"] == "forget/yesno/3"]
    assert set(pair["probe"]) == {"forget/yesno/3/Yes", "forget/yesno/3/No"}
    assert again["pair"].isna().sum() == (frames[0]["pair"].isna()).sum()


def test_answers_without_control_characters() -> None:
    probes, frames = models("candidates")
    frame = frames[0]
    said = "a\x00b\x1b[2J\u202e\u200b\ue000 é\n\t" + "x" * 9000
    first = frame["probe"] == probes[0].id
    frame.loc[first, "text"] = said
    frame.loc[first, "recalled"] = False
    again = read_rows(write(frames, {}, probes, "candidates"), probes, "candidates").frames[0]
    text = again["text"].iloc[0]
    assert text == plain_text(said)
    assert text.startswith("a\ufffdb\ufffd[2J\ufffd\ufffd\ufffd é\n\tx")
    assert len(text) == MAX_ANSWER
    assert plain_text("\ud800") == "\ufffd"


def test_the_impossible_is_a_number() -> None:
    probes, frames = models("candidates")
    frames[0].loc[0, "logprob"] = -np.inf
    again = read_rows(write(frames, {}, probes, "candidates"), probes, "candidates").frames[0]
    assert again["logprob"].iloc[0] == LEAST
    frames[0].loc[0, "logprob"] = np.nan
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(frames, {}, probes, "candidates")


def test_other_probes_are_refused() -> None:
    probes, frames = models("candidates")
    with pytest.raises(ValueError, match="other probes"):
        write(frames, {}, probes[1:], "candidates")
    swapped = probes[0].model_copy(update={"candidates": probes[0].candidates[::-1]})
    with pytest.raises(ValueError, match="other candidates"):
        write(frames, {}, (swapped, *probes[1:]), "candidates")
    with pytest.raises(Refused, match=r"has 90 probes; the task has"):
        read_rows(write(frames, {}, probes, "candidates"), probes[1:], "candidates")


def test_a_reference_needs_no_holdout() -> None:
    probes, frames = models("candidates")
    frame = frames[0][frames[0]["ring"] != "holdout"].reset_index(drop=True)
    again = read_rows(write({"reference-1": frame}, {}, probes, "candidates"), probes, "candidates")
    assert len(again.frames["reference-1"]) == len(frame)


def test_a_task_without_holdout_leaves_none_out() -> None:
    """``facts`` has no people that nobody saw: its runs are whole without them."""
    probes, frames = models("candidates")
    fewer = tuple(probe for probe in probes if probe.ring != "holdout")
    frame = frames[0][frames[0]["ring"] != "holdout"].reset_index(drop=True)
    again = read_rows(write({0: frame}, {}, fewer, "candidates"), fewer, "candidates")
    assert len(again.frames[0]) == len(frame)
    with pytest.raises(Refused, match="only a reference may leave out"):
        read_rows(write({0: frame}, {}, probes, "candidates"), probes, "candidates")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ('"tok":[[', '"tok":[[-1.0,'),
        ('"n":[', '"n":[0,'),
        ('"n":[2,', '"n":[99999,'),
        ('"grad":0', '"grad":-0'),
        ('"grad":0', '"grad":99999999999999'),
        ('"tok":[[-', '"tok":[['),
    ],
)
def test_tokens_are_checked(change: str, why: str) -> None:
    probes, frames = models("probability")
    text = unpack(write(frames, {}, probes, "probability")).decode()
    assert change in text
    with pytest.raises(Refused, match=r"line 3: (tok|n wants|grad)"):
        read_rows(pack(text.replace(change, why, 1).encode()), probes, "probability")


def test_attacks_come_back() -> None:
    asked = {probe.pair or probe.id: probe for probe in probes_of(pairs=True) if probe.ring == "forget"}
    tables: dict[str, dict[Of, pd.DataFrame]] = {
        "a:one": {0: attack_table(asked, 0.3, False, 1), 5: attack_table(asked, 0.4, False, 2)},
        "b:two": {"reference": attack_table(asked, 0.1, True, 3)},
    }
    found = read_attacks(write_attacks(tables), asked).tables
    assert {name: list(of) for name, of in found.items()} == {"a:one": [0, 5], "b:two": ["reference"]}
    for name, of_all in tables.items():
        for of, table in of_all.items():
            again = found[name][of]
            np.testing.assert_allclose(again["known"], table["known"], atol=5.1e-5)
            same = ["series", "strength", "counted", "own", "probe", "kind", "cluster", "fact"]
            pd.testing.assert_frame_equal(again[same], table[same])


def test_locked_attacks_without_a_reference_differ(tmp_path: Path) -> None:
    """A pretrained model has no stranger beside it: what was tried still tells the files of the lock apart."""
    asked = {probe.id: probe for probe in probes_of() if probe.ring == "forget"}
    null = Score(value=None)
    settings: list[tuple[str, dict[str, Any]]] = [("a:one", {"k": 1}), ("a:one", {"k": 2}), ("b:two", {"k": 1})]
    locked = [
        locked_attack(AttackResult(name=name, kind="prompt", config=config, forget=null, method_hash="d" * 64),
                      {"kind": "full"}, "d" * 64, {})
        for name, config in settings
    ]  # fmt: skip
    model = LockedModel(model="m", model_hash="b" * 64, references=[], responses="c" * 64,
                        attacks=[entry for entry, _ in locked])  # fmt: skip
    task = LockedTask(task="own/task", version="1", task_hash="a" * 64, knowledge="candidates", target="given",
                      probes=None, models=[model])  # fmt: skip
    write_lock(tmp_path, Lock(tasks=[task]))
    assert read_lock(tmp_path).tasks[0] == task
    for _, content in locked:
        assert not read_attacks(content, asked, keyed=True).tables
        with pytest.raises(Refused, match="head line"):
            read_attacks(content, asked)


def test_a_lock_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    task = LockedTask(task="own/task", version="1", task_hash="a" * 64, knowledge="candidates", target="given",
                      probes=None)  # fmt: skip
    with pytest.raises(ValidationError, match="stands there twice"):
        write_lock(tmp_path, Lock.model_construct(tasks=[task, task]))
    assert not list(tmp_path.iterdir())


def test_writing_twice_gives_the_same_bytes() -> None:
    probes, frames = models("candidates")
    assert write(frames, {}, probes, "candidates") == write(frames, {}, probes, "candidates")
