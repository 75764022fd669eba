"""Streaming responses that end at once when the client goes away, and that a stalled reader cannot hold for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Generic, TypeVar

import msgspec
from litestar import Request
from litestar.types import Receive, Scope, Send
from sse_starlette import EventSourceResponse

from rejoinder_adapters.idempotency import CLIENT_GONE
from rejoinder_adapters.openai_api.errors import ApiError, as_api_error

log = logging.getLogger(__name__)
T = TypeVar("T")

STALL_S = 60.0
"""A client that takes nothing for this long is given up."""


class Started(Generic[T]):
    """A stream whose first item is there already, so that a failure before it is still a proper HTTP error.

    `async for item in started` gives all of it. Close it with `aclose()`, whether it was read or not.
    """

    def __init__(self, first: list[T], rest: AsyncGenerator[T, None]) -> None:
        self._first = first
        self._rest = rest

    @property
    def empty(self) -> bool:
        """Whether there was no item at all."""
        return not self._first

    async def __aiter__(self) -> AsyncGenerator[T, None]:
        for item in self._first:
            yield item
        async for item in self._rest:
            yield item
            # Whoever never has to wait would keep out all others, and the news that the client is gone.
            await asyncio.sleep(0)

    async def aclose(self) -> None:
        """Stop whoever makes the stream."""
        await self._rest.aclose()


async def start(request: Request[Any, Any, Any], stream: AsyncGenerator[T, None]) -> Started[T]:
    """Wait for the first item of `stream`; it is closed if there is none because of an error or a lost client."""

    async def first() -> list[T]:
        async for item in stream:
            return [item]
        return []

    try:
        return Started(await unless_gone(request, first()), stream)
    except BaseException:
        await stream.aclose()
        raise


async def unless_gone(request: Request[Any, Any, Any], work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client goes away. The request's body must have been read.

    Raises:
        ApiError: the client is gone; nobody will see it.
    """
    working = asyncio.create_task(work, name="request")
    if await _first_of(working, request.receive):
        return working.result()
    raise ApiError(CLIENT_GONE, "The client went away.", code="client_gone")


class Events(EventSourceResponse):
    """Server-sent events as OpenAI frames them; `source` is closed at the end, also if it was never read."""

    def __init__(self, events: AsyncGenerator[bytes, None], source: Started[Any]) -> None:
        super().__init__(events, sep="\n", send_timeout=STALL_S)
        self._events = events
        self._source = source

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer the request."""
        try:
            await super().__call__(scope, receive, send)
        except TimeoutError:
            log.warning("a client took nothing for %g s and was given up", STALL_S)
        finally:
            await self._events.aclose()
            await self._source.aclose()


def event(body: Any) -> bytes:
    """One event whose data is `body` as JSON."""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def failure(error: Exception) -> bytes:
    """The event that tells of an error in the middle of a stream."""
    told = as_api_error(error)
    log.warning("a stream broke: %s", told.message)
    return event(told.body())


class ByteStream:
    """A response whose body comes piece by piece; the next one is asked for when the client has taken the last.

    When the stream breaks, the connection is cut, so that the client does not take what it has for the whole.
    """

    def __init__(self, pieces: AsyncGenerator[bytes, None], source: Started[Any], media_type: str) -> None:
        self._pieces = pieces
        self._source = source
        self._media_type = media_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        sending = asyncio.create_task(self._send(send), name="audio response")
        try:
            if await _first_of(sending, receive):
                sending.result()
        except Exception as error:  # noqa: BLE001 - the headers are out: all that is left is to cut the connection
            text = "the client takes nothing" if isinstance(error, TimeoutError) else as_api_error(error).message
            log.warning("an audio stream broke: %s", text)
        finally:
            await self._pieces.aclose()
            await self._source.aclose()

    async def _send(self, send: Send) -> None:
        headers = [(b"content-type", self._media_type.encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for piece in self._pieces:
            async with asyncio.timeout(STALL_S):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _first_of(working: asyncio.Task[Any], receive: Receive) -> bool:
    """Wait for `working` or the client's leaving; whether it is done. It is over in either case."""
    gone = asyncio.create_task(_disconnected(receive), name="client gone")
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        return working.done()
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.wait({working, gone})
        if not working.cancelled():
            working.exception()  # seen: where it matters it is raised again


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
