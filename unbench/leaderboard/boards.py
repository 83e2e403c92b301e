"""Results as boards: what a table shows, as plain values; the templates only lay it out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from unbench.leaderboard import names
from unbench.leaderboard.entries import BADGES, VERIFIED, Entry, as_entries, entry_key, latest_entries, standing
from unbench.leaderboard.parallel import Spread, in_turn
from unbench.leaderboard.ranking import rank_board
from unbench.leaderboard.reader import created
from unbench.leaderboard.scores import (
    CONTROLLED,
    WORST,
    Facts,
    bare,
    date_of,
    describe,
    has_interval,
    kind_of,
    limit_of,
    model_size,
    reason_of,
    run_labels,
    score_of,
    seconds_a_seed,
    tokens_a_seed,
    train_of,
    worst_by,
)
from unbench.method import MethodCard
from unbench.results.schema import Compute, Hashes, Result, Score, Scores, Worst

Cards = Mapping[str, MethodCard | Facts]
SHOWN = (
    "overall_worst", "overall", "forget", "forget_worst", "trace", "retain", "specificity", "selectivity",
)  # fmt: skip
"""Scores of the table, in the order of its columns."""
TIE = (
    "Ranks that the data allow, over all paired differences on the same subjects (95 %, simultaneously): "
    "from 1 + the number of methods that are significantly better to the number that are not significantly worse. "
    "A line divides methods whose best possible ranks differ. Controls are not ranked."
)
TUNING = "Settings tried before the run, on the select forget set; a dash where none were or nobody says."


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
    note: int | None = None
    by: str = ""
    """What gave it."""

    @property
    def text(self) -> str:
        return "–" if self.score.value is None else f"{self.score.value:.2f}"

    @property
    def interval(self) -> str:
        """``0.83–0.98``; empty where there is none."""
        return f"{self.score.low:.2f}–{self.score.high:.2f}" if has_interval(self.score) else ""


@dataclass(frozen=True)
class Row:
    """One run in a table."""

    entry: Entry
    label: str
    """Unique within the board."""
    kind: str | None
    cells: tuple[Cell, ...]
    rank: tuple[int, int] | None = None
    divided: bool = False
    """Whether its best possible rank differs from the row above."""
    page: str = ""
    """Name of the run's page, without folder and ending."""

    @property
    def result(self) -> Result:
        return self.entry.result

    @property
    def name(self) -> str:
        return bare(self.result.method)

    @property
    def distribution(self) -> str:
        return self.result.method.rpartition(":")[0]

    @property
    def control(self) -> bool:
        return self.kind == "control"

    @property
    def limit(self) -> int | None:
        return limit_of(self.result)

    @property
    def aside(self) -> bool:
        """Neither ranked nor on a Pareto front: a control, or a run that is no full result."""
        return self.control or self.limit is not None

    @property
    def attacked(self) -> bool:
        return self.result.worst is not None

    @property
    def train(self) -> str:
        return train_of(self.result)

    @property
    def seconds(self) -> float:
        return seconds_a_seed(self.result)

    @property
    def tokens(self) -> int:
        return tokens_a_seed(self.result)

    @property
    def date(self) -> str:
        return date_of(self.result)

    @property
    def trials(self) -> int | None:
        """Settings that were tried; None where nobody says."""
        submission = self.entry.submission
        return submission.tuning.trials if submission is not None and submission.tuning is not None else None

    @property
    def verified(self) -> bool:
        return self.entry.badge in VERIFIED

    @property
    def rank_text(self) -> str:
        if self.rank is None:
            return "–"
        low, high = self.rank
        return str(low) if low == high else f"{low}–{high}"


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
        return any(row.attacked for row in self.rows)

    @property
    def sorted_by(self) -> str:
        """Score by which the rows are in order."""
        return "overall_worst" if self.attacked else "overall"

    @property
    def id(self) -> str:
        return names.board_id(self.task, self.task_hash, self.model)

    @property
    def page(self) -> str:
        return names.board_page(self.id)

    @property
    def task_page(self) -> str:
        return names.task_page(self.task, self.task_hash)

    @property
    def controlled(self) -> bool:
        return self.model == CONTROLLED

    @property
    def devices(self) -> list[str]:
        # Earlier runs on one thread called it "1 threads": the same device.
        return sorted({re.sub(r"\b1 threads$", "1 thread", row.result.device) for row in self.rows})

    @property
    def weights(self) -> list[str]:
        """Hashes of the target: more than one means that runs of differing weights share the model's name."""
        return sorted({row.result.hashes.model for row in self.rows})

    @property
    def leader(self) -> Row | None:
        """The first row that counts; None where there is none."""
        return next((row for row in self.rows if not row.aside), None)


