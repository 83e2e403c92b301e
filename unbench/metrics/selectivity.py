"""Selectivity: can the loss of the forgotten facts be told from the loss of their neighbours?

For every probe the drop is log P(right | target) - log P(right | unlearned). Selectivity is the area under the ROC
curve of the drop with forget probes as positives and near probes as negatives: the share of pairs in which the forget
probe dropped more, ties counting half. 0.5 cannot tell the target from its neighbours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unbench.metrics.knowledge import Floats
from unbench.metrics.table import LOWEST_NATS, Table


class Area(NamedTuple):
    """An area with what its interval needs."""

    value: float
    left_out: Floats
    """(clusters that enter,)."""
    by_seed: Floats
    """(S,)."""
    n: int
    reasons: list[str]


def selectivity(table: Table, as_given: frozenset[str]) -> Area | str:
    """The area, a mean over seeds, or why there is none.

    Positives: the direct forget probes, or all forget probes where a task has no kind "direct". Negatives: withheld
    near probes, or the given ones where the task withholds nothing.
    """
    meta, reasons = table.meta, []
    forget = table.active & (meta["ring"] == "forget").to_numpy()
    direct = forget & (meta["kind"] == "direct").to_numpy()
    if not direct.any():
        reasons.append("all forget kinds: there is no direct one")
        direct = forget
    near = table.active & (meta["ring"] == "near").to_numpy()
    if "near" not in as_given:
        near &= ~meta["given"].to_numpy(dtype=bool)
    if not direct.any() or not near.any():
        return f"no {'forget' if not direct.any() else 'near'} probes to compare"
    told = np.maximum(table.target["right_logprob"], LOWEST_NATS)
    drop = told[:, None] - np.maximum(table.unlearned["right_logprob"], LOWEST_NATS)  # (P, S)

    names, code = np.unique(table.cluster[direct | near], return_inverse=True)
    place = np.zeros(len(meta), dtype=np.int64)
    place[direct | near] = code
    rows = np.eye(len(names))[place[direct]]  # (forget probes, clusters)
    columns = np.eye(len(names))[place[near]]
    wins = np.zeros((len(table.seeds), len(names), len(names)))
    for s in range(len(table.seeds)):
        a, b = drop[direct, s][:, None], drop[near, s][None, :]
        wins[s] = rows.T @ ((a > b) + 0.5 * (a == b)) @ columns
    won = wins.mean(axis=0)
    n_forget, n_near = rows.sum(axis=0), columns.sum(axis=0)
    pairs = n_forget.sum() * n_near.sum()
    left = won.sum() - won.sum(axis=0) - won.sum(axis=1) + np.diag(won)
    left_pairs = (n_forget.sum() - n_forget) * (n_near.sum() - n_near)
    return Area(
        value=float(won.sum() / pairs),
        left_out=np.where(left_pairs > 0, left / np.maximum(left_pairs, 1), np.nan),
        by_seed=wins.sum(axis=(1, 2)) / pairs,
        n=int(direct.sum() + near.sum()),
        reasons=reasons,
    )
