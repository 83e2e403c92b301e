"""leak@k against counting all subsets, its interval, and what drawn texts give away."""

from __future__ import annotations

from itertools import combinations
from math import comb, isclose
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from world import Tried, context, hiding, nothing_back, probes

from unbench.attack import AttackContext, NotPossible
from unbench.attacks.harness import run
from unbench.attacks.sample import Sample, clopper_pearson, leak_at


@pytest.mark.parametrize("n", range(1, 9))
def test_leak_at_k_counts_all_subsets(n: int) -> None:
    for c in range(n + 1):
        leaks = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            drawn = list(combinations(leaks, k))
            assert leak_at(k, n, c) == pytest.approx(sum(map(any, drawn)) / len(drawn), abs=1e-15)


def test_leak_at_k_where_floats_would_overflow() -> None:
    n, k, c = 5000, 2000, 3
    straight = 1.0
    for i in range(c):  # the c leaking texts are not among the k
        straight *= (n - k - i) / (n - i)
    assert isclose(leak_at(k, n, c), 1 - straight, rel_tol=1e-12)
    assert comb(n, k) > 10**300
    assert leak_at(64, 64, 1) == 1.0
    assert leak_at(1, 64, 16) == 0.25
    assert leak_at(64, 64, 0) == 0.0


def test_leak_grows_with_k_and_c() -> None:
    for c in range(1, 16):
        leaks = [leak_at(k, 16, c) for k in range(1, 17)]
        assert leaks == sorted(leaks)
        assert all(leak_at(k, 16, c) >= leak_at(k, 16, c - 1) for k in range(1, 17))


def test_clopper_pearson() -> None:
    """Its ends are where the two tails are 2.5 %; with no hit the upper end is 1 - 0.025^(1/n)."""
    from scipy.stats import binom

    low, high = clopper_pearson(7, 60)
    assert binom.sf(6, 60, low) == pytest.approx(0.025, abs=1e-6)
    assert binom.cdf(7, 60, high) == pytest.approx(0.025, abs=1e-6)
    assert clopper_pearson(0, 100) == pytest.approx((0.0, 1 - 0.025 ** (1 / 100)))
    assert clopper_pearson(5, 5)[1] == 1.0


def test_what_is_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = probes("direct", "paraphrase", "cloze", facts=6)
    texts: dict[str, list[str]] = {}
    asked = [p for p in whole if p.kind != "cloze"][:8]
    for place, probe in enumerate(asked):
        question = probe.messages[-1].content
        texts[question] = [f"It is {probe.answer}."] * place + ["I don't know."] * (8 - place)
    seen = []

    def generate(self: AttackContext, prompts: Any, *, sampling: Any) -> list[str]:
        seen.append(sampling)
        return [texts[prompt[-1].content].pop() for prompt in prompts]

    monkeypatch.setattr(AttackContext, "generate", generate)
    made = context("target", [*asked, *(p for p in whole if p.kind == "cloze")], tmp_path, seed=5)
    table = run(Sample(Sample.Config(n=8, k=(4, 1, 4, 64))), made)
    assert [(s.temperature, s.top_p, s.seed, s.max_new_tokens) for s in seen] == [(1.0, 1.0, 5, 32)]
    assert list(dict.fromkeys(table["strength"])) == [1, 4]
    assert set(table["kind"]) == {"direct", "paraphrase"}
    assert bool(table["own"].all())
    for k in (1, 4):
        got = table.loc[table["strength"] == k, "known"]
        assert list(got) == pytest.approx([leak_at(k, 8, c) for c in range(8)])
    assert made.notes["texts"] == 64
    assert made.notes["leaked"] == sum(range(8))
    assert made.notes["leak_probability"] == pytest.approx(clopper_pearson(28, 64), abs=1e-6)


def test_every_k_too_large(tmp_path: Path) -> None:
    table = run(Sample(Sample.Config(n=3, k=(16,))), context("target", probes("direct", facts=6), tmp_path))
    assert set(table["strength"]) == {3}


def test_yes_or_no_is_not_drawn(tmp_path: Path) -> None:
    pair = [probe.model_copy(update={"pair": "p"}) for probe in probes("direct", facts=2)]
    with pytest.raises(NotPossible, match="yes or no"):
        run(Sample(), context("target", pair, tmp_path))


@pytest.mark.parametrize("bad", [{"n": 0}, {"k": ()}, {"k": (0,)}, {"kinds": ()}, {"temperature": 2}])
def test_bad_config(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Sample.Config.model_validate(bad)


def test_settings_by_model() -> None:
    assert Sample.Config.model_validate(Sample.for_model("nano")).n == 64
    assert Sample.Config.model_validate(Sample.for_model("smollm2")).n == 32


def test_what_comes_back(tmp_path: Path) -> None:
    """Of a model that keeps the right answer out of greedy's sight: most, in many texts. Nothing of retrain."""
    asked = probes("direct")
    tried = Tried(Sample(Sample.Config(n=64, k=(1, 64))), asked, tmp_path)
    reference = tried.table("reference")
    one_text = {at: p for at, p in tried.curve(tried.table("retrain"), reference).items() if at[1] == 1}
    nothing_back(one_text)

    def load() -> Any:
        return hiding(asked, nats=8.0)

    assert context("target", asked, tmp_path, load).ask(0, generate=True)["recall"].mean() < 0.1
    curve = tried.curve(tried.table("target", load), reference)
    assert (curve["", 64.0].shown.excess.value or 0) >= 0.5
    assert curve["", 64.0].clear
    assert (curve["", 1.0].shown.excess.value or 0) < 0.1
