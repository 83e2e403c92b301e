"""Rank sets of a board: which of its methods can be told apart (``unbench.metrics.ranks``)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from unbench.leaderboard.entries import Entry
from unbench.leaderboard.scores import score_of
from unbench.submissions.schema import LeftOut

Key = TypeVar("Key", bound=Hashable)


def rank_board(entries: Sequence[Entry], key: str) -> dict[int, tuple[int, int]]:
    """Best and worst rank of each entry (by its place in ``entries``) in ``key``, over the clusters that any of them
    has: one that an entry doesn't name changes nothing for it.

    An entry without a value or without its scores by cluster has no ranks; nobody has where fewer than two do, or
    where a stratum (forgotten subjects, the others) has fewer than two clusters.
    """
    found = {}
    for index, entry in enumerate(entries):
        data = entry.submission.ranking.get(key) if entry.submission is not None else None
        value = score_of(entry.result, key).value
        if value is not None and data is not None and data.left_out and all(map(math.isfinite, data.left_out.values())):
            found[index] = (value, data)
    return rank_parts(found)


def rank_parts(found: Mapping[Key, tuple[float, LeftOut]]) -> dict[Key, tuple[int, int]]:
    """The same of scores by any key, each with what it is without every cluster."""
    import numpy as np

    from unbench.metrics.ranks import rank_sets

    clusters = sorted({cluster for _, data in found.values() for cluster in data.left_out})
    others = {cluster for _, data in found.values() for cluster in data.others}
    strata = np.array([cluster in others for cluster in clusters], dtype=np.int64)
    if len(found) < 2 or min(np.bincount(strata)[np.unique(strata)]) < 2:
        return {}
    ranks = rank_sets(
        np.array([value for value, _ in found.values()]),
        np.array([[data.left_out.get(cluster, value) for cluster in clusters] for value, data in found.values()]),
        [np.array(data.by_seed) for _, data in found.values()],
        strata=strata,
    )
    return {key: (int(ranks.low[i]), int(ranks.high[i])) for i, key in enumerate(found)}
