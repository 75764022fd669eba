"""The REST adapter: agents, rooms, sessions, keys, accounts, webhooks, plugins and the like; a module for each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rejoinder.app import Runtime
from rejoinder.hookspecs import hookimpl
from rejoinder_adapters import listen, stream, talkroom
from rejoinder_adapters.rest import (
    agents,
    audit,
    figures,
    health,
    keys,
    knowledge,
    metrics,
    nodes,
    plugins,
    recordings,
    rooms,
    sessions,
    settings,
    steering,
    users,
    webhooks,
)

_PARTS = (
    agents,
    knowledge,
    rooms,
    talkroom,
    sessions,
    figures,
    recordings,
    steering,
    listen,
    stream,
    keys,
    users,
    audit,
    webhooks,
    plugins,
    nodes,
    settings,
    metrics,
    health,
)


@hookimpl
def register_routes(runtime: Runtime) -> Iterable[Any]:
    """All of them."""
    return [route for part in _PARTS for route in part.routes(runtime)]
