"""Sessions: read back with turns, spans and transcript; written to."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import MediaType, Request, Response, get, post
from litestar.datastructures import State
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from rejoinder.app import Runtime
from rejoinder.errors import SessionError
from rejoinder.steering import check_text
from rejoinder.store import history
from rejoinder.store.history import FacetCount, Filters, SessionRow, Sort
from rejoinder.store.records import InterruptionRecord, LlmRequestRecord, MessageRecord, TurnRecord, counts_of
from rejoinder_adapters.rest.figures import provider_of
from rejoinder_adapters.rest.recordings import Recording, recording_of
from rejoinder_adapters.security import needs
from rejoinder_adapters.sessions import live_session, origin_of, stored_session

Asked = Request[Any, Any, State]
Limit = Annotated[int, QueryParameter(ge=1, le=200)]
Time = Annotated[int | None, QueryParameter(ge=0, le=2**53)]
Version = Annotated[int | None, QueryParameter(ge=1, le=2**31 - 1)]
MinMs = Annotated[int | None, QueryParameter(ge=0, le=86_400_000)]


class Words(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be said."""

    text: str


class Accepted(msgspec.Struct):
    """The turn that begins; its events carry this `turn_id`."""

    session_id: str
    turn_id: str


class SessionList(msgspec.Struct):
    """Sessions in the order that was asked for; `next_cursor` is the `before` of the next page.

    `facets` are asked for: by name, how many sessions that fit the other filters have which value.
    """

    items: list[SessionRow]
    next_cursor: str | None
    facets: dict[str, list[FacetCount]] | None = None


class SessionDetail(msgspec.Struct):
    """A session with all that was said, and how long it took; of a `live` one, so far."""

    session: SessionRow
    live: bool
    turns: list[TurnRecord]
    messages: list[MessageRecord]
    interruptions: list[InterruptionRecord]
    recording: Recording | None


def routes(runtime: Runtime) -> list[Any]:
    """`/v1/sessions`."""
    store = runtime.store
    reading, talking = [needs("read")], [needs("talk")]

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
        agent_version: Version = None,
        channel: FromQuery[str | None] = None,
        bad: FromQuery[bool] = False,
        min_ms: MinMs = None,
        provider: FromQuery[str | None] = None,
        sort: FromQuery[Sort] = "started",
        with_facets: Annotated[bool, QueryParameter(name="facets")] = False,
    ) -> SessionList:
        """Sessions with their figures, newest (slowest, longest) first."""
        filters = Filters(
            agent=agent,
            agent_version=agent_version,
            channel=channel,
            end_reason=end_reason,
            room_id=room_id,
            ended=None if live is None else not live,
            since=since,
            until=until,
            bad=bad,
            min_ms=min_ms,
            provider=provider_of(provider),
        )
        rows, following = await history.list_sessions(runtime.asking, filters, limit, before=before, sort=sort)
        counts = await history.facets(runtime.asking, filters) if with_facets else None
        return SessionList([_measured(row) for row in rows], following, counts)

    @get("/v1/sessions/{session_id:str}", guards=reading)
    async def get_session(session_id: FromPath[str]) -> SessionDetail:
        """A session with its metrics, its turns with spans and tool calls, its messages and interruptions."""
        await stored_session(runtime, session_id)
        row = await history.session_row(runtime.asking, session_id)
        if row is None:
            raise SessionError(f"The session {session_id!r} has just been deleted.", code="unknown_session")
        return SessionDetail(
            _measured(row),
            session_id in runtime.sessions,
            await store.turns(session_id),
            await store.messages(session_id),
            await store.interruptions(session_id),
            await recording_of(runtime, session_id),
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

    @get("/v1/sessions/{session_id:str}/llm", guards=reading)
    async def list_llm_requests(
        session_id: FromPath[str], limit: Limit = 200, reply_id: FromQuery[str | None] = None
    ) -> list[LlmRequestRecord]:
        """What LLMs were sent for the replies of a session (for one reply), exactly; the newest, in their order."""
        await stored_session(runtime, session_id)
        return await history.llm_requests_of(runtime.asking, session_id, limit, reply_id=reply_id)

    def _measured(row: SessionRow) -> SessionRow:
        session = runtime.sessions.get(row.id)
        return msgspec.structs.replace(row, live=True, metrics=counts_of(session.metrics)) if session else row

    return [list_sessions, get_session, get_turns, get_transcript, list_llm_requests, write]
