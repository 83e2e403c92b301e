"""R and Q in both forms, by hand; their means with intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student

from unbench.metaeval.robustness import (
    Attacked,
    harmonic,
    mean_score,
    overall,
    quantisation,
    relearning,
    robust,
    symmetric,
    without_each,
)


@pytest.mark.parametrize(
    ("unlearned", "retrained", "expected"),
    [
        (0.4, 0.1, 0.25),  # comes back four times as fast as a stranger learns
        (0.1, 0.4, 1.0),  # slower: no sign of hidden knowledge
        (0.0, 0.0, 1.0),  # nothing changed
        (-0.1, 0.2, 1.0),  # nothing came back
        (0.2, -0.1, 0.0),  # the unlearned model alone rises
        (0.2, 0.2, 1.0),
    ],
)
def test_relearning(unlearned: float, retrained: float, expected: float) -> None:
    assert relearning(unlearned, retrained) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("before", "after", "expected"), [(0.1, 0.4, 0.25), (0.4, 0.1, 1.0), (0.0, 0.0, 1.0), (0.0, 0.3, 0.0)]
)
def test_quantisation(before: float, after: float, expected: float) -> None:
    assert quantisation(before, after) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [(0.3, 0.1, 0.5), (0.1, 0.3, 0.5), (0.2, 0.2, 1.0), (0.0, 0.0, 1.0), (0.2, -0.2, 0.0), (0.0, 0.5, 0.0)],
)
def test_symmetric(one: float, other: float, expected: float) -> None:
    assert symmetric(one, other) == pytest.approx(expected)


def test_all_forms_of_two_models() -> None:
    found = robust([Attacked(0.1, 0.5, 0.2), Attacked(0.2, 0.25, 0.1)], 0.1)
    assert found.relearning == pytest.approx([0.25, 1.0])
    assert found.quantisation == pytest.approx([0.5, 1.0])
    assert found.relearning_symmetric == pytest.approx([1 - 0.3 / 0.5, 1 - 0.05 / 0.15])
    assert found.quantisation_symmetric == pytest.approx([1 - 0.1 / 0.3, 1 - 0.1 / 0.3])


def test_overall_is_the_harmonic_mean_of_f_and_of_r_and_q() -> None:
    hm = 2 / (1 / 0.5 + 1 / 0.8)
    assert float(overall(0.9, 0.5, 0.8)) == pytest.approx(2 / (1 / 0.9 + 1 / hm))
    assert float(overall(0.9, 0.0, 0.8)) == 0.0
    assert harmonic(np.array([1.0, 0.5]), 0.5) == pytest.approx([2 / 3, 0.5])


def test_mean_over_models_has_students_interval_over_methods() -> None:
    values, methods = np.array([0.2, 0.4, 0.5, 0.6, 0.7, 0.4]), list("abcdef")
    found = mean_score(values, methods, "none")
    half = student.ppf(0.975, 5) * values.std(ddof=1) / np.sqrt(6)
    expected = (values.mean(), values.mean() - half, values.mean() + half)
    assert (found.value, found.low, found.high) == pytest.approx(expected)
    # A second seed of every method that gives the same is no new unit.
    twice = mean_score(np.repeat(values, 2), [method for method in methods for _ in range(2)], "none")
    assert (twice.value, twice.low, twice.high) == pytest.approx(expected)
    assert twice.n == 12
    assert without_each(values, ["a", "b", "a", "c", "c", "b"]) == pytest.approx([2.1 / 4, 2.0 / 4, 1.5 / 4])


def test_few_methods_have_no_interval_and_none_no_value() -> None:
    few = mean_score(np.array([0.2, 0.4]), ["a", "b"], "none")
    assert few.value == pytest.approx(0.3)
    assert (few.low, few.reason) == (None, "interval: fewer than 6 methods")
    assert mean_score(np.array([0.2, 0.4]), ["a", "a"], "none").reason == "interval: one method"
    empty = mean_score(np.array([]), [], "nobody")
    assert (empty.value, empty.reason) == (None, "nobody")
