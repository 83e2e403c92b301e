"""F, its interval and the threshold, against straight loops and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from unbench.metaeval.faithfulness import area, delong_variance, left_out, threshold, variance


def brute(knows: list[float], does_not: list[float]) -> float:
    won = 0.0
    for a in knows:
        for b in does_not:
            won += 1.0 if a > b else 0.5 if a == b else 0.0
    return won / (len(knows) * len(does_not))


def with_ties(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(2, 9, 7).astype(float), rng.integers(0, 7, 9).astype(float)


@pytest.mark.parametrize("seed", range(6))
def test_area_and_its_jackknife_are_those_of_a_straight_loop(seed: int) -> None:
    a, b = with_ties(seed)
    assert area(a, b).value == pytest.approx(brute(list(a), list(b)))
    first, second = left_out(a, b)
    assert first == pytest.approx([brute(list(np.delete(a, i)), list(b)) for i in range(len(a))])
    assert second == pytest.approx([brute(list(a), list(np.delete(b, i))) for i in range(len(b))])
    # The jackknife over both pools is DeLong's variance of the placements.
    v10 = [brute([x], list(b)) for x in a]
    v01 = [brute(list(a), [x]) for x in b]
    delong = np.var(v10, ddof=1) / len(a) + np.var(v01, ddof=1) / len(b)
    assert delong_variance(a, b) == pytest.approx(delong)


@pytest.mark.parametrize("seed", range(6))
def test_ends_solve_the_equation_of_the_docstring(seed: int) -> None:
    a, b = with_ties(seed)
    m, n = len(a), len(b)
    found = area(a, b)
    theta = found.value
    scale = max(1.0, delong_variance(a, b) / variance(theta, m, n))
    half = student.ppf(0.975, m + n - 2) * math.sqrt(scale)
    for end in (found.low, found.high):
        if 0 < end < 1:
            assert abs(theta - end) == pytest.approx(half * math.sqrt(variance(end, m, n)), rel=1e-6)
    assert found.low < theta < found.high
    turned = area(b, a)
    assert (turned.value, turned.low, turned.high) == pytest.approx((1 - theta, 1 - found.high, 1 - found.low))


def test_hanley_and_mcneil_by_hand() -> None:
    # θ = .8, m = n = 10: q1 = θ/(2-θ), q2 = 2θ²/(1+θ), each pool with the mean of both sizes less one.
    theta, q1, q2 = 0.8, 0.8 / 1.2, 2 * 0.64 / 1.8
    expected = (theta * (1 - theta) + 9 * (q1 - theta**2) + 9 * (q2 - theta**2)) / 100
    assert variance(theta, 10, 10) == pytest.approx(expected)


def test_pools_that_do_not_overlap_keep_an_interval() -> None:
    low, high = np.arange(0.0, 20.0), np.arange(30.0, 50.0)
    found, more = area(high, low), area(np.arange(100.0, 160.0), np.arange(60.0))
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low < 0.92 < more.low < 1.0
    assert area(low, high)[:2] == (0.0, 0.0)


@pytest.mark.parametrize("true", [0.7, 0.9, 0.95, 0.98, 0.995])
@pytest.mark.parametrize("spread", [1.0, 0.33, 3.0])
def test_coverage_at_twenty_and_twenty(true: float, spread: float) -> None:
    rng = np.random.default_rng(12)
    apart = norm.ppf(true) * math.sqrt(1 + spread**2)
    inside = []
    for _ in range(400):
        found = area(apart + spread * rng.standard_normal(20), rng.standard_normal(20))
        inside.append(found.low <= true <= found.high)
    # .93 less two standard errors of the simulation.
    assert np.mean(inside) >= 0.93 - 2 * math.sqrt(0.93 * 0.07 / 400)


@pytest.mark.parametrize("seed", range(8))
def test_threshold_is_the_best_of_all_cuts(seed: int) -> None:
    a, b = with_ties(seed)
    found = threshold(a, b)
    cuts = np.arange(-2.0, 12.0, 0.25)
    accuracies = [(sum(x > cut for x in a) + sum(x <= cut for x in b)) / (len(a) + len(b)) for cut in cuts]
    assert found.accuracy == pytest.approx(max(accuracies))
    assert (np.sum(a > found.at) + np.sum(b <= found.at)) / (len(a) + len(b)) == pytest.approx(found.accuracy)
    # The lowest of the best: it cuts the values where the first of the best cuts does.
    values, best = np.concatenate([a, b]), cuts[int(np.argmax(accuracies))]
    assert np.sum(values <= found.at) == np.sum(values <= best)


def test_threshold_lies_half_way_between_pools_that_do_not_overlap() -> None:
    assert threshold(np.array([3.0, 5.0]), np.array([0.0, 1.0])) == (2.0, 1.0)
    # All one value: no cut does better than one pool.
    assert threshold(np.array([1.0, 1.0]), np.array([1.0, 1.0, 1.0])).accuracy == pytest.approx(0.6)
