"""Where a client is in playing a reply: what its loudspeaker tells, and one without sound for tests and benchmarks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol

from rejoinder.audio import duration_ms


class Player(Protocol):
    """Something that plays the audio of replies and knows how much of it was heard. Times in s, lengths in ms."""

    def begin(self) -> None:
        """A new reply: count its audio from zero; what is still buffered of the one before is played first."""

    def feed(self, pcm: bytes) -> None:
        """Take the next audio."""

    def clear(self) -> None:
        """Drop what is buffered."""

    def duck(self, gain: float) -> None:
        """Play at `gain` (1.0: as loud as it comes) until told otherwise, without a jump."""

    def played_ms(self) -> float:
        """How much of the current reply was played."""

    def received_ms(self) -> float:
        """How much of the current reply was received and not dropped."""

    def remaining_s(self) -> float:
        """Until all that was received will have been played."""


class Playhead:
    """A loudspeaker without sound: plays in real time from the first frame on, and waits when it runs dry."""

    def __init__(self, rate: int, now: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._now = now
        self._ends_at = -math.inf
        self._received_ms = 0.0

    def begin(self) -> None:
        """See `Player`."""
        self._received_ms = 0.0

    def feed(self, pcm: bytes) -> None:
        """See `Player`."""
        self.advance(duration_ms(pcm, self._rate))

    def advance(self, ms: float) -> None:
        """As `feed`, for whoever needs no audio but its length."""
        self._received_ms += ms
        self._ends_at = max(self._ends_at, self._now()) + ms / 1000

    def clear(self) -> None:
        """See `Player`."""
        self._received_ms = self.played_ms()
        self._ends_at = -math.inf

    def duck(self, gain: float) -> None:
        """See `Player`: of silence nothing changes."""

    def played_ms(self) -> float:
        """See `Player`."""
        return max(0.0, self._received_ms - self.remaining_s() * 1000)

    def received_ms(self) -> float:
        """See `Player`."""
        return self._received_ms

    def remaining_s(self) -> float:
        """See `Player`."""
        return max(0.0, self._ends_at - self._now())
