"""What is installed: plugins with what is wrong with them, the providers and tools that agents may name."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import get

from rejoinder.app import Runtime
from rejoinder_adapters.security import needs


class Plugin(msgspec.Struct):
    """A plugin as found; `error` is None for one that works."""

    name: str
    distribution: str
    version: str
    error: str | None


class ProviderOffer(msgspec.Struct):
    """A provider that agents may name."""

    kind: str
    name: str
    summary: str


class ToolOffer(msgspec.Struct):
    """A tool that agents may name; `parameters` is a JSON Schema."""

    name: str
    description: str
    side_effects: bool
    parameters: dict[str, Any]


class Offer(msgspec.Struct):
    """All of it."""

    plugins: list[Plugin]
    providers: list[ProviderOffer]
    tools: list[ToolOffer]


def routes(runtime: Runtime) -> list[Any]:
    """`/v1/plugins`."""

    @get("/v1/plugins", guards=[needs("read")])
    async def list_plugins() -> Offer:
        """The plugins of this server, and what agents may name."""
        found = runtime.plugins
        providers, tools = found.providers(), found.tools().values()
        return Offer(
            [Plugin(i.name, i.distribution, i.version, i.error) for i in sorted(found.infos.values(), key=_name)],
            [ProviderOffer(p.kind, p.name, p.summary) for p in providers],
            [ToolOffer(t.name, t.description, t.side_effects, dict(t.parameters)) for t in sorted(tools, key=_name)],
        )

    return [list_plugins]


def _name(named: Any) -> str:
    name: str = named.name
    return name
