"""Matched utility: the bisection, the mixture, and a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from unbench import api
from unbench.cli import cli
from unbench.errors import UsageError
from unbench.matched import HALVINGS, bisect, matched
from unbench.results.store import RunFolder


@pytest.mark.parametrize("edge", [0.03, 0.2, 0.5, 0.77, 0.999])
def test_bisection_finds_the_edge(edge: float) -> None:
    asked: list[float] = []

    def at(share: float) -> float:
        asked.append(share)
        return share

    found, what = bisect(at, lambda share: share <= edge, 8)
    assert found <= edge < found + 1 / 256
    assert what == found
    assert len(asked) == (9 if found else 10)


def test_bisection_stays_where_nothing_is_lost() -> None:
    assert bisect(lambda share: share, lambda share: True, 8) == (1.0, 1.0)


def test_bisection_ends_at_the_target_where_all_is_lost() -> None:
    assert bisect(lambda share: share, lambda share: False, 3) == (0.0, 0.0)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Gradient ascent gone too far: everything is forgotten."""
    out = tmp_path_factory.mktemp("runs")
    result = api.run("gradient_ascent", out=out, limit=8, device="cpu", settings={"lr": 5e-4, "steps": 25})
    return RunFolder(Path(result.dir))


def test_a_run_is_mixed_until_it_keeps_enough(broken: RunFolder) -> None:
    from unbench.results.store import read_result

    before = read_result(broken).scores
    assert before.retain.value is not None
    assert before.retain.value < 0.9
    found = matched(broken, 0.9)
    (share,) = found.mixed.values()
    assert 0 <= share < 1
    assert share * 2**HALVINGS == int(share * 2**HALVINGS)
    assert found.retain.value is not None
    assert found.retain.value >= 0.9
    assert found.forget.value is not None
    assert before.forget.value is not None
    assert found.forget.value <= before.forget.value + 1e-6
    mark = broken.path / "seed-0" / "matched.json"
    at = mark.stat().st_mtime_ns
    assert matched(broken, 0.9) == found
    assert mark.stat().st_mtime_ns == at
    # Asking for less gives a larger share.
    assert next(iter(matched(broken, 0.5).mixed.values())) >= share


def test_the_mixture_is_the_straight_line_between_the_weights(broken: RunFolder) -> None:
    from unbench import matched as room
    from unbench.models.load import Target, load_model
    from unbench.models.nano import nano_folder

    target = Target(nano_folder("target"), "cpu", torch.float32)
    after = load_model(broken.path / "seed-0" / "unlearned", "cpu", torch.float32).state_dict()
    before = target.load().state_dict()
    finder = room._Finder.__new__(room._Finder)
    finder._prepared = type("P", (), {"target": target})()  # type: ignore[assignment]
    finder._weights, finder._models = broken.path / "seed-0" / "unlearned", None
    for share in (0.25, 1.0, 0.0):
        mixed = finder._mixed(share).state_dict()
        for name in ("model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"):
            expected = (1 - share) * before[name].numpy() + share * after[name].numpy()
            np.testing.assert_allclose(mixed[name].numpy(), expected, atol=1e-6)


def test_nothing_to_mix(tmp_path: Path) -> None:
    result = api.run("prompt_guard", out=tmp_path, limit=3, device="cpu")
    found = matched(RunFolder(Path(result.dir)))
    assert found.forget.value is None
    assert "changes no weights" in str(found.reason)


def test_command(broken: RunFolder) -> None:
    said = CliRunner().invoke(cli, ["-q", "compare", "--kept", "0.9", "--json", str(broken.path)])
    assert said.exit_code == 0, said.output
    body = json.loads(said.stdout)
    assert body["schema"] == "unbench.matched/1"
    assert body["runs"][0]["retain"]["value"] >= 0.9
    table = CliRunner().invoke(cli, ["-q", "compare", "--kept", "0.9", str(broken.path)])
    assert "forget at λ" in " ".join(table.output.split())


@pytest.mark.parametrize("kept", [0.0, -1.0, 1.5])
def test_bad_share(kept: float, broken: RunFolder) -> None:
    with pytest.raises(UsageError, match="Give a share of the target's retain"):
        matched(broken, kept)


def test_weights_that_are_gone(tmp_path: Path) -> None:
    import shutil

    result = api.run("none", out=tmp_path, limit=3, device="cpu")
    shutil.rmtree(Path(result.dir) / "seed-0")
    with pytest.raises(UsageError, match="is gone"):
        matched(RunFolder(Path(result.dir)))
