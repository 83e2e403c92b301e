"""Means and areas with what their jackknife needs: the value of every seed, whole and without each cluster.

Per-item values come first; leaving a cluster out is then one subtraction of its sums. An area over pairs of items is
a sum over pairs of clusters, so it is left out the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unbench.metrics.knowledge import Floats
from unbench.metrics.membership import wins


@dataclass(frozen=True)
class Mean:
    """A mean over items of one family, for S seeds and C clusters."""

    by_seed: Floats
    """(S,)."""
    left_out: Floats
    """(C, S): without each cluster; NaN where nothing is left."""
    clusters: tuple[str, ...]
    n: int
    """Items."""
    notes: tuple[str, ...] = ()
    """Sentences on what it is read on."""

    @cached_property
    def _place(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.clusters)}

    def without(self, cluster: str) -> Floats:
        """(S,): the mean without a cluster, which need not be among its own."""
        at = self._place.get(cluster)
        return self.by_seed if at is None else self.left_out[at]


def mean_of(values: Sequence[Floats], clusters: NDArray[np.object_], notes: Sequence[str] = ()) -> Mean:
    """The mean of per-item values, one array (n,) a seed. ``clusters`` (n,)."""
    table = np.stack(values, axis=1)  # (n, S)
    code, names = pd.factorize(clusters)
    sums = np.zeros((len(names), table.shape[1]))
    np.add.at(sums, code, table)
    left = len(table) - np.bincount(code).astype(np.float64)[:, None]
    return Mean(
        by_seed=table.mean(axis=0),
        left_out=np.where(left > 0, (sums.sum(axis=0) - sums) / np.maximum(left, 1), np.nan),
        clusters=tuple(str(name) for name in names),
        n=len(table),
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class Area:
    """An area under the ROC curve, for S seeds and C clusters, the members' clusters first."""

    by_seed: Floats
    """(S,)."""
    left_out: Floats
    """(C, S): without each cluster; NaN where no pair is left."""
    n_member_clusters: int
    n: int
    """Items, members and others."""

    def strata(self, left_out: Floats) -> list[Floats]:
        """Values without each cluster, (C, S), as means over seeds: the members' clusters, then the others'."""
        return [part for part in np.split(left_out.mean(axis=1), [self.n_member_clusters]) if len(part)]


def area_of(
    members: Sequence[Floats],
    others: Sequence[Floats],
    member_clusters: NDArray[np.object_],
    other_clusters: NDArray[np.object_],
) -> Area:
    """The area of per-item scores, one array (m,) and one (h,) a seed."""
    code, names = pd.factorize(np.concatenate([member_clusters, other_clusters]))
    rows = np.eye(len(names))[code[: len(member_clusters)]]  # (m, C)
    columns = np.eye(len(names))[code[len(member_clusters) :]]  # (h, C)
    won = np.stack([rows.T @ wins(a, b) @ columns for a, b in zip(members, others, strict=True)], axis=2)  # (C, C, S)
    total = won.sum(axis=(0, 1))
    n_member, n_other = rows.sum(axis=0), columns.sum(axis=0)
    both = np.einsum("iis->is", won)
    left = total - won.sum(axis=1) - won.sum(axis=0) + both
    pairs = ((n_member.sum() - n_member) * (n_other.sum() - n_other))[:, None]
    return Area(
        by_seed=total / (n_member.sum() * n_other.sum()),
        left_out=np.where(pairs > 0, left / np.maximum(pairs, 1), np.nan),
        n_member_clusters=int((n_member > 0).sum()),
        n=len(code),
    )


def joint(families: Iterable[Sequence[Mean]]) -> tuple[Floats, list[Floats]]:
    """Several families' means side by side: (S, k), and one stratum (clusters, S, k) a family.

    A cluster that stands in two families is left out of both at once, in the first one's stratum.
    """
    groups = [list(means) for means in families]
    every = [mean for means in groups for mean in means]
    seen: set[str] = set()
    strata = []
    for means in groups:
        names = [name for mean in means for name in mean.clusters]
        own = [name for name in dict.fromkeys(names) if name not in seen]
        seen.update(own)
        if own:
            strata.append(np.stack([np.stack([mean.without(name) for mean in every], axis=1) for name in own]))
    return np.stack([mean.by_seed for mean in every], axis=1), strata
