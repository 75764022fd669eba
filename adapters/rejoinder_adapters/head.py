"""HEAD wherever there is GET (RFC 9110, 9.3.2): the application answers as for GET, and the content is left out."""

from __future__ import annotations

from typing import Any

from litestar import Litestar

_HEAD = "rejoinder.head"


class Application(Litestar):
    """A Litestar application that answers HEAD, too."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a connection."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await super().__call__(scope, receive, send)
            return
        answered = False

        async def send_head(message: Any) -> None:
            nonlocal answered
            if message["type"] != "http.response.body":
                await send(message)
            elif not answered:
                # The end of it: a stream finds that its reader is gone.
                answered = True
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        # A copy: the server looks into its own to know that there is no content.
        as_get: Any = {**scope, "method": "GET", _HEAD: True}
        await super().__call__(as_get, receive, send_head)


def is_head(scope: Any) -> bool:
    """Whether the request, which looks like GET to its handler, is HEAD: then it must begin nothing."""
    return _HEAD in scope


async def allow_head(message: Any, scope: Any) -> None:
    """A `before_send` hook: where GET is allowed, so is HEAD."""
    if message["type"] == "http.response.start" and message["status"] in (204, 405):
        message["headers"] = [
            (name, value + b", HEAD" if name.lower() == b"allow" and b"GET" in value else value)
            for name, value in message.get("headers", ())
        ]
