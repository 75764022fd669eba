"""Measures the panel's stream: many live sessions, a few readers. `python tests/benchmarks/stream.py`.

A server of its own on one core; events of scripted-like sessions are fed straight into its board, paced over the
second; readers in this process, on another core, on loopback. Prints, for no readers and for some:
- CPU seconds that the server used per second (the feeding itself included: compare with no readers);
- messages and bytes per second and reader, and the share of messages that came later than 0.3 s after the one before;
- the event loop's lag while all are served: a call scheduled every 5 ms, how much later it came.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from typing import Any

import psutil

CYCLE_S = 6.0
"""A turn: the user speaks for two seconds, the agent for three, then both are quiet."""
STEPS = 60


def events_of_a_turn() -> list[list[Any]]:
    """What happens in each of the `STEPS` parts of a turn."""
    from rejoinder import events as e

    steps: list[list[Any]] = [[] for _ in range(STEPS)]
    steps[0] = [e.SpeechStarted(turn_id="t")]
    for step in range(5, 20, 5):
        text = "what I would like to know is " * (step // 5)
        steps[step] = [e.Transcript(turn_id="t", text=text, final=False)]
    said = "what I would like to know is when you are open on Sundays"
    steps[20] = [e.SpeechPaused(turn_id="t"), e.SpeechStopped(turn_id="t", silence_ms=200)]
    steps[21] = [e.Transcript(turn_id="t", text=said, final=True), e.TurnCommitted(turn_id="t", text=said)]
    steps[22] = [e.ReplyStarted(reply_id="r", turn_id="t")]
    for step in range(23, 33):
        # A fast model: four deltas in a tenth of a second, for a second.
        steps[step] = [e.ReplyText(reply_id="r", delta="some words ") for _ in range(4)]
    steps[33] = [e.TurnMetrics(turn_id="t", reply_id="r", response_us=640_000, spans=[])]
    text = "some words " * 40
    steps[54] = [e.ReplyFinished(reply_id="r", turn_id="t", reason="completed", text=text, heard_text=text)]
    return steps


def serve(pipe: Connection, folder: str, core: int, sessions: int) -> None:
    """The server: feeds its board, and samples its loop's lag when told to."""
    os.sched_setaffinity(0, {core})
    import uvloop

    from rejoinder.app import Runtime
    from rejoinder.settings import Agent, Auth, Limits, Settings
    from rejoinder_adapters.server import listen, make_server

    agent = Agent(vad="scripted", stt="scripted", llm="scripted", tts="scripted", turn=(), interruption=(), tools=())
    settings = Settings(
        database_url=f"sqlite+aiosqlite:///{folder}/bench.db",
        default_agent="s",
        agents={"s": agent},
        auth=Auth(mode="none"),
        limits=Limits(requests_per_minute=10**6),
    )

    async def main() -> None:
        sock = listen("127.0.0.1", 0)
        async with Runtime(settings) as runtime:
            server = make_server(runtime)
            board, lags, steps, count = runtime.board, [], events_of_a_turn(), 0
            names = [f"ses_{number:026d}" for number in range(sessions)]
            for name in names:
                board.add(name, "reception", "websocket", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36")

            async def feed() -> None:
                nonlocal count
                # Each session is somewhere else in its turn; a hundredth of a second at a time.
                parts, begun, done = int(CYCLE_S * 100), time.monotonic(), 0
                while True:
                    await asyncio.sleep(0.01)
                    while done < (time.monotonic() - begun) * 100:
                        for number in range(sessions):
                            at = done + number * 7
                            if at % (parts // STEPS) == 0:
                                for event in steps[at // (parts // STEPS) % STEPS]:
                                    board.on_event(names[number], event)
                                    count += 1
                        done += 1

            async def sample() -> None:
                while True:
                    due = time.monotonic() + 0.005
                    await asyncio.sleep(0.005)
                    lags.append((time.monotonic() - due) * 1000)

            tasks = [asyncio.create_task(feed()), asyncio.create_task(sample())]
            pipe.send(sock.getsockname()[1])

            def command() -> None:
                nonlocal count
                what = pipe.recv()
                if what == "reset":
                    lags.clear()
                    count = 0
                    pipe.send(None)
                elif what == "report":
                    pipe.send((list(lags), count))
                else:
                    server.should_exit = True

            asyncio.get_running_loop().add_reader(pipe.fileno(), command)
            await server.serve(sockets=[sock])
            for task in tasks:
                task.cancel()
            asyncio.get_running_loop().remove_reader(pipe.fileno())
        sock.close()

    uvloop.run(main())


class Reader(asyncio.Protocol):
    """One reader, as cheap as can be: counts bytes, and stamps each message of the board."""

    def __init__(self, request: bytes) -> None:
        self.bytes = 0
        self.times: list[float] = []
        self._request = request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self.transport = transport
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Count."""
        self.bytes += len(data)
        if b"\nid: " in data or data.startswith(b"id: "):
            self.times.append(time.monotonic())


def quantile(values: list[float], share: float) -> float:
    """The value below which `share` of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def measure(port: int, pipe: Connection, process: psutil.Process, readers: int, seconds: float) -> None:
    """For `seconds`, with so many readers of the live board and of the process."""
    loop = asyncio.get_running_loop()
    request = b"GET /v1/stream?topics=live,overview HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    opened = [(await loop.create_connection(lambda: Reader(request), "127.0.0.1", port))[1] for _ in range(readers)]
    await asyncio.sleep(2)
    pipe.send("reset")
    pipe.recv()
    for reader in opened:
        reader.bytes = 0
        reader.times.clear()
    used, began = sum(process.cpu_times()[:2]), time.monotonic()
    await asyncio.sleep(seconds)
    took, used = time.monotonic() - began, sum(process.cpu_times()[:2]) - used
    pipe.send("report")
    lags, count = pipe.recv()
    print(
        f"{readers:4d} readers: {used / took * 100:.1f} % of a core ({count / took:.0f} events a second); "
        f"loop lag p50 {statistics.median(lags):.2f} ms, p99 {quantile(lags, 0.99):.2f}, max {max(lags):.2f} "
        f"(n = {len(lags)}); {process.memory_info().rss / 2**20:.0f} MiB"
    )
    if opened:
        gaps = [b - a for reader in opened for a, b in zip(reader.times, reader.times[1:], strict=False)]
        late = sum(gap > 0.3 for gap in gaps) / len(gaps)
        print(
            f"      each reader: {statistics.mean(len(reader.times) for reader in opened) / took:.2f} messages and "
            f"{statistics.mean(reader.bytes for reader in opened) / took / 1024:.0f} KiB a second; "
            f"{late * 100:.1f} % of messages later than 0.3 s (n = {len(gaps)})"
        )
    for reader in opened:
        reader.transport.close()


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--sessions", type=int, default=500)
    parser.add_argument("--readers", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = multiprocessing.Pipe()
        server = multiprocessing.get_context("spawn").Process(
            target=serve, args=(theirs, folder, cores[0], options.sessions)
        )
        server.start()
        try:
            port = ours.recv()
            os.sched_setaffinity(0, {cores[-1]})
            process = psutil.Process(server.pid)
            for readers in (0, 1, options.readers):
                asyncio.run(measure(port, ours, process, readers, options.seconds))
        finally:
            ours.send("stop")
            server.join(10)
            server.kill()


if __name__ == "__main__":
    main()
