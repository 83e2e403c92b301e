"""Everything that a submission says with numbers, computed from its rows and the yardstick: what a run and a validator
call alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unbench.attacks.measure import Point, outcome, part_of, points, unattacked
from unbench.attacks.worst import least, whole_of, worst
from unbench.metrics.scores import Board
from unbench.metrics.table import lay_out
from unbench.metrics.whole import measure_all
from unbench.results.schema import AttackResult, Measured, Score, Worst
from unbench.submissions.rows import AttackRows, Of, Rows
from unbench.submissions.schema import DIGITS, LeftOut
from unbench.submissions.strict import Refused

if TYPE_CHECKING:
    import pandas as pd

    from unbench.submissions.yardstick import LockedAttack, Measuring


@dataclass(frozen=True)
class Tried:
    """One attack of a submission."""

    locked: LockedAttack | None
    """What it is in the lock; None where it could not be carried out."""
    said: AttackResult
    """What the run says of it; only what rows can't give is taken from here (seconds, notes, why it failed)."""


@dataclass(frozen=True)
class Scored:
    """All numbers of a submission, rounded."""

    measured: Measured
    attacks: list[AttackResult]
    worst: Worst | None
    ranking: dict[str, LeftOut]

    def fields(self) -> dict[str, Any]:
        """As they stand in ``submission.json``: the result's own fields, and ranking."""
        body = self.measured.model_dump(mode="json")
        body |= {"attacks": [one.model_dump(mode="json") for one in self.attacks]}
        body |= {"worst": None if self.worst is None else self.worst.model_dump(mode="json")}
        return body | {"ranking": {key: one.model_dump(mode="json") for key, one in self.ranking.items()}}


def score_rows(rows: Rows, attacked: AttackRows, tried: Sequence[Tried], yard: Measuring) -> Scored:
    """Score the rows. Raises ``Refused`` where they can't be scored."""
    frames = {int(of): frame for of, frame in rows.frames.items()}
    own = {int(of): one for of, one in rows.own.items()}
    questions = {probe.id: probe.question for probe in yard.probes if probe.ring == "forget"}
    for one in own.values():
        foreign = [probe for probe in one.trained if probe not in questions]
        if foreign:
            raise Refused(f"names {foreign[0]!r} as trained on, which is no forget probe")
    knowledge, known_only = yard.task.knowledge, yard.known_only
    try:
        measured = measure_all(
            frames, yard.target, yard.references, knowledge=knowledge, known_only=known_only,
            trained={seed: frozenset(questions[probe] for probe in one.trained) for seed, one in own.items()},
            taught={seed: one.taught for seed, one in own.items()},
        )  # fmt: skip
        board = Board(lay_out(frames, yard.target, yard.references, knowledge, known_only))
        results, curves = _attacks(attacked, tried, yard, set(frames))
        whole = _worst(board, frames, curves, yard) if curves else None
    except (ValueError, ArithmeticError, LookupError, TypeError) as problem:
        # The metrics are written for what models answer; what a stranger makes up may break them in any way.
        raise Refused(f"can't be scored ({type(problem).__name__}: {problem})") from problem
    parts = {"overall": part_of(board, board.forget)} if board.counted.forget else {}
    chosen = least(board, curves) if curves else None
    if chosen is not None:
        parts["overall_worst"] = chosen.part
    ranking = {key: found for key, part in parts.items() if (found := _left_out(board, part)) is not None}
    return Scored(rounded(measured), [rounded(one) for one in results], rounded(whole), rounded(ranking))


def _attacks(
    attacked: AttackRows, tried: Sequence[Tried], yard: Measuring, seeds: set[int]
) -> tuple[list[AttackResult], list[tuple[str, Sequence[Point]]]]:
    results: list[AttackResult] = []
    curves: list[tuple[str, Sequence[Point]]] = []
    for one in tried:
        if one.locked is None:
            why = one.said.reason or "no reason was recorded"
            update: dict[str, Any] = {"points": [], "worst": None, "forget": Score(value=None, reason=why)}
            results.append(one.said.model_copy(update=update))
            continue
        found = attacked.tables.get(one.locked.name, {})
        if set(found) != seeds:
            raise Refused(f"has no rows of {one.locked.name} for every seed")
        beside: Mapping[Of, pd.DataFrame] = yard.attacks[one.locked.sha256].tables.get(one.locked.name, {})
        reference = beside.get("reference")
        points_of = {_points_of(table) for table in [*found.values(), *([] if reference is None else [reference])]}
        if len(points_of) > 1:
            raise Refused(f"has other points of {one.locked.name} than the yardstick, or of one seed than of another")
        curve = points({int(of): table for of, table in found.items()}, reference, beside.get("target"), yard.base)
        results.append(
            one.said.model_copy(
                update={
                    **outcome(curve, reference is not None),
                    "name": one.locked.name, "kind": one.locked.kind, "config": one.locked.config,
                    "method_hash": one.locked.source,
                }
            )
        )  # fmt: skip
        curves.append((one.locked.name, curve))
    return sorted(results, key=lambda one: one.name), curves


def _points_of(table: pd.DataFrame) -> frozenset[tuple[Any, ...]]:
    """Where on its curve an attack asked what: who leaves out a point that tells on it is found by it."""
    names = ("series", "strength", "counted", "own", "probe")
    return frozenset(zip(*(table[name] for name in names), strict=True))


def _worst(
    board: Board, frames: Mapping[int, pd.DataFrame], curves: list[tuple[str, Sequence[Point]]], yard: Measuring
) -> Worst:
    calm = unattacked(frames, set(yard.asked), yard.base, yard.task.knowledge)
    return worst(board.table, curves, calm.shown)


def _left_out(board: Board, part: Any) -> LeftOut | None:
    """overall, or overall_worst, as rank sets need it; None where it can't be had."""
    whole = whole_of(board, part)
    if isinstance(whole, str):
        return None
    rest = whole.strata[1:]
    return LeftOut(
        left_out={cluster: value for stratum in whole.strata for cluster, value in stratum.items()},
        others=[cluster for stratum in rest for cluster in stratum],
        by_seed=[float(value) for value in whole.by_seed],
    )


def rounded(value: Any) -> Any:
    """Every float in a model, list or mapping with ``DIGITS`` decimals; 0 has no sign."""
    from pydantic import BaseModel

    if isinstance(value, BaseModel):
        names = type(value).model_fields
        return value.model_copy(update={name: rounded(getattr(value, name)) for name in names})
    if isinstance(value, float):
        return round(value, DIGITS) + 0.0
    if isinstance(value, Mapping):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return value
