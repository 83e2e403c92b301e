"""What an attack got back, with intervals: the excess over a model that never knew, and forget under the attack.

Under an attack let K'u and K'r be the mean knowledge (κ) of a kind of forget probes that the unlearned model and the
attacked reference give away, Kt and Kr those of target and reference that nobody attacked.

    excess   mean over kinds of K'u - K'r
    forget   mean over kinds of 1 - clip((K'u - K'r) / (Kt - Kr), 0, 1)

What an attack puts in, it puts into the reference too, and that is taken off. An attack that measures on a scale of its
own (``own``), or that wears the target down as well (``Attack.on_target``), has the attacked target's and reference's
values for Kt and Kr. Without a reference Kr = K'r = 0.

A point of a curve enters ``forget_worst`` where its excess lies clear of 0: the lower end of its interval, at the level
1 - 0.05 / (counted points of the attack), is above 0. Intervals are those of every score (``metrics.statistics``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from unbench.metrics import formulas
from unbench.metrics.knowledge import MEASURES, Floats, per_probe
from unbench.metrics.scores import Board, Formula
from unbench.metrics.statistics import finish, jackknife_t
from unbench.metrics.table import KNOWN, Cell, Means, Table
from unbench.results.schema import AttackPoint, Score
from unbench.task import Knowledge

LEVEL = 0.05
"""Chance, over all points of one attack, that a point counts though nothing is got back."""
EXCESS_BOUNDS = (-2.0, 2.0)


@dataclass(frozen=True)
class Base:
    """Knowledge that nobody attacked, one row a probe (``metrics.knowledge.per_probe``)."""

    target: pd.DataFrame
    references: Sequence[pd.DataFrame]
    known_only: bool
    """Leave out the probes that the target doesn't know (tasks whose target is given)."""


@dataclass(frozen=True)
class Part:
    """One estimate in the three views that an interval needs."""

    value: float
    left_out: dict[str, float]
    """Cluster -> the value without it; a cluster that is not named changes nothing."""
    by_seed: Floats
    """(S,)."""


@dataclass(frozen=True)
class Point:
    """One point of an attack's curve."""

    shown: AttackPoint
    part: Part | None
    """forget under the attack; None where it can't be had."""
    clear: bool
    """Whether its excess lies clear of the reference's."""


def known_of(frame: pd.DataFrame, knowledge: Knowledge) -> pd.DataFrame:
    """What a model that nobody attacked knows of the forget ring; ``frame``: its responses."""
    table = per_probe(frame, knowledge)
    return table[table["ring"] == "forget"]


def base_of(target: pd.DataFrame, references: Sequence[pd.DataFrame], knowledge: Knowledge, known_only: bool) -> Base:
    """The ``Base`` of a run, from the responses of target and references."""
    return Base(known_of(target, knowledge), [known_of(frame, knowledge) for frame in references], known_only)


def unattacked(unlearned: Mapping[int, pd.DataFrame], probes: Set[str], base: Base, knowledge: Knowledge) -> Point:
    """The attacks' ``probes`` (ids, or ids of pairs) as nobody attacked them; ``unlearned``: seed -> responses."""
    at: dict[str, Any] = {"series": "", "strength": 0.0, "counted": False, "own": False}

    def asked(table: pd.DataFrame) -> pd.DataFrame:
        return table[table["probe"].isin(probes)].assign(**at)

    # Several references are one stranger: what they know on the average.
    strangers = [asked(table) for table in base.references]
    beside = pd.concat(strangers) if strangers else None
    tables = {seed: asked(known_of(frame, knowledge)) for seed, frame in unlearned.items()}
    return points(tables, beside, None, base)[0]


def outcome(curve: Sequence[Point], referenced: bool) -> dict[str, Any]:
    """What an ``AttackResult`` says of a curve: points, worst, forget, reason."""
    clear = [i for i, point in enumerate(curve) if point.clear and point.shown.forget.value is not None]
    worst = min(clear, key=lambda i: float(curve[i].shown.forget.value or 0.0)) if clear else None
    if worst is not None:
        forget = curve[worst].shown.forget
    elif any(point.shown.forget.value is not None for point in curve if point.shown.counted):
        forget = Score(value=1.0, reason="nothing was got back beyond the reference for certain")
    else:
        forget = Score(value=None, reason="no point has a forget score")
    reason = None if referenced else "there is no reference: what the attack itself puts in is not taken off"
    return {"points": [point.shown for point in curve], "worst": worst, "forget": forget, "reason": reason}


def points(
    unlearned: Mapping[int, pd.DataFrame],
    reference: pd.DataFrame | None,
    target: pd.DataFrame | None,
    base: Base,
) -> list[Point]:
    """All points of an attack, in the order in which the first seed's were asked.

    Args:
        unlearned: seed -> what the attack found on that seed's model (columns: ``unbench.attacks.ask``).
        reference: the same on the reference; None where there is none.
        target: the same on the target, where the attack is carried out on it.
        base: what target and references know.

    Raises:
        ValueError: models that were not asked the same.
    """
    first = unlearned[min(unlearned)]
    keys = list(dict.fromkeys(zip(first["series"], first["strength"], strict=True)))
    counted = first.groupby(["series", "strength"])["counted"].all()
    level = 1 - LEVEL / max(1, int(counted.sum()))
    found = []
    for series, strength in keys:
        at = {seed: _at(table, series, strength) for seed, table in unlearned.items()}
        beside = [None if table is None else _at(table, series, strength) for table in (reference, target)]
        found.append(_point(series, strength, bool(counted[series, strength]), at, *beside, base=base, level=level))
    return found


