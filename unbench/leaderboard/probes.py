"""What a run's page shows of its probes: the forgotten ones, of the others those that changed most, and examples."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbench.leaderboard.entries import Entry
from unbench.leaderboard.labels import printable
from unbench.submissions.strict import MAX_FILE, MAX_UNPACKED, Refused, read_file, unpack

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)
FORGET_BYTES, OTHER_BYTES = 32_000, 5_000
"""Text and figures of a table that a page may hold; what is left out is counted."""
APART = 0.1
"""Difference between seeds from which both ends are shown."""
LEAST_SHARED = 3
"""Words with which two answers must begin alike before the second one leaves them out."""
LONGEST = 110
"""Letters of a question or an answer."""
MARKUP = 75
"""Bytes of a row beside its texts."""
EXAMPLES = 12
ANTI_FACTS, ANTI_EACH = 6, 3


@dataclass(frozen=True)
class ProbeRow:
    """One probe in a table."""

    ring: str
    kind: str
    question: str
    before: str
    after: str
    spread: str
    """Least and most over the seeds; empty for one seed."""
    reference: str
    said_before: str
    said_after: str
    fact: str = ""
    again: bool = False
    """Whether the row above is of the same fact and was answered the same before."""

    @property
    def change(self) -> str:
        """The answer after, from where it differs on; empty where it is the same."""
        if self.said_before == self.said_after:
            return ""
        old, new = self.said_before.split(" "), self.said_after.split(" ")
        same = 0
        while same < min(len(old), len(new)) - 1 and old[same] == new[same]:
            same += 1
        return " ".join(["…", *new[same:]]) if same >= LEAST_SHARED else self.said_after


@dataclass
class ProbeTable:
    """Rows that fit, and how many don't."""

    rows: list[ProbeRow] = field(default_factory=list)
    total: int = 0

    @property
    def left_out(self) -> int:
        return self.total - len(self.rows)


@dataclass
class Probes:
    """What a page shows of a run's probes."""

    forget: ProbeTable
    others: ProbeTable
    examples: list[ProbeRow]
    seed: int
    """The seed whose answers are shown."""


@dataclass
class Anti:
    """What a method wrote for its own unlearning, of one fact."""

    question: str
    lines: list[tuple[str, str, str]]
    """Paraphrase, taught completion, and what it was written for."""


def probes_of(entry: Entry, home: Path | None) -> Probes | None:
    """The probes of a run; None where its files don't give them. Whatever a stranger's files hold, a page is made."""
    try:
        frame = _frame(entry, home)
        return None if frame is None or not len(frame) else _shown(frame, entry.result.seeds)
    except Exception as problem:
        # The files come from anywhere, and there are as many ways to be broken; the page says that they are missing.
        logger.warning("no probes of run %s: %s", printable(entry.result.run_id), printable(str(problem)[:200]))
        return None


def _frame(entry: Entry, home: Path | None) -> pd.DataFrame | None:
    if entry.folder is None:
        return None
    if entry.submission is None:
        if not (entry.folder / "probes.parquet").is_file():
            return None
        result = entry.result.model_copy(update={"dir": str(entry.folder)})
        return result.probes
    try:
        from unbench.submissions.read import probe_table
    except ImportError:
        return None
    found: pd.DataFrame | None = probe_table(entry.folder, entry.submission, home or entry.folder)
    return found


def _shown(frame: pd.DataFrame, seeds: Sequence[int]) -> Probes:
    knows = [f"known_seed_{seed}" for seed in seeds]
    frame = frame.assign(
        _after=frame[knows].mean(axis=1), _low=frame[knows].min(axis=1), _high=frame[knows].max(axis=1)
    )
    frame = frame.assign(_moved=(frame["known_target"] - frame["_after"]).abs().fillna(0.0))
    for name in ("probe", "fact"):
        if name not in frame.columns:
            frame = frame.assign(**{name: [str(i) for i in range(len(frame))]})
    scored = frame[~frame["given"].astype(bool)] if "given" in frame.columns else frame
    forgotten = frame[frame["ring"] == "forget"]
    # Fact by fact: those that are best known still come first, since they are what went wrong.
    of_fact = forgotten.groupby("fact")["_after"].transform("mean")
    forgotten = forgotten.assign(_fact=of_fact).sort_values(
        ["_fact", "fact", "_after", "probe"], ascending=[False, True, False, True]
    )
    others = scored[~scored["ring"].isin(["forget", "holdout"])].sort_values(
        ["_moved", "probe"], ascending=[False, True]
    )
    said = f"text_seed_{seeds[0]}"
    return Probes(
        forget=_table(forgotten, said, FORGET_BYTES),
        others=_table(others, said, OTHER_BYTES),
        examples=_examples(scored, said),
        seed=seeds[0],
    )


