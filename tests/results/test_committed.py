"""The committed results are valid, and the README's table says what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from unbench.leaderboard.reader import parse_result


def test_every_committed_result_is_valid(repository: Path) -> None:
    files = sorted((repository / "results").rglob("result.json"))
    assert files
    for file in files:
        result = parse_result(file)
        assert file.parent.name == result.run_id
        assert result.split == "report"
        assert result.plan["limit"] is None


@pytest.mark.parametrize("method", ["npo", "grad_diff", "unstar", "gradient_ascent", "idk"])
def test_readme_table_is_that_of_the_results(repository: Path, method: str) -> None:
    (file,) = (repository / "results" / "bios" / "fact" / method).rglob("result.json")
    scores = parse_result(file).scores
    cells = [
        f"{score.value:.2f} [{score.low:.2f}, {score.high:.2f}]"
        for score in (scores.forget, scores.trace, scores.retain, scores.specificity, scores.overall)
    ]
    line = f"| {method} | {' | '.join(cells)} |"
    assert line in (repository / "README.md").read_text(encoding="utf-8")
