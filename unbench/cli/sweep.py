"""``unbench sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unbench.cli.pluginfile import plugin_option
from unbench.cli.run import data_option, refresh_page
from unbench.errors import RunFailed, UsageError

if TYPE_CHECKING:
    from unbench.sweep.job import Outcome
    from unbench.sweep.record import SweepRecord, SweepRun

SCORES = ("forget", "trace", "retain", "specificity", "overall")
WORST = ("forget_worst", "overall_worst")


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--methods", "-m", help="Methods with commas, or all.")
@click.option("--tasks", "-t", help="Tasks with commas.  [default: bios/fact]")
@click.option("--models", help="Models with commas.  [default: each task's own]")
@click.option("--seeds", help="A number N for the seeds 0 … N-1, or seeds with commas: 0,4.  [default: 1]")
@click.option("--train", help="full, lora, or both with a comma.  [default: nano full, others lora]")
@click.option("--split", type=click.Choice(["report", "select"]), help="Forget set.  [default: report]")
@plugin_option
@click.option("--attacks", help="Attacks on what the methods hand back: names with commas, all or default.")
@click.option("--budget-tokens", type=click.IntRange(1), help="Most tokens a method may train on and generate.")
@data_option
@click.option("--limit", type=click.IntRange(1), help="At most so many probes of each kind: a quick look.")
@click.option("--device", envvar="UNBENCH_DEVICE", show_envvar=True, help="auto, cpu, cuda …  [default: auto]")
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), help="Number format.")
@click.option("--batch-size", type=click.IntRange(1), help="Sequences a forward pass may hold at once.")
@click.option("--jobs", "-j", type=click.IntRange(1), default=1, show_default=True, help="Processes on this machine.")
@click.option(
    "--ray",
    metavar="[ADDRESS]",
    is_flag=False,
    flag_value="here",
    help="On a Ray cluster (auto: the one of this machine), or without ADDRESS on one of its own.",
)
@click.option("--cpus-per-run", type=click.FloatRange(0), help="With --ray.  [default: nano 1, others 4]")
@click.option(
    "--gpus-per-run",
    type=click.FloatRange(0),
    help="With --ray.  [default: nano 0, others 1 where the cluster has any]",
)
@click.option("--out", default="runs", show_default=True, envvar="UNBENCH_OUT", show_envvar=True,
              help="Folder of the runs, or an fsspec URL (s3://…, file://…).")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="List the runs with what is done, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.pass_obj
def sweep(obj: dict[str, Any], /, file: Path | None, jobs: int, ray: str | None, cpus_per_run: float | None,
          gpus_per_run: float | None, out: str, dry_run: bool, as_json: bool, **options: Any) -> None:  # fmt: skip
    """Run a grid: every method on every task with every model.

    FILE is YAML with the entries methods, tasks, models, seeds, train, split, settings (by method) …; an option takes
    the place of its entry. What is done is skipped, a run that fails is recorded and the rest goes on (exit code 4 at
    the end). Killed and started again, it continues.

    \b
    unbench sweep --methods all --tasks bios/fact,bios/relation,bios/person --seeds 3 --jobs 2
    unbench sweep sweep.yaml --jobs 4
    unbench sweep sweep.yaml --ray auto --out s3://bucket/runs
    """
    from unbench import sweep as sweeping
    from unbench.cli.jobs import watching
    from unbench.cli.output import print_json

    spec = _spec(file, options)
    _, before = sweeping.survey(spec, out)
    if dry_run:
        print_json(before.public()) if as_json else _print_plans(before)
        return
    pool = _pool(before, ray, cpus_per_run, gpus_per_run)
    with watching("sweep", len(before.runs), before.count("done"), obj["quiet"], outcome_words) as watch:
        record = sweeping.sweep(spec, out, jobs=jobs, watch=watch, pool=pool)
    if as_json:
        print_json(record.public())
    else:
        _print_summary(record)
    if "://" not in out:
        refresh_page(Path(out), as_json)
    _say_failures(record, out)


def _pool(record: SweepRecord, ray: str | None, cpus: float | None, gpus: float | None) -> Any:
    """Ray's, where it was asked for; None for processes of this machine."""
    if ray is None:
        if cpus is not None or gpus is not None:
            raise UsageError("--cpus-per-run and --gpus-per-run say what a run takes of a Ray cluster.", "Add --ray.")
        return None
    from unbench.sweep.raypool import RayPool

    only_nano = {run.model for run in record.runs} == {"nano"}
    cores = cpus if cpus is not None else (1 if only_nano else 4)
    return RayPool(ray, cpus=cores, gpus=0 if gpus is None and only_nano else gpus)


