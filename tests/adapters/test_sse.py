"""Events over SSE: each once and in order from wherever a reader resumes; readers that stall, vanish or outlive it."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from rejoinder.settings import Limits
from rejoinder_adapters import feed as feed_module
from rejoinder_adapters import sse

if TYPE_CHECKING:
    from tests.adapters.conftest import LiveServer, Serve

STREAM = {"accept": "text/event-stream"}
JSON = {"accept": "application/json"}


class Reader:
    """An SSE reader as a stranger would write it: `log` holds (id, event) pairs, `comments` the rest."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.log: list[tuple[int | None, dict[str, Any]]] = []
        self.comments: list[str] = []
        self._lines = response.aiter_lines()

    async def next(self) -> dict[str, Any] | None:
        """The next event; None at the end of the stream."""
        number, data = None, None
        async for line in self._lines:
            if line.startswith("id: "):
                number = int(line[4:])
            elif line.startswith("data: "):
                data = json.loads(line[6:])
            elif line:
                self.comments.append(line)
            elif data is not None:
                self.log.append((number, data))
                return data  # type: ignore[no-any-return]
        return None

    async def until(self, kind: str, timeout: float = 10) -> dict[str, Any]:
        async with asyncio.timeout(timeout):
            while (event := await self.next()) is not None:
                if event["type"] == kind:
                    return event
        raise AssertionError(f"the stream ended before {kind}")

    async def rest(self, timeout: float = 10) -> list[dict[str, Any]]:
        """All that comes until the stream ends."""
        events = []
        async with asyncio.timeout(timeout):
            while (event := await self.next()) is not None:
                events.append(event)
        return events


@asynccontextmanager
async def reading(server: LiveServer, session_id: str, after: int | None = None, **query: Any) -> AsyncIterator[Reader]:
    headers = {**STREAM, **({} if after is None else {"last-event-id": str(after)})}
    url = f"{server.http}/v1/sessions/{session_id}/events"
    async with (
        httpx.AsyncClient(timeout=10) as http,
        http.stream("GET", url, headers=headers, params=query) as response,
    ):
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Reader(response)


def new_room(server: LiveServer) -> str:
    session_id: str = httpx.post(server.http + "/v1/rooms").json()["session_id"]
    return session_id


def post(server: LiveServer, session_id: str, what: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.http}/v1/sessions/{session_id}/{what}", json=body)


async def said(server: LiveServer, session_id: str, text: str = "hello") -> None:
    answer = await asyncio.to_thread(post, server, session_id, "messages", text=text)
    assert answer.status_code == 202, answer.text


def logged(server: LiveServer, session_id: str) -> list[dict[str, Any]]:
    """The log, through the other representation of the same resource."""
    events: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        url = f"{server.http}/v1/sessions/{session_id}/events?after={after}&limit=100"
        page = httpx.get(url, headers=JSON).json()
        events += page["items"]
        after = page["next_cursor"]
    return events


