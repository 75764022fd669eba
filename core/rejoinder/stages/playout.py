"""Plays: a bounded queue of reply audio, sent a little ahead of the clock, never far beyond what was played.

One `Pacer` ticks for all sessions of a process; a `Playout` belongs to a session and plays one reply at a time.

What was sent and played is counted as the client counts it: in ms of audio of this reply, what had to be played again
included. A reply that is held takes back what the client had not played, so that it can go on at any word.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from rejoinder.audio import FRAME_MS, SAMPLE_BYTES, byte_count
from rejoinder.channel import Channel, ChannelClosed
from rejoinder.clock import Clock
from rejoinder.metrics import Jitter
from rejoinder.settings import Limits

log = logging.getLogger(__name__)
_SLACK_MS = 1.0
"""A tick that comes a little early must not put its frame off to the next one."""
_UNHEARD_MS = 40.0
"""A client that has played all but this much is done; its own resampler may hold some back."""
_SILENT_CLIENT_S = 2.0
"""A client that reported and then says nothing new for this long is paced by the clock instead."""
_MEMORY_MS = 3000
"""Audio that is remembered once it was sent: to go on from any word of it, and to know the agent's voice by."""


class Pacer:
    """The one ticker of a process: calls every playing `Playout` each 20 ms, and sleeps while none plays."""

    def __init__(self) -> None:
        self._playing: dict[Playout, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0

    def add(self, playout: Playout) -> None:
        """Tick `playout` from now on."""
        self._playing[playout] = None
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._next = loop.time() + FRAME_MS / 1000
            self._timer = loop.call_at(self._next, self._tick)

    def remove(self, playout: Playout) -> None:
        """Tick `playout` no more."""
        self._playing.pop(playout, None)

    def close(self) -> None:
        """Stop ticking."""
        self._playing.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        for playout in tuple(self._playing):
            try:
                playout.tick()
            except Exception:
                log.exception("a playout failed and is stopped")
                playout.give_up()
        if not self._playing:
            self._timer = None
            return
        loop = asyncio.get_running_loop()
        # On an absolute grid, so that late ticks do not add up; after a stall it does not try to catch up tick by tick.
        self._next = max(self._next + FRAME_MS / 1000, loop.time())
        self._timer = loop.call_at(self._next, self._tick)


class Playout:
    """A session's mouth at `rate` Hz. `send(pcm, last)` gets PCM16, `last` with the end of a
    reply (`pcm` may be empty then); `on_sent(epoch)` is called the first time, `on_drained(epoch)` when
    all of a finished reply has been played.
    """

    def __init__(
        self,
        rate: int,
        limits: Limits,
        clock: Clock,
        pacer: Pacer,
        send: Callable[[bytes, bool], None],
        on_sent: Callable[[int], None],
        on_drained: Callable[[int], None],
    ) -> None:
        self.rate = rate
        self._limits = limits
        self._clock = clock
        self._pacer = pacer
        self._send = send
        self._on_sent = on_sent
        self._on_drained = on_drained
        self._bytes_per_ms = byte_count(1000, rate) / 1000
        self._frame_bytes = byte_count(FRAME_MS, rate)
        self._memory_bytes = byte_count(_MEMORY_MS, rate)
        self._epoch = 0
        self._reset()

    def _reset(self) -> None:
        self._queue: Channel[bytes] = Channel(self._limits.playout_chunks)
        self._head = memoryview(b"")
        self._gate_open = False
        self._held = False
        self._held_at = 0.0
        self._finished = False
        self._told_last = False
        self._pushed = 0
        self._sent = 0
        self._sent_pieces: deque[bytes] = deque()
        self._remembered = 0
        self._repeated = 0
        self._most_ms = 0.0
        # The playhead: it was at `_base_ms` at `_base_at` and moves with the clock until it reaches what was sent.
        self._base_ms = 0.0
        self._base_at: float | None = None
        self._reported_ms = 0.0
        self._reported_at: float | None = None
        self.first_play_at: float | None = None
        self.jitter = Jitter()

    # -- the reply's side

    def begin(self, epoch: int) -> None:
        """A new reply, its output held back until `open_gate`."""
        self._queue.close()
        self._reset()
        self._epoch = epoch

    async def push(self, epoch: int, pcm: bytes) -> None:
        """Queue audio, waiting while the queue is full; audio of an old reply is dropped."""
        if epoch != self._epoch or not pcm:
            return
        try:
            await self._queue.send(pcm)
        except ChannelClosed:
            return
        self._pushed += len(pcm)
        if self._gate_open and self._base_at is None:
            self.tick()

    @property
    def playing(self) -> bool:
        """Whether a reply is being played (or held)."""
        return self._epoch != 0 and self._gate_open

    @property
    def pushed_ms(self) -> float:
        """Length of all audio of this reply so far, sent or queued."""
        return self._pushed / self._bytes_per_ms

    @property
    def held(self) -> bool:
        """Whether the reply is held."""
        return self._held

    @property
    def held_ms(self) -> float:
        """How long it has been held, if it is."""
        return (self._clock.monotonic() - self._held_at) * 1000 if self._held else 0.0

    @property
    def repeated_ms(self) -> float:
        """How much of what was sent had been sent before."""
        return self._repeated / self._bytes_per_ms

    def open_gate(self, epoch: int) -> None:
        """The reply may be heard: what is queued leaves at once, unless it is held."""
        if epoch == self._epoch and not self._gate_open:
            self._gate_open = True
            if not self._held:
                self._pacer.add(self)
                self.tick()

    def finish(self, epoch: int) -> None:
        """No more audio comes for this reply."""
        if epoch == self._epoch:
            self._finished = True
            if self._gate_open:
                self.tick()

    def hold(self) -> None:
        """Send nothing for now, and take back what the client has not played: it is told to drop that."""
        if self._held or self._epoch == 0:
            return
        played = self.played_ms()
        self._held = True
        self._held_at = self._clock.monotonic()
        self._most_ms = self.sent_ms
        self._pacer.remove(self)
        self._base_at = None
        self.jitter.restart()
        self._take_back(self._to_bytes(played))

    def resume(self, from_ms: float) -> None:
        """Go on after `hold`, at `from_ms` of the reply (not counting what was repeated): a little is played again."""
        if not self._held:
            return
        again = self._to_bytes(self.position_ms(self.sent_ms) - from_ms)
        again = max(0, min(again, self._remembered))
        if again:
            memory = self._memory()
            self._prepend(memory[self._remembered - again :])
            # It is remembered once more when it is sent: the memory is a piece of the reply without repetitions.
            self._remember_only(memory[: self._remembered - again])
            self._repeated += again
        self._held = False
        if self._gate_open:
            self._pacer.add(self)
            self.tick()

    def position_ms(self, played_ms: float) -> float:
        """Where in the reply the client is that has played `played_ms` since its start: less what was repeated."""
        return max(0.0, min(played_ms, self.sent_ms) - self._repeated / self._bytes_per_ms)

    def recent(self, ms: float) -> bytes:
        """The newest `ms` that the client has played, at most 3 s."""
        end = self._remembered - (self._sent - self._to_bytes(min(self.played_ms(), self.sent_ms)))
        return self._memory()[max(0, end - self._to_bytes(ms)) : max(0, end)]

    def _to_bytes(self, ms: float) -> int:
        return max(0, int(ms * self._bytes_per_ms)) // SAMPLE_BYTES * SAMPLE_BYTES

    def _memory(self) -> bytes:
        return b"".join(self._sent_pieces)

    def _prepend(self, pcm: bytes) -> None:
        self._head = memoryview(pcm + bytes(self._head))
        self._told_last = False

    def _take_back(self, played: int) -> None:
        """The client has played (and will play) only the first `played` bytes of what was sent, or more."""
        if played < self._sent:
            unplayed = min(self._sent - played, self._remembered)
            memory = self._memory()
            self._prepend(memory[self._remembered - unplayed :])
            self._remember_only(memory[: self._remembered - unplayed])
            self._sent -= unplayed
        elif played > self._sent:
            more = bytes(self._head[: played - self._sent])
            self._head = self._head[len(more) :]
            self._remember(more)
            self._sent += len(more)
        self._base_ms = self.sent_ms

    def _remember_only(self, pcm: bytes) -> None:
        self._sent_pieces = deque((pcm,) if pcm else ())
        self._remembered = len(pcm)

    def _remember(self, pcm: bytes) -> None:
        self._sent_pieces.append(pcm)
        self._remembered += len(pcm)
        while self._remembered - len(self._sent_pieces[0]) > self._memory_bytes:
            self._remembered -= len(self._sent_pieces.popleft())

    def clear(self) -> float:
        """Drop everything of the current reply, which is over; how much of it the client has played, in ms."""
        played = self.played_ms()
        self._epoch = 0
        self._held = False
        self._pacer.remove(self)
        self._queue.close()
        self._queue.clear()
        self._head = memoryview(b"")
        self._sent_pieces.clear()
        self._remembered = 0
        return played

    # -- the client's side

    def report(self, played_ms: float) -> None:
        """The client says how much of the current reply it has played, in ms."""
        if self._sent == 0:
            return
        now = self._clock.monotonic()
        if self._held:
            # It has dropped the rest, so this is where it really stopped, a little before or after what was thought.
            self._take_back(self._to_bytes(min(max(0.0, played_ms, self._reported_ms), self._most_ms)))
        played_ms = min(max(0.0, played_ms), self.sent_ms)
        if played_ms > 0 and self.first_play_at is None:
            self.first_play_at = now - played_ms / 1000 if self._reported_at is None else now
        # A report that says nothing new is no sign of life: its client may have been put to sleep.
        if self._reported_at is None or played_ms > self._reported_ms:
            self._reported_at = now
            self._reported_ms = max(self._reported_ms, played_ms)

    @property
    def sent_ms(self) -> float:
        """Length of the audio sent."""
        return self._sent / self._bytes_per_ms

    @property
    def estimated(self) -> bool:
        """Whether what was played is known from the clock alone."""
        return self._reported_at is None or self._clock.monotonic() - self._reported_at > _SILENT_CLIENT_S

    def played_ms(self) -> float:
        """What was played of the current reply: what the client says and has played since, else what the clock says."""
        if self._held:
            return self.sent_ms
        now = self._clock.monotonic()
        if self._reported_at is not None and not self.estimated:
            return min(self.sent_ms, self._reported_ms + (now - self._reported_at) * 1000)
        return max(self._reported_ms, self._playhead(now))

    def _playhead(self, now: float) -> float:
        if self._base_at is None:
            return self._base_ms
        return min(self.sent_ms, self._base_ms + (now - self._base_at) * 1000)

    # -- time

    def tick(self) -> None:
        """Send what is due. Called every 20 ms while a reply is playing."""
        if self._held:
            return
        now = self._clock.monotonic()
        playhead = self._playhead(now)
        if self._base_at is not None and playhead >= self.sent_ms:
            # Ran dry (or is done): the playhead waits at the end of what was sent until more comes.
            self._base_at = None
            self._base_ms = self.sent_ms
            self.jitter.restart()
        ahead = self._limits.lead_ms - (self.sent_ms - playhead)
        if self._reported_at is not None and not self.estimated:
            ahead = min(ahead, self._limits.credit_ms - (self.sent_ms - self._reported_ms))
        if (frames := int((ahead + _SLACK_MS) // FRAME_MS)) > 0:
            self._send_due(frames * self._frame_bytes, now)
        if not self._is_empty():
            return
        if not self._told_last:
            self._told_last = True
            self._send(b"", True)
        if self._is_played(now):
            self.give_up()

    def give_up(self) -> None:
        """Play no more of the current reply: it is over."""
        self._pacer.remove(self)
        self._on_drained(self._epoch)

    def _is_empty(self) -> bool:
        """Whether all of a finished reply has been sent."""
        return self._finished and not self._head and not len(self._queue)

    def _send_due(self, limit: int, now: float) -> None:
        pcm = self._take(limit)
        if not pcm:
            return
        first = self._sent == 0
        if self._base_at is None:
            self._base_at = now
            self._base_ms = self.sent_ms
        due = self._base_at + max(0.0, self.sent_ms - self._base_ms - self._limits.lead_ms + FRAME_MS) / 1000
        self.jitter.packet(now, due)
        self._sent += len(pcm)
        self._remember(pcm)
        self._told_last = self._is_empty()
        self._send(pcm, self._told_last)
        if first:
            self._on_sent(self._epoch)

    def _take(self, limit: int) -> bytes:
        """At most `limit` bytes, in whole frames but for the end of the reply."""
        parts = []
        taken = 0
        while taken < limit:
            if not self._head:
                pcm = self._queue.receive_nowait()
                if pcm is None:
                    break
                self._head = memoryview(pcm)
            part = self._head[: limit - taken]
            self._head = self._head[len(part) :]
            parts.append(part)
            taken += len(part)
        odd = taken % self._frame_bytes
        if odd and not self._finished:
            # The queue ran dry in the middle of a frame; the rest of it waits for the next piece.
            joined = b"".join(parts)
            self._head = memoryview(joined)[taken - odd :]
            return joined[: taken - odd]
        return b"".join(parts)

    def _is_played(self, now: float) -> bool:
        if self._reported_at is not None and not self.estimated:
            return self._reported_ms >= self.sent_ms - _UNHEARD_MS
        return self._playhead(now) >= self.sent_ms
