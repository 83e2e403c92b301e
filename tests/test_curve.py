"""Learning curves: read from a run's folder, printed, drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from unbench.cli import cli
from unbench.curve import columns, numbered, plot, read_curves
from unbench.errors import UsageError
from unbench.results.store import RunFolder


def entries(steps: int, start: float) -> list[dict[str, float]]:
    return [{"step": float(n), "loss": start / n, "forget": start - n, "retain": 0.1 * n, "grad_norm": 1.0, "lr": 1e-4}
            for n in range(1, steps + 1)]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two seeds, the second of two trainings."""
    folder = tmp_path / "run"
    losses = {0: entries(30, 5.0), 3: entries(2, 4.0) + entries(3, 3.0)}
    losses[3][-1]["retain_nll"] = 0.25
    for seed, curve in losses.items():
        place = folder / f"seed-{seed}"
        place.mkdir(parents=True)
        record = {"weights": None, "system_prompt": None, "wall_s": 1.0, "usage": {"losses": curve}}
        (place / "unlearn.json").write_text(json.dumps(record))
    (folder / "plan.json").write_text(json.dumps({"method": "unbench:npo", "task": "bios/fact", "model": "na$no"}))
    return folder


def test_trainings_are_told_apart() -> None:
    rows = numbered([{"step": 1.0}, {"step": 2.0}, {"step": 1.0}, {"step": 5.0}, {"step": 5.0}])
    assert [(row["training"], row["total_step"]) for row in rows] == [(1, 1), (1, 2), (2, 3), (2, 7), (3, 12)]


def test_json_holds_every_number(run: Path) -> None:
    done = CliRunner().invoke(cli, ["show", str(run), "--curve", "--json"])
    assert done.exit_code == 0, done.output
    body = json.loads(done.stdout)
    assert (body["schema"], body["plot"]) == ("unbench.curve/1", None)
    for seed in ("0", "3"):
        stored = json.loads((run / f"seed-{seed}" / "unlearn.json").read_text())["usage"]["losses"]
        assert [
            {key: row[key] for key in entry} for row, entry in zip(body["seeds"][seed], stored, strict=True)
        ] == stored
    assert [row["training"] for row in body["seeds"]["3"]] == [1, 1, 2, 2, 2]
    assert not (run / "curve.svg").exists()


def test_the_table_has_first_and_last(run: Path) -> None:
    done = CliRunner().invoke(cli, ["show", str(run), "--curve"])
    assert done.exit_code == 0, done.output
    assert "30 steps logged" in done.stdout
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    assert cells[0] == ["1", "1", "1", "5", "4", "0.1", "–", "1", "0.0001"]
    assert ["1", "30", "30", "0.1667", "-25", "3", "–", "1", "0.0001"] in cells
    assert (run / "curve.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(("name", "begin"), [("a.svg", b"<?xml"), ("deep/a.png", b"\x89PNG")])
def test_drawn_where_it_was_asked(run: Path, name: str, begin: bytes) -> None:
    done = CliRunner().invoke(cli, ["show", str(run), "--plot", str(run / name), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["plot"] == str(run / name)
    assert (run / name).read_bytes().startswith(begin)


def test_the_same_curve_gives_the_same_bytes(run: Path) -> None:
    curves = read_curves(RunFolder(run))
    assert columns(curves)[:7] == ["training", "step", "total_step", "loss", "forget", "retain", "retain_nll"]
    one, two = (plot(curves, "title", run / name).read_bytes() for name in ("one.svg", "two.svg"))
    assert one == two


def test_what_cannot_be_shown_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.png"):
        plot(read_curves(RunFolder(run)), "title", run / "curve.pdf")
    (tmp_path / "none" / "seed-0").mkdir(parents=True)
    with pytest.raises(UsageError, match="no learning curve"):
        read_curves(RunFolder(tmp_path / "none"))
