"""A server as people run it, under what people and networks do to it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sqlite3
import time
from contextlib import AsyncExitStack, closing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from rejoinder.client import VoiceClient
from rejoinder.events import ClearAudio, Interrupt, ReplyFinished, ReplyStarted, SessionEnded, Text, TurnMetrics
from rejoinder.testing.scripted import noise, silence

if TYPE_CHECKING:
    from tests.e2e.conftest import ServerProcess, Start

THREE_MINUTES = {"reply": "There is much to say about this and I will. " * 10, "repeat": 30, "ms_per_word": 60}
"""3000 words of 60 ms, which the model gives all at once."""
FLAT_MB = 4.0
"""Three minutes of audio at 24 kHz are 8.6 MB."""


async def rss(server: ServerProcess, seconds: float) -> list[float]:
    """The server's memory in MB, four times a second."""
    values = []
    for _ in range(round(seconds * 4)):
        values.append(server.rss_mb)
        await asyncio.sleep(0.25)
    return values


def test_a_three_minute_answer_costs_no_memory_and_is_silenced_at_once(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    server = start(THREE_MINUTES)

    async def main() -> None:
        log: list[tuple[float, object]] = []
        spoken = asyncio.Event()

        def see(event: object) -> None:
            log.append((time.monotonic(), event))
            if isinstance(event, ReplyStarted):
                spoken.set()

        async def speak() -> None:
            pcm = noise(600) + silence(400)
            for at in range(0, len(pcm), 640):
                await client.send_audio(pcm[at : at + 640])
                await asyncio.sleep(0.02)

        async with VoiceClient.connect(server.url, on_event=see) as client:
            # Once over everything, so that what is loaded on first use is loaded.
            await speak()
            await rss(server, 1)
            await client.send(Interrupt())
            await rss(server, 0.5)
            spoken.clear()
            await speak()
            await asyncio.wait_for(spoken.wait(), 5)
            measured = await rss(server, 9)
            barged_in = time.monotonic()
            await speak()
            await rss(server, 1)
            assert client.stale_frames == 0, "no audio between clear_audio and the next reply"

        growth = max(measured) - measured[0]
        with capsys.disabled():
            print(f"\nserver memory over 9 s of a three-minute answer: {measured[0]:.1f} MB, {growth:+.2f} MB at most")
        assert growth < FLAT_MB
        at, cleared = [(at, event) for at, event in log if isinstance(event, ClearAudio)][1]
        assert at - barged_in < 0.5
        assert cleared.played_ms == pytest.approx(9_000, abs=1_500)
        finished = [event for _, event in log if isinstance(event, ReplyFinished)][1]
        assert (finished.reason, finished.estimated) == ("interrupted", False)
        assert len(finished.heard_text.split()) == pytest.approx(cleared.played_ms / 60, abs=2)
        # Three minutes were not made in advance either.
        assert len(finished.text.split()) < 1_500

    asyncio.run(main())


def test_a_client_that_does_not_read_is_cut_off_and_hurts_nobody(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    server = start(THREE_MINUTES, LIMITS__OUTBOX_BYTES="65536", LIMITS__IDLE_S="0.5")
    address = urlsplit(server.url)

    def deaf() -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.settimeout(5)
        sock.connect((address.hostname, address.port))
        sock.sendall(
            f"GET /ws/audio?output_rate=48000 HTTP/1.1\r\nHost: {address.netloc}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "\r\n".encode()
        )
        said = b""
        while b"session.started" not in said:
            said += sock.recv(4096)
        command = json.dumps({"type": "text", "text": "go on"}).encode()
        sock.sendall(b"\x81" + bytes((0x80 | len(command),)) + b"\0\0\0\0" + command)
        return sock

    async def main() -> None:
        async with VoiceClient.connect(server.url) as other, AsyncExitStack() as stack:
            await other.send(Text(text="go on"))
            await rss(server, 1)
            before = server.rss_mb
            socks = [stack.enter_context(deaf()) for _ in range(5)]
            started = time.monotonic()
            heard = other.player.received_ms()
            while server.said.count("does not read") < len(socks):
                assert time.monotonic() < started + 15, "they are still connected"
                await asyncio.sleep(0.05)
            took = time.monotonic() - started
            assert (other.player.received_ms() - heard) / 1000 == pytest.approx(took, abs=0.5), "the other heard it all"
            await rss(server, 1)
            growth = server.rss_mb - before
            with capsys.disabled():
                print(f"\nfive deaf clients were cut off within {took:.1f} s; server memory {growth:+.2f} MB")
            assert growth < 2 * FLAT_MB, "five sessions and what waited for them"
            for sock in socks:
                waited = 0
                while chunk := sock.recv(65_536):
                    waited += len(chunk)
                assert waited < 4 * 65_536, "what waits in the kernel is bounded too"

    asyncio.run(main())
    with closing(sqlite3.connect(server.database)) as database:
        deadline = time.monotonic() + 5
        while database.execute("SELECT count(*) FROM sessions WHERE ended_at IS NULL").fetchone() != (0,):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        ended = dict(database.execute("SELECT end_reason, count(*) FROM sessions GROUP BY 1").fetchall())
    assert ended == {"idle": 5, "client_ended": 1}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_stopping_says_goodbye_and_writes_what_was_said(start: Start, how: signal.Signals) -> None:
    server = start(THREE_MINUTES)

    async def main() -> float:
        log: list[Any] = []
        speaking = asyncio.Semaphore(0)
        measured = asyncio.Event()

        def see(event: object) -> None:
            log.append(event)
            if isinstance(event, ReplyStarted):
                speaking.release()
            elif isinstance(event, TurnMetrics):
                measured.set()

        clients = [VoiceClient.connect(server.url, on_event=see) for _ in range(3)]
        clients.append(VoiceClient.connect(server.url, on_event=see, text_only=True))
        for client in clients:
            await client.__aenter__()
            await client.send(Text(text="go on"))
            await speaking.acquire()
        # The text answer is given at once and over; the spoken ones are in the middle.
        await asyncio.wait_for(measured.wait(), 10)
        await asyncio.sleep(0.3)
        sockets = [client._socket for client in clients]
        server.process.send_signal(how)
        took = await asyncio.to_thread(server.wait, 10)
        for ws in sockets:
            assert ws is not None
            await asyncio.wait_for(ws.wait_closed(), 5)
            assert ws.close_code == 1000
            assert ws.close_reason == "server_stopped"
        assert [event.reason for event in log if isinstance(event, SessionEnded)] == ["server_stopped"] * 4
        for client in clients:
            await client.close()
        return took

    took = asyncio.run(main())
    assert took < 3
    assert server.process.returncode in (0, -how)
    assert "Traceback" not in server.said
    assert "ERROR" not in server.said
    with closing(sqlite3.connect(server.database)) as database:
        turns = database.execute("SELECT user_text, reply_reason, heard_text FROM turns").fetchall()
        ended = database.execute("SELECT DISTINCT end_reason FROM sessions WHERE ended_at IS NOT NULL").fetchall()
    assert [text for text, _, _ in turns] == ["go on"] * 4
    assert sorted(reason for _, reason, _ in turns) == ["completed", "ended", "ended", "ended"]
    assert all(heard for _, _, heard in turns)
    assert ended == [("server_stopped",)]
