"""A real server on a free port, in a thread with a loop of its own, and a client that shares no code with it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from rejoinder.app import Runtime
from rejoinder.settings import Agent, Auth, Limits, Settings, TurnPolicy
from rejoinder_adapters.server import Server, listen, make_server

T = TypeVar("T")
REPLY = "Certainly, here it is."
SCRIPT = {"start_ms": 60, "end_silence_ms": 100, "transcript": "tell me", "reply": REPLY, "ms_per_word": 20}
AGENT = Agent(vad="scripted", stt="scripted", llm="scripted", tts="scripted", tools=(), turns=TurnPolicy(pause_ms=40))


class LiveServer:
    """A server that runs; `call` does something on its loop."""

    def __init__(self, runtime: Runtime, server: Server, loop: asyncio.AbstractEventLoop, port: int) -> None:
        self.runtime = runtime
        self.server = server
        self.loop = loop
        self.port = port
        self.http = f"http://127.0.0.1:{port}"
        self.ws = f"ws://127.0.0.1:{port}"

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    @asynccontextmanager
    async def caller(self, path: str = "/ws/audio", configure: bool | dict[str, Any] = True) -> AsyncIterator[Caller]:
        """A client on `path`; `configure` says what with (False: not at all)."""
        async with connect(
            self.ws + path,
            subprotocols=[Subprotocol("rejoinder.v1")],
            compression=None,
            proxy=None,
            max_size=None,
            max_queue=None,
        ) as ws:
            caller = Caller(ws)
            if configure is not False:
                await caller.tell("session.configure", **({} if configure is True else configure))
                await caller.until("session.started")
            yield caller

    @staticmethod
    def caller_on(ws: ClientConnection) -> Caller:
        """A client on a connection that was made already."""
        return Caller(ws)

    def raw(self, path: str = "/ws/audio", *headers: str, receive_buffer: int = 0) -> socket.socket:
        """A socket that asked for the upgrade; what it reads comes after the request."""
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(5)
        sock.connect(("127.0.0.1", self.port))
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            *headers,
        ]
        sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return sock


class Caller:
    """A client as a stranger would write it; `log` holds all that came, in order."""

    def __init__(self, ws: ClientConnection) -> None:
        self.ws = ws
        self.log: list[dict[str, Any] | bytes] = []
        self._seen = 0

    async def tell(self, kind: str, **fields: Any) -> None:
        await self.ws.send(json.dumps({"type": kind, **fields}))

    async def receive(self) -> dict[str, Any] | bytes:
        message = await self.ws.recv()
        item = message if isinstance(message, bytes) else json.loads(message)
        self.log.append(item)
        return item

    async def until(self, kind: str, timeout: float = 10.0, **fields: Any) -> dict[str, Any]:
        """The next event of that type with those fields, of what `until` has not been through yet."""
        async with asyncio.timeout(timeout):
            while True:
                while self._seen < len(self.log):
                    item = self.log[self._seen]
                    self._seen += 1
                    if isinstance(item, dict) and item["type"] == kind and fields.items() <= item.items():
                        return item
                await self.receive()

    async def until_closed(self, timeout: float = 10.0) -> tuple[int, str]:
        """Close code and reason."""
        async with asyncio.timeout(timeout):
            try:
                while True:
                    await self.receive()
            except ConnectionClosed as error:
                return (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "")

    async def turn(self, text: str = "hello") -> dict[str, Any]:
        """Write and get the whole answer."""
        await self.tell("text", text=text)
        return await self.until("reply.finished", reason="completed")

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [item for item in self.log if isinstance(item, dict) and item["type"] == kind]

    def audio(self) -> bytes:
        return b"".join(item for item in self.log if isinstance(item, bytes))


@contextmanager
def running(database: Path, script: dict[str, Any], **changes: Any) -> Iterator[LiveServer]:
    """A server in a thread; leaving waits until everything of it is gone."""
    settings = Settings(
        database_url=f"sqlite+aiosqlite:///{database}",
        default_agent="scripted",
        agents={"scripted": AGENT, **changes.pop("agents", {})},
        plugins={"scripted": {**SCRIPT, **script}},
        auth=changes.pop("auth", Auth(mode="none")),
        **changes,
    )
    ready = threading.Event()
    found: list[LiveServer] = []
    failed: list[BaseException] = []

    async def main() -> None:
        sock = listen("127.0.0.1", 0)
        try:
            async with Runtime(settings) as runtime:
                server = make_server(runtime)
                found.append(LiveServer(runtime, server, asyncio.get_running_loop(), sock.getsockname()[1]))
                ready.set()
                await server.serve(sockets=[sock])
        finally:
            sock.close()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(main())
        except BaseException as error:  # noqa: BLE001 - told to the test
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="server")
    thread.start()
    ready.wait(30)
    try:
        if failed:
            raise failed[0]
        yield found[0]
    finally:
        if found:
            found[0].server.should_exit = True
        thread.join(20)
    assert not thread.is_alive(), "the server does not stop"
    if failed:
        raise failed[0]


Serve = Callable[..., LiveServer]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server for all tests of a module."""
    with running(tmp_path_factory.mktemp("server") / "test.db", {}, limits=Limits(idle_s=1)) as live:
        yield live


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """`serve(script={...}, limits=Limits(...))`: a server with settings of its own."""
    with ExitStack() as stack:

        def start(script: dict[str, Any] | None = None, **changes: Any) -> LiveServer:
            return stack.enter_context(running(tmp_path / "own.db", script or {}, **changes))

        yield start
