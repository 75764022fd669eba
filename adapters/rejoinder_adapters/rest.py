"""The REST adapter: make rooms, read sessions back, interrupt an agent or have it say something, check the server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from litestar import MediaType, Request, Response, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from rejoinder import __version__
from rejoinder.app import Runtime
from rejoinder.errors import SessionError
from rejoinder.hookspecs import hookimpl
from rejoinder.session import Session
from rejoinder.store.records import (
    InterruptionRecord,
    MessageRecord,
    RoomRecord,
    SessionRecord,
    TurnRecord,
    counts_of,
)

Limit = Annotated[int, QueryParameter(ge=1, le=200)]


class NewRoom(msgspec.Struct, forbid_unknown_fields=True):
    """What a room is made of; without an agent it is the server's default one."""

    agent: str | None = None


class Join(msgspec.Struct):
    """Where to connect to."""

    ws: str


class Room(msgspec.Struct):
    """A room and how to join it; times are Unix ms."""

    id: str
    agent: str
    session_id: str
    created_at: int
    expires_at: int
    join: Join


class ToSay(msgspec.Struct, forbid_unknown_fields=True):
    """What the agent is to say."""

    text: str


class Page(msgspec.Struct):
    """Sessions, newest first; `next_cursor` is the `before` of the next page."""

    items: list[SessionRecord]
    next_cursor: str | None


class SessionDetail(msgspec.Struct):
    """A session with all that was said, and how long it took; of a `live` one, so far."""

    session: SessionRecord
    live: bool
    turns: list[TurnRecord]
    messages: list[MessageRecord]
    interruptions: list[InterruptionRecord]


class EventPage(msgspec.Struct):
    """Events in order; `next_cursor` is the `after` of the next page."""

    items: list[msgspec.Raw]
    next_cursor: int | None


def _room(record: RoomRecord, request: Request[Any, Any, Any]) -> Room:
    base = str(request.base_url).rstrip("/").replace("http", "ws", 1)
    return Room(
        record.id,
        record.agent,
        record.session_id,
        record.created_at,
        record.expires_at,
        Join(f"{base}/v1/sessions/{record.session_id}/ws"),
    )


@hookimpl
def register_routes(runtime: Runtime) -> Iterable[Any]:
    """`/v1/rooms`, `/v1/sessions`, `/livez`, `/readyz` and `/version`."""
    store = runtime.store

    @post("/v1/rooms", status_code=201)
    async def create_room(request: Request[Any, Any, Any], data: JSONBody[NewRoom | None] = None) -> Room:
        """Make a room; its session starts when somebody joins."""
        return _room(await runtime.create_room(data.agent if data else None), request)

    @get("/v1/rooms/{room_id:str}")
    async def get_room(room_id: FromPath[str], request: Request[Any, Any, Any]) -> Room:
        """A room."""
        record = await store.room(room_id)
        if record is None:
            raise SessionError(f"There is no room {room_id!r}.", code="unknown_room", fix="POST /v1/rooms makes one.")
        return _room(record, request)

    @get("/v1/sessions")
    async def list_sessions(
        limit: Limit = 50, before: FromQuery[str | None] = None, agent: FromQuery[str | None] = None
    ) -> Page:
        """Sessions, newest first."""
        items = [_measured(record) for record in await store.sessions(limit=limit, before=before, agent=agent)]
        return Page(items, items[-1].id if len(items) == limit else None)

    @get("/v1/sessions/{session_id:str}")
    async def get_session(session_id: FromPath[str]) -> SessionDetail:
        """A session with its metrics, its turns with spans and tool calls, its messages and interruptions."""
        session = _measured(await _session(session_id))
        return SessionDetail(
            session,
            session_id in runtime.sessions,
            await store.turns(session_id),
            await store.messages(session_id),
            await store.interruptions(session_id),
        )

    @post("/v1/sessions/{session_id:str}/interrupt", status_code=204)
    async def interrupt(session_id: FromPath[str]) -> None:
        """Stop what the agent is saying."""
        (await _live(session_id)).interrupt()

    @post("/v1/sessions/{session_id:str}/say", status_code=202)
    async def say(session_id: FromPath[str], data: JSONBody[ToSay]) -> Response[bytes]:
        """Have the agent say this, at once."""
        (await _live(session_id)).say(data.text)
        return Response(b"", media_type=MediaType.TEXT)

    @get("/v1/sessions/{session_id:str}/turns")
    async def get_turns(session_id: FromPath[str]) -> list[TurnRecord]:
        """The turns of a session, with spans and tool calls."""
        await _session(session_id)
        return await store.turns(session_id)

    @get("/v1/sessions/{session_id:str}/events")
    async def get_events(session_id: FromPath[str], after: FromQuery[int] = 0, limit: Limit = 200) -> EventPage:
        """The events of a session, as they were published."""
        await _session(session_id)
        events = await store.events(session_id, after_seq=after, limit=limit)
        items = [msgspec.Raw(event.data.encode()) for event in events]
        return EventPage(items, events[-1].seq if len(events) == limit else None)

    @get("/livez")
    async def livez() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @get("/readyz")
    async def readyz() -> Response[dict[str, Any]]:
        """New sessions are welcome and what is said is stored."""
        stored, error = store.writer.health()
        ready = stored and not runtime.draining
        body: dict[str, Any] = {
            "status": "ok" if ready else "not ready",
            "draining": runtime.draining,
            "sessions": len(runtime.sessions),
            "store": "ok" if error is None else error.explain(),
        }
        return Response(body, status_code=200 if ready else 503)

    @get("/version")
    async def version() -> dict[str, str]:
        """What runs here."""
        return {"name": "rejoinder", "version": __version__}

    async def _session(session_id: str) -> SessionRecord:
        session = await store.session(session_id)
        if session is None and await store.room_of_session(session_id) is not None:
            raise SessionError(
                f"The session {session_id!r} has not started: nobody has joined its room yet.",
                code="session_not_started",
                fix="Connect to the room's join.ws.",
                retryable=True,
            )
        if session is None:
            raise SessionError(
                f"There is no session {session_id!r}.", code="unknown_session", fix="GET /v1/sessions lists them."
            )
        return session

    async def _live(session_id: str) -> Session:
        if session := runtime.sessions.get(session_id):
            return session
        await _session(session_id)
        raise SessionError(f"The session {session_id!r} is over.", code="session_over", fix="Start a new one.")

    def _measured(record: SessionRecord) -> SessionRecord:
        session = runtime.sessions.get(record.id)
        return msgspec.structs.replace(record, metrics=counts_of(session.metrics)) if session else record

    return [
        create_room, get_room, list_sessions, get_session, get_turns, get_events, interrupt, say, livez, readyz,
        version,
    ]  # fmt: skip
