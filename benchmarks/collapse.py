"""How fast gradient ascent and NPO lose what they should keep, by the number of steps (NPO's own claim, 2404.05868).

Both train on the forget rows alone (no retain term), with the same learning rate and rows; only the loss differs.
grad_diff, gradient ascent with a retain term, stands beside them.

    python benchmarks/collapse.py --out benchmarks/collapse

writes ``collapse.json`` (every score at every number of steps) and ``collapse.png``, and prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import unbench

STEPS = (10, 20, 40, 80, 160)
COMMON: dict[str, Any] = {"lr": 2e-4, "batch_size": 30}
METHODS: dict[str, dict[str, Any]] = {
    "gradient_ascent": {},
    "npo": {"alpha": 0.0, "gamma": 1.0, "beta": 0.1},
    "grad_diff": {"gamma": 1.0},
}


def measure(task: str, seeds: int) -> list[dict[str, Any]]:
    """One run a method and number of steps."""
    found = []
    for method, own in METHODS.items():
        for steps in STEPS:
            with tempfile.TemporaryDirectory() as folder:
                result = unbench.run(method, task, out=folder, seeds=tuple(range(seeds)),
                                     settings={**COMMON, **own, "steps": steps})  # fmt: skip
            found.append({"method": method, "steps": steps, "scores": result.table["value"].to_dict()})
            print(method, steps, found[-1]["scores"], flush=True)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Retain by steps, one line a method."""
    lines = ["| retain after … steps | " + " | ".join(map(str, STEPS)) + " |", "|---" * (len(STEPS) + 1) + "|"]
    for method in METHODS:
        values = {row["steps"]: row["scores"]["retain"] for row in rows if row["method"] == method}
        lines.append(f"| {method} | " + " | ".join(f"{values[steps]:.2f}" for steps in STEPS) + " |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Retain and forget over steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    for method, colour in zip(METHODS, ("tab:red", "tab:blue", "tab:green"), strict=True):
        for score, style in (("retain", "-o"), ("forget", "--s")):
            values = [row["scores"][score] for row in rows if row["method"] == method]
            axes.plot(STEPS, values, style, color=colour, label=f"{method}: {score}")
    axes.set(xscale="log", xlabel="optimiser steps", ylabel="score", ylim=(-0.02, 1.02))
    axes.set_xticks(STEPS, [str(steps) for steps in STEPS])
    axes.minorticks_off()
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="bios/fact")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "collapse")
    chosen = parser.parse_args()
    rows = measure(chosen.task, chosen.seeds)
    chosen.out.mkdir(parents=True, exist_ok=True)
    record = {"task": chosen.task, "seeds": chosen.seeds, "common": COMMON, "methods": METHODS, "runs": rows}
    (chosen.out / "collapse.json").write_text(json.dumps(record, indent=1) + "\n")
    plot(rows, chosen.out / "collapse.png")
    print(table(rows))


if __name__ == "__main__":
    main()
