"""Recordings: the sound of sessions whose agent wants it kept, streamed to disk by one thread, deleted in its time."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from rejoinder import wavfile
from rejoinder.audio import ENGINE_RATE, SAMPLE_BYTES
from rejoinder.bus import Bus
from rejoinder.clock import Clock
from rejoinder.errors import RejoinderError
from rejoinder.events import AgentChanged, ServerEvent, SessionEnded, SessionStarted
from rejoinder.settings import Agent
from rejoinder.store.recordings import RecordingRecord, RecordingRows
from rejoinder.store.store import Store
from rejoinder.tape import CHANNELS, Deck

log = logging.getLogger(__name__)
_FRAME_BYTES = CHANNELS * SAMPLE_BYTES
_WRITE_BYTES = ENGINE_RATE * _FRAME_BYTES
"""A second is written at a time."""
_WAITING_BYTES = 32 << 20
"""Sound that waits for the disk, of all sessions; what comes then is lost."""
_DEAD_S = 10.0
"""A recording that nobody has written to for this long has no process any more: each writes every second."""
_SWEEPS_S = (0.0, 15.0, 3600.0)
"""When it is looked what is to go: at the start, a little later (see `_DEAD_S`), then each hour."""
_CLOSE_S = 5.0
_DAY_MS = 86_400_000
_SESSION_ID = re.compile(r"[A-Za-z0-9_]{1,80}\Z")

Failed = Callable[[OSError], None]


class Recordable(Protocol):
    """What a recording needs of its session."""

    id: str
    bus: Bus
    deck: Deck

    @property
    def agent(self) -> Agent:
        """The definition of who answers now."""

    def complain(self, error: RejoinderError) -> None:
        """Tell everybody connected of an error."""


class Disk:
    """The thread that writes: what is put is done in its order. It runs while there is something to record."""

    def __init__(self, write_at: Callable[..., None] = wavfile.write_at) -> None:
        self._write_at = write_at
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        # Each counted by one side alone, so that neither needs a lock.
        self._put = self._done = 0

    @property
    def waiting(self) -> int:
        """Bytes that are not written yet."""
        return self._put - self._done

    def write(self, path: Path, offset: int, pcm: bytes, failed: Failed) -> bool:
        """Write `pcm` at `offset` bytes of the sound in `path`; False if so much waits already that it is lost."""
        if self.waiting + len(pcm) > _WAITING_BYTES:
            return False
        self._put += len(pcm)
        loop = asyncio.get_running_loop()

        def job() -> None:
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._write_at(path, offset, pcm, ENGINE_RATE, CHANNELS)
            except OSError as error:
                _tell(loop, failed, error)
            finally:
                self._done += len(pcm)

        self._do(job)
        return True

    def finish(self, path: Path, size: int, done: Callable[[int], None], failed: Failed) -> None:
        """Make the sound in `path` end after `size` bytes; `done` is told its length, after all that was put before."""
        loop = asyncio.get_running_loop()

        def job() -> None:
            try:
                length = wavfile.finish(path, size, ENGINE_RATE, CHANNELS)
            except OSError as error:
                _tell(loop, failed, error)
            else:
                _tell(loop, done, length)

        self._do(job)

    async def close(self) -> None:
        """Write what waits, and end the thread; one that hangs is left behind. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._jobs.put(None)
        await asyncio.to_thread(thread.join, _CLOSE_S)
        if thread.is_alive():
            log.error("the disk of the recordings hangs; %d bytes are not written", self.waiting)

    def _do(self, job: Callable[[], None]) -> None:
        if self._thread is None:
            # One that hangs must not keep the process from ending.
            self._thread = threading.Thread(target=self._run, name="recordings", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                log.exception("a write of a recording failed")


class _Reel:
    """The recording of one session, on the event loop: takes blocks from its tape and puts them by the second."""

    def __init__(self, session: Recordable, path: Path, disk: Disk, origin: float, clock: Clock) -> None:
        self.path = path
        self.done: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        """The bytes of sound when the file is closed; None: it cannot be."""
        self._session = session
        self._disk = disk
        self._origin = origin
        self._clock = clock
        self._leave: Callable[[], None] | None = None
        self._base = 0
        self._buffer = bytearray()
        self._buffer_at = 0
        self._told = self.over = False
        self._put(0, b"")

    @property
    def running(self) -> bool:
        """Whether what is said now is kept."""
        return self._leave is not None

    def run(self) -> None:
        """Keep what is said from now on."""
        deck = self._session.deck
        # What was said before is given out to others, not to this.
        deck.flush()
        self._leave = deck.take(self, listens=False)
        assert deck.tape is not None
        self._base = round((deck.tape.origin - self._origin) * ENGINE_RATE)

    def stop(self) -> None:
        """Keep nothing more; what was said until now is kept. Idempotent."""
        if self._leave is None:
            return
        self._session.deck.flush()
        self._leave()
        self._leave = None
        self._write()

    def finish(self) -> None:
        """The session is over: the file is as long as it was."""
        self.stop()
        self.over = True
        size = min(self._now() * _FRAME_BYTES, wavfile.MOST_BYTES // _FRAME_BYTES * _FRAME_BYTES)
        self._disk.finish(self.path, size, self.done.set_result, self._not_closed)

    def on_block(self, position: int, pcm: bytes) -> None:
        """See `Taker`."""
        at = self._base + position
        if not self._buffer:
            self._buffer_at = at
        self._buffer += pcm
        if len(self._buffer) >= _WRITE_BYTES:
            self._write()

    def on_over(self, reason: str) -> None:
        """See `Taker`: `finish` comes by the session's own event."""

    def _now(self) -> int:
        return round((self._clock.monotonic() - self._origin) * ENGINE_RATE)

    def _write(self) -> None:
        pcm, self._buffer = bytes(self._buffer), bytearray()
        if pcm:
            self._put(self._buffer_at * _FRAME_BYTES, pcm)

    def _put(self, offset: int, pcm: bytes) -> None:
        if offset + len(pcm) > wavfile.MOST_BYTES:
            self._failed(OSError(errno.EFBIG, os.strerror(errno.EFBIG)))
        elif not self._disk.write(self.path, offset, pcm, self._failed):
            self._failed(OSError(errno.EAGAIN, "the disk cannot keep up"))

    def _failed(self, error: OSError) -> None:
        if self._told:
            return
        self._told = True
        log.error("the recording of %s has gaps: %s", self._session.id, error)
        if self.over:
            return
        self._session.complain(
            RejoinderError(
                "Some of the sound of this session could not be kept.",
                code="recording_failed",
                fix="The call goes on; the server's log says why.",
            )
        )

    def _not_closed(self, error: OSError) -> None:
        log.error("the recording of %s could not be closed: %s", self._session.id, error)
        self.done.set_result(None)


class Recordings:
    """All recordings of one process, in `folder`. `open()` it, `watch()` each session, `close()` it after the last.

    Processes that share a database must share the folder.
    """

    def __init__(self, store: Store, folder: Path, clock: Clock, *, disk: Disk | None = None) -> None:
        self.folder = folder
        self.rows = RecordingRows(store)
        self._clock = clock
        self._disk = disk or Disk()
        self._reels: dict[str, _Reel] = {}
        self._sweeping: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """From now on, look now and then for what is to be closed or deleted."""
        self._sweeping = asyncio.create_task(self._sweep_for_ever(), name="recordings")

    async def close(self) -> None:
        """Write what waits, within seconds. Idempotent."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait({self._sweeping})
            self._sweeping = None
        await self.settle()
        await self._disk.close()

    async def settle(self) -> None:
        """Wait until the recordings of all sessions that have ended are closed, at most some seconds."""
        if ended := [reel.done for reel in self._reels.values() if reel.over]:
            await asyncio.wait(ended, timeout=_CLOSE_S)

    def busy(self, session_id: str) -> bool:
        """Whether the recording of that session is still being written here."""
        return session_id in self._reels

    def path(self, record: RecordingRecord) -> Path | None:
        """Where its sound lies; None if it was deleted."""
        return None if record.file is None else self.folder / record.file

    def watch(self, session: Recordable) -> None:
        """Record `session` while its agent wants that; call before it starts."""
        started: tuple[float, int] | None = None

        def on_event(event: ServerEvent, data: bytes) -> None:
            nonlocal started
            if isinstance(event, SessionStarted):
                started = self._clock.monotonic(), event.at
            elif isinstance(event, SessionEnded):
                self._finish(session)
                return
            elif not isinstance(event, AgentChanged):
                return
            if started is not None:
                self._follow(session, *started)

        session.bus.subscribe(on_event)

    async def delete(self, session_id: str, by: str) -> bool:
        """Delete the sound of a session that is over; False if there is none (any more). `by`: who wanted that.

        Raises:
            OSError: the file cannot be deleted.
        """
        record = await self.rows.get(session_id)
        if record is None or (path := self.path(record)) is None:
            return False
        await asyncio.to_thread(_unlink, path)
        await self.rows.deleted(session_id, by)
        return True

    async def peaks(self, path: Path) -> tuple[bytes, bytes]:
        """The loudest sample (0 to 127) of each 10 ms of the user and of the agent.

        Raises:
            OSError: the file cannot be read.
        """
        return await asyncio.to_thread(_peaks, path)

    async def sweep(self) -> None:
        """Delete what has expired, and close what dead processes have left."""
        tried: set[str] = set()
        while records := [one for one in await self.rows.expired(self._clock.wall_ms()) if one.session_id not in tried]:
            for record in records:
                tried.add(record.session_id)
                if self.busy(record.session_id):
                    continue
                try:
                    await self.delete(record.session_id, "retention")
                except OSError as error:
                    log.error("the recording of %s cannot be deleted: %s", record.session_id, error)
        for record in await self.rows.unfinished():
            path = self.path(record)
            if path is None or self.busy(record.session_id):
                continue
            try:
                size = await asyncio.to_thread(_close_dead, path)
            except OSError as error:
                log.error("the recording of %s cannot be closed: %s", record.session_id, error)
                continue
            if size is not None:
                log.info("the recording of %s, whose process died, is closed", record.session_id)
                self._note(record.session_id, size)

    def _follow(self, session: Recordable, origin: float, started_at: int) -> None:
        """Begin, go on or stop, as the agent that answers now has it."""
        wanted, reel = session.agent.recording, self._reels.get(session.id)
        if not wanted.enabled:
            if reel is not None:
                reel.stop()
            return
        if reel is None:
            if not _SESSION_ID.match(session.id):
                raise ValueError(f"{session.id!r} cannot be the name of a file")
            file = f"{session.id}.wav"
            days = wanted.retention_days
            self.rows.begin(
                session.id, file, ENGINE_RATE, started_at, None if days is None else started_at + days * _DAY_MS
            )
            reel = self._reels[session.id] = _Reel(session, self.folder / file, self._disk, origin, self._clock)
        if not reel.running:
            reel.run()

    def _finish(self, session: Recordable) -> None:
        reel = self._reels.get(session.id)
        if reel is None:
            return

        def done(future: asyncio.Future[int | None]) -> None:
            del self._reels[session.id]
            if (size := future.result()) is not None:
                self._note(session.id, size)

        # The future is told by the thread, and its callbacks run before whoever waits for it in `close`.
        reel.done.add_done_callback(done)
        reel.finish()

    def _note(self, session_id: str, size: int) -> None:
        self.rows.finish(session_id, round(size * 1000 / (_FRAME_BYTES * ENGINE_RATE)), size + wavfile.HEADER_BYTES)

    async def _sweep_for_ever(self) -> None:
        delays = iter(_SWEEPS_S)
        delay = next(delays)
        while True:
            await asyncio.sleep(delay)
            delay = next(delays, _SWEEPS_S[-1])
            try:
                await self.sweep()
            except Exception:
                log.exception("recordings could not be looked through")


def _tell(loop: asyncio.AbstractEventLoop, told: Callable[..., None], what: object) -> None:
    # A loop that is closed has nobody left who could be told.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(told, what)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_suffix(".peaks").unlink(missing_ok=True)


def _close_dead(path: Path) -> int | None:
    """Close a recording that nobody writes any more; None if somebody does, or it is not here."""
    idle = wavfile.idle_s(path)
    return None if idle is None or idle < _DEAD_S else wavfile.finish(path, None, ENGINE_RATE, CHANNELS)


def _peaks(path: Path) -> tuple[bytes, bytes]:
    cache = path.with_suffix(".peaks")
    try:
        both = cache.read_bytes()
    except FileNotFoundError:
        user, agent = wavfile.peaks(path, ENGINE_RATE, CHANNELS)
        fresh = cache.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(file, user + agent)
        finally:
            os.close(file)
        # As a whole or not at all: somebody else may be reading.
        fresh.replace(cache)
        if not path.exists():
            # Deleted meanwhile, and this must be, too.
            cache.unlink(missing_ok=True)
        return user, agent
    return both[: len(both) // 2], both[len(both) // 2 :]