def _table(frame: pd.DataFrame, said: str, room: int) -> ProbeTable:
    table = ProbeTable(total=len(frame))
    for row in _rows(frame, said):
        above = table.rows[-1] if table.rows else None
        if above is not None and (above.fact, above.said_before) == (row.fact, row.said_before):
            row = replace(row, again=True)
        texts = (row.kind, row.question, "" if row.again else row.said_before, row.change, row.spread)
        room -= MARKUP + sum(len(text.encode()) for text in texts)
        if room < 0:
            break
        table.rows.append(row)
    return table


def _examples(frame: pd.DataFrame, said: str) -> list[ProbeRow]:
    """One probe of each ring and kind, the first of those whose answers are text, the forgotten kinds first."""
    order = {"forget": 0, "near": 1, "far": 2, "world": 3}
    texts = frame[(frame["text_target"].fillna("") != "") & frame["ring"].isin(list(order))]
    firsts = texts.groupby(["ring", "kind"], sort=True).head(1)
    firsts = firsts.assign(_order=firsts["ring"].map(order)).sort_values(["_order", "kind"], kind="stable")
    return list(_rows(firsts.head(EXAMPLES), said))


def _rows(frame: pd.DataFrame, said: str) -> Iterator[ProbeRow]:
    for row in frame.to_dict("records"):
        low, high = row["_low"], row["_high"]
        yield ProbeRow(
            ring=str(row["ring"]),
            kind=str(row["kind"]).replace("_", " "),
            question=_short(row["question"]),
            before=_figure(row["known_target"]),
            after=_figure(row["_after"]),
            spread=f"{_figure(low)} to {_figure(high)}" if high - low >= APART else "",
            reference=_figure(row.get("known_reference")),
            said_before=_short(row["text_target"]),
            said_after=_short(row[said]),
            fact=str(row["fact"]),
        )


def _figure(value: Any) -> str:
    number = float("nan") if value is None else float(value)
    return "–" if number != number else f"{number:.2f}".replace("-0.00", "0.00")


def _short(value: Any) -> str:
    text = " ".join(printable(str(value).replace("\n", " ")).split()) if isinstance(value, str) else ""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def anti_samples_of(folder: Path | None) -> tuple[list[Anti], int]:
    """A few anti-samples of a few facts, and how many were trained on in all; nothing where there are none."""
    file = None if folder is None else _anti_file(folder)
    if file is None:
        return [], 0
    found: dict[str, Anti] = {}
    total = 0
    try:
        for record in _lines(file):
            if record.get("stage") != "anti_sample" or not record.get("kept") or record.get("role") != "forget":
                continue
            total += 1
            fact = found.setdefault(str(record.get("fact", "")), Anti(_short(record.get("question")), []))
            line = (_short(record.get("paraphrase")), _short(record.get("completion")), f"round {record.get('round')}")
            if len(fact.lines) < ANTI_EACH and line[:2] not in [known[:2] for known in fact.lines]:
                fact.lines.append(line)
    except (Refused, ValueError) as problem:
        logger.warning("no anti-samples of %s: %s", printable(str(file)), printable(str(problem)[:200]))
        return [], 0
    return list(found.values())[:ANTI_FACTS], total


def _anti_file(folder: Path) -> Path | None:
    """A submission's file, or that of a run's first seed."""
    found = [folder / "anti_samples.jsonl.gz", *sorted(folder.glob("seed-*/work/anti_samples.jsonl"))]
    return next((file for file in found if file.is_file()), None)


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    packed = file.suffix == ".gz"
    content = read_file(file, MAX_FILE if packed else MAX_UNPACKED)
    for line in (unpack(content) if packed else content).splitlines():
        record = json.loads(line) if line.strip() else None
        if isinstance(record, dict):
            yield record
