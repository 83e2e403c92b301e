"""From values to what is said of a metric: who counts, joint intervals, orderings, the gate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student

from unbench.metaeval import judge
from unbench.metaeval.measures import Measure
from unbench.metaeval.record import PoolEntry, UnlearnedEntry
from unbench.metaeval.robustness import quantisation, relearning
from unbench.metrics.statistics import jackknife_variance
from unbench.results.schema import Score


def measure(name: str) -> Measure:
    return Measure(name, name.title(), lambda answers, anchors: 0.0, "UnBench", score="forget")


def pool(values: dict[str, list[float]], side: str) -> list[PoolEntry]:
    count = len(next(iter(values.values())))
    return [
        PoolEntry(name=f"{side}-{i}", side=side, variety="x", base="reference", seed=i, lr=1e-3, steps=8, learnt=1.0,
                  values={name: own[i] for name, own in values.items()})
        for i in range(count)
    ]  # fmt: skip


def unlearned(
    name: str, before: float, relearnt: float, quantised: float, retain: float | None = 0.9
) -> UnlearnedEntry:
    def own(value: float) -> dict[str, float | None]:
        return {"a": value, "b": value / 2}

    reason = None if retain is None or retain >= 0.8 else "retain is low"
    return UnlearnedEntry(
        name=name, method=name[:2], seed=0, control=retain is None, retain=retain, reason=reason, before=own(before),
        relearnt=own(relearnt), quantised={} if retain is None else own(quantised),
    )  # fmt: skip


RNG = np.random.default_rng(5)
KNOWS = {"a": list(RNG.uniform(0.4, 1.0, 8)), "b": list(RNG.uniform(0.2, 0.6, 8))}
NOT = {"a": list(RNG.uniform(0.0, 0.5, 9)), "b": list(RNG.uniform(0.0, 0.25, 9))}
POOLS = [*pool(KNOWS, "knows"), *pool(NOT, "does_not")]
UNLEARNED = [
    unlearned("control", 0.1, 0.3, 0.0, None),
    *(unlearned(f"u{i}", 0.05 + 0.01 * i, 0.2 + 0.07 * i, 0.04 + 0.015 * i) for i in range(7)),
    unlearned("u3 again", 0.09, 0.5, 0.1),
    unlearned("knows", 0.95, 0.99, 0.95),
    unlearned("broken", 0.01, 0.02, 0.01, 0.3),
]


def test_who_counts_and_what_comes_out() -> None:
    found = judge.stand(measure("a"), POOLS, UNLEARNED, lowest=-0.05).judged
    # Neither the one that knows, nor the broken one, nor the control.
    assert found.models == [*(f"u{i}" for i in range(4)), "u4", "u5", "u6", "u3 again"]
    assert found.retrained == pytest.approx(0.2)
    r = [relearning((0.2 + 0.07 * i) - (0.05 + 0.01 * i), 0.2) for i in range(7)] + [relearning(0.41, 0.2)]
    q = [quantisation(0.05 + 0.01 * i + 0.05, 0.04 + 0.015 * i + 0.05) for i in range(7)] + [0.14 / 0.15]
    assert found.relearning.value == pytest.approx(np.mean(r))
    assert found.quantisation.value == pytest.approx(np.mean(q))


def brute_overall(names: list[str], drop: tuple[str, int] | None, name: str) -> float:
    """Overall with one model of a pool, or one method, left out, everything else as it was."""
    knows, does_not = KNOWS[name].copy(), NOT[name].copy()
    chosen = list(names)
    if drop is not None and drop[0] == "unlearned":
        chosen = [own for own in names if own[:2] != f"u{drop[1]}"]
    elif drop is not None:
        {"knows": knows, "does_not": does_not}[drop[0]].pop(drop[1])
    won = np.mean([(x > y) + 0.5 * (x == y) for x in knows for y in does_not])
    own = {entry.name: entry for entry in UNLEARNED}
    change = [own[n].relearnt[name] - own[n].before[name] for n in chosen]
    control = own["control"].relearnt[name] - own["control"].before[name]
    r = np.mean([relearning(x, control) for x in change])
    q = np.mean([quantisation(own[n].before[name], own[n].quantised[name]) for n in chosen])
    hm = 2 / (1 / r + 1 / q)
    return float(2 / (1 / won + 1 / hm))


def jackknife(values: list[list[float]], centre: float) -> tuple[float, float]:
    parts = [(jackknife_variance(np.array(own)), len(own) - 1) for own in values]
    total = sum(v for v, _ in parts)
    df = total**2 / sum(v**2 / d for v, d in parts)
    half = student.ppf(0.975, df) * np.sqrt(total)
    return centre - half, centre + half


def test_overall_and_the_difference_of_two_have_a_jackknife_over_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    standings = {name: judge.stand(measure(name), POOLS, UNLEARNED, lowest=0.0) for name in ("a", "b")}
    names = standings["a"].judged.models
    assert standings["b"].judged.models == names
    values = {
        name: [
            [brute_overall(names, (side, i), name) for i in range(count)]
            for side, count in (("knows", 8), ("does_not", 9), ("unlearned", 7))
        ]
        for name in ("a", "b")
    }
    whole = {name: brute_overall(names, None, name) for name in ("a", "b")}
    for name in ("a", "b"):
        low, high = jackknife(values[name], whole[name])
        found = standings[name].judged.overall
        assert found.value == pytest.approx(whole[name])
        assert (found.low, found.high) == pytest.approx((max(low, 0.0), min(high, 1.0)))
    monkeypatch.setattr(judge, "PUBLISHED", {"a": 0.9, "b": 0.5})
    (ordering,) = judge.orderings(standings)
    assert (ordering.higher, ordering.lower, ordering.symmetric) == ("a", "b", False)
    strata = [[x - y for x, y in zip(a, b, strict=True)] for a, b in zip(values["a"], values["b"], strict=True)]
    low, high = jackknife(strata, whole["a"] - whole["b"])
    assert ordering.difference.value == pytest.approx(whole["a"] - whole["b"])
    assert (ordering.difference.low, ordering.difference.high) == pytest.approx((low, high))


def test_verdicts() -> None:
    assert judge.verdict(Score(value=0.3, low=0.1, high=0.5)) == "holds"
    assert judge.verdict(Score(value=-0.3, low=-0.5, high=-0.1)) == "fails"
    assert judge.verdict(Score(value=0.1, low=-0.1, high=0.3)) == "not told apart"
    assert judge.verdict(Score(value=0.0, low=0.0, high=0.0)) == "not told apart"
    assert judge.verdict(Score(value=None)) == "no value"


def test_the_gate_wants_the_lower_end() -> None:
    apart = {"a": list(np.linspace(0.6, 1.0, 40))}
    below = {"a": list(np.linspace(0.0, 0.5, 40))}
    passing = judge.stand(measure("a"), [*pool(apart, "knows"), *pool(below, "does_not")], [], 0.0).judged
    few = {"a": apart["a"][:5]}, {"a": below["a"][:5]}
    failing = judge.stand(measure("a"), [*pool(few[0], "knows"), *pool(few[1], "does_not")], [], 0.0).judged
    assert (passing.faithfulness.value, failing.faithfulness.value) == (1.0, 1.0)
    assert passing.passes
    assert not failing.passes
    named = [
        one.model_copy(update={"name": name}) for one, name in ((passing, "residual"), (failing, "trace_residual"))
    ]
    found = judge.gate(named)
    assert found.scores == {"forget": True, "trace": False}
    assert (found.passed, found.failed) == (["residual"], ["trace_residual"])


def test_models_that_did_not_learn_do_not_count() -> None:
    entries = list(POOLS)
    entries[0] = entries[0].model_copy(update={"reason": "reproduces too little", "values": {"a": -9.0, "b": -9.0}})
    found = judge.stand(measure("a"), entries, [], 0.0).judged
    assert found.faithfulness.n == len(POOLS) - 1
    assert found.faithfulness.value == judge.stand(measure("a"), entries[1:], [], 0.0).judged.faithfulness.value


def test_a_metric_without_a_value_is_null_with_its_reason() -> None:
    entries = list(POOLS)
    entries[3] = entries[3].model_copy(update={"values": {"a": None, "b": 0.1}})
    found = judge.stand(measure("a"), entries, UNLEARNED, 0.0).judged
    assert (found.faithfulness.value, found.faithfulness.reason) == (None, "some pool model has no value")
    assert not found.passes
