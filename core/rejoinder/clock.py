"""The one source of time: `monotonic()` for durations and deadlines, `wall_ms()` for timestamps people read."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where all time comes from, so that tests can run a conversation in virtual time."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""

    def wall_ms(self) -> int:
        """Unix time in milliseconds."""


class SystemClock:
    """Real time."""

    # Not `loop.time()`: uvloop caches that per loop iteration at 1 ms, too coarse for latency spans.
    monotonic = staticmethod(time.monotonic)

    def wall_ms(self) -> int:
        """Unix time in milliseconds."""
        return time.time_ns() // 1_000_000


class LoopClock:
    """The running event loop's time; on a virtual-time loop this is virtual time."""

    def __init__(self, epoch_ms: int = 1_700_000_000_000) -> None:
        self._epoch_ms = epoch_ms

    def monotonic(self) -> float:
        """Seconds of the loop's clock."""
        return asyncio.get_running_loop().time()

    def wall_ms(self) -> int:
        """`epoch_ms` plus the loop's time."""
        return self._epoch_ms + int(self.monotonic() * 1000)
