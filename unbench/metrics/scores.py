"""Measure: UnBench's own scores, from the responses of the unlearned, the target and the reference models.

=========== ==========================================================================================================
forget      mean over forget kinds of 1 - clip((Ku - Kr) / (Kt - Kr), 0, 1)
trace       mean over forget kinds with at least 8 candidates of 1 - clip(|Ru - Rr| / (Rr - Rt), 0, 1)
retain      mean over far and world of clip(Ku / Kt, 0, 1), times the share of fluent answers relative to the target's
specificity harmonic mean over near rings of clip(Ku / Kt, 0, 1)
overall     harmonic mean of forget, retain and specificity
=========== ==========================================================================================================

K is the mean of κ, R the mean of the rank over a group's probes and over seeds (``knowledge``). Without a reference
Kr = 0 and Rr = 0.5. Near and far are scored on withheld facts; given facts are told apart (``retain_given``,
``specificity_given``). A number that can't be had is null with its reason. The holdout ring enters none of them.

Where knowledge is a probability the published metrics (``published``) stand beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from unbench.metrics import formulas
from unbench.metrics.counting import count, describe
from unbench.metrics.formulas import Cells
from unbench.metrics.knowledge import Floats, Ints
from unbench.metrics.published import published
from unbench.metrics.selectivity import selectivity
from unbench.metrics.statistics import finish
from unbench.metrics.table import Means, Table, add_up, lay_out
from unbench.results.schema import Measured, Score, Scores, SeedScores
from unbench.task import Knowledge

Formula = Callable[[Means, Means | None], Floats]
"""Means (rows, G) and, where clips are opened, the full data's means -> one number a row."""


NO_TARGET = "no target model was given"
ALONE = frozenset({"recall_forget", "suppressed"})
"""Metrics that need no target."""


def measure(
    unlearned: Mapping[int, pd.DataFrame],
    target: pd.DataFrame | None,
    references: Sequence[pd.DataFrame] = (),
    *,
    knowledge: Knowledge = "candidates",
    known_only: bool = False,
) -> Measured:
    """All scores and metrics of one run.

    Args:
        unlearned: seed -> responses of that seed's unlearned model (columns: ``unbench.responses``).
        target: responses of the target; None for a bare model, which has the published metrics and a description of
            its groups, but none of UnBench's own scores.
        references: responses of each reference model; empty where none exists.
        knowledge: "candidates" (κ) or "probability" (p(a|q), no ranks, no trace).
        known_only: leave out every probe that the target doesn't know (κ < 0.5, a pair on its average) from all models'
            means; for tasks whose target is given. They are counted in ``Group.n_unknown``.

    Raises:
        ValueError: tables that don't belong together or break the rules of ``per_probe``.
    """
    if target is None:
        measured = without_target(unlearned, references, knowledge)
    else:
        measured = score_table(lay_out(unlearned, target, references, knowledge, known_only))
    if knowledge == "probability":
        measured.metrics |= published(unlearned, references)
    return measured


def score_table(table: Table) -> Measured:
    """All scores of models laid side by side."""
    board = Board(table)
    return Measured(
        scores=board.headline(),
        per_seed=board.per_seed(),
        metrics=board.metrics(),
        groups=describe(table, board.sums, board.counted),
    )


def without_target(
    unlearned: Mapping[int, pd.DataFrame], references: Sequence[pd.DataFrame], knowledge: Knowledge
) -> Measured:
    """What can be said of a model that nothing is known to compare with: its groups, recall and suppressed."""
    if not unlearned:
        raise ValueError("There are no responses of an unlearned model.")
    # The model stands in as its own target: its means come out right, and what compares the two is then blanked.
    own = score_table(lay_out(unlearned, unlearned[min(unlearned)], references, knowledge, known_only=False))
    null = Score(value=None, reason=NO_TARGET)
    unknown = {"known_target": None, "rank_target": None, "recall_target": None, "counted": False, "reason": NO_TARGET}
    blank = dict.fromkeys(Scores.model_fields)
    return Measured(
        scores=Scores(**dict.fromkeys(Scores.model_fields, null)),
        per_seed=[SeedScores(seed=seed.seed, **blank) for seed in own.per_seed],
        metrics={name: score if name in ALONE else null for name, score in own.metrics.items()},
        groups=[group.model_copy(update=unknown) for group in own.groups],
    )


