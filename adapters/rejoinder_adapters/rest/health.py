"""Whether the process lives, is ready for sessions, and what it is. Nobody needs a key for these."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.response import Redirect

from rejoinder import __version__
from rejoinder.app import Runtime


def routes(runtime: Runtime) -> list[Any]:
    """`/livez`, `/readyz` and `/version`."""

    @get("/", include_in_schema=False, public=True)
    async def root(request: Request[Any, Any, State]) -> Redirect:
        """Whoever looks around finds the panel (a browser), or the description of the API."""
        html = "text/html" in request.headers.get("accept", "")
        return Redirect("/admin" if html else "/docs", status_code=307, headers={"vary": "Accept"})

    @get("/livez", public=True)
    async def livez() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @get("/readyz", public=True)
    async def readyz() -> Response[dict[str, Any]]:
        """New sessions are welcome and what is said is stored."""
        stored, _ = runtime.store.writer.health()
        ready = stored and not runtime.draining
        body: dict[str, Any] = {
            "status": "ok" if ready else "not ready",
            "draining": runtime.draining,
            "sessions": len(runtime.sessions),
            # Why is nothing for strangers; it is in the log.
            "store": "ok" if stored else "unavailable",
        }
        return Response(body, status_code=200 if ready else 503)

    @get("/version", public=True)
    async def version() -> dict[str, str]:
        """What runs here."""
        return {"name": "rejoinder", "version": __version__}

    return [root, livez, readyz, version]
