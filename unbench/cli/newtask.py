"""``unbench new-task`` and ``unbench check-task``: a task of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unbench.cli.listing import table
from unbench.cli.run import data_option
from unbench.errors import UnbenchError, UsageError

if TYPE_CHECKING:
    from unbench.task import Task


new_folder_option = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder to write it into.  [default: .]",
)


@click.command("new-task")
@click.argument("name")
@new_folder_option
def new_task(name: str, out: Path) -> None:
    """Write a task of your own to start from: a folder NAME with a commented task file that runs as it is."""
    import shlex

    from unbench.userdata.template import write_template

    path = write_template(name, out)
    click.echo(str(path))
    words = shlex.quote(str(path))
    click.echo(f"Check it: unbench check-task {words}", err=True)
    click.echo(f"Run it:   unbench run --task {words} --method gradient_ascent", err=True)


@click.command("check-task")
@click.argument("path")
@click.option("--split", type=click.Choice(["report", "select"]), default="report", show_default=True,
              help="Forget set to check.")  # fmt: skip
@data_option
@click.option("--model", help="Also ask this model what it knows of the task.")
@click.option("--device", default="auto", show_default=True, envvar="UNBENCH_DEVICE", help="auto, cpu, cuda, cuda:1 …")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.pass_obj
def check_task(
    obj: dict[str, Any],
    path: str,
    split: str,
    data_dir: Path | None,
    model: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Say what is wrong with a task file, with file and line; or what it holds and what can't be scored.

    \b
    unbench check-task my-task/task.yaml
    unbench check-task my-task/task.yaml --model smollm2
    """
    from unbench.cli.output import print_json
    from unbench.plan import data_folder
    from unbench.plugins import open_task
    from unbench.userdata.report import describe

    try:
        task = open_task(path, split, data_folder(path, data_dir))  # type: ignore[arg-type]
        _check_rules(task)
    except UnbenchError as problem:
        if as_json:
            print_json({"schema": "unbench.check-task/1", "ok": False, "error": str(problem)})
        raise
    body = describe(task)
    if model:
        body["known"] = _ask(obj["quiet"], task, model, device)
    if as_json:
        print_json(body)
        return
    _print(body)


def _check_rules(task: Task) -> None:
    """A registered task keeps to the rules of ``taskcheck``; a user's file has been read by rules of its own."""
    from unbench.taskcheck import check

    problems = [] if task.path else check(task)
    if problems:
        more = f" ({len(problems) - 1} more after this one.)" if len(problems) > 1 else ""
        raise UsageError(f"Task {task.id}: {problems[0]}{more}", "unbench.taskcheck.check(task) lists them all.")


def _ask(quiet: bool, task: Task, model: str, device: str) -> dict[str, Any]:
    from unbench.cli.progress import progress_bars
    from unbench.cli.run import quiet_libraries
    from unbench.userdata.report import known

    quiet_libraries()
    with progress_bars(quiet) as progress:
        return known(task, model, progress, device=device)


def _print(body: dict[str, Any]) -> None:
    from unbench.cli.output import console, plain

    say = console()
    say.print(plain(f"{body['task']}, version {body['version']} ({body['split']}): nothing is wrong with it."))
    rows = [(name, *(str(part[key]) for key in ("rows", "facts", "subjects"))) for name, part in body["sets"].items()]
    table("Rows", ("set", "rows", "facts", "subjects"), rows)
    _print_probes(body)
    say.print(plain(f"knowledge: {body['knowledge']} ({body['why_knowledge']})"), soft_wrap=True)
    say.print(plain(f"target: {body['target']}; answers of up to {body['max_new_tokens']} tokens"), soft_wrap=True)
    if body["null"]:
        reasons: dict[str, list[str]] = {}
        for name, why in body["null"].items():
            reasons.setdefault(why, []).append(name)
        table("Can't be scored", ("names", "because"), [(", ".join(names), why) for why, names in reasons.items()])
    for name, why in body["notes"].items():
        say.print(plain(f"{name}: {why}"), soft_wrap=True)
    for warning in body["warnings"]:
        say.print(plain(f"note: {warning}"), soft_wrap=True)


def _print_probes(body: dict[str, Any]) -> None:
    from unbench.cli.output import number

    columns = ["ring", "kind", "facts", "probes", "candidates"]
    rows = [[g["ring"], g["kind"], _side(g), str(g["n"]), _span(g["candidates"])] for g in body["probes"]]
    if "known" in body:
        columns.append(f"{body['known']['model']} knows")
        told = {_key(group): group for group in body["known"]["groups"]}
        for row, group in zip(rows, body["probes"], strict=True):
            found = told[_key(group)]
            row.append(f"{found['known']} of {found['n']}, mean {number(found['mean'])}")
    table("Probes", tuple(columns), [tuple(row) for row in rows])


def _key(group: dict[str, Any]) -> tuple[str, str, bool]:
    return group["ring"], group["kind"], group["given"]


def _side(group: dict[str, Any]) -> str:
    """Given and withheld are told apart where methods could be given a fact."""
    return ("given" if group["given"] else "withheld") if group["ring"] in ("near", "far") else ""


def _span(ends: list[int]) -> str:
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
