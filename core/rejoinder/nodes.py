"""How this process does, once a second for who watches it, and in the database for those who look at all of them."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from rejoinder import __version__
from rejoinder.board import Board
from rejoinder.clock import Clock
from rejoinder.errors import StoreError
from rejoinder.store.nodes import NodeRecord, NodeRows
from rejoinder.store.store import Store
from rejoinder.telemetry import Telemetry

log = logging.getLogger(__name__)
BEAT_S = 10.0
"""A process writes its row so often."""
LOST_MS = 30_000
"""One that was not seen for this long is lost."""
_FORGOTTEN_MS = 86_400_000
_STATUS = Path("/proc/self/statm")


class Pulse(msgspec.Struct):
    """How this process does now; `rows_waiting` are those that are not in the database yet."""

    active: int
    capacity: int
    draining: bool
    loop_lag_p99_ms: float | None
    turns_last_minute: int
    sse_readers: int
    store: Literal["ok", "unavailable"]
    rows_waiting: int


class Stats(msgspec.Struct):
    """What a process says of itself; `loaded` are the seconds that each provider (`stt:moonshine`) took to get ready.

    `cpu_percent` is of one core, since it was last asked.
    """

    sessions: int
    capacity: int
    cpu_percent: float
    rss_bytes: int
    loop_lag_p99_ms: float | None
    rows_waiting: int
    draining: bool
    loaded: dict[str, float]


class Node(msgspec.Struct):
    """A process on this database. `here`: the one that answers; `lost`: not seen for 30 s. Times are Unix ms."""

    id: str
    host: str
    pid: int
    version: str
    started_at: int
    seen_at: int
    here: bool
    lost: bool
    stats: Stats


class Vitals:
    """How this process does. `sessions()` live ones it has of `capacity`; `loaded` as in `Stats`."""

    def __init__(
        self,
        store: Store,
        telemetry: Telemetry,
        board: Board,
        clock: Clock,
        *,
        sessions: Callable[[], int],
        capacity: int,
        draining: Callable[[], bool],
        loaded: Mapping[str, float],
    ) -> None:
        self._store = store
        self._telemetry = telemetry
        self._board = board
        self._clock = clock
        self._sessions = sessions
        self._capacity = capacity
        self._draining = draining
        self._loaded = loaded
        self._cpu = (clock.monotonic(), cpu_s(), 0.0)

    def pulse(self) -> Pulse:
        """What changes every second."""
        stored, _ = self._store.writer.health()
        return Pulse(
            active=self._sessions(),
            capacity=self._capacity,
            draining=self._draining(),
            loop_lag_p99_ms=self._telemetry.lag_p99_ms(),
            turns_last_minute=self._board.turns_last_minute(),
            sse_readers=self._telemetry.streams,
            store="ok" if stored else "unavailable",
            rows_waiting=self._store.writer.waiting,
        )

    def stats(self) -> Stats:
        """What others may know of it."""
        return Stats(
            sessions=self._sessions(),
            capacity=self._capacity,
            cpu_percent=self._cpu_percent(),
            rss_bytes=rss_bytes(),
            loop_lag_p99_ms=self._telemetry.lag_p99_ms(),
            rows_waiting=self._store.writer.waiting,
            draining=self._draining(),
            loaded=dict(self._loaded),
        )

    def _cpu_percent(self) -> float:
        now, used = self._clock.monotonic(), cpu_s()
        at, before, percent = self._cpu
        # Over less than a second the clock's grain would count most.
        if now - at >= 1:
            percent = round(100 * (used - before) / (now - at), 1)
            self._cpu = (now, used, percent)
        return percent


def cpu_s() -> float:
    """The seconds of CPU that this process has used."""
    times = os.times()
    return times.user + times.system


def rss_bytes() -> int:
    """The memory of this process; where the system does not tell, the most that it ever had."""
    try:
        return int(_STATUS.read_text().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


class Nodes:
    """The processes on this database, of which this one is `node`; `open()` it, and `close()` it when it stops."""

    def __init__(self, node: str, store: Store, vitals: Vitals, clock: Clock) -> None:
        self._node = node
        self._rows = NodeRows(store)
        self._vitals = vitals
        self._clock = clock
        self._started_at = clock.wall_ms()
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    async def open(self) -> None:
        """Write the row of this process, and go on writing it."""
        await self._write()
        self._task = asyncio.create_task(self._beat(), name="node")

    async def close(self) -> None:
        """Remove it. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        try:
            await self._rows.remove(self._node)
        except StoreError as error:
            log.info("the row of this process stays: %s", error.explain())

    async def all(self) -> list[Node]:
        """All of them, this one as it is now.

        Raises:
            StoreError: the database refused.
        """
        now = self._clock.wall_ms()
        found = []
        for row in await self._rows.all():
            if row.id == self._node:
                continue
            try:
                stats = msgspec.convert(row.stats, Stats)
            except msgspec.ValidationError:
                # Another release's; it is there all the same.
                stats = Stats(0, 0, 0.0, 0, None, 0, False, {})
            lost = now - row.seen_at > LOST_MS
            found.append(Node(row.id, row.host, row.pid, row.version, row.started_at, row.seen_at, False, lost, stats))
        own = self._record()
        here = Node(
            own.id, own.host, own.pid, own.version, own.started_at, now, True, False, msgspec.convert(own.stats, Stats)
        )
        return sorted([*found, here], key=lambda node: (node.started_at, node.id))

    def _record(self) -> NodeRecord:
        return NodeRecord(
            id=self._node,
            host=platform.node(),
            pid=os.getpid(),
            version=__version__,
            started_at=self._started_at,
            seen_at=self._clock.wall_ms(),
            stats=msgspec.to_builtins(self._vitals.stats()),
        )

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            await self._write()

    async def _write(self) -> None:
        try:
            await self._rows.put(self._record(), forget_before=self._clock.wall_ms() - _FORGOTTEN_MS)
        except StoreError as error:
            if not self._failing:
                log.warning("this process cannot tell others that it is there: %s", error.explain())
            self._failing = True
        else:
            self._failing = False
