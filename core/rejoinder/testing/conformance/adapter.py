"""The rules for adapters: routes that live beside ours, and never break over what strangers send.

The plugin's routes are mounted in the real application, on a runtime with scripted providers, and asked without a
network. The application is the adapters' own; it is imported by name, since the core knows nothing of adapters.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from rejoinder.app import Runtime
from rejoinder.testing.conformance.leaks import Leaks
from rejoinder.testing.conformance.live import LiveConformance, problem_of, renamed
from rejoinder.testing.conformance.measure import BLOCK_MS, LoopWatch, raised_at
from rejoinder.testing.conformance.provider import TRIES
from rejoinder.testing.conformance.rules import NotChecked, Seen, Violation, bounded, rule

SERVER = "rejoinder_adapters.server"
ANSWER_S = 10.0
_PARAMETER = re.compile(r"\{[^}]*\}")
_VALUES = ("x", "0", "-1", "%00", "%F0%9F%98%80", "..%2F..", "a" * 300)
_JSON = "application/json"
_BODIES = (
    (_JSON, b""),
    (_JSON, b"{"),
    (_JSON, b"null"),
    (_JSON, b"[]"),
    (_JSON, b'{"a": 1}'),
    (_JSON, b'"\\ud800"'),
    (_JSON, b"[" * 3_000),
    (_JSON, b"\xff\xfe\x00"),
    ("text/plain", b"hello"),
    ("application/x-www-form-urlencoded", b"a=1&a=2&%"),
    ("multipart/form-data; boundary=x", b"--x\r\n\r\n"),
    ("application/octet-stream", bytes(range(256))),
    ("x", b"x"),
)
_QUERIES = ("", "a=1&a=2", "limit=-1&after=x&%00=%FF", "&&==", "x=" + "y" * 2_000)


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the plugin: its path as it was written, and the methods it takes ("WEBSOCKET" for a socket).

    `public`: it is said to be open to everybody, by `public=True` where it is made.
    """

    path: str
    method: str
    public: bool = False


