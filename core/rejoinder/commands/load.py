"""Many conversations at once from one cheap client, to measure what the engine adds and what it costs."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from rejoinder.audio import FRAME_MS, SAMPLE_BYTES, byte_count
from rejoinder.client import SUBPROTOCOL, Unreachable, session_url
from rejoinder.commands.report import Distribution
from rejoinder.errors import MissingDependency, RejoinderError
from rejoinder.events import Configure, encode
from rejoinder.playhead import Playhead

if TYPE_CHECKING:
    from picows import WSFrame, WSListener, WSTransport

RATE = 16_000
VAD_MS = 200
"""Speech, and silence, that the scripted VAD wants before it decides."""
CONFIRM_MS = 300
"""Speech over the agent that is judged: `interrupt_ms` of the agent."""
WORD_MS = 60
"""A word of the scripted TTS."""
SPEECH_MS = 1200
PHASES = 10
REPORT_TICKS = 10
BARGE_IN_EVERY = 4
WARM_UP_S = 4.0
PATIENCE_S = 20.0
START_S = 20.0
SILENCE = bytes(byte_count(FRAME_MS, RATE))
NOISE_LEVEL = 6000


class _Head(msgspec.Struct):
    """What the load client reads of an event."""

    type: str
    reply_id: str = ""
    reason: str = ""
    message: str = ""
    heard_text: str = ""


_head = msgspec.json.Decoder(_Head).decode


@dataclass(slots=True)
class Tally:
    """What all callers saw inside the measured window. Times in ms."""

    open: bool = False
    turns: int = 0
    overhead: list[float] = field(default_factory=list)
    barge_in: list[float] = field(default_factory=list)
    stale_frames: int = 0
    unanswered: int = 0
    unheeded: int = 0
    heard: int = 0
    misheard: int = 0
    late_ticks: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """One level of load: what the sessions felt, and what they cost. None: not known (no process id, no Linux)."""

    sessions: int
    window_s: float
    turns: int
    overhead_ms: Distribution
    barge_in_ms: Distribution
    stale_frames: int
    unanswered: int
    unheeded_barge_ins: int
    heard_texts: int
    """Interrupted replies whose `heard_text` was compared with what the client had played."""
    misheard: int
    """Those where it differed, be it by one word."""
    errors: dict[str, int]
    server_cores: float | None
    cpu_ms_per_session_s: float | None
    base_rss_mb: float | None
    rss_mb_per_session: float | None
    client_cores: float
    client_late_ms: Distribution
    steal_cores: float | None

    def json(self) -> dict[str, Any]:
        """As a JSON object."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value.json() if isinstance(value, Distribution) else value for name, value in fields.items()}


