"""The SSE adapter: every event of a session with its number, from anywhere in the log; and chat in one request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Annotated, Any, Protocol, cast

import anyio
import msgspec
from litestar import MediaType, Request, Response, get, post
from litestar.datastructures import State
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from litestar.types import ASGIApp
from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError

from rejoinder.app import Runtime
from rejoinder.errors import ProtocolError, StoreError
from rejoinder.events import (
    Error,
    OperatorHandedBack,
    OperatorTookOver,
    ReplyFinished,
    ReplyStarted,
    SessionEnded,
    TurnCommitted,
    TurnMetrics,
    decode_event,
    encode,
)
from rejoinder.hookspecs import hookimpl
from rejoinder.host import Origin
from rejoinder.session import Session
from rejoinder.steering import check_text
from rejoinder_adapters.feed import Feed, Numbered, Rouser, frame
from rejoinder_adapters.head import is_head
from rejoinder_adapters.protocol import abort
from rejoinder_adapters.security import needs, principal_of
from rejoinder_adapters.sessions import live_session, origin_of, stored_session

log = logging.getLogger(__name__)
PING_S = 15
_METRICS_S = 0.1
"""After a reply its metrics follow within this, or there are none."""
_GRACE_S = 2.0
"""When the server stops, sessions say their last events within this."""
_HEADERS = {"cache-control": "no-cache, no-transform"}

Asked = Request[Any, Any, State]
Limit = Annotated[int, QueryParameter(ge=1, le=1000)]


class ChatRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What the user writes, to whom (None: the default agent), in a session that is there or (None) a new one."""

    text: str
    agent: str | None = None
    session_id: str | None = None


class ChatAnswer(msgspec.Struct):
    """The answer as a whole; `response_ms` is the time to its first words, None where there were none.

    `reason` is that of `reply.finished`, or `taken_over`: an operator has the turn, and has said nothing yet.
    """

    session_id: str
    turn_id: str
    reply_id: str
    text: str
    reason: str
    response_ms: float | None


class Closable(Protocol):
    """What gives events until it is closed."""

    def close(self) -> None:
        """Give no more. Idempotent."""


class EventStream(EventSourceResponse):
    """An SSE response of `events`, which `feed` gives; whatever happens to it, the feed is closed.

    A reader that takes nothing for `send_s` seconds is cut off.
    """

    def __init__(self, feed: Closable, events: AsyncGenerator[bytes, None], send_s: float) -> None:
        super().__init__(
            _told(events),
            headers=_HEADERS,
            ping=PING_S,
            # A comment, and no blank line behind it: some clients would make an event without data of that.
            ping_message_factory=lambda: b": \n",  # type: ignore[arg-type,return-value]
            sep="\n",
            send_timeout=send_s,
            shutdown_event=anyio.Event(),
            shutdown_grace_period=_GRACE_S,
        )
        self._feed = feed
        self._events = events

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer the request."""

        async def limited(message: Any) -> None:
            if message.get("more_body", True):
                await send(message)
            else:
                # The end waits for all that came before it, and is not timed by the library.
                await self._send_with_timeout(send, message)

        try:
            await super().__call__(scope, receive, limited)
        except asyncio.CancelledError:
            # The server stops, and the reader does not take the end: its connection would keep it from stopping.
            abort(scope)
            raise
        except SendTimeoutError:
            log.info("a reader of %s does not read; it is cut off", scope["path"])
            abort(scope)
            # By then the server knows that the connection is gone.
            await asyncio.sleep(0.01)
        finally:
            # Also of a generator that nobody has begun to read.
            self._feed.close()
            await self._events.aclose()


async def _told(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """`events`, and at the end what went wrong: the reader comes back with its last number and gets the rest."""
    try:
        async with aclosing(events) as parts:
            async for part in parts:
                yield part
    except StoreError as error:
        yield frame(Numbered(0, encode(Error.of(error))))


async def frames(feed: Feed) -> AsyncGenerator[bytes, None]:
    """All events of `feed`, as SSE."""
    # No block of its own: some clients would make an event without data of it.
    yield b"retry: 1000\n"
    async with aclosing(feed.events()) as batches:
        async for batch in batches:
            yield b"".join(map(frame, batch))


def last_event_id(request: Asked) -> int:
    """The number after which the reader wants to go on: of the header `Last-Event-ID`, else the query's `after`.

    Raises:
        ProtocolError: it is no number of an event (`bad_event_id`).
    """
    given = request.headers.get("last-event-id") or request.query_params.get("after") or "0"
    if not (given.isascii() and given.isdigit() and len(given) <= 15):
        raise ProtocolError(
            f"{given[:40]!r} is not the number of an event.",
            code="bad_event_id",
            fix="Send the id of the last event that arrived, or 0 for all.",
        )
    return int(given)


def wants_json(request: Asked) -> bool:
    """Whether JSON is asked for rather than a stream."""
    accept = request.headers.get("accept", "")
    return "application/json" in accept and "text/event-stream" not in accept


class Turn:
    """Follows one turn in a session's events until it is answered, or an operator has it (`taken_over`)."""

    def __init__(self, turn_id: str, *, taken_over: bool = False) -> None:
        self.turn_id = turn_id
        self.taken_over = taken_over
        self.finished: ReplyFinished | None = None
        self.metrics: TurnMetrics | None = None
        self.over = False
        self._reply_id = ""

    def see(self, data: bytes) -> None:
        """The next event; `over` when the answer is."""
        event = decode_event(data)
        match event:
            case ReplyStarted(turn_id=self.turn_id, reply_id=reply_id):
                self._reply_id = reply_id
            case ReplyFinished(reply_id=self._reply_id):
                self.finished = event
            case TurnMetrics(turn_id=self.turn_id):
                self.metrics = event
                self.over = True
            case OperatorTookOver():
                self.taken_over = True
            case OperatorHandedBack():
                self.taken_over = False
            case TurnCommitted(turn_id=self.turn_id) if self.taken_over:
                # When they will answer, if at all, nobody knows.
                self.over = True
            case SessionEnded():
                self.over = True
            case _:
                pass


