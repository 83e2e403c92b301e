"""The command line: doors that parse, call the Python API and print. No torch at import.

stdout is data, stderr everything else. Exit codes: 0 ok, 1 findings, 2 usage, 3 environment, 4 partial failure,
130 interrupted.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
from importlib import import_module

import click

from unbench import __version__
from unbench.errors import EnvironmentProblem, UnbenchError

COMMANDS = {
    "run": "unbench.cli.run:run",
    "prepare": "unbench.cli.prepare:prepare",
    "eval": "unbench.cli.run:evaluate",
    "attack": "unbench.cli.attack:attack",
    "metaeval": "unbench.cli.metaeval:metaeval",
    "tune": "unbench.cli.tune:tune",
    "sweep": "unbench.cli.sweep:sweep",
    "new-task": "unbench.cli.newtask:new_task",
    "check-task": "unbench.cli.newtask:check_task",
    "new-method": "unbench.cli.newmethod:new_method",
    "check-method": "unbench.cli.newmethod:check_method",
    "new-attack": "unbench.cli.newmethod:new_attack",
    "methods": "unbench.cli.listing:methods",
    "tasks": "unbench.cli.listing:tasks",
    "models": "unbench.cli.listing:models",
    "metrics": "unbench.cli.listing:metrics",
    "attacks": "unbench.cli.attack:attacks",
    "show": "unbench.cli.show:show",
    "compare": "unbench.cli.show:compare",
    "submit": "unbench.cli.submission:submit",
    "validate": "unbench.cli.submission:validate",
    "verify": "unbench.cli.submission:verify",
    "leaderboard": "unbench.cli.board:leaderboard",
    "cite": "unbench.cli.listing:cite",
    "env": "unbench.cli.listing:env",
}


class Doors(click.Group):
    """Imports a command's file only when it is needed, and knows near names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and name not in COMMANDS and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else "'unbench --help' lists the commands."
            raise click.UsageError(f"There is no command {name!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Doors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="unbench")
@click.option("-v", "--verbose", count=True, help="Say more on stderr.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr, only errors.")
@click.option("--debug", is_flag=True, envvar="UNBENCH_DEBUG", help="Show a traceback for every error. [UNBENCH_DEBUG]")
@click.pass_context
def cli(ctx: click.Context, verbose: int, quiet: bool, debug: bool) -> None:
    """Did it forget, did it keep the rest, did it hit only the target, and what did it cost:
    a benchmark of LLM unlearning methods.

    First numbers: unbench run --method unstar
    """
    ctx.obj = {"verbose": verbose, "quiet": quiet, "debug": debug}
    _set_logging(verbose, quiet)


def _set_logging(verbose: int, quiet: bool) -> None:
    import logging

    level = logging.ERROR if quiet else (logging.INFO if verbose else logging.WARNING)
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)


def main() -> None:
    """Entry point: turns every error into one sentence and its exit code."""
    debug = "--debug" in sys.argv or os.environ.get("UNBENCH_DEBUG", "") not in ("", "0")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = _interrupted()
    except click.ClickException as problem:
        problem.show()
        code = problem.exit_code
    except UnbenchError as problem:
        code = _say(problem, debug)
    except BrokenPipeError:
        # The reader of our output went away (a pipe into head): not an error. Nothing more can be flushed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except MemoryError:
        code = _say(EnvironmentProblem("Out of memory.", "Give a smaller --batch-size or a smaller model."), debug)
    except Exception as problem:
        if debug:
            raise
        text = " ".join(str(problem).split())[:300]
        click.echo(
            f"Error: {type(problem).__name__}: {text} Add --debug (unbench --debug …) to see where; "
            "please report it if it looks like a fault of UnBench.",
            err=True,
        )
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _say(problem: UnbenchError, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    from unbench.cli.output import clean

    click.echo(f"Error: {clean(str(problem))}", err=True)
    return problem.exit_code


def _interrupted() -> int:
    words = sys.argv[1:]
    message = "Interrupted."
    if "run" in words:
        again = words if "--resume" in words else [*words, "--resume"]
        message += f" Finished steps are kept; go on with: unbench {shlex.join(again)}"
    elif {"prepare", "tune", "sweep", "attack", "metaeval"} & set(words):
        message += f" Finished parts are kept; go on with: unbench {shlex.join(words)}"
    click.echo(message, err=True)
    return 130