class Board:
    """Formulas bound to the cells that count, and how each becomes a ``Score``."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.sums = add_up(table)
        self.counted = counted = count(table, self.sums)
        self.world = [g for g, cell in enumerate(table.cells) if cell.ring == "world"]
        kept = [*counted.far, *counted.world]
        self.retain_cells = self._with_fluency(kept, given="far" in counted.as_given)
        self.forget: Formula = self._bind(formulas.forget, counted.forget)
        self.trace: Formula = self._bind(formulas.trace, counted.trace)
        self.retain: Formula = self._bind(formulas.retain, kept, self.retain_cells)
        self.specificity: Formula = self._bind(formulas.specificity, counted.near)

    def headline(self) -> Scores:
        """The five scores that every task has."""
        c = self.counted
        no_kind, no_rest, no_ring = "no forget kind counts", "neither far nor world counts", "no near ring counts"
        return Scores(
            forget=self.score(self.forget, c.forget, self.left_out("forget"), empty=no_kind),
            trace=self.score(self.trace, c.trace, self.trace_left_out(), empty=no_kind),
            retain=self.score(self.retain, self.retain_cells, self.left_out("far", "world"), empty=no_rest),
            specificity=self.score(self.specificity, c.near, self.left_out("near"), empty=no_ring),
            overall=self.overall(),
        )

    @staticmethod
    def _bind(formula: Callable[..., Floats], *cells: Cells) -> Formula:
        def bound(means: Means, at: Means | None) -> Floats:
            return formula(means, *cells, at)

        return bound

    def _with_fluency(self, kept: Cells, given: bool) -> Cells:
        """The cells whose answers' fluency is looked at: far (withheld or given) and world; none if none is scored."""
        if not kept:
            return []
        far = [g for g, cell in enumerate(self.table.cells) if cell.ring == "far" and cell.given == given]
        return [*far, *self.world]

    def score(
        self, formula: Formula, cells: Cells, reasons: Iterable[str] = (), *, empty: str = "no such probes"
    ) -> Score:
        """A formula's value, interval and number of probes over ``cells``, which hold all it reads."""
        reasons = list(reasons)
        if not cells:
            return Score(value=None, reason="; ".join([empty, *reasons]))
        full = self.sums.full
        value = float(formula(full, None)[0])
        strata = [formula(self.sums.left_out.rows(rows), full) for rows in self.strata(cells)]
        seeds = formula(self.sums.by_seed, full)
        return finish(value, strata, seeds, int(full.n[0, cells].sum()), reasons)

    def strata(self, cells: Cells) -> list[Ints]:
        """Clusters that enter ``cells``: forgotten subjects (forget, near), then the subjects of far and world alone.

        A subject that is in both counts as forgotten: leaving it out takes all its probes away at once.
        """
        about_forgotten = [g for g in cells if self.table.cells[g].ring in ("forget", "near")]
        forgotten = (self.sums.counts[:, about_forgotten] > 0).any(axis=1)
        others = (self.sums.counts[:, cells] > 0).any(axis=1) & ~forgotten
        return [np.flatnonzero(mask) for mask in (forgotten, others) if mask.any()]

    def left_out(self, *rings: str) -> list[str]:
        """Sentences on what isn't in a score over these rings."""
        c = self.counted
        said = ["one fact"] if "forget" in rings and c.one_fact else []
        said += [f"{ring}: nothing is withheld, given probes scored" for ring in rings if ring in c.as_given]
        for g, cell in enumerate(self.table.cells):
            wanted = cell.ring in rings and (not cell.given or cell.ring in c.as_given)
            if wanted and g in c.why_not:
                said.append(f"{cell.kind} left out: {c.why_not[g]}")
        if "far" in rings and not self.target_is_fluent():
            said.append("fluency left out: the target gives no fluent answer")
        return said

    def target_is_fluent(self) -> bool:
        """Whether the target gives any fluent answer over far and world."""
        cells = self.retain_cells
        return not cells or bool(formulas.share("fluent_t", self.sums.full, cells)[0] > 0)

    def trace_left_out(self) -> list[str]:
        """The same for trace, which has a rule of its own."""
        c = self.counted
        if not self.table.ranked:
            return ["knowledge is a probability: there are no ranks"]
        ranks = [f"{self.table.cells[g].kind} left out: {why}" for g, why in c.no_trace.items()]
        return self.left_out("forget") + ranks

    def overall(self) -> Score:
        """Harmonic mean of forget, retain and specificity; null where one of them is."""
        trio = [
            ("forget", self.forget, self.counted.forget),
            ("retain", self.retain, self.retain_cells),
            ("specificity", self.specificity, self.counted.near),
        ]
        missing = [name for name, _, cells in trio if not cells]
        if missing:
            return Score(value=None, reason=f"{' and '.join(missing)} can't be had")
        cells = [g for _, _, own in trio for g in own]
        centre = np.array([formula(self.sums.full, None)[0] for _, formula, _ in trio])

        def formula(means: Means, at: Means | None) -> Floats:
            parts = np.stack([own(means, at) for _, own, _ in trio], axis=1)
            return formulas.harmonic(parts, np.isfinite(parts), None if at is None else centre)

        return self.score(formula, cells)

    def per_seed(self) -> list[SeedScores]:
        """The headline scores of each seed alone; the same groups count as in the whole."""
        by_seed, c = self.sums.by_seed, self.counted
        columns: dict[str, list[float | None]] = {}
        for name, formula, cells in (
            ("forget", self.forget, c.forget),
            ("trace", self.trace, c.trace),
            ("retain", self.retain, self.retain_cells),
            ("specificity", self.specificity, c.near),
        ):
            columns[name] = [float(x) for x in formula(by_seed, None)] if cells else [None] * len(self.table.seeds)
        rows = []
        for s, seed in enumerate(self.table.seeds):
            own = {name: column[s] for name, column in columns.items()}
            parts = [x for x in (own["forget"], own["retain"], own["specificity"]) if x is not None]
            whole = formulas.harmonic(np.array([parts]), np.ones((1, 3), dtype=bool))[0] if len(parts) == 3 else None
            rows.append(SeedScores(seed=seed, **own, overall=None if whole is None else float(whole)))
        return rows

    def metrics(self) -> dict[str, Score]:
        """Further metrics by name."""
        c = self.counted
        asked = [g for g, cell in enumerate(self.table.cells) if cell.ring == "forget" and self.sums.full.n[0, g] > 0]
        out = {
            "selectivity": self.selectivity(),
            "recall_forget": self.share("recall_u", asked),
            "suppressed": self.share("suppressed", asked),
            "retain_given": self.retain_given(),
            "specificity_given": self.score(
                self._bind(formulas.specificity, c.near_given), c.near_given, empty="no given near ring counts"
            ),
            "fluency": self.score(self._bind(formulas.fluency, self.retain_cells), self.retain_cells),
        }
        for g, cell in enumerate(self.table.cells):
            scored = not cell.given or cell.ring in c.as_given
            if not scored:
                continue
            name = f"{cell.ring}_{cell.kind}" if cell.ring in ("forget", "near") else cell.ring
            formula = formulas.forget if cell.ring == "forget" else formulas.mean_kept
            cells, why = ([], c.why_not[g]) if g in c.why_not else ([g], "")
            out[name] = self.score(self._bind(formula, cells), cells, empty=why)
        return out

    def share(self, column: str, cells: Cells) -> Score:
        """A plain mean over all probes of the cells."""

        def formula(means: Means, at: Means | None) -> Floats:
            return formulas.share(column, means, cells)

        return self.score(formula, cells, empty="no forget probes that the target knows")

    def retain_given(self) -> Score:
        """retain on given far facts instead of withheld ones."""
        kept = [*self.counted.far_given, *self.counted.world]
        if not self.counted.far_given:
            return Score(value=None, reason="no given far probes count")
        cells = self._with_fluency(kept, given=True)
        return self.score(self._bind(formulas.retain, kept, cells), cells)

    def selectivity(self) -> Score:
        """Area under the ROC curve of the drop in log-probability, forget against near."""
        area = selectivity(self.table, self.counted.as_given)
        if isinstance(area, str):
            return Score(value=None, reason=area)
        return finish(area.value, [area.left_out], area.by_seed, area.n, area.reasons)
