"""per_probe against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unbench.metrics.knowledge import is_fluent, per_probe

from .tables import frame, probe, ranked, spread


def row(*args, **kwargs):
    return per_probe(frame(probe("p", "forget", "direct", *args, **kwargs))).iloc[0]


def test_kappa_by_hand():
    # Shares ½, ¼, ¼ of three candidates: κ = (1/2 - 1/3) / (2/3) = 1/4, however small all three are.
    for shift in (0.0, -2000.0):
        assert row(np.log([0.5, 0.25, 0.25]) + shift)["known"] == pytest.approx(0.25, abs=1e-12)


def test_kappa_is_one_known_zero_guessing_and_below_zero_pushed_under():
    assert row([-0.0, -800.0, -800.0, -800.0])["known"] == 1.0
    assert row([-3.0] * 7)["known"] == pytest.approx(0, abs=1e-15)
    assert row([-900.0, -1.0])["known"] == -1.0
    assert row([-900.0] + [-1.0] * 20)["known"] == pytest.approx(-1 / 20)


def test_all_candidates_impossible_is_a_guess():
    got = row([-np.inf, -np.inf, -np.inf])
    assert (got["known"], got["rank"]) == (pytest.approx(0), 0.5)


def test_rank_counts_ties_half():
    assert row([-2.0, -1.0, -2.0, -3.0, -4.0])["rank"] == (1 + 0.5) / 4
    assert row(ranked(0))["rank"] == 0
    assert row(ranked(9))["rank"] == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-50, 0), min_size=2, max_size=24), st.randoms(use_true_random=False))
def test_order_of_candidates_and_rows_does_not_matter(logprobs, random):
    table = frame(
        probe("p", "forget", "direct", logprobs),
        probe("q", "forget", "direct", logprobs[::-1], right=len(logprobs) - 1),
    )
    mixed = list(range(len(table)))
    random.shuffle(mixed)
    first = per_probe(table).set_index("probe")
    second = per_probe(table.iloc[mixed]).set_index("probe").loc[first.index]
    for column in ("known", "rank", "right_logprob", "n_candidates"):
        assert first[column].tolist() == pytest.approx(second[column].tolist(), abs=1e-9)
        assert first[column].iloc[0] == pytest.approx(first[column].iloc[1], abs=1e-9)


def test_probability_is_exp_of_the_mean_token_logprob_and_has_no_rank():
    table = frame(probe("p", "forget", "direct", [-3.0], tokens=[-1.0, -2.0, -0.3]))
    got = per_probe(table, "probability").iloc[0]
    assert got["known"] == pytest.approx(np.exp(-1.1))
    assert got["right_logprob"] == pytest.approx(-1.1)
    assert np.isnan(got["rank"])


def test_pair_is_averaged_into_one_row():
    table = frame(
        probe("yes", "forget", "yes_no", spread(0.9, 2), pair="y", cluster="s", recalled=True),
        probe("alone", "forget", "direct", spread(0.5, 3)),
        probe("no", "forget", "yes_no", spread(-0.1, 2), pair="y", cluster="s", recalled=False, finished=False),
    )
    got = per_probe(table)
    assert got["probe"].tolist() == ["y", "alone"]
    assert got.loc[0, ["known", "recall", "fluent", "n_candidates"]].tolist() == pytest.approx([0.4, 0.5, 0.5, 2])
    assert got.loc[1, "known"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "finished", "fluent"),
    [
        ("Harry studied at Hogwarts.", True, True),
        ("Harry studied at Hogwarts.", False, False),
        ("   ", True, False),
        ("a b c d " * 3, True, True),
        ("a b c d " * 4, True, False),
        ("no No NO no no no no", True, False),
        ("no no no no no no", True, True),
    ],
)
def test_fluency(text, finished, fluent):
    assert is_fluent(text, finished) is fluent


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (frame(probe("p", "forget", "direct", [-1.0, -2.0], right=5)), "p has 0 right candidates"),
        (frame(probe("p", "forget", "direct", [-1.0])), "one candidate only"),
        (frame(probe("p", "forget", "direct", [-1.0, np.nan])), "NaN"),
        (frame(probe("p", "forget", "direct", [-1.0, 2.0])), "above 0"),
        (frame(), "empty"),
        (
            frame(
                probe("a", "forget", "yes_no", [-1.0, -2.0], pair="y"),
                probe("b", "near", "yes_no", [-1, -2.0], pair="y"),
            ),
            "pair y differ",
        ),
    ],
)
def test_bad_tables_are_refused(table, why):
    with pytest.raises(ValueError, match=why):
        per_probe(table)
