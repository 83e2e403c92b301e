"""What lm-eval found of several seeds, put together; values worked out by hand."""

from __future__ import annotations

import math

import pytest

from unbench.capabilities import over_seeds
from unbench.results.schema import Score


def test_one_seed_stays_as_it_is() -> None:
    score = Score(value=0.5, low=0.4, high=0.6, n=10, reason="why")
    assert over_seeds([{"a": score}]) == {"a": score}


def test_mean_over_seeds_keeps_the_items_width_and_adds_the_seeds() -> None:
    seeds = [{"a": Score(value=0.5, low=0.4, high=0.6, n=10)}, {"a": Score(value=0.7, low=0.5, high=0.9, n=10)}]
    found = over_seeds(seeds)["a"]
    # Half widths 0.1 and 0.2, mean square 0.025; values differ by 0.2, so their variance is 0.02, of the mean 0.01.
    half = math.sqrt(0.025 + 1.96**2 * 0.01)
    assert found.value == pytest.approx(0.6)
    assert (found.low, found.high) == (pytest.approx(0.6 - half), pytest.approx(0.6 + half))
    assert found.n == 10


def test_what_one_seed_lacks_is_null_with_its_reason() -> None:
    seeds = [{"a": Score(value=0.5), "b": Score(value=1.0)}, {"a": Score(value=None, reason="broken")}]
    found = over_seeds(seeds)
    assert (found["a"].value, found["a"].reason) == (None, "broken")
    assert found["b"].value is None
    assert over_seeds([{"a": Score(value=0.5)}, {"a": Score(value=1.0)}])["a"] == Score(value=0.75)
