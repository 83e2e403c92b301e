"""``unbench metaeval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unbench.errors import UsageError

if TYPE_CHECKING:
    from unbench.metaeval.record import MetaEval
    from unbench.metaeval.settings import Settings

SMALL: dict[str, Any] = {"pool": 5, "facts": 6, "checkpoints": (8,), "methods": ("gradient_ascent",), "seeds": (0,)}
"""A look at how it goes; its intervals say little."""


@click.command()
@click.option("--out", default="metaeval", show_default=True, type=click.Path(path_type=Path), help="Folder.")
@click.option("--pool", metavar="N", help="Models in each of the two pools, or small: a quick look.  [default: 30]")
@click.option("--methods", "-m", help="Methods that make the unlearned models, with commas, or none.")
@click.option("--seeds", type=click.IntRange(1), help="Seeds of each method: 0 … N-1.  [default: 2]")
@click.option("--limit", type=click.IntRange(1), help="Ask for so many of the forgotten facts: a quick look.")
@click.option("--jobs", "-j", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--show", is_flag=True, help="Print what lies in the folder; make nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.pass_obj
def metaeval(obj: dict[str, Any], out: Path, pool: str | None, methods: str | None, seeds: int | None,
             limit: int | None, jobs: int, show: bool, as_json: bool) -> None:  # fmt: skip
    """Which metrics to believe: do they tell models that know from models that do not, and do they stay true under
    relearning and quantisation?

    Two pools of nano models are made, one that knows the forgotten facts of bios/fact and one that does not, and
    unlearned models to attack. Killed and started again, it goes on. The page is index.html in the folder.

    \b
    unbench metaeval --jobs 2
    unbench metaeval --show
    unbench metaeval --pool small --out /tmp/look
    """
    from unbench.metaeval import record

    if show:
        found = record.read(out)
        if found is None:
            raise UsageError(f"{out} holds no meta-evaluation.", f"Make one: unbench metaeval --out {out}.")
    else:
        found = _make(out, _settings(pool, methods, seeds, limit), jobs, obj["quiet"])
    if as_json:
        from unbench.cli.output import print_json

        print_json(found.model_dump(mode="json", by_alias=True))
    else:
        print_metaeval(found)
        if (out / "index.html").is_file():
            click.echo(f"page: {out / 'index.html'}", err=True)


def _make(out: Path, settings: Settings, jobs: int, quiet: bool) -> MetaEval:
    from unbench.cli.progress import progress_bars
    from unbench.cli.run import quiet_libraries

    quiet_libraries()
    from unbench.metaeval.run import metaeval as carry_out
    from unbench.stdout import to_stderr

    with progress_bars(quiet) as progress, to_stderr():
        return carry_out(out, settings, jobs=jobs, progress=progress)


def _settings(pool: str | None, methods: str | None, seeds: int | None, limit: int | None) -> Settings:
    from pydantic import ValidationError

    from unbench.metaeval.settings import Settings
    from unbench.plan import first_error
    from unbench.plugins import methods as registered

    given: dict[str, Any] = dict(SMALL) if pool == "small" else {}
    if pool is not None and pool != "small":
        if not pool.isdecimal() or not pool.isascii():
            raise UsageError(f"--pool is {pool!r}.", "Give a number of models (--pool 30) or small.")
        given["pool"] = int(pool)
    if methods is not None:
        registry = registered()
        asked = [] if methods.strip() == "none" else [name.strip() for name in methods.split(",") if name.strip()]
        given["methods"] = tuple(registry.shortest(registry.find(name)) for name in dict.fromkeys(asked))
    if seeds is not None:
        given["seeds"] = tuple(range(seeds))
    if limit is not None:
        given["facts"] = limit
    try:
        return Settings.model_validate(given)
    except ValidationError as problem:
        raise UsageError(f"--{first_error(problem)}", "'unbench metaeval --help' says more.") from problem


def print_metaeval(found: MetaEval) -> None:
    """Every metric with its intervals, the gate and the orderings."""
    from rich.table import Table

    from unbench.cli.output import console, number, plain, score_text

    counts = [sum(one.side == side and one.reason is None for one in found.pools) for side in ("knows", "does_not")]
    title = f"Metrics on {found.task}, {found.model}: {counts[0]} models that know, {counts[1]} that do not"
    table = Table(title=title, title_justify="left")
    for name in ("metric", "F", "gate", "R", "Q", "overall", "symmetric", "models"):
        table.add_column(name, no_wrap=name == "metric")
    for one in found.measures:
        cells = (one.name, score_text(one.faithfulness), "yes" if one.passes else "NO",
                 score_text(one.relearning), score_text(one.quantisation), score_text(one.overall),
                 score_text(one.overall_symmetric), len(one.models))  # fmt: skip
        table.add_row(*(plain(cell) for cell in cells))
    console().print(table)
    passed = [f"{score} {'passes' if own else 'FAILS'}" for score, own in found.gate.scores.items()]
    click.echo(f"gate (F ends at {found.gate.floor:g} or above): {', '.join(passed)}")
    for kind in ("holds", "fails", "not told apart", "no value"):
        own = [one for one in found.orderings if one.verdict == kind]
        if own:
            listed = "; ".join(f"{o.higher} > {o.lower} ({number(o.difference.value)})" for o in own)
            click.echo(f"published ordering {kind}: {listed}")
