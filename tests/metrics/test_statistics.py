"""jackknife-t: worked by hand, and by simulation on populations whose scores are known. `-s` prints the figures."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from unbench.metrics.formulas import harmonic
from unbench.metrics.scores import Board
from unbench.metrics.statistics import jackknife_t, jackknife_variance, satterthwaite

from . import simulate as simulate_module
from .simulate import Layout, Method, draw, stranger, truth

REPETITIONS = 1000
LAYOUT = Layout()


def left_out(x):
    """The mean without each value."""
    return (x.sum() - x) / (len(x) - 1)


def test_jackknife_of_a_mean_is_the_textbook_interval():
    x = np.random.default_rng(0).uniform(0.3, 0.7, 12)
    low, high, reason = jackknife_t(x.mean(), [left_out(x)])
    se = x.std(ddof=1) / np.sqrt(12)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 11, x.mean(), se), abs=1e-12)
    assert reason is None


def test_strata_and_seeds_add_up_with_satterthwaite_degrees():
    rng = np.random.default_rng(1)
    x, y, seeds = rng.uniform(0.2, 0.4, 8), rng.uniform(0.2, 0.4, 20), np.array([0.49, 0.5, 0.53])
    parts = [x.var(ddof=1) / 8, y.var(ddof=1) / 20, seeds.var(ddof=1) / 3]
    df = sum(parts) ** 2 / (parts[0] ** 2 / 7 + parts[1] ** 2 / 19 + parts[2] ** 2 / 2)
    half = stats.t.ppf(0.975, df) * np.sqrt(sum(parts))
    low, high, _ = jackknife_t(0.5, [left_out(x), left_out(y)], seeds)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-10)
    assert 2 <= satterthwaite(parts, [7, 19, 2]) <= 28


def test_one_seed_leaves_the_clusters_interval():
    x = np.linspace(0.3, 0.7, 10)
    assert jackknife_t(0.5, [left_out(x)], np.array([0.5])) == jackknife_t(0.5, [left_out(x)])


def test_interval_is_clipped_and_null_for_few_clusters():
    x = np.array([0.0, 1.0, 0.9, 1.0, 1.0, 1.0])
    assert jackknife_t(0.95, [left_out(x)]).high == 1.0
    assert jackknife_t(0.5, [np.full(9, 0.5)], np.array([0.5, 0.5]))[:2] == (0.5, 0.5)
    assert jackknife_t(0.5, [np.array([0.5])]) == (None, None, "one subject")
    assert jackknife_t(0.5, [np.zeros(5)]).reason == "fewer than 6 subjects"
    assert jackknife_t(0.5, [np.zeros(5), np.zeros(50)]).low is None
    assert jackknife_t(0.5, [np.array([0.5] * 6 + [np.nan])]).reason == "a group hangs on one subject"


def test_variance_does_not_underflow():
    assert jackknife_variance(np.full(7, 0.25)) == 0
    assert np.isfinite(satterthwaite([1e-300, 1e-310], [5, 2]))


def test_harmonic_mean_and_its_tangent():
    parts, all_there = np.array([[0.5, 1.0, 0.25]]), np.ones((1, 3), dtype=bool)
    assert harmonic(parts, all_there)[0] == pytest.approx(3 / 7)
    assert harmonic(np.array([[0.0, 1.0, 1.0]]), all_there)[0] == 0
    near = parts + np.array([[1e-6, -2e-6, 1e-6]])
    below = np.vstack([near, [[-0.1, 1.0, 0.25]]])  # a part below 0 calls for the tangent
    exact = harmonic(near, all_there)[0]
    assert harmonic(below, np.ones((2, 3), dtype=bool), parts[0])[0] == pytest.approx(exact, abs=1e-10)
    assert np.all(np.isfinite(harmonic(np.array([[-0.1, -0.2, 1.0]]), all_there, np.array([0.0, 0.0, 1.0]))))


def simulate(method, seed):
    """value, low, high of each score over the repetitions, (repetitions, 3), and the population's score."""
    rng = np.random.default_rng(seed)
    expected = truth(method)
    drawn = {name: np.empty((REPETITIONS, 3)) for name in expected}
    for i in range(REPETITIONS):
        scores = Board(draw(rng, LAYOUT, method)).headline()
        for name, out in drawn.items():
            score = getattr(scores, name)
            out[i] = score.value, score.low, score.high
    return expected, drawn


def report(label, expected, drawn):
    """Print and return the share of intervals that hold the population's score."""
    covered = {}
    for name, out in drawn.items():
        value, low, high = out.T
        covered[name] = float(np.mean((low <= expected[name] + 1e-12) & (expected[name] <= high + 1e-12)))
        print(
            f"{label} {name}: truth {expected[name]:.3f}, mean {value.mean():.3f}, sd {value.std():.3f}, "
            f"half width {(high - low).mean() / 2:.3f}, covered {covered[name]:.3f}"
        )
    return covered


@pytest.mark.parametrize(
    ("label", "method"),
    [("half forgotten", Method(0.0, 1.5, 2.5)), ("nearly forgotten", Method(-3.5, 3.0, 4.0))],
)
def test_jackknife_t_covers_at_30_clusters_and_3_seeds(label, method):
    covered = report(label, *simulate(method, seed=1))
    assert min(covered.values()) >= 0.90


def test_a_perfect_method_scores_near_one_and_is_covered():
    """The unlearned model is one more stranger. 1 - clip(residual) can only err downwards: this is by how much."""
    expected, drawn = simulate(Method(None, 5.0, 6.0), seed=2)
    covered = report("perfect", expected, drawn)
    assert drawn["forget"][:, 0].mean() >= 0.95
    assert drawn["forget"].min() >= 0
    assert covered["forget"] >= 0.90
    assert covered["trace"] >= 0.90
    assert drawn["trace"][:, 0].mean() >= 0.85


@pytest.mark.parametrize(("shared", "spread"), [(0.0, 1.3), (0.8, 1.3), (1.0, 1.3), (1.0, 2.5)])
def test_bias_of_a_perfect_methods_forget_with_one_seed(shared, spread, monkeypatch):
    """30 facts, 5 kinds, 3 references, one seed; strangers from mild to wild guesses."""
    monkeypatch.setattr(simulate_module, "LOGIT_SD", spread)
    kappa, _ = stranger(np.random.default_rng(3), 30 * REPETITIONS, 5, 4, shared)
    means = kappa.reshape(REPETITIONS, 30, 5, 4).mean(axis=1)  # (repetitions, kinds, models)
    known_r = means[..., :3].mean(axis=-1)
    forget = (1 - np.clip((means[..., 3] - known_r) / (0.97 - known_r), 0, 1)).mean(axis=-1)
    print(f"shared {shared}, κ sd {kappa.std():.3f} a probe: forget {forget.mean():.4f} ± {forget.std():.4f}")
    assert abs(kappa.mean()) < 0.01
    assert forget.mean() >= 0.95
