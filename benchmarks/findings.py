"""Write the tables of ``leaderboard/FINDINGS.md`` between its marks, from the submissions: no number is copied by hand.

python benchmarks/findings.py                 # --check: exit 1 where a table is not what the submissions say
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from unbench.attacks.measure import LEVEL, Part, points, unattacked
from unbench.leaderboard.plot import Point, Span, pareto_front
from unbench.leaderboard.ranking import rank_parts
from unbench.metrics.knowledge import per_probe
from unbench.metrics.overlap import normal
from unbench.paired import difference, paired
from unbench.results.schema import AttackResult, Result, Score
from unbench.results.store import RunFolder
from unbench.submissions.read import find, open_submission, read_submission, yardsticks
from unbench.submissions.schema import Submission

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "leaderboard" / "FINDINGS.md"
CONTROLS = ("none", "retrain", "retain_only", "sham")
FIRST = ("rationale", "consistent", "retest", "paraphrases")
"""Settings of UnSTAR whose effect is told, one at a time."""
OPEN = ("direct", "paraphrase", "cloze")
"""Forget kinds that are asked forwards and without alternatives."""
Runs = list[tuple[Path, Submission]]


def cell(score: Score | None) -> str:
    """Value and interval; a dash where there is none."""
    if score is None or score.value is None:
        return "–"
    if score.low is None or score.high is None or score.low == score.high:
        return f"{score.value:.2f}"
    return f"{score.value:.2f} [{score.low:.2f}, {score.high:.2f}]"


def lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)])


@cache
def submissions(task: str, model: str | None = None) -> tuple[tuple[Path, Submission], ...]:
    """The standing submissions of a task, on one model or all."""
    found = [(folder, read_submission(folder)[1]) for folder in find(ROOT / "leaderboard" / "submissions" / task)]
    gone = {one.supersedes for _, one in found}
    return tuple(
        (folder, one)
        for folder, one in found
        if model in (None, one.result.model) and one.retracted is None and one.result.run_id not in gone
    )


def name(one: Submission) -> str:
    return one.method.name.rpartition(":")[2]


def short(qualified: str) -> str:
    """A qualified name without its distribution."""
    return qualified.removeprefix("unbench:")


def usual(task: str, model: str | None = None) -> Runs:
    """Of every method the run with its usual settings: the one whose settings ship with UnBench."""
    runs: dict[str, tuple[Path, Submission]] = {}
    for folder, one in submissions(task, model):
        if name(one) not in runs or (runs[name(one)][1].tuning is None and one.tuning is not None):
            runs[name(one)] = folder, one
    return list(runs.values())


def key(one: Submission) -> float:
    worst = one.result.worst
    score = one.result.scores.overall if worst is None else worst.overall_worst
    return -(score.value if score.value is not None else -1.0)


def board(task: str, model: str) -> str:
    """Every method: ranks, scores under the worst of all, what it hides. Columns that no run has are left out."""
    runs = sorted((one for _, one in usual(task, model)), key=lambda one: (name(one) in CONTROLS, key(one)))
    ranks = ranked([one for one in runs if name(one) not in CONTROLS])
    head = ("method", "rank", "overall_worst", "overall", "forget_worst", "by", "forget", "trace", "retain",
            "specificity", "holdout same", "taught or wrong")  # fmt: skip
    rows = []
    for one in runs:
        worst, scores, metrics = one.result.worst, one.result.scores, one.result.metrics
        said = [metrics.get(f"honesty_{way}") for way in ("taught", "wrong")]
        share = sum(score.value or 0.0 for score in said if score is not None)
        rows.append(
            (
                f"*{name(one)}*" if name(one) in CONTROLS else name(one),
                ranks.get(one.result.run_id, "–"),
                cell(worst.overall_worst if worst else None),
                cell(scores.overall),
                cell(worst.forget_worst if worst else None),
                short(worst.by) if worst else "–",
                cell(scores.forget),
                cell(scores.trace),
                cell(scores.retain),
                cell(scores.specificity),
                cell(metrics.get("holdout_same")),
                f"{share:.2f}" if any(said) else "–",
            )
        )
    shown = [i for i in range(len(head)) if any(row[i] != "–" for row in rows)]
    return lines([head[i] for i in shown], [[row[i] for i in shown] for row in rows])


def ranked(runs: Sequence[Submission]) -> dict[str, str]:
    """Rank sets by overall_worst (overall, where nothing was attacked); run-id -> "low–high"."""
    which = "overall_worst" if all("overall_worst" in one.ranking for one in runs) else "overall"
    found = rank_parts({one.result.run_id: (-key(one), one.ranking[which]) for one in runs if which in one.ranking})
    return {run_id: f"{low}–{high}" if low < high else str(low) for run_id, (low, high) in found.items()}


def front(task: str, model: str) -> str:
    """Who is on the Pareto front of forget (and of forget_worst) against specificity."""
    runs = [one for _, one in usual(task, model) if name(one) not in CONTROLS]
    told = []
    for title, forget in (
        ("forget", lambda one: one.result.scores.forget.value),
        ("forget_worst", lambda one: one.result.worst.forget_worst.value if one.result.worst else None),
    ):
        points = [
            Point(name(one), Span(x, None, None), Span(one.result.scores.specificity.value, None, None))
            for one in runs
            if (x := forget(one)) is not None and one.result.scores.specificity.value is not None
        ]
        names = ", ".join(point.label for point in pareto_front(points))
        told += [f"- {title} × specificity: {names}"] if names else []
    return "\n".join(told)


def changed(one: Submission, default: Submission) -> list[str]:
    """Settings in which a run of the same method departs from the default one."""
    config, usual_config = one.result.plan["config"], default.result.plan["config"]
    return [f"{k}={config.get(k)}" for k in sorted(config) if config.get(k) != usual_config.get(k)]


def ablations(task: str, model: str, method: str = "unstar") -> str:
    """Each variant less the default on the seeds that both have, with paired intervals."""
    own = [(folder, one) for folder, one in submissions(task, model) if name(one) == method]
    default = next(((folder, one) for folder, one in own if one.tuning is not None), None)
    if default is None:
        return "No default run."
    head = ("variant less default", "forget", "trace", "retain", "specificity", "overall", "overall_worst", "seeds")
    rows = []
    for folder, one in sorted(own, key=lambda pair: changed(pair[1], default[1])):
        if one.result.run_id == default[1].result.run_id:
            continue
        found = paired(RunFolder(folder), RunFolder(default[0]))
        both = sorted(set(one.result.seeds) & set(default[1].result.seeds))
        whole = [_ranked_difference(one, default[1], which, both) for which in ("overall", "overall_worst")]
        scores = [cell(found.get(which)) for which in ("forget", "trace", "retain", "specificity")]
        rows.append((", ".join(changed(one, default[1])), *scores, *map(cell, whole), str(len(both))))
    return lines(head, rows) if rows else "No variants."


def _ranked_difference(one: Submission, other: Submission, which: str, seeds: Sequence[int]) -> Score | None:
    """The difference of a score that rank sets are made of; None where the runs have other seeds, or lack it."""
    if which not in one.ranking or which not in other.ranking or one.result.seeds != other.result.seeds:
        return None

    def part(own: Submission) -> Part:
        view = own.ranking[which]
        score = own.result.scores.overall if which == "overall" else own.result.worst.overall_worst  # type: ignore[union-attr]
        return Part(score.value or 0.0, dict(view.left_out), np.array(view.by_seed))

    left = one.ranking[which]
    strata = [[c for c in left.left_out if c not in set(left.others)], list(left.others)]
    return difference(part(one), part(other), [names for names in strata if names], len(seeds))


def versus(tasks: Sequence[str], model: str, method: str, others: Sequence[str]) -> str:
    """A method less others, each with its usual settings, on the probes and seeds that both have; paired intervals."""
    which = ("forget", "trace", "retain", "specificity")
    rows = []
    for task in tasks:
        runs = {name(one): folder for folder, one in usual(task, model)}
        for other in others:
            if method in runs and other in runs:
                found = paired(RunFolder(runs[method]), RunFolder(runs[other]))
                rows.append((task, f"{method} less {other}", *(cell(found.get(score)) for score in which)))
    return lines(("task", "", *which), rows)


def taught(task: str, model: str, method: str) -> str:
    """Knowledge of the forgotten facts before and after, apart by whether what a method taught in place of the answer
    is among the candidates that κ looks at. Open forward probes that the target knows (rank 0); mean over probes."""
    rows = []
    for folder, one in usual(task, model):
        if name(one) != method:
            continue
        yard = yardsticks(ROOT / "leaderboard").find(one.result.task, one.yardstick)
        found, _ = open_submission(folder).rows(yard)
        before = per_probe(yard.target, yard.task.knowledge).set_index("probe")
        before = before[(before["ring"] == "forget") & before["kind"].isin(OPEN) & (before["rank"] == 0)]
        candidates = {probe.id: {normal(text) for text in probe.candidates} for probe in yard.probes}
        for of, frame in found.frames.items():
            after = per_probe(frame, yard.task.knowledge).set_index("probe")["known"]
            instead = {fact: {normal(text) for text in texts} for fact, texts in found.own[of].taught.items()}
            asked = before[before["fact"].isin(instead)]
            among = np.array([bool(instead[fact] & candidates[id_]) for id_, fact in asked["fact"].items()])
            for words, which in (("a candidate", among), ("no candidate", ~among)):
                part = asked[which]
                values = (part["known"].mean(), after.reindex(part.index).mean())
                rows.append(
                    (str(of), words, str(part["fact"].nunique()), str(len(part)), *(f"{x:.2f}" for x in values))
                )
    return lines(("seed", "the taught answer is", "facts", "probes", "κ before", "κ after"), rows)


def came_back(task: str, model: str) -> str:
    """What the worst point of each attack takes from forget: under the attack less without it, on the same probes and
    seeds; paired intervals at the level 1 - 0.05 / (points of the attack), for the point was picked among them. Attacks
    that measure on a scale of their own are left out."""
    found: dict[str, dict[str, str]] = {}
    runs = sorted((pair for pair in usual(task, model) if pair[1].result.attacks), key=lambda pair: key(pair[1]))
    for folder, one in runs:
        yard = yardsticks(ROOT / "leaderboard").find(one.result.task, one.yardstick)
        rows, attacked = open_submission(folder).rows(yard)
        frames = {int(of): frame for of, frame in rows.frames.items()}
        calm = unattacked(frames, set(yard.asked), yard.base, yard.task.knowledge).part
        for attack in one.result.attacks:
            tables = {int(of): table for of, table in attacked.tables.get(attack.name, {}).items()}
            if calm is None or not tables or any(table["own"].any() for table in tables.values()):
                continue
            beside = yard.attacks[one.yardstick.attacks[attack.name]].tables.get(attack.name, {})
            curve = [point for point in points(tables, beside.get("reference"), beside.get("target"), yard.base)
                     if point.part is not None and point.shown.counted]  # fmt: skip
            worst = min(curve, key=lambda point: point.part.value if point.part else 1.0, default=None)
            if worst is not None and worst.part is not None:
                n = worst.shown.forget.n
                level = 1 - LEVEL / len(curve)
                told = cell(difference(worst.part, calm, [list(worst.part.left_out)], n, level))
                place = " ".join(filter(None, (worst.shown.series, f"{worst.shown.strength:g}")))
                found.setdefault(name(one), {})[short(attack.name)] = f"{told} ({place})"
    names = sorted({attack for cells in found.values() for attack in cells})
    return lines(("method", *names), [(who, *(cells.get(one, "–") for one in names)) for who, cells in found.items()])


def attacks_table(results: Sequence[Result]) -> str:
    """What attacks leave of forget, and ``overall_worst``, of the runs that were attacked; the best first, controls
    last."""
    attacked = sorted(
        (one for one in results if one.worst is not None and one.worst.unattacked is not None),
        key=lambda one: (
            short(one.method) in CONTROLS,
            -(one.worst.overall_worst.value or 0.0) if one.worst else 0,
            short(one.method),
        ),
    )
    names = sorted({short(attack.name) for one in attacked for attack in one.attacks})
    head = ["method", "overall_worst", "forget_worst", "by", "forget", *names, "steps to relearn"]
    rows = []
    for one in attacked:
        if one.worst is None or one.worst.unattacked is None:
            continue
        found = {short(attack.name): attack for attack in one.attacks}
        curves = [cell(found[name].forget) if name in found else "–" for name in names]
        steps = _steps(found.get("relearn_forget"))
        told = f"{steps[0]} (a stranger: {steps[1]})" if steps else "–"
        who = f"*{short(one.method)}*" if short(one.method) in CONTROLS else short(one.method)
        rows.append([who, cell(one.worst.overall_worst), cell(one.worst.forget_worst), short(one.worst.by),
                     cell(one.worst.unattacked.forget), *curves, told])  # fmt: skip
    shown = [i for i in range(len(head)) if i == 0 or any(row[i] != "–" for row in rows)]
    return lines([head[i] for i in shown], [[row[i] for i in shown] for row in rows])


def _steps(attack: AttackResult | None) -> tuple[str, str] | None:
    """Optimiser steps until the forget rows are known again, seed by seed, and the reference's; None where nobody
    counted."""
    if attack is None or not attack.notes:
        return None
    told = {who: str(notes.get("steps") or "never") for who, notes in attack.notes.items()}
    return ", ".join(steps for who, steps in told.items() if who.startswith("seed")), told.get("reference", "never")


def relearning(task: str, model: str) -> str:
    """Steps until the forget rows are known again, by method."""
    rows = []
    for _, one in sorted(usual(task, model), key=lambda pair: (name(pair[1]) in CONTROLS, key(pair[1]))):
        for attack in one.result.attacks:
            if short(attack.name) == "relearn_forget" and (steps := _steps(attack)):
                rows.append((name(one), *steps))
    return lines(("method", "steps, seed by seed", "a stranger"), rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "facts": lambda: board("facts/all", "smollm2"),
    "facts-taught": lambda: taught("facts/all", "smollm2", "unstar"),
    "facts-attacks": lambda: attacks_table([one.result for _, one in usual("facts/all", "smollm2")]),
    "facts-back": lambda: came_back("facts/all", "smollm2"),
    "facts-front": lambda: front("facts/all", "smollm2"),
    "facts-versus": lambda: versus(("facts/all",), "smollm2", "unstar", ("npo", "grad_diff", "idk", "prompt_guard")),
    "fact": lambda: board("bios/fact", "nano"),
    "front": lambda: front("bios/fact", "nano"),
    "ablations": lambda: ablations("bios/fact", "nano"),
    "npo": lambda: ablations("bios/fact", "nano", "npo"),
    "grad_diff": lambda: ablations("bios/fact", "nano", "grad_diff"),
    "versus": lambda: versus(("bios/fact", "bios/relation", "bios/person"), "nano", "unstar", ("npo", "altpo", "whp")),
    "relearning": lambda: relearning("bios/fact", "nano"),
    "relation": lambda: board("bios/relation", "nano"),
    "relation-front": lambda: front("bios/relation", "nano"),
    "person": lambda: board("bios/person", "nano"),
    "person-front": lambda: front("bios/person", "nano"),
}
"""By the name of their marks: ``<!-- NAME: begin -->`` … ``<!-- NAME: end -->``."""


def page(text: str) -> str:
    """The page with every table made anew."""
    for block, make in BLOCKS.items():
        begin, end = f"<!-- {block}: begin -->", f"<!-- {block}: end -->"
        if begin in text:
            before, _, rest = text.partition(begin)
            _, _, after = rest.partition(end)
            text = f"{before}{begin}\n{make()}\n{end}{after}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a table is out of date")
    check = parser.parse_args().check
    old = PAGE.read_text(encoding="utf-8")
    new = page(old)
    if new != old and not check:
        PAGE.write_text(new, encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {'as it should be' if new == old else 'out of date' if check else 'written'}")
    sys.exit(1 if check and new != old else 0)


if __name__ == "__main__":
    main()
