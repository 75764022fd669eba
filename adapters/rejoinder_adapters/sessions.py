"""Finds the session that a request names: live, in the log, or waiting in its room; or says why not."""

from __future__ import annotations

from typing import Any, Literal, overload

from litestar.connection import ASGIConnection

from rejoinder.app import Runtime
from rejoinder.errors import SessionError
from rejoinder.host import Origin
from rejoinder.session import Session
from rejoinder.store.records import SessionRecord

_CLIENT_CHARS = 300
"""Of a User-Agent, which may be anything at all."""


async def stored_session(runtime: Runtime, session_id: str) -> SessionRecord:
    """What is stored of the session called `session_id`.

    Raises:
        SessionError: there is none (`unknown_session`), nobody has joined its room yet (`session_not_started`), or ever
            will (`room_expired`).
    """
    session = await runtime.store.session(session_id)
    if session is not None:
        return session
    if (room := await runtime.store.room_of_session(session_id)) is not None:
        if room.expires_at < runtime.clock.wall_ms():
            raise SessionError(
                f"The room {room.id} has expired, and nobody had joined it.",
                code="room_expired",
                fix="POST /v1/rooms makes a new one.",
            )
        raise SessionError(
            f"The session {session_id!r} has not started: nobody has joined its room yet.",
            code="session_not_started",
            fix="Connect to the room's join.ws, or POST a message.",
            retryable=True,
        )
    raise SessionError(
        f"There is no session {session_id!r}.", code="unknown_session", fix="GET /v1/sessions lists them."
    )


def origin_of(connection: ASGIConnection[Any, Any, Any, Any], channel: str) -> Origin:
    """How whoever has made `connection` comes, for the sessions that begin with it."""
    return Origin(channel, connection.headers.get("user-agent", "")[:_CLIENT_CHARS])


@overload
async def live_session(
    runtime: Runtime,
    session_id: str,
    *,
    start: bool = True,
    written: bool = True,
    may_be_over: Literal[False] = False,
    origin: Origin | None = None,
) -> Session: ...
@overload
async def live_session(
    runtime: Runtime,
    session_id: str,
    *,
    start: bool = True,
    written: bool = True,
    may_be_over: bool,
    origin: Origin | None = None,
) -> Session | None: ...
async def live_session(
    runtime: Runtime,
    session_id: str,
    *,
    start: bool = True,
    written: bool = True,
    may_be_over: bool = False,
    origin: Origin | None = None,
) -> Session | None:
    """The live session called `session_id`; with `start`, that of a room begins now if this is the first who comes
    (`written`: with a message), who is of that `origin`.

    Raises:
        SessionError: there is none (`unknown_session`), it has not begun (`session_not_started`), its room has expired
            (`room_expired`), or, unless it `may_be_over`, it is (`session_over`).
    """
    if session := runtime.sessions.get(session_id):
        return session
    if start and await runtime.store.session(session_id) is None and await runtime.store.room_of_session(session_id):
        return await runtime.join(session_id, written=written, origin=origin)
    await stored_session(runtime, session_id)
    if may_be_over:
        return None
    raise SessionError(f"The session {session_id!r} is over.", code="session_over", fix="Start a new one.")