def make_boards(
    runs: Iterable[Result | Entry],
    cards: Cards,
    pages: Mapping[tuple[str, ...], str] | None = None,
    spread: Spread = in_turn,
) -> list[Board]:
    """Boards of the ``report`` split; the largest real model first, ``nano`` last, newest task version first.

    ``pages`` gives the name of each run's page by its key; ``spread`` ranks the boards, perhaps side by side.
    """
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in standing(latest_entries(as_entries(runs))):
        result = entry.result
        groups.setdefault((result.task, result.hashes.task, result.model), []).append(entry)
    by_model: dict[str, float] = {}
    for (_, _, model), group in groups.items():
        by_model[model] = max(by_model.get(model, 0.0), *(model_size(entry.result) for entry in group))

    def order(key: tuple[str, str, str]) -> tuple[bool, float, str, str, float, str]:
        newest = max((created(e.result) - datetime.min.replace(tzinfo=created(e.result).tzinfo)) for e in groups[key])
        return key[2] == CONTROLLED, -by_model[key[2]], key[2], key[0], -newest.total_seconds(), key[1]

    drafts = [_Draft(key, groups[key], by_model[key[2]], cards) for key in sorted(groups, key=order)]
    sets = spread(_Draft.rank, drafts)
    return [draft.board(ranks, pages or {}) for draft, ranks in zip(drafts, sets, strict=True)]


def columns() -> list[Column]:
    """The columns of every table, described by the schema."""
    of_scores = {
        **{name: describe(Scores, name) for name in Scores.model_fields},
        **{name: describe(Worst, name) for name in WORST},
        "selectivity": "How well the drop in log-probability tells forget facts from their neighbours: the area under "
        "the ROC curve, 0.5 where it can't.",
    }
    return [
        Column("rank", "Rank", TIE),
        Column("method", "Method", describe(Result, "method"), numeric=False),
        *(Column(name, name.capitalize().replace("_", " "), of_scores[name]) for name in SHOWN),
        Column("seconds", "Seconds", f"{describe(Compute, 'unlearn_s')} Here divided by the seeds."),
        Column("tokens", "Tokens", f"{describe(Compute, 'tokens_trained', 'tokens_generated')} Here divided by the "
               "seeds."),
        Column("trials", "Tuning", TUNING),
        Column("date", "Date", describe(Result, "created_utc"), numeric=False),
        Column("badge", "Checked", " ".join(f"{name}: {said}" for name, said in BADGES.items()), numeric=False),
    ]  # fmt: skip


def legend() -> list[tuple[str, str]]:
    """Every term of the page and what the schema says of it."""
    terms = [(column.label, column.help) for column in columns()]
    return [
        *terms,
        ("0.83–0.98", describe(Score, "low", "high")),
        ("Task hash", f"{Hashes.__doc__} {describe(Hashes, 'task')}"),
    ]


class _Draft:
    """A board whose rows are in order and not yet ranked."""

    def __init__(self, key: tuple[str, str, str], entries: Sequence[Entry], size: float, cards: Cards) -> None:
        self.key, self.size = key, size
        self.attacked = any(entry.result.worst is not None for entry in entries)

        def order(entry: Entry) -> tuple[bool, bool, float, str, str]:
            # What an attack may still bring down stands below what has been attacked, controls below all.
            result = entry.result
            first = score_of(result, "overall_worst" if result.worst is not None else "overall").value
            control = kind_of(result.method, cards) == "control"
            return control, result.worst is None, (1.0 if first is None else -first), result.method, result.run_id

        self.entries = sorted(entries, key=order)
        self.kinds = [kind_of(entry.result.method, cards) for entry in self.entries]

    def rank(self) -> dict[int, tuple[int, int]]:
        """Rank sets by place: of the attacked methods, or of all where none was attacked."""
        ranked = [
            index
            for index, entry in enumerate(self.entries)
            if self.kinds[index] != "control"
            and limit_of(entry.result) is None
            and (entry.result.worst is not None or not self.attacked)
        ]
        sets = rank_board([self.entries[i] for i in ranked], "overall_worst" if self.attacked else "overall")
        return {ranked[place]: found for place, found in sets.items()}

    def board(self, ranks: Mapping[int, tuple[int, int]], pages: Mapping[tuple[str, ...], str]) -> Board:
        labels = run_labels([entry.result for entry in self.entries])
        notes: dict[str, int] = {}
        rows: list[Row] = []
        for index, (entry, label) in enumerate(zip(self.entries, labels, strict=True)):
            cells = tuple(self._cell(entry.result, name, notes) for name in SHOWN)
            row = Row(entry, label, self.kinds[index], cells, ranks.get(index), False, pages.get(entry_key(entry), ""))
            rows.append(replace(row, divided=bool(rows) and _divided(rows[-1], row)))
        plans = [entry.result.plan for entry in self.entries]
        versions = sorted({str(plan["task_version"]) for plan in plans if plan.get("task_version")})
        task, task_hash, model = self.key
        return Board(task, task_hash, ", ".join(versions), model, tuple(rows), tuple(notes), self.size)

    def _cell(self, result: Result, name: str, notes: dict[str, int]) -> Cell:
        score = score_of(result, name)
        # What was left out of a score stands on the run's page; here only what is missing asks for a word.
        silent = has_interval(score) or (name in WORST and not self.attacked)
        reason = "" if silent else reason_of(score)
        told = name == "forget_worst" and score.value is not None
        by = worst_by(result).partition(" at ")[0].replace("_", " ") if told else ""
        return Cell(name, score, notes.setdefault(reason, len(notes) + 1) if reason else None, by)


def _divided(above: Row, row: Row) -> bool:
    """Whether a line stands between two rows: another best rank, or another sort of row."""
    if above.control != row.control or above.attacked != row.attacked:
        return True
    return above.rank is not None and row.rank is not None and above.rank[0] != row.rank[0]