class Caller:
    """One session that speaks, listens and now and then interrupts; `tick` is called each 20 ms and never waits."""

    def __init__(self, tally: Tally, noise: bytes, rng: random.Random) -> None:
        self.transport: WSTransport | None = None
        self.started = asyncio.Event()
        self.gone = False
        self._tally = tally
        self._noise = noise
        self._rng = rng
        self._playhead = Playhead(RATE)
        self._binary: Any = None
        self._text: Any = None
        self._state = "pause"
        self._left = rng.randrange(150)
        self._turn = rng.randrange(BARGE_IN_EVERY)
        self._since = time.monotonic()
        self._began_at = self._said_at = 0.0
        self._stopped_ms: float | None = None
        self._barging = False
        self._reply_id = ""
        self._cleared = self._finished = False
        self._ticks = rng.randrange(REPORT_TICKS)
        self._reported_ms = 0.0

    def attach(self, transport: WSTransport, binary: object, text: object) -> None:
        """Take the connection, and picows' names for the two kinds of frames."""
        self.transport, self._binary, self._text = transport, binary, text

    def tick(self) -> None:
        """Send the next 20 ms and decide what to do next."""
        if self.gone or self.transport is None:
            return
        now = time.monotonic()
        self._ticks += 1
        if self._state == "speak":
            if self._left == SPEECH_MS // FRAME_MS:
                self._began_at = now
            self.transport.send(self._binary, self._noise)
            self._left -= 1
            if not self._left:
                self._said_at = now
                self._enter("wait", now)
                if self._barging:
                    self._barging = False
                    self._tally.unheeded += self._tally.open
        else:
            self.transport.send(self._binary, SILENCE)
            self._go_on(now)
        self._report()

    def _go_on(self, now: float) -> None:
        if self._state == "pause":
            self._left -= 1
            if self._left <= 0:
                self._speak(now)
        elif self._state == "listen" and self._left:
            self._left -= 1
            if not self._left and not self._finished:
                self._barging = True
                self._speak(now)
        elif now - self._since > PATIENCE_S:
            self._tally.unanswered += self._tally.open
            self._enter("pause", now)

    def _enter(self, state: str, now: float) -> None:
        self._state, self._since = state, now
        if state == "pause":
            self._left = self._rng.randrange(15, 35)

    def _speak(self, now: float) -> None:
        self._enter("speak", now)
        self._left = SPEECH_MS // FRAME_MS

    def _report(self, *, at_once: bool = False) -> None:
        if not self._reply_id or not self._playhead.received_ms():
            return
        done = self._playhead.remaining_s() <= 0
        if done or at_once or self._ticks % REPORT_TICKS == 0:
            played = self._playhead.played_ms()
            if played != self._reported_ms and self.transport is not None:
                self._reported_ms = played
                report = f'{{"type":"playback","reply_id":"{self._reply_id}","played_ms":{played:.1f}}}'
                self.transport.send(self._text, report.encode())

    def take_audio(self, size: int, now: float) -> None:
        """`size` bytes of audio have arrived."""
        if self._cleared:
            self._tally.stale_frames += 1
            return
        if self._state == "wait":
            if self._tally.open:
                self._tally.turns += 1
                self._tally.overhead.append((now - self._said_at) * 1000 - VAD_MS)
            self._enter("listen", now)
            self._turn += 1
            self._left = self._rng.randrange(20, 50) if self._turn % BARGE_IN_EVERY == 0 else 0
        self._playhead.advance(size * 1000 / (SAMPLE_BYTES * RATE))

    def take_event(self, payload: bytes, now: float) -> None:
        """An event has arrived."""
        event = _head(payload)
        if event.type == "clear_audio":
            self._cleared = True
            self._playhead.clear()
            self._report(at_once=True)
            if self._barging:
                self._barging = False
                self._stopped_ms = self._playhead.played_ms()
                if self._tally.open:
                    self._tally.barge_in.append((now - self._began_at) * 1000 - CONFIRM_MS)
        elif event.type == "reply.started":
            self._reply_id, self._cleared, self._finished = event.reply_id, False, False
            self._reported_ms = 0.0
            self._playhead.begin()
        elif event.type == "reply.finished":
            self._finished = True
            if event.reason != "interrupted":
                self._barging = False
            elif self._stopped_ms is not None and self._tally.open:
                # A word was heard if half of it was played.
                self._tally.heard += 1
                self._tally.misheard += int(self._stopped_ms / WORD_MS + 0.5) != len(event.heard_text.split())
            self._stopped_ms = None
            if self._state == "listen":
                self._enter("pause", now)
        elif event.type == "session.started":
            self.started.set()
        elif event.type == "error":
            self._tally.errors[event.message] += 1


def _listener(caller: Caller) -> WSListener:
    from picows import WSListener, WSMsgType

    class Listener(WSListener):  # type: ignore[misc]
        def on_ws_connected(self, transport: WSTransport) -> None:
            caller.attach(transport, WSMsgType.BINARY, WSMsgType.TEXT)
            transport.send(WSMsgType.TEXT, encode(Configure(input_rate=RATE, output_rate=RATE)))

        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            now = time.monotonic()
            if frame.msg_type == WSMsgType.BINARY:
                caller.take_audio(frame.payload_size, now)
            elif frame.msg_type == WSMsgType.TEXT:
                caller.take_event(frame.get_payload_as_bytes(), now)
            elif frame.msg_type == WSMsgType.CLOSE:
                transport.disconnect()

        def on_ws_disconnected(self, transport: WSTransport) -> None:
            caller.gone = True

    return Listener()


class Ticker:
    """One timer for all callers: every 2 ms it ticks a tenth of them, so that frames do not come in one burst."""

    def __init__(self, callers: list[Caller], tally: Tally) -> None:
        self._phases = [callers[phase::PHASES] for phase in range(PHASES)]
        self._tally = tally
        self._loop = asyncio.get_running_loop()
        self._step_s = FRAME_MS / 1000 / PHASES
        self._due = time.monotonic()
        self._phase = 0
        self._handle = self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        now = time.monotonic()
        if self._tally.open and self._phase == 0:
            self._tally.late_ticks.append((now - self._due) * 1000)
        for caller in self._phases[self._phase]:
            caller.tick()
        self._phase = (self._phase + 1) % PHASES
        self._due += self._step_s
        self._handle = self._loop.call_later(max(0.0, self._due - time.monotonic()), self._tick)

    def stop(self) -> None:
        """No more ticks."""
        self._handle.cancel()


