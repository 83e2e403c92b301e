"""``--plugin FILE.py[:CLASS]``, for every command that takes a method or a task; names for the shell to complete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def plugin_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the repeatable option; the command gets ``plugins: tuple[str, ...]`` for ``make_plan(plugins=…)``."""
    return click.option(
        "--plugin",
        "plugins",
        multiple=True,
        metavar="FILE.py[:CLASS]",
        help="A Python file with a method (or task) of your own; repeatable. Its single method is taken.",
    )(function)


def method_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names for the shell's completion, from metadata: no plugin is imported."""
    from unbench.plugins import methods

    return [plugin.name for plugin in methods().plugins if plugin.name.startswith(incomplete)]
