"""``unbench methods | tasks | models | metrics | cite | env``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from unbench.cli.pluginfile import method_names, plugin_option
from unbench.errors import UnbenchError, UsageError

if TYPE_CHECKING:
    from unbench.method import Method
    from unbench.plugins import Plugin, Registry
    from unbench.results.schema import Result

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


def table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.table import Table

    from unbench.cli.output import console, plain

    shown = Table(title=title, title_justify="left")
    for name in columns:
        shown.add_column(name, overflow="fold")
    for row in rows:
        shown.add_row(*(plain(cell) for cell in row))
    console().print(shown)


@click.command()
@click.argument("name", required=False, shell_complete=method_names)
@plugin_option
@click.option("--load", is_flag=True, help="Import every plugin to see whether it works; else their source is read.")
@json_option
def methods(name: str | None, plugins: tuple[str, ...], load: bool, as_json: bool) -> None:
    """List the methods; with a NAME, show one and its settings.

    Needs: the retain rows, the frozen target beside the model, an engine that generates. Tuned: the models for which
    settings were found by trials.
    """
    from unbench.cli.output import print_json
    from unbench.plugins import methods as registered
    from unbench.plugins import refuse_idle

    refuse_idle(plugins)
    registry = registered(plugins)
    if name:
        _one_method(registry.load(name), registry.find(name).qualified, as_json)
        return
    entries = [(registry.shortest(plugin), _method_entry(registry, plugin, load)) for plugin in registry.plugins]
    if as_json:
        print_json({"schema": "unbench.methods/1", "methods": [entry for _, entry in entries]})
        return
    columns = ["name", "paper", "year", "kind", "needs", "tuned"]
    columns += ["error"] if any(entry["error"] for _, entry in entries) else []
    table("Methods ('unbench methods NAME' shows one and its settings)", tuple(columns),
          [(short, *(_cell(entry[key]) for key in columns[1:])) for short, entry in entries])  # fmt: skip


def _cell(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _method_entry(registry: Registry[Method], plugin: Plugin, load: bool) -> dict[str, Any]:
    """What the list says of a method. Built-in ones and files that were named are imported; others where asked for."""
    from unbench.method import needs_of
    from unbench.plugincard import Described, describe
    from unbench.tuned import all_tuned

    if load or plugin.built_in or plugin.from_file:
        try:
            method = registry.load_plugin(plugin)
            found = Described(method.card, needs_of(method), tuple(all_tuned(method)), method.trains)
        except UnbenchError as problem:
            # A broken plugin is shown with its error and harms no other.
            found = Described(error=problem.message)
    else:
        found = describe(plugin)
        fault = found.error or registry.collision(plugin)
        if fault:
            found = replace(found, error=f"Method {plugin.qualified} {fault}.")
    about = {key: getattr(found.card, key, None) for key in ("title", "kind", "paper", "year", "summary")}
    return {"name": plugin.name, "qualified": plugin.qualified, **about, "needs": list(found.needs),
            "tuned": list(found.tuned), "trains": found.trains, "error": found.error}  # fmt: skip


def _one_method(method: Any, qualified: str, as_json: bool) -> None:
    from unbench.cli.output import console, plain, print_json
    from unbench.method import needs_of
    from unbench.tuned import all_tuned

    settings = {
        key: {"default": field.get_default(call_default_factory=True), "description": field.description}
        for key, field in method.Config.model_fields.items()
    }
    if as_json:
        schema = method.Config.model_json_schema()
        print_json({"schema": "unbench.method/1", "name": qualified, "title": method.card.title, "settings": schema,
                    "needs": list(needs_of(method)), "tuned": all_tuned(method),
                    "bibtex": method.card.bibtex})  # fmt: skip
        return
    console().print(plain(f"{qualified}: {method.card.title}. {method.card.summary}"))
    console().print(plain(f"needs: {', '.join(needs_of(method)) or 'the forget rows alone'}"))
    tuned = ", ".join(f"{model}: {values}" for model, values in all_tuned(method).items())
    rows = [(key, str(one["default"]), str(one["description"] or "")) for key, one in settings.items()]
    table("Settings (--set key=value)", ("key", "default", "meaning"), rows)
    if tuned:
        console().print(plain(f"tuned on select: {tuned}"))


@click.command()
@click.argument("name", required=False)
@json_option
def tasks(name: str | None, as_json: bool) -> None:
    """List the tasks and their problems, or those of one task NAME. The word 'path' as NAME prints the folder for
    lm_eval --include_path "$(unbench tasks path)"."""
    from unbench import plugins
    from unbench.cli.output import print_json

    if name == "path":
        from unbench.lmeval.export import tasks_path

        click.echo(tasks_path())
        return
    registry = plugins.tasks()
    entries: list[dict[str, Any]] = []
    for plugin in registry.plugins if name is None else [registry.find(name.partition("/")[0])]:
        if name is None and not plugin.built_in:
            # Listing imports nothing of a stranger's; asking for the one does.
            problems = {plugin.name: f"'unbench tasks {plugin.name}' shows its problems"}
            entries.append({"name": plugin.name, "default_model": "", "problems": problems, "error": None})
            continue
        try:
            task = registry.load_plugin(plugin)
        except UnbenchError as problem:
            entries.append({"name": plugin.name, "error": problem.message})
            continue
        entries.append({
            "name": plugin.name, "version": task.version, "title": task.card.title, "target": task.target,
            "knowledge": task.knowledge, "default_model": task.default_model, "summary": task.card.summary,
            "problems": {f"{plugin.name}/{key}": text for key, text in task.card.problems.items()}, "error": None,
        })  # fmt: skip
    if as_json:
        print_json({"schema": "unbench.tasks/1", "tasks": entries})
        return
    rows = []
    for entry in entries:
        if entry["error"]:
            rows.append((entry["name"], "", entry["error"]))
            continue
        rows += [(key, entry["default_model"], text) for key, text in entry["problems"].items()]
    table("Tasks", ("task", "default model", "what is forgotten"), rows)


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def models(ctx: click.Context, as_json: bool) -> None:
    """List the built-in models, or build nano from nothing."""
    if ctx.invoked_subcommand:
        return
    from unbench.cli.output import print_json
    from unbench.models.load import BUILT_IN

    if as_json:
        print_json({"schema": "unbench.models/1", "models": [{"name": k, "summary": v} for k, v in BUILT_IN.items()]})
        return
    table("Models", ("name", "what it is"), [*BUILT_IN.items(), ("owner/name", "any causal LM of the hub"),
           ("folder/", "any causal LM saved by save_pretrained")])  # fmt: skip


@models.command("build")
@click.option("--out", type=click.Path(), default="nano-build", show_default=True, help="Folder to build into.")
@click.pass_obj
def build(obj: dict[str, Any], out: str) -> None:
    """Train nano from nothing: base, target, retrain control and references, then the references' responses."""
    from pathlib import Path

    from unbench.cli.progress import progress_bars
    from unbench.models.build import build_everything

    with progress_bars(obj["quiet"]) as progress:
        for path in build_everything(Path(out), progress):
            click.echo(path)


