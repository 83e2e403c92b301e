"""``compare``: the table and the plot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from unbench.compare import compare_table, plot
from unbench.errors import UnbenchError, UsageError
from unbench.results.schema import Result


def _score(value: float | None, width: float | None = 0.05, reason: str | None = None) -> dict[str, Any]:
    ends = {} if value is None or width is None else {"low": max(value - width, 0), "high": min(value + width, 1)}
    return {"value": value, "reason": reason, **ends}


def _result(
    method: str = "unbench:npo", run_id: str = "abcdef012345", task: str = "bios/fact", **scores: Any
) -> Result:
    names = ("forget", "trace", "retain", "specificity", "overall")
    compute = ("wall_s", "prepare_s", "unlearn_s", "respond_s", "measure_s", "peak_memory_bytes", "tokens_trained",
               "tokens_generated", "trainable_parameters")  # fmt: skip
    return Result.model_validate(
        dict.fromkeys(("interval", "device", "dtype", "created_utc"), "x")
        | {"run_id": run_id, "method": method, "task": task, "split": "report", "model": "nano", "seeds": [0, 1]}
        | {"scores": {name: scores.get(name, _score(0.8)) for name in names}, "per_seed": [], "metrics": {}}
        | {"groups": [], "compute": dict.fromkeys(compute, 7), "plan": {}, "versions": {}}
        | {"hashes": {"task": "a" * 64, "model": "b", "method": "c"}}
    )


def test_table_keeps_order_and_makes_missing_values_nan():
    table = compare_table([_result("unbench:b"), _result("unbench:a", trace=_score(None, reason="no ranks"))])
    assert list(table["method"]) == ["unbench:b", "unbench:a"]
    assert table["forget"].tolist() == [0.8, 0.8]
    assert table["forget_low"][0] == pytest.approx(0.75)
    assert math.isnan(table["trace"][1])
    assert table["trace"].dtype == float
    assert table["unlearn_s"].tolist() == [7, 7]
    assert compare_table([]).empty


def test_png_is_written(tmp_path):
    path = plot([_result(), _result("unbench:none")], tmp_path / "new" / "plot.PNG")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in path.parent.iterdir()] == ["plot.PNG"]


def test_svg_is_deterministic_and_dateless(tmp_path):
    results = [_result(f"unbench:m{i}", forget=_score(0.5 + i / 20)) for i in range(8)]
    first = plot(results, tmp_path / "a.svg").read_bytes()
    assert plot(results, tmp_path / "b.svg").read_bytes() == first
    assert b"dc:date" not in first
    ElementTree.fromstring(first)


@pytest.mark.filterwarnings("ignore:Glyph")
def test_hostile_names_and_missing_values_draw(tmp_path):
    results = [
        _result("a:$x_{", forget=_score(0.5, None, "one subject")),
        _result("a:<script>" + "y" * 200),
        _result("a:\x1b--\u202e", specificity=_score(None, reason="no $near$ ring <b>")),
        _result(task="bios/$rel^\x07"),
        _result(task="facts/all", forget=_score(None)),
    ]
    ElementTree.fromstring(plot(results, tmp_path / "a.svg").read_bytes())


def test_errors_are_sentences(tmp_path: Path):
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        plot([_result()], tmp_path / "plot.pdf")
    with pytest.raises(UsageError, match="no run to draw"):
        plot([], tmp_path / "plot.svg")
    (tmp_path / "file").write_text("")
    with pytest.raises(UnbenchError, match="can't be written"):
        plot([_result()], tmp_path / "file" / "plot.svg")