def _spec(file: Path | None, options: dict[str, Any]) -> Any:
    from unbench.sweep.spec import make_spec, narrowed, read_spec

    values = read_spec(file) if file else {}
    given = {key: value for key, value in options.items() if value not in (None, ())}
    if "data_dir" in given:
        given["data_dir"] = str(given["data_dir"])
    if "plugins" in given:
        given["plugins"] = list(given["plugins"])
    if "seeds" in given:
        given["seeds"] = _seeds(given["seeds"])
    if "methods" in given:
        values = narrowed(values, given["methods"])
    return make_spec(values | given)


def _seeds(text: str) -> int | list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as problem:
        raise UsageError(f"--seeds is {text!r}.", "Give a number (--seeds 3: 0, 1, 2) or seeds (--seeds 0,4).") from (
            problem
        )
    return numbers if "," in text else numbers[0]


def outcome_words(outcome: Outcome) -> str:
    """The scores of a run in one line."""
    from unbench.cli.output import number

    named = [f"{name} {number(outcome.scores[name].value)}" for name in (*SCORES, *WORST) if name in outcome.scores]
    return ", ".join(named)


def _print_plans(record: SweepRecord) -> None:
    from unbench.cli.listing import table

    columns = ("state", "task", "method", "model", "train", "seeds", "run", "error")
    table(
        f"{record.count('done')} of {len(record.runs)} runs are done",
        columns,
        [(run.state, run.task, run.method, run.model, run.train or "", _listed(run), run.run_id or "", run.error or "")
         for run in record.runs],
    )  # fmt: skip


def _print_summary(record: SweepRecord) -> None:
    from unbench.cli.listing import table
    from unbench.cli.output import score_text

    shown = SCORES + (WORST if any(name in run.scores for run in record.runs for name in WORST) else ())
    columns = ("task", "method", "model", "seeds", *shown, "tokens", "unlearn s", "state")
    rows = []
    for run in record.runs:
        cells = [score_text(run.scores[name]) if name in run.scores else "–" for name in shown]
        cost = run.compute
        # A run's costs are summed over its seeds.
        tokens = f"{(cost.tokens_trained + cost.tokens_generated) // len(run.seeds):,}" if cost else "–"
        seconds = f"{cost.unlearn_s / len(run.seeds):.1f}" if cost else "–"
        name = run.method.removeprefix("unbench:")
        rows.append((run.task, name, run.model, _listed(run), *cells, tokens, seconds, run.state))
    table("Sweep (tokens and seconds a seed)", columns, rows)


def _listed(run: SweepRun) -> str:
    return ",".join(str(seed) for seed in run.seeds)


def _say_failures(record: SweepRecord, out: str) -> None:
    failed = [run for run in record.runs if run.state == "failed"]
    if not failed:
        return
    from unbench.cli.output import clean

    for run in failed:
        click.echo(clean(f"failed: {run.task} {run.method} {run.model}: {run.error}"), err=True)
    raise RunFailed(
        f"{len(failed)} of {len(record.runs)} runs failed ({out}/sweep.json says why).",
        "Mend what is wrong and give the same command again: the others are kept.",
    )
