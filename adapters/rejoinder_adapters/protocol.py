"""The HTTP wire: uvicorn's protocol with bounds on what comes before a request, and a way to cut a connection."""

from __future__ import annotations

import asyncio
import http
from collections.abc import Mapping
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LONGEST_URL = 16 << 10
LARGEST_HEADERS = 64 << 10
"""Bytes of all headers of a request, trailers included, each counted with `_HEADER_COST`."""
_HEADER_COST = 32
"""What a header costs besides its bytes, so that very many empty ones are too many, too (as HTTP/2 counts them)."""
HEAD_S = 10.0
"""Seconds from the connection, or the first byte of a further request, to the end of the request's headers."""
_LINGER_S = 1.0
"""Who is refused in the middle of sending can read the answer for so long; what they send is dropped."""
_ABORT = "rejoinder.abort"


class HttpProtocol(HttpToolsProtocol):
    """A uvicorn HTTP protocol class. Whoever sends an endless head costs no more memory than the bounds above."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._headers_size = 0
        self._pending = 0
        """Bytes since the parser last told of anything: it keeps a header that has no end to itself."""
        self._told = False
        self._status = 400
        self._refused = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody is there; they should say what they want."""
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """They are gone."""
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The next bytes."""
        if self._refused:
            return
        self._told = False
        super().data_received(data)
        self._pending = 0 if self._told else self._pending + len(data)
        if self._pending > LARGEST_HEADERS and not self._refused:
            self._status = 431
            self.send_400_response("")
        elif (self._in_head or not self._told) and self._timer is None and not self.transport.is_closing():
            self._watch()

    def send_400_response(self, msg: str) -> None:
        """Refuse what was sent, for the reason that was found, and close the connection."""
        self._refused = True
        self._unwatch()
        if self.cycle is not None and not self.cycle.response_complete:
            # The answer to an earlier request is on its way; another one would get into it.
            self.transport.close()
            return
        phrase = http.HTTPStatus(self._status).phrase
        text = (msg if self._status == 400 else f"{phrase}.").encode()
        lines = [
            f"HTTP/1.1 {self._status} {phrase}".encode(),
            *(b"%s: %s" % header for header in self.server_state.default_headers),
            b"content-type: text/plain; charset=utf-8",
            b"content-length: %d" % len(text),
            b"connection: close",
        ]
        self.transport.write(b"\r\n".join((*lines, b"", text)))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        # To close with bytes unread would reset the connection, and the answer might be lost.
        self._timer = self.loop.call_later(_LINGER_S, self.transport.close)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope["extensions"] = {_ABORT: self.transport.abort}  # type: ignore[dict-item]
        self._told = self._in_head = True
        self._headers_size = 0

    def on_url(self, url: bytes) -> None:
        """A piece of the URL."""
        self._told = True
        super().on_url(url)
        if len(self.url) > LONGEST_URL:
            self._refuse(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header or a trailer."""
        self._told = True
        self._headers_size += len(name) + len(value) + _HEADER_COST
        if self._headers_size > LARGEST_HEADERS:
            self._refuse(431)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head of the request is whole."""
        self._told, self._in_head = True, False
        self._unwatch()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._told = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._told = True
        super().on_message_complete()

    def _refuse(self, status: int) -> None:
        self._status = status
        # The parser ends, and `send_400_response` is called.
        raise httptools.HttpParserError(http.HTTPStatus(status).phrase)

    def _watch(self) -> None:
        self._timer = self.loop.call_later(HEAD_S, self._late)

    def _late(self) -> None:
        self._timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:
            # The answer to an earlier request is on its way, and meanwhile nothing may be read.
            self._watch()

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def abort(scope: Mapping[str, Any]) -> None:
    """Cut the connection of the request in `scope` at once; what its peer has not taken is dropped."""
    if (cut := (scope.get("extensions") or {}).get(_ABORT)) is not None:
        cut()
