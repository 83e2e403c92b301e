"""The cheap jackknife of the published metrics against measuring everything again without each cluster."""

from __future__ import annotations

import numpy as np
import pytest

from unbench.metrics.estimates import area_of, joint, mean_of
from unbench.metrics.published import published
from unbench.metrics.statistics import jackknife_t

from .tables import random_tofu

FAMILIES = {
    "forget_probability": [["forget"]], "retain_truth_ratio": [["retain"]],
    "world_facts_probability": [["world_facts"]], "real_authors_rouge": [["real_authors"]],
    "exact_memorization": [["forget"]], "forget_entropy": [["forget"]],
    "model_utility": [["retain"], ["real_authors"], ["world_facts"]], "mia_loss": [["forget"], ["holdout"]],
    "mia_min_k_plus_plus": [["forget"], ["holdout"]], "mia_reference": [["forget"], ["holdout"]],
    "privleak": [["forget"], ["holdout"]],
}  # fmt: skip


@pytest.fixture(scope="module")
def measured():
    """Three seeds and a reference: measured, and measured again without each cluster."""
    tables, reference = {s: random_tofu(s) for s in range(3)}, random_tofu(9)

    def without(frame, cluster):
        return frame[frame["cluster"] != cluster]

    left = {
        cluster: published({s: without(t, cluster) for s, t in tables.items()}, [without(reference, cluster)])
        for cluster in reference["cluster"].unique()
    }
    alone = [published({0: table}, [reference]) for table in tables.values()]
    return published(tables, [reference]), left, alone


@pytest.mark.parametrize("name", FAMILIES)
def test_interval_is_the_jackknife_of_the_whole_metric(name, measured):
    whole, left, alone = measured
    score = whole[name]
    strata = [
        np.array([left[cluster][name].value for cluster in left if cluster.rpartition("-")[0] in own])
        for own in FAMILIES[name]
    ]
    assert {len(stratum) for stratum in strata} == {7}
    seeds = np.array([own[name].value for own in alone])
    bounds = (-100.0, np.inf) if name == "privleak" else (0.0, np.inf) if name == "forget_entropy" else (0.0, 1.0)
    want = jackknife_t(score.value, strata, seeds, bounds=bounds)
    assert (score.low, score.high) == pytest.approx(want[:2], abs=1e-9)
    assert score.low < score.value < score.high


def test_few_clusters_have_no_interval():
    got = published({0: random_tofu(0, clusters=5)})
    for name in ("forget_probability", "model_utility", "mia_loss"):
        assert got[name].value is not None
        assert (got[name].low, got[name].high) == (None, None)
        assert "interval: fewer than 6 subjects" in got[name].reason


def test_a_mean_without_each_cluster():
    mean = mean_of([np.array([1.0, 2.0, 6.0])], np.array(["a", "a", "b"], dtype=object))
    assert mean.by_seed == pytest.approx([3.0])
    assert mean.left_out[:, 0] == pytest.approx([6.0, 1.5])
    assert mean.without("a") == pytest.approx([6.0])
    assert mean.without("elsewhere") == pytest.approx([3.0])
    alone = mean_of([np.array([1.0])], np.array(["a"], dtype=object))
    assert np.isnan(alone.left_out).all()


def test_a_cluster_in_two_families_is_left_out_of_both():
    one = mean_of([np.array([1.0, 3.0])], np.array(["a", "b"], dtype=object))
    two = mean_of([np.array([5.0, 7.0])], np.array(["b", "c"], dtype=object))
    parts, strata = joint([[one], [two]])
    assert parts == pytest.approx(np.array([[2.0, 6.0]]))
    assert strata[0][:, 0] == pytest.approx(np.array([[3.0, 6.0], [1.0, 7.0]])), "without a, without b"
    assert strata[1][:, 0] == pytest.approx(np.array([[2.0, 5.0]])), "without c"


def test_an_area_without_each_cluster():
    members, others = np.array([3.0, 1.0, 2.0]), np.array([0.0, 2.0])
    who = (np.array(["a", "a", "b"], dtype=object), np.array(["x", "y"], dtype=object))
    area = area_of([members], [others], *who)
    # 3 wins twice, 1 once, 2 once and a half.
    assert area.by_seed == pytest.approx([4.5 / 6])
    assert area.left_out[:, 0] == pytest.approx([1.5 / 2, 3 / 4, 1.5 / 3, 3 / 3])
    assert [len(stratum) for stratum in area.strata(area.left_out)] == [2, 2]
