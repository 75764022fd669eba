"""The tape: both sides of a session on one clock, as stereo PCM16 at 16 kHz (left the user, right the agent).

The user's audio lies where it came, the agent's where it was played: what was sent and then dropped is not on it. So
that this can be known, the tape gives out its blocks a little later than they happened. Without takers there is none.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from rejoinder.audio import ENGINE_RATE, SAMPLE_BYTES, Resampler
from rejoinder.bus import Bus
from rejoinder.clock import Clock
from rejoinder.events import ClearAudio, ServerEvent, SessionEnded

log = logging.getLogger(__name__)
CHANNELS = 2
BLOCK_MS = 100
_SLACK_MS = 20
"""Sound that is out of place by less stays where it joins the sound before it."""
_AHEAD_MS = 2_000
"""Audio that came faster than it can have been spoken is kept so far ahead, then dropped."""
_QUIET = 300
"""Audio below this (of 32767) may be left out to catch up."""
_REPORTS = 3
"""A client whose sound is late has to say so as often in a row: a single report may just have been under way long."""
_RESAMPLER_MS = 130
"""A converter gives out the end of what it was given only when more has come; it holds back less than this."""


class _Run:
    """Sound without a gap: where it starts (in samples), and where at the earliest it may."""

    __slots__ = ("earliest", "late", "pcm", "start")

    def __init__(self, start: int, earliest: int, pcm: bytes) -> None:
        self.start = start
        self.earliest = earliest
        self.pcm = bytearray(pcm)
        self.late: deque[int] = deque(maxlen=_REPORTS)

    @property
    def end(self) -> int:
        return self.start + len(self.pcm) // SAMPLE_BYTES


class Track:
    """One side: runs of sound on a line of samples at `rate`; what has been taken cannot be moved any more."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.taken = 0
        self.end = 0
        """Where the last sound ends."""
        self._slack = rate * _SLACK_MS // 1000
        self._ahead = rate * _AHEAD_MS // 1000
        self._runs: deque[_Run] = deque()

    def came(self, pcm: bytes, now: int) -> None:
        """A piece that came at `now`, and so was spoken before: as late as that, if nothing shows it was earlier.

        A piece that follows another one joins it; one that is late may still be, until others show that it only took
        longer. What came faster than it can have been spoken is kept, and the next quiet pieces are left out for it.
        """
        size = len(pcm) // SAMPLE_BYTES
        floor = max(self.end, self.taken)
        late = now - (floor + size)
        if -late > self._slack and (floor - now > self._ahead or _is_quiet(pcm)):
            return
        if late > self._slack or not self._runs:
            self._append(_Run(floor + max(0, late), 0, pcm))
            return
        self._runs[-1].pcm += pcm
        self.end += size
        while late < 0:
            self._move(late)
            if not self._join():
                break
            late = now - self.end

    def sent(self, pcm: bytes, now: int) -> None:
        """A piece that was sent at `now`: it is played after the one before, or at once."""
        if self.end - now > self._ahead:
            return
        if self._runs and self.end > now:
            self._runs[-1].pcm += pcm
            self.end += len(pcm) // SAMPLE_BYTES
        else:
            start = max(now, self.end, self.taken)
            self._append(_Run(start, start, pcm))

    def reported(self, ahead: int, now: int) -> None:
        """At `now` the client has still to play `ahead` samples of what was sent."""
        if not self._runs or ahead <= 0:
            return
        run, late = self._runs[-1], now + ahead - self.end
        first = not run.late
        run.late.append(late)
        if first or late < 0:
            self._move(late)
        elif len(run.late) == _REPORTS and (least := min(run.late)) > self._slack:
            self._move(least)

    def cut(self, now: int) -> None:
        """What was to be played from `now` on is not."""
        while self._runs and self._runs[-1].start >= now:
            self._runs.pop()
        if self._runs:
            run = self._runs[-1]
            del run.pcm[max(0, now - run.start) * SAMPLE_BYTES :]
        self.end = min(self.end, max(now, self.taken))

    def take(self, until: int) -> bytes:
        """The sound up to `until`, with silence where there is none."""
        parts: list[bytes] = []
        position = self.taken
        while self._runs and self._runs[0].start < until:
            run = self._runs[0]
            if run.start > position:
                parts.append(bytes((run.start - position) * SAMPLE_BYTES))
                position = run.start
            size = min(until, run.end) - run.start
            parts.append(bytes(run.pcm[: size * SAMPLE_BYTES]))
            position += size
            if until >= run.end:
                self._runs.popleft()
            else:
                del run.pcm[: size * SAMPLE_BYTES]
                run.start = until
        if position < until:
            parts.append(bytes((until - position) * SAMPLE_BYTES))
        self.taken = max(self.taken, until)
        return b"".join(parts)

    @property
    def held(self) -> int:
        """Bytes that wait to be taken."""
        return sum(len(run.pcm) for run in self._runs)

    def _append(self, run: _Run) -> None:
        self._runs.append(run)
        self.end = run.end

    def _move(self, samples: int) -> None:
        """Move the last run; to the left at most to what lies before it."""
        run = self._runs[-1]
        before = self._runs[-2].end if len(self._runs) > 1 else 0
        start = max(run.start + samples, run.earliest, before, self.taken)
        moved, run.start = start - run.start, start
        run.late = deque((late - moved for late in run.late), _REPORTS)
        self.end = run.end

    def _join(self) -> bool:
        """Whether the last run followed the one before it so closely that it is a part of it now."""
        if len(self._runs) < 2 or self._runs[-1].start - self._runs[-2].end > self._slack:
            return False
        pcm = self._runs.pop().pcm
        self._runs[-1].pcm += pcm
        self.end = self._runs[-1].end
        return True


