"""Runs the code of plugins: what it raises is a failure like any other, and it cannot hold anybody up for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")

FAULTS = (Exception, SystemExit, asyncio.CancelledError)
"""What a plain call into a plugin may raise. Nobody is cancelled in the middle of one, so that comes from inside."""
_TIDY_S = 0.1
"""Whoever is cancelled gets this to tidy up; then it is let go."""
_strays: set[asyncio.Task[Any]] = set()
"""Tasks that swallowed their cancellation; without this reference the loop could lose them."""


class Late(Exception):
    """It took too long, and was cancelled."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"it took longer than {limit_s:g} s")
        self.limit_s = limit_s


class Quit(Exception):
    """It wanted to end the process, or cancelled itself."""


async def bounded(work: Awaitable[T], limit_s: float, name: str) -> T:
    """The result of `work`, which is called `name` and has `limit_s`, even if it ignores being cancelled.

    Raises:
        Late: it took too long.
        Quit: it raised SystemExit, or cancelled itself. What else it raises is passed on.
    """

    async def run() -> T:
        try:
            return await work
        except SystemExit as error:
            # From a task it would stop the event loop.
            raise Quit(f"SystemExit: {error}") from error

    task = asyncio.create_task(run(), name=name)
    try:
        await asyncio.wait({task}, timeout=limit_s)
        if task.done():
            if task.cancelled():
                raise Quit("it cancelled itself")
            return task.result()
        raise Late(limit_s)
    finally:
        if not task.done():
            await _let_go(task)


async def _let_go(task: asyncio.Task[Any]) -> None:
    task.cancel()
    _strays.add(task)
    task.add_done_callback(_forget)
    await asyncio.wait({task}, timeout=_TIDY_S)
    if not task.done():
        log.warning("%s ignores its cancellation and is let go", task.get_name())


def _forget(task: asyncio.Task[Any]) -> None:
    _strays.discard(task)
    if not task.cancelled():
        # Taken, so that nobody is told that it never was.
        task.exception()
