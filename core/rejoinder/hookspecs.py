"""The hooks a plugin may implement: one function and one sentence each. All are optional and called by keyword."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from rejoinder.events import ServerEvent
    from rejoinder.providers import ModelFile, Provider, Tool, ToolSource

PROJECT = "rejoinder"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_providers() -> Iterable[Provider]:
    """Return the VAD, STT, LLM and TTS providers this plugin offers; nothing heavy may be imported yet."""
    return ()


@hookspec
def register_tools() -> Iterable[Tool]:
    """Return the tools agents may name in their `tools`; without this hook they are the module's own `@tool`s."""
    return ()


@hookspec
def register_tool_sources(runtime: Any) -> Iterable[ToolSource]:
    """Return sources of tools that need a running server or are only known while it runs, as those of another server.

    `runtime` is the `rejoinder.app.Runtime` they serve, not started yet; None where they are only listed.
    """
    return ()


@hookspec
def register_models() -> Iterable[ModelFile]:
    """Return the model files that `rejoinder models` lists, pulls and verifies."""
    return ()


@hookspec
def register_routes(runtime: Any) -> Iterable[Any]:
    """Return Litestar route handlers that the server mounts; `runtime` is the `rejoinder.app.Runtime` they serve."""
    return ()


@hookspec
def on_event(session_id: str, event: ServerEvent) -> None:
    """See every event of every session as it is published; called on the event loop, so return within a millisecond."""
