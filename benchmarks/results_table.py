"""Write the tables of the leaderboard's submissions, and of the runs in ``results/``, into ``results/README.md`` (the
meta-evaluation's into its own), and the first of them into the project's README, between its ``results`` marks: no
number is copied by hand.

    python benchmarks/results_table.py            # --check: exit 1 where a table is not what the results say
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

from findings import CONTROLS, attacks_table, cell, usual

from unbench.leaderboard.reader import parse_result
from unbench.metaeval.record import MetaEval
from unbench.results.schema import Result

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
SCORES = ("forget", "trace", "retain", "specificity", "overall")
TASKS = ("bios/fact", "bios/relation", "bios/person", "facts/all", "facts/hogwarts")
ATTACKS = """\
What [attacks](../docs/attacks.md) leave of forget: a cell is forget at the worst point of an attack's curve that got
something back for certain, 1.00 where none did, and a dash where it can't be carried out. `forget` is that of the same
probes without an attack. A wrong answer that is taught leaves a trace in the ranking: `forget_worst` counts it too."""


def results_of(task: str, root: Path = ROOT) -> list[Result]:
    """The committed results of a task, best overall first, controls last: the submissions of methods with their usual
    settings, and the runs in ``results/`` that were not submitted."""
    found = [parse_result(file) for file in sorted((root / "results" / task).rglob("result.json"))]
    found += [one.result for _, one in usual(task)]
    return sorted(found, key=lambda one: (_name(one) in CONTROLS, -(one.scores.overall.value or 0.0), _name(one)))


def table(results: list[Result]) -> str:
    """Markdown."""
    lines = ["| method | " + " | ".join(SCORES) + " | seeds | tokens |", "|---" * 8 + "|"]
    for one in results:
        name = f"*{_name(one)}*" if _name(one) in CONTROLS else _name(one)
        cells = [cell(getattr(one.scores, score)) for score in SCORES]
        seeds = len(one.seeds)
        cells += [str(seeds), f"{(one.compute.tokens_trained + one.compute.tokens_generated) // seeds:,}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def results_page(root: Path = ROOT) -> str:
    """``results/README.md``."""
    parts = [
        "# Results",
        "Written by `benchmarks/results_table.py` from the\n"
        "[leaderboard's submissions](../leaderboard/submissions) and the runs in this folder (made by\n"
        "`unbench sweep`, see [tuning and sweeps](../docs/tuning-and-sweeps.md)). Value [95 % interval, jackknife-t];\n"
        "*slanted*: controls. Tokens are those trained and generated, a seed. On `bios` every method has 200,000\n"
        "tokens at most and the settings that [its trials](../benchmarks/tuning) on the `select` forget set of\n"
        "`bios/fact` gave, the same number of trials for each. nano is a controlled world: no order of methods\n"
        "generalises from it.",
    ]
    for task in TASKS:
        results = results_of(task, root)
        if results:
            parts += [f"## {task} ({results[0].model})", table(results)]
        if any(one.worst is not None for one in results):
            parts += [f"### Attacks on {task}", ATTACKS, attacks_table(results)]
    return "\n\n".join(parts) + "\n"


def metaeval_page(root: Path = ROOT) -> str:
    """``results/metaeval/README.md``: which metrics to believe, from ``metaeval.json``."""
    found = MetaEval.model_validate_json((root / "results" / "metaeval" / "metaeval.json").read_text(encoding="utf-8"))
    sides = [[one for one in found.pools if one.side == side and one.reason is None] for side in ("knows", "does_not")]
    head = ("metric", "F", "gate", "R", "Q", "overall", "overall, symmetric", "models")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for one in found.measures:
        scores = (one.relearning, one.quantisation, one.overall, one.overall_symmetric)
        title = one.title.replace("|", "\\|")
        cells = [title, cell(one.faithfulness), "passes" if one.passes else "**fails**", *map(cell, scores),
                 str(len(one.models))]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    told = []
    for verdict in sorted({one.verdict for one in found.orderings}):
        pairs = [f"{one.higher} > {one.lower}" for one in found.orderings if one.verdict == verdict]
        named = f" ({', '.join(pairs)})" if verdict in ("holds", "fails") else ""
        told.append(f"- {verdict}: {len(pairs)}{named}")
    gate = ", ".join(f"{score} {'passes' if passed else 'FAILS'}" for score, passed in found.gate.scores.items())
    intro = (
        "Written by `benchmarks/results_table.py` from `metaeval.json`, which `unbench metaeval` made (it draws a "
        f"page, too) on {found.task} with {found.model}. F: does the metric tell {len(sides[0])} models that know the "
        f"forgotten facts from {len(sides[1])} that do not (ROC AUC). R, Q: of the unlearned models that keep retain "
        "and that the metric calls forgotten, does it stay true under relearning and 4-bit rounding (forms of "
        "arXiv:2506.12618, *symmetric* arXiv:2605.24614). 95 % intervals. Controlled: none of it generalises from nano."
    )
    gated = (
        f"**The gate** (the interval of F begins at {found.gate.floor:g} or above): {gate}. These models either hold "
        "all the facts or next to none, so where F is 1.00 for every metric it tells no two of them apart."
    )
    parts = [
        "# Which metrics to believe",
        textwrap.fill(intro, 119),
        "\n".join(lines),
        textwrap.fill(gated, 119),
        "**Orderings published for TOFU** on these pools (difference of overall with its interval):",
        "\n".join(told),
    ]
    return "\n\n".join(parts) + "\n"


def readme(root: Path = ROOT) -> str:
    """The project's README with the table of ``bios/fact`` between its marks."""
    text = (root / "README.md").read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(results_of('bios/fact', root))}\n{END}{after}"


def _name(result: Result) -> str:
    return result.method.rpartition(":")[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a table is out of date")
    check = parser.parse_args().check
    stale = []
    pages = {"results/README.md": results_page(), "results/metaeval/README.md": metaeval_page(), "README.md": readme()}
    for file, text in ((ROOT / name, text) for name, text in pages.items()):
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            stale.append(file.relative_to(ROOT))
            if not check:
                file.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{name}: {'out of date' if check else 'written'}")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
