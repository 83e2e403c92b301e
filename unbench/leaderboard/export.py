"""What can be downloaded beside the page: JSON, CSV and BibTeX."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence

from unbench.cite import UNBENCH_BIBTEX
from unbench.leaderboard.boards import SCORES, Board, kind_of, reason_of, score_of
from unbench.method import MethodCard
from unbench.results.schema import Result

SITE_SCHEMA = "unbench.leaderboard/1"
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A spreadsheet may take a cell that starts so for a formula and run it."""


def as_json(boards: Sequence[Board]) -> str:
    """Every result on the page, whole, in the page's order."""
    body = {
        "schema": SITE_SCHEMA,
        "results": [
            row.result.model_dump(mode="json", by_alias=True, exclude={"dir"}) for board in boards for row in board.rows
        ],
    }
    return json.dumps(body, sort_keys=True, indent=1, allow_nan=False) + "\n"


def as_csv(boards: Sequence[Board], cards: Mapping[str, MethodCard]) -> str:
    """One line a run, full precision, an empty cell where there is no value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    records = [_record(board, row.result, cards) for board in boards for row in board.rows]
    header = list(records[0]) if records else ["task", "model", "method"]
    writer.writerow(header)
    writer.writerows([[guard(value) for value in record.values()] for record in records])
    return out.getvalue()


def as_bibtex(boards: Sequence[Board], cards: Mapping[str, MethodCard]) -> str:
    """UnBench itself, then the paper of every method on the page whose card is known."""
    methods = sorted({row.result.method for board in boards for row in board.rows})
    entries = [cards[method].bibtex.strip() for method in methods if method in cards]
    return "\n\n".join([UNBENCH_BIBTEX, *dict.fromkeys(entry for entry in entries if entry)]) + "\n"


def guard(value: object) -> object:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def _record(board: Board, result: Result, cards: Mapping[str, MethodCard]) -> dict[str, object]:
    record: dict[str, object] = {
        "task": board.task,
        "task_version": board.version,
        "task_hash": board.task_hash,
        "split": result.split,
        "model": board.model,
        "model_hash": result.hashes.model,
        "method": result.method,
        "kind": kind_of(result.method, cards) or "",
        "method_hash": result.hashes.method,
        "run_id": result.run_id,
        "seeds": " ".join(str(seed) for seed in result.seeds),
        "limit": result.plan.get("limit"),
    }
    for name in SCORES:
        score = score_of(result, name)
        record |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high, f"{name}_n": score.n}
        record[f"{name}_reason"] = reason_of(score)
    record |= {name: getattr(result.compute, name) for name in type(result.compute).model_fields}
    return record | {
        "interval": result.interval,
        "device": result.device,
        "dtype": result.dtype,
        "created_utc": result.created_utc,
    }
