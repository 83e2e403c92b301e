"""Differences between two runs on the same probes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import ttest_rel

from unbench import api
from unbench.attacks.measure import Part
from unbench.cli import cli
from unbench.errors import UnbenchError, UsageError
from unbench.metrics.statistics import jackknife_t
from unbench.paired import difference, paired
from unbench.results.store import RunFolder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    out = tmp_path_factory.mktemp("runs")
    return {name: RunFolder(Path(api.run(name, out=out, limit=8, device="cpu", seeds=(0, 1)).dir))
            for name in ("none", "retrain", "prompt_guard")}  # fmt: skip


def part(values: np.ndarray, seeds: np.ndarray) -> Part:
    """A mean over clusters."""
    left_out = {f"c{i}": float(np.delete(values, i).mean()) for i in range(len(values))}
    return Part(float(values.mean()), left_out, seeds)


def test_difference_by_hand() -> None:
    """What both share cancels: two runs that differ by .1 on every cluster differ by .1 for certain."""
    draw = np.random.default_rng(0)
    hard = draw.random(20)
    names = [[f"c{i}" for i in range(20)]]
    found = difference(part(hard + 0.1, np.array([0.1])), part(hard, np.array([0.0])), names, 20)
    assert found.value == pytest.approx(0.1)
    assert (found.low, found.high) == (pytest.approx(0.1), pytest.approx(0.1))
    other = draw.random(20)
    apart = difference(part(hard, np.array([0.5, 0.7])), part(other, np.array([0.4, 0.5])), names, 20)
    gap = hard - other
    left_out = np.array([np.delete(gap, i).mean() for i in range(20)])
    low, high, _ = jackknife_t(gap.mean(), [left_out], np.array([0.1, 0.2]), bounds=(-1, 1))
    assert (apart.low, apart.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize("level", [0.95, 0.995])
def test_the_interval_of_one_seed_is_the_paired_t_test(level: float) -> None:
    draw = np.random.default_rng(2)
    one, other = draw.random(20) / 4, draw.random(20) / 4
    names = [[f"c{i}" for i in range(20)]]
    found = difference(part(one, np.array([0.0])), part(other, np.array([0.0])), names, 20, level)
    low, high = ttest_rel(one, other).confidence_interval(level)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_the_interval_covers() -> None:
    """Two methods that differ by .2 on the average of correlated clusters: at least 93 of 100 intervals hold it."""
    draw = np.random.default_rng(1)
    names = [[f"c{i}" for i in range(30)]]
    hits = 0
    for _ in range(400):
        shared = draw.normal(0, 1, 30)
        one, other = (shared + more + draw.normal(0, 0.2, 30) for more in (0.2, 0.0))
        found = difference(part(one, np.array([0.0])), part(other, np.array([0.0])), names, 30)
        hits += found.low <= 0.2 <= found.high  # type: ignore[operator]
    assert hits / 400 >= 0.93


def test_two_runs(runs: dict[str, RunFolder]) -> None:
    found = paired(runs["retrain"], runs["none"])
    assert found["forget"].value == pytest.approx(1, abs=0.1)
    assert (found["forget"].low or 0) > 0.8
    assert found["retain"].value == pytest.approx(0, abs=0.05)
    assert {"near_same_subject", "near_same_answer"} <= set(found)
    back = paired(runs["none"], runs["retrain"])
    assert back["forget"].value == pytest.approx(-(found["forget"].value or 0))
    itself = paired(runs["retrain"], runs["retrain"])
    assert all(score.value == 0 for score in itself.values())


def test_command(runs: dict[str, RunFolder]) -> None:
    words = ["-q", "compare", "--paired", str(runs["retrain"].path), str(runs["none"].path)]
    said = CliRunner().invoke(cli, words)
    assert said.exit_code == 0, said.output
    assert "significant" in said.output
    body = json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)
    assert body["others"][0]["differences"]["forget"]["value"] > 0.8
    alone = CliRunner().invoke(cli, ["-q", "compare", "--paired", str(runs["none"].path)])
    assert isinstance(alone.exception, UnbenchError)


def test_runs_that_can_not_be_compared(runs: dict[str, RunFolder], tmp_path: Path) -> None:
    few = RunFolder(Path(api.run("none", out=tmp_path, limit=3, device="cpu").dir))
    with pytest.raises(UsageError, match="The runs differ in limit: 8 and 3"):
        paired(runs["none"], few)
    other = RunFolder(Path(api.run("none", out=tmp_path, limit=8, device="cpu", seeds=(5,)).dir))
    with pytest.raises(UsageError, match="no seed in common"):
        paired(runs["none"], other)
    shutil.rmtree(other.path / "seed-5")
    with pytest.raises(UsageError, match="is gone"):
        paired(other, other)
