"""What is installed: plugins with what is wrong with them, the providers and tools that agents may name."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import msgspec
from litestar import Request, get

from rejoinder.app import Runtime
from rejoinder.manager import PluginInfo, settings_schema
from rejoinder.providers import Provider
from rejoinder_adapters.security import needs, principal_of


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
        capabilities = {key: value for key, value in asdict(offer.capabilities).items() if value is not None}
        owner, schema = found.owner(offer.kind, offer.name), settings_schema(offer.settings)
        return ProviderOffer(offer.kind, offer.name, offer.summary, owner, capabilities, schema)

    def plugin(info: PluginInfo, health: str | None, trusted: bool) -> Plugin:
        troubles = [
            Trouble(one.stage, one.subject, one.what, one.details if trusted else "", one.at, one.count)
            for one in info.problems
        ]
        state = "degraded" if info.state == "ok" and health else info.state
        hooks = found.hooks_of(info.name)
        return Plugin(info.name, info.distribution, info.version, state, hooks, info.error, troubles, health)

    @get("/v1/plugins", guards=[needs("read")])
    async def list_plugins(request: Request[Any, Any, Any]) -> Offer:
        """The plugins of this server, how they do, and what agents may name."""
        providers, tools = found.providers(), found.tools().values()
        health = await runtime.health()
        trusted = (await principal_of(request)).may("admin")
        return Offer(
            [plugin(info, health.get(info.name), trusted) for info in sorted(found.infos.values(), key=_name)],
            [provider(offer) for offer in providers],
            [
                ToolOffer(t.name, t.description, t.side_effects, found.owner("tool", t.name), dict(t.parameters))
                for t in sorted(tools, key=_name)
            ],
        )

    return [list_plugins]


def _name(named: Any) -> str:
    name: str = named.name
    return name
