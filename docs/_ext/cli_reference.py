"""The directive ``cli-reference``: every command of ``unbench`` with every option, read off the command line itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from unbench.cli import cli

WIDTH = 100
"""Columns of a usage line."""


def walk(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[click.Context]:
    """A context for a command and for all commands below it, in the order of the help."""
    settings = {**command.context_settings, "max_content_width": WIDTH, "terminal_width": WIDTH}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    yield context
    if isinstance(command, click.Group):
        for below_name in command.list_commands(context):
            below = command.get_command(context, below_name)
            if below is not None and not below.hidden:
                yield from walk(below, below_name, context)


def anchor(context: click.Context, option: str = "") -> str:
    """``unbench-run``, ``unbench-run--seeds``."""
    return context.command_path.replace(" ", "-") + option


class CliReference(SphinxDirective):
    """One section a command: its usage, its help, its options."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # the command line may change while this page's text doesn't
        whole: list[nodes.Node] = []
        sections: dict[str, nodes.section] = {}
        for context in walk(cli, "unbench"):
            made = sections[context.command_path] = self._section(context)
            above = context.parent
            if above is not None and above.parent is not None:
                sections[above.command_path].append(made)
            else:
                whole.append(made)
        return whole

    def _section(self, context: click.Context) -> nodes.section:
        name = context.command_path
        made = nodes.section(ids=[anchor(context)], names=[name])
        made += nodes.title("", "", nodes.literal("", name))
        usage = context.command.get_usage(context).removeprefix("Usage: ")
        made += literal_block(re.sub(r"\n\s+", " ", usage))
        made += list(_help(context.command.help or ""))
        options = nodes.definition_list(classes=["options"])
        for parameter in context.command.get_params(context):
            record = parameter.get_help_record(context)
            if record and isinstance(parameter, click.Option):
                options += _option(context, parameter, record)
        if options.children:
            made += options
        return made


def literal_block(text: str) -> nodes.literal_block:
    return nodes.literal_block(text, text, language="text")


def _help(text: str) -> Iterator[nodes.Node]:
    """Paragraphs; what follows ``\\b`` keeps its lines."""
    for part in re.split(r"\n\s*\n", text.strip()):
        if part.lstrip().startswith("\b"):
            yield literal_block("\n".join(line.strip() for line in part.replace("\b", "").strip().splitlines()))
        else:
            yield nodes.paragraph("", " ".join(part.split()))


def _option(context: click.Context, option: click.Option, record: tuple[str, str]) -> nodes.definition_list_item:
    names, said = record
    term = nodes.term("", "", nodes.literal("", names), ids=[anchor(context, name) for name in long_names(option)])
    return nodes.definition_list_item("", term, nodes.definition("", nodes.paragraph("", " ".join(said.split()))))


def long_names(option: click.Option) -> list[str]:
    """Its names with two dashes, or what it has."""
    every = [*option.opts, *option.secondary_opts]
    return [name for name in every if name.startswith("--")] or every


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("cli-reference", CliReference)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
