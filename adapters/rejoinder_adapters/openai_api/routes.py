"""The router of the OpenAI-compatible endpoints."""

from __future__ import annotations

from typing import Any

from litestar import Router, get
from litestar.params import FromPath

from rejoinder.app import Runtime
from rejoinder_adapters.openai_api import chat_routes, speech_routes, transcription_routes
from rejoinder_adapters.openai_api.capacity import bounded
from rejoinder_adapters.openai_api.errors import HANDLERS
from rejoinder_adapters.openai_api.models import agent_names, find_model, model_object
from rejoinder_adapters.security import needs


def make_router(runtime: Runtime) -> Router:
    """All routes under `/v1`; what guards raise (401, 403, 429) is told in OpenAI's shape, too."""
    breaker = runtime.breaker
    created = runtime.clock.wall_ms() // 1000

    @get("/models")
    async def list_models() -> dict[str, Any]:
        """The agents, the default one first. Audio models are left out: clients offer all they find for chats."""
        return {"object": "list", "data": [model_object(name, created) for name in await agent_names(runtime)]}

    @get("/models/{model:str}")
    async def retrieve_model(model: FromPath[str]) -> dict[str, Any]:
        """A model: an agent, or one for audio."""
        return await find_model(runtime, model, created)

    return Router(
        path="/v1",
        route_handlers=[
            list_models,
            retrieve_model,
            chat_routes.make_route(runtime, breaker),
            *speech_routes.make_routes(runtime, breaker),
            *transcription_routes.make_routes(runtime, breaker),
        ],
        exception_handlers=HANDLERS,
        guards=[needs("talk")],
        middleware=[bounded(runtime.settings.limits.openai_requests)],
    )
