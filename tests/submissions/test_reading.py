"""A submission is read like a run, and nothing is written into it."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import Run
from .world import Forged, World, submit


def test_shown_cited_and_compared(unbench: Run, small: World, forged: Forged, tmp_path: Path) -> None:
    other = submit(small, method="unbench:npo")
    before = {path: path.read_bytes() for path in small.root.rglob("*") if path.is_file()}
    run_id = forged.folder.name
    shown = unbench("show", forged.folder)
    assert shown.code == 0
    whole = json.loads(unbench("show", forged.folder, "--json").out)
    assert whole["run_id"] == run_id
    attacks = unbench("show", forged.folder, "--attacks")
    assert attacks.code == 0
    assert "plot:" not in attacks.out
    rows = json.loads(unbench("show", forged.folder, "--probes", "--json").out)["rows"]
    groups = {row["ring"] for row in rows}
    assert {"forget", "near", "far"} <= groups
    assert unbench("cite", forged.folder).out.startswith(f"@misc{{unbench_run_{run_id},")
    assert unbench("compare", forged.folder, other, "--plot", tmp_path / "plot.svg").code == 0
    paired = json.loads(unbench("compare", forged.folder, forged.folder, "--paired", "--json").out)
    (one,) = paired["others"]
    assert one["differences"]["forget"]["value"] == 0.0
    assert {path: path.read_bytes() for path in small.root.rglob("*") if path.is_file()} == before


def test_an_attack_wants_weights(unbench: Run, forged: Forged) -> None:
    done = unbench("attack", forged.folder)
    assert done.code == 2
    assert "is a submission: it holds answers, no weights" in done.err


def test_a_broken_one_is_one_sentence(unbench: Run, forged: Forged) -> None:
    (forged.folder / "submission.json").write_text('{"schema": NaN}')
    done = unbench("show", forged.folder)
    assert done.code == 2
    assert "can't be read" in done.err
