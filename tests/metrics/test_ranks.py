"""Rank sets: by hand, against the theory for two methods, and by simulation in three designs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from unbench.metrics.ranks import Floats, rank_sets


def of_means(scores: Floats) -> tuple[Floats, Floats]:
    """Means over clusters, and with each left out. ``scores``: (M, C)."""
    total, clusters = scores.sum(axis=1, keepdims=True), scores.shape[1]
    return scores.mean(axis=1), (total - scores) / (clusters - 1)


def test_two_methods_are_a_paired_t_test() -> None:
    draw = np.random.default_rng(0)
    scores = draw.normal(0, 1, (2, 30)) + np.array([[0.3], [0.0]]) + draw.normal(0, 2, 30)
    values, left_out = of_means(scores)
    ranks = rank_sets(values, left_out)
    assert ranks.critical == pytest.approx(stats.t.ppf(0.975, 14.5), abs=0.04)
    told = stats.ttest_rel(scores[0], scores[1])
    assert bool(ranks.better[0, 1]) == (told.statistic > ranks.critical)


@pytest.mark.parametrize("more", [0.0, 0.2, 0.5, 1.0, 3.0])
def test_what_clusters_share_does_not_count(more: float) -> None:
    """Methods that differ by the same amount on every cluster are told apart however much the clusters scatter."""
    draw = np.random.default_rng(1)
    hard = draw.normal(0, 5, 30)
    scores = np.stack([hard + more + draw.normal(0, 0.1, 30), hard + draw.normal(0, 0.1, 30)])
    ranks = rank_sets(*of_means(scores))
    assert bool(ranks.better[0, 1]) == (more > 0)
    assert (ranks.low.tolist(), ranks.high.tolist()) == (([1, 2], [1, 2]) if more else ([1, 1], [2, 2]))


def test_strata_add_up() -> None:
    """A score that is the sum of two independent means: its error is that of both, whatever their sizes."""
    draw = np.random.default_rng(5)
    first, second = draw.normal(0, 1, (2, 40)), draw.normal(0, 3, (2, 25))
    values = first.mean(axis=1) + second.mean(axis=1)
    one, other = of_means(first)[1], of_means(second)[1]
    left_out = np.hstack([one + second.mean(axis=1, keepdims=True), other + first.mean(axis=1, keepdims=True)])
    strata = np.repeat([7, 3], [40, 25])
    difference = values[0] - values[1]
    variance = np.var(first[0] - first[1], ddof=1) / 40 + np.var(second[0] - second[1], ddof=1) / 25
    critical = rank_sets(values, left_out, strata=strata).critical
    assert critical == pytest.approx(stats.t.ppf(0.975, 12), abs=0.04)
    # Just above and just below the difference that the two variances allow.
    for factor, apart in ((1.001, True), (0.999, False)):
        shift = factor * critical * np.sqrt(variance) - difference
        moved = left_out + np.array([[shift], [0.0]])
        assert bool(rank_sets(values + np.array([shift, 0.0]), moved, strata=strata).better[0, 1]) == apart
    with pytest.raises(ValueError, match="two clusters"):
        rank_sets(values, left_out, strata=np.repeat([0, 1], [64, 1]))


def test_sure_differences_and_sure_ties() -> None:
    """Scores that no cluster moves: different ones are apart, equal ones share their ranks."""
    values = np.array([1.0, 0.0, 0.0])
    ranks = rank_sets(values, np.repeat(values[:, None], 12, axis=1))
    assert ranks.low.tolist() == [1, 2, 2]
    assert ranks.high.tolist() == [1, 3, 3]


def test_seeds_widen() -> None:
    draw = np.random.default_rng(2)
    scores = draw.normal(0, 0.1, (3, 30)) + np.array([[0.2], [0.1], [0.0]])
    values, left_out = of_means(scores)
    sharp = rank_sets(values, left_out)
    blunt = rank_sets(values, left_out, [np.array([v - 0.2, v, v + 0.2]) for v in values])
    assert sharp.better.sum() > blunt.better.sum()
    assert rank_sets(values, left_out, [np.array([v]) for v in values]).better.tolist() == sharp.better.tolist()


def test_the_same_numbers_give_the_same_sets_in_any_order() -> None:
    draw = np.random.default_rng(3)
    values, left_out = of_means(draw.normal(0, 0.2, (5, 20)) + np.arange(5)[:, None] * 0.1)
    one, again = rank_sets(values, left_out), rank_sets(values, left_out)
    assert one.critical == again.critical
    turned = rank_sets(values[::-1].copy(), left_out[::-1].copy())
    assert turned.low[::-1].tolist() == one.low.tolist()


@pytest.mark.parametrize(
    ("values", "left_out", "said"),
    [
        (np.array([1.0, 0.0]), np.zeros((2, 1)), "two clusters"),
        (np.array([1.0, np.nan]), np.zeros((2, 9)), "every method needs a score"),
        (np.array([1.0, 0.0]), np.full((2, 9), np.inf), "every method needs a score"),
    ],
)
def test_bad_input(values: Floats, left_out: Floats, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rank_sets(values, left_out)


DESIGNS = {"tied": np.zeros(8), "groups": np.repeat([0.0, 1.5], 4), "apart": np.arange(8) * 1.5}


def covered(design: str, worlds: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """Share of worlds in which every method's true range of ranks lies in its set, and the mean width of the sets. 30
    clusters that scatter, methods whose noise is correlated and unequal, skewed."""
    from unbench.metrics import ranks as room

    monkeypatch.setattr(room, "DRAWS", 2000)
    truth = DESIGNS[design]
    best = 1 + (truth[None, :] > truth[:, None]).sum(axis=1)
    worst = len(truth) - (truth[None, :] < truth[:, None]).sum(axis=1)
    draw = np.random.default_rng(seed)
    hits, width = 0, 0.0
    for _ in range(worlds):
        shared = draw.normal(0, 2, 30)
        scale = draw.uniform(0.5, 2, (len(truth), 1))
        noise = scale * (draw.exponential(1, (len(truth), 30)) - 1) + 0.5 * draw.normal(0, 1, 30)
        found = rank_sets(*of_means(truth[:, None] + shared + noise))
        hits += bool((found.low <= best).all() and (found.high >= worst).all())
        width += float((found.high - found.low + 1).mean())
    return hits / worlds, width / worlds


@pytest.mark.parametrize("design", DESIGNS)
def test_coverage_quick(design: str, monkeypatch: pytest.MonkeyPatch) -> None:
    share, _ = covered(design, 100, 11, monkeypatch)
    assert share >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS)
def test_coverage(design: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    share, width = covered(design, 1000, 5, monkeypatch)
    with capsys.disabled():
        print(f"\nrank sets, {design}: covered {share:.3f}, mean width {width:.2f} of 8")
    assert share >= 0.93
    assert width < {"tied": 8.01, "groups": 5.5, "apart": 2.5}[design]
