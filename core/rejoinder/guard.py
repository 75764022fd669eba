"""Runs the code of plugins: what it raises is a failure like any other, and it cannot hold anybody up for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from typing import Any, TypeVar

from rejoinder.errors import ProviderError

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
        await let_go((task,), _TIDY_S)


async def let_go(tasks: Iterable[asyncio.Task[Any]], limit_s: float) -> None:
    """Cancel `tasks` and give them `limit_s` to tidy up; one that ignores it is kept until it ends, and logged."""
    left = {task for task in tasks if not task.done()}
    for task in left:
        task.cancel()
        _strays.add(task)
        task.add_done_callback(_forget)
    if left:
        await asyncio.wait(left, timeout=limit_s)
    for task in left:
        if not task.done():
            log.warning("%s ignores its cancellation and is let go", task.get_name())


def _forget(task: asyncio.Task[Any]) -> None:
    _strays.discard(task)
    if not task.cancelled():
        # Taken, so that nobody is told that it never was.
        task.exception()


def failure_of(error: BaseException, provider: str) -> Exception:
    """What a plain call into `provider` has raised, as a failure like any other."""
    if isinstance(error, Exception):
        return error
    return ProviderError(provider, f"it raised {type(error).__name__}")


def wrong_type(provider: str, method: str, wanted: str, got: object) -> ProviderError:
    """The failure of one that gives something that its kind does not."""
    what = f"`{method}` gives {type(got).__name__}, not {wanted}"
    return ProviderError(provider, what, code="wrong_type", retryable=False, fix="See its kind in docs/plugins/kinds.")
