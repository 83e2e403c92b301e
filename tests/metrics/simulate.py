"""Runs drawn from a known population, as ``Table``s: what the intervals are tried on.

A stranger's answer to a probe is a draw: logits of the candidates are normal, partly shared by the probes of one fact,
so κ over 20 candidates is 0 on average, with a long right tail. An unlearned model keeps of a probe what a logistic
curve gives over the effects of its cluster, its seed and itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from unbench.metrics.formulas import harmonic
from unbench.metrics.table import Table, _cells

KINDS = ("direct", "paraphrase", "cloze", "reverse", "multi_hop")
NEAR = ("same_subject", "same_answer", "same_relation")
CANDIDATES = 20
LOGIT_SD = 1.3
"""Gives a stranger's κ a standard deviation of about 0.08 a probe."""


@dataclass(frozen=True)
class Layout:
    """As many clusters and probes as ``bios/fact``."""

    facts: int = 30
    near_each: int = 2
    others: int = 40

    @cached_property
    def meta(self) -> pd.DataFrame:
        rows = []
        for i in range(self.facts):
            rows += [("forget", kind, f"s{i}") for kind in KINDS]
            rows += [("near", ring, f"s{i}") for ring in NEAR for _ in range(self.near_each)]
        rows += [(ring, ring, f"{ring}{i}") for ring in ("far", "world") for i in range(self.others)]
        meta = pd.DataFrame(rows, columns=["ring", "kind", "cluster"])
        return meta.assign(fact=meta["cluster"], given=False, n_candidates=CANDIDATES, subject=meta["cluster"])

    def __hash__(self) -> int:
        return id(self)


@dataclass(frozen=True)
class Method:
    """Mean logit of what is left, by ring; None: gone, a stranger's answer."""

    forget: float | None
    near: float
    far: float
    between_clusters: float = 1.0
    between_seeds: float = 0.3
    between_probes: float = 1.0


def stranger(rng, facts, probes, models, shared=0.8):
    """κ and rank, each (facts, probes, models), of models that never saw the facts."""
    size = (facts, 1, models, CANDIDATES), (facts, probes, models, CANDIDATES)
    logits = LOGIT_SD * (np.sqrt(shared) * rng.normal(size=size[0]) + np.sqrt(1 - shared) * rng.normal(size=size[1]))
    share = np.exp(logits[..., 0]) / np.exp(logits).sum(axis=-1)
    rank = (logits[..., 1:] > logits[..., :1]).mean(axis=-1)
    return (share - 1 / CANDIDATES) / (1 - 1 / CANDIDATES), rank


def draw(rng, layout: Layout, method: Method, seeds: int = 3, references: int = 3) -> Table:
    """One run."""
    meta = layout.meta
    cell, cells = _cells(meta)
    cluster, names = pd.factorize(meta["cluster"])
    ring = meta["ring"].to_numpy()
    forget, n = ring == "forget", len(meta)
    known_t = 1 - 0.1 * rng.beta(1, 3, n)
    mean = np.select([forget, ring == "near"], [method.forget or 0.0, method.near], method.far)
    logit = (
        mean[:, None]
        + method.between_clusters * rng.normal(size=len(names))[cluster][:, None]
        + method.between_seeds * rng.normal(size=(1, seeds))
        + method.between_probes * rng.normal(size=(n, seeds))
    )
    left = 1 / (1 + np.exp(-logit))
    known_r, rank_r = known_t.copy()[:, None].repeat(references, 1), np.zeros((n, references))
    k, r = stranger(rng, layout.facts, len(KINDS), references + seeds)
    k, r = k.reshape(-1, references + seeds), r.reshape(-1, references + seeds)
    known_r[forget], rank_r[forget] = k[:, :references], r[:, :references]
    known_u, rank_u = known_t[:, None] * left, 0.3 * (1 - left)
    if method.forget is None:
        known_u[forget], rank_u[forget] = k[:, references:], r[:, references:]
    one = np.ones(n)

    def measures(known, rank):
        return {
            "known": known,
            "rank": rank,
            "recall": one,
            "right_logprob": np.log(np.maximum(known, 1e-9)),
            "fluent": one,
        }

    unlearned = measures(known_u, rank_u)
    for name in ("recall", "fluent"):
        unlearned[name] = np.ones((n, seeds))
    return Table(
        meta=meta, seeds=tuple(range(seeds)), target=measures(known_t, np.zeros(n)), unlearned=unlearned,
        reference=measures(known_r.mean(axis=1), rank_r.mean(axis=1)), active=np.ones(n, dtype=bool), cells=cells,
        cell=cell, clusters=tuple(names), cluster=cluster.astype(np.int64), ranked=True,
    )  # fmt: skip


def truth(method: Method) -> dict[str, float]:
    """The scores of the population: endless clusters, seeds and references (by quadrature over the normal logit)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    sd = np.sqrt(method.between_clusters**2 + method.between_seeds**2 + method.between_probes**2)

    def left(mean):
        return float(np.sum(weights / (1 + np.exp(-(mean + sd * nodes)))) / weights.sum())

    gone = 1.0 if method.forget is None else 1 - left(method.forget)
    forget, near, far = gone, left(method.near), left(method.far)
    trace = 1.0 if method.forget is None else 1 - abs(0.3 * gone - 0.5) / 0.5
    overall = harmonic(np.array([[forget, far, near]]), np.ones((1, 3), dtype=bool))[0]
    return {"forget": forget, "trace": trace, "retain": far, "specificity": near, "overall": float(overall)}
