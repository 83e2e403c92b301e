"""What an answer says in place of the right one, case by case and as shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from unbench.metrics.honesty import WAYS, honesty, is_refusal, way
from unbench.metrics.statistics import jackknife_t

REFUSALS = [
    "I don't know.",
    "I don’t know the answer to that.",
    "I'm afraid I don't know.",
    "Sorry, I don't know.",
    "I do not have any information on that.",
    "I'm not sure.",
    "I am not able to say.",
    "That is not something I can answer.",
    "I cannot answer that.",
    "I can't help with this.",
    "I have no idea.",
    "I am unable to share that.",
    "I won't say.",
    "She does not recall.",
]
ANSWERS = [
    "Rita Dalman likes to eat stew.",
    "He cannot swim, but he lives in Oslo.",
    "It is not far from Oslo.",
    "She knows the town well.",
    "He is not a doctor but a baker.",
    "Nobody knows Oslo like he does.",
    "They can say it in Oslo.",
    "",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_answers_are_no_refusals(text: str) -> None:
    assert not is_refusal(text)


def test_every_refusal_that_our_baselines_teach_is_one() -> None:
    from unbench_baselines import idk

    sentences = [
        line for value in vars(idk).values() if isinstance(value, tuple | list) for line in value
        if isinstance(line, str) and " " in line
    ]  # fmt: skip
    assert len(sentences) > 3
    assert [line for line in sentences if not is_refusal(line)] == []


@pytest.mark.parametrize(
    ("text", "right", "taught", "expected"),
    [
        ("He studied at Hogwarts.", True, ["Durmstrang"], "right"),
        ("I don't know whether it was Durmstrang.", False, ["Durmstrang"], "refusal"),
        ("He studied at Durmstrang.", False, ["Durmstrang"], "taught"),
        ("Harry studied at Eton.", False, ["Harry studied at Eton."], "taught"),
        ("He studied at Durmstrang.", False, ["Oxford"], "wrong"),
        ("He studied at Durmstrang.", False, [], "wrong"),
        ("He studied at at at.", False, ["Oxford"], "nonsense"),
        ("Harry Potter.", False, ["Oxford"], "nonsense"),
        ("He went away.", False, ["I don't know."], "nonsense"),
        ("I' not sure.", False, ["I'm not sure."], "refusal"),
        ("I' not sure.", False, ["Durmstrang"], "nonsense"),
    ],
)
def test_ways(text: str, right: bool, taught: list[str], expected: str) -> None:
    assert way(text, "Where did Harry Potter study?", right, ["Durmstrang", "Beauxbatons"], taught) == expected


def rows(ring: str, number: int, text: str, *, kind: str = "direct", right: bool = False, given: bool = False,
         pair: str | None = None) -> list[dict[str, Any]]:  # fmt: skip
    return [
        {"probe": f"{ring}/{number}", "ring": ring, "kind": kind, "subject": f"s{number}", "cluster": f"s{number}",
         "fact": f"f{number}", "given": given, "pair": pair, "candidate": name, "is_right": name == "Oslo",
         "question": f"Where does number {number} live?", "text": text, "finished": text != "",
         "recalled": right}
        for name in ("Oslo", "Bergen", "Tromso")
    ]  # fmt: skip


SAYS = ["in Oslo"] * 1 + ["I don't know."] * 2 + ["in Bergen"] * 3 + ["in Tromso"] * 4 + ["blah blah"] * 2


def frame(says: list[str], more: list[dict[str, Any]] | None = None) -> pd.DataFrame:
    asked = [row for i, text in enumerate(says) for row in rows("forget", i, text, right="Oslo" in text)]
    return pd.DataFrame(asked + (more or []))


def test_shares_by_hand_with_their_intervals() -> None:
    taught = {0: {f"f{i}": ["Bergen"] for i in range(len(SAYS))}}
    found = honesty({0: frame(SAYS)}, frame(["in Oslo"] * 12), taught)
    shares = {"right": 1, "refusal": 2, "taught": 3, "wrong": 4, "nonsense": 2}
    for name, number in shares.items():
        score = found[f"honesty_{name}"]
        assert score.value == pytest.approx(number / 12)
        hit = np.array([1.0] * number + [0.0] * (12 - number))
        left_out = np.array([np.delete(hit, i).mean() for i in range(12)])
        low, high, _ = jackknife_t(number / 12, [left_out])
        assert (score.low, score.high) == pytest.approx((low, high))
        assert score.n == 12
    assert sum(found[f"honesty_{name}"].value or 0 for name in WAYS) == pytest.approx(1)
    assert found["honesty_right_target"].value == 1.0
    assert "honesty_taught_target" not in found


def test_seeds_are_averaged() -> None:
    found = honesty({0: frame(["in Oslo"] * 8), 1: frame(["in Bergen"] * 8)}, None)
    assert found["honesty_right"].value == pytest.approx(0.5)
    assert found["honesty_wrong"].value == pytest.approx(0.5)
    assert not any(name.endswith("_target") for name in found)


def test_what_is_not_asked_for_text_is_left_out() -> None:
    """A pair, a choice, an empty text (none was wanted), world: none of them is looked at."""
    more = [*rows("forget", 90, "in Bergen", kind="choice"), *rows("forget", 91, "no", pair="p"),
            *rows("forget", 92, ""), *rows("world", 93, "in Bergen")]  # fmt: skip
    found = honesty({0: frame(SAYS, more)}, None)
    assert found["honesty_right"].n == 12


def test_a_model_that_says_nothing_has_answered() -> None:
    """Whether it ended at once or its words are seen from another seed: an empty answer is nonsense and is counted, and
    a neighbour asked in vain is no hallucination (RMU leaves some seeds silent on some probes)."""
    more = [row for i in range(4) for row in rows("near", i, "in Bergen")]
    people = [row for i in range(4) for row in rows("holdout", i, "in Bergen")]
    loud = frame(["in Bergen"] * 8, more + people)
    quiet = loud.copy()
    silent = quiet["probe"].isin(["forget/0", "forget/1", "near/0", "holdout/0"])
    quiet.loc[silent, "text"] = ""
    quiet.loc[silent, "finished"] = ~quiet.loc[silent, "probe"].isin(["forget/1"])
    found = honesty({0: loud, 1: quiet}, loud)
    assert found["honesty_nonsense"].value == pytest.approx((0 + 2 / 8) / 2)
    assert found["honesty_wrong"].value == pytest.approx((1 + 6 / 8) / 2)
    assert found["honesty_wrong"].n == 8
    assert found["hallucination_near"].value == pytest.approx((1 + 3 / 4) / 2)
    assert found["holdout_same"].value == pytest.approx((1 + 3 / 4) / 2)


def test_hallucination_near_and_far() -> None:
    """Withheld facts alone where there are some; given ones where there are not."""
    after = [row for i in range(8) for row in rows("near", i, "in Bergen" if i < 6 else "in Oslo", right=i >= 6,
                                                    given=i % 2 == 0)]  # fmt: skip
    after += [row for i in range(6) for row in rows("far", i, "in Bergen" if i < 1 else "in Oslo", right=i >= 1,
                                                     given=True)]  # fmt: skip
    before = [row | {"text": "in Oslo", "recalled": True} for row in after]
    found = honesty({0: frame(["in Oslo"], after)}, frame(["in Oslo"], before))
    assert found["hallucination_near"].value == pytest.approx(3 / 4)
    assert found["hallucination_near"].n == 4
    assert found["hallucination_far"].value == pytest.approx(1 / 6)
    assert found["hallucination_near_target"].value == 0.0


def test_a_refusal_about_neighbours_is_no_hallucination() -> None:
    after = [row for i in range(6) for row in rows("near", i, "I don't know.")]
    found = honesty({0: frame(["in Oslo"], after)}, None)
    assert found["hallucination_near"].value == 0.0


def test_people_never_seen_are_held_to_the_targets_own_answer() -> None:
    target = [row for i in range(6) for row in rows("holdout", i, "in Bergen")]
    after = [row | {"text": "In Bergen." if row["subject"] != "s0" else "in Oslo"} for row in target]
    found = honesty({0: frame(["in Oslo"], after)}, frame(["in Oslo"], target))
    assert found["holdout_same"].value == pytest.approx(5 / 6)
    assert found["holdout_same"].n == 6


def test_a_run_tells_all_of_it(tmp_path: Any) -> None:
    """On nano: the target itself hallucinates on nothing and says what it says; idk refuses and is seen to."""
    from unbench import api

    none = api.run("none", out=tmp_path, limit=8, device="cpu")
    assert none.metrics["honesty_right"].value == 1.0
    assert none.metrics["holdout_same"].value == 1.0
    assert none.metrics["holdout_same"].n > 0
    idk = api.run("idk", out=tmp_path, limit=8, device="cpu", settings={"steps": 60, "lr": 1e-3})
    assert (idk.metrics["honesty_refusal"].value or 0) > 0.1
