"""Measures SSE: how soon the first words reach a reader, and what many readers cost. `python tests/benchmarks/sse.py`.

A server of its own (scripted providers, one core) and readers in another process, on loopback. Prints:
- first delta: from the provider's first token (its `reply.text` is published in the same step) to the reader, median
  and p95, with one reader and with all of them;
- memory per reader and CPU per delivered event (the server's, from /proc);
- the event loop's lag while all are served: a call scheduled every 5 ms, how much later it came.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from typing import Any

import psutil

WORDS = 40


def serve(pipe: Connection, folder: str, core: int, token_ms: float) -> None:
    """The server; it stamps each `reply.text` when it is published, and samples its loop's lag when told to."""
    os.sched_setaffinity(0, {core})
    import uvloop

    from rejoinder.app import Runtime
    from rejoinder.events import ReplyText
    from rejoinder.settings import Agent, Auth, Limits, Settings
    from rejoinder_adapters.server import listen, make_server

    agent = Agent(vad="scripted", stt="scripted", llm="scripted", tts="scripted", turn=(), interruption=(), tools=())
    settings = Settings(
        database_url=f"sqlite+aiosqlite:///{folder}/bench.db",
        default_agent="s",
        agents={"s": agent},
        plugins={"scripted": {"reply": "word " * WORDS, "first_token_ms": 20, "token_ms": token_ms}},
        auth=Auth(mode="none"),
        limits=Limits(sessions=5000, requests_per_minute=10**6),
    )
    published: dict[tuple[str, int], int] = {}

    async def main() -> None:
        sock = listen("127.0.0.1", 0)
        async with Runtime(settings) as runtime:
            observe = runtime._observer

            def stamping(session_id: str, hooks: Any) -> Any:
                inner = observe(session_id, hooks)

                def observer(event: Any, data: bytes) -> None:
                    if isinstance(event, ReplyText):
                        published[session_id, event.seq] = time.monotonic_ns()
                    inner(event, data)

                return observer

            object.__setattr__(runtime._host, "observer", stamping)
            server = make_server(runtime)
            pipe.send(sock.getsockname()[1])
            lags: list[float] = []

            async def sample() -> None:
                while True:
                    due = time.monotonic() + 0.005
                    await asyncio.sleep(0.005)
                    lags.append((time.monotonic() - due) * 1000)

            sampling = asyncio.create_task(sample())

            def command() -> None:
                what = pipe.recv()
                if what == "reset":
                    lags.clear()
                    published.clear()
                    pipe.send(None)
                elif what == "report":
                    pipe.send((dict(published), list(lags)))
                else:
                    server.should_exit = True

            asyncio.get_running_loop().add_reader(pipe.fileno(), command)
            await server.serve(sockets=[sock])
            sampling.cancel()
            asyncio.get_running_loop().remove_reader(pipe.fileno())
        sock.close()

    uvloop.run(main())


class Reader(asyncio.Protocol):
    """One SSE reader, as cheap as can be: stamps each id that it sees."""

    def __init__(self, request: bytes) -> None:
        self.seen: dict[int, int] = {}
        self.bytes = 0
        self._request = request
        self._rest = b""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self.transport = transport
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Note when each event came."""
        now = time.monotonic_ns()
        self.bytes += len(data)
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(b"id: "):
                self.seen[int(line[4:])] = now
        if not self.opened.done() and self.seen:
            self.opened.set_result(None)


async def http(port: int, method: str, path: str, body: dict[str, Any]) -> Any:
    """One request, its JSON."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    payload = json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(payload)}\r\n\r\n"
    writer.write(head.encode() + payload)
    answer = await reader.read()
    writer.close()
    return json.loads(answer.partition(b"\r\n\r\n")[2] or b"null")


def quantile(values: list[float], share: float) -> float:
    """The value below which `share` of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def measure(
    port: int, pipe: Connection, process: psutil.Process, readers: int, sessions: int, turns: int, token_ms: float
) -> None:
    """`readers` readers spread over `sessions` sessions, which all answer at the same time, `turns` times."""
    before = process.memory_info().rss
    loop = asyncio.get_running_loop()
    rooms = [(await http(port, "POST", "/v1/rooms", {}))["session_id"] for _ in range(sessions)]
    for room in rooms:
        await http(port, "POST", f"/v1/sessions/{room}/messages", {"text": "hello"})
    await asyncio.sleep(2)
    idle = process.memory_info().rss
    opened: list[tuple[str, Reader]] = []
    for number in range(readers):
        room = rooms[number % sessions]
        request = f"GET /v1/sessions/{room}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        _, reader = await loop.create_connection(lambda request=request: Reader(request), "127.0.0.1", port)  # type: ignore[misc]
        await reader.opened
        opened.append((room, reader))
    await asyncio.sleep(1)
    full = process.memory_info().rss
    pipe.send("reset")
    pipe.recv()
    cpu = sum(process.cpu_times()[:2])
    began = time.monotonic()
    for _ in range(turns):
        for room in rooms:
            await http(port, "POST", f"/v1/sessions/{room}/messages", {"text": "hello"})
        await asyncio.sleep((WORDS * token_ms + 300) / 1000)
    took = time.monotonic() - began
    used = sum(process.cpu_times()[:2]) - cpu
    pipe.send("report")
    published, lags = pipe.recv()
    delays: list[float] = []
    firsts: list[float] = []
    previous: set[tuple[str, int]] = set(published)
    for room, reader in opened:
        for seq, at in reader.seen.items():
            sent = published.get((room, seq))
            if sent is not None:
                delay = (at - sent) / 1e6
                delays.append(delay)
                if (room, seq - 1) not in previous:
                    firsts.append(delay)
        reader.transport.close()
    per_reader = (full - idle) / readers / 1024
    print(
        f"{readers:5d} readers, {sessions} sessions: first delta p50 {statistics.median(firsts):.2f} ms, p95 "
        f"{quantile(firsts, 0.95):.2f} (n = {len(firsts)}); all deltas p50 {statistics.median(delays):.2f}, p95 "
        f"{quantile(delays, 0.95):.2f}, p99 {quantile(delays, 0.99):.2f} (n = {len(delays)})"
    )
    print(
        f"      memory {per_reader:.1f} KiB a reader; {used / len(delays) * 1e6:.0f} us CPU a delivered delta, "
        f"{used / took * 100:.0f} % of a core; loop lag p50 {statistics.median(lags):.2f} ms, p99 "
        f"{quantile(lags, 0.99):.2f}, max {max(lags):.2f} (n = {len(lags)}); process {before / 2**20:.0f} -> "
        f"{full / 2**20:.0f} MiB"
    )


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--readers", type=int, default=1000)
    parser.add_argument("--sessions", type=int, default=10)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--token-ms", type=float, default=100.0, help="between two deltas of an answer")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = multiprocessing.Pipe()
        server = multiprocessing.get_context("spawn").Process(
            target=serve, args=(theirs, folder, cores[0], options.token_ms)
        )
        server.start()
        try:
            port = ours.recv()
            os.sched_setaffinity(0, {cores[-1]})
            process = psutil.Process(server.pid)
            for readers, sessions in ((1, 1), (100, options.sessions), (options.readers, options.sessions)):
                asyncio.run(measure(port, ours, process, readers, sessions, options.turns, options.token_ms))
        finally:
            ours.send("stop")
            server.join(10)
            server.kill()


if __name__ == "__main__":
    main()
