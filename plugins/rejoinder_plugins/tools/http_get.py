"""The tool http_get and its settings: it reads pages and APIs of the hosts that the settings allow."""

from __future__ import annotations

import asyncio
import importlib
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from rejoinder.providers import ToolContext
from rejoinder.tooling import tool


class HttpGetSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[plugins.http_get]`."""

    allow: tuple[str, ...] = ()
    """Hosts: `api.example.com`, on a port of its own `api.example.com:8443`, all below one `*.example.org`, all `*`."""
    allow_private: bool = False
    """Hosts that are named in full may have private and loopback addresses."""
    timeout_s: float = 8.0
    """For all of it: redirects, connecting, reading."""
    max_bytes: int = 262_144
    """Of a body, this much is read."""
    max_chars: int = 4_000
    """Of its text, the model is told this much."""

    def __post_init__(self) -> None:
        for entry in self.allow:
            if not entry.strip() or "/" in entry or "@" in entry:
                raise ValueError(f"allow: {entry!r} is no host; write e.g. api.example.com or *.example.org")
            _ = urlsplit(f"//{entry}").port  # raises where it is none


@tool(side_effects=False, settings=HttpGetSettings, max_result_chars=100_000)
async def http_get(
    url: Annotated[str, "The full address, for example https://api.example.com/v1/status?city=Paris"],
    context: ToolContext,
) -> str:
    """Reads a web page or a JSON API with GET and returns its text."""
    # Loaded when it is first needed, and not on the event loop: it takes a tenth of a second.
    await asyncio.to_thread(importlib.import_module, "rejoinder_plugins.tools.fetching")
    from rejoinder_plugins.tools.fetching import fetch

    return await fetch(url, context.settings)
