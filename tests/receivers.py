"""For tests of webhooks: a receiver on loopback, a clock that is moved by hand, a store with webhooks."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select

from rejoinder import events
from rejoinder.store import tables
from rejoinder.store.outbox import DeliveryRecord
from rejoinder.store.store import Store
from rejoinder.webhooks import Webhooks


class ManualClock:
    """Time stands still until it is moved."""

    def __init__(self) -> None:
        self.now = float(int(datetime.now(UTC).timestamp()))

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return round(self.now * 1000)


class Receiver:
    """An HTTP server that notes what comes and answers as `answer(number)` says: status, headers, or None: nothing."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], str]] = []
        self.answer: Callable[[int], tuple[int, str] | None] = lambda number: (204, "")
        self.connections = 0
        self._changed = asyncio.Condition()
        self._closing = asyncio.Event()

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.got]

    def types(self) -> list[str]:
        return [json.loads(body)["type"] for _, body in self.got]

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: len(self.got) >= count)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            request, *lines = head.strip().split("\r\n")
            assert request.startswith("POST /hook HTTP/1.1")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            body = (await reader.readexactly(int(headers["content-length"]))).decode()
            async with self._changed:
                self.got.append((headers, body))
                number = len(self.got)
                self._changed.notify_all()
            said = self.answer(number)
            if said is None:
                await self._closing.wait()
                return
            writer.write(f"HTTP/1.1 {said[0]} X\r\n{said[1]}content-length: 0\r\n\r\n".encode())
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Receiver, str]]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield receiver, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    finally:
        receiver._closing.set()
        server.close()


class Box:
    """A store with webhooks, as the runtime has them."""

    def __init__(self, store: Store, hooks: Webhooks, clock: ManualClock) -> None:
        self.store, self.hooks, self.clock = store, hooks, clock
        self.counted: list[str] = []
        self._seq = 0

    def publish(self, event: events.Event, session_id: str = "ses_1") -> None:
        self._seq += 1
        event.seq, event.at, event.session_id = self._seq, self.clock.wall_ms(), session_id
        data = events.encode(event)
        self.store.recorder.on_event(session_id, event, data)
        self.hooks.on_event(event, data)

    async def rows(self) -> list[DeliveryRecord]:
        async with self.store.reading() as connection:
            found = await connection.execute(select(tables.webhook_deliveries).order_by("id"))
            return [DeliveryRecord(**row) for row in found.mappings().all()]

    async def until(self, wanted: Callable[[list[DeliveryRecord]], bool]) -> list[DeliveryRecord]:
        """The rows, as soon as they are as `wanted`."""
        async with asyncio.timeout(10):
            while True:
                if wanted(rows := await self.rows()):
                    return rows
                await asyncio.sleep(0.01)

    async def move(self, seconds: float) -> None:
        """Move the time, and look at the outbox."""
        self.clock.now += seconds
        self.hooks.dispatcher.wake()


@asynccontextmanager
async def opened(
    path: Path | str | None = None, clock: ManualClock | None = None, **options: Any
) -> AsyncIterator[Box]:
    clock = clock or ManualClock()
    store = Store(path if isinstance(path, str) else f"sqlite+aiosqlite:///{path or ':memory:'}")
    await store.open()
    counted: list[str] = []
    hooks = Webhooks(store, clock, **{"private": True, "counted": counted.append, **options})
    box = Box(store, hooks, clock)
    box.counted = counted
    try:
        await hooks.open()
        yield box
    finally:
        await hooks.close()
        await store.close()


def started(agent: str = "guide") -> events.SessionStarted:
    return events.SessionStarted(agent=agent, input_rate=16_000, output_rate=24_000)


def ended(reason: str = "client_ended") -> events.SessionEnded:
    return events.SessionEnded(reason=reason)
