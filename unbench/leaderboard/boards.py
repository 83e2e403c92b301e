"""Results as boards: what a table shows, as plain values; the templates only lay it out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import BaseModel

from unbench.leaderboard.reader import created, latest
from unbench.method import MethodCard
from unbench.results.schema import Compute, Hashes, Result, Score, Scores, Worst

WORST = ("forget_worst", "overall_worst")
SCORES: tuple[str, ...] = (*Scores.model_fields, *WORST)
NO_ATTACK = Score(value=None, reason="no attack was tried")
CONTROLLED = "nano"
OWN_SIZES = {"nano": 1e6, "smollm2": 135e6}
"""Parameters of the models whose short name doesn't tell; only the order of the boards hangs on it."""
OWN_CONTROLS = frozenset({"unbench:none", "unbench:retrain", "unbench:retain_only", "unbench:sham"})
"""Known without their cards, because a control on the Pareto front would hide every method."""


@dataclass(frozen=True)
class Column:
    """One column of the table."""

    key: str
    label: str
    help: str
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """One score in a table."""

    key: str
    score: Score
    note: int | None

    @property
    def text(self) -> str:
        return "–" if self.score.value is None else f"{self.score.value:.2f}"

    @property
    def has_interval(self) -> bool:
        return self.score.value is not None and self.score.low is not None and self.score.high is not None

    @property
    def interval(self) -> str:
        if not self.has_interval:
            return "no interval"
        return f"[{self.score.low:.2f}, {self.score.high:.2f}]"

    @property
    def title(self) -> str:
        """The exact figures, or why there are none."""
        score = self.score
        parts = [] if score.value is None else [f"{score.value!r}"]
        parts += [f"95 % interval [{score.low!r}, {score.high!r}]"] if self.has_interval else []
        parts += [f"{score.n} probes"] if score.n else []
        parts += [reason_of(score)] if reason_of(score) else []
        return "; ".join(parts)

    @property
    def bar(self) -> tuple[str, str, str] | None:
        """Start and width of the interval and place of the value, in per cent of the cell."""
        value = self.score.value
        if value is None:
            return None
        low = self.score.low if self.has_interval and self.score.low is not None else value
        high = self.score.high if self.has_interval and self.score.high is not None else value
        ends = [100 * min(max(x, 0.0), 1.0) for x in (low, high, value)]
        return f"{ends[0]:.1f}", f"{max(ends[1] - ends[0], 0.0):.1f}", f"{min(ends[2], 98.5):.1f}"


@dataclass(frozen=True)
class Row:
    """One run in a table."""

    result: Result
    label: str
    """Unique within the board."""
    kind: str | None
    cells: tuple[Cell, ...]
    limit: int | None

    @property
    def name(self) -> str:
        return self.result.method.rpartition(":")[2]

    @property
    def distribution(self) -> str:
        return self.result.method.rpartition(":")[0]

    @property
    def control(self) -> bool:
        return self.kind == "control"

    @property
    def train(self) -> str:
        """How weights were trained, as the plan says."""
        train = self.result.plan.get("train")
        return str(train.get("kind", "")) if isinstance(train, Mapping) else ""

    @property
    def seeds(self) -> str:
        return ", ".join(str(seed) for seed in self.result.seeds)

    @property
    def tokens(self) -> int:
        return self.result.compute.tokens_trained + self.result.compute.tokens_generated

    @property
    def date(self) -> str:
        known = created(self.result)
        return self.result.created_utc if known.year == datetime.min.year else known.date().isoformat()


@dataclass(frozen=True)
class Board:
    """One table: a task in one version, on one model, scored on the ``report`` split."""

    task: str
    task_hash: str
    version: str
    model: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    size: float = field(repr=False, default=0.0)

    @property
    def attacked(self) -> bool:
        """Whether any of the runs was attacked."""
        return any(row.result.worst is not None for row in self.rows)

    @property
    def sorted_by(self) -> str:
        """Column by which the rows are in order."""
        return "overall_worst" if self.attacked else "overall"

    @property
    def columns(self) -> list[Column]:
        """The table's columns."""
        return [column for column in columns() if self.attacked or column.key not in WORST]

    @property
    def id(self) -> str:
        slug = re.sub(r"[^a-z0-9]+", "-", f"{self.task}-{self.model}".lower()).strip("-")[:48]
        # Different names may have the same slug.
        digest = hashlib.sha256("\0".join((self.task, self.task_hash, self.model)).encode()).hexdigest()
        return f"{slug}-{digest[:8]}"

    @property
    def controlled(self) -> bool:
        return self.model == CONTROLLED

    @property
    def devices(self) -> list[str]:
        return sorted({row.result.device for row in self.rows})

    @property
    def weights(self) -> list[str]:
        """Hashes of the target: more than one means that runs of differing weights share the model's name."""
        return sorted({row.result.hashes.model for row in self.rows})


