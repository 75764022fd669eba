"""One reader's view of a session's events: from the log first, then live; each event once, in order, none left out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import NamedTuple

from rejoinder.app import Runtime
from rejoinder.errors import StoreError
from rejoinder.events import Error, ServerEvent, SessionEnded, encode
from rejoinder.session import Session

_AT_ONCE = 32
"""Readers woken in one turn of the loop: some 40 us each."""
_PAGE = 200
_RETRY_S = 0.2
_RETRIES = 25
"""Events that are neither in memory nor in the log yet are waited for this often: the database may be locked."""


class Numbered(NamedTuple):
    """An event's number and its JSON; 0 is one that this reader alone is told."""

    seq: int
    data: bytes


class Rouser:
    """Wakes readers, a few in each turn of the event loop: a crowd of them must not hold up those who talk."""

    def __init__(self) -> None:
        # In the order in which they became due, each once.
        self._due: dict[asyncio.Event, None] = {}
        self._left = _AT_ONCE
        self._counting = False

    def wake(self, reader: asyncio.Event) -> None:
        """Set `reader`, now or in a moment."""
        if not self._counting:
            self._counting = True
            asyncio.get_running_loop().call_soon(self._go_on)
        if self._left and not self._due:
            self._left -= 1
            reader.set()
        else:
            self._due[reader] = None

    def _go_on(self) -> None:
        self._left = _AT_ONCE
        while self._due and self._left:
            self._left -= 1
            reader = next(iter(self._due))
            del self._due[reader]
            reader.set()
        self._counting = self._left < _AT_ONCE
        if self._counting:
            asyncio.get_running_loop().call_soon(self._go_on)


class Feed:
    """The events of the session called `session_id`, after number `after`. Use `events()` once, then `close()`.

    At most `limits.sse_backlog` events wait for a slow reader: beyond that they are dropped here and read from the log
    when it comes round. `present`: the reader takes part, so that the session does not end for want of company.
    """

    def __init__(self, runtime: Runtime, rouser: Rouser, session_id: str, after: int, *, present: bool = False) -> None:
        self._store = runtime.store
        self._rouser = rouser
        self._session_id = session_id
        self._last = after
        self._backlog = runtime.settings.limits.sse_backlog
        self._waiting: deque[Numbered] = deque()
        self._behind = True
        self._over = False
        self._wake = asyncio.Event()
        self._leave: Callable[[], None] = lambda: None
        session = runtime.sessions.get(session_id)
        self._session: Session | None = session if session is not None and session.ended_reason is None else None
        if self._session is not None:
            self._leave = self._session.watch(self._observe, present=present)

    def close(self) -> None:
        """Watch no longer. Idempotent."""
        self._leave()
        self._waiting.clear()

    async def events(self) -> AsyncGenerator[list[Numbered], None]:
        """The events, as many at a time as there are; ends with the session."""
        while True:
            if self._behind:
                self._behind = False
                async for missed in self._missed():
                    yield missed
            if batch := self._take():
                yield batch
            elif not self._behind:
                if self._over or self._session is None:
                    return
                self._wake.clear()
                await self._wake.wait()

    def _observe(self, event: ServerEvent, data: bytes) -> None:
        if not self._behind:
            self._waiting.append(Numbered(event.seq, data))
            if len(self._waiting) > self._backlog:
                self._waiting.clear()
                self._behind = True
        self._over = self._over or isinstance(event, SessionEnded)
        if not self._wake.is_set():
            self._rouser.wake(self._wake)

    def _take(self) -> list[Numbered]:
        """What waits and follows on what was given out."""
        batch: list[Numbered] = []
        while self._waiting:
            event = self._waiting.popleft()
            if event.seq == self._last + 1:
                self._last = event.seq
                batch.append(event)
            elif event.seq > self._last:
                self._waiting.clear()
                self._behind = True
        return batch

    async def _missed(self) -> AsyncGenerator[list[Numbered], None]:
        """From what was given out last up to what waits or will come."""
        retries = _RETRIES
        while True:
            if self._session is not None and (recent := self._session.recent(self._last)) is not None:
                if recent:
                    self._last = recent[-1][0]
                    yield [Numbered(seq, data) for seq, data in recent]
                return
            page = await self._store.events(self._session_id, after_seq=self._last, limit=_PAGE)
            if page:
                batch = []
                for record in page:
                    if record.seq > self._last + 1:
                        # Later ones are stored, so this one never will be.
                        batch.append(self._gap(record.seq - self._last - 1))
                    batch.append(Numbered(record.seq, record.data.encode()))
                    self._last = record.seq
                yield batch
            elif self._session is None and not self._store.writer.waiting:
                return
            elif retries:
                retries -= 1
                await asyncio.sleep(_RETRY_S)
            elif self._session is None:
                raise StoreError("The last events of this session are not stored yet.", fix="Come back in a moment.")
            else:
                kept = self._session.oldest_kept
                yield [self._gap(kept - self._last - 1)]
                self._last = kept - 1

    def _gap(self, count: int) -> Numbered:
        text = f"{count} events after number {self._last} were not stored: the database could not keep up."
        return Numbered(0, encode(Error(code="events_missed", message=text, session_id=self._session_id)))


def frame(event: Numbered) -> bytes:
    """The event as SSE has it (WHATWG HTML, 9.2); its `type` is in the JSON, so that one handler sees them all."""
    if event.seq:
        return b"id: %d\ndata: %b\n\n" % event
    return b"data: %b\n\n" % event.data
