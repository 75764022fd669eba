"""`rejoinder serve`: load the models, open the database, listen, say where, and stop cleanly."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rejoinder.errors import ConfigError
from rejoinder.providers import KINDS
from rejoinder.settings import Settings, load_settings

if TYPE_CHECKING:
    from rejoinder.app import Runtime
    from rejoinder.catalog import NamedAgent


@click.command("serve", short_help="Start the server.")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on; 0 takes a free one.  [default: 8080]")
@click.option("--agent", "default_agent", help="Agent of calls that name none.  [default: guide]")
@click.option("--db", "database_url", help="Database URL.  [default: sqlite+aiosqlite:///rejoinder.db]")
@click.option("--config", type=click.Path(path_type=Path), help="Settings file.  [default: ./rejoinder.toml, if any]")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
    help="What goes to the log on stderr.",
)
def command(
    host: str | None,
    port: int | None,
    default_agent: str | None,
    database_url: str | None,
    config: Path | None,
    log_level: str,
) -> None:
    """Start the server and talk to it with `rejoinder talk`."""
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # Its debug messages hold all that is stored, what people say included.
    logging.getLogger("aiosqlite").setLevel(logging.INFO)
    settings = load_settings(config, host=host, port=port, default_agent=default_agent, database_url=database_url)
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve(settings))
    else:
        uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    from rejoinder.app import Runtime
    from rejoinder_adapters.server import listen, make_server

    started = time.monotonic()
    # Listen first: a port in use is known at once, not after the models are loaded.
    sock = listen(settings.host, settings.port)
    try:
        progress = lambda what: _tell(f"  loading {what} ...")  # noqa: E731
        async with Runtime(settings, progress=progress, listens=True) as runtime:
            for info in runtime.plugins.infos.values():
                if info.error:
                    _tell(f"  plugin {info.name} is out of order: {info.error} (see `rejoinder plugins list`)")
            # What is loaded stays: full collections need not look at it again (pauses of tens of ms otherwise).
            gc.collect()
            gc.freeze()
            agent = await runtime.catalog.get()
            port = sock.getsockname()[1]
            _announce(settings, agent, runtime.gate.dev_key_works, port, time.monotonic() - started)
            await _tell_of_accounts(runtime, port)
            await make_server(runtime).serve(sockets=[sock])
            _tell("stopping: sessions are ended, what is pending is written ...")
    except OSError as error:
        raise ConfigError(f"The server cannot run: {error}.") from error
    finally:
        sock.close()


def _announce(settings: Settings, agent: NamedAgent, dev_key: bool, port: int, seconds: float) -> None:
    host = _host(settings)
    names = ", ".join(name for kind in KINDS for name in agent.definition.names(kind))
    _tell(f"ready in {seconds:.1f} s: agent {agent.name} ({names})")
    _tell(f"  voice   ws://{host}:{port}/ws/audio")
    _tell(f"  REST    http://{host}:{port}/v1 (described in http://{host}:{port}/docs)")
    _tell(f"  OpenAI  base_url http://{host}:{port}/v1")
    _tell(f"  talk    http://{host}:{port}/talk (in a terminal: rejoinder talk --url ws://{host}:{port})")
    if dev_key:
        # Not itself: what is printed here often lands in a log.
        _tell("  key     `rejoinder keys dev` prints it; it is for this machine only")
    elif settings.auth.mode == "none":
        _tell("  key     none: everybody on this machine may do everything (auth.mode)")
    _tell(f"  panel   http://{host}:{port}/admin")


async def _tell_of_accounts(runtime: Runtime, port: int) -> None:
    """How the first person gets into the panel."""
    gate = runtime.gate
    if gate.first_link is not None:
        # Whoever reads it in a log is late: it does once, and not for long.
        _tell(f"          http://{_host(runtime.settings)}:{port}/admin/login#token={gate.first_link}")
        _tell("          (good once, for 10 minutes; `rejoinder users link` makes another)")
    elif gate.closed and not await gate.logins.users.any():
        _tell("          nobody can log in yet: rejoinder users create NAME --role admin")


def _host(settings: Settings) -> str:
    return f"[{settings.host}]" if ":" in settings.host else settings.host


def _tell(text: str) -> None:
    click.echo(text, err=True)
