"""The REST adapter: agents, documents, rooms, sessions, keys, webhooks, plugins, metrics, health; a module for each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rejoinder.app import Runtime
from rejoinder.hookspecs import hookimpl
from rejoinder_adapters.rest import agents, health, keys, knowledge, metrics, plugins, rooms, sessions, webhooks

_PARTS = (agents, knowledge, rooms, sessions, keys, webhooks, plugins, metrics, health)


@hookimpl
def register_routes(runtime: Runtime) -> Iterable[Any]:
    """All of them."""
    return [route for part in _PARTS for route in part.routes(runtime)]
