"""Tune the trained methods on the ``select`` split of a bios problem: the same trials, the same token budget for all.

Settings are drawn at random (seeded) from the space declared here; trial 0 is the method's present default. Each trial
is one run with seed 0; the objective is ``overall``. All trials are kept in ``benchmarks/tuning/``.

    python benchmarks/tune_bios.py --trials 10 unstar grad_diff
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import unbench
from unbench.errors import UnbenchError

BUDGET_TOKENS = 200_000
SPACES: dict[str, dict[str, list[Any]]] = {
    "gradient_ascent": {"lr": [1e-5, 3e-5, 1e-4, 2e-4, 3e-4], "steps": [4, 8, 12, 20, 30], "batch_size": [15, 30]},
    "grad_diff": {
        "lr": [3e-5, 1e-4, 2e-4, 3e-4, 5e-4],
        "steps": [20, 40, 60, 100, 150],
        "batch_size": [15, 30],
        "gamma": [0.1, 0.3, 1.0],
    },
    "npo": {
        "lr": [3e-5, 1e-4, 2e-4, 3e-4, 5e-4],
        "steps": [40, 60, 100, 150],
        "batch_size": [15, 30],
        "beta": [0.05, 0.1, 0.3, 1.0],
        "gamma": [0.3, 1.0],
    },
    "idk": {"lr": [1e-4, 2e-4, 3e-4, 5e-4], "steps": [40, 60, 100, 150], "batch_size": [15, 30], "gamma": [0.3, 1.0]},
    "unstar": {
        "lr": [1e-4, 2e-4, 3e-4, 5e-4],
        "paraphrases": [4, 8, 12],
        "rounds": [2, 3, 4],
        "steps_per_anti_sample": [6, 12, 24],
        "retain_per_forget": [10, 20],
        "retain_rationale": [0.0, 0.1, 0.3],
        "rationale": [True, False],
    },
}


def draw(method: str, trial: int) -> dict[str, Any]:
    """Settings of a trial; the same for the same method and number."""
    if trial == 0:
        return {}
    rng = random.Random(f"{method}/{trial}")
    return {key: rng.choice(values) for key, values in SPACES[method].items()}


def tune(method: str, task: str, trials: int, out: Path) -> None:
    """Run the trials that are not in the file yet."""
    file = out / f"{task.replace('/', '-')}-{method}.json"
    kept: list[dict[str, Any]] = json.loads(file.read_text())["trials"] if file.is_file() else []
    for trial in range(len(kept), trials):
        settings = draw(method, trial)
        entry: dict[str, Any] = {"trial": trial, "settings": settings}
        with tempfile.TemporaryDirectory() as folder:
            try:
                result = unbench.run(
                    method, task, split="select", settings=settings, out=folder, budget_tokens=BUDGET_TOKENS
                )
            except UnbenchError as problem:
                entry["error"] = problem.message
            else:
                entry["config"] = result.plan["config"]
                entry["scores"] = result.table["value"].to_dict()
                entry["tokens"] = result.compute.tokens_trained + result.compute.tokens_generated
                entry["unlearn_s"] = round(result.compute.unlearn_s, 1)
        kept.append(entry)
        print(method, trial, entry.get("scores", entry.get("error")), entry.get("tokens"), settings, flush=True)
        out.mkdir(parents=True, exist_ok=True)
        where = {"method": method, "task": task, "split": "select", "seed": 0, "budget_tokens": BUDGET_TOKENS}
        file.write_text(json.dumps({**where, "trials": kept}, indent=1) + "\n")
    best = max(kept, key=lambda entry: (entry.get("scores") or {}).get("overall") or -1.0)
    print("best", method, best["trial"], best["settings"], best.get("scores"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=list(SPACES))
    parser.add_argument("--task", default="bios/fact")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tuning")
    chosen = parser.parse_args()
    for method in chosen.methods:
        tune(method, chosen.task, chosen.trials, chosen.out)


if __name__ == "__main__":
    main()
