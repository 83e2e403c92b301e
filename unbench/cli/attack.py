"""``unbench attack`` and ``unbench attacks``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unbench.cli.pluginfile import plugin_option
from unbench.cli.run import data_option, names

if TYPE_CHECKING:
    from unbench.results.schema import AttackPoint, Result

CURVE_POINTS = 8
"""Most points of a curve in the table; --json holds all."""


@click.command()
@click.argument("run")
@click.option("--attacks", "-a", default="all", show_default=True,
              help="Names with commas, all, or default; 'unbench attacks' lists them.")  # fmt: skip
@plugin_option
@click.option("--set", "settings", multiple=True, metavar="ATTACK.KEY=VALUE", help="A setting; repeatable.")
@data_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.pass_obj
def attack(obj: dict[str, Any], run: str, attacks: str, plugins: tuple[str, ...], settings: tuple[str, ...],
           data_dir: Path | None, as_json: bool) -> None:  # fmt: skip
    """Attack the unlearned models of a finished RUN (a folder, its result.json, or the start of its run-id).

    Each attack is tried on a model that never knew as well; what counts is what the run's gives away beyond it.
    Attacks that were finished before are not repeated.

    \b
    unbench attack runs/bios/fact/unstar/ec88ad368b53
    unbench attack ec88ad --attacks relearn_heldout,quantize --set relearn_heldout.times=[1]
    unbench attack ec88ad --plugin my_attack.py
    """
    from unbench.cli.output import print_json
    from unbench.cli.progress import progress_bars
    from unbench.cli.run import quiet_libraries
    from unbench.plan import parse_settings
    from unbench.results.store import find_run

    folder = find_run(run)
    found = parse_settings(settings)
    asked = names(attacks)
    quiet_libraries()
    from unbench import spine

    with progress_bars(obj["quiet"]) as progress:
        result = spine.attack(folder, asked, found, progress, plugins, data_dir)
    if as_json:
        print_json(result.summary())
        return
    print_attacks(result)


@click.command("attacks")
@plugin_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def attacks(plugins: tuple[str, ...], as_json: bool) -> None:
    """List the attacks."""
    from unbench.cli.listing import table
    from unbench.cli.output import print_json
    from unbench.errors import UnbenchError
    from unbench.plugins import attacks as registered

    registry = registered(plugins)
    entries = []
    for plugin in registry.plugins:
        entry: dict[str, Any] = {"name": plugin.qualified, "error": None}
        try:
            found = registry.load_plugin(plugin)
            card = found.card
            entry |= {
                "kind": card.kind,
                "paper": card.paper,
                "year": card.year,
                "default": found.default,
                "summary": card.summary,
                "settings": found.Config.model_json_schema().get("properties", {}),
            }
        except UnbenchError as problem:
            entry["error"] = str(problem)
        entries.append((registry.shortest(plugin), entry))
    if as_json:
        print_json({"schema": "unbench.attacks/1", "attacks": [entry for _, entry in entries]})
        return
    rows = []
    for name, entry in entries:
        default = "yes" if entry.get("default") else ""
        summary = entry["error"] or entry["summary"]
        rows.append((name, entry.get("kind") or "", entry.get("paper") or "", default, summary))
    table("Attacks", ("name", "kind", "paper", "default", "what it does"), rows)


def print_attacks(result: Result) -> None:
    """Each attack's worst point and curve, then the scores under the worst of all."""
    from rich.table import Table

    from unbench.cli.output import clean, console, plain, score_text, worst_line

    table = Table(title=f"Attacks on {result.method} ({result.task}, {result.model})", title_justify="left")
    for name in ("attack", "forget", "at", "excess", "curve: strength excess", "s"):
        table.add_column(name, overflow="fold")
    for attack in result.attacks:
        short = attack.name.removeprefix("unbench:")
        if not attack.points:
            table.add_row(*(plain(cell) for cell in (short, "–", "", "", attack.reason or "", "")))
            continue
        worst = None if attack.worst is None else attack.points[attack.worst]
        at = "nothing for certain" if worst is None else _place(worst)
        # Where nothing is certain the largest excess is shown.
        shown = worst or max(attack.points, key=lambda point: point.excess.value or 0.0)
        cells = (short, score_text(attack.forget), at, score_text(shown.excess), _curve(attack.points),
                 f"{attack.wall_s:.1f}")  # fmt: skip
        table.add_row(*(plain(cell) for cell in cells))
    console().print(table)
    if result.worst is not None:
        whole = result.worst
        if whole.unattacked is not None:
            click.echo(f"without an attack: excess {score_text(whole.unattacked.excess)}, forget "
                       f"{score_text(whole.unattacked.forget)} on the same probes")  # fmt: skip
        click.echo(worst_line(whole).partition(";")[0])
    for attack in result.attacks:
        for who, notes in attack.notes.items():
            # A stranger's file may hold anything here.
            for key, value in notes.items() if isinstance(notes, dict) else [("note", notes)]:
                click.echo(clean(f"{attack.name.removeprefix('unbench:')}, {who}: {key} = {value}"))


def _place(point: AttackPoint) -> str:
    return f"{point.series}: {point.strength:g}" if point.series else f"{point.strength:g}"


def _curve(points: list[AttackPoint]) -> str:
    """Every series with its excess, the middle left out where it is long."""
    series: dict[str, list[str]] = {}
    for point in points:
        value = "–" if point.excess.value is None else f"{point.excess.value:.2f}"
        series.setdefault(point.series, []).append(f"{point.strength:g} {value}")
    lines = []
    for name, cells in series.items():
        if len(cells) > CURVE_POINTS:
            half = CURVE_POINTS // 2
            cells = [*cells[:half], "…", *cells[-half:]]
        lines.append((f"{name}: " if name else "") + ", ".join(cells))
    return "\n".join(lines)
