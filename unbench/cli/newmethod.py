"""``unbench new-method``, ``check-method`` and ``new-attack``: a method or an attack of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unbench.cli.newtask import new_folder_option
from unbench.cli.pluginfile import method_names, plugin_option


@click.command("new-method")
@click.argument("name")
@click.option("--package", is_flag=True, help="Write an installable package with an entry point, not a single file.")
@new_folder_option
def new_method(name: str, package: bool, out: Path) -> None:
    """Write a method of your own to start from: a folder NAME with the method, its settings, a test and a card. It
    works as it is.

    \b
    unbench new-method my_method
    unbench new-method my_method --package
    """
    import shlex

    from unbench.newmethod.write import write_method

    written = write_method(name, out, package=package)
    click.echo(str(written.file))
    method, folder = shlex.quote(str(written.file)), shlex.quote(str(written.folder))
    if written.installed:
        click.echo(f"Install: pip install -e {folder}", err=True)
    click.echo(f"Check:   unbench check-method {name if written.installed else method}", err=True)
    click.echo(f"Run:     unbench run {f'--method {name}' if written.installed else f'--plugin {method}'}", err=True)


@click.command("new-attack")
@click.argument("name")
@new_folder_option
def new_attack(name: str, out: Path) -> None:
    """Write an attack of your own to start from: a folder NAME with the attack, its settings and a test. It works as it
    is.

    \b
    unbench new-attack my_attack
    """
    import shlex

    from unbench.newmethod.write import write_attack

    written = write_attack(name, out)
    click.echo(str(written.file))
    click.echo(f"Try: unbench run --method retrain --plugin {shlex.quote(str(written.file))} --limit 8", err=True)


@click.command("check-method")
@click.argument("name", shell_complete=method_names)
@plugin_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.pass_context
def check_method(ctx: click.Context, name: str, plugins: tuple[str, ...], as_json: bool) -> None:
    """Check that a method (its NAME, or FILE.py) keeps the contract, with full and LoRA training; exit code 1 if not.

    \b
    unbench check-method npo
    unbench check-method my_method/my_method.py
    """
    from unbench import methodcheck
    from unbench.cli.output import clean, print_json
    from unbench.cli.progress import progress_bars

    found: list[methodcheck.Found] = []
    with progress_bars(ctx.obj["quiet"]) as progress:
        for where, check in _quietly(methodcheck.check_named(name, plugins, progress)):
            found.append((where, check))
            if as_json:
                continue
            detail = f" ({check.detail})" if check.detail else ""
            advice = "" if check.passed or not check.advice else f" {check.advice}"
            click.echo(clean(f"{'pass' if check.passed else 'FAIL'}  {where}: {check.name}{detail}{advice}"))
    body: dict[str, Any] = methodcheck.as_json(name, found)
    if as_json:
        print_json(body)
    else:
        failed = sum(not check.passed for _, check in found)
        click.echo(clean(f"{name}: {f'{failed} of {len(found)} checks failed' if failed else 'keeps the contract'}."))
    ctx.exit(0 if body["passed"] else 1)


def _quietly(found: Any) -> Any:
    """The items of an iterator; what is printed to stdout while one is made (by a method, say) goes to stderr."""
    from unbench.cli.run import quiet_libraries
    from unbench.stdout import to_stderr

    first = True
    while True:
        with to_stderr():
            item = next(found, None)
        if item is None:
            return
        yield item
        if first:
            # After the loading: this imports transformers, and with it torch.
            quiet_libraries()
            first = False