@click.command()
@json_option
def metrics(as_json: bool) -> None:
    """List the scores and what they mean."""
    from unbench.cli.output import print_json
    from unbench.metrics.catalogue import CATALOGUE
    from unbench.plugins import metrics as registered_metrics
    from unbench.results.schema import Scores

    entries = {name: field.description or "" for name, field in Scores.model_fields.items()} | CATALOGUE
    entries |= {one.qualified: f"of the package {one.distribution}" for one in registered_metrics().plugins}
    if as_json:
        print_json({"schema": "unbench.metrics/1", "metrics": entries})
        return
    table("Metrics", ("name", "meaning"), list(entries.items()))


@click.command()
@click.argument("name")
@plugin_option
def cite(name: str, plugins: tuple[str, ...]) -> None:
    """Print the BibTeX entry of a METHOD, a TASK, an ATTACK, a RUN (its folder or run-id) or unbench itself.

    \b
    unbench cite unstar
    unbench cite runs/bios/fact/unstar/ec88ad368b53
    """
    from unbench.cite import UNBENCH_BIBTEX, run_bibtex
    from unbench.plugins import attacks as attacks_registered
    from unbench.plugins import methods as registered
    from unbench.plugins import open_task
    from unbench.plugins import tasks as families

    if name == "unbench":
        click.echo(UNBENCH_BIBTEX)
        return
    family = name.partition("/")[0]
    if any(family == plugin.name for plugin in families(plugins).plugins):
        task = open_task(name, files=plugins) if "/" in name else families(plugins).load(family)
        click.echo(task.card.bibtex.strip())
        return
    run = _run_named(name)
    if run is not None:
        click.echo(run_bibtex(run))
        return
    registry = registered(plugins)
    attacks = attacks_registered(plugins)
    try:
        if any(name in (plugin.name, plugin.qualified) for plugin in attacks.plugins):
            bibtex = attacks.load(name).card.bibtex.strip()
        else:
            bibtex = registry.load_plugin(registry.find(name)).card.bibtex.strip()
    except UsageError as problem:
        raise UsageError(
            f"There is no method, task, attack or run called {name!r}.",
            problem.try_next or "'unbench methods' lists them.",
        ) from problem
    click.echo(bibtex or f"% {name} has no paper")


def _run_named(name: str) -> Result | None:
    """The finished run of that folder or run-id; None where the name is none of a run."""
    from pathlib import Path

    from unbench.results.store import find_run, read_result

    if not Path(name).is_dir() and not Path(name).is_file() and not all(c in "0123456789abcdef" for c in name):
        return None
    try:
        folder = find_run(name)
    except UsageError:
        return None
    return read_result(folder)


@click.command()
@json_option
def env(as_json: bool) -> None:
    """Show versions and device: what a bug report needs."""
    import platform

    from unbench.cli.output import print_json
    from unbench.models.load import device_words, pick_device
    from unbench.results.record import versions

    body = {"schema": "unbench.env/1", "versions": versions(), "system": platform.system(),
            "machine": platform.machine(), "device": device_words(pick_device("auto"))}  # fmt: skip
    if as_json:
        print_json(body)
        return
    rows = [*versions().items(), ("device", str(body["device"])), ("system", f"{body['system']} {body['machine']}")]
    table("Environment", ("what", "version"), rows)
