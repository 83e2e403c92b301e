"""Which groups of probes count, decided once on the full data and never again per seed or per jackknife sample."""

from __future__ import annotations

from dataclasses import dataclass

from unbench.metrics.formulas import Cells
from unbench.metrics.table import Means, Sums, Table
from unbench.results.schema import Group

FLOOR = 0.3
"""A forget kind counts where the target knows this much more than a reference: Kt - Kr."""

KEPT_FLOOR = 0.1
"""A near ring, far or world counts where the target knows this much: the ratio Ku / Kt means nothing without."""

RANK_FLOOR = 0.15
"""A kind counts in trace where Rr - Rt reaches this: half of ``FLOOR``, for ranks run from 0 to 0.5."""

MIN_FACTS = 5
"""Distinct facts that a forget kind needs."""

MIN_PROBES = 3
"""Probes that a near ring, far or world needs."""

TRACE_CANDIDATES = 8
"""A kind counts in trace where every probe has this many candidates."""


@dataclass(frozen=True)
class Counted:
    """Cells by score, and why the others are left out. All lists hold indices into ``Table.cells``."""

    forget: Cells
    trace: Cells
    near: Cells
    near_given: Cells
    far: Cells
    far_given: Cells
    world: Cells
    why_not: dict[int, str]
    """Cell -> reason for being left out of the scores."""
    no_trace: dict[int, str]
    """Forget cell that counts -> reason for being left out of trace."""
    one_fact: bool
    """The task forgets one single fact, asked in many phrasings."""
    as_given: frozenset[str]
    """Rings (near, far) of which the task withholds nothing: their given probes are scored."""


def count(table: Table, sums: Sums) -> Counted:
    """Decide which cells enter which score."""
    rings = {ring: [g for g, cell in enumerate(table.cells) if cell.ring == ring] for ring in ("forget", "near", "far")}
    as_given = frozenset(
        ring for ring in ("near", "far") if rings[ring] and all(table.cells[g].given for g in rings[ring])
    )
    one_fact = table.meta.loc[(table.meta["ring"] == "forget").to_numpy(), "fact"].nunique() == 1
    means = sums.full
    unfit = {g: why for g in range(len(table.cells)) if (why := _unfit(table, means, g, one_fact))}
    why_not = dict(unfit)
    for ring in ("near", "far"):
        if ring not in as_given:
            why_not |= {g: "given; withheld probes are scored" for g in rings[ring] if table.cells[g].given}

    def fit(ring: str, given: bool) -> Cells:
        return [g for g in rings[ring] if g not in unfit and table.cells[g].given == given]

    forget = [g for g in rings["forget"] if g not in unfit]
    no_trace = {g: why for g in forget if (why := _no_trace(table, means, g))}
    return Counted(
        forget=forget,
        trace=[g for g in forget if g not in no_trace],
        near=fit("near", "near" in as_given),
        near_given=fit("near", True),
        far=fit("far", "far" in as_given),
        far_given=fit("far", True),
        world=[g for g, cell in enumerate(table.cells) if cell.ring == "world" and g not in unfit],
        why_not=why_not,
        no_trace=no_trace,
        one_fact=one_fact,
        as_given=as_given,
    )


def _unfit(table: Table, means: Means, g: int, one_fact: bool) -> str | None:
    """Why a cell can't be scored, given or withheld alike."""
    n = int(means.n[0, g])
    if n == 0:
        return "the target knows none of its probes"
    known_t, known_r = float(means.known_t[0, g]), float(means.known_r[0, g])
    if table.cells[g].ring != "forget":
        if n < MIN_PROBES:
            return f"{n} probes, fewer than {MIN_PROBES}"
        return f"the target knows too little, {known_t:.2f} < {KEPT_FLOOR}" if known_t < KEPT_FLOOR else None
    facts = table.meta.loc[(table.cell == g) & table.active, "fact"].nunique()
    if facts < MIN_FACTS and not one_fact:
        return f"{facts} facts, fewer than {MIN_FACTS}"
    if known_t - known_r < FLOOR:
        return f"the target knows too little more than the reference, {known_t - known_r:.2f} < {FLOOR}"
    return None


def _no_trace(table: Table, means: Means, g: int) -> str | None:
    """Why a forget cell that counts has no trace."""
    if not table.ranked:
        return "knowledge is a probability"
    fewest = int(table.meta.loc[(table.cell == g) & table.active, "n_candidates"].min())
    if fewest < TRACE_CANDIDATES:
        return f"{fewest} candidates, fewer than {TRACE_CANDIDATES}"
    span = float(means.rank_r[0, g] - means.rank_t[0, g])
    return f"target and reference rank alike, {span:.2f} < {RANK_FLOOR}" if span < RANK_FLOOR else None


def describe(table: Table, sums: Sums, counted: Counted) -> list[Group]:
    """Every cell with its means, counted or not, in the order of the probes."""
    m, ranked = sums.full, table.ranked
    groups = []
    for g, cell in enumerate(table.cells):
        members = table.cell == g
        n = int(m.n[0, g])

        def mean(value: float, wanted: bool = True, n: int = n) -> float | None:
            return float(value) if n and wanted else None

        groups.append(
            Group(
                ring=cell.ring,
                kind=cell.kind,
                given=bool(table.meta.loc[members, "given"].all()),
                n=n,
                n_unknown=int((members & ~table.active).sum()),
                known_unlearned=mean(m.known_t[0, g] - m.drop[0, g]),
                known_target=mean(m.known_t[0, g]),
                known_reference=mean(m.known_r[0, g], table.reference is not None),
                rank_unlearned=mean(m.rank_t[0, g] + m.rise[0, g], ranked),
                rank_target=mean(m.rank_t[0, g], ranked),
                rank_reference=mean(m.rank_r[0, g], ranked and table.reference is not None),
                recall_unlearned=mean(m.recall_u[0, g]),
                recall_target=mean(m.recall_t[0, g]),
                counted=g not in counted.why_not,
                reason=counted.why_not.get(g),
            )
        )
    return groups
