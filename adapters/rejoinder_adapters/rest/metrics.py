"""The metrics of this process for Prometheus, and how many event streams are open."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Send
from litestar.types import Scope as AsgiScope
from prometheus_client.exposition import choose_encoder

from rejoinder.app import Runtime
from rejoinder_adapters.security import needs


def routes(runtime: Runtime) -> list[Any]:
    """`/metrics`."""

    @get("/metrics", guards=[needs("read")])
    async def get_metrics(request: Request[Any, Any, State]) -> Response[bytes]:
        """All metrics, in the text format of Prometheus or (asked for it) OpenMetrics."""
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        # Litestar says the charset of texts itself.
        media_type = media_type.removesuffix("; charset=utf-8") if media_type.startswith("text/") else media_type
        return Response(encode(runtime.telemetry.registry), media_type=media_type)

    return [get_metrics]


def count_streams(runtime: Runtime) -> Any:
    """A middleware that counts the event streams that are open."""
    telemetry = runtime.telemetry

    def middleware(app: ASGIApp) -> ASGIApp:
        async def call(scope: AsgiScope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP:
                await app(scope, receive, send)
                return
            streaming = False

            async def count(message: Message) -> None:
                nonlocal streaming
                if message["type"] == "http.response.start" and not streaming and _is_stream(message):
                    streaming = True
                    telemetry.stream(+1)
                await send(message)

            try:
                await app(scope, receive, count)
            finally:
                if streaming:
                    telemetry.stream(-1)

        return call

    return middleware


def _is_stream(message: Any) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in message.get("headers", ())
    )
