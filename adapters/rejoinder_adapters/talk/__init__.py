"""The page behind a room's link: a conversation in writing, in the browser, with nothing but this server."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from typing import Any

from litestar import Request, Response, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from rejoinder.app import Runtime
from rejoinder.hookspecs import hookimpl
from rejoinder_adapters.pages import headers_of_page, serve_file

_ASSETS = ("talk.css", "talk.js", "talk.svg")


@get("/talk", include_in_schema=False)
async def get_page(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The page. What it needs to know is after the # of its address, which never comes here."""
    return serve_file(request, resources.files(__package__) / "talk.html", headers=headers_of_page())


@get("/talk/assets/{name:str}", include_in_schema=False)
async def get_asset(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
    """Its script or style sheet."""
    if name not in _ASSETS:
        raise NotFoundException
    return serve_file(request, resources.files(__package__) / name)


@hookimpl
def register_routes(runtime: Runtime) -> Iterable[Any]:
    """`/talk` and its assets."""
    return [get_page, get_asset]
