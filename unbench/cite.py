"""How to cite UnBench, and a run of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unbench.results.schema import Result

UNBENCH_BIBTEX = """\
@software{unbench,
  title   = {UnBench: an evaluation benchmark and leaderboard for {LLM} unlearning},
  author  = {{UnBench contributors}},
  year    = {2026},
  version = {0.1.0},
  license = {Apache-2.0}
}"""


def run_bibtex(result: Result) -> str:
    """A run as an entry to cite: method, task, model, seeds, run-id and date."""
    date = _tex(result.created_utc[:10])
    version = _tex(result.versions.get("unbench", ""))
    seeds = ", ".join(str(seed) for seed in result.seeds)
    method = result.method.removeprefix("unbench:")
    return (
        f"@misc{{unbench_run_{_tex(result.run_id)},\n"
        f"  title = {{{_tex(method)} on {_tex(result.task)}, model {_tex(result.model)}: a run of {{UnBench}}}},\n"
        f"  author = {{{{UnBench contributors}}}},\n"
        f"  year = {{{date[:4]}}},\n"
        f"  note = {{Run {_tex(result.run_id)} of {date}, seeds {seeds}, UnBench {version}}}\n"
        "}"
    )


def _tex(text: str) -> str:
    """Letters that BibTeX would take for its own."""
    for letter in "\\{}":
        text = text.replace(letter, "")
    for letter in "&%$#_":
        text = text.replace(letter, f"\\{letter}")
    return text
