"""The probes of all models laid side by side, and the group means that every score is a function of.

A *cell* is a group of probes whose mean enters a score: a forget kind; a near kind, withheld or given; far, withheld or
given; world. A score needs nothing but the cells' means, so leaving a cluster out costs one subtraction of its sums:
all delete-one means are one array (clusters, cells).

Differences between the unlearned and the target model are taken probe by probe before anything is averaged: a method
that changes nothing then scores exactly 0 and 1, whatever the rounding of means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unbench.metrics.knowledge import MEASURES, Floats, Ints, per_probe
from unbench.task import Knowledge

KNOWN = 0.5
"""κ of the target from which on it counts as knowing a probe; also what *suppressed* calls known."""

STRANGER_RANK = 0.5
"""Rank of the right candidate in a model that never saw it, where there is no reference to ask."""

LOWEST_NATS = -1e6
"""Stands for a log-probability of minus infinity where differences are taken."""


class Cell(NamedTuple):
    """A group of probes whose mean enters a score."""

    ring: str
    kind: str
    given: bool


@dataclass(frozen=True)
class Table:
    """Probes of all models, in the order of the first seed's responses. P probes, S seeds, C clusters, G cells."""

    meta: pd.DataFrame
    """(P rows): ring, kind, cluster, fact, n_candidates …; index probe."""
    seeds: tuple[int, ...]
    target: dict[str, Floats]
    """Measure -> (P,)."""
    unlearned: dict[str, Floats]
    """Measure -> (P, S)."""
    reference: dict[str, Floats] | None
    """Measure -> (P,), the mean over references."""
    active: NDArray[np.bool_]
    """(P,): probes that count; the others the target doesn't know."""
    cells: tuple[Cell, ...]
    cell: Ints
    """(P,): index into ``cells``."""
    clusters: tuple[str, ...]
    cluster: Ints
    """(P,): index into ``clusters``."""
    ranked: bool
    """Whether ranks exist (not where knowledge is a probability)."""


