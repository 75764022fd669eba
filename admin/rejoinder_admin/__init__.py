"""The operators' panel: its page, the talk page and the browser client, and the login (`/admin/api`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rejoinder.app import Runtime
from rejoinder.hookspecs import hookimpl
from rejoinder_admin import api, pages


@hookimpl
def register_routes(runtime: Runtime) -> Iterable[Any]:
    """All of it."""
    return [*pages.routes(), *api.routes(runtime)]
