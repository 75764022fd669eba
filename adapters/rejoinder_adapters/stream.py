"""The panel's stream: what is different on the live board, how the process does, and events of sessions, in one SSE.

What all readers get is made once: all wait for the same tick, which comes only where something has changed. A reader
that reads slowly gets less, not more: of the board only what is different by then.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from functools import partial
from typing import Annotated, Any, NamedTuple, cast

import msgspec
from litestar import Request, get
from litestar.datastructures import State
from litestar.params import QueryParameter
from litestar.types import ASGIApp

from rejoinder.app import Runtime
from rejoinder.auth import Principal
from rejoinder.board import Live
from rejoinder.errors import ProtocolError, StoreError
from rejoinder.events import ServerEvent, SessionEnded
from rejoinder_adapters.feed import Rouser
from rejoinder_adapters.security import needs, principal_of
from rejoinder_adapters.sse import EventStream

TICK_S = 0.25
"""A reader is told of the board at most so often."""
PULSE_S = 1.0
CHECK_S = 3.0
"""So often it is looked whether what readers came with is still good."""
MOST_SESSIONS = 32
_LONGEST = 4_000
_SESSION = "session:"
_encode = msgspec.json.Encoder().encode

Asked = Request[Any, Any, State]
Wanted = Annotated[str, QueryParameter(max_length=_LONGEST)]


class LiveList(msgspec.Struct):
    """The live sessions of this process."""

    items: list[Live]


class Topics(NamedTuple):
    """What a reader wants to hear of: the board, the process, and the events of sessions by id."""

    live: bool
    overview: bool
    sessions: tuple[str, ...]


def topics_of(text: str) -> Topics:
    """The topics in `text`: `live`, `overview` and `session:ID`, with commas between them.

    Raises:
        ProtocolError: there is another one, none, or too many sessions (`bad_topics`).
    """
    names = dict.fromkeys(part.strip() for part in text.split(",") if part.strip())
    sessions = tuple(name.removeprefix(_SESSION) for name in names if name.startswith(_SESSION))
    others = names.keys() - {"live", "overview"} - {_SESSION + one for one in sessions}
    what = ""
    if others:
        what = f"There is no topic {min(others)[:80]!r}."
    elif not names:
        what = "The stream has no topics."
    elif bad := [one for one in sessions if not (one.isascii() and one.isidentifier())]:
        what = f"{bad[0][:80]!r} is no session's id."
    elif len(sessions) > MOST_SESSIONS:
        what = f"{len(sessions)} sessions are too many for one stream: it follows at most {MOST_SESSIONS}."
    if what:
        raise ProtocolError(what, code="bad_topics", fix="Send e.g. topics=live,overview,session:ID.")
    return Topics("live" in names, "overview" in names, sessions)


class Hub:
    """Tells the readers of one process; timers and the one task run only while there are any."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.rouser = Rouser()
        self._readers: set[Reader] = set()
        self._waits = False
        self._tick: asyncio.TimerHandle | None = None
        self._pulse: asyncio.TimerHandle | None = None
        self._checking: asyncio.Task[None] | None = None

    def enter(self, reader: Reader) -> None:
        """Tell `reader` from now on."""
        self._readers.add(reader)
        self._wait()
        if self._pulse is None:
            self._beat()
        elif reader.topics.overview:
            reader.pulse(self._pulse_data())
        if self._checking is None:
            self._checking = asyncio.create_task(self._check(), name="stream logins")

    def leave(self, reader: Reader) -> None:
        """Tell it no longer. Idempotent."""
        self._readers.discard(reader)
        if self._readers:
            return
        for timer in (self._tick, self._pulse):
            if timer is not None:
                timer.cancel()
        self._tick = self._pulse = None
        if self._checking is not None:
            self._checking.cancel()
            self._checking = None

    def _wait(self) -> None:
        """For the next change."""
        if not self._waits and not self.runtime.board.closed:
            self._waits = True
            self.runtime.board.tell(self._changed)

    def _changed(self) -> None:
        self._waits = False
        if self.runtime.board.closed:
            self._end()
        elif self._readers:
            self._arm()

    def _end(self) -> None:
        for reader in tuple(self._readers):
            reader.end(told=True)

    def _arm(self) -> None:
        if self._tick is None:
            self._tick = asyncio.get_running_loop().call_later(TICK_S, self._on_tick)

    def _on_tick(self) -> None:
        self._tick = None
        if self.runtime.board.closed:
            # It was closed after the change that this tick is for.
            self._end()
            return
        self._wait()
        now = time.monotonic()
        early = [reader for reader in self._readers if reader.topics.live and not reader.tick(now)]
        if early:
            self._arm()

    def _beat(self) -> None:
        """Once a second: how the process does, and who listens to whom, of which there are no events."""
        self._pulse = asyncio.get_running_loop().call_later(PULSE_S, self._beat)
        if any(reader.topics.live for reader in self._readers):
            board = self.runtime.board
            for session in self.runtime.sessions.values():
                board.listened(session.id, session.listeners)
        readers = [reader for reader in self._readers if reader.topics.overview]
        if readers:
            data = self._pulse_data()
            for reader in readers:
                reader.pulse(data)

    def _pulse_data(self) -> bytes:
        return b'data: {"topic":"overview",%b\n\n' % _encode(self.runtime.vitals.pulse())[1:]

    async def _check(self) -> None:
        """End the streams of those who may not read any more; whoever came with the same is looked up once."""
        while True:
            await asyncio.sleep(CHECK_S)
            readers: dict[tuple[str, str], list[Reader]] = {}
            for reader in self._readers:
                readers.setdefault((reader.principal.id, reader.principal.login), []).append(reader)
            for alike in readers.values():
                try:
                    now = await self.runtime.gate.still(alike[0].principal)
                except StoreError:
                    # Nobody knows; the next look will tell.
                    continue
                if now is None or not now.may("read"):
                    for reader in alike:
                        reader.end(told=False)


