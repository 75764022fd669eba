"""`rejoinder doctor`: says whether all that a conversation needs is here, and which command fixes what is not."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from rejoinder.errors import RejoinderError, StoreError

if TYPE_CHECKING:
    from rejoinder.settings import Settings

EXTRAS = {
    "local": ("moonshine_voice", "hibari", "onnxruntime", "xllamacpp"),
    "openai": ("openai",),
    "mic": ("miniaudio",),
}
MIN_PYTHON = (3, 11)
MIN_CORES = 2
MIN_MEMORY_GIB = 2.0
PROBE_S = 2.0


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. Only a required one that is not `ok` makes the doctor fail."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
    required: bool = True


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Check this machine; exit code 1 if something is missing that a server needs."""
    checks = []
    for check in examine():
        checks.append(check)
        if not as_json:
            click.echo(_line(check))
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], indent=2))
    if any(check.required and not check.ok for check in checks):
        ctx.exit(1)


def _line(check: Check) -> str:
    mark = click.style("✔", fg="green") if check.ok else click.style("✘", fg="red" if check.required else "yellow")
    fix = "" if check.ok or not check.fix else f"\n    {check.fix}"
    optional = "" if check.ok or check.required else " (optional)"
    return f"{mark} {check.name}: {check.detail}{optional}{fix}"


def examine() -> Iterator[Check]:
    """All checks, each when it is done."""
    yield _python()
    yield from _extras()
    yield _uvloop()
    yield _machine()
    settings, check = _settings()
    yield check
    if settings is None:
        return
    yield from _plugins(settings)
    yield from _guarded("models", lambda: _models(settings))
    yield from _guarded("names", lambda: iter(asyncio.run(_names(settings))))
    yield from _guarded("database", lambda: iter([asyncio.run(_database(settings))]))
    yield _port(settings)
    yield _audio()


def _guarded(name: str, checks: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """The checks, or one that tells of the error that stopped them."""
    try:
        yield from checks()
    except RejoinderError as error:
        yield Check(name, False, error.message, error.fix or "")
    except Exception as error:  # noqa: BLE001 - a doctor that dies of what it finds is no help
        yield Check(name, False, f"{type(error).__name__}: {error}")


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    wanted = ".".join(map(str, MIN_PYTHON))
    return Check("python", sys.version_info >= MIN_PYTHON, version, f"Install Python {wanted} or newer.")


def _extras() -> Iterator[Check]:
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        detail = f"not installed: {', '.join(missing)}" if missing else "installed"
        fix = f"pip install 'rejoinder[{extra}]'"
        yield Check(f"extra {extra}", not missing, detail, fix, required=extra == "local")


def _uvloop() -> Check:
    found = importlib.util.find_spec("uvloop") is not None
    return Check("uvloop", found, "installed" if found else "not installed", "pip install uvloop", required=False)


def _machine() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    detail = f"{cores} core{'s' if cores > 1 else ''}"
    enough = cores >= MIN_CORES
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        detail += f", {gib:.1f} GiB of memory"
        enough = enough and gib >= MIN_MEMORY_GIB
    fix = f"The embedded models want {MIN_CORES} cores and {MIN_MEMORY_GIB:.0f} GiB; use remote ones (extra openai)."
    return Check("machine", enough, detail, fix, required=False)


def _settings() -> tuple[Settings | None, Check]:
    from rejoinder.settings import load_settings

    try:
        settings = load_settings()
    except RejoinderError as error:
        return None, Check("settings", False, error.message, error.fix or "")
    return settings, Check("settings", True, f"valid; default agent {settings.default_agent!r}")


def _plugins(settings: Settings) -> Iterator[Check]:
    from rejoinder.commands.plugins import inspect_plugins

    reports = inspect_plugins(settings)
    broken = [report for report in reports if report.error]
    loaded = sum(report.state != "failed" for report in reports)
    yield Check("plugins", bool(reports) and not broken, f"{loaded} of {len(reports)} load")
    for report in broken:
        yield Check(f"plugin {report.name}", False, report.error or "", "rejoinder plugins list --verbose")


def _models(settings: Settings) -> Iterator[Check]:
    from rejoinder.manager import plugins_of
    from rejoinder.models import ModelCache

    models = plugins_of(settings).models()
    cache = ModelCache(settings.models_dir, models)
    for name, model in models.items():
        if model.embedded:
            status = cache.status(name)
            yield Check(f"model {name}", status == "present", status, f"rejoinder models pull {name}")


async def _names(settings: Settings) -> list[Check]:
    """What is misspelt, as a server that starts would say it; then the agents."""
    from rejoinder.app import Runtime
    from rejoinder.providers import KINDS
    from rejoinder.store import schema

    # As the server would be made, but never entered.
    runtime = Runtime(settings, listens=True)
    found = runtime.examine()
    try:
        # Only read: a database that is not as it must be is the business of another check.
        there = (await schema.check(schema.parse_url(settings.database_url))).state is schema.SchemaState.CURRENT
        if there:
            await runtime.store.open()
        await found.settle(runtime.catalog.stored if there else None, runtime.fixed_agents)
        stored = {one.name for one in await runtime.catalog.stored.all()} if there else set()
    except StoreError:
        await found.settle(None, runtime.fixed_agents)
        stored = set()
    finally:
        await runtime.store.close()
    checks = [Check("names", False, problem) for problem in found.problems]
    checks += [Check("names", False, warning, required=False) for warning in found.warnings]
    for name in sorted({settings.default_agent, *settings.agents} - stored):
        if any(problem.startswith(f"agents.{name}.") for problem in found.problems):
            continue
        agent = runtime.fixed_agents[name]
        checks.append(Check(f"agent {name}", True, ", ".join(one for kind in KINDS for one in agent.names(kind))))
    return checks


async def _database(settings: Settings) -> Check:
    from rejoinder.store import schema

    url = schema.parse_url(settings.database_url)
    status = await schema.check(url)
    if status.state is schema.SchemaState.CURRENT:
        return Check("database", True, f"reachable, schema {status.revision}")
    by_itself = status.state is not schema.SchemaState.UNKNOWN and url.get_backend_name() == "sqlite"
    if by_itself:
        return Check("database", True, f"{status.state.value}; `rejoinder serve` brings it to schema {status.head}")
    raise schema.mismatch(status, url)


def _port(settings: Settings) -> Check:
    import socket

    address = f"{settings.host}:{settings.port}"
    if serves_rejoinder(settings.host, settings.port):
        return Check("port", True, f"a Rejoinder server is running at {address}")
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            fix = "Stop what listens there, or choose another: rejoinder serve --port 8081"
            return Check("port", False, f"{address} cannot be used ({error.strerror})", fix)
    return Check("port", True, f"{address} is free")


def serves_rejoinder(host: str, port: int, timeout: float = PROBE_S) -> bool:
    """Whether `GET /livez` there is answered with 200 within `timeout` s."""
    import http.client

    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _audio() -> Check:
    from rejoinder.commands.devices import check_devices

    try:
        check_devices()
    except RejoinderError as error:
        return Check("audio device", False, error.message, error.fix or "", required=False)
    return Check("audio device", True, "microphone and loudspeaker open", required=False)
