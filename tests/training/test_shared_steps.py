"""Several processes: the same gradients, every row of a step on one of them (metrics' trap 8), one engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from shared_steps import CASES, take_step

from unbench.contract_world import World


@pytest.fixture(scope="module")
def together(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The steps of ``shared_steps`` taken by two processes."""
    place = world.target_path.parent
    (place / "rows.json").write_text(json.dumps({"forget": world.forget, "retain": world.retain}))
    script = Path(__file__).with_name("shared_steps.py")
    meeting = tmp_path_factory.mktemp("meeting") / "store"
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(place), str(meeting)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, told = process.communicate(timeout=300)
            assert process.returncode == 0, told
    finally:
        for process in processes:
            process.kill()
    return place


def reports(place: Path, case: str) -> list[dict[str, Any]]:
    return [json.loads((place / f"{case}-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_one_process(together: Path, world: World, tmp_path: Path, case: str) -> None:
    alone, found = take_step(world, tmp_path, case)
    scale = max(float(gradient.abs().max()) for gradient in alone.values())
    assert scale > 0
    for rank, report in enumerate(reports(together, case)):
        shared = load_file(together / f"{case}-{rank}.safetensors")
        assert shared.keys() == alone.keys()
        for name, gradient in alone.items():
            assert torch.allclose(shared[name], gradient, rtol=0, atol=1e-9 * scale), name
        assert report["values"] == pytest.approx(found["values"], rel=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_the_shares_are_the_steps_rows(together: Path, case: str) -> None:
    first, second = reports(together, case)
    for term, rows in first["rows"].items():
        assert len(rows) == CASES[case]
        shares = first["seen"][term], second["seen"][term]
        assert sorted(shares[0] + shares[1]) == sorted(rows)
        assert abs(len(shares[0]) - len(shares[1])) == 1
        assert second["rows"][term] == rows


def test_an_engine_is_asked_once_and_all_hear_it(together: Path) -> None:
    first, second = (json.loads((together / f"engine-{rank}.json").read_text()) for rank in range(2))
    assert first == second == [["a 7", "b 7"], ["c 14"], 14]