class Reader:
    """One stream: what waits to be sent to whoever is `principal`. Use `messages()` once, then `close()`.

    `since`: it has seen the board as of that number. At most `backlog` events of sessions wait for it: beyond that it
    is told for which sessions it has to fetch the log.
    """

    def __init__(self, hub: Hub, principal: Principal, topics: Topics, since: int | None, backlog: int) -> None:
        self.principal = principal
        self.topics = topics
        self._hub = hub
        self._board = hub.runtime.board
        self._since = since
        self._backlog = backlog
        self._live = topics.live
        self._live_at = 0.0
        self._pulse: bytes | None = None
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._lagging: dict[str, None] = {}
        self._done: list[str] = []
        self._over = False
        self._wake = asyncio.Event()
        self._leave: list[Callable[[], None]] = []
        for session_id in topics.sessions:
            session = hub.runtime.sessions.get(session_id)
            if session is None or session.ended_reason is not None:
                self._done.append(session_id)
            else:
                self._leave.append(session.watch(partial(self._observe, session_id), present=False))
        hub.enter(self)
        if self._board.closed:
            self.end(told=True)

    def close(self) -> None:
        """Watch no longer. Idempotent."""
        for leave in self._leave:
            leave()
        self._leave.clear()
        self._waiting.clear()
        self._hub.leave(self)

    def end(self, *, told: bool) -> None:
        """Send no more; `told`: but what waits."""
        self._over = True
        if told:
            self._live = self.topics.live
        else:
            self._live, self._pulse = False, None
            self._waiting.clear()
            self._done.clear()
            self._lagging.clear()
        self._rouse()

    def tick(self, now: float) -> bool:
        """The board has changed; False: it is too early to tell this reader again."""
        if self._over:
            return True
        if now - self._live_at < TICK_S * 0.99:
            return False
        self._live = True
        self._rouse()
        return True

    def pulse(self, data: bytes) -> None:
        """How the process does now: a message."""
        if not self._over:
            self._pulse = data
            self._rouse()

    async def messages(self) -> AsyncGenerator[bytes, None]:
        """What there is for the reader, as SSE, until it is to end."""
        # No block of its own: some clients would make an event without data of it.
        yield b"retry: 1000\n"
        while True:
            # What comes while a message is being sent goes with the next one.
            if message := self._take():
                yield message
            elif self._over:
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    def _rouse(self) -> None:
        if not self._wake.is_set():
            self._hub.rouser.wake(self._wake)

    def _observe(self, session_id: str, event: ServerEvent, data: bytes) -> None:
        if not event.seq or self._over:
            return
        self._waiting.append((session_id, data))
        if len(self._waiting) > self._backlog:
            self._lagging.update(dict.fromkeys(waiting for waiting, _ in self._waiting))
            self._waiting.clear()
        if isinstance(event, SessionEnded):
            self._done.append(session_id)
        self._rouse()

    def _take(self) -> bytes:
        parts = [_of_session(session_id, b'"lagging":true') for session_id in self._lagging]
        self._lagging.clear()
        parts += [_of_session(session_id, b'"event":%b' % data) for session_id, data in self._waiting]
        self._waiting.clear()
        parts += [_of_session(session_id, b'"over":true') for session_id in self._done]
        self._done.clear()
        if self._pulse is not None:
            parts.append(self._pulse)
            self._pulse = None
        if self._live:
            self._live = False
            if self._since is None or self._since != self._board.version:
                self._live_at = time.monotonic()
                parts.append(self._board_message())
        return b"".join(parts)

    def _board_message(self) -> bytes:
        board = self._board
        data = board.update(self._since)
        self._since = board.version
        return b"id: %b.%d\ndata: %b\n\n" % (board.node.encode(), board.version, data)


def _of_session(session_id: str, rest: bytes) -> bytes:
    return b'data: {"topic":"session:%b",%b}\n\n' % (session_id.encode(), rest)


def seen_before(request: Asked, node: str) -> int | None:
    """The number as of which the reader has seen the board of the process called `node`; None: it has not."""
    given = request.headers.get("last-event-id") or request.query_params.get("after") or ""
    seen, _, number = given.partition(".")
    good = seen == node and number.isascii() and number.isdigit() and len(number) <= 15
    return int(number) if good else None


def routes(runtime: Runtime) -> Iterable[Any]:
    """`GET /v1/live` and `GET /v1/stream`."""
    hub = Hub(runtime)
    limits = runtime.settings.limits

    @get("/v1/live", guards=[needs("read")])
    async def list_live() -> LiveList:
        """The live sessions of this process, as the stream tells of them."""
        return LiveList(runtime.board.changes(None).changed)

    @get("/v1/stream", guards=[needs("read")])
    async def get_stream(request: Asked, topics: Wanted = "live") -> ASGIApp:
        """What happens now, for those who look at many sessions: the live board, how the process does, events."""
        wanted = topics_of(topics)
        principal = await principal_of(request)
        reader = Reader(hub, principal, wanted, seen_before(request, runtime.node), limits.sse_backlog)
        return cast(ASGIApp, EventStream(reader, reader.messages(), limits.sse_send_s))

    return [list_live, get_stream]
