"""Rooms, the tokens that let people into them, and tickets for what cannot send headers."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, get, post
from litestar.datastructures import State
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from rejoinder.app import Runtime
from rejoinder.auth import Gate, Role
from rejoinder.errors import SessionError
from rejoinder.store.records import RoomRecord
from rejoinder_adapters.security import audit, needs, principal_of

Asked = Request[Any, Any, State]
Limit = Annotated[int, QueryParameter(ge=1, le=200)]
Identity = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
Seconds = Annotated[int, msgspec.Meta(ge=10, le=86_400)]


class NewToken(msgspec.Struct, forbid_unknown_fields=True):
    """Whom a token is for and what it allows in its room; `ttl_s` None is `auth.token_ttl_s`."""

    role: Role = "speaker"
    identity: Identity | None = None
    ttl_s: Seconds | None = None


class NewRoom(NewToken, forbid_unknown_fields=True):
    """What a room is made of (without an agent it is the server's default one), and whom its first token is for."""

    agent: str | None = None
    draft: dict[str, Any] | None = None
    """The definition of an agent that is not stored: only this room has it, under the agent's name with ` (draft)`."""


class Join(msgspec.Struct, omit_defaults=True):
    """How to join: `page` is for a person's browser, `ws` for a client that sends `token` as its Bearer token.

    The token expires at `expires_at` (Unix ms); it is only needed to connect.
    """

    ws: str
    events: str
    page: str | None = None
    token: str | None = None
    role: Role | None = None
    expires_at: int | None = None


class Room(msgspec.Struct):
    """A room and how to join it; times are Unix ms."""

    id: str
    agent: str
    session_id: str
    created_at: int
    expires_at: int
    join: Join


class RoomList(msgspec.Struct):
    """Rooms, newest first; `next_cursor` is the `before` of the next page."""

    items: list[Room]
    next_cursor: str | None


class Renewed(msgspec.Struct):
    """A room token, and when it expires (Unix ms)."""

    token: str
    expires_at: int


class Ticket(msgspec.Struct):
    """Stands for its maker's credential once, in the query `?ticket=`, until `expires_at` (Unix ms)."""

    ticket: str
    expires_at: int


def routes(runtime: Runtime) -> list[Any]:
    """`/v1/rooms` and `/v1/tickets`."""
    store, gate = runtime.store, runtime.gate
    talking = [needs("talk")]

    @post("/v1/rooms", guards=talking)
    async def create_room(request: Asked, data: JSONBody[NewRoom | None] = None) -> Room:
        """Make a room and the first token for it; its session starts when somebody joins."""
        wanted = data or NewRoom()
        await _check(request, wanted)
        if wanted.draft is not None:
            # With instructions and tools as one likes: for those who may define agents.
            (await principal_of(request)).check("agents")
            record = await runtime.create_draft_room(wanted.agent, wanted.draft)
        else:
            record = await runtime.create_room(wanted.agent)
        audit(request, "room.create", record.id, agent=record.agent, session=record.session_id, role=wanted.role)
        return room_of(record, request, joined(gate, record, request, wanted))

    @get("/v1/rooms", guards=[needs("read")])
    async def list_rooms(request: Asked, limit: Limit = 50, before: FromQuery[str | None] = None) -> RoomList:
        """Rooms, newest first."""
        records = await store.rooms(limit=limit, before=before)
        items = [room_of(record, request) for record in records]
        return RoomList(items, items[-1].id if len(items) == limit else None)

    @get("/v1/rooms/{room_id:str}", guards=[needs("read")])
    async def get_room(room_id: FromPath[str], request: Asked) -> Room:
        """A room."""
        return room_of(await _record(room_id), request)

    @post("/v1/rooms/{room_id:str}/tokens", guards=talking, operation_id="create_room_token")
    async def create_token(room_id: FromPath[str], request: Asked, data: JSONBody[NewToken | None] = None) -> Join:
        """Make another token for a room."""
        wanted = data or NewToken()
        await _check(request, wanted)
        record = await _record(room_id)
        await _check_open(record)
        audit(request, "room.token", record.id, role=wanted.role, identity=wanted.identity)
        return joined(gate, record, request, wanted)

    @post("/v1/sessions/{session_id:str}/token", guards=[needs("read")])
    async def renew_token(session_id: FromPath[str], request: Asked) -> Renewed:
        """Get a room token like the one this request came with, while the session goes on or has not begun."""
        renewed = gate.renew(await principal_of(request))
        await _check_open(await store.room_of_session(session_id))
        return Renewed(renewed.token, renewed.expires_at)

    @post("/v1/tickets", guards=[needs(None)])
    async def create_ticket(request: Asked) -> Ticket:
        """Make a ticket: it does once what this request's key or token does."""
        return Ticket(*gate.ticket(await principal_of(request)))

    async def _record(room_id: str) -> RoomRecord:
        record = await store.room(room_id)
        if record is None:
            text = f"There is no room {room_id[:80]!r}."
            raise SessionError(text, code="unknown_room", fix="POST /v1/rooms makes one.")
        return record

    async def _check_open(room: RoomRecord | None) -> None:
        """What is over needs no token."""
        if room is not None and room.session_id in runtime.sessions:
            return
        if room is None or await store.session(room.session_id) is not None:
            raise SessionError(
                "The session of this room is over.", code="session_over", fix="POST /v1/rooms makes one."
            )
        if room.expires_at < runtime.clock.wall_ms():
            raise SessionError(f"The room {room.id} has expired.", code="room_expired", fix="POST /v1/rooms makes one.")

    async def _check(request: Asked, wanted: NewToken) -> None:
        """Nobody gives away more than they have."""
        if wanted.role == "operator":
            (await principal_of(request)).check("control")

    return [create_room, list_rooms, get_room, create_token, renew_token, create_ticket]


def joined(gate: Gate, record: RoomRecord, request: Asked, wanted: NewToken) -> Join:
    """How somebody joins a room, with a token made for them."""
    made = gate.token(record, wanted.role, identity=wanted.identity, ttl_s=wanted.ttl_s)
    join = _links(record, request)
    # After the #, so that it never reaches a server's log.
    join.page = f"{_base(request)}/talk#session={record.session_id}&token={made.token}"
    join.token, join.role, join.expires_at = made.token, wanted.role, made.expires_at
    return join


def _base(request: Asked) -> str:
    return str(request.base_url).rstrip("/")


def _links(record: RoomRecord, request: Asked) -> Join:
    path = f"/v1/sessions/{record.session_id}"
    base = _base(request)
    return Join(f"{base.replace('http', 'ws', 1)}{path}/ws", f"{base}{path}/events")


def room_of(record: RoomRecord, request: Asked, join: Join | None = None) -> Room:
    """A room as it is answered; without `join` nobody gets a token."""
    return Room(
        record.id,
        record.agent,
        record.session_id,
        record.created_at,
        record.expires_at,
        join or _links(record, request),
    )
