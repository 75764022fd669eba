"""The search for leaks: what is held must not grow with the number of runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from rejoinder.testing.conformance.measure import open_files, settled, task_places, thread_names
from rejoinder.testing.conformance.rules import Seen, Violation

_LEAST = 12
"""Runs that are done however long they take."""
_HARMLESS = 3
"""Pools and caches of connections grow a little more at times."""

_FIXES = {
    "tasks": "keep the tasks you make, and cancel and await them when the stream ends or is cancelled",
    "threads": "use `context.executor(name, workers)` or `asyncio.to_thread` instead of threads of your own, or join "
    "them when the stream ends or is cancelled",
    "descriptors": "close files, sockets and processes in a `finally` or a `with`, also when the stream is cancelled",
}


class Leaks:
    """Runs something `runs` times, but not for much longer than `most_s`, and compares what is held."""

    def __init__(self, roots: tuple[Path, ...], runs: int, most_s: float) -> None:
        self._roots = roots
        self._runs = runs
        self._most_s = most_s

    async def check(self, run: Callable[[int], Awaitable[None]]) -> Seen:
        """What was seen.

        Raises:
            Violation: something grows.
        """
        began = time.monotonic()
        # What is there once and for all, such as pools and caches, comes in the first ones.
        first = max(4, min(20, self._runs // 5))
        for number in range(first):
            await run(number)
        before = await settled()
        files, threads = open_files(), thread_names()
        done = 0
        while done < self._runs - first and (done < _LEAST or time.monotonic() - began < self._most_s):
            await run(first + done)
            done += 1
        after = await settled(before)
        figures = {"runs": float(first + done)}
        for what in ("tasks", "threads", "descriptors"):
            grown = getattr(after, what) - getattr(before, what)
            # A leak that only some runs have (those that are cut off) is still found.
            if grown > max(_HARMLESS, done // 20):
                names = {
                    "tasks": task_places(self._roots),
                    "threads": thread_names() - threads,
                    "descriptors": open_files() - files,
                }[what]
                raise Violation(
                    f"{done} runs left {grown} {what} behind{_named(names)}", _FIXES[what], **figures, leaked=grown
                )
        early = "" if first + done >= self._runs else f" (of {self._runs}: {self._most_s:g} s were over)"
        unknown = "" if after.descriptors >= 0 else "; descriptors cannot be counted on this platform"
        return Seen(f"nothing left after {first + done} runs{early}{unknown}", **figures)


async def check_cycles(cycle: Callable[[int], Awaitable[None]], count: int) -> None:
    """Do `cycle` that often; threads and descriptors must not grow with each.

    Raises:
        Violation: they do.
    """
    await cycle(0)
    before = await settled()
    files, threads = open_files(), thread_names()
    for number in range(1, count):
        await cycle(number)
    after = await settled(before)
    for what, names in (("threads", thread_names() - threads), ("descriptors", open_files() - files)):
        grown = getattr(after, what) - getattr(before, what)
        if grown >= count - 1:
            raise Violation(
                f"each `close` leaves {what} behind: {grown} after {count - 1}{_named(names)}",
                f"free them in `close`: {_FIXES[what]}",
            )


def _named(names: Counter[str]) -> str:
    shown = ", ".join(f"{name} ({count})" for name, count in names.most_common(3))
    return f": {shown}" if shown else ""
