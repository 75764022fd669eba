"""A bounded channel between two tasks that really run at once; `clear()` says what it dropped."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class ChannelClosed(Exception):
    """The other end has closed: nothing more can be sent, or nothing more will come."""


class ChannelStatistics(NamedTuple):
    """What a channel holds and has done, for metrics."""

    size: int
    capacity: int
    sent: int
    dropped: int
    waiting_senders: int


class Channel(Generic[T]):
    """First in, first out, at most `capacity` items; one loop, any number of senders and receivers.

    `send` and `receive` may be cancelled at any time without losing an item. Iterating ends when the channel is
    closed and empty.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("a channel needs a capacity of at least 1")
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._senders: deque[asyncio.Future[None]] = deque()
        self._receivers: deque[asyncio.Future[None]] = deque()
        self._closed = False
        self._sent = 0
        self._dropped = 0

    async def send(self, item: T) -> None:
        """Append `item`, waiting while the channel is full.

        Raises:
            ChannelClosed: the channel is closed, or was closed while waiting.
        """
        while len(self._items) >= self._capacity and not self._closed:
            await self._wait(self._senders)
        self.send_nowait(item)

    def send_nowait(self, item: T) -> bool:
        """Append `item` if there is room; False if there is none.

        Raises:
            ChannelClosed: the channel is closed.
        """
        if self._closed:
            raise ChannelClosed
        if len(self._items) >= self._capacity:
            return False
        self._items.append(item)
        self._sent += 1
        self._wake(self._receivers)
        return True

    async def receive(self) -> T:
        """Take the oldest item, waiting while there is none.

        Raises:
            ChannelClosed: the channel is closed and empty.
        """
        while not self._items:
            if self._closed:
                raise ChannelClosed
            await self._wait(self._receivers)
        item = self._items.popleft()
        self._wake(self._senders)
        return item

    def receive_nowait(self) -> T | None:
        """Take the oldest item, or None if there is none."""
        if not self._items:
            return None
        item = self._items.popleft()
        self._wake(self._senders)
        return item

    def clear(self) -> list[T]:
        """Drop what is queued and return it, oldest first.

        Cancel the producers first: a sender that waits for room gets it now and would put in a stale item.
        """
        dropped = list(self._items)
        self._items.clear()
        self._dropped += len(dropped)
        for _ in dropped:
            self._wake(self._senders)
        return dropped

    def close(self) -> None:
        """End the channel: senders fail at once, receivers first get what is queued. Idempotent."""
        self._closed = True
        for waiter in (*self._senders, *self._receivers):
            if not waiter.done():
                waiter.set_result(None)

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._closed

    def statistics(self) -> ChannelStatistics:
        """The figures of this moment."""
        return ChannelStatistics(len(self._items), self._capacity, self._sent, self._dropped, len(self._senders))

    def __len__(self) -> int:
        return len(self._items)

    def __aiter__(self) -> Channel[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.receive()
        except ChannelClosed:
            raise StopAsyncIteration from None

    async def _wait(self, waiters: deque[asyncio.Future[None]]) -> None:
        waiter = asyncio.get_running_loop().create_future()
        waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            # The wake-up this waiter was given (if any) belongs to the next one in line.
            if waiter.done() and not waiter.cancelled():
                self._wake(waiters)
            raise
        finally:
            if waiter in waiters:
                waiters.remove(waiter)

    @staticmethod
    def _wake(waiters: deque[asyncio.Future[None]]) -> None:
        while waiters:
            waiter = waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
