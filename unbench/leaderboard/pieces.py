"""Pages of methods, tasks and metrics, and what else lies beside the boards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from unbench import pages
from unbench.leaderboard import names
from unbench.leaderboard.boards import Board, Row
from unbench.leaderboard.entries import Entry
from unbench.leaderboard.known import TaskFacts
from unbench.leaderboard.render import own_file, renderer, squeeze
from unbench.leaderboard.runpage import RunJob
from unbench.leaderboard.scores import Facts

if TYPE_CHECKING:
    from unbench.metaeval.record import MetaEval


def schemas() -> dict[str, str]:
    """The JSON Schemas of a result and of a submission."""
    from unbench.results.schema import Result
    from unbench.submissions.schema import Submission

    models: dict[str, type[BaseModel]] = {
        "unbench.result-1.schema.json": Result,
        "unbench.submission-1.schema.json": Submission,
    }
    return {
        name: json.dumps(model.model_json_schema(by_alias=True), indent=1, ensure_ascii=False) + "\n"
        for name, model in models.items()
    }


def withdrawn(jobs: Sequence[RunJob]) -> list[dict[str, str]]:
    """Runs that lost their place, and why."""
    return [
        {
            "name": job.name,
            "method": job.entry.result.method,
            "task": job.entry.result.task,
            "why": "retracted" if job.entry.retracted is not None else "superseded",
        }
        for job in jobs
        if not job.entry.standing
    ]


def method_pages(jobs: Sequence[RunJob], boards: Sequence[Board], facts: Mapping[str, Facts]) -> dict[str, str]:
    """A page for each method with all its runs, and the list of methods."""
    found: dict[str, list[tuple[Board, Row]]] = {}
    for board in boards:
        for row in board.rows:
            found.setdefault(row.result.method, []).append((board, row))
    off: dict[str, list[RunJob]] = {}
    for job in jobs:
        if not job.entry.standing:
            off.setdefault(job.entry.result.method, []).append(job)
    texts = {}
    order = sorted({*found, *off}, key=lambda name: (facts[name].kind == "control", facts[name].kind, name))
    for method in order:
        address = names.method_page(method)
        texts[address] = renderer().page("method.html.j2", address, facts=facts[method], places=found.get(method, []),
                                         off=off.get(method, []))  # fmt: skip
    listed = [(facts[method], found.get(method, [])) for method in order]
    texts["methods.html"] = renderer().page("methods.html.j2", "methods.html", methods=listed)
    return texts


def task_pages(entries: Sequence[Entry], boards: Sequence[Board], known: Mapping[str, TaskFacts]) -> dict[str, str]:
    """A page for each task version with its boards, and the list of tasks."""
    versions: dict[tuple[str, str], list[Board]] = {}
    for board in boards:
        versions.setdefault((board.task, board.task_hash), []).append(board)
    for entry in entries:
        if entry.result.split == "report":
            versions.setdefault((entry.result.task, entry.result.hashes.task), [])
    texts = {}
    listed: list[dict[str, Any]] = []
    for (task, task_hash), own in sorted(versions.items()):
        address = names.task_page(task, task_hash)
        facts = known.get(task)
        current = facts is not None and facts.hash == task_hash
        results = [e.result for e in entries if (e.result.task, e.result.hashes.task) == (task, task_hash)]
        version = next((str(r.plan["task_version"]) for r in results if r.plan.get("task_version")), "")
        data = {name: digest for result in results for name, digest in sorted(result.hashes.data.items())}
        groups = results[0].groups
        values = {"task": task, "task_hash": task_hash, "version": version, "boards": own, "facts": facts,
                  "current": current, "groups": groups, "data": data, "address": address}  # fmt: skip
        texts[address] = renderer().page("task.html.j2", address, **values)
        listed.append(values)
    texts["tasks.html"] = renderer().page("tasks.html.j2", "tasks.html", tasks=listed)
    return texts


def metrics_page(found: MetaEval | None) -> str:
    """Which metrics to believe: the meta-evaluation, where there is one."""
    from importlib.resources import files

    from markupsafe import Markup

    from unbench.metaeval.page import body

    extra = files("unbench.metaeval").joinpath("templates", "metaeval.css").read_text(encoding="utf-8")
    style = squeeze(own_file("board.css") + extra)
    content = "" if found is None else body(found)
    return renderer().page("metrics.html.j2", "metrics.html", found=found, body=Markup(content), style=Markup(style),
                           policy=pages.policy(style))  # fmt: skip


def example_method() -> str:
    """The method that the page on submitting writes out: a file that works as it stands."""
    return own_file("my_npo.py.txt")