def make_boards(results: Iterable[Result], cards: Mapping[str, MethodCard]) -> list[Board]:
    """Boards of the ``report`` split; the largest real model first, ``nano`` last, newest task version first."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in latest(results):
        if result.split == "report":
            groups.setdefault((result.task, result.hashes.task, result.model), []).append(result)
    sizes = {key: max(model_size(result) for result in group) for key, group in groups.items()}
    by_model = {model: max(size for key, size in sizes.items() if key[2] == model) for _, _, model in groups}

    def order(key: tuple[str, str, str]) -> tuple[bool, float, str, str, float, str]:
        newest = max((created(result) - datetime.min.replace(tzinfo=created(result).tzinfo)) for result in groups[key])
        return key[2] == CONTROLLED, -by_model[key[2]], key[2], key[0], -newest.total_seconds(), key[1]

    return [_board(key, groups[key], by_model[key[2]], cards) for key in sorted(groups, key=order)]


def model_size(result: Result) -> float:
    """Parameters, as the model's name tells; else the most that a method could change (all, in full training)."""
    if result.model in OWN_SIZES:
        return OWN_SIZES[result.model]
    named = re.findall(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)\s?([mb])(?![a-z0-9])", result.model.lower())
    if named:
        number, unit = named[-1]
        return float(number) * (1e9 if unit == "b" else 1e6)
    return float(result.compute.trainable_parameters)


def score_of(result: Result, name: str) -> Score:
    """One of ``SCORES``."""
    if name not in WORST:
        score: Score = getattr(result.scores, name)
        return score
    if result.worst is None:
        return NO_ATTACK
    found: Score = getattr(result.worst, name)
    if name == "forget_worst" and found.value is not None:
        said = [f"by {result.worst.by.removeprefix('unbench:')}", *([found.reason] if found.reason else [])]
        return found.model_copy(update={"reason": "; ".join(said)})
    return found


def reason_of(score: Score) -> str:
    """Why a value or interval is missing, or what was left out; empty where there is nothing to say."""
    missing = score.value is None or score.low is None or score.high is None
    return score.reason or ("no reason was recorded" if missing else "")


def kind_of(method: str, cards: Mapping[str, MethodCard]) -> str | None:
    card = cards.get(method)
    return card.kind if card else ("control" if method in OWN_CONTROLS else None)


def run_labels(results: Sequence[Result]) -> list[str]:
    """A short name for each run: the bare method, with its distribution or run-id only where that tells runs apart."""
    bare: dict[str, set[str]] = {}
    for result in results:
        bare.setdefault(result.method.rpartition(":")[2], set()).add(result.method)
    names = [r.method if len(bare[r.method.rpartition(":")[2]]) > 1 else r.method.rpartition(":")[2] for r in results]
    return [
        f"{name} · {result.run_id[:6]}" if names.count(name) > 1 else name
        for name, result in zip(names, results, strict=True)
    ]


def describe(model: type[BaseModel], *names: str) -> str:
    """What the schema itself says of its fields."""
    # Docstrings mark names with double backticks; a page shows them plain.
    return " ".join(str(model.model_fields[name].description) for name in names).replace("``", "")


def columns() -> list[Column]:
    """All columns that a table may have, described by the schema."""
    return [
        Column("method", "Method", describe(Result, "method", "run_id"), numeric=False),
        *(Column(name, name.capitalize(), describe(Scores, name)) for name in Scores.model_fields),
        *(Column(name, name.capitalize().replace("_", " "), describe(Worst, name)) for name in WORST),
        Column("seeds", "Seeds", describe(Result, "seeds")),
        Column("unlearn", "Unlearn, s", describe(Compute, "unlearn_s")),
        Column("tokens", "Tokens", describe(Compute, "tokens_trained", "tokens_generated")),
        Column("date", "Date", describe(Result, "created_utc"), numeric=False),
    ]


def legend() -> list[tuple[str, str]]:
    """Every term of the page and what the schema says of it."""
    interval = f"{describe(Score, 'low', 'high')} Bars run from 0 to 1."
    terms = [(column.label, column.help) for column in columns()]
    return [*terms, ("Interval [low, high]", interval), ("Task hash", f"{Hashes.__doc__} {describe(Hashes, 'task')}")]


def _board(key: tuple[str, str, str], results: Sequence[Result], size: float, cards: Mapping[str, MethodCard]) -> Board:
    def order(result: Result) -> tuple[bool, float, str, str]:
        # What an attack may still bring down stands below what has been attacked.
        first = score_of(result, "overall_worst" if result.worst is not None else "overall").value
        return result.worst is None, (1.0 if first is None else -first), result.method, result.run_id

    ranked = sorted(results, key=order)
    notes: dict[str, int] = {}
    names = SCORES if any(result.worst is not None for result in results) else tuple(Scores.model_fields)
    rows = [
        _row(result, label, kind_of(result.method, cards), notes, names)
        for result, label in zip(ranked, run_labels(ranked), strict=True)
    ]
    versions = sorted({str(result.plan["task_version"]) for result in results if result.plan.get("task_version")})
    return Board(key[0], key[1], ", ".join(versions), key[2], tuple(rows), tuple(notes), size)


def _row(result: Result, label: str, kind: str | None, notes: dict[str, int], names: Sequence[str]) -> Row:
    cells = []
    for name in names:
        score = score_of(result, name)
        reason = reason_of(score)
        cells.append(Cell(name, score, notes.setdefault(reason, len(notes) + 1) if reason else None))
    limit = result.plan.get("limit")
    return Row(result, label, kind, tuple(cells), limit if isinstance(limit, int) else None)
