"""The HTTP wire: uvicorn's protocol, with a way for the application to cut a connection that nobody reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_ABORT = "rejoinder.abort"


class HttpProtocol(HttpToolsProtocol):
    """A uvicorn HTTP protocol class."""

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope["extensions"] = {_ABORT: self.transport.abort}  # type: ignore[dict-item]


def abort(scope: Mapping[str, Any]) -> None:
    """Cut the connection of the request in `scope` at once; what its peer has not taken is dropped."""
    if (cut := (scope.get("extensions") or {}).get(_ABORT)) is not None:
        cut()