@dataclass(frozen=True)
class Means:
    """Means over the active probes of each cell, (rows, G); a row is a cluster left out, a seed, or everything.

    Where a cell is empty (n = 0) its means are 0 and mustn't be read.
    """

    n: Floats
    """Active probes."""
    drop: Floats
    """Kt - Ku: knowledge lost."""
    known_t: Floats
    known_r: Floats
    """0 without a reference."""
    rise: Floats
    """Ru - Rt."""
    rank_t: Floats
    rank_r: Floats
    """0.5 without a reference."""
    fluent_drop: Floats
    """Share of fluent answers, target minus unlearned."""
    fluent_t: Floats
    recall_u: Floats
    recall_t: Floats
    suppressed: Floats
    """Share of probes with κ_u > 0.5 that are not recalled."""

    def rows(self, index: Ints | slice) -> Means:
        """Only these rows."""
        return Means(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass(frozen=True)
class Sums:
    """The means of a table in its three views, and how many active probes each cluster has in each cell."""

    full: Means
    """(1, G): all clusters, mean over seeds."""
    left_out: Means
    """(C, G): row i without cluster i, mean over seeds."""
    by_seed: Means
    """(S, G): all clusters, each seed alone."""
    counts: Floats
    """(C, G)."""


def lay_out(
    unlearned: Mapping[int, pd.DataFrame],
    target: pd.DataFrame,
    references: Sequence[pd.DataFrame],
    knowledge: Knowledge,
    known_only: bool,
) -> Table:
    """Responses of all models as one table.

    The first seed's probes are the universe: the target and the references may have been asked more, never less.

    Raises:
        ValueError: no seed, or a model lacks a probe.
    """
    if not unlearned:
        raise ValueError("There are no responses of an unlearned model.")
    seeds = tuple(sorted(unlearned))
    by_seed = [per_probe(unlearned[seed], knowledge).set_index("probe") for seed in seeds]
    meta = by_seed[0]
    told = _measures(per_probe(target, knowledge).set_index("probe"), meta.index, "The target")
    asked = [
        _measures(per_probe(reference, knowledge).set_index("probe"), meta.index, f"Reference {i}")
        for i, reference in enumerate(references, start=1)
    ]
    own = [_measures(table, meta.index, f"Seed {seed}") for seed, table in zip(seeds, by_seed, strict=True)]
    cell, cells = _cells(meta)
    cluster, clusters = pd.factorize(meta["cluster"])
    return Table(
        meta=meta,
        seeds=seeds,
        target=told,
        unlearned={name: np.stack([table[name] for table in own], axis=1) for name in MEASURES},
        reference={name: np.mean([table[name] for table in asked], axis=0) for name in MEASURES} if asked else None,
        active=told["known"] >= KNOWN if known_only else np.ones(len(meta), dtype=bool),
        cells=cells,
        cell=cell,
        clusters=tuple(str(name) for name in clusters),
        cluster=np.asarray(cluster, dtype=np.int64),
        ranked=knowledge == "candidates",
    )


def _measures(table: pd.DataFrame, probes: pd.Index, who: str) -> dict[str, Floats]:
    """A model's measures in the order of ``probes``."""
    missing = probes.difference(table.index)
    if len(missing):
        raise ValueError(f"{who} lacks {len(missing)} of {len(probes)} probes, {missing[0]} for one.")
    ordered = table.loc[probes]
    return {name: ordered[name].to_numpy(dtype=np.float64) for name in MEASURES}


def _cells(meta: pd.DataFrame) -> tuple[Ints, tuple[Cell, ...]]:
    """Each probe's cell, and the cells. Given and withheld are apart in near and far only."""
    code = np.empty(len(meta), dtype=np.int64)
    found: dict[Cell, int] = {}
    for i, (ring, kind, given) in enumerate(zip(meta["ring"], meta["kind"], meta["given"], strict=True)):
        cell = Cell(ring, kind if ring in ("forget", "near") else ring, bool(given) and ring in ("near", "far"))
        code[i] = found.setdefault(cell, len(found))
    return code, tuple(found)


def add_up(table: Table) -> Sums:
    """Every cell's means: in full, without each cluster, and by seed."""
    u, t, r = table.unlearned, table.target, table.reference
    zero, one = np.zeros(len(table.meta)), np.ones(len(table.meta))
    fixed = {
        "n": one,
        "known_t": t["known"],
        "known_r": r["known"] if r else zero,
        "rank_t": t["rank"] if table.ranked else zero,
        "rank_r": (r["rank"] if r else STRANGER_RANK * one) if table.ranked else zero,
        "fluent_t": t["fluent"],
        "recall_t": t["recall"],
    }
    seeded = {  # (P, S)
        "drop": t["known"][:, None] - u["known"],
        "rise": u["rank"] - t["rank"][:, None] if table.ranked else np.zeros_like(u["rank"]),
        "fluent_drop": t["fluent"][:, None] - u["fluent"],
        "recall_u": u["recall"],
        "suppressed": ((u["known"] > KNOWN) & (u["recall"] < 0.5)).astype(np.float64),
    }
    names = [*fixed, *seeded]
    pooled = np.stack([*fixed.values(), *(value.mean(axis=1) for value in seeded.values())], axis=1)  # (P, F)
    by_cluster = np.zeros((len(table.clusters), len(table.cells), len(names)))
    on = table.active
    np.add.at(by_cluster, (table.cluster[on], table.cell[on]), pooled[on])
    total = by_cluster.sum(axis=0)
    by_seed = np.zeros((len(table.seeds), len(table.cells), len(names)))
    for s in range(len(table.seeds)):
        one_seed = np.stack([*fixed.values(), *(value[:, s] for value in seeded.values())], axis=1)
        np.add.at(by_seed[s], table.cell[on], one_seed[on])
    return Sums(
        full=_means(names, total[None]),
        left_out=_means(names, total[None] - by_cluster),
        by_seed=_means(names, by_seed),
        counts=by_cluster[:, :, 0],
    )


def _means(names: Sequence[str], sums: Floats) -> Means:
    """Sums (rows, G, F), the first of them the count, as means."""
    n = sums[:, :, :1]
    mean = np.where(n > 0, sums / np.maximum(n, 1), 0.0)
    columns = {name: mean[:, :, f] for f, name in enumerate(names)}
    return Means(**columns | {"n": sums[:, :, 0]})
