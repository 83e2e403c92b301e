"""``unbench show`` and ``unbench compare``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from unbench.results.schema import Result
    from unbench.results.store import RunFolder

CURVE_ROWS = 16
"""Most rows of a curve's table; the file and --json hold all."""


@click.command()
@click.argument("run")
@click.option("--anti-samples", is_flag=True, help="Print what UnSTAR wrote, fact by fact.")
@click.option("--probes", is_flag=True, help="Print the probes: question, answers, knowledge before and after.")
@click.option("--attacks", is_flag=True, help="Print what attacks got back, and draw it to a file.")
@click.option("--curve", is_flag=True, help="Print the learning curve, and draw it to a file.")
@click.option("--plot", type=click.Path(path_type=Path),
              help="Where to draw it, .png or .svg.  [default: the run's curve.svg, attacks.svg]")  # fmt: skip
@click.option("--ring", type=click.Choice(["forget", "near", "far", "world"]), help="Print the probes of this ring.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def show(
    run: str, anti_samples: bool, probes: bool, attacks: bool, curve: bool, plot: Path | None, ring: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Show the result of a RUN (a folder, its result.json, or the start of its run-id)."""
    from unbench.cli.output import print_json, print_result
    from unbench.results.store import find_run, read_result

    folder = find_run(run)
    if anti_samples:
        _show_anti_samples(folder.path, as_json)
        return
    if attacks:
        _show_attacks(folder, plot, as_json)
        return
    if curve or plot:
        _show_curve(folder, plot, as_json)
        return
    result = read_result(folder)
    if probes or ring:
        _show_probes(result, ring, as_json)
        return
    if as_json:
        print_json(result.summary())
        return
    print_result(result)


def _show_anti_samples(folder: Path, as_json: bool) -> None:
    from unbench.cli.output import console, plain, print_json
    from unbench.errors import UsageError
    from unbench.unstar.records import read, render

    files = sorted([*folder.glob("seed-*/work/anti_samples.jsonl"), *folder.glob("anti_samples.jsonl.gz")])
    if not files:
        raise UsageError(f"{folder} has no anti-samples.", "Only runs of unstar write them.")
    # A submission holds those of its first seed, packed.
    records = {file.parent.parent.name if file.suffix == ".jsonl" else "first seed": read(file) for file in files}
    if as_json:
        body = {seed: [record.model_dump(mode="json") for record in found] for seed, found in records.items()}
        print_json({"schema": "unbench.anti_samples/1", **body})
        return
    for seed, found in records.items():
        console().rule(plain(seed), align="left")
        render(found, console())


def _show_attacks(folder: RunFolder, plot: Path | None, as_json: bool) -> None:
    from unbench.attacks.plot import plot as draw
    from unbench.cli.attack import print_attacks
    from unbench.cli.output import print_json
    from unbench.errors import UsageError
    from unbench.results.store import read_result

    result = read_result(folder)
    if not result.attacks:
        raise UsageError(f"No attack was tried on the run {folder.path}.", f"Try: unbench attack {folder.path}.")
    if plot is None and not as_json and not folder.submitted:
        plot = folder.path / "attacks.svg"
    drawn = None if plot is None else draw(result, plot)
    if as_json:
        body = result.model_dump(mode="json", include={"attacks", "worst"})
        print_json({"schema": "unbench.attacks_of/1", "run_id": result.run_id, **body,
                    "plot": None if drawn is None else str(drawn)})  # fmt: skip
        return
    print_attacks(result)
    if drawn is not None:
        click.echo(f"plot: {drawn}")


def _show_curve(folder: RunFolder, plot: Path | None, as_json: bool) -> None:
    from unbench.cli.output import console, plain, print_json
    from unbench.curve import columns, read_curves
    from unbench.curve import plot as draw
    from unbench.results.store import read_record

    curves = read_curves(folder)
    plan = read_record(folder.plan_file) or {}
    title = f"{plan.get('method')} on {plan.get('task')}, model {plan.get('model')}"
    # With --json stdout is data alone: a file is drawn where one was named.
    drawn = draw(curves, title, plot or folder.path / "curve.svg") if plot or not as_json else None
    if as_json:
        print_json({"schema": "unbench.curve/1", "seeds": {str(seed): rows for seed, rows in curves.items()},
                    "plot": None if drawn is None else str(drawn)})  # fmt: skip
        return
    from rich.table import Table

    names = columns(curves)
    for seed, rows in curves.items():
        table = Table(title=f"Learning curve, seed {seed} ({len(rows)} steps logged)", title_justify="left")
        for name in names:
            table.add_column(name, justify="right")
        shown = min(len(rows), CURVE_ROWS)
        for place in range(shown):
            # Evenly spaced, first and last among them.
            row = rows[place * (len(rows) - 1) // max(1, shown - 1)]
            table.add_row(*(plain(_curve_cell(name, row.get(name))) for name in names))
        console().print(table)
    click.echo(f"plot: {drawn}")


def _curve_cell(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if name in ("training", "step", "total_step") else f"{value:.4g}"


def _show_probes(result: Result, ring: str | None, as_json: bool) -> None:
    from unbench.cli.output import console, has_published, number, plain, print_json

    frame = result.probes
    if ring:
        frame = frame[frame["ring"] == ring]
    if as_json:
        rows = [{key: _json_cell(cell) for key, cell in row.items()} for row in frame.to_dict("records")]
        print_json({"schema": "unbench.probes/1", "run_id": result.run_id, "seeds": result.seeds, "rows": rows})
        return
    from rich.table import Table

    first, several = result.seeds[0], len(result.seeds) > 1
    known = [f"known_seed_{seed}" for seed in result.seeds]
    means = frame[known].mean(axis=1)
    table = Table(title=f"Probes, seeds {', '.join(map(str, result.seeds))}", title_justify="left")
    known_by = "p(a|q)" if has_published(result) else "κ"
    after = (f"after, seed {first}", f"{known_by} after, mean", *(f"{known_by} seed {seed}" for seed in result.seeds))
    for name in (
        "ring",
        "kind",
        "question",
        "before",
        known_by,
        *(after if several else ("after", f"{known_by} after")),
    ):
        table.add_column(name, overflow="fold")
    for row, mean in zip(frame.to_dict("records"), means, strict=True):
        cells = [row["ring"], row["kind"], row["question"], row["text_target"], number(row["known_target"]),
                 row[f"text_seed_{first}"], number(mean)]  # fmt: skip
        if several:
            cells += [number(row[name]) for name in known]
        table.add_row(*(plain(cell) for cell in cells))
    console().print(table)


def _json_cell(cell: object) -> object:
    """What JSON can hold of a cell; null for a number that isn't one."""
    if cell is None or isinstance(cell, bool | int | str):
        return cell
    if isinstance(cell, float):
        return float(cell) if math.isfinite(cell) else None
    return str(cell)


@click.command()
@click.argument("runs", nargs=-1, required=True)
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Write forget against specificity to a .png or .svg file."
)
@click.option("--matched", is_flag=True, help="Mix each model with the target until both keep as much, then compare.")
@click.option("--paired", is_flag=True, help="The first run's scores less each other's, probe by probe.")
@click.option("--kept", type=float, help="With --matched: share of the target's retain to keep.  [default: 0.95]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.pass_obj
def compare(
    obj: dict[str, Any], runs: tuple[str, ...], plot: Path | None, matched: bool, paired: bool, kept: float | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Compare RUNS (folders, run-ids, or folders that hold runs) side by side.

    With --matched, weights between the target's and the unlearned model's are looked for at which retain is 0.95 of the
    target's: who forgets more where all keep as much? With --paired, the first run is held against each other one on
    the same probes: a difference whose interval leaves out 0 is significant. The runs' folders must still hold their
    seeds.
    """
    from unbench.cli.output import console, plain, print_json, score_text
    from unbench.compare import plot as draw
    from unbench.errors import UsageError
    from unbench.leaderboard.site import collect
    from unbench.results.store import find_run, read_result

    results = []
    for name in runs:
        path = Path(name)
        if path.is_dir() and not (path / "plan.json").is_file():
            found = collect(path)
            if not found:
                raise UsageError(f"There is no finished run below {name!r}.", "Name run folders or run-ids.")
            results += found
        else:
            results.append(read_result(find_run(name)))
    if matched or kept is not None:
        _compare_matched(results, kept, obj["quiet"], as_json)
        return
    if paired:
        _compare_paired(results, obj["quiet"], as_json)
        return
    if plot is not None:
        draw(results, plot)
    if as_json:
        print_json({"schema": "unbench.compare/1", "runs": [result.summary() for result in results]})
        return
    from rich.table import Table

    table = Table(title="Runs", title_justify="left")
    names = list(type(results[0].scores).model_fields)
    for column in ("run", "method", "task", "model", *names, "unlearn s"):
        table.add_column(column, no_wrap=column in ("run", "method"))
    for result in results:
        scores = (score_text(getattr(result.scores, name)) for name in names)
        # Built-in methods are known by their bare names; 'unbench:' on every row would only cost width.
        name, task = result.method.removeprefix("unbench:"), f"{result.task} ({result.split})"
        cells = (result.run_id, name, task, result.model, *scores,
                 f"{result.compute.unlearn_s / len(result.seeds):.1f}")  # fmt: skip
        table.add_row(*(plain(cell) for cell in cells))
    console().print(table)
    if plot is not None:
        click.echo(f"plot: {plot}")


def _compare_matched(results: list[Result], kept: float | None, quiet: bool, as_json: bool) -> None:
    from unbench.cli.listing import table
    from unbench.cli.output import print_json, score_text
    from unbench.cli.progress import progress_bars
    from unbench.cli.run import quiet_libraries
    from unbench.results.store import RunFolder

    quiet_libraries()
    from unbench.matched import KEPT, matched

    share = KEPT if kept is None else kept
    with progress_bars(quiet) as progress:
        found = [matched(RunFolder(Path(result.dir)), share, progress) for result in results]
    if as_json:
        body = [one.model_dump(mode="json") for one in found]
        print_json({"schema": "unbench.matched/1", "kept": share, "runs": body})
        return
    rows = []
    for one, result in zip(found, results, strict=True):
        mixed = ", ".join(f"{value:.2f}" for value in one.mixed.values()) or "–"
        rows.append((one.run_id, one.method.removeprefix("unbench:"), one.task, score_text(result.scores.forget),
                     score_text(result.scores.retain), mixed, score_text(one.retain), score_text(one.forget),
                     one.reason or ""))  # fmt: skip
    columns = ("run", "method", "task", "forget", "retain", "λ", "retain at λ", "forget at λ", "note")
    table(f"Runs at matched utility: retain of {share:g} (λ 1 is the unlearned model, 0 the target)", columns, rows)


def _compare_paired(results: list[Result], quiet: bool, as_json: bool) -> None:
    from unbench.cli.listing import table
    from unbench.cli.output import print_json, score_text
    from unbench.cli.progress import progress_bars
    from unbench.cli.run import quiet_libraries
    from unbench.errors import UsageError
    from unbench.results.store import RunFolder

    if len(results) < 2:
        raise UsageError("--paired wants two runs or more.", "Name them: unbench compare A B --paired.")
    quiet_libraries()
    from unbench.paired import paired

    first = results[0]
    with progress_bars(quiet) as progress:
        found = [(other, paired(RunFolder(Path(first.dir)), RunFolder(Path(other.dir)), progress))
                 for other in results[1:]]  # fmt: skip
    if as_json:
        body = [{"run_id": other.run_id, "differences": {name: score.model_dump() for name, score in scores.items()}}
                for other, scores in found]  # fmt: skip
        print_json({"schema": "unbench.paired/1", "run_id": first.run_id, "others": body})
        return
    rows = []
    for other, scores in found:
        for name, score in scores.items():
            sure = score.low is not None and score.high is not None and not score.low <= 0 <= score.high
            said = score.reason or ("" if score.low is None else "significant" if sure else "not significant")
            rows.append((other.method.removeprefix("unbench:"), other.run_id, name, score_text(score), said))
    title = f"{first.method.removeprefix('unbench:')} ({first.run_id}) less"
    table(title, ("method", "run", "score", "difference", ""), rows)
