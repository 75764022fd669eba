"""OpenAI-compatible endpoints: models, chat completions, speech and transcriptions of this server's agents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rejoinder.app import Runtime
from rejoinder.hookspecs import hookimpl


@hookimpl
def register_routes(runtime: Runtime) -> Iterable[Any]:
    """`/v1/models`, `/v1/chat/completions` and `/v1/audio/...`, with errors in OpenAI's shape."""
    # Not before a server is made: sse-starlette alters uvicorn when it is imported, and commands do not need it.
    from rejoinder_adapters.openai_api.routes import make_router

    return [make_router(runtime)]
