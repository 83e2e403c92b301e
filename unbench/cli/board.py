"""``unbench leaderboard``."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def leaderboard() -> None:
    """Build the static leaderboard from run folders."""


@leaderboard.command()
@click.argument("runs", type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--out", type=click.Path(path_type=Path), default=Path("leaderboard/site"), show_default=True,
              help="Folder of the page.")  # fmt: skip
def build(runs: Path, out: Path) -> None:
    """Turn the finished runs below RUNS (default: runs) into one static page."""
    from unbench.errors import UsageError
    from unbench.leaderboard.site import build_site, collect
    from unbench.plugins import method_cards

    if not runs.is_dir():
        raise UsageError(f"There is no folder {str(runs)!r}.", "Make a run first: unbench run --method unstar.")
    results = collect(runs)
    click.echo(build_site(results, out, cards=method_cards({one.method: one.dir for one in results})))
