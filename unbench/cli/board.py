"""``unbench leaderboard``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from unbench.cli.submission import lock

if TYPE_CHECKING:
    from unbench.leaderboard.entries import Entry
    from unbench.leaderboard.site import Site
    from unbench.metaeval.record import MetaEval

SUBMISSIONS, RUNS = Path("leaderboard/submissions"), Path("runs")
out_option = click.option("--out", type=click.Path(path_type=Path), default=Path("leaderboard/site"),
                          show_default=True, help="Folder of the site.")  # fmt: skip


@click.group()
def leaderboard() -> None:
    """Build the static leaderboard from submissions or run folders, and look at it."""


leaderboard.add_command(lock)


@leaderboard.command()
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@out_option
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 and their names where files differ.")
@click.option("--validate/--no-validate", default=True, show_default=True,
              help="Compute every submission's numbers again from its answers, for its badge.")  # fmt: skip
@click.option("--metaeval", type=click.Path(path_type=Path), default=Path("results/metaeval"), show_default=True,
              help="Folder of the meta-evaluation; left out where there is none.")  # fmt: skip
def build(folder: Path | None, out: Path, check: bool, validate: bool, metaeval: Path) -> None:
    """Turn the submissions or finished runs below FOLDER into a static site.

    FOLDER is leaderboard/submissions where that exists, else runs. The same files give the same bytes.

    \b
    unbench leaderboard build
    unbench leaderboard build --check
    """
    from unbench.errors import UsageError
    from unbench.leaderboard.site import build_site, check_site

    if folder is None:
        folder = SUBMISSIONS if SUBMISSIONS.is_dir() else RUNS
    if not folder.is_dir():
        raise UsageError(f"There is no folder {str(folder)!r}.", "Make a run first: unbench run --method unstar.")
    site = _site(folder, validate, _metaeval(metaeval))
    if not check:
        click.echo(build_site(site, out))
        return
    differing = check_site(site, out)
    for name in differing:
        click.echo(str(out / name))
    if differing:
        click.echo(f"{len(differing)} files differ; 'unbench leaderboard build' writes them.", err=True)
        raise click.exceptions.Exit(1)


@leaderboard.command()
@out_option
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
def serve(out: Path, port: int) -> None:
    """Show the built site on this machine, under 127.0.0.1, until Ctrl-C."""
    from unbench.leaderboard.serve import server

    with server(out, port) as (running, address):
        click.echo(address)
        running.serve_forever()


def _site(folder: Path, validate: bool, metaeval: MetaEval | None) -> Site:
    from unbench.leaderboard.entries import read_entries
    from unbench.leaderboard.known import task_facts
    from unbench.leaderboard.site import Site
    from unbench.plugins import method_cards
    from unbench.submissions.files import leaderboard_of

    entries = read_entries(folder, consistent=_consistent(folder) if validate else frozenset())
    plain: list[Entry] = [entry for entry in entries if entry.submission is None]
    cards = method_cards({entry.result.method: str(entry.folder) for entry in plain})
    tasks = task_facts(entry.result.task for entry in entries)
    return Site(entries, cards, tasks, metaeval, leaderboard_of(folder))


def _consistent(folder: Path) -> frozenset[Path]:
    """Folders of the submissions whose rows give their numbers."""
    from unbench.leaderboard.parallel import side_by_side
    from unbench.submissions.check import consistent
    from unbench.submissions.read import find

    folders = find(folder)
    found = side_by_side(consistent, folders)
    return frozenset(one for one, good in zip(folders, found, strict=True) if good)


def _metaeval(folder: Path) -> MetaEval | None:
    from unbench.metaeval.record import read

    return read(folder)
