"""A limit for work that takes minutes or hours if its time grows with the square of its input, and moments if not."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def within(seconds: int = 60) -> Iterator[None]:
    """Raise TimeoutError in the main thread after `seconds`: generous, for it is not the machine that is tested."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
