"""Find result files below a folder, and keep the latest of each run."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import from_json

from unbench.errors import UsageError
from unbench.results.schema import RESULT_SCHEMA, Result

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


def latest(results: Iterable[Result]) -> list[Result]:
    """The newest result of each (task, task hash, model, split, method, run-id), in that order.

    The run-id leaves the seeds out: a run repeated with more seeds takes the place of the older one.
    """
    newest: dict[tuple[str, ...], Result] = {}
    for result in results:
        key = (result.task, result.hashes.task, result.model, result.split, result.method, result.run_id)
        if key not in newest or _age(result) > _age(newest[key]):
            newest[key] = result
    return [newest[key] for key in sorted(newest)]


def created(result: Result) -> datetime:
    """When the result was written; the beginning of time where that can't be read."""
    try:
        moment = datetime.fromisoformat(result.created_utc)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _age(result: Result) -> tuple[datetime, str]:
    # Two results of the same second must not depend on the order they came in, nor on the folder they lay in.
    return created(result), result.model_dump_json(by_alias=True, exclude={"dir"})


def _read(path: Path) -> Result | None:
    try:
        body = from_json(path.read_bytes())
    except OSError as problem:
        logger.warning("skipped %s: it can't be read (%s)", path, problem.strerror or problem)
        return None
    except ValueError as problem:
        logger.warning("skipped %s: it is not valid JSON (%s)", path, problem)
        return None
    schema = body.get("schema") if isinstance(body, dict) else None
    if schema != RESULT_SCHEMA:
        logger.warning("skipped %s: its schema is %r, this UnBench reads %r", path, schema, RESULT_SCHEMA)
        return None
    try:
        return Result.model_validate(body).model_copy(update={"dir": str(path.parent)})
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        logger.warning("skipped %s: it doesn't fit %s (%s: %s)", path, RESULT_SCHEMA, where, first["msg"])
        return None
