"""UnBench's own scores beside the published metrics: no score reads the holdout ring, and a bare model has groups."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from unbench.metrics.catalogue import CATALOGUE
from unbench.metrics.knowledge import per_probe
from unbench.metrics.overlap import overlap
from unbench.metrics.published import published
from unbench.metrics.scores import measure

from .tables import frame, model, probe, random_tofu, told


def holdout(n: int = 9) -> pd.DataFrame:
    """Rows that would spoil every mean: unknown, unfluent, of clusters of their own."""
    rows = [told(f"h{i}", "holdout", [-50.0], text="", finished=False, recalled=False) for i in range(n)]
    return frame(*rows)


KNOWN = {"forget/direct": 1.0, "near/same_subject": 0.9, "far/other": 0.9, "world/capital": 0.8}


@pytest.mark.parametrize("knowledge", ["candidates", "probability"])
def test_no_score_reads_the_holdout_ring(knowledge):
    target, after = model(KNOWN, 8), model(KNOWN | {"forget/direct": 0.3, "far/other": 0.7}, 8)
    want = measure({0: after}, target, [target], knowledge=knowledge)
    with_it = [pd.concat([holdout(), x]) for x in (after, target)]
    got = measure({0: with_it[0]}, with_it[1], [with_it[1]], knowledge=knowledge)
    assert got.scores == want.scores
    assert got.per_seed == want.per_seed
    assert got.groups == want.groups
    own = {name for name in want.metrics if not name.startswith(("mia", "privleak"))}
    assert {name: got.metrics[name] for name in own} == {name: want.metrics[name] for name in own}
    assert ("mia_loss" in got.metrics) == (knowledge == "probability")
    # A reference or target that was not asked the holdout questions is none the worse for it.
    assert measure({0: with_it[0]}, target, [target], knowledge=knowledge).scores == want.scores
    assert "holdout" not in set(per_probe(with_it[0], knowledge)["ring"])


def test_published_metrics_come_with_probability_only():
    table = random_tofu(0)
    got = measure({0: table}, table, [table], knowledge="probability")
    assert got.metrics["forget_quality"].value == 1
    assert got.metrics["selectivity"].value is None
    assert "forget_quality" not in measure({0: model(KNOWN)}, model(KNOWN)).metrics


def test_every_metric_is_in_the_catalogue_and_the_other_way_round():
    table = random_tofu(0).assign(gradnorm=1.0)
    names = set(published({0: table}, [table]))
    assert names <= set(CATALOGUE)
    own = {"selectivity", "recall_forget", "suppressed", "retain_given", "specificity_given", "fluency", "far", "world",
           "forget_<kind>", "near_<kind>", "probe_overlap", "forget_without_overlap", "honesty_<way>",
           "hallucination_near", "hallucination_far", "holdout_same"}  # fmt: skip
    assert set(CATALOGUE) - names == own


def test_a_bare_model_has_groups_and_published_metrics_but_no_scores():
    table = random_tofu(0)
    got = measure({0: table, 1: random_tofu(1)}, None, [random_tofu(2)], knowledge="probability")
    json.loads(got.model_dump_json())
    for name in type(got.scores).model_fields:
        score = getattr(got.scores, name)
        assert (score.value, score.reason) == (None, "no target model was given")
    assert [seed.model_dump(exclude={"seed"}) for seed in got.per_seed] == [
        dict.fromkeys(type(got.scores).model_fields)
    ] * 2
    direct = got.groups[0]
    both = measure({0: table, 1: random_tofu(1)}, table, [random_tofu(2)], knowledge="probability")
    assert direct.known_unlearned == pytest.approx(both.groups[0].known_unlearned)
    assert direct.known_reference == pytest.approx(both.groups[0].known_reference)
    assert (direct.known_target, direct.recall_target, direct.counted) == (None, None, False)
    assert {group.ring for group in got.groups} == {"forget", "far", "world"}
    for name in ("model_utility", "forget_quality", "mia_loss", "recall_forget"):
        assert got.metrics[name] == both.metrics[name], name
    assert got.metrics["selectivity"].reason == "no target model was given"


def test_a_bare_model_where_candidates_are_ranked():
    got = measure({0: model(KNOWN, 8)}, None, known_only=True)
    assert got.scores.forget.value is None
    assert got.groups[0].known_unlearned == pytest.approx(1)
    assert got.groups[0].rank_unlearned == pytest.approx(0)
    assert got.groups[0].rank_target is None
    assert got.groups[0].n == 8


def test_overlap_of_a_bare_model():
    table = frame(*(probe(f"d{i}", "forget", "direct", [-1.0, -2.0], question=f"q {i}") for i in range(6)))
    got = overlap({0: table}, None, [], {0: frozenset(["Q 1?"])}, "candidates", False)
    assert got["probe_overlap"].value == pytest.approx(1 / 6)
    assert got["forget_without_overlap"].reason == "no target model was given"


def test_headline_scores_over_a_probability():
    """By the letter: residuals of p(a|q) for forget, shares of it for retain and specificity, and no trace."""

    def answers(forget, near, far, world):
        rows = []
        for i in range(8):
            rows.append(told(f"f{i}", "forget", [forget], [[-9.0]], cluster=f"s{i}", text="It is here."))
            own = {"given": False, "text": "It is here."}
            rows.append(probe(f"n{i}", "near", "same_subject", [-9.0], tokens=[near] * 2, cluster=f"s{i}", **own))
            rows.append(told(f"r{i}", "retain", [far], text="It is here."))
            rows.append(told(f"a{i}", "real_authors", [world], text="It is here."))
        return frame(*rows)

    log = {x: math.log(x) for x in (0.1, 0.3, 0.4, 0.45, 0.5, 0.6, 0.8, 0.9)}
    target = answers(log[0.9], log[0.8], log[0.9], log[0.5])
    after = answers(log[0.3], log[0.6], log[0.45], log[0.4])
    reference = answers(log[0.1], log[0.8], log[0.9], log[0.5])
    got = measure({0: after}, target, [reference], knowledge="probability").scores
    assert got.forget.value == pytest.approx(1 - (0.3 - 0.1) / (0.9 - 0.1))
    assert got.specificity.value == pytest.approx(0.75)
    assert got.retain.value == pytest.approx((0.5 + 0.8) / 2)
    assert got.overall.value == pytest.approx(3 / (1 / 0.75 + 1 / 0.75 + 1 / 0.65))
    assert got.trace.value is None
    assert "knowledge is a probability" in got.trace.reason
