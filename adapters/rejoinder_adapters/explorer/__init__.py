"""The pages under /docs: the explorer of the API, and what each kind of problem means. All they load is served here."""

from __future__ import annotations

import html
import re
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from litestar import MediaType, Request, Response, Router, get
from litestar.exceptions import NotFoundException
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.params import FromPath

from rejoinder_adapters.pages import headers_of_page, serve_file
from rejoinder_adapters.problem_types import TYPES

_OWN = ("explorer.js", "docs.css")
_SWAGGER_UI = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")
_DAY_S = 86_400
_CODE = re.compile("`([^`]+)`")


class Explorer(OpenAPIRenderPlugin):
    """The page at /docs, as Litestar wants it: Swagger UI where it is installed, else how to get it."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def has_path(self, path: str) -> bool:
        """Claims the document, too, so that Litestar does not serve it here: it is at /openapi.json."""
        return path == "/openapi.json" or super().has_path(path)

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The page."""
        name = "explorer.html" if _swagger_ui() is not None else "plain.html"
        return (resources.files(__package__) / name).read_bytes()


def make_router() -> Router:
    """All under /docs but the explorer itself, which Litestar adds."""
    # Swagger UI sets styles on elements, and has its icons in data: URLs.
    headers = headers_of_page(style_src="'self' 'unsafe-inline'", img_src="'self' data:")
    return Router("/docs", route_handlers=[get_problems, get_asset], response_headers=headers, include_in_schema=False)


@get("/problems", media_type=MediaType.HTML)
async def get_problems() -> str:
    """What each kind of problem means; the `type` of a problem document leads to its row."""
    rows = "\n".join(
        f'<tr id="{html.escape(code)}"><th scope="row"><code>{html.escape(code)}</code></th><td>{kind.status}</td>'
        f"<td>{html.escape(kind.title)}</td><td>{_marked(kind.meaning)}</td></tr>"
        for code, kind in sorted(TYPES.items())
    )
    return (resources.files(__package__) / "problems.html").read_text("utf-8").replace("<!-- rows -->", rows)


@get("/assets/{name:str}")
async def get_asset(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
    """A script or a style sheet: ours, or Swagger UI's."""
    if name in _OWN:
        return serve_file(request, resources.files(__package__) / name)
    swagger_ui = _swagger_ui()
    if name not in _SWAGGER_UI or swagger_ui is None:
        raise NotFoundException
    return serve_file(request, swagger_ui / name, max_age_s=_DAY_S)


def _marked(text: str) -> str:
    """`text` as HTML."""
    return _CODE.sub(r"<code>\1</code>", html.escape(text))


def _swagger_ui() -> Traversable | None:
    """Where Swagger UI's files are. The package is only a place to find them; its code is not loaded."""
    try:
        folder = resources.files("swagger_ui") / "static"
    except ModuleNotFoundError:
        return None
    return folder if (folder / _SWAGGER_UI[0]).is_file() else None
