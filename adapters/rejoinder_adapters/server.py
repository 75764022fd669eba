"""The server: one Litestar application made of the routes that plugins bring, run by uvicorn."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import msgspec
import uvicorn
from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.exceptions import HTTPException

from rejoinder.app import Runtime
from rejoinder.discovery import OURS, Refused
from rejoinder.errors import ConfigError, RejoinderError
from rejoinder_adapters import openapi, problems
from rejoinder_adapters.head import Application, allow_head
from rejoinder_adapters.idempotency import idempotency
from rejoinder_adapters.places import claim, places
from rejoinder_adapters.protocol import HttpProtocol
from rejoinder_adapters.rest.metrics import count_streams
from rejoinder_adapters.security import RateLimiter, add_headers
from rejoinder_adapters.wire import WireProtocol

log = logging.getLogger(__name__)
_LARGEST_MESSAGE = 1 << 20
"""WebSocket messages beyond this are not even read (close code 1009); `limits.message_bytes` is refused politely."""
_LARGEST_BODY = 10_000_000
"""Bytes of a request's body, where a route does not say otherwise: the longest document, in any script."""
_KERNEL_BYTES = 65_536
"""The kernel takes no more than this beyond what a client has room for, so that `limits.outbox_bytes` is the bound."""


def create_app(runtime: Runtime) -> Litestar:
    """The ASGI application that serves `runtime`. Plugins whose routes do not fit are told, and left without any."""
    fitting: list[Any] = []
    theirs: dict[str, list[Any]] = {}
    for plugin, route in runtime.plugins.routes(runtime):
        own = runtime.plugins.infos[plugin].distribution == OURS
        (fitting if own else theirs.setdefault(plugin, [])).append(route)
    app = _build(runtime, fitting)
    taken = places(app.routes, "")
    for plugin, routes in list(theirs.items()):
        try:
            taken += claim(plugin, routes, taken)
        except Exception as error:  # noqa: BLE001 - a stranger's routes; the server goes on without them
            runtime.plugins.report(plugin, "register", "register_routes", error)
            del theirs[plugin]
    if not theirs:
        return app
    try:
        return _try(runtime, [*fitting, *chain(*theirs.values())])
    except Exception as error:  # noqa: BLE001 - whose fault it is, is found out one by one
        log.debug("the routes of plugins do not fit: %s", error)
    for plugin, routes in theirs.items():
        try:
            app = _try(runtime, [*fitting, *routes])
        except Exception as error:  # noqa: BLE001 - as above
            runtime.plugins.report(plugin, "register", "register_routes", error)
        else:
            fitting = [*fitting, *routes]
    return app


def _try(runtime: Runtime, routes: Sequence[Any]) -> Litestar:
    app = _build(runtime, routes)
    _check_document(app)
    return app


def _check_document(app: Litestar) -> None:
    """Whether `/openapi.json` can be made of the routes of `app`.

    Raises:
        Refused: it cannot.
    """
    try:
        msgspec.json.encode(openapi.document(app))
    except Exception as error:
        raise Refused(
            f"/openapi.json cannot be made with its routes: {type(error).__name__}: {error}.",
            fix="Give each an operation_id of its own and types that have a schema, or include_in_schema=False.",
        ) from error


def _build(runtime: Runtime, routes: Sequence[Any]) -> Litestar:
    settings = runtime.settings
    return Application(
        route_handlers=[*routes, openapi.serve_document],
        exception_handlers={
            RejoinderError: problems.on_rejoinder_error,
            HTTPException: problems.on_http_error,
            Exception: problems.on_unknown_error,
        },
        state=State({"runtime": runtime, "rate_limiter": RateLimiter(settings.limits.requests_per_minute)}),
        middleware=[count_streams(runtime), idempotency(runtime)],
        before_send=[add_headers, allow_head],
        request_max_body_size=_LARGEST_BODY,
        cors_config=_cors(settings.allowed_origins),
        openapi_config=openapi.config(),
        logging_config=None,
    )


def _cors(origins: Sequence[str]) -> CORSConfig | None:
    if not origins:
        return None
    return CORSConfig(
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        # Clients bring headers of their own (OpenAI's SDK some ten). A login's cookie is of no use to another origin.
        allow_headers=["*"],
        expose_headers=[
            *("ETag", "Idempotency-Replayed", "Link", "Location", "RateLimit-Remaining", "Retry-After", "X-Request-Id")
        ],
    )


class Server(uvicorn.Server):
    """uvicorn, which says goodbye to live sessions before it closes their sockets."""

    def __init__(self, config: uvicorn.Config, runtime: Runtime) -> None:
        super().__init__(config)
        self._runtime = runtime

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGINT and SIGTERM. uvicorn then raises the signal again, before the store has written what waits."""
        with super().capture_signals():
            try:
                yield
            finally:
                self._captured_signals.clear()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop taking sessions, end the live ones, then let uvicorn close what is open."""
        await self._runtime.end_sessions()
        await super().shutdown(sockets)


def make_server(runtime: Runtime, **options: Any) -> Server:
    """A server for `runtime`; await its `serve(sockets=[listen(...)])`."""
    config = uvicorn.Config(
        create_app(runtime),
        http=HttpProtocol,
        ws=WireProtocol,
        ws_per_message_deflate=False,
        ws_max_size=_LARGEST_MESSAGE,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=3,
        **options,
    )
    return Server(config, runtime)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one.

    Raises:
        ConfigError: the address cannot be used (`address_in_use`).
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        server = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"Cannot listen on {host}:{port}: {error.strerror or error}.",
            code="address_in_use",
            fix=f"Choose another port, e.g. --port {port + 1}, or stop what uses this one.",
        ) from None
    server.setblocking(False)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        # Connections inherit it. Otherwise megabytes of audio wait in the kernel for a client that does not read.
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _KERNEL_BYTES)
    return server
