"""Holds a provider's stream to a deadline per item, so that one that hangs cannot hold up a conversation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from rejoinder.errors import ProviderTimeout

T = TypeVar("T")


async def punctual(stream: AsyncGenerator[T, None], limit_s: float, provider: str) -> AsyncGenerator[T, None]:
    """The items of `stream`, each of which must come within `limit_s` of being asked for.

    Raises (while iterating):
        ProviderTimeout: one did not.
    """
    async with aclosing(stream):
        while True:
            try:
                async with asyncio.timeout(limit_s):
                    item = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise ProviderTimeout(provider, f"nothing came for {limit_s:g} seconds") from None
            yield item
