"""Holds a provider to its deadline and closes its streams, so that one that hangs cannot hold up a conversation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable
from types import TracebackType
from typing import Generic, TypeVar

from rejoinder.errors import ProviderError, ProviderTimeout
from rejoinder.guard import failure_of

log = logging.getLogger(__name__)
T = TypeVar("T")

CLOSE_S = 0.5
"""A stream that is closed may take this long to tidy up."""


async def within(work: Awaitable[T], limit_s: float | None, provider: str) -> T:
    """The result of `work`, which `provider` must give within `limit_s` (None: whenever).

    Raises:
        ProviderTimeout: it did not.
        ProviderError: it cancelled itself. What `work` raises itself is passed on.
    """
    task = asyncio.current_task()
    assert task is not None
    cancelled_before = task.cancelling()
    try:
        async with asyncio.timeout(limit_s) as limit:
            return await work
    except TimeoutError:
        if not limit.expired():
            raise  # its own, of something inside
        raise ProviderTimeout(provider, f"nothing came for {limit_s:g} seconds") from None
    except SystemExit as error:
        raise failure_of(error, provider) from error
    except asyncio.CancelledError:
        if task.cancelling() > cancelled_before:
            raise
        # Nobody cancelled us: it leaked out of the provider, and must not pass for a cancellation of the reply.
        raise ProviderError(provider, "it cancelled itself") from None


class Closing(Generic[T]):
    """`async with Closing(stream, provider) as stream`: closed at the end, in bounded time.

    A provider that fails even at that is logged: it must not keep the next one from being asked.
    """

    def __init__(self, stream: AsyncGenerator[T, None], provider: str) -> None:
        self._stream = stream
        self._provider = provider

    async def __aenter__(self) -> AsyncGenerator[T, None]:
        return self._stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await within(self._stream.aclose(), CLOSE_S, self._provider)
        except Exception as failure:  # noqa: BLE001 - logged; what matters is what happened before
            log.warning("a stream of %s did not close cleanly: %r", self._provider, failure)
