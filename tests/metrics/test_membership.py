"""Membership attacks, exact memorisation, extraction strength and text fluency against values worked out by hand."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from unbench.metrics.fluency_text import entropy, repetition
from unbench.metrics.items import families, read
from unbench.metrics.membership import (
    auc,
    gradnorm_score,
    loss_score,
    min_k_plus_plus_score,
    min_k_score,
    privleak,
    reference_score,
    zlib_score,
)
from unbench.metrics.memorisation import exact_memorization, extraction_strength
from unbench.metrics.published import published

from .tables import frame, random_tofu, told


def items(*rows):
    """Items of the forget family."""
    table = frame(*rows)
    return read(table, families(table))["forget"]


def test_auc_by_hand_counts_ties_half():
    # 3 beats 2 and 1; each of the 2s ties with 2 and beats 1: 2 + 1.5 + 1.5 of 6 pairs.
    assert auc(np.array([3.0, 2.0, 2.0]), np.array([2.0, 1.0])) == pytest.approx(5 / 6)
    assert auc(np.array([1.0]), np.array([2.0])) == 0
    assert auc(np.array([2.0]), np.array([2.0])) == 0.5


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_auc_equals_scikit_learn(a, b):
    want = roc_auc_score([1] * len(a) + [0] * len(b), a + b)
    assert auc(np.array(a, dtype=float), np.array(b, dtype=float)) == pytest.approx(want, abs=1e-12)


def test_scores_by_hand():
    own = items(told("f", "forget", [-1.0, -2.0, -6.0, -3.0, -0.5], answer="aaaa aaaa"))
    assert loss_score(own) == pytest.approx([-2.5])
    assert zlib_score(own) == pytest.approx([-2.5 / len(zlib.compress(b"aaaa aaaa"))])
    assert min_k_score(own) == pytest.approx([-4.5]), "the lowest 2 of 5"
    before = items(told("f", "forget", [-4.0]))
    assert reference_score(own, before) == pytest.approx([1.5])


@pytest.mark.parametrize(("length", "k"), [(1, 1), (2, 1), (4, 1), (5, 2), (9, 3), (10, 4), (15, 6)])
def test_min_k_looks_at_two_fifths_but_at_least_one(length, k):
    own = items(told("f", "forget", [-float(i) for i in range(length)]))
    assert min_k_score(own) == pytest.approx([-np.mean(range(length - k, length))])


def test_zlib_counts_bytes_not_letters():
    own = items(told("f", "forget", [-1.0], answer="né à Zürich"))
    assert zlib_score(own) == pytest.approx([-1 / len(zlib.compress("né à Zürich".encode()))])


def test_min_k_plus_plus_by_hand_with_a_token_without_spread():
    # (-3 - -1) / √4 = -1, (-2 - -1) / √1 = -1, (-1 - -1) / √(0 → 1e-6) = 0; one of three counts.
    moments = ([-1.0, -1.0, -1.0], [4.0, 1.0, 0.0])
    assert min_k_plus_plus_score(items(told("f", "forget", [-3.0, -2.0, -1.0], moments=moments))) == pytest.approx([-1])
    below = items(told("f", "forget", [-3.0, -2.0, -1.001], moments=moments))
    assert min_k_plus_plus_score(below) == pytest.approx([-1.0])
    far_below = items(told("f", "forget", [-3.0, -2.0, -1.002], moments=moments))
    assert min_k_plus_plus_score(far_below) == pytest.approx([-2.0])
    assert min_k_plus_plus_score(items(told("f", "forget", [-3.0]))) is None


def test_an_engine_without_moments():
    table = random_tofu(0).assign(token_mean=None, token_variance=None)
    got = published({0: table})
    assert got["mia_min_k_plus_plus"].value is None
    assert got["mia_min_k_plus_plus"].reason.startswith("the engine gave no moments")
    assert got["mia_min_k"].value is not None
    older = published({0: random_tofu(0).drop(columns=["token_mean", "token_variance", "is_paraphrase"])})
    assert older["mia_min_k_plus_plus"].value is None


def test_members_score_high():
    rows = [told(f"f{i}", "forget", [-0.1 - i / 10] * 5, moments=([-1] * 5, [1] * 5)) for i in range(3)]
    rows += [told(f"h{i}", "holdout", [-2.0 - i] * 5, moments=([-1] * 5, [1] * 5)) for i in range(3)]
    table = frame(*rows).assign(gradnorm=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    stranger = table.assign(token_logprobs=[[-1.0] * 5] * 6)
    got = published({0: table}, [stranger])
    for name in ("mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus", "mia_reference", "mia_gradnorm"):
        assert got[name].value == 1.0, name
        assert got[name].n == 6
    # The reference's area is ½, so 100 (½ - 1) / ½.
    assert got["privleak"].value == pytest.approx(-100)
    assert published({0: stranger}, [stranger])["privleak"].value == pytest.approx(0)
    none = published({0: table}, [table])["privleak"]
    assert (none.value, none.reason) == (None, "the reference's area is 1: nothing to divide by")


def test_privleak_by_hand():
    assert privleak(np.array([0.7]), np.array([0.4])) == pytest.approx([-50.0])
    assert privleak(np.array([0.0]), np.array([0.8])) == pytest.approx([400.0]), "no upper bound"
    assert np.isnan(privleak(np.array([0.5]), np.array([1.0])))


def test_gradnorm_only_where_it_was_asked_for():
    table = random_tofu(0)
    assert "mia_gradnorm" not in published({0: table})
    empty = published({0: table.assign(gradnorm=np.nan)})["mia_gradnorm"]
    assert (empty.value, empty.reason) == (None, "the engine gave no gradient norms")
    assert gradnorm_score(items(told("f", "forget", [-1.0]))) is None
    lacks = published({0: table[table["ring"] != "holdout"].assign(gradnorm=1.0)})["mia_gradnorm"]
    assert lacks.reason == "no holdout probes"


@pytest.mark.parametrize(
    ("flags", "exact", "strength"),
    [
        ([1, 1, 1, 1], 1.0, 1.0),
        ([0, 1, 1, 1], 0.75, 0.75),
        ([1, 0, 1, 1], 0.75, 0.5),
        ([0, 0, 0, 1], 0.25, 0.25),
        ([1, 1, 1, 0], 0.75, 0.0),  # open-unlearning's loop says 1/4
        ([0], 0.0, 0.0),
        ([1], 1.0, 1.0),
    ],
)
def test_memorisation_by_hand(flags, exact, strength):
    row = np.array(flags, dtype=bool)
    assert exact_memorization(row) == exact
    assert extraction_strength(row) == strength
    got = published({0: frame(told("f", "forget", [-1.0] * len(flags), argmax=row))})
    assert (got["exact_memorization"].value, got["extraction_strength"].value) == (exact, strength)


def test_entropy_by_hand():
    # Four bigrams, all different: 2 bits; three trigrams: log2 3.
    assert entropy("a b c d e") == pytest.approx(2 / 3 + 2 / 3 * math.log2(3))
    # a b, b a, a b: 1/3 and 2/3; a b a, b a b: 1 bit.
    assert entropy("a b a b") == pytest.approx((math.log2(3) - 2 / 3) / 3 + 2 / 3)
    assert entropy("red red red red red") == 0
    assert entropy("") == 0
    assert entropy("one two") == 0
    assert entropy("No, no.") == pytest.approx(1 / 3 * math.log2(3) + 2 / 3)


def test_repetition_by_hand():
    # red × 7: four 4-grams, one of them new.
    assert repetition("red red red red red red red") == pytest.approx(3 / 4)
    assert repetition("a b c d e f") == 0
    assert repetition("a b c") == 0
    assert repetition("a b a b a b", n=2) == pytest.approx(3 / 5)


def test_text_metrics_are_means_over_greedy_answers():
    rows = [told("f0", "forget", [-1.0], text="red red red red red red red"), told("f1", "forget", [-1.0], text="")]
    got = published({0: frame(*rows)})
    assert got["forget_repetition"].value == pytest.approx(3 / 8)
    assert got["forget_entropy"].value == 0
    longer = published({0: frame(told("f", "forget", [-1.0], text=" ".join(map(str, range(99)))))})
    assert longer["forget_entropy"].value > 6
