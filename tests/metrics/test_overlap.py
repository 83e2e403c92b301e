"""probe_overlap and forget without the overlapping probes, by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from unbench.metrics.overlap import normal, overlap
from unbench.metrics.scores import measure
from unbench.responses import COLUMNS


def table(known: dict[str, float]) -> pd.DataFrame:
    """Six subjects, each asked directly and once again in other words; two candidates, of which the right one has
    probability ``known[kind]``."""
    import math

    rows = []
    for i in range(6):
        for kind, p in known.items():
            for k, (right, mass) in enumerate([(True, p), (False, 1 - p)]):
                rows.append({
                    "role": "x", "probe": f"{kind}-{i}", "ring": "forget", "kind": kind, "subject": f"s{i}",
                    "cluster": f"s{i}", "fact": f"f{i}", "given": False, "pair": None, "continuation": k,
                    "candidate": str(k), "is_right": right, "logprob": math.log(mass), "n_tokens": 1,
                    "token_logprobs": None, "token_argmax": None, "question": f"{kind} question, {i}?",
                    "text": "t", "finished": True, "recalled": right,
                })  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_case_and_punctuation_make_no_difference() -> None:
    assert normal("Where  did ADA live?") == normal("where did Ada live")
    assert normal("Where did Ada live?") != normal("Where did Bo live?")


def test_overlap_by_hand() -> None:
    target = table({"direct": 0.99, "paraphrase": 0.99})
    # κ of the unlearned model: 0 directly, 0.5 in other words; the target's is 0.98.
    after = table({"direct": 0.5, "paraphrase": 0.75})
    trained = {0: frozenset(f"Direct question {i}" for i in range(6)), 1: frozenset(["direct question 0"])}
    found = overlap({0: after, 1: after}, target, [], trained, "candidates", False)
    assert found["probe_overlap"].value == pytest.approx((6 + 1) / (2 * 12))
    whole = measure({0: after, 1: after}, target, []).scores.forget.value
    assert whole == pytest.approx((1 + (1 - 0.5 / 0.98)) / 2)
    assert found["forget_without_overlap"].value == pytest.approx(1 - 0.5 / 0.98)


def test_all_probes_trained_on() -> None:
    target = table({"direct": 0.99})
    trained = {0: frozenset(f"direct question {i}" for i in range(6))}
    found = overlap({0: target}, target, [], trained, "candidates", False)
    assert found["probe_overlap"].value == 1
    assert found["forget_without_overlap"].value is None
