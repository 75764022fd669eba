"""Named timers on the running event loop: each replaces an earlier one of its name, and all are stopped at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Timers:
    """The timers of one session."""

    def __init__(self) -> None:
        self._armed: dict[str, asyncio.TimerHandle] = {}

    def arm(self, name: str, delay: float, call: Callable[[], object]) -> None:
        """Call `call` after `delay` s (at once where that is over), instead of what `name` was armed with before."""
        self.stop(name)
        self._armed[name] = asyncio.get_running_loop().call_later(max(0.0, delay), call)

    def stop(self, name: str) -> None:
        """Disarm it; it need not be armed."""
        if timer := self._armed.pop(name, None):
            timer.cancel()

    def close(self) -> None:
        """Disarm all. Idempotent."""
        for timer in self._armed.values():
            timer.cancel()
        self._armed.clear()