async def _answer(feed: Feed, turn: Turn) -> AsyncGenerator[bytes, None]:
    """The events of `feed` until `turn` is answered."""
    async with aclosing(feed.events()) as batches:
        while not turn.over:
            try:
                async with asyncio.timeout(_METRICS_S if turn.finished else None):
                    batch = await anext(batches, None)
            except TimeoutError:
                return
            if batch is None:
                return
            for event in batch:
                turn.see(event.data)
            yield b"".join(map(frame, batch))


@hookimpl
def register_routes(runtime: Runtime) -> Iterable[Any]:
    """`GET /v1/sessions/{session_id}/events` and `POST /v1/chat`."""
    send_s = runtime.settings.limits.sse_send_s
    rouser = Rouser()

    @get("/v1/sessions/{session_id:str}/events", guards=[needs("read")])
    async def get_events(
        session_id: FromPath[str], request: Asked, limit: Limit = 200, observe: FromQuery[bool] = False
    ) -> ASGIApp:
        """The events of a session, as a stream (SSE) or (asked for JSON) page by page."""
        after = last_event_id(request)
        if wants_json(request):
            return await _page(session_id, request, after, limit)
        principal = await principal_of(request)
        takes_part = principal.may("talk", session_id) and principal.role != "operator" and not observe
        # Whoever only asks with HEAD what there is does not come.
        takes_part = takes_part and not is_head(request.scope)
        if takes_part:
            origin = origin_of(request, "sse")
            await live_session(runtime, session_id, written=False, may_be_over=True, origin=origin)
        else:
            await stored_session(runtime, session_id)
        if (session := runtime.sessions.get(session_id)) is not None:
            if after > session.bus.seq:
                raise ProtocolError(
                    f"There is no event {after} yet: the newest is {session.bus.seq}.",
                    code="bad_event_id",
                    fix="Send the id of the last event that arrived from this session, or 0 for all.",
                )
        elif not await runtime.store.events(session_id, after_seq=after, limit=1) and not runtime.store.writer.waiting:
            # The session is over and the reader has all of it: a browser asks no more.
            return Response(b"", status_code=204).to_asgi_response(None, request)
        feed = Feed(runtime, rouser, session_id, after, present=takes_part)
        return cast(ASGIApp, EventStream(feed, frames(feed), send_s))

    async def _page(session_id: str, request: Asked, after: int, limit: int) -> ASGIApp:
        await stored_session(runtime, session_id)
        events = await runtime.store.events(session_id, after_seq=after, limit=limit)
        page = {
            "items": [msgspec.Raw(event.data.encode()) for event in events],
            "next_cursor": events[-1].seq if len(events) == limit else None,
        }
        body = msgspec.json.encode(page)
        return Response(body, media_type=MediaType.JSON).to_asgi_response(None, request)

    @post("/v1/chat", guards=[needs("talk", session_in_body=True)], status_code=200)
    async def chat(data: JSONBody[ChatRequest], request: Asked) -> ASGIApp:
        """Say something and get the answer: its events as a stream (SSE), or (asked for JSON) as a whole."""
        principal = await principal_of(request)
        if data.session_id is None and principal.session_id is not None:
            # A room token means its own session.
            data.session_id = principal.session_id
        principal.check("talk", data.session_id)
        session = await _session(data, origin_of(request, "chat"))
        feed = Feed(runtime, rouser, session.id, session.bus.seq, present=True)
        try:
            turn = Turn(session.write(data.text), taken_over=session.operator is not None)
        except BaseException:
            feed.close()
            raise
        if not wants_json(request):
            return cast(ASGIApp, EventStream(feed, _answer(feed, turn), send_s))
        try:
            async with aclosing(_answer(feed, turn)) as answer:
                async for _ in answer:
                    pass
        finally:
            feed.close()
        done = turn.finished
        whole = ChatAnswer(
            session.id,
            turn.turn_id,
            done.reply_id if done else "",
            done.text if done else "",
            done.reason if done else "taken_over" if turn.taken_over else "failed",
            turn.metrics.response_us / 1000 if turn.metrics else None,
        )
        return Response(msgspec.json.encode(whole), media_type=MediaType.JSON).to_asgi_response(None, request)

    async def _session(data: ChatRequest, origin: Origin) -> Session:
        # Before a session is begun for it.
        check_text(data.text, runtime.settings.limits)
        if data.session_id is None:
            return await runtime.start_session(data.agent, written=True, origin=origin)
        if data.agent is not None:
            raise ProtocolError(
                "A session has its agent already.", fix="Send session_id to go on, or agent for a new session."
            )
        return await live_session(runtime, data.session_id, origin=origin)

    return [get_events, chat]
