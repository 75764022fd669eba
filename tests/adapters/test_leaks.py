"""Sessions come and go in every way there is, and leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import socket
import sqlite3
import struct
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from rejoinder.session import Session
from rejoinder.settings import Limits
from rejoinder.testing.scripted import silence, tone
from rejoinder.turn import TurnScope

if TYPE_CHECKING:
    from tests.adapters.conftest import Caller, LiveServer, Serve

AT_ONCE = 20


class Held(NamedTuple):
    """What the process holds."""

    tasks: int
    threads: int
    fds: int
    connections: int
    live: int
    objects: int


def conversations() -> int:
    """How many sessions and replies are in memory."""
    gc.collect()
    return sum(isinstance(thing, (Session, TurnScope)) for thing in gc.get_objects())


def held(server: LiveServer) -> Held:
    process = psutil.Process()
    runtime = server.runtime
    pool: Any = runtime.store._engine.pool  # type: ignore[union-attr]

    async def count() -> int:
        return len(asyncio.all_tasks())

    tasks = server.call(count())
    objects = conversations()
    live = len(runtime.sessions) + len(runtime.stragglers) + len(runtime.store.recorder)
    return Held(tasks, process.num_threads(), process.num_fds(), pool.checkedout(), live, objects)


async def leave(caller: Caller, way: int) -> None:
    if way == 0:
        await caller.ws.close()
    elif way == 1:
        await caller.tell("end")
        assert (await caller.until_closed())[0] == 1000
    else:
        transport = caller.ws.transport
        assert transport is not None
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


async def visit(server: LiveServer, number: int) -> None:
    async with server.caller() as caller:
        match number // 3 % 4:
            case 0:
                await caller.turn()
            case 1:
                await caller.tell("text", text="go on")
                while not caller.audio():
                    await caller.receive()
            case 2:
                await caller.ws.send(tone(200) + silence(100))
                await caller.until("user.speech_started")
            case 3:
                pass
        await leave(caller, number % 3)


async def visits(server: LiveServer, count: int) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with gate:
            await visit(server, number)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))


def settled(server: LiveServer, wanted: Held | None, timeout: float = 10.0) -> Held:
    """What is held once it is `wanted`, or (without that) once nobody is there and it stays the same."""
    deadline = time.monotonic() + timeout
    last = None
    while True:
        now = held(server)
        if now == wanted or (wanted is None and now == last and now.live == 0) or time.monotonic() > deadline:
            return now
        last = now
        time.sleep(0.1)


def test_200_sessions_leave_nothing_behind(serve: Serve, tmp_path: Path) -> None:
    others = conversations()
    server = serve({"repeat": 8}, limits=Limits(idle_s=0.2))
    asyncio.run(visits(server, AT_ONCE))
    before = settled(server, None)
    assert (before.live, before.objects, before.connections) == (0, others, 0)
    asyncio.run(visits(server, 200))
    after = settled(server, before)
    assert after == before
    server.call(server.runtime.store.writer.flush())
    with closing(sqlite3.connect(tmp_path / "own.db")) as database:
        ended = dict(database.execute("SELECT end_reason, count(*) FROM sessions GROUP BY 1").fetchall())
        open_ones = database.execute("SELECT count(*) FROM sessions WHERE ended_at IS NULL").fetchone()
    assert open_ones == (0,)
    total = AT_ONCE + 200
    by_way = [len(range(way, AT_ONCE, 3)) + len(range(way, 200, 3)) for way in range(3)]
    assert sum(by_way) == total
    assert ended == dict(zip(("client_left", "client_ended", "idle"), by_way, strict=True))
