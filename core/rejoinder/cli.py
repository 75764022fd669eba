"""The command line: finds commands without importing them, and turns errors into one line and an exit code."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from rejoinder import __version__
from rejoinder.errors import ConfigError, RejoinderError

COMMANDS = {
    "serve": ("rejoinder_adapters.serve:command", "Run the server."),
    "talk": ("rejoinder.commands.talk:command", "Talk to a server: by microphone, WAV files or text."),
    "doctor": ("rejoinder.commands.doctor:command", "Check this machine and say what to do."),
    "keys": ("rejoinder.commands.keys:command", "Make, list, rotate and revoke API keys."),
    "db": ("rejoinder.commands.db:command", "Create, upgrade and inspect the database."),
    "models": ("rejoinder.commands.models:command", "List, fetch and verify model files."),
    "knowledge": ("rejoinder.commands.knowledge:command", "Manage the documents that agents may look up."),
    "plugins": ("rejoinder.commands.plugins:command", "List the plugins and what they offer."),
    "bench": ("rejoinder.commands.bench:command", "Measure the engine's cost or the voice latency."),
}

WELCOME = f"""\
Rejoinder {__version__}: real-time agents; speech or text in, speech and text out.

  rejoinder serve     start the server (this window)
  rejoinder talk      talk to it (another window)
  rejoinder doctor    if something does not work

All commands: rejoinder --help"""

EXIT_FAILED, EXIT_USAGE, EXIT_CONFIG, EXIT_REFUSED, EXIT_UNREACHABLE, EXIT_INTERRUPTED = 1, 2, 3, 4, 5, 130
_REFUSALS = ("unauthorized", "forbidden")


class LazyGroup(click.Group):
    """Knows its commands by name and one line of help; imports a command's module only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of `args`; a name nobody knows gets the nearest one as an answer."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(COMMANDS)}."
            raise click.UsageError(f"There is no command {name!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="rejoinder %(version)s")
@click.option("--debug", is_flag=True, help="Show tracebacks. Works after a command, too.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Rejoinder: a platform for real-time agents; speech or text in, speech and text out."""
    if os.environ.get("NO_COLOR"):
        ctx.color = False
    if ctx.invoked_subcommand is None:
        click.echo(WELCOME)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Exit codes: 0 done, 1 failed, 2 usage, 3 configuration or environment, 4 no key, a bad one or one that may not do
    this, 5 server unreachable, 130 interrupted.
    """
    given = list(sys.argv[1:] if args is None else args)
    options = given[: given.index("--")] if "--" in given else given
    debug = "--debug" in options
    if debug:
        given.remove("--debug")
    sys.exit(_run(given, debug))


def _run(args: list[str], debug: bool) -> int:
    try:
        result = cli.main(args, prog_name="rejoinder", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the outermost border: whatever it is, it becomes a line and a code
        if debug:
            import traceback

            traceback.print_exception(error)
        return _explain(_unwrap(error), debug)
    return result if isinstance(result, int) else 0


def _unwrap(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _explain(error: BaseException, debug: bool) -> int:
    if isinstance(error, RejoinderError):
        if not error.told:
            click.echo(f"error: {error.explain()}", err=True)
        if isinstance(error, ConfigError):
            return EXIT_CONFIG
        if error.code in _REFUSALS:
            return EXIT_REFUSED
        return EXIT_UNREACHABLE if error.code == "unreachable" else EXIT_FAILED
    hint = "" if debug else " Fix: run it again with --debug and report the traceback."
    click.echo(f"error: {type(error).__name__}: {error}.{hint} [internal]", err=True)
    return EXIT_FAILED