def _is_quiet(pcm: bytes) -> bool:
    samples = memoryview(pcm).cast("h")[::16]
    return max(samples) < _QUIET and min(samples) > -_QUIET


class Tape:
    """What is said from `now` (s) on, by a clock whose times come with each call; agent audio comes at `rate` Hz.

    Pure arithmetic. `due` gives out what happened more than `delay_s` before: what has not been decided by then counts
    as it seemed.
    """

    def __init__(self, rate: int, delay_s: float, now: float) -> None:
        self.origin = now
        self.position = 0
        """The samples (of each side) that were given out."""
        self._delay_s = delay_s
        self._user = Track(ENGINE_RATE)
        self._agent = Track(rate)
        self._converter = Resampler(rate, ENGINE_RATE)
        self._converted = bytearray()
        self._extra_s = 0.0 if rate == ENGINE_RATE else _RESAMPLER_MS / 1000
        self._block = ENGINE_RATE * BLOCK_MS // 1000

    def user(self, pcm: bytes, now: float) -> None:
        """User audio that came now: PCM16 at 16 kHz."""
        if pcm:
            self._user.came(pcm, round((now - self.origin) * ENGINE_RATE))

    def agent(self, pcm: bytes, now: float) -> None:
        """Reply audio that is sent now."""
        if pcm:
            self._agent.sent(pcm, self._in_agent(now))

    def reported(self, ahead_ms: float, now: float) -> None:
        """The client says that it has still to play so much of what it was sent."""
        self._agent.reported(round(ahead_ms * self._agent.rate / 1000), self._in_agent(now))

    def clear(self, now: float) -> None:
        """The client drops what it has not played."""
        self._agent.cut(self._in_agent(now))

    def due(self, now: float) -> Iterator[tuple[int, bytes]]:
        """The next blocks: where each starts, in samples since the origin, and its sound."""
        until = int((now - self.origin - self._delay_s) * ENGINE_RATE)
        while self.position + self._block <= until:
            yield self._take(self._block)

    def rest(self, now: float) -> Iterator[tuple[int, bytes]]:
        """All blocks until now, without the delay."""
        until = round((now - self.origin) * ENGINE_RATE)
        while self.position < until:
            yield self._take(min(self._block, until - self.position))

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return self._user.held + self._agent.held + len(self._converted)

    def _in_agent(self, now: float) -> int:
        return round((now - self.origin) * self._agent.rate)

    def _take(self, size: int) -> tuple[int, bytes]:
        start = self.position
        self.position += size
        sides = np.empty((size, CHANNELS), "<i2")
        sides[:, 0] = np.frombuffer(self._user.take(self.position), "<i2")
        until = (self.position / ENGINE_RATE + self._extra_s) * self._agent.rate
        self._converted += self._converter.process(self._agent.take(round(until)))
        spoken = bytes(self._converted[: size * SAMPLE_BYTES])
        del self._converted[: size * SAMPLE_BYTES]
        sides[:, 1] = np.frombuffer(spoken.ljust(size * SAMPLE_BYTES, b"\0"), "<i2")
        return start, sides.tobytes()


class Taker(Protocol):
    """Who takes the blocks of a tape: called on the event loop; it must be quick."""

    def on_block(self, position: int, pcm: bytes) -> None:
        """The next sound: stereo PCM16 at 16 kHz, `position` samples after the tape's origin."""

    def on_over(self, reason: str) -> None:
        """The session has ended; nothing more comes."""


class Deck:
    """A session's tape, which runs while somebody takes it."""

    def __init__(self, bus: Bus, clock: Clock, rate: int, delay_s: float) -> None:
        self.tape: Tape | None = None
        self._bus = bus
        self._clock = clock
        self._rate = rate
        self._delay_s = delay_s
        self._takers: dict[Taker, bool] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    @property
    def listeners(self) -> int:
        """How many people listen."""
        return sum(self._takers.values())

    def take(self, taker: Taker, *, listens: bool) -> Callable[[], None]:
        """Give `taker` the sound from now on; returns the (idempotent) way to stop that. `listens`: it is a person."""
        if self.tape is None:
            self.tape = Tape(self._rate, self._delay_s, self._clock.monotonic())
            self._unsubscribe = self._bus.subscribe(self._on_event)
            self._timer = asyncio.get_running_loop().call_later(BLOCK_MS / 1000, self._tick)
        self._takers[taker] = listens

        def leave() -> None:
            if self._takers.pop(taker, None) is not None and not self._takers:
                self._stop()

        return leave

    def flush(self) -> None:
        """Give out all there is until now."""
        if (tape := self.tape) is not None:
            self._give(tape.rest(self._clock.monotonic()))

    def _tick(self) -> None:
        if (tape := self.tape) is None:
            return
        self._timer = asyncio.get_running_loop().call_later(BLOCK_MS / 1000, self._tick)
        self._give(tape.due(self._clock.monotonic()))

    def _give(self, blocks: Iterator[tuple[int, bytes]]) -> None:
        for position, pcm in blocks:
            for taker in tuple(self._takers):
                try:
                    taker.on_block(position, pcm)
                except Exception:
                    log.exception("a taker of a tape failed and gets no more")
                    self._takers.pop(taker, None)
        if not self._takers:
            self._stop()

    def _on_event(self, event: ServerEvent, data: bytes) -> None:
        if isinstance(event, ClearAudio) and self.tape is not None:
            self.tape.clear(self._clock.monotonic())
        elif isinstance(event, SessionEnded):
            if self.tape is not None:
                self.tape.clear(self._clock.monotonic())
            self.flush()
            takers = tuple(self._takers)
            self._stop()
            for taker in takers:
                taker.on_over(event.reason)

    def _stop(self) -> None:
        self.tape = None
        self._takers.clear()
        self._unsubscribe()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
