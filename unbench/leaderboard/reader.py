"""Find result files below a folder, and keep the latest of each run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from unbench.errors import UsageError
from unbench.leaderboard.labels import printable
from unbench.results.schema import RESULT_SCHEMA, Result

T = TypeVar("T")
logger = logging.getLogger(__name__)


def collect(run_root: Path) -> list[Result]:
    """Every ``result.json`` anywhere below ``run_root``, in the order of their paths, ``dir`` filled.

    A file that is broken or of another schema is skipped with a warning that names it. Raises ``UsageError`` where
    ``run_root`` is no folder.
    """
    if not run_root.is_dir():
        raise UsageError(
            f"There is no folder {str(run_root)!r} to read results from.",
            "Make a run first ('unbench run --method unstar'), or name the folder that holds your runs.",
        )
    found = (_read(path) for path in sorted(run_root.rglob("result.json")))
    return [result for result in found if result is not None]


def parse_result(path: Path) -> Result:
    """The result in a file, ``dir`` filled. Raises ``UsageError`` naming the file where it can't be read or doesn't
    fit the schema."""
    try:
        return _parse(path.read_bytes()).model_copy(update={"dir": str(path.parent)})
    except OSError as problem:
        why = f"it can't be read ({problem.strerror or problem})"
    except _Unfit as problem:
        why = str(problem)
    # What a file holds may have been written to harm the terminal that shows this.
    raise UsageError(f"{printable(str(path))} is no result: {printable(why)}.")


def run_key(result: Result) -> tuple[str, ...]:
    """What tells runs apart, the run-id last. It leaves the seeds out."""
    return (result.task, result.hashes.task, result.model, result.split, result.method, result.run_id)


def newest(things: Iterable[T], result_of: Callable[[T], Result]) -> list[T]:
    """The newest thing of each run (``run_key``), in the order of the keys: a run repeated with more seeds takes the
    place of the older one."""
    groups: dict[tuple[str, ...], list[T]] = {}
    for thing in things:
        groups.setdefault(run_key(result_of(thing)), []).append(thing)
    return [
        group[0] if len(group) == 1 else max(group, key=lambda thing: _age(result_of(thing)))
        for _, group in sorted(groups.items())
    ]


def latest(results: Iterable[Result]) -> list[Result]:
    """The newest result of each (task, task hash, model, split, method, run-id), in that order."""
    return newest(results, lambda result: result)


def created(result: Result) -> datetime:
    """When the result was written; the beginning of time where that can't be read."""
    try:
        moment = datetime.fromisoformat(result.created_utc)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        # OverflowError: a time zone may push the first and the last day beyond what a datetime holds.
        return datetime.min.replace(tzinfo=UTC)


def _age(result: Result) -> tuple[datetime, str]:
    # Two results of the same second must not depend on the order they came in, nor on the folder they lay in.
    return created(result), result.model_dump_json(by_alias=True, exclude={"dir"})


class _Unfit(Exception):
    """Why bytes are no result."""


def _parse(content: bytes) -> Result:
    try:
        body = from_json(content, allow_inf_nan=False)
        # Whatever is read must be fit to be written: 1e999 is read as infinity.
        json.dumps(body, allow_nan=False)
    except (ValueError, RecursionError) as problem:
        raise _Unfit(f"it is not valid JSON ({problem})") from problem
    schema = body.get("schema") if isinstance(body, dict) else None
    if schema != RESULT_SCHEMA:
        raise _Unfit(f"its schema is {repr(schema)[:80]}, this UnBench reads {RESULT_SCHEMA!r}")
    try:
        return Result.model_validate(body)
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:80]
        raise _Unfit(f"it doesn't fit {RESULT_SCHEMA} ({where}: {first['msg']})") from problem


def _read(path: Path) -> Result | None:
    try:
        return parse_result(path)
    except UsageError as problem:
        logger.warning("skipped: %s", problem.message)
        return None
