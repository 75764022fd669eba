"""The panel's stream: what has changed and no more, as often as is stated, to whoever reads and may; and its end."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.adapters.conftest import LiveServer, Serve, running

from rejoinder.events import ReplyStarted, ReplyText, TurnCommitted
from rejoinder.settings import Auth, Limits
from rejoinder_adapters import stream as stream_module
from rejoinder_adapters.stream import topics_of

Message = dict[str, Any]


class Stream:
    """A reader as a stranger would write it; `log` holds (when, id, message)."""

    def __init__(self, response: httpx.Response) -> None:
        self.log: list[tuple[float, str | None, Message]] = []
        self.bytes = 0
        self._lines = response.aiter_lines()
        self._seen = 0

    @property
    def last_id(self) -> str:
        return next(number for _, number, _ in reversed(self.log) if number is not None)

    async def next(self) -> Message | None:
        number, data = None, None
        async for line in self._lines:
            self.bytes += len(line) + 1
            if line.startswith("id: "):
                number = line[4:]
            elif line.startswith("data: "):
                data = json.loads(line[6:])
            elif not line and data is not None:
                self.log.append((time.monotonic(), number, data))
                return data  # type: ignore[no-any-return]
        return None

    async def until(self, good: Callable[[Message], bool], timeout: float = 10) -> Message:
        """The next message that is `good`."""
        async with asyncio.timeout(timeout):
            while (message := await self.next()) is not None:
                if good(message):
                    return message
        raise AssertionError("the stream ended")

    async def rest(self, timeout: float = 10) -> list[Message]:
        """All that comes until the stream ends."""
        messages = []
        async with asyncio.timeout(timeout):
            while (message := await self.next()) is not None:
                messages.append(message)
        return messages

    async def within(self, seconds: float) -> list[Message]:
        """All that comes within that time; then the stream cannot be read any more."""
        messages = []
        try:
            async with asyncio.timeout(seconds):
                while (message := await self.next()) is not None:
                    messages.append(message)
        except TimeoutError:
            pass
        return messages


@asynccontextmanager
async def streaming(server: LiveServer, topics: str, after: str | None = None, **headers: str) -> AsyncIterator[Stream]:
    given = {**headers, **({} if after is None else {"last-event-id": after})}
    async with (
        httpx.AsyncClient(timeout=15) as http,
        http.stream("GET", f"{server.http}/v1/stream", params={"topics": topics}, headers=given) as response,
    ):
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Stream(response)


def of(topic: str, **fields: Any) -> Callable[[Message], bool]:
    return lambda message: message["topic"] == topic and fields.items() <= message.items()


def live(server: LiveServer, text: str = "hello") -> str:
    """A session that goes on."""
    session_id: str = httpx.post(server.http + "/v1/rooms").json()["session_id"]
    said = httpx.post(f"{server.http}/v1/sessions/{session_id}/messages", json={"text": text})
    assert said.status_code == 202, said.text
    return session_id


def over(server: LiveServer, session_id: str) -> None:
    assert httpx.post(f"{server.http}/v1/sessions/{session_id}/end", json={}).status_code in (200, 202, 204)


def on_board(server: LiveServer, work: Callable[[Any], object]) -> None:
    """Do something with the board, on its loop."""

    async def main() -> None:
        work(server.runtime.board)

    server.call(main())


def test_the_board_first_as_a_whole_then_what_changes(serve: Serve) -> None:
    server = serve(limits=Limits(chat_idle_s=60))
    one, two = live(server), live(server)

    async def main() -> None:
        async with streaming(server, "live,overview") as stream:
            first = await stream.until(of("live"))
            assert first["reset"]
            assert {session["id"] for session in first["changed"]} == {one, two}
            await asyncio.to_thread(httpx.post, f"{server.http}/v1/sessions/{two}/messages", json={"text": "again"})
            changes: dict[str, Any] = {}
            while changes.get("turns") != 2 or changes["doing"] != "listening":
                update = await stream.until(of("live", reset=False))
                assert [session["id"] for session in update["changed"]] == [two], "only what is different"
                changes = update["changed"][0]
            assert (changes["last_user"], changes["last_agent"]) == ("again", "Certainly, here it is.")
            assert changes["channel"] == "rest"
            await asyncio.to_thread(over, server, one)
            assert (await stream.until(of("live", gone=[one])))["changed"] == []
            pulse = await stream.until(of("overview", active=1, sse_readers=1))
            assert (pulse["store"], pulse["draining"], pulse["capacity"]) == ("ok", False, 1000)
            assert pulse["turns_last_minute"] == 3

    asyncio.run(main())
    answer = httpx.get(server.http + "/v1/live").json()
    assert [session["id"] for session in answer["items"]] == [two]


def test_who_comes_back_is_told_what_is_different_since(serve: Serve) -> None:
    server = serve(limits=Limits(chat_idle_s=60))
    same, changed, gone = live(server), live(server), live(server)

    async def main() -> None:
        async with streaming(server, "live") as stream:
            await stream.until(of("live", reset=True))
            await stream.within(0.6)
            last = stream.last_id
        await asyncio.to_thread(over, server, gone)
        on_board(server, lambda board: board.listened(changed, 1))
        async with streaming(server, "live", after=last) as stream:
            update = await stream.until(of("live"))
            assert not update["reset"]
            assert changed in {session["id"] for session in update["changed"]}
            assert same not in {session["id"] for session in update["changed"]}
            assert update["gone"] == [gone]
        for unknown in ("node_other.3", "nonsense", "9" * 80, last.partition(".")[0] + ".999999999"):
            async with streaming(server, "live", after=unknown) as stream:
                update = await stream.until(of("live"))
                assert update["reset"], unknown
                assert {session["id"] for session in update["changed"]} == {same, changed}

    asyncio.run(main())


def test_a_flood_of_changes_is_four_messages_a_second(serve: Serve) -> None:
    server = serve()
    on_board(server, lambda board: [board.add(f"ses_{number}", "guide") for number in range(20)])

    async def flood(seconds: float) -> int:
        board, until, count = server.runtime.board, time.monotonic() + seconds, 0
        for number in range(20):
            board.on_event(f"ses_{number}", ReplyStarted(reply_id="r", turn_id="t"))
        while time.monotonic() < until:
            for number in range(20):
                board.on_event(f"ses_{number}", TurnCommitted(turn_id="t", text=f"text {count}"))
                board.on_event(f"ses_{number}", ReplyText(reply_id="r", delta="a "))
                count += 1
            await asyncio.sleep(0.005)
        return count

    async def main() -> None:
        async with streaming(server, "live") as one, streaming(server, "live") as two:
            await asyncio.gather(one.until(of("live")), two.until(of("live")))
            flooding = asyncio.run_coroutine_threadsafe(flood(2.0), server.loop)
            messages, others = await asyncio.gather(one.within(2.6), two.within(2.6))
            assert flooding.result(5) > 1000
        assert 5 <= len(messages) <= 10, "at most four a second, in 2.6 s"
        for message in messages:
            ids = [session["id"] for session in message["changed"]]
            assert len(ids) == len(set(ids)) == 20, "each session once"
        assert messages[-1]["changed"][0]["turns"] == others[-1]["changed"][0]["turns"], "the end is the same for both"
        times = [at for at, _, _ in one.log]
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert sum(gap < 0.2 for gap in gaps) <= 2, "one late message may be followed by one in time"

    asyncio.run(main())


def test_nothing_is_sent_where_nothing_changes(serve: Serve) -> None:
    server = serve()

    async def main() -> None:
        async with streaming(server, "live") as stream:
            await stream.until(of("live"))
            assert await stream.within(1.2) == []
        await asyncio.sleep(0.2)

    asyncio.run(main())
    assert not server.runtime.board._told or len(server.runtime.board._told) == 1, "readers leave nothing behind"


def test_events_of_sessions_as_they_happen_and_then_that_it_is_over(serve: Serve) -> None:
    server = serve(limits=Limits(chat_idle_s=60))
    one, other = live(server), live(server)

    async def main() -> None:
        async with streaming(server, f"session:{one},session:ses_unknown") as stream:
            assert await stream.next() == {"topic": "session:ses_unknown", "over": True}
            await asyncio.to_thread(httpx.post, f"{server.http}/v1/sessions/{other}/messages", json={"text": "other"})
            await asyncio.to_thread(httpx.post, f"{server.http}/v1/sessions/{one}/messages", json={"text": "mine"})
            await stream.until(lambda message: message.get("event", {}).get("type") == "turn.metrics")
            await asyncio.to_thread(over, server, one)
            await stream.until(of(f"session:{one}", over=True))
            events = [message["event"] for _, _, message in stream.log if "event" in message]
            assert {event["session_id"] for event in events} == {one}
            numbers = [event["seq"] for event in events]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "each once, none left out"
            assert len([event for event in events if event["type"] == "reply.text"]) > 1, "not coalesced"
            assert events[-1]["type"] == "session.ended"
            assert not any("id" for _, number, _ in stream.log if number is not None)

    asyncio.run(main())


def test_a_reader_that_lags_is_told_to_fetch_the_log(serve: Serve) -> None:
    server = serve(limits=Limits(chat_idle_s=60, sse_backlog=16))
    session_id = live(server)

    async def flood() -> None:
        # In one step of the loop: nobody can read meanwhile.
        bus = server.runtime.sessions[session_id].bus
        for _ in range(40):
            bus.publish(ReplyText(reply_id="r", delta="x"))

    async def main() -> None:
        async with streaming(server, f"session:{session_id}") as stream:
            await asyncio.sleep(0.3)
            await asyncio.to_thread(server.call, flood())
            lagging = await stream.until(of(f"session:{session_id}", lagging=True))
            assert "event" not in lagging
            rest = await stream.within(0.5)
            assert len(rest) <= 16
            newest = server.runtime.sessions[session_id].bus.seq
            assert rest[-1]["event"]["seq"] == newest, "what comes after the gap is told"

    asyncio.run(main())


def test_a_reader_that_does_not_read_is_cut_off_and_holds_up_nobody(serve: Serve) -> None:
    server = serve(limits=Limits(sse_send_s=0.5))
    on_board(server, lambda board: [board.add(f"ses_{number}", "x" * 2000) for number in range(500)])
    stuck = socket.socket()
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stuck.connect(("127.0.0.1", server.port))
    stuck.sendall(b"GET /v1/stream?topics=live,overview HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")

    async def main() -> None:
        async with streaming(server, "live,overview") as stream:
            await stream.until(of("live"))
            await stream.until(of("overview", sse_readers=2))
            await stream.until(of("overview", sse_readers=1), timeout=8)

    asyncio.run(main())
    stuck.close()


def test_a_reader_that_does_not_read_keeps_no_server_from_stopping(tmp_path: Path) -> None:
    stuck = socket.socket()
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with running(tmp_path / "own.db", {}) as server:
        on_board(server, lambda board: [board.add(f"ses_{number}", "x" * 2000) for number in range(500)])
        stuck.connect(("127.0.0.1", server.port))
        stuck.sendall(b"GET /v1/stream?topics=live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert stuck.recv(100)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    stuck.close()


def test_the_stream_ends_when_the_server_stops(tmp_path: Path) -> None:
    async def read(server: LiveServer, stop: Callable[[], None]) -> list[Message]:
        async with streaming(server, "live,overview") as stream:
            await stream.until(of("live"))
            stop()
            return await stream.rest(6)

    with running(tmp_path / "own.db", {}, limits=Limits(chat_idle_s=60)) as server:
        session_id = live(server)

        def stop() -> None:
            server.server.should_exit = True

        began = time.monotonic()
        last = asyncio.run(read(server, stop))
    assert [message["gone"] for message in last if message["topic"] == "live"][-1] == [session_id]
    assert time.monotonic() - began < 8, "it does not hold the server up"


def test_it_ends_when_the_key_is_revoked(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "CHECK_S", 0.3)
    server = serve(auth=Auth(mode="keys", dev_key_file=tmp_path / "key"))
    keys = server.runtime.gate.keys
    record, key = server.call(keys.create("reader", ["read"]))
    _, other = server.call(keys.create("other", ["read"]))

    async def main() -> None:
        async with (
            streaming(server, "live,overview", authorization=f"Bearer {key}") as stream,
            streaming(server, "live,overview", authorization=f"Bearer {other}") as others,
        ):
            await stream.until(of("live"))
            await asyncio.to_thread(server.call, keys.revoke(record.id))
            await stream.rest(5)
            assert len(await others.within(1.5)) >= 1, "the others go on"

    asyncio.run(main())


def test_it_ends_when_the_account_is_disabled(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "CHECK_S", 0.3)
    server = serve(auth=Auth(mode="keys", dev_key_file=tmp_path / "key"))
    logins = server.runtime.gate.logins

    async def log_in() -> tuple[str, str]:
        user = await logins.users.create("ada", "viewer", by="test")
        token, _ = await logins.users.link(user.id, by="test", ttl_s=60)
        cookie, _, _ = await logins.use_link(token, "ada", "correct horse battery", address="x", client="y")
        return user.id, cookie

    user_id, cookie = server.call(log_in())

    async def disable() -> None:
        await logins.users.change(user_id, disabled=True)
        logins.forget()

    async def main() -> None:
        async with streaming(server, "live", cookie=f"rejoinder={cookie}") as stream:
            await stream.until(of("live"))
            await asyncio.to_thread(server.call, disable())
            await stream.rest(5)

    asyncio.run(main())
    denied = httpx.get(server.http + "/v1/stream", headers={"cookie": f"rejoinder={cookie}"})
    assert denied.status_code == 401


@pytest.mark.parametrize(
    ("topics", "what"),
    [
        ("", "no topics"),
        ("live,weather", "'weather'"),
        ("session:../x", "no session's id"),
        (",".join(f"session:ses_{number}" for number in range(33)), "at most 32"),
    ],
)
def test_wrong_topics_are_refused(server: LiveServer, topics: str, what: str) -> None:
    answer = httpx.get(server.http + "/v1/stream", params={"topics": topics})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_topics")
    assert what in answer.json()["detail"]


def test_topics() -> None:
    assert topics_of(" live ,session:ses_1,session:ses_1") == (True, False, ("ses_1",))


def test_who_may_read(serve: Serve, tmp_path: Path) -> None:
    server = serve(auth=Auth(mode="keys", dev_key_file=tmp_path / "key"))
    _, talker = server.call(server.runtime.gate.keys.create("t", ["talk"]))
    room = httpx.post(server.http + "/v1/rooms", headers={"authorization": f"Bearer {talker}"}).json()
    for path in ("/v1/stream", "/v1/live", "/v1/nodes"):
        assert httpx.get(server.http + path).status_code == 401
        for credential in (talker, room["join"]["token"]):
            refused = httpx.get(server.http + path, headers={"authorization": f"Bearer {credential}"})
            assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), path


def test_head_opens_no_stream(server: LiveServer) -> None:
    deadline = time.monotonic() + 10
    while server.runtime.telemetry.streams and time.monotonic() < deadline:
        # Readers of the tests before this one are still leaving.
        time.sleep(0.01)
    assert httpx.head(server.http + "/v1/stream").status_code == 200
    assert server.runtime.telemetry.streams == 0
