"""The controls on all three bios problems, seed 4 fixed beforehand: what any benchmark of unlearning must get right."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy.stats import binom

import unbench
from unbench import plugins, responses
from unbench.models.prepare import reference_file

PROBLEMS = ("fact", "relation", "person")


@pytest.mark.parametrize("problem", PROBLEMS)
def test_none_changes_nothing(problem: str, tmp_path: Path) -> None:
    scores = unbench.run("none", f"bios/{problem}", seeds=(4,), out=tmp_path).scores
    assert (scores.forget.value, scores.trace.value) == (0, 0)
    assert (scores.retain.value, scores.specificity.value) == (1, 1)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_retrain_has_forgotten_and_kept_the_rest(problem: str, tmp_path: Path) -> None:
    scores = unbench.run("retrain", f"bios/{problem}", seeds=(4,), out=tmp_path).scores
    assert scores.forget.value is not None
    assert scores.trace.value is not None
    assert scores.retain.value is not None
    assert scores.specificity.value is not None
    assert scores.forget.value >= 0.90
    assert scores.trace.value >= 0.70
    assert scores.retain.value >= 0.95
    assert scores.specificity.value >= 0.95


@pytest.mark.parametrize("split", ["select", "report"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_references_guess_the_forgotten_facts(problem: str, split: str) -> None:
    task = plugins.open_task(f"bios/{problem}", split)  # type: ignore[arg-type]
    frame = responses.load(reference_file(task))
    direct = frame[(frame["ring"] == "forget") & (frame["kind"] == "direct")]
    assert set(direct["role"]) == {"reference-1", "reference-2", "reference-3"}
    best = direct.loc[direct.groupby(["role", "probe"])["logprob"].idxmax()]
    hits, n = int(best["is_right"].sum()), len(best)
    chance = 1 / int(direct.groupby("probe")["candidate"].nunique().iloc[0])
    # The exact two-sided 99.9 % interval of a guesser's hits, pooled over the three seeds.
    assert binom.ppf(0.0005, n, chance) <= hits <= binom.ppf(0.9995, n, chance), (hits, n)


@pytest.mark.slow
def test_sham_forgets_nothing_and_retain_only_keeps(tmp_path: Path) -> None:
    sham = unbench.run("sham", "bios/fact", out=tmp_path).scores
    assert sham.forget.value is not None
    assert sham.retain.value is not None
    assert sham.forget.value <= 0.2 or sham.retain.value < 0.9
    kept = unbench.run("retain_only", "bios/fact", out=tmp_path).scores
    assert kept.retain.value is not None
    assert kept.retain.value >= 0.95
