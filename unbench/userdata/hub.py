"""Rows of a hub data set. ``datasets`` is imported only where a task names one."""

from __future__ import annotations

import hashlib
import json
from itertools import islice
from typing import Any

from unbench.errors import EnvironmentProblem, UsageError
from unbench.taskfile import TRY_NEXT, Document, Place
from unbench.userdata.read import MAX_ROWS, Record, Table, Where
from unbench.userdata.spec import Source


def read_hub(source: Source, document: Document, place: Place) -> Table:
    """One split of a data set of the hub, its code never run.

    Raises ``UsageError`` for an id, configuration, split or revision that the hub doesn't have, ``EnvironmentProblem``
    where it can't be reached.
    """
    name = hub_name(source)
    rows = _load(source, document, place)
    records = [Record(dict(row), Where(name, "row", i)) for i, row in enumerate(islice(rows, MAX_ROWS + 1), 1)]
    header = Where(name, "row", 1)
    if not records:
        raise UsageError(f"{name}: there are no rows in it.", TRY_NEXT)
    if len(records) > MAX_ROWS:
        raise UsageError(f"{name}: more than {MAX_ROWS} rows; take a part of them (split: train[:1000]).", TRY_NEXT)
    digest = hashlib.sha256()
    for record in records:
        # Lone surrogates can't be written as UTF-8; here they only have to hash.
        line = json.dumps(record.values, sort_keys=True, ensure_ascii=True, default=str)
        digest.update(f"{line}\n".encode())
    return Table(name, tuple(rows.column_names), records, digest.hexdigest(), header)


def hub_name(source: Source) -> str:
    """``hub:owner/name/config[split]@revision``, as errors and results name the rows."""
    config = f"/{source.config}" if source.config else ""
    revision = f"@{source.revision}" if source.revision else ""
    return f"hub:{source.hub}{config}[{source.split or 'train'}]{revision}"


def _load(source: Source, document: Document, place: Place) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    at = (*place, "hub")
    try:
        return load_dataset(str(source.hub), source.config, split=source.split or "train", revision=source.revision)
    except DatasetNotFoundError:
        raise document.error(
            at, f"the hub has no data set {source.hub!r} (with this revision), or it can't be reached from here."
        ) from None
    except (ConnectionError, TimeoutError, OSError) as problem:
        raise EnvironmentProblem(
            f"{document.error(at, '').message}{source.hub!r} can't be fetched from the hub ({type(problem).__name__}).",
            "Check the network, or download the rows and name them by data:.",
        ) from problem
    except Exception as problem:
        # datasets raises errors of many kinds for a wrong split or configuration; the first line says what there is.
        first = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise document.error(at, f"{source.hub!r} can't be loaded: {first.rstrip('.')}.") from None
