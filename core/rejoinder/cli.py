"""The command line: finds commands without importing them, and turns errors into one line and an exit code."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

import click

from rejoinder import __version__
from rejoinder.errors import ConfigError, RejoinderError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

COMMANDS = {
    "serve": ("rejoinder_adapters.serve:command", "Run the server."),
    "talk": ("rejoinder.commands.talk:command", "Talk to a server: by microphone, WAV files or text."),
    "doctor": ("rejoinder.commands.doctor:command", "Check this machine and say what to do."),
    "keys": ("rejoinder.commands.keys:command", "Make, list, rotate and revoke API keys."),
    "users": ("rejoinder.commands.users:command", "Make, list and change accounts of people."),
    "db": ("rejoinder.commands.db:command", "Create, upgrade and inspect the database."),
    "models": ("rejoinder.commands.models:command", "List, fetch and verify model files."),
    "knowledge": ("rejoinder.commands.knowledge:command", "Manage the documents that agents may look up."),
    "plugins": ("rejoinder.commands.plugins:command", "List the plugins and what they offer."),
    "bench": ("rejoinder.commands.bench:command", "Measure the engine's cost or the voice latency."),
}

COMMANDS_OF_PLUGINS = "rejoinder.commands"
"""The entry-point group by which packages add commands: `NAME = "module:click_command"`."""

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

    @cached_property
    def of_plugins(self) -> dict[str, EntryPoint]:
        """What packages add, by name, as their metadata says it; a name of our own is never taken from us.

        Only looked at where it matters: for the built-in commands nothing is searched.
        """
        return {name: entry for name, entry in _find_commands().items() if name not in COMMANDS}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the table; then those of plugins."""
        return [*COMMANDS, *self.of_plugins]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now.

        Raises:
            ConfigError: it belongs to a plugin and cannot be imported (`command_failed`).
        """
        if cmd_name in COMMANDS:
            module, attribute = COMMANDS[cmd_name][0].split(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        if cmd_name in self.of_plugins:
            return _load_command(self.of_plugins[cmd_name])
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of `args`; a name nobody knows gets the nearest one as an answer."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and name not in self.of_plugins:
            names = self.list_commands(ctx)
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(names)}."
            raise click.UsageError(f"There is no command {name!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, from the table alone; of those of plugins, where each comes from."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])
        if self.of_plugins:
            with formatter.section("Commands of plugins"):
                formatter.write_dl([(name, f"of {_distribution(entry)}") for name, entry in self.of_plugins.items()])


def _find_commands() -> dict[str, EntryPoint]:
    """The commands of plugins by name; where two packages have a name, that of the first by the package's name."""
    # Here, since it costs more than all the rest of this module.
    import importlib.metadata

    try:
        entries = list(importlib.metadata.entry_points(group=COMMANDS_OF_PLUGINS))
        entries.sort(key=lambda entry: (entry.name, _distribution(entry)))
    except Exception:  # noqa: BLE001 - damaged metadata of some package must not take our own commands away
        return {}
    found: dict[str, EntryPoint] = {}
    for entry in entries:
        found.setdefault(entry.name, entry)
    return found


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value


def _load_command(entry: EntryPoint) -> click.Command:
    try:
        command = entry.load()
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.value} is no click command but a {type(command).__name__}")
    except (Exception, SystemExit) as error:
        package = _distribution(entry)
        raise ConfigError(
            f"The command {entry.name!r} of {package} cannot be loaded: {type(error).__name__}: {error}.",
            code="command_failed",
            fix=f"Reinstall or update {package}, or remove it (pip uninstall {package}); --debug shows where it fails.",
        ) from error
    return command


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
