"""What can be downloaded beside the page: JSON, CSV and BibTeX."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from unbench.cite import UNBENCH_BIBTEX
from unbench.leaderboard.boards import Board, Row
from unbench.leaderboard.scores import SCORES, Facts, reason_of, score_of, worst_by

SITE_SCHEMA = "unbench.leaderboard/2"
FURTHER = ("selectivity",)
"""Metrics of the table that are none of the headline scores."""
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A spreadsheet may take a cell that starts so for a formula and run it."""


def as_json(boards: Sequence[Board]) -> str:
    """Every run of the boards in the page's order: its scores, cost and marks. ``file`` holds its result whole."""
    body = {
        "schema": SITE_SCHEMA,
        "boards": [
            {
                "id": board.id,
                "task": board.task,
                "task_version": board.version,
                "task_hash": board.task_hash,
                "model": board.model,
                "controlled": board.controlled,
                "sorted_by": board.sorted_by,
                "runs": [_run(row) for row in board.rows],
            }
            for board in boards
        ],
    }
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False) + "\n"


def as_csv(boards: Sequence[Board]) -> str:
    """One line a run, full precision, an empty cell where there is no value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    records = [_record(board, row) for board in boards for row in board.rows]
    header = list(records[0]) if records else ["task", "model", "method"]
    writer.writerow(header)
    writer.writerows([[guard(value) for value in record.values()] for record in records])
    return out.getvalue()


def as_bibtex(boards: Sequence[Board], facts: Mapping[str, Facts]) -> str:
    """UnBench itself, then the paper of every method on the boards that has one."""
    methods = sorted({row.result.method for board in boards for row in board.rows})
    entries = [facts[method].bibtex for method in methods if method in facts]
    return "\n\n".join([UNBENCH_BIBTEX, *dict.fromkeys(entry for entry in entries if entry)]) + "\n"


def guard(value: object) -> object:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def _run(row: Row) -> dict[str, Any]:
    result = row.result
    return {
        "run_id": result.run_id,
        "method": result.method,
        "kind": row.kind,
        "train": row.train,
        "seeds": result.seeds,
        "limit": row.limit,
        "rank": row.rank,
        "badge": row.entry.badge,
        "scores": {
            name: score_of(result, name).model_dump(exclude_none=True)
            for name in (*SCORES, *FURTHER)
            if name in SCORES or name in result.metrics
        },
        "worst_by": worst_by(result) or None,
        "attacks": {attack.name: attack.forget.value for attack in result.attacks},
        "compute": result.compute.model_dump(exclude_none=True),
        "device": result.device,
        "trials": row.trials,
        "submitter": row.entry.submission.submitter if row.entry.submission is not None else None,
        "created_utc": result.created_utc,
        "hashes": {"model": result.hashes.model, "method": result.hashes.method},
        "file": f"runs/{row.page}.json" if row.page else None,
    }


def _record(board: Board, row: Row) -> dict[str, object]:
    result = row.result
    record: dict[str, object] = {
        "task": board.task,
        "task_version": board.version,
        "task_hash": board.task_hash,
        "split": result.split,
        "model": board.model,
        "model_hash": result.hashes.model,
        "method": result.method,
        "kind": row.kind or "",
        "method_hash": result.hashes.method,
        "run_id": result.run_id,
        "seeds": " ".join(str(seed) for seed in result.seeds),
        "train": row.train,
        "limit": row.limit,
        "rank_best": row.rank[0] if row.rank else None,
        "rank_worst": row.rank[1] if row.rank else None,
        "badge": row.entry.badge,
        "submitter": row.entry.submission.submitter if row.entry.submission is not None else "",
        "trials": row.trials,
        "worst_by": worst_by(result),
    }
    for name in (*SCORES, *FURTHER):
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
