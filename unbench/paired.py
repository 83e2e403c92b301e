"""Differences between two runs on the same probes, with intervals (``unbench compare A B --paired``).

Both runs lose the same cluster at a time, so what makes a fact hard for every method cancels: the jackknife is that of
the difference. Of the seeds those count that both runs have, pair by pair. Intervals as for every score
(``metrics.statistics``), in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from unbench.attacks.measure import Part, part_of
from unbench.errors import UsageError
from unbench.metrics.scores import Board, Formula
from unbench.metrics.statistics import finish
from unbench.metrics.table import lay_out
from unbench.results.schema import Score
from unbench.results.store import RunFolder

if TYPE_CHECKING:
    from unbench.method import Progress

BOUNDS = (-1.0, 1.0)
SAME = ("task", "task_hash", "split", "model", "model_hash", "prepared", "limit")
"""Fields of the plan in which two runs must agree to be compared probe by probe."""


def paired(first: RunFolder, second: RunFolder, progress: Progress | None = None) -> dict[str, Score]:
    """The first run's scores less the second's: forget, trace, retain, specificity and every near ring.

    Raises ``UsageError`` where the runs aren't of one task and model, or their answers are gone."""
    progress = progress or (lambda description, done, total: None)
    _refuse_different(first, second)
    seeds = [set(folder.read_plan().seeds) for folder in (first, second)]
    both = sorted(seeds[0] & seeds[1])
    if not both:
        raise UsageError("The runs have no seed in common.", "Run one of them with a seed of the other (--seed).")
    return differences(*(_board(folder, both, progress) for folder in (first, second)))


def differences(one: Board, other: Board) -> dict[str, Score]:
    """The same of two runs laid out; both must hold the same probes."""
    if one.table.clusters != other.table.clusters or not one.table.meta.index.equals(other.table.meta.index):
        raise UsageError("The runs were asked different probes.", "Run both with the same UnBench and options.")
    found: dict[str, Score] = {}
    for name, cells in _cells(one).items():
        if not cells or not _cells(other).get(name):
            found[name] = Score(value=None, reason="one of the runs has no such score")
            continue
        own, its = (part_of(board, _formula(board, name)) for board in (one, other))
        strata = [[one.table.clusters[row] for row in rows] for rows in one.strata(cells)]
        found[name] = difference(own, its, strata, int(one.sums.full.n[0, cells].sum()))
    return found


def difference(one: Part, other: Part, strata: Sequence[Sequence[str]], n: int, level: float = 0.95) -> Score:
    """``one`` less ``other``; ``strata``: names of the clusters of each stratum; ``level``: coverage."""
    left_out = [
        np.array([one.left_out.get(c, one.value) - other.left_out.get(c, other.value) for c in names])
        for names in strata
    ]
    return finish(one.value - other.value, left_out, one.by_seed - other.by_seed, n, [], BOUNDS, level)


def _cells(board: Board) -> Mapping[str, list[int]]:
    c = board.counted
    near = {f"near_{board.table.cells[g].kind}": [g] for g in c.near}
    return {"forget": c.forget, "trace": c.trace, "retain": board.retain_cells, "specificity": c.near} | near


def _formula(board: Board, name: str) -> Formula:
    if not name.startswith("near_"):
        found: Formula = getattr(board, name)
        return found
    from unbench.metrics import formulas

    (cell,) = _cells(board)[name]
    return lambda means, at: formulas.mean_kept(means, [cell], at)


def _board(folder: RunFolder, seeds: Sequence[int], progress: Progress) -> Board:
    from unbench import spine
    from unbench.results.store import read_result

    read_result(folder)
    if folder.submitted:
        return _submitted(folder, seeds)
    plan = folder.read_plan()
    task = plan.open_task()
    tables = {seed: folder.seed(seed).read_responses() for seed in seeds}
    prepared = spine.prepare_step(plan, task, spine.find_models(plan, task, progress), progress)
    return Board(lay_out(tables, prepared.target_responses, prepared.references, task.knowledge,
                         task.target == "given"))  # fmt: skip


def _submitted(folder: RunFolder, seeds: Sequence[int]) -> Board:
    """The same from a submission's rows, held against the leaderboard's yardstick."""
    from unbench.submissions.files import leaderboard_of
    from unbench.submissions.read import open_submission, yardsticks
    from unbench.submissions.strict import Refused

    try:
        opened = open_submission(folder.path)
        yard = yardsticks(leaderboard_of(folder.path)).find(opened.submission.result.task, opened.submission.yardstick)
        rows, _ = opened.rows(yard)
    except Refused as why:
        again = f"See 'unbench validate {folder.path}'."
        raise UsageError(f"The submission {folder.path} can't be read: it {why}.", again) from why
    tables = {seed: rows.frames[seed] for seed in seeds}
    return Board(lay_out(tables, yard.target, yard.references, yard.task.knowledge, yard.known_only))


def _refuse_different(first: RunFolder, second: RunFolder) -> None:
    plans = [folder.read_plan().model_dump(mode="json") for folder in (first, second)]
    for name in SAME:
        if plans[0].get(name) != plans[1].get(name):
            raise UsageError(
                f"The runs differ in {name}: {plans[0].get(name)!r} and {plans[1].get(name)!r}.",
                "Compare runs of one task and model.",
            )
