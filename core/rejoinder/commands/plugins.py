"""`rejoinder plugins`: which there are, what they offer and why one does not load; new ones, and their tests."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import click
import msgspec

from rejoinder.commands.report import table
from rejoinder.errors import UnknownName

if TYPE_CHECKING:
    from rejoinder.manager import Plugins, Problem, Stage
    from rejoinder.providers import Provider, Tool, ToolSource
    from rejoinder.settings import Settings

_MORE = {"new": "rejoinder.commands.plugin_new", "test": "rejoinder.commands.plugin_test"}
_BARE = ("register_routes", "startup", "shutdown", "health", "on_event", "before_llm", "before_tts", "before_storage")
"""Hooks that say themselves what a plugin does."""
_NOT_OURS = "Give the address under which a Rejoinder server has its /v1."


@dataclass(frozen=True, slots=True)
class PluginReport:
    """One plugin: where it comes from, what it offers (`kind:name`) and what is wrong with it, if anything."""

    name: str
    distribution: str
    version: str
    state: str
    offers: list[str]
    hooks: list[str]
    problems: list[Problem]

    @property
    def error(self) -> str | None:
        """The first problem."""
        return self.problems[0].what if self.problems else None

    def json(self) -> dict[str, object]:
        """As a JSON object."""
        return {
            "name": self.name,
            "distribution": self.distribution,
            "version": self.version,
            "enabled": self.state != "disabled",
            "state": self.state,
            "offers": self.offers,
            "hooks": self.hooks,
            "error": self.error,
            "problems": [
                {
                    "stage": one.stage,
                    "subject": one.subject,
                    "what": one.what,
                    "details": one.details,
                    "at": one.at,
                    "count": one.count,
                }
                for one in self.problems
            ],
        }


def inspect_plugins(settings: Settings, plugins: Plugins | None = None) -> list[PluginReport]:
    """Load every plugin (or take `plugins`), ask what it offers and read its settings; providers are not made."""
    from rejoinder.discovery import find_plugins
    from rejoinder.manager import plugins_of

    plugins = plugins or plugins_of(settings)
    _configure(plugins, settings)
    reports = []
    for name, distribution, version, _ in find_plugins(settings.plugins_dir, settings.plugin_modules):
        if name in settings.disabled_plugins:
            reports.append(PluginReport(name, distribution, version, "disabled", [], [], []))
            continue
        info = plugins.infos[name]
        offers, hooks = (list(_offers(plugins, name)), plugins.hooks_of(name)) if info.loaded else ([], [])
        reports.append(PluginReport(name, distribution, version, info.state, offers, hooks, info.problems))
    return reports


class _Trouble(msgspec.Struct):
    stage: str
    subject: str
    what: str
    details: str = ""
    at: int = 0
    count: int = 1


class _Plugin(msgspec.Struct):
    name: str
    distribution: str
    version: str
    state: str
    hooks: list[str]
    problems: list[_Trouble]
    health: str | None = None


class _Offer(msgspec.Struct):
    name: str
    plugin: str
    kind: str = "tool"


class _Answer(msgspec.Struct):
    """What is read of `GET /v1/plugins`; a newer server may say more."""

    plugins: list[_Plugin]
    providers: list[_Offer]
    tools: list[_Offer]


class _Refusal(msgspec.Struct):
    detail: str | None = None
    code: str | None = None


def ask_server(url: str) -> list[PluginReport]:
    """What the server at `url` says of its plugins; the key is that of `REJOINDER_API_KEY`, or the developer's.

    Raises:
        Unreachable: there is no server, no Rejoinder server, or it cannot answer now.
        AuthError: it wants another key.
    """
    import httpx

    from rejoinder.dial import API_KEY_VARIABLE, Unreachable, credential_for
    from rejoinder.errors import AuthError, sentence
    from rejoinder.manager import Problem

    key = credential_for(url)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.get(f"{url.rstrip('/')}/v1/plugins", headers=headers, timeout=10)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        fix = "Start one: `rejoinder serve`."
        raise Unreachable(f"There is no Rejoinder server at {url}: {error}.", fix=fix) from None
    if answer.status_code != 200:
        refusal = _refusal(answer.content)
        what = f"{url} answered {answer.status_code}: {sentence(refusal.detail or answer.reason_phrase)}"
        if answer.status_code in (401, 403):
            fix = f"Set {API_KEY_VARIABLE} to a key with the scope read; tracebacks need admin."
            raise AuthError(what, code=refusal.code, fix=fix)
        if answer.status_code >= 500:
            raise Unreachable(what, fix="Try again in a moment, or look into the server's log.")
        raise Unreachable(what, fix=_NOT_OURS)
    try:
        found = msgspec.json.decode(answer.content, type=_Answer)
    except msgspec.DecodeError as error:
        what = f"What answers at {url} is no Rejoinder server: {sentence(str(error))}"
        raise Unreachable(what, fix=_NOT_OURS) from None
    offers: dict[str, list[str]] = {}
    for offer in (*found.providers, *found.tools):
        offers.setdefault(offer.plugin, []).append(f"{offer.kind}:{offer.name}")
    reports = []
    for one in found.plugins:
        problems = [
            Problem(cast("Stage", told.stage), told.subject, told.what, told.details, told.at, told.count)
            for told in one.problems
        ]
        if one.health:
            problems.append(Problem("health", "", one.health))
        own = offers.get(one.name, [])
        reports.append(PluginReport(one.name, one.distribution, one.version, one.state, own, one.hooks, problems))
    return reports


def _refusal(body: bytes) -> _Refusal:
    """What a server says of why it did not answer, if that is a problem of ours."""
    try:
        return msgspec.json.decode(body, type=_Refusal)
    except msgspec.DecodeError:
        return _Refusal()


def _configure(plugins: Plugins, settings: Settings) -> None:
    """Ask for all that is offered, and read the settings of what has any."""
    from rejoinder.errors import ConfigError
    from rejoinder.toolbox import read_section

    plugins.agents()
    plugins.models()
    schemas = plugins.schemas()
    configured: list[tuple[str, Provider | Tool | ToolSource]] = [(offer.kind, offer) for offer in plugins.providers()]
    configured += [("tool", tool) for tool in plugins.tools().values()]
    configured += [("tools", source) for source in plugins.tool_sources()]
    for name, schema in plugins.settings().items():
        try:
            read_section(settings.plugins, name, schema, schemas.get(name, ()))
        except ConfigError as error:
            plugins.report(plugins.owner("settings", name), "configure", f"settings:{name}", error)
    for kind, offer in configured:
        try:
            read_section(settings.plugins, offer.name, offer.settings, schemas.get(offer.name, ()))
        except ConfigError as error:
            plugins.report(plugins.owner(kind, offer.name), "configure", f"{kind}:{offer.name}", error)


def _offers(plugins: Plugins, name: str) -> Iterator[str]:
    """What the plugin called `name` offers, as `kind:name`."""
    yield from (f"{offer.kind}:{offer.name}" for offer in plugins.offers(name))
    for kind, names in (
        ("tool", plugins.tools()),
        ("tools", [source.name for source in plugins.tool_sources()]),
        ("settings", plugins.settings()),
        ("agent", plugins.agents()),
        ("model", plugins.models()),
    ):
        yield from (f"{kind}:{one}" for one in names if plugins.owner(kind, one) == name)


class _Commands(click.Group):
    """Imports what is seldom wanted only then."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *_MORE]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MORE:
            return super().get_command(ctx, cmd_name)
        found: click.Command = importlib.import_module(_MORE[cmd_name]).command
        return found


