"""What is kept of every model as soon as it has been asked: ``<out>/models/<name>/answers.parquet``, then
``model.json``, whose presence means that all is there. Killed and started again, a meta-evaluation goes on from these.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unbench import __version__, responses
from unbench.metaeval.asked import COLUMNS, LISTS, Answers
from unbench.results.store import read_record, write_json
from unbench.task import canonical_json

FORMAT = 1
"""Counts changes of what is asked or of how models are made."""


@dataclass(frozen=True)
class Kept:
    """One model's answers and how it came about."""

    answers: Answers
    learnt: float | None
    cpu_s: float


Made = Callable[[], tuple[pd.DataFrame, float | None]]
"""Makes and asks a model: its table (``asked``) and the share of its rows that it reproduces."""


def key_of(*parts: Any) -> str:
    """Hash of all that decides a model's answers."""
    body = canonical_json([__version__, FORMAT, list(COLUMNS), *parts])
    return hashlib.sha256(body.encode()).hexdigest()


def folder_of(out: Path, name: str) -> Path:
    """A model's folder; whatever its name holds, it lies below ``out``."""
    return out / "models" / (re.sub(r"[^A-Za-z0-9_-]+", "-", name) or "-")


def kept(out: Path, name: str, key: str) -> Kept | None:
    """What an earlier call kept under this key; None where there is none or it is damaged."""
    folder = folder_of(out, name)
    found = read_record(folder / "model.json")
    if found is None or found.get("key") != key:
        return None
    try:
        import pyarrow.parquet as pq

        table = pq.ParquetFile(folder / "answers.parquet").read().to_pandas()
    except Exception:
        return None  # damaged: made again
    for column in LISTS:
        table[column] = [np.asarray(row) for row in table[column]]
    return Kept(Answers(table), found["learnt"], float(found["cpu_s"]))


def keep(out: Path, name: str, key: str, made: Made) -> Kept:
    """What was kept before, or now. Read back from the file: a resumed call reads the very same numbers."""
    before = kept(out, name, key)
    if before is not None:
        return before
    start = time.process_time()
    table, learnt = made()
    folder = folder_of(out, name)
    folder.mkdir(parents=True, exist_ok=True)
    responses.save_table(table, folder / "answers.parquet")
    write_json(folder / "model.json", {"key": key, "learnt": learnt, "cpu_s": time.process_time() - start})
    found = kept(out, name, key)
    assert found is not None
    return found
