"""Static files of the panel: read once, kept in memory with a compressed copy, sent with strict headers."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

Asked = Request[Any, Any, State]
WEB = Path(__file__).parent / "web"
"""What `make web` builds."""
_CSP = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "font-src": "'self'",
    "connect-src": "'self'",
    "media-src": "'self' blob:",
    "worker-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
_PAGE_HEADERS = {
    "content-security-policy": "; ".join(f"{name} {value}" for name, value in _CSP.items()),
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
}
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".woff2": "font/woff2",
    ".wasm": "application/wasm",
}
_COMPRESSED = (".html", ".js", ".css", ".svg")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_IMMUTABLE = "public, max-age=31536000, immutable"
_NOT_BUILT = b"""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Rejoinder</title>
<h1>This page was not built</h1>
<p>The server runs from its sources, and its pages have not been built yet. In the folder of the sources, type
<code>make web</code> (it needs Node 20 or newer), then start the server again. Installed packages have them built.</p>
<p>Everything else works: see <a href="/docs">the API</a>.</p>
"""


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    packed: bytes | None
    etag: str
    type: str


def _load(path: Path) -> _File | None:
    try:
        body = path.read_bytes()
    except OSError:
        return None
    packed = gzip.compress(body, 9, mtime=0) if path.suffix in _COMPRESSED else None
    if packed is not None and len(packed) >= len(body):
        packed = None
    return _File(body, packed, f'"{hashlib.sha256(body).hexdigest()[:32]}"', _TYPES[path.suffix])


class Files:
    """The files in a folder; only those that are there take memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded: dict[str, _File] = {}

    async def get(self, name: str) -> _File | None:
        """The file called `name`; None if there is none that may be sent."""
        if (known := self._loaded.get(name)) is not None:
            return known
        if not _NAME.fullmatch(name) or Path(name).suffix not in _TYPES:
            return None
        # Beside the event loop: a large one takes some ten milliseconds to compress.
        loaded = await asyncio.to_thread(_load, self._folder / name)
        if loaded is not None:
            self._loaded[name] = loaded
        return loaded


def routes() -> list[Any]:
    """`/admin`, `/talk`, `/client.js` and `/ui/assets`."""
    web, assets = Files(WEB), Files(WEB / "assets")

    @get(["/admin", "/admin/{path:path}"], include_in_schema=False, public=True)
    async def get_panel(request: Asked) -> Response[bytes]:
        """The panel; which of its pages it is, the browser knows. There is no data in it."""
        return await _page(request, web, "panel.html")

    @get("/talk", include_in_schema=False, public=True)
    async def get_talk(request: Asked) -> Response[bytes]:
        """The page to talk on. What it needs to know is after the # of its address, which never comes here."""
        return await _page(request, web, "talk.html")

    @get(["/client.js", "/client-worklets.js"], include_in_schema=False, public=True)
    async def get_client(request: Asked) -> Response[bytes]:
        """The browser client, a module to be imported, and what it loads into the audio thread."""
        if (file := await web.get(request.url.path.removeprefix("/"))) is None:
            raise NotFoundException
        return _send(request, file, {"cache-control": "no-cache"})

    @get("/ui/assets/{name:str}", include_in_schema=False, public=True)
    async def get_asset(request: Asked, name: FromPath[str]) -> Response[bytes]:
        """A script, style sheet or picture of a page; its name changes with its content."""
        if (file := await assets.get(name)) is None:
            raise NotFoundException
        return _send(request, file, {"cache-control": _IMMUTABLE})

    return [get_panel, get_talk, get_client, get_asset]


async def _page(request: Asked, web: Files, name: str) -> Response[bytes]:
    file = await web.get(name)
    headers = {**_PAGE_HEADERS, "cache-control": "no-cache"}
    if file is None:
        return Response(_NOT_BUILT, media_type="text/html", status_code=503, headers=headers)
    return _send(request, file, headers)


def _send(request: Asked, file: _File, headers: dict[str, str]) -> Response[bytes]:
    packed = file.packed is not None and _takes_gzip(request.headers.get("accept-encoding", ""))
    etag = f'{file.etag[:-1]}-gz"' if packed else file.etag
    headers = {**headers, "etag": etag}
    if file.packed is not None:
        headers["vary"] = "Accept-Encoding"
    given = request.headers.get("if-none-match", "")
    if etag in (tag.strip().removeprefix("W/") for tag in given.split(",")):
        return Response(b"", status_code=304, headers=headers)
    if packed and file.packed is not None:
        return Response(file.packed, media_type=file.type, headers={**headers, "content-encoding": "gzip"})
    return Response(file.body, media_type=file.type, headers=headers)


def _takes_gzip(accepted: str) -> bool:
    for part in accepted.lower().split(","):
        name, _, rest = part.partition(";")
        if name.strip() in ("gzip", "*"):
            return re.fullmatch(r"\s*q=0(\.0*)?\s*", rest) is None
    return False