@click.group("plugins", cls=_Commands)
def command() -> None:
    """See the plugins, write a new one, test it."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.option("-v", "--verbose", is_flag=True, help="Show the tracebacks of plugins that fail.")
@click.option("--url", help="Ask the server that runs there: it knows what went wrong since it was started.")
@click.pass_context
def list_plugins(ctx: click.Context, as_json: bool, verbose: bool, url: str | None) -> None:
    """List the plugins and what each offers; exit code 1 if something is wrong with one.

    Without --url they are loaded as a server that is started here would do it; models are not.
    """
    from rejoinder.settings import load_settings

    reports = ask_server(url) if url else inspect_plugins(load_settings())
    if as_json:
        click.echo(json.dumps([report.json() for report in reports], indent=2))
    else:
        rows = []
        for report in reports:
            does = [*report.offers, *(hook for hook in report.hooks if hook in _BARE)]
            rows.append(
                (report.name, report.distribution, report.version, report.state, report.error or ", ".join(does))
            )
        click.echo(table(("name", "distribution", "version", "state", "offers"), rows, words=5))
    for report in reports:
        for problem in report.problems if verbose else ():
            click.echo(f"\n{report.name}, {problem.stage} {problem.subject}:\n{problem.details}", err=True)
    if any(report.problems for report in reports):
        ctx.exit(1)


@command.command("info")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def info_command(name: str, as_json: bool) -> None:
    """Show what the plugin NAME offers: capabilities, settings and where to set them, hooks, problems."""
    from rejoinder.manager import plugins_of
    from rejoinder.providers import KINDS
    from rejoinder.settings import load_settings

    settings = load_settings()
    plugins = plugins_of(settings)
    reports = {report.name: report for report in inspect_plugins(settings, plugins)}
    if name not in reports:
        raise UnknownName("plugin", name, reports, fix="`rejoinder plugins list` shows all of them.")
    report = reports[name]
    details = [_describe(offer) for offer in plugins.offers(name)] if report.state != "disabled" else []
    if as_json:
        click.echo(json.dumps({**report.json(), "providers": details}, indent=2))
        return
    click.echo(f"{name} {report.version} ({report.distribution}): {report.state}")
    for problem in report.problems:
        click.echo(f"  {problem.stage} {problem.subject}: {problem.what}")
    if report.offers:
        click.echo(f"offers  {', '.join(report.offers)}")
    if report.hooks:
        click.echo(f"hooks   {', '.join(report.hooks)}")
    for one in details:
        click.echo(f"\n{one['kind']}:{one['name']}  {one['summary']}")
        for key, value in one["capabilities"].items():
            click.echo(f"  {key}: {', '.join(map(str, value)) if isinstance(value, tuple) else value}")
    for section, schemas in plugins.schemas().items():
        if any(plugins.owner(kind, section) == name for kind in (*KINDS, "tool", "tools", "settings")):
            _show_settings(section, schemas)


def _show_settings(section: str, schemas: list[type[msgspec.Struct]]) -> None:
    """What can be set in `[plugins.SECTION]`, which several may share, and by which variable."""
    from rejoinder.manager import settings_schema
    from rejoinder.settings import ENV_PREFIX

    keys: dict[str, Any] = {}
    for schema in schemas:
        keys |= settings_schema(schema).get("properties", {})
    rows = []
    for key, value in keys.items():
        default = "(secret)" if value.get("writeOnly") else json.dumps(value.get("default"))
        rows.append((key, default, f"{ENV_PREFIX}PLUGINS__{section.upper()}__{key.upper()}"))
    if rows:
        click.echo("\n" + table((f"[plugins.{section}]", "default", "or in the environment"), rows, words=3))


def _describe(offer: Provider) -> dict[str, Any]:
    from dataclasses import asdict

    from rejoinder.manager import settings_schema

    stated = asdict(offer.capabilities)
    return {
        "kind": offer.kind,
        "name": offer.name,
        "summary": offer.summary,
        "capabilities": {key: value for key, value in stated.items() if value not in (None, (), False)},
        "settings": settings_schema(offer.settings),
    }


@command.command("hooks")
@click.argument("name", required=False)
def hooks_command(name: str | None) -> None:
    """List the hooks, what each is for and who implements it; all about one with its NAME."""
    from rejoinder import hookspecs
    from rejoinder.manager import hook_names, plugins_of
    from rejoinder.settings import load_settings

    plugins, known = plugins_of(load_settings()), hook_names()
    if name is not None and name not in known:
        raise UnknownName("hook", name, known)
    texts = {hook: inspect.getdoc(getattr(hookspecs, hook)) or "" for hook in known}
    order = {hook: ", ".join(impl.plugin for impl in plugins.implementations(hook)) for hook in known}
    if name is not None:
        click.echo(f"{name}{inspect.signature(getattr(hookspecs, name))}\n\n{texts[name]}\n")
        click.echo(f"called in this order: {order[name] or 'nobody implements it'}")
        return
    rows = [(hook, " ".join(texts[hook].split("\n\n")[0].split()), order[hook]) for hook in known]
    click.echo(f"plugin API {hookspecs.API_VERSION}")
    click.echo(table(("hook", "what it is for", "plugins, in order"), rows, words=3))