def eventually(check: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_text_chat_of_messages_and_events(server: LiveServer) -> None:
    session_id = new_room(server)

    async def main() -> None:
        async with reading(server, session_id) as reader:
            assert (await reader.until("session.started"))["session_id"] == session_id
            answer = await asyncio.to_thread(post, server, session_id, "messages", text=" hello ")
            committed = await reader.until("turn.committed")
            assert (committed["turn_id"], committed["text"]) == (answer.json()["turn_id"], "hello")
            finished = await reader.until("reply.finished")
            assert finished["heard_text"] == "Certainly, here it is."
            deltas = [event["delta"] for _, event in reader.log if event["type"] == "reply.text"]
            assert "".join(deltas).strip() == finished["text"]
            assert len(deltas) > 1, "it streams"
            await asyncio.to_thread(post, server, session_id, "end", reason="enough")
            rest = await reader.rest()
            assert (rest[-1]["type"], rest[-1]["reason"]) == ("session.ended", "enough")
            assert [number for number, _ in reader.log] == list(range(1, len(reader.log) + 1))
            assert [event for _, event in reader.log] == logged(server, session_id)
            assert all(event["seq"] == number for number, event in reader.log)

    asyncio.run(main())


def test_a_number_that_is_yet_to_come_is_refused(server: LiveServer) -> None:
    session_id = new_room(server)
    post(server, session_id, "messages", text="hello")
    url = f"{server.http}/v1/sessions/{session_id}/events"
    answer = httpx.get(url, headers={**STREAM, "last-event-id": "99999"})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_event_id")
    assert not server.runtime.sessions[session_id]._audience.readers


def test_after_the_end_there_is_nothing_more(server: LiveServer) -> None:
    session_id = new_room(server)
    post(server, session_id, "messages", text="hello")
    post(server, session_id, "end")
    eventually(lambda: session_id not in server.runtime.sessions)

    async def main() -> None:
        async with reading(server, session_id, after=2) as reader:
            rest = await reader.rest()
            assert [event["seq"] for event in rest] == list(range(3, rest[-1]["seq"] + 1))
            assert rest[-1]["type"] == "session.ended"
        url = f"{server.http}/v1/sessions/{session_id}/events"
        headers = {**STREAM, "last-event-id": str(rest[-1]["seq"])}
        done = await asyncio.to_thread(httpx.get, url, headers=headers)
        assert done.status_code == 204, "a browser's EventSource asks no more"

    asyncio.run(main())
    assert httpx.get(f"{server.http}/v1/sessions/ses_none/events", headers=STREAM).status_code == 404
    for wrong in ("x", "-1", "1.5", "9" * 40, "²"):
        answer = httpx.get(f"{server.http}/v1/sessions/{session_id}/events", params={"after": wrong})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_event_id")


@pytest.mark.parametrize("backlog", [16, 256])
def test_wherever_a_reader_resumes_it_misses_nothing_and_gets_nothing_twice(serve: Serve, backlog: int) -> None:
    """While the session goes on readers come, read for a while, break off anywhere and come back with their last id."""
    server = serve({"reply": "word " * 150, "repeat": 1}, limits=Limits(sse_backlog=backlog))
    session_id = new_room(server)
    rng = random.Random(backlog)

    async def read(number: int) -> list[dict[str, Any]]:
        got: list[dict[str, Any]] = []
        after, over = rng.choice([None, 0]), False
        while not over:
            async with reading(server, session_id, after) as reader:
                for _ in range(rng.choice([1, 3, 20, 200, 2000])):
                    event = await reader.next()
                    over = event is None or event["type"] == "session.ended"
                    if event is None:
                        break
                    got.append(event)
                after = got[-1]["seq"] if got else 0
            await asyncio.sleep(rng.choice([0, 0.001, 0.05]))
        return got

    async def main() -> list[list[dict[str, Any]]]:
        readers = [asyncio.create_task(read(number)) for number in range(8)]
        for _ in range(12):
            await said(server, session_id)
            await asyncio.sleep(rng.choice([0, 0.02, 0.2]))
        await asyncio.to_thread(post, server, session_id, "end")
        return await asyncio.gather(*readers)

    results = asyncio.run(asyncio.wait_for(main(), 60))
    log = logged(server, session_id)
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
    assert len(log) > 300
    for got in results:
        assert got == log


def test_a_reader_that_falls_behind_is_fed_from_the_log(serve: Serve) -> None:
    server = serve({"reply": "word " * 3000}, limits=Limits(sse_backlog=16, sse_send_s=30))
    session_id = new_room(server)

    async def main() -> None:
        async with reading(server, session_id) as reader:
            await reader.until("session.started")
            for _ in range(4):
                await said(server, session_id)
                # It reads nothing meanwhile: what does not fit the sockets waits nowhere but in the log.
                await asyncio.sleep(0.3)
            await asyncio.to_thread(post, server, session_id, "end")
            await asyncio.sleep(0.2)
            await reader.rest()
            assert [number for number, _ in reader.log] == list(range(1, len(reader.log) + 1))
            assert len(reader.log) > 1000
            assert [event for _, event in reader.log] == logged(server, session_id)

    asyncio.run(main())


def test_events_that_cannot_be_stored_now_are_waited_for(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader is behind what memory holds, and the database is locked."""
    monkeypatch.setattr("rejoinder.audience._REPLAYED_EVENTS", 16)
    server = serve({"reply": "word " * 100})
    session_id = new_room(server)

    async def main() -> None:
        await said(server, session_id)
        await asyncio.to_thread(eventually, lambda: server.runtime.sessions[session_id].bus.seq > 100)
        await asyncio.to_thread(eventually, lambda: server.runtime.store.writer.waiting == 0)
        path = server.runtime.store._url.database
        assert path
        with closing(sqlite3.connect(path, isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            await said(server, session_id, "again")
            await asyncio.to_thread(eventually, lambda: server.runtime.sessions[session_id].bus.seq > 200)
            async with reading(server, session_id) as reader:
                await reader.until("session.started")
                await asyncio.sleep(0.7)
                lock.execute("COMMIT")
                await asyncio.to_thread(post, server, session_id, "end")
                await reader.rest()
                assert [number for number, _ in reader.log] == list(range(1, len(reader.log) + 1))

    asyncio.run(main())


def test_events_that_were_never_stored_are_owned_up_to(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rejoinder.audience._REPLAYED_EVENTS", 16)
    monkeypatch.setattr(feed_module, "_RETRIES", 2)
    server = serve({"reply": "word " * 100})
    session_id = new_room(server)
    post(server, session_id, "messages", text="hello")
    eventually(lambda: server.runtime.sessions[session_id].bus.seq > 100)
    eventually(lambda: server.runtime.store.writer.waiting == 0)
    path = server.runtime.store._url.database
    assert path
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM events WHERE seq BETWEEN 10 AND 12 OR seq > 60")

    async def main() -> None:
        async with reading(server, session_id) as reader:
            await reader.until("reply.finished")
            numbers = [number for number, _ in reader.log if number is not None]
            told = [event for number, event in reader.log if number is None]
            assert [event["code"] for event in told] == ["events_missed", "events_missed"]
            assert "3 events after number 9" in told[0]["message"]
            assert numbers[:12] == [*range(1, 10), *range(13, 16)]
            assert numbers == sorted(set(numbers))

    asyncio.run(main())


def test_a_reader_that_does_not_read_is_freed(serve: Serve) -> None:
    server = serve({"reply": "many words " * 20_000}, limits=Limits(sse_send_s=0.3, idle_s=60, chat_idle_s=60))
    session_id = new_room(server)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(5)
        sock.connect(("127.0.0.1", server.port))
        sock.sendall(f"GET /v1/sessions/{session_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        eventually(lambda: session_id in server.runtime.sessions)
        session = server.runtime.sessions[session_id]
        eventually(lambda: session._audience.readers == 1)
        post(server, session_id, "messages", text="hello")
        eventually(lambda: session._audience.readers == 0)
        eventually(lambda: not server.server.server_state.connections)
        assert session.ended_reason is None, "the session does not suffer"
    assert post(server, session_id, "interrupt").status_code == 204


def test_a_reader_that_vanishes_is_freed_and_does_not_keep_the_session(serve: Serve) -> None:
    server = serve(limits=Limits(idle_s=0, chat_idle_s=0.2))
    session_id = new_room(server)

    async def main() -> None:
        async with reading(server, session_id) as reader:
            await reader.until("session.started")
            await asyncio.sleep(0.5)
            session = server.runtime.sessions[session_id]
            assert session.ended_reason is None, "a reader who takes part keeps it"
        await asyncio.to_thread(eventually, lambda: session_id not in server.runtime.sessions)

    asyncio.run(main())
    assert logged(server, session_id)[-1]["reason"] == "idle"


def test_one_who_only_observes_does_not_keep_the_session(serve: Serve) -> None:
    server = serve(limits=Limits(idle_s=0, chat_idle_s=0.3))
    session_id = new_room(server)
    post(server, session_id, "messages", text="hello")

    async def main() -> None:
        async with reading(server, session_id, observe=True) as reader:
            assert (await reader.until("session.ended"))["reason"] == "idle"

    asyncio.run(main())


def test_a_quiet_stream_says_that_it_lives(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "PING_S", 0.05)
    server = serve()
    session_id = new_room(server)

    async def main() -> None:
        async with reading(server, session_id) as reader:
            await reader.until("session.started")
            await asyncio.sleep(0.3)
            await said(server, session_id)
            await reader.until("reply.finished")
            assert [line for line in reader.comments if line.startswith(":")]

    asyncio.run(main())


def test_a_chat_in_one_request(server: LiveServer) -> None:
    with httpx.stream("POST", f"{server.http}/v1/chat", json={"text": "hello"}, headers=STREAM) as response:
        assert response.status_code == 200
        body = response.read().decode()
    assert "\r" not in body
    events = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: ")]
    kinds = [event["type"] for event in events]
    assert kinds[0] == "session.started"
    assert (kinds[-2], kinds[-1]) == ("reply.finished", "turn.metrics")
    session_id = events[0]["session_id"]

    again = httpx.post(f"{server.http}/v1/chat", json={"text": "and?", "session_id": session_id}, headers=JSON)
    assert again.status_code == 200
    answer = again.json()
    assert (answer["session_id"], answer["text"], answer["reason"]) == (
        session_id,
        "Certainly, here it is.",
        "completed",
    )
    assert answer["response_ms"] > 0
    log = logged(server, session_id)
    assert [event["text"] for event in log if event["type"] == "turn.committed"] == ["hello", "and?"]

    both = {"text": "hi", "session_id": session_id, "agent": "scripted"}
    assert httpx.post(f"{server.http}/v1/chat", json=both).status_code == 400
    assert httpx.post(f"{server.http}/v1/chat", json={"text": " "}).json()["code"] == "empty_text"
    assert httpx.post(f"{server.http}/v1/chat", json={"text": "hi", "agent": "nobody"}).status_code == 422
    post(server, session_id, "end")
    eventually(lambda: session_id not in server.runtime.sessions)
    over = httpx.post(f"{server.http}/v1/chat", json={"text": "hi", "session_id": session_id})
    assert (over.status_code, over.json()["code"]) == (409, "session_over")


def test_a_message_that_is_refused_begins_nothing(serve: Serve) -> None:
    server = serve(limits=Limits(text_chars=10))
    session_id = new_room(server)
    for text, code in (("too long a text", "text_too_long"), ("  ", "empty_text")):
        assert httpx.post(f"{server.http}/v1/chat", json={"text": text}).json()["code"] == code
        assert post(server, session_id, "messages", text=text).json()["code"] == code
    assert not server.runtime.sessions
    assert post(server, session_id, "messages", text="short").status_code == 202, "the room is as it was"


def test_a_reader_does_not_leave_before_the_end_is_stored(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "_RETRY_S", 0.05)
    server = serve()
    session_id = new_room(server)
    post(server, session_id, "messages", text="hello")
    store = server.runtime.store
    eventually(lambda: server.runtime.sessions[session_id].bus.seq > 5)
    eventually(lambda: store.writer.waiting == 0)
    path = store._url.database
    assert path
    with closing(sqlite3.connect(path, isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        last = server.runtime.sessions[session_id].bus.seq
        post(server, session_id, "end")
        eventually(lambda: session_id not in server.runtime.sessions)

        async def main() -> None:
            async with reading(server, session_id, after=last) as reader:
                waiting = asyncio.create_task(reader.rest())
                await asyncio.sleep(0.2)
                lock.execute("COMMIT")
                rest = await waiting
            assert [event["type"] for event in rest] == ["session.metrics", "session.ended"]

        asyncio.run(main())


def test_a_chat_that_is_interrupted_ends(serve: Serve) -> None:
    server = serve({"reply": "word " * 500, "token_ms": 20})
    session_id = new_room(server)

    def chat() -> dict[str, Any]:
        url = f"{server.http}/v1/chat"
        answer = httpx.post(url, json={"text": "hello", "session_id": session_id}, headers=JSON, timeout=20)
        result: dict[str, Any] = answer.json()
        return result

    async def main() -> None:
        chatting = asyncio.create_task(asyncio.to_thread(chat))
        async with reading(server, session_id) as reader:
            await reader.until("reply.text")
            assert (await asyncio.to_thread(post, server, session_id, "interrupt")).status_code == 204
            async with asyncio.timeout(5):
                answer = await chatting
        assert answer["reason"] == "interrupted"

    asyncio.run(main())


def test_a_model_that_fails_is_told_and_the_chat_ends(serve: Serve) -> None:
    server = serve({"reply": ""})
    answer = httpx.post(f"{server.http}/v1/chat", json={"text": "hello"}, headers=JSON).json()
    assert (answer["reason"], answer["text"], answer["response_ms"]) == ("failed", "", None)


SERVER = """
import sys
from rejoinder.cli import main
main(["serve", "--port", sys.argv[1]])
"""


def test_sigterm_with_fifty_open_streams_ends_cleanly(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    agent: dict[str, Any] = {**dict.fromkeys(("vad", "stt", "llm", "tts"), "scripted"), "turn": [], "interruption": []}
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "REJOINDER_AUTH__MODE": "none",
        "REJOINDER_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'x.db'}",
        "REJOINDER_AGENTS": json.dumps({"s": agent}),
        "REJOINDER_DEFAULT_AGENT": "s",
    }
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(port)], env=environment, cwd=tmp_path, stdout=log, stderr=log
        )
    try:
        base = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            try:
                return httpx.get(base + "/readyz").status_code == 200
            except httpx.TransportError:
                return False

        eventually(ready, 60)

        made = [httpx.post(base + "/v1/rooms").json()["session_id"] for _ in range(5)]

        async def main() -> float:
            async with httpx.AsyncClient(timeout=20, limits=httpx.Limits(max_connections=60)) as http:
                opened = asyncio.Semaphore(0)

                async def read(session_id: str) -> str:
                    url = f"{base}/v1/sessions/{session_id}/events"
                    async with http.stream("GET", url, headers=STREAM) as response:
                        reader = Reader(response)
                        await reader.until("session.started")
                        opened.release()
                        rest = await reader.rest()
                        return str(rest[-1]["type"])

                readers = [asyncio.create_task(read(made[number % 5])) for number in range(50)]
                for _ in readers:
                    await opened.acquire()
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                assert set(await asyncio.gather(*readers)) == {"session.ended"}, "each stream was ended properly"
                await asyncio.to_thread(process.wait, 10)
                return time.monotonic() - began

        seconds = asyncio.run(main())
        assert process.returncode == 0
        assert seconds < 3
        assert "Traceback" not in (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait()
