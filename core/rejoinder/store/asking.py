"""Large questions to the database: a few at once, each cut off in time, and one answer for all who ask the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from rejoinder.errors import StoreError
from rejoinder.store.store import Store

_T = TypeVar("_T")
_AT_ONCE = 2
_LIMIT_S = 3.0
_AGAIN_S = 0.1
_SHARED_S = 2.0
_KEPT = 64
_QUERY_CANCELED = "57014"


@dataclass(slots=True)
class _Answer:
    """What was answered, and until when (s on the loop's clock) it is for all who ask the same."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    until: float = float("-inf")
    value: Any = None
    error: StoreError | None = None


class Asking:
    """Asks `store` what may take long, without hurting who is on a call.

    At most two large questions run at once, each for `limit_s` seconds at most, also where nobody waits for it any
    more. The database runs them in threads (SQLite) or in processes of its own, and what is left of the answer is
    worked out in a thread.
    """

    def __init__(self, store: Store, *, limit_s: float = _LIMIT_S, shared_s: float = _SHARED_S) -> None:
        self._store = store
        self._limit_s = limit_s
        self._shared_s = shared_s
        self._running = asyncio.Semaphore(_AT_ONCE)
        self._answers: dict[Hashable, _Answer] = {}

    @property
    def now_ms(self) -> int:
        """Unix ms."""
        return self._store.clock.wall_ms()

    async def shared(self, key: Hashable, work: Callable[[], Awaitable[_T]]) -> _T:
        """What `work()` gives; whoever asks with the same `key` meanwhile, or within 2 s, gets the same.

        Raises:
            StoreError: as `work()` has, for all of them.
        """
        loop = asyncio.get_running_loop()
        answer = self._answers.get(key)
        if answer is None:
            self._forget(loop.time())
            answer = self._answers[key] = _Answer()
        async with answer.lock:
            if loop.time() >= answer.until:
                answer.value, answer.error = None, None
                try:
                    answer.value = await work()
                except StoreError as error:
                    answer.error = error
                answer.until = loop.time() + self._shared_s
            if answer.error is not None:
                raise answer.error
            return cast(_T, answer.value)

    def _forget(self, now: float) -> None:
        """Let go of what is too old, and of the oldest of what is too much."""
        for key in [key for key, answer in self._answers.items() if answer.until <= now and not answer.lock.locked()]:
            del self._answers[key]
        while len(self._answers) >= _KEPT:
            del self._answers[next(iter(self._answers))]

    @asynccontextmanager
    async def reading(self, *, large: bool = True) -> AsyncIterator[AsyncConnection]:
        """A connection to read from; what is asked on it must be done within the limit.

        A question that is not `large` does not wait for those that are.

        Raises:
            StoreError: it took too long (`query_too_slow`), or as `Store.reading`.
        """
        async with (
            self._running if large else nullcontext(),
            self._store.reading() as connection,
            self._bounded(connection),
        ):
            yield connection

    @asynccontextmanager
    async def _bounded(self, connection: AsyncConnection) -> AsyncIterator[None]:
        late = False
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle
        server = connection.dialect.name == "postgresql"
        driver: Any = (await connection.get_raw_connection()).driver_connection

        def stop() -> None:
            nonlocal late, timer
            late = True
            # Whatever is asked after this one is too late, too.
            timer = loop.call_later(_AGAIN_S, stop)
            if not server:
                # It awaits nothing; the query, in the driver's thread, ends with an error.
                with suppress(StopIteration):
                    driver.interrupt().send(None)

        if server:
            await connection.execute(text(f"SET LOCAL statement_timeout = {round(self._limit_s * 1000)}"))
        timer = loop.call_later(self._limit_s, stop)
        try:
            yield
        except DBAPIError as error:
            if late or getattr(error.orig, "sqlstate", None) == _QUERY_CANCELED:
                raise StoreError(
                    f"The database did not answer within {self._limit_s:g} s.",
                    code="query_too_slow",
                    fix="Ask for a shorter time, or for one agent.",
                    retryable=False,
                ) from None
            raise
        finally:
            timer.cancel()
