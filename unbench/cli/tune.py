"""``unbench tune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unbench.cli.pluginfile import method_names, plugin_option
from unbench.cli.run import data_option, dtype_option
from unbench.errors import RunFailed

if TYPE_CHECKING:
    from unbench.tuned import Tuned

SCORES = ("forget", "trace", "retain", "specificity", "overall")


@click.command()
@click.argument("method", shell_complete=method_names)
@click.option("--task", "-t", default="bios/fact", show_default=True, help="Task; 'unbench tasks' lists them.")
@click.option("--trials", "-n", type=click.IntRange(1), default=12, show_default=True, help="Trials in all.")
@click.option("--model", help="nano, smollm2, a hub id or a folder.  [default: the task's own]")
@click.option("--budget-tokens", type=click.IntRange(1),
              help="Most tokens a trial may train on and generate.  [default: bios 200000, others any]")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the search and the runs.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting held fixed; repeatable.")
@click.option("--search", multiple=True, metavar="KEY=[A,B…]", help="Choices of a setting, in place of those that the "
              "method declares; repeatable.")  # fmt: skip
@click.option(
    "--train", type=click.Choice(["full", "lora"]), help="What is trained.  [default: nano full, others lora]"
)
@click.option("--split", default="select", help="Forget set: select, and no other.")
@plugin_option
@data_option
@click.option("--device", default="auto", show_default=True, envvar="UNBENCH_DEVICE", show_envvar=True,
              help="auto, cpu, cuda, cuda:1 …")  # fmt: skip
@dtype_option
@click.option("--jobs", "-j", type=click.IntRange(1), default=1, show_default=True, help="Trials at the same time.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("tuning"), show_default=True,
              help="Folder of all tuning.")  # fmt: skip
@click.option("--storage", type=click.Path(path_type=Path), help="Optuna's SQLite file.  [default: study.db in the "
              "search's folder]")  # fmt: skip
@click.option("--write", type=click.Path(path_type=Path), metavar="DIR", help="Put the record into DIR too, under the "
              "names of task and method.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.pass_obj
def tune(
    obj: dict[str, Any],
    method: str,
    task: str,
    trials: int,
    model: str | None,
    budget_tokens: int | None,
    seed: int,
    settings: tuple[str, ...],
    search: tuple[str, ...],
    train: str | None,
    split: str,
    plugins: tuple[str, ...],
    data_dir: Path | None,
    device: str,
    dtype: str,
    jobs: int,
    out: Path,
    storage: Path | None,
    write: Path | None,
    as_json: bool,
) -> None:
    """Search a METHOD's settings on the select forget set.

    Trial 0 is the method's present defaults; each trial is one run within the same budget of tokens. The best overall
    wins, a tie goes to fewer tokens. All trials are kept; killed and started again, the search goes on.

    \b
    unbench tune npo --task bios/fact --trials 12
    unbench tune npo --model smollm2 --task facts/all --search lr=[3e-4,1e-3] --set beta=0.1
    unbench run --config tuning/bios/fact/npo/…/tuned.json
    """
    from unbench.cli.jobs import watching
    from unbench.cli.output import print_json
    from unbench.plan import parse_settings
    from unbench.tune import Study
    from unbench.tune import tune as carry_out
    from unbench.tuned import read_tuned

    study = Study(
        method, task, model, settings=parse_settings(settings), search=parse_settings(search, "--search"),
        budget_tokens=budget_tokens, seed=seed, split=split,
        train=train, device=device, dtype=dtype, data_dir=data_dir, plugins=plugins,
    )  # fmt: skip
    file = out / study.folder_name / "tuned.json"
    before = len(read_tuned(file).trials) if file.is_file() else 0
    with watching(f"tune {study.base.method_name}", trials, before, obj["quiet"], _words) as watch:
        record = carry_out(study, trials, out, jobs=jobs, storage=storage, watch=watch)
    body = record.model_dump(mode="json", by_alias=True)
    if write is not None:
        from unbench.results.store import write_json, writing_to

        with writing_to(write):
            write_json(write / record.file_name, body)
    if as_json:
        print_json(body)
    else:
        _print(record, file)
    if record.best is None:
        raise RunFailed(f"All {len(record.trials)} trials failed ({file} says why).", "Mend what is wrong.")


def _words(outcome: Any) -> str:
    from unbench.cli.sweep import outcome_words

    return outcome_words(outcome)


def _print(record: Tuned, file: Path) -> None:
    from unbench.cli.listing import table
    from unbench.cli.output import clean, number

    rows = []
    for trial in record.trials:
        mark = "best" if trial.trial == record.best else trial.state
        words = ", ".join(f"{key}={value}" for key, value in trial.settings.items())
        tokens = "–" if trial.tokens is None else f"{trial.tokens:,}"
        scores = [number(trial.scores.get(name)) for name in SCORES]
        rows.append((str(trial.trial), mark, *scores, tokens, number(trial.seconds, 1), trial.error or words))
    budget = "no budget" if record.budget_tokens is None else f"{record.budget_tokens:,} tokens a trial"
    title = f"{record.method} on {record.task} (select), model {record.model}, {budget}, best by {record.objective}"
    table(title, ("trial", "state", *SCORES, "tokens", "s", "settings"), rows)
    click.echo(clean(f"tuned: {file}"))