def _at(table: pd.DataFrame, series: str, strength: float) -> pd.DataFrame:
    rows = table[(table["series"] == series) & (table["strength"] == strength)]
    # A probe asked more than once at one point (drawn texts, shuffled shots) counts with its mean.
    means = rows.groupby("probe", sort=False)[["known", "rank", "recall"]].mean()
    return means.join(rows.drop_duplicates("probe").set_index("probe")[["kind", "cluster", "fact", "own"]])


def _point(
    series: str,
    strength: float,
    counted: bool,
    unlearned: Mapping[int, pd.DataFrame],
    reference: pd.DataFrame | None,
    target: pd.DataFrame | None,
    *,
    base: Base,
    level: float,
) -> Point:
    table = lay_out(unlearned, reference, target, base)
    board = Board(table)
    cells = board.counted.forget
    own = list(range(len(table.cells)))
    forget = board.score(board.forget, cells, board.left_out("forget"), empty="no forget kind counts")
    excess, low = _excess(board, cells or own, level)
    shown = AttackPoint(
        series=series,
        strength=strength,
        counted=counted,
        known_unlearned=_mean_known(unlearned.values()),
        known_reference=None if reference is None else _mean_known([reference]),
        known_target=None if target is None else _mean_known([target]),
        excess=excess,
        forget=forget,
    )
    part = None if forget.value is None else part_of(board, board.forget)
    return Point(shown, part, counted and low is not None and low > 0)


def _mean_known(tables: Iterable[pd.DataFrame]) -> float:
    """Mean over kinds, and over models, of what is given away."""
    found = [table.groupby("kind")["known"].mean().mean() for table in tables]
    return float(np.mean(found))


def lay_out(
    unlearned: Mapping[int, pd.DataFrame],
    reference: pd.DataFrame | None,
    target: pd.DataFrame | None,
    base: Base,
) -> Table:
    """The models of one point side by side, so that every score of a run can be read off them: what the attacked
    reference gives away beyond the reference is taken off the unlearned model's."""
    seeds = tuple(sorted(unlearned))
    meta = unlearned[seeds[0]]
    probes = meta.index
    scaled = target is not None
    told = _known(target if target is not None else base.target.set_index("probe"), probes, "The target")
    attacked = None if reference is None else _known(reference, probes, "The reference")
    if scaled or not base.references:
        stranger = attacked
    else:
        asked = [_known(frame.set_index("probe"), probes, "A reference") for frame in base.references]
        stranger = np.mean(asked, axis=0)
    own = np.stack([_known(unlearned[seed], probes, f"Seed {seed}") for seed in seeds], axis=1)
    if attacked is not None and stranger is not None:
        own = own - attacked[:, None] + stranger[:, None]
    kinds = {kind: number for number, kind in enumerate(dict.fromkeys(meta["kind"]))}
    cluster, clusters = pd.factorize(meta["cluster"])
    whole = pd.DataFrame({"ring": "forget", "kind": meta["kind"], "cluster": meta["cluster"], "fact": meta["fact"],
                          "given": False, "n_candidates": 0}, index=probes)  # fmt: skip
    if base.known_only:
        active = base.target.set_index("probe")["known"].reindex(probes).to_numpy(dtype=np.float64) >= KNOWN
    else:
        active = np.ones(len(meta), dtype=bool)

    def measures(known: Floats) -> dict[str, Floats]:
        zero = np.zeros_like(known)
        return {name: known if name == "known" else zero for name in MEASURES}

    return Table(
        meta=whole,
        seeds=seeds,
        target=measures(told),
        unlearned=measures(own),
        reference=None if stranger is None else measures(stranger),
        active=active,
        cells=tuple(Cell("forget", kind, False) for kind in kinds),
        cell=np.array([kinds[kind] for kind in meta["kind"]], dtype=np.int64),
        clusters=tuple(str(name) for name in clusters),
        cluster=np.asarray(cluster, dtype=np.int64),
        ranked=False,
    )


def _known(table: pd.DataFrame, probes: pd.Index, who: str) -> Floats:
    missing = probes.difference(table.index)
    if len(missing):
        raise ValueError(f"{who} lacks {len(missing)} of {len(probes)} probes, {missing[0]} for one.")
    return np.asarray(table.loc[probes, "known"].to_numpy(dtype=np.float64))


def _excess(board: Board, cells: formulas.Cells, level: float) -> tuple[Score, float | None]:
    """The excess with its 95 % interval, and the lower end of the one at ``level``."""

    def formula(means: Means, at: Means | None) -> Floats:
        value = means.known_t[:, cells] - means.drop[:, cells] - means.known_r[:, cells]
        present = means.n[:, cells] > 0
        return np.asarray(np.where(present, value, 0.0).sum(axis=1) / np.maximum(present.sum(axis=1), 1))

    sums = board.sums
    value = float(formula(sums.full, None)[0])
    strata = [formula(sums.left_out.rows(rows), None) for rows in board.strata(cells)]
    seeds = formula(sums.by_seed, None)
    n = int(sums.full.n[0, cells].sum())
    score = finish(value, strata, seeds, n, [], EXCESS_BOUNDS)
    return score, jackknife_t(value, strata, seeds, level=level, bounds=EXCESS_BOUNDS).low


def part_of(board: Board, formula: Formula) -> Part:
    """A formula of a board in the three views of ``Part``."""
    sums = board.sums
    left_out = formula(sums.left_out, sums.full)
    return Part(
        value=float(formula(sums.full, None)[0]),
        left_out=dict(zip(board.table.clusters, (float(x) for x in left_out), strict=True)),
        by_seed=np.asarray(formula(sums.by_seed, sums.full), dtype=np.float64),
    )
