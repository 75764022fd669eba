"""The batched writer: rows are taken at once, and one task commits them some moments later, off the hot path."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from sqlalchemy.ext.asyncio import AsyncEngine

from rejoinder.errors import StoreError
from rejoinder.store.failures import is_bad_row, store_error
from rejoinder.store.statements import Row, Write, compile_writes, describe

_log = logging.getLogger(__name__)

_INTERVAL_S = 0.1
_LARGEST_BATCH = 2000
_BACKOFF_S = (0.1, 5.0)  # first, longest
_HEAVIEST, _MOST_HEAVY = 16 << 20, 500
"""Of what LLMs were sent so many characters and rows may wait, at most."""
_CHATTER = frozenset({"reply.text", "user.transcript"})

_MESSAGES, _TOOLS = 6, 7
"""Where these stand in a row of `Write.LLM_REQUEST`."""

Batch = list[list[Row]]
"""The rows of each `Write`, by its number."""


class Writer:
    """Writes rows in batches, one transaction each; `put` neither blocks nor fails.

    While the database refuses, rows wait and are tried again, at most `capacity` of them: beyond that the oldest
    requests to LLMs go first (they are large, so there is a bound for their size, too), then events of streamed text,
    then other events, then new rows are refused (all counted in `dropped`). A row
    that is itself at fault is taken out of its batch, logged by its key and counted in `rejected`.
    """

    def __init__(self, engine: AsyncEngine, *, capacity: int) -> None:
        self._engine = engine
        self._capacity = capacity
        # What is being written cannot be dropped, so it is never all there is.
        self._largest = min(_LARGEST_BATCH, max(1, capacity // 2))
        self._insert = compile_writes(engine.dialect, repeat=False)
        self._repeat = compile_writes(engine.dialect, repeat=True)
        self._pending: Batch = _empty()
        self._waiting = 0
        self._in_flight = 0
        self._uncertain = False
        self._dropping = False
        self._failure: StoreError | None = None
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._closed = True
        self.dropped = 0
        self.rejected = 0
        self.written = 0

    def start(self) -> None:
        """Start the writing task on the running loop; `close()` ends it."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(), name="store-writer")
        self._closed = False

    def put(self, write: Write, row: Row) -> None:
        """Take one row for `write`, to be committed within moments."""
        if self._closed or (self._waiting + self._in_flight >= self._capacity and not self._make_room()):
            self.dropped += 1
            return
        if write is Write.LLM_REQUEST:
            self._lighten(row)
        self._pending[write].append(row)
        self._waiting += 1
        if self._waiting == 1:
            self._timer = self._loop.call_later(_INTERVAL_S, self._wake.set)
        elif self._waiting == self._largest:
            self._wake.set()

    async def flush(self, timeout: float = 5.0) -> None:
        """Wait until all rows put so far are committed (or counted as dropped or rejected).

        Raises:
            StoreError: not within `timeout` seconds; the rows are kept and tried again.
        """
        if self._closed:
            raise StoreError("The store is closed.", code="store_closed", retryable=False)
        if not self._waiting and not self._in_flight:
            return
        done = self._loop.create_future()
        self._flushing.append(done)
        self._wake.set()
        try:
            async with asyncio.timeout(timeout):
                await done
        except TimeoutError:
            raise self._failure or StoreError(
                f"The database did not answer within {timeout:g} s.", fix="Check its load and its disk."
            ) from None

    def health(self) -> tuple[bool, StoreError | None]:
        """Whether the last attempt to write succeeded, and if not, why."""
        return self._failure is None, self._failure

    @property
    def waiting(self) -> int:
        """Rows taken and not yet committed."""
        return self._waiting + self._in_flight

    async def close(self, timeout: float = 2.0) -> None:
        """Write what waits, for at most `timeout` seconds, and end; rows that remain are counted as dropped."""
        if self._closed or self._task is None:
            return
        try:
            await self.flush(timeout)
        except StoreError as error:
            _log.error("%d rows were not stored: %s", self.waiting, error.explain())
        finally:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
            self._task.cancel()
            await asyncio.wait([self._task])
            self.dropped += self.waiting
            self._pending, self._waiting, self._in_flight = _empty(), 0, 0

    async def _run(self) -> None:
        backoff = _BACKOFF_S[0]
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, waiters = self._take()
            try:
                await self._store(batch)
            except Exception as error:  # noqa: BLE001 - whatever a driver raises, the rows must not be lost
                self._flushing[:0] = [waiter for waiter in waiters if not waiter.done()]
                self._fail(error)
                await self._pause(backoff)
                backoff = min(backoff * 2, _BACKOFF_S[1])
                self._wake.set()
            else:
                backoff = _BACKOFF_S[0]
                self._recover()
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(None)

    async def _pause(self, seconds: float) -> None:
        # A flush asks for an attempt now; the timer of new rows does not.
        before = len(self._flushing)
        deadline = self._loop.time() + seconds
        while len(self._flushing) <= before:
            self._wake.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._wake.wait()
            except TimeoutError:
                return

    def _take(self) -> tuple[Batch, list[asyncio.Future[None]]]:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting > self._largest:
            batch, self._pending = _halves(self._pending, self._largest)
            self._in_flight, self._waiting = self._largest, self._waiting - self._largest
            self._wake.set()
            return batch, []
        batch, waiters = self._pending, self._flushing
        self._pending, self._flushing = _empty(), []
        self._in_flight, self._waiting = self._waiting, 0
        return batch, waiters

    async def _store(self, batch: Batch) -> None:
        """Commit `batch`; a part that is refused for its values is halved until the bad row stands alone."""
        parts = deque([batch])
        statements = self._repeat if self._uncertain else self._insert
        try:
            while parts:
                size = sum(map(len, parts[0]))
                try:
                    await self._commit(parts[0], statements)
                except Exception as error:
                    if not is_bad_row(error):
                        raise
                    part = parts.popleft()
                    if size > 1:
                        parts.extendleft(reversed(_halves(part, size // 2)))
                        continue
                    self._reject(part, store_error(error, self._engine.url))
                else:
                    parts.popleft()
                    self.written += size
                self._in_flight -= size
            self._uncertain = False
        except BaseException:
            # In front of what came meanwhile, so that each table keeps its order.
            self._pending = _join([*parts, self._pending])
            self._waiting += self._in_flight
            self._in_flight = 0
            raise

    async def _commit(self, batch: Batch, statements: list[str]) -> None:
        async with self._engine.connect() as connection:
            for write, rows in enumerate(batch):
                if rows:
                    await connection.exec_driver_sql(statements[write], rows)
            # If the answer to this is lost, the rows may be there or not: they are tried again as such.
            self._uncertain = True
            await connection.commit()

    def _lighten(self, row: Row) -> None:
        """Drop the oldest requests to LLMs, so that they do not take much memory once `row` waits, too."""
        heavy = self._pending[Write.LLM_REQUEST]
        weight = _weight(row) + sum(map(_weight, heavy))
        dropped = 0
        while dropped < len(heavy) and (weight > _HEAVIEST or len(heavy) - dropped >= _MOST_HEAVY):
            weight -= _weight(heavy[dropped])
            dropped += 1
        del heavy[:dropped]
        self._waiting -= dropped
        self.dropped += dropped

    def _make_room(self) -> bool:
        pending = self._pending[Write.EVENT]
        quota = max(1, self._capacity // 10)
        if heavy := len(self._pending[Write.LLM_REQUEST][:quota]):
            del self._pending[Write.LLM_REQUEST][:heavy]
            self._waiting -= heavy
            self.dropped += heavy
            return True
        kept: list[Row] = []
        dropped = 0
        for position, row in enumerate(pending):
            if dropped == quota:
                kept += pending[position:]
                break
            if row[3] in _CHATTER and '"final":true' not in row[4]:
                dropped += 1
            else:
                kept.append(row)
        if not dropped:
            dropped = min(quota, len(pending))
            kept = pending[dropped:]
        self._pending[Write.EVENT] = kept
        self._waiting -= dropped
        self.dropped += dropped
        if not self._dropping:
            self._dropping = True
            _log.error("The database cannot keep up: %d rows wait; the oldest events are dropped now.", self._capacity)
        return dropped > 0

    def _reject(self, part: Batch, error: StoreError) -> None:
        self.rejected += 1
        for write, rows in enumerate(part):
            for row in rows:
                _log.error("Not stored, %s: %s", describe(Write(write), row), error.message)

    def _fail(self, error: Exception) -> None:
        first = self._failure is None
        self._failure = store_error(error, self._engine.url)
        if first:
            _log.error("Cannot store; %d rows are kept and tried again. %s", self._waiting, self._failure.explain())

    def _recover(self) -> None:
        if self._failure is not None:
            _log.warning("The database takes rows again; %d were dropped so far.", self.dropped)
        self._failure = None
        self._dropping = False


def _weight(request: Row) -> int:
    """Characters of what an LLM was sent."""
    return len(request[_MESSAGES]) + len(request[_TOOLS])


def _empty() -> Batch:
    return [[] for _ in Write]


def _join(batches: list[Batch]) -> Batch:
    return [[row for batch in batches for row in batch[write]] for write in Write]


def _halves(batch: Batch, size: int) -> tuple[Batch, Batch]:
    """The first `size` rows in the order of writing, and the rest."""
    first, rest = _empty(), _empty()
    for write, rows in enumerate(batch):
        first[write], rest[write] = rows[:size], rows[size:]
        size -= len(first[write])
    return first, rest
