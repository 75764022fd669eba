"""A middleware that bounds how many requests of this package are worked on at once, from before they are read."""

from __future__ import annotations

from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Send
from litestar.types import Scope as AsgiScope

from rejoinder_adapters.openai_api.errors import ApiError

_RETRY_S = 1


def bounded(most: int) -> Any:
    """At most `most` POSTs at once; the others are refused with 503 `full`."""
    running = 0

    def middleware(app: ASGIApp) -> ASGIApp:
        async def call(scope: AsgiScope, receive: Receive, send: Send) -> None:
            nonlocal running
            if scope["type"] != ScopeType.HTTP or scope["method"] != "POST":
                await app(scope, receive, send)
                return
            if running >= most:
                raise ApiError(
                    503,
                    f"The server works on {most} requests already (limits.openai_requests). Try again in a moment.",
                    code="full",
                    headers={"Retry-After": str(_RETRY_S)},
                )
            running += 1
            try:
                await app(scope, receive, send)
            finally:
                running -= 1

        return call

    return middleware