def run_load(url: str, sessions: int, duration: float, pid: int | None) -> LoadResult:
    """Hold `sessions` conversations with the agent `scripted` at `url`; measure for `duration` s.

    With `pid`, the CPU time and memory of that process are measured, too.

    Raises:
        MissingDependency: the extra `bench` is not installed.
        Unreachable: the server does not answer.
    """
    try:
        import picows  # noqa: F401
        import psutil
    except ImportError as error:
        raise MissingDependency("bench", error.name or "picows", "bench") from None
    runner: Callable[[Any], LoadResult] = asyncio.run
    try:
        import uvloop

        runner = uvloop.run
    except ImportError:
        pass
    return runner(_load(url, sessions, duration, psutil.Process(pid) if pid else None))


async def _load(url: str, sessions: int, duration: float, server: Any) -> LoadResult:
    tally = Tally()
    base = _rss_mb(server)
    rng = random.Random(sessions)
    noise = _noise(rng)
    callers = [Caller(tally, noise, rng) for _ in range(sessions)]
    await _connect(url, callers)
    ticker = Ticker(callers, tally)
    try:
        await asyncio.sleep(WARM_UP_S)
        tally.open = True
        began, own, cpu, stolen = time.monotonic(), time.process_time(), _cpu_s(server), _steal_s()
        await asyncio.sleep(duration)
        tally.open = False
        window = time.monotonic() - began
        own, spent, steal = time.process_time() - own, _less(_cpu_s(server), cpu), _less(_steal_s(), stolen)
        rss = _rss_mb(server)
        lost = sum(caller.gone for caller in callers)
    finally:
        ticker.stop()
        await _disconnect(callers)
    if lost == sessions:
        raise RejoinderError("The server dropped every session.", fix="Look at the server's log.")
    return LoadResult(
        sessions=sessions,
        window_s=round(window, 2),
        turns=tally.turns,
        overhead_ms=Distribution.of(tally.overhead),
        barge_in_ms=Distribution.of(tally.barge_in),
        stale_frames=tally.stale_frames,
        unanswered=tally.unanswered,
        unheeded_barge_ins=tally.unheeded,
        heard_texts=tally.heard,
        misheard=tally.misheard,
        errors=dict(tally.errors) | ({"connection lost": lost} if lost else {}),
        server_cores=None if spent is None else round(spent / window, 3),
        cpu_ms_per_session_s=None if spent is None else round(spent * 1000 / window / sessions, 3),
        base_rss_mb=base,
        rss_mb_per_session=None if rss is None or base is None else round((rss - base) / sessions, 3),
        client_cores=round(own / window, 3),
        client_late_ms=Distribution.of(tally.late_ticks),
        steal_cores=None if steal is None else round(steal / window, 3),
    )


async def _connect(url: str, callers: list[Caller]) -> None:
    from picows import WSError, ws_connect

    address = session_url(url)
    headers = {"Sec-WebSocket-Protocol": SUBPROTOCOL}
    try:
        for caller in callers:
            await ws_connect(partial(_listener, caller), address, extra_headers=headers)
        async with asyncio.timeout(START_S):
            for caller in callers:
                await caller.started.wait()
    except TimeoutError:
        await _disconnect(callers)
        raise RejoinderError(f"Not all sessions were started within {START_S:g} s.", code="server_failed") from None
    except (OSError, WSError) as error:
        await _disconnect(callers)
        raise Unreachable(f"No server answers at {address} ({error}).", fix="rejoinder serve") from None


async def _disconnect(callers: list[Caller]) -> None:
    live = [caller.transport for caller in callers if caller.transport is not None and not caller.gone]
    for caller in callers:
        caller.transport = None
    for transport in live:
        transport.disconnect()
    await asyncio.sleep(0)


def _noise(rng: random.Random) -> bytes:
    samples = (rng.randrange(-NOISE_LEVEL, NOISE_LEVEL) for _ in range(RATE * FRAME_MS // 1000))
    return b"".join(sample.to_bytes(2, "little", signed=True) for sample in samples)


def _cpu_s(process: Any) -> float | None:
    if process is None:
        return None
    times = process.cpu_times()
    return float(times.user + times.system)


def _rss_mb(process: Any) -> float | None:
    return None if process is None else round(process.memory_info().rss / 2**20, 1)


def _steal_s() -> float | None:
    """CPU time the hypervisor gave to others, over all cores."""
    import os

    try:
        with open("/proc/stat", encoding="ascii") as stat:
            fields = stat.readline().split()
        return int(fields[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None


def _less(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before