class AdapterConformance(LiveConformance):
    """What a plugin with `register_routes` must do. Set `plugin` in a subclass."""

    def wanted(self) -> str:
        """What the plugin must offer."""
        return "adapter"

    def mounted(self, runtime: Runtime) -> Any:
        """The application with the plugin's routes.

        Raises:
            NotChecked: the adapters are not installed, or the routes do not fit; there is a rule of its own for that.
        """
        app = _create_app(runtime)
        if problem := problem_of(runtime.plugins, renamed(self.subject(), runtime.plugins), "register"):
            raise NotChecked(f"its routes are not mounted: {problem}")
        return app

    async def routes(self) -> list[Route]:
        """The routes that are there because of the plugin."""
        async with self.running(alone=True) as runtime:
            ours = set(_routes(_create_app(runtime)))
        async with self.running() as runtime:
            return [route for route in _routes(self.mounted(runtime)) if route not in ours]

    @rule
    async def test_routes_fit(self) -> Seen:
        """Its routes are mounted beside the built-in ones; none has the path and method of another."""
        subject = self.subject()
        if "adapter" not in subject.offers():
            raise Violation("it does not implement `register_routes`", "write it, with `@hookimpl` above")
        async with self.running() as runtime:
            _create_app(runtime)
            if problem := problem_of(runtime.plugins, renamed(subject, runtime.plugins), "register"):
                raise Violation(
                    f"its routes cannot be mounted: {problem}",
                    "return Litestar handlers whose paths begin with a name of your own, e.g. `/acme/...`",
                )
        found = await self.routes()
        if not found:
            raise Violation("`register_routes` brings no route", "return a list of Litestar route handlers")
        return Seen(", ".join(f"{route.method} {route.path}" for route in found))

    @rule
    async def test_openapi(self) -> Seen:
        """The OpenAPI document can still be made, and names its routes."""
        async with self.running() as runtime:
            app = self.mounted(runtime)
            with _logged() as log:
                status, _ = await bounded(ask(app, "GET", "/openapi.json"), ANSWER_S, "The document")
        if status != 200:
            raise Violation(
                f"GET /openapi.json answers {status}{_cause(log, self.roots())}",
                "annotate handlers with types that have a schema, or say `include_in_schema=False`",
            )
        return Seen("made")

    @rule
    async def test_garbage(self) -> Seen:
        """Whatever is sent to its routes, the answer is no 5xx and comes in time."""
        routes = [route for route in await self.routes() if route.method != "WEBSOCKET"]
        if not routes:
            raise NotChecked("it has no route but sockets")
        asked = 0
        async with self.running() as runtime:
            app = self.mounted(runtime)
            for route in routes:
                for what, path, query, kind, body in _garbage(route):
                    asked += 1
                    with _logged() as log:
                        status, _ = await bounded(
                            ask(app, route.method, path, query=query, kind=kind, body=body),
                            ANSWER_S,
                            f"The answer of {route.method} {route.path} to {what}",
                        )
                    if status >= 500:
                        raise Violation(
                            f"{route.method} {route.path} answers {status} to {what}{_cause(log, self.roots())}",
                            "declare parameters and body with types (Litestar refuses what does not fit), and raise "
                            "ProtocolError or another RejoinderError for what is wrong: it becomes a 4xx",
                        )
        return Seen(f"{asked} requests to {len(routes)} routes")

    @rule
    async def test_keys(self) -> Seen:
        """Without a key its routes refuse (401 or 403), but for those that are said to be `public`."""
        routes = [route for route in await self.routes() if route.method != "WEBSOCKET"]
        if not routes:
            raise NotChecked("it has no route but sockets")
        opened = []
        async with self.running("keys") as runtime:
            app = self.mounted(runtime)
            for route in routes:
                path = _PARAMETER.sub("x", route.path)
                status, _ = await bounded(ask(app, route.method, path, body=b"{}"), ANSWER_S, "An answer")
                if status not in (401, 403) and not route.public:
                    opened.append(f"{route.method} {route.path}")
        if opened:
            raise Violation(
                f"{', '.join(opened)} can be used without a key",
                "give it `guards=[needs(...)]` (`rejoinder_adapters.security`), or `public=True` if that is meant",
            )
        public = [f"{route.method} {route.path}" for route in routes if route.public]
        return Seen(f"{len(routes) - len(public)} want a key{'; public: ' if public else ''}{', '.join(public)}")

    @rule
    async def test_no_block(self) -> Seen:
        """A request never blocks the event loop for more than 20 ms."""
        routes = [route for route in await self.routes() if route.method != "WEBSOCKET"]
        async with self.running() as runtime:
            app = self.mounted(runtime)
            worst, worst_route = 0.0, ""
            where = ""
            for route in routes:
                path = _PARAMETER.sub("x", route.path)
                blocks = []
                await bounded(ask(app, route.method, path, body=b"{}"), ANSWER_S, "An answer")
                for _ in range(TRIES):
                    async with LoopWatch(self.roots()) as watch:
                        await bounded(ask(app, route.method, path, body=b"{}"), ANSWER_S, "An answer")
                    blocks.append(watch.longest)
                block = min(blocks, key=lambda one: one.ms)
                if block.ms > worst:
                    worst, worst_route, where = block.ms, f"{route.method} {route.path}", block.where
        if worst > BLOCK_MS:
            raise Violation(
                f"{worst_route} blocks the event loop for {worst:.0f} ms{f' at {where}' if where else ''}",
                "write the handler as `async def` that awaits what takes time, or as `def` with `sync_to_thread=True`",
                longest_block_ms=worst,
            )
        return Seen(f"longest {worst:.1f} ms", longest_block_ms=worst)

    @rule
    async def test_no_leaks(self) -> Seen:
        """Many requests, half of them from clients that go away, leave nothing behind."""
        routes = [route for route in await self.routes() if route.method != "WEBSOCKET"]
        if not routes:
            raise NotChecked("it has no route but sockets")
        async with self.running() as runtime:
            app = self.mounted(runtime)

            async def run(number: int) -> None:
                route = routes[number // 2 % len(routes)]
                path = _PARAMETER.sub("x", route.path)
                request = ask(app, route.method, path, body=b"{}", leave_s=None if number % 2 == 0 else 0.001)
                await bounded(request, ANSWER_S, "An answer")

            return await Leaks(self.roots(), self.runs, self.most_s).check(run)


def _create_app(runtime: Runtime) -> Any:
    try:
        create_app: Any = import_module(SERVER).create_app
    except ImportError as error:
        raise NotChecked(f"the adapters are not installed: {error}") from None
    return create_app(runtime)


def _routes(app: Any) -> list[Route]:
    found = []
    for route in app.routes:
        for handler in getattr(route, "route_handlers", None) or [route.route_handler]:
            methods = getattr(handler, "http_methods", None) or ("WEBSOCKET",)
            public = bool(handler.opt.get("public"))
            found += [
                Route(route.path_format, str(method), public)
                for method in sorted(methods)
                if method not in ("OPTIONS", "HEAD")
            ]
    return found


def _garbage(route: Route) -> Iterator[tuple[str, str, str, str, bytes]]:
    """What is odd, the path, the query, the type of the body, the body."""
    usual = _PARAMETER.sub("x", route.path)
    if usual != route.path:
        for value in _VALUES:
            yield f"{value[:20]!r} in its path", _PARAMETER.sub(value, route.path), "", _JSON, b"{}"
    for query in _QUERIES:
        yield f"the query {query[:30]!r}", usual, query, _JSON, b"{}"
    if route.method in ("POST", "PUT", "PATCH", "DELETE"):
        for kind, body in _BODIES:
            yield f"the body {body[:20]!r} ({kind})", usual, "", kind, body


async def ask(
    app: Any,
    method: str,
    path: str,
    *,
    query: str = "",
    kind: str = _JSON,
    body: bytes = b"",
    leave_s: float | None = None,
) -> tuple[int, bytes]:
    """The status of the answer and its first bytes; the client goes away then, or after `leave_s`."""
    from urllib.parse import unquote

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path, errors="replace"),
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [
            (b"host", b"127.0.0.1"),
            (b"content-type", kind.encode()),
            (b"content-length", str(len(body)).encode()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    status: list[int] = []
    first = bytearray()
    answered, gone = asyncio.Event(), asyncio.Event()
    sent = False

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            status.append(message["status"])
        elif message["type"] == "http.response.body":
            first.extend(message.get("body", b""))
            answered.set()

    work = asyncio.ensure_future(app(scope, receive, send))
    waiting = asyncio.ensure_future(answered.wait())
    try:
        await asyncio.wait({work, waiting}, timeout=leave_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        gone.set()
        if leave_s is None or answered.is_set():
            # What follows the first bytes: none, or the end of a stream whose client has gone.
            await asyncio.wait({work}, timeout=0.5)
        work.cancel()
        await asyncio.wait({work}, timeout=2.0)
    if leave_s is None and work.done() and not work.cancelled() and (error := work.exception()):
        raise error
    return (status[0] if status else 0), bytes(first)


@contextmanager
def _logged() -> Iterator[list[logging.LogRecord]]:
    """What is logged with a traceback meanwhile, instead of on the terminal."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info:
                records.append(record)

    handler, root = Keep(), logging.getLogger()
    root.addHandler(handler)
    try:
        yield records
    finally:
        root.removeHandler(handler)


def _cause(log: list[logging.LogRecord], roots: Any) -> str:
    for record in reversed(log):
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            return f": {type(error).__name__}: {error}{raised_at(error, roots)}"
    return ""
