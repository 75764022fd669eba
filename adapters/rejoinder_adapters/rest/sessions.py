"""Sessions: read back with turns, spans and transcript; written to, interrupted, made to say something, ended."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import MediaType, Request, Response, get, post
from litestar.datastructures import State
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from rejoinder.app import Runtime
from rejoinder.session import Session, check_text
from rejoinder.store.records import InterruptionRecord, MessageRecord, SessionRecord, TurnRecord, counts_of
from rejoinder_adapters.security import needs
from rejoinder_adapters.sessions import live_session, origin_of, stored_session

Asked = Request[Any, Any, State]
Limit = Annotated[int, QueryParameter(ge=1, le=200)]
Time = Annotated[int | None, QueryParameter(ge=0, le=2**53)]


class Words(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be said."""

    text: str


class Ending(msgspec.Struct, forbid_unknown_fields=True):
    """Why a session is ended; goes into `session.ended`."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=80)] = "ended_by_api"


class Accepted(msgspec.Struct):
    """The turn that begins; its events carry this `turn_id`."""

    session_id: str
    turn_id: str


class SessionList(msgspec.Struct):
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


def routes(runtime: Runtime) -> list[Any]:
    """`/v1/sessions`."""
    store = runtime.store
    reading, talking, steering = [needs("read")], [needs("talk")], [needs("control")]

    @get("/v1/sessions", guards=reading)
    async def list_sessions(
        limit: Limit = 50,
        before: FromQuery[str | None] = None,
        agent: FromQuery[str | None] = None,
        room_id: FromQuery[str | None] = None,
        end_reason: FromQuery[str | None] = None,
        live: FromQuery[bool | None] = None,
        since: Time = None,
        until: Time = None,
    ) -> SessionList:
        """Sessions, newest first; `since` and `until` are Unix ms of their start."""
        records = await store.sessions(
            limit=limit,
            before=before,
            agent=agent,
            room_id=room_id,
            end_reason=end_reason,
            ended=None if live is None else not live,
            since=since,
            until=until,
        )
        items = [_measured(record) for record in records]
        return SessionList(items, items[-1].id if len(items) == limit else None)

    @get("/v1/sessions/{session_id:str}", guards=reading)
    async def get_session(session_id: FromPath[str]) -> SessionDetail:
        """A session with its metrics, its turns with spans and tool calls, its messages and interruptions."""
        session = _measured(await stored_session(runtime, session_id))
        return SessionDetail(
            session,
            session_id in runtime.sessions,
            await store.turns(session_id),
            await store.messages(session_id),
            await store.interruptions(session_id),
        )

    @get("/v1/sessions/{session_id:str}/turns", guards=reading, operation_id="list_turns")
    async def get_turns(session_id: FromPath[str]) -> list[TurnRecord]:
        """The turns of a session, with spans and tool calls."""
        await stored_session(runtime, session_id)
        return await store.turns(session_id)

    @get("/v1/sessions/{session_id:str}/transcript", guards=reading)
    async def get_transcript(session_id: FromPath[str], request: Asked) -> Response[Any]:
        """What was said and heard, as JSON or (asked for text/plain) line by line."""
        await stored_session(runtime, session_id)
        messages = await store.messages(session_id)
        if "text/plain" not in request.headers.get("accept", ""):
            return Response(messages)
        names = {"user": "user", "assistant": "agent"}
        lines = (f"{names.get(message.role, message.role)}: {message.content}\n" for message in messages)
        return Response("".join(lines), media_type=MediaType.TEXT)

    @post("/v1/sessions/{session_id:str}/messages", guards=talking, status_code=202, operation_id="send_message")
    async def write(session_id: FromPath[str], data: JSONBody[Words], request: Asked) -> Accepted:
        """The user says this in writing; an answer under way is interrupted. The answer comes as events."""
        text = check_text(data.text, runtime.settings.limits)
        session = await live_session(runtime, session_id, origin=origin_of(request, "rest"))
        return Accepted(session_id, session.write(text))

    @post("/v1/sessions/{session_id:str}/interrupt", guards=talking, status_code=204, operation_id="interrupt_session")
    async def interrupt(session_id: FromPath[str]) -> None:
        """Stop what the agent is saying."""
        (await _live(session_id)).interrupt()

    @post("/v1/sessions/{session_id:str}/say", guards=steering, status_code=202)
    async def say(session_id: FromPath[str], data: JSONBody[Words]) -> Accepted:
        """Have the agent say this, at once."""
        return Accepted(session_id, (await _live(session_id)).say(data.text))

    @post("/v1/sessions/{session_id:str}/end", guards=talking, status_code=202, operation_id="end_session")
    async def end(session_id: FromPath[str], data: JSONBody[Ending | None] = None) -> None:
        """End a session for all who are in it."""
        (await _live(session_id)).end((data or Ending()).reason)

    async def _live(session_id: str) -> Session:
        return await live_session(runtime, session_id, start=False)

    def _measured(record: SessionRecord) -> SessionRecord:
        session = runtime.sessions.get(record.id)
        return msgspec.structs.replace(record, metrics=counts_of(session.metrics)) if session else record

    return [list_sessions, get_session, get_turns, get_transcript, write, interrupt, say, end]
