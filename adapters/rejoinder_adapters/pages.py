"""Pages of our own: strict headers, assets from the package, nothing from anywhere else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from typing import Any

from litestar import Request, Response

_CSP = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}


def headers_of_page(**changes: str) -> dict[str, str]:
    """The headers of a page; `changes` are directives of its Content-Security-Policy, with _ for -."""
    policy = _CSP | {name.replace("_", "-"): value for name, value in changes.items()}
    return {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    }


_files: dict[str, tuple[bytes, str]] = {}


def _loaded(file: Traversable) -> tuple[bytes, str]:
    """What is in `file`, and its ETag."""
    if (known := _files.get(str(file))) is None:
        body = file.read_bytes()
        known = _files[str(file)] = body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return known


def serve_file(
    request: Request[Any, Any, Any], file: Traversable, *, max_age_s: int = 0, headers: Mapping[str, str] = {}
) -> Response[bytes]:
    """`file` of a package, with an ETag; a browser that has it asks again after `max_age_s` and gets a 304.

    Raises:
        OSError: it is not there.
    """
    body, etag = _loaded(file)
    suffix = file.name[file.name.rfind(".") :]
    cached = f"public, max-age={max_age_s}" if max_age_s else "no-cache"
    sent = {**headers, "etag": etag, "cache-control": cached}
    given = request.headers.get("if-none-match", "")
    if etag in (tag.strip().removeprefix("W/") for tag in given.split(",")):
        return Response(b"", status_code=304, headers=sent)
    return Response(body, media_type=_TYPES[suffix], headers=sent)
