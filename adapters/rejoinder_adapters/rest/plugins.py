"""What is installed: plugins with what is wrong with them, the providers and tools that agents may name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import msgspec
from litestar import Request, get

from rejoinder.app import Runtime
from rejoinder.manager import PluginInfo, settings_schema
from rejoinder.providers import Provider, Tool
from rejoinder_adapters.security import needs, principal_of

_LONGEST_HEALTH = 500
"""Characters that a plugin may say of its health."""


class Trouble(msgspec.Struct):
    """What went wrong with a plugin; `at` (Unix ms) and the texts are of the last time, `count` says how often.

    `subject` is the part of it: `tts:acme`, the name of a hook, "" for all of it. `details`, traceback or place,
    is for those with the scope `admin`; others get "".
    """

    stage: str
    subject: str
    what: str
    details: str
    at: int
    count: int


class Plugin(msgspec.Struct):
    """A plugin as found. `state` is `ok`, `degraded` (a part of it failed) or `failed` (none of it is in use).

    `error` is the first problem, None for a plugin that works; `health` what it says itself is not well.
    """

    name: str
    distribution: str
    version: str
    state: str
    hooks: list[str]
    error: str | None
    problems: list[Trouble]
    health: str | None


class ProviderOffer(msgspec.Struct):
    """A provider that agents may name; `settings` is a JSON Schema of `[plugins.NAME]`, secrets are `writeOnly`."""

    kind: str
    name: str
    summary: str
    plugin: str
    capabilities: dict[str, Any]
    settings: dict[str, Any]


class ToolOffer(msgspec.Struct):
    """A tool that agents may name; `parameters` is a JSON Schema."""

    name: str
    description: str
    side_effects: bool
    plugin: str
    parameters: dict[str, Any]


class Offer(msgspec.Struct):
    """All of it."""

    plugins: list[Plugin]
    providers: list[ProviderOffer]
    tools: list[ToolOffer]


def routes(runtime: Runtime) -> list[Any]:
    """`/v1/plugins`."""
    found = runtime.plugins

    def provider(offer: Provider) -> ProviderOffer:
        owner = found.owner(offer.kind, offer.name)
        capabilities, schema = _object(lambda: _capabilities(offer)), _object(lambda: settings_schema(offer.settings))
        return ProviderOffer(offer.kind, _text(offer.name), _text(offer.summary), owner, capabilities, schema)

    def tool(offer: Tool) -> ToolOffer:
        owner, parameters = found.owner("tool", offer.name), _object(lambda: offer.parameters)
        return ToolOffer(_text(offer.name), _text(offer.description), bool(offer.side_effects), owner, parameters)

    def plugin(info: PluginInfo, health: object, trusted: bool) -> Plugin:
        troubles = [
            Trouble(one.stage, one.subject, one.what, one.details if trusted else "", one.at, one.count)
            for one in info.problems
        ]
        said = None if health is None else _text(health)[:_LONGEST_HEALTH]
        state = "degraded" if info.state == "ok" and said else info.state
        hooks = found.hooks_of(info.name)
        return Plugin(info.name, info.distribution, info.version, state, hooks, info.error, troubles, said)

    @get("/v1/plugins", guards=[needs("read")])
    async def list_plugins(request: Request[Any, Any, Any]) -> Offer:
        """The plugins of this server, how they do, and what agents may name."""
        providers, tools = found.providers(), found.tools().values()
        health = await runtime.health()
        trusted = (await principal_of(request)).may("admin")
        return Offer(
            [plugin(info, health.get(info.name), trusted) for info in sorted(found.infos.values(), key=_name)],
            [provider(offer) for offer in providers],
            [tool(offer) for offer in sorted(tools, key=_name)],
        )

    return [list_plugins]


def _capabilities(offer: Provider) -> dict[str, Any]:
    return {key: value for key, value in asdict(offer.capabilities).items() if value is not None}


def _object(make: Callable[[], object]) -> dict[str, Any]:
    """What `make` returns as a JSON object; {} for what is none, since a stranger made it."""
    try:
        return msgspec.json.decode(msgspec.json.encode(make()), type=dict[str, Any])
    except Exception:  # noqa: BLE001 - the kit tells the author; the others are to be seen
        return {}


def _text(value: object) -> str:
    """`value` as a text that can be sent; a stranger made it."""
    try:
        return str(value).encode(errors="replace").decode()
    except Exception:  # noqa: BLE001 - as in `_object`
        return type(value).__name__


def _name(named: Any) -> str:
    return _text(named.name)
