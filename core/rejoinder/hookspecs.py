"""The hooks a plugin may implement: one function and a few sentences each. All are optional and called by keyword.

An implementation takes the arguments it wants and leaves out the others. Hooks are called in this order: those marked
`@hookimpl(tryfirst=True)`, then the built-in plugins, then those of other packages by the names of their entry points,
then modules in the order of `plugin_modules`, then files by name; last those marked `@hookimpl(trylast=True)`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import msgspec

    from rejoinder.events import ServerEvent
    from rejoinder.providers import LlmRequest, ModelFile, Provider, Tool, ToolSource
    from rejoinder.settings import Agent

API_VERSION = "1.0"
"""Of these hooks and of the protocols in `rejoinder.providers`. The minor number grows with what is added, the major
one with what is taken away or changes its meaning. A plugin may say in a variable `REJOINDER_API` which it needs."""
PROJECT = "rejoinder"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

# --- what a plugin offers: called when it is asked for, maybe more than once ----------------------------------------


@hookspec
def register_providers() -> Iterable[Provider]:
    """Return the VAD, STT, turn, interruption, LLM and TTS providers this plugin offers; import nothing heavy yet."""
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
def register_agents() -> Mapping[str, Agent]:
    """Return agents by name; those in the settings win over them, and over REST they cannot be changed."""
    return {}


@hookspec
def register_settings() -> Mapping[str, type[msgspec.Struct]]:
    """Return the schemas of sections `[plugins.NAME]` by name, besides those of this plugin's providers and tools.

    They are checked before the server starts; `runtime.section(NAME, Schema)` reads one.
    """
    return {}


@hookspec
def register_models() -> Iterable[ModelFile]:
    """Return the model files that `rejoinder models` lists, pulls and verifies."""
    return ()


@hookspec
def register_routes(runtime: Any) -> Iterable[Any]:
    """Return Litestar route handlers that the server mounts; `runtime` is the `rejoinder.app.Runtime` they serve."""
    return ()


# --- its life -------------------------------------------------------------------------------------------------------


@hookspec
def startup(runtime: Any) -> Awaitable[None] | None:
    """Get ready; called once before the server takes sessions, in order. May be `async`; has 10 s."""


@hookspec
def shutdown(runtime: Any) -> Awaitable[None] | None:
    """Free everything; called once after the last session, in reverse order. May be `async`; has 5 s."""


@hookspec
def health() -> Awaitable[str | None] | str | None:
    """Return None or "" if all is well, else one line that says what is not; a failure of it counts as such a line.

    Asked by `GET /v1/plugins`, at most every 5 s. May be `async`; has 1 s.
    """


# --- conversations: called on the event loop while somebody waits ---------------------------------------------------


@hookspec
def on_event(session_id: str, event: ServerEvent) -> None:
    """See every event of every session as it is published. Return within a millisecond, and do not change it."""


@hookspec
def before_llm(session_id: str, agent: str, request: LlmRequest) -> Awaitable[LlmRequest | None] | LlmRequest | None:
    """Return what the LLM is to be sent instead of `request`, or None to leave it; called before each request.

    The journal keeps what was really said. May be `async`, then it has `limits.hook_ms` - and every answer waits for
    it. While there is such a plugin, the LLM cannot read the turn ahead while it is spoken.
    """


@hookspec
def before_tts(session_id: str, agent: str, text: str) -> str | None:
    """Return how a chunk of the answer (about a sentence) is to be spoken, "" for not at all, None for as it is.

    What is shown and stored keeps the text as the LLM wrote it; what is left out counts as not heard.
    """


@hookspec
def before_storage(session_id: str, text: str) -> str | None:
    """Return `text` as it may be stored in SQL and sent to webhooks, None to leave it: for redaction.

    Called for each text of an event (what the user said, the answer, arguments and results of tools) and of what the
    LLM was sent, which is stored with each reply (`store_llm_requests`). While there is such a plugin, pieces of texts
    (`reply.text`, `user.interruption`, transcripts that are not final) are stored without their text, since what is to
    be hidden may lie across their borders. If it fails, the text is not stored at all; see `required_plugins` for one
    that is not there.
    """
