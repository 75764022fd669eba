"""Answers with a file, whole or in part (Range, RFC 9110, 14), read beside the event loop, a piece at a time."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from rejoinder_adapters.head import is_head

_PIECE = 1 << 18
_RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*\Z", re.IGNORECASE)


def asked_range(header: str, size: int) -> range | None:
    """The bytes that `header` (a `Range`) asks for of `size`; None: all, as it asks for nothing or is not understood.

    An empty range cannot be satisfied.
    """
    found = _RANGE.match(header)
    if found is None or (not found[1] and not found[2]):
        # Several at once, or another unit: whoever sends that must be content with all of it.
        return None
    if not found[1]:
        return range(max(0, size - int(found[2])), size)
    first, last = int(found[1]), int(found[2] or size)
    if last < first:
        return None
    return range(first, min(last + 1, size)) if first < size else range(0)


class FileAnswer:
    """An ASGI application that sends `wanted` bytes of the file at `path`, which has `size`, with `headers`."""

    def __init__(self, path: Path, size: int, wanted: range | None, headers: dict[str, str]) -> None:
        self._path = path
        self._wanted = range(size) if wanted is None else wanted
        self._status = 200 if wanted is None else 206
        self._headers = {"content-length": str(len(self._wanted)), "accept-ranges": "bytes", **headers}
        if wanted is not None:
            self._headers["content-range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{size}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send it."""
        file = await asyncio.to_thread(self._path.open, "rb")
        gone = asyncio.create_task(_disconnected(receive), name="download watcher")
        try:
            headers = [(name.encode(), value.encode()) for name, value in self._headers.items()]
            await send({"type": "http.response.start", "status": self._status, "headers": headers})
            at = self._wanted.start
            while at < self._wanted.stop and not is_head(scope) and not gone.done():
                piece = await asyncio.to_thread(_read, file, at, min(_PIECE, self._wanted.stop - at))
                if not piece:
                    break
                at += len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone
            file.close()


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)
