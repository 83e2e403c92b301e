"""``unbench prepare``: fine-tune the target and the references of a task from a base model."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unbench.cli.run import F, data_option, names, quiet_libraries

if TYPE_CHECKING:
    from unbench.models.pairs import Found, Pair
    from unbench.task import Task


def recipe_options(function: F) -> F:
    """Options of how a part is trained; their names are those of ``makepair.prepare_pair``."""
    options = [
        click.option("--train", type=click.Choice(["full", "lora"]), default="full", show_default=True,
                     help="What is trained; a LoRA adapter is merged in the end."),
        click.option("--rank", type=click.IntRange(1), help="LoRA rank.  [default: 8]"),
        click.option("--lora-alpha", type=click.IntRange(1), help="LoRA alpha.  [default: 16]"),
        click.option("--lora-targets", help="Modules that LoRA adapts, with commas.  [default: q_proj,v_proj]"),
        click.option("--seeds", "references", type=click.IntRange(1), default=1, show_default=True,
                     help="References, of the seeds 1 … N."),
        click.option("--retrain", is_flag=True, help="One further reference, for the retrain control."),
        click.option("--epochs", type=click.IntRange(1), help="Most epochs.  [default: 5]"),
        click.option("--lr", type=click.FloatRange(0, min_open=True),
                     help="Peak learning rate.  [default: 1e-5 from 1 B parameters on, 5e-5 below, 2e-4 with LoRA]"),
        click.option("--global-batch", type=click.IntRange(1), help="Rows an optimiser step.  [default: 32]"),
        click.option("--until", type=click.FloatRange(0, 1, min_open=True),
                     help="Stop after the epoch in which mean p(a|q) of the training rows gets there.  [default: 0.9]"),
        click.option("--device", default="auto", show_default=True, envvar="UNBENCH_DEVICE", show_envvar=True,
                     help="auto, cpu, cuda, cuda:1 …"),
        click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto",
                     show_default=True,
                     help="Number format of the weights; auto: bfloat16 on CUDA from 1 B parameters on, else float32."),
        click.option("--batch-size", type=click.IntRange(1), help="Sequences a forward pass may hold at once."),
        click.option("--force", is_flag=True, help="Train again what is there already."),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


@click.command()
@click.argument("task")
@click.option("--model", help="Base model: a built-in name, a hub id or a folder.  [default: the task's own]")
@click.option("--revision", help="Revision of a hub model.")
@data_option
@click.option(
    "--split", type=click.Choice(["report", "select"]), default="report", show_default=True, help="Forget set."
)
@recipe_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.pass_obj
def prepare(
    obj: dict[str, Any],
    /,
    task: str,
    model: str | None,
    data_dir: Path | None,
    split: str,
    lora_targets: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Fine-tune the target and the references of TASK from a base model, into the cache.

    \b
    The target learns the forget, retain and withheld rows, a reference all but the forget rows.
    What is finished is kept: a command that was stopped goes on when it is given again.
    unbench prepare tofu/forget10 --model smollm2
    unbench prepare tofu/forget10 --model owner/name --train lora --seeds 3 --retrain
    """
    from unbench.models.pairs import shipped
    from unbench.plan import data_folder
    from unbench.plugins import open_task

    problem = open_task(task, split, data_folder(task, data_dir))  # type: ignore[arg-type]
    if shipped(problem, model or problem.default_model):
        _say_shipped(problem, as_json)
        return
    quiet_libraries()
    from unbench.cli.progress import progress_bars
    from unbench.models.makepair import prepare_pair

    with progress_bars(obj["quiet"]) as progress:
        pair = prepare_pair(problem, model, lora_targets=names(lora_targets) or None, progress=progress, **options)
    _print_pair(pair, problem, model or problem.default_model, options["revision"], as_json)


def _say_shipped(task: Task, as_json: bool) -> None:
    from unbench.cli.output import print_json

    following = run_command(task, None, None)
    if as_json:
        print_json({"schema": "unbench.prepare/1", "task": task.id, "model": "nano", "shipped": True, "parts": [],
                    "next": following})  # fmt: skip
        return
    click.echo(f"The target and references of {task.id} on nano ship with UnBench: there is nothing to prepare.")
    click.echo(f"next: {following}")


def _print_pair(pair: Pair, task: Task, model: str, revision: str | None, as_json: bool) -> None:
    from unbench.cli.output import clean, print_json

    following = _next_command(pair, task, model, revision)
    if any(found.part.reached < found.part.recipe.until for found in pair.parts()):
        click.echo("Not all of it was learnt: more --epochs or a higher --lr may help.", err=True)
    if as_json:
        parts = [{**found.part.note(), "name": found.part.name, "dir": str(found.path)} for found in pair.parts()]
        print_json({"schema": "unbench.prepare/1", "task": task.id, "model": model, "shipped": False, "parts": parts,
                    "next": following})  # fmt: skip
        return
    for found in pair.parts():
        click.echo(clean(_line(found)))
    click.echo(clean(f"next: {following}"))


def _line(found: Found) -> str:
    part = found.part
    return (
        f"{part.name}: mean p(a|q) {part.reached:.3f} (asked for {part.recipe.until:g}) after {part.epochs} epochs of "
        f"{part.rows} rows, {part.seconds:.0f} s: {found.path}"
    )


def _next_command(pair: Pair, task: Task, model: str, revision: str | None) -> str:
    """The run of what was just made. --model stands for the pair of the default recipe where there is one: another pair
    beside that is named part by part."""
    from unbench.models.choose import locate
    from unbench.models.pairs import find_pair

    name, digest, _ = locate(model)
    taken = find_pair(task, name, digest, revision)
    if taken is None or taken.target.path == pair.target.path:
        return run_command(task, model, revision)
    named = ["--target", str(pair.target.path)]
    for reference in pair.references:
        named += ["--reference", str(reference.path)]
    return run_command(task, None, None, *named)


def run_command(task: Task, model: str | None, revision: str | None, *more: str) -> str:
    """The command that runs a method on what was prepared."""
    words = ["unbench", "run", "--task", str(task.path or task.id)]
    words += ["--model", model] if model else []
    words += ["--revision", revision] if revision else []
    words += ["--split", task.split] if task.split != "report" else []
    words += ["--data-dir", str(task.data_dir)] if task.data_dir else []
    return shlex.join([*words, *more])
