"""The page of one run: everything its submission holds, laid out for reading."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unbench.cite import run_bibtex
from unbench.leaderboard.boards import Row
from unbench.leaderboard.curves import attack_svgs, ring_points, ring_svg
from unbench.leaderboard.entries import BADGES, Entry
from unbench.leaderboard.names import task_page
from unbench.leaderboard.probes import anti_samples_of, probes_of
from unbench.leaderboard.render import renderer
from unbench.leaderboard.scores import Facts, date_of, score_of
from unbench.results.schema import Result, Scores

LONGEST_SOURCE = 12_000
"""Characters of a one-file method that a page shows; the file itself lies beside."""
LONGEST_NOTES = 4_000
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
MOST_POINTS = 6
"""Points of an attack's curve in its table; the result as JSON holds all."""
HEADLINE = ("overall_worst", "overall", "forget_worst", "forget", "trace", "retain", "specificity")


@dataclass(frozen=True)
class RunJob:
    """All that one run's page is made from."""

    entry: Entry
    name: str
    """Name of its page, without folder and ending."""
    facts: Facts | None
    row: Row | None
    """Its place on a board; None where it has none."""
    board: tuple[str, str] | None
    """Id and address of its board."""
    heir: str | None
    """Name of the page of the run that took its place."""
    home: Path | None
    """The leaderboard's folder, where verifications and references lie."""


def run_page(job: RunJob) -> str:
    """The page as HTML."""
    from markupsafe import Markup

    entry, result = job.entry, job.entry.result
    submission = entry.submission
    probes = probes_of(entry, job.home)
    anti, anti_total = anti_samples_of(entry.folder)
    knowledge = "p(a|q)" if "model_utility" in result.metrics else "κ"
    rings = ring_points(result)
    method = submission.method if submission is not None else None
    panels = map(Markup, attack_svgs(result.attacks))
    attacks = [(attack, panel, _chosen(attack)) for attack, panel in zip(result.attacks, panels, strict=True)]
    return renderer().page(
        "run.html.j2",
        f"runs/{job.name}.html",
        job=job,
        entry=entry,
        result=result,
        submission=submission,
        method=method,
        facts=job.facts,
        badge_said=BADGES[entry.badge],
        date=date_of(result),
        task_page=task_page(result.task, result.hashes.task),
        headline=[(name, score_of(result, name)) for name in HEADLINE if result.worst or not name.endswith("_worst")],
        seed_scores=list(Scores.model_fields),
        metrics=[(name, score) for name, score in result.metrics.items() if not name.startswith("lm_eval/")],
        claimed=_claimed(entry),
        rings=rings,
        ring_plot=Markup(ring_svg(rings, f"Knowledge by ring: {result.method}", knowledge)) if rings else "",
        knowledge=knowledge,
        attacks=attacks,
        points_left=sum(chosen[1] for _, _, chosen in attacks),
        probes=probes,
        anti=anti,
        anti_total=anti_total,
        settings=_flat(result.plan.get("config")),
        plan=_flat({key: value for key, value in result.plan.items() if key not in ("config", "seeds")}),
        notes=_notes(result),
        source=_source(entry),
        folder=_files_at(entry),
        bibtex=run_bibtex(result),
    )


def run_json(result: Result) -> str:
    """The result whole, for a program."""
    return result.model_dump_json(by_alias=True, exclude={"dir"}) + "\n"


def _claimed(entry: Entry) -> list[tuple[str, Any]]:
    """What the rows don't give: taken on trust."""
    if entry.submission is not None:
        return list(entry.submission.claimed.items())
    return [(name, score) for name, score in entry.result.metrics.items() if name.startswith("lm_eval/")]


def _chosen(attack: Any) -> tuple[list[Any], int]:
    """The points that the table shows: all, or the worst ones; and how many are left out."""
    points = list(enumerate(attack.points))
    if len(points) <= MOST_POINTS:
        return points, 0
    least = sorted(points, key=lambda p: (1.0 if p[1].forget.value is None else p[1].forget.value, p[0]))
    return sorted(least[:MOST_POINTS]), len(points) - MOST_POINTS


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (name, words) pairs; what is null or empty is left out."""
    if not isinstance(value, dict):
        return []
    found: list[tuple[str, str]] = []
    for key, inner in value.items():
        if isinstance(inner, dict):
            found += _flat(inner, f"{prefix}{key}.")
        elif inner is not None and inner != []:
            text = json.dumps(inner, ensure_ascii=False) if isinstance(inner, list | bool) else str(inner)
            found.append((f"{prefix}{key}", text if len(text) <= 200 else f"{text[:199]}…"))
    return found


def _notes(result: Result) -> str:
    from pydantic_core import to_json

    text = to_json(result.notes, indent=1).decode() if result.notes else ""
    return text if len(text) <= LONGEST_NOTES else f"{text[:LONGEST_NOTES]}\n…"


def _source(entry: Entry) -> tuple[str, bool] | None:
    """A one-file method's text, and whether it was cut; only of a submission, which lists the file's hash."""
    from unbench.submissions.strict import Refused, read_file

    if entry.submission is None or entry.folder is None or "method.py" not in entry.submission.files:
        return None
    try:
        text = read_file(entry.folder / "method.py").decode("utf-8", "replace")
    except Refused:
        return None
    return text[:LONGEST_SOURCE], len(text) > LONGEST_SOURCE


def _files_at(entry: Entry) -> str | None:
    """Where a submission's files lie as seen from the page, in the leaderboard's layout: the site beside them."""
    if entry.submission is None or entry.folder is None:
        return None
    parts = entry.folder.parts
    if "submissions" not in parts:
        return None
    inner = parts[len(parts) - parts[::-1].index("submissions") :]
    plain = all(part and set(part) <= _PLAIN and part not in (".", "..") for part in inner)
    return "../../submissions/" + "/".join(inner) if plain and inner else None
