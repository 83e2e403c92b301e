"""Build the site: plain files without a clock, a network or a database. The same runs give the same bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbench.errors import EnvironmentProblem
from unbench.leaderboard import boards as view
from unbench.leaderboard import export, feed, figures, matrix, names, pieces
from unbench.leaderboard.entries import Entry, as_entries, entry_key, latest_entries
from unbench.leaderboard.known import TaskFacts, method_facts
from unbench.leaderboard.parallel import Spread, spread_over
from unbench.leaderboard.reader import collect
from unbench.leaderboard.render import Renderer, renderer
from unbench.leaderboard.runpage import RunJob, run_json, run_page
from unbench.leaderboard.scores import Facts
from unbench.leaderboard.writer import DOCS, Checker, Writer, left_over
from unbench.method import MethodCard
from unbench.results.schema import Result

if TYPE_CHECKING:
    from unbench.metaeval.record import MetaEval

Pages = Mapping[tuple[str, ...], str]
"""Name of each run's page by its key."""

__all__ = ["Site", "build_site", "check_site", "collect"]


@dataclass(frozen=True)
class Site:
    """All that a site is made from."""

    runs: Sequence[Result | Entry]
    cards: Mapping[str, MethodCard | Facts] | None = None
    """Cards of methods by qualified name; without them only what submissions say is known, and UnBench's controls."""
    tasks: Mapping[str, TaskFacts] | None = None
    """Facts of tasks by name."""
    metaeval: MetaEval | None = None
    """The meta-evaluation that the page of metrics shows."""
    home: Path | None = None
    """The leaderboard's folder, where references lie; rows of submissions are read against them."""


def build_site(runs: Sequence[Result | Entry] | Site, out: Path, *,
               cards: Mapping[str, MethodCard | Facts] | None = None) -> Path:  # fmt: skip
    """Write the site into ``out``; returns the path of its first page.

    The same runs give the same bytes, in whatever order they come. Raises ``EnvironmentProblem`` where the folder can't
    be written; what lay there before is then still whole.
    """
    site = runs if isinstance(runs, Site) else Site(runs, cards)
    writer = Writer(out)
    try:
        writer.begin()
        made, _ = _put_all(site, writer)
        writer.finish(made)
    except OSError as problem:
        raise EnvironmentProblem(
            f"The leaderboard can't be written to {str(out)!r}: {problem.strerror or problem}.",
            "Name another folder, or make room in this one.",
        ) from problem
    finally:
        writer.end()
    return out / "index.html"


def check_site(site: Site, out: Path) -> list[str]:
    """Files in ``out`` that differ from what ``build_site`` would write, are missing, or are no longer made."""
    made, differing = _put_all(site, Checker(out))
    if (out / DOCS).is_file():  # the documentation itself may stand there
        differing = [name for name in differing if name != DOCS]
    return sorted([*differing, *left_over(out, set(made))])


def _put_all(site: Site, sink: Writer | Checker) -> tuple[list[str], list[str]]:
    """Hand every file to ``sink``; the names of all files, and of those that the sink objects to."""
    entries = latest_entries(as_entries(site.runs))
    reported = [entry for entry in entries if entry.result.split == "report"]
    spread = spread_over(len(reported))
    facts = method_facts(entries, site.cards or {})
    pages = names.run_pages(entry_key(entry) for entry in reported)
    boards = view.make_boards(entries, facts, pages, spread)
    jobs = _run_jobs(site, reported, boards, facts, pages)
    made: list[str] = []
    objected: list[str] = []
    for done in spread(partial(_put_run, sink), jobs):
        made += done[0]
        objected += done[1]
    for name, text in _other_pages(site, entries, boards, facts, pages, jobs, spread).items():
        made.append(name)
        problem = sink.put(name, text)
        objected += [problem] if problem else []
    return made, objected


def _put_run(sink: Writer | Checker, job: RunJob) -> tuple[list[str], list[str]]:
    texts = {f"runs/{job.name}.html": run_page(job), f"runs/{job.name}.json": run_json(job.entry.result)}
    problems = [sink.put(name, text) for name, text in texts.items()]
    return list(texts), [problem for problem in problems if problem]


def _run_jobs(site: Site, entries: Sequence[Entry], boards: Sequence[view.Board], facts: Mapping[str, Facts],
              pages: Pages) -> list[RunJob]:  # fmt: skip
    places = {entry_key(row.entry): (row, board) for board in boards for row in board.rows}
    on_board = {(board.task, board.task_hash, board.model): (board.id, board.page) for board in boards}
    jobs = []
    for entry in entries:
        key = entry_key(entry)
        row, _ = places.get(key, (None, None))
        heir = pages.get((*key[:-1], entry.superseded_by)) if entry.superseded_by else None
        board = on_board.get((key[0], key[1], key[2]))
        jobs.append(RunJob(entry, pages[key], facts.get(entry.result.method), row, board, heir, site.home))
    return jobs


def _other_pages(site: Site, entries: Sequence[Entry], boards: Sequence[view.Board], facts: Mapping[str, Facts],
                 pages: Pages, jobs: Sequence[RunJob], spread: Spread) -> dict[str, str]:  # fmt: skip
    on_boards = [row.entry for board in boards for row in board.rows]
    bibtex = export.as_bibtex(boards, facts)
    texts = {
        "results.json": export.as_json(boards),
        "results.csv": export.as_csv(boards),
        "cite.bib": bibtex,
        "feed.xml": feed.as_atom(on_boards, pages),
        **pieces.schemas(),
    }
    page = renderer()
    for board in boards:
        texts[board.page] = page.page("board.html.j2", board.page, board=board, rings=matrix.ring_matrix(board),
                                      attacks=matrix.attack_matrix(board))  # fmt: skip
    texts |= pieces.method_pages(jobs, boards, facts)
    texts |= pieces.task_pages(entries, boards, site.tasks or {})
    texts["metrics.html"] = pieces.metrics_page(site.metaeval)
    texts["about.html"] = page.page("about.html.j2", "about.html", legend=view.legend(), badges=view.BADGES)
    texts["submit.html"] = page.page("submit.html.j2", "submit.html", example=pieces.example_method())
    texts["cite.html"] = page.page("cite.html.j2", "cite.html", bibtex=bibtex, own=export.UNBENCH_BIBTEX)
    texts[DOCS] = page.page("docs.html.j2", DOCS)
    texts["index.html"] = _index(page, entries, boards, jobs, spread)
    return texts


def _index(page: Renderer, entries: Sequence[Entry], boards: Sequence[view.Board], jobs: Sequence[RunJob],
           spread: Spread) -> str:  # fmt: skip
    rows = [row for board in boards for row in board.rows]
    values: dict[str, Any] = {
        "boards": boards,
        "repeated": Counter(board.task + board.model for board in boards),
        "plots": {board.id: drawn for board, drawn in zip(boards, spread(figures.board_figures, boards), strict=True)},
        "columns": view.columns(),
        "legend": view.legend(),
        "models": list(dict.fromkeys(board.model for board in boards)),
        "tasks": sorted({board.task for board in boards}),
        "trains": sorted({row.train for row in rows if row.train}),
        "kinds": sorted({row.kind for row in rows if row.kind}),
        "withdrawn": pieces.withdrawn(jobs),
        "unreported": sum(entry.result.split != "report" for entry in entries),
    }
    return page.page("index.html.j2", "index.html", **values)
