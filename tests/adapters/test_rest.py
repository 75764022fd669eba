"""The REST API over real HTTP: rooms, conversations read back, problems, and a database that is locked for a while."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from rejoinder import __version__
from rejoinder.client import VoiceClient
from rejoinder.errors import ProtocolError
from rejoinder.events import End
from rejoinder.settings import Limits
from rejoinder.testing.scripted import noise, silence, tone
from rejoinder_adapters.problems import status_of

if TYPE_CHECKING:
    from tests.adapters.conftest import LiveServer, Serve

REPLY = "Certainly, here it is."


def get(server: LiveServer, path: str) -> Any:
    answer = httpx.get(server.http + path, headers={"accept": "application/json"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_room_is_made_joined_talked_in_and_read_back(server: LiveServer) -> None:
    made = httpx.post(server.http + "/v1/rooms", json={"agent": "scripted"})
    assert made.status_code == 201
    room = made.json()
    assert room["agent"] == "scripted"
    assert room["expires_at"] > room["created_at"]
    assert room["join"]["ws"] == f"{server.ws}/v1/sessions/{room['session_id']}/ws"
    again = get(server, f"/v1/rooms/{room['id']}")
    assert again.pop("join").items() < room["join"].items(), "its token is told once"
    assert again.items() < room.items()

    async def talk() -> None:
        async with VoiceClient.connect(room["join"]["ws"]) as client:
            assert client.session
            assert client.session.session_id == room["session_id"]
            first = await client.say_audio(tone(200) + silence(100))
            assert (first.transcript, first.heard_text) == ("tell me", REPLY)
            await client.say_text("and more?")
            live = await asyncio.to_thread(get, server, f"/v1/sessions/{room['session_id']}")
            assert live["live"]
            assert live["session"]["ended_at"] is None
            assert [turn["heard_text"] for turn in live["turns"]] == [REPLY, REPLY], "written before the session ends"
            # Leaving alone would let it go on for others.
            await client.send(End())
            async for _ in client.events():
                pass

    asyncio.run(talk())
    detail = get(server, f"/v1/sessions/{room['session_id']}")
    session = detail["session"]
    assert not detail["live"]
    assert (session["room_id"], session["agent"]) == (room["id"], "scripted")
    assert (session["input_rate"], session["output_rate"]) == (16_000, 24_000)
    assert session["ended_at"] >= session["started_at"]
    assert session["end_reason"] == "client_ended"
    spoken, written = detail["turns"]
    assert (spoken["number"], written["number"]) == (1, 2)
    assert (spoken["user_text"], written["user_text"]) == ("tell me", "and more?")
    for turn in (spoken, written):
        assert (turn["reply_text"], turn["heard_text"], turn["reply_reason"]) == (REPLY, REPLY, "completed")
        assert not turn["estimated"]
        assert turn["played_ms"] == pytest.approx(80, abs=25)
        assert sum(span["us"] for span in turn["spans"]) == turn["response_us"] > 0
        assert turn["jitter_us"] >= 0
        assert turn["providers"] == dict.fromkeys(("vad", "stt", "llm", "tts"), "scripted")
    assert [span["name"] for span in spoken["spans"]] == ["endpointing", "stt", "llm", "chunk", "tts", "send", "play"]
    assert spoken["speculated"]
    assert [(message["role"], message["content"]) for message in detail["messages"]] == [
        ("user", "tell me"), ("assistant", REPLY), ("user", "and more?"), ("assistant", REPLY),
    ]  # fmt: skip
    assert get(server, f"/v1/sessions/{room['session_id']}/turns") == detail["turns"]

    async def too_late() -> None:
        async with server.caller(f"/v1/sessions/{room['session_id']}/ws") as caller:
            await caller.until("session.started")

    with pytest.raises(Exception, match="session_over"):
        asyncio.run(too_late())


def test_two_people_in_one_room(server: LiveServer) -> None:
    room = httpx.post(server.http + "/v1/rooms").json()
    path = f"/v1/sessions/{room['session_id']}/ws"

    async def main() -> None:
        async with server.caller(path) as one:
            await one.turn("first")
            async with server.caller(path, configure={"output_rate": 8000}) as two:
                assert two.events("session.started")[0]["output_rate"] == 8000
                assert two.events("session.started")[0]["session_id"] == room["session_id"]
                await two.turn("second")
                committed = await one.until("turn.committed", text="second")
                assert committed == two.events("turn.committed")[0]
                await one.until("reply.finished", turn_id=committed["turn_id"])
                assert len(two.audio()) == pytest.approx(80 * 16, abs=400)
                assert len(one.audio()) == 2 * 80 * 48
            await one.turn("third")
            session = server.runtime.sessions[room["session_id"]]
            assert session.ended_reason is None
        async with server.caller(path) as back:
            await back.turn("fourth, and nobody had left for good")

    asyncio.run(main())


def test_all_who_come_first_at_once_share_the_session(server: LiveServer) -> None:
    room = httpx.post(server.http + "/v1/rooms").json()
    path = f"/v1/sessions/{room['session_id']}/ws"

    async def come() -> str:
        async with server.caller(path, configure={"output": "text"}) as caller:
            return str(caller.events("session.started")[0]["session_id"])

    async def main() -> None:
        assert set(await asyncio.gather(*(come() for _ in range(5)))) == {room["session_id"]}

    asyncio.run(main())
    assert get(server, f"/v1/sessions/{room['session_id']}")["session"]["room_id"] == room["id"]
    assert not server.runtime.store.recorder._rooms, "noted once, by the one who came first"


def test_an_expired_room_is_closed(server: LiveServer) -> None:
    room = server.call(server.runtime.store.create_room("scripted", "ses_expired", ttl_s=-1))

    async def main() -> None:
        async with server.caller(f"/v1/sessions/{room.session_id}/ws", configure=False) as caller:
            await caller.tell("session.configure")
            assert await caller.until_closed() == (1008, "room_expired")
            assert caller.events("error")[0]["fix"] == "POST /v1/rooms makes a new one."

    asyncio.run(main())


def test_sessions_and_events_come_in_pages(serve: Serve) -> None:
    server = serve()

    async def main() -> list[Any]:
        log: list[Any] = []
        for _ in range(5):
            async with server.caller(configure={"output": "text"}) as caller:
                await caller.turn()
                await caller.tell("end")
                await caller.until("session.ended")
                log = [item for item in caller.log if isinstance(item, dict)]
        return log

    log = asyncio.run(main())
    seen: list[str] = []
    cursor, pages = None, 0
    while True:
        page = get(server, f"/v1/sessions?limit=2{f'&before={cursor}' if cursor else ''}")
        seen += [session["id"] for session in page["items"]]
        pages += 1
        if (cursor := page["next_cursor"]) is None:
            break
    assert pages == 3
    assert len(set(seen)) == 5
    assert seen == sorted(seen, reverse=True)
    assert len(get(server, "/v1/sessions?agent=scripted")["items"]) == 5
    assert get(server, "/v1/sessions?agent=other") == {"items": [], "next_cursor": None, "facets": None}

    events: list[Any] = []
    after = 0
    while True:
        page = get(server, f"/v1/sessions/{seen[0]}/events?after={after}&limit=3")
        events += page["items"]
        if page["next_cursor"] is None:
            break
        after = page["next_cursor"]
    assert log[0].pop("resume_token"), "told to the client alone, never stored"
    assert events == log


def test_an_answer_is_interrupted_and_the_agent_made_to_say_something(serve: Serve) -> None:
    server = serve({"repeat": 40})

    async def main() -> None:
        async with server.caller() as caller, httpx.AsyncClient(base_url=server.http) as http:
            path = f"/v1/sessions/{caller.events('session.started')[0]['session_id']}"
            await caller.tell("text", text="go on")
            while not caller.audio():
                await caller.receive()
            stopped = await http.post(f"{path}/interrupt")
            assert (stopped.status_code, stopped.content) == (204, b"")
            cleared = await caller.until("clear_audio")
            assert (await caller.until("reply.finished"))["reason"] == "interrupted"
            assert (await http.post(f"{path}/interrupt")).status_code == 204, "nothing to stop is no error"

            said = await http.post(f"{path}/say", json={"text": " Your taxi is here. "})
            assert said.status_code == 202
            started = await caller.until("reply.started")
            finished = await caller.until("reply.finished", reply_id=started["reply_id"])
            assert finished["heard_text"] == "Your taxi is here."
            stale = caller.log[caller.log.index(cleared) : caller.log.index(started)]
            assert not [item for item in stale if isinstance(item, bytes)]

            detail = (await http.get(path)).json()
            asked, told = detail["turns"]
            assert (asked["user_text"], asked["reply_reason"]) == ("go on", "interrupted")
            assert (told["user_text"], told["heard_text"]) == (None, "Your taxi is here.")
            await caller.tell("end")
            await caller.until("session.ended")
            for what in ("interrupt", "say"):
                late = await http.post(f"{path}/{what}", json={"text": "too late"})
                assert (late.status_code, late.json()["code"]) == (409, "session_over")

    asyncio.run(main())


def test_a_flood_of_sentences_to_say_is_refused_and_the_session_goes_on(serve: Serve) -> None:
    server = serve()

    async def main() -> None:
        async with server.caller() as caller:
            session = server.runtime.sessions[caller.events("session.started")[0]["session_id"]]

            async def flood() -> None:
                # Without a pause, so that the session does not get to take them.
                for _ in range(1000):
                    session.say("And this.")

            with pytest.raises(ProtocolError) as refused:
                await asyncio.to_thread(server.call, flood())
            assert (refused.value.code, status_of(refused.value)) == ("too_fast", 429)
            await caller.turn()

    asyncio.run(main())


def test_nobody_can_be_interrupted_or_speak_before_somebody_has_joined(server: LiveServer) -> None:
    session_id = httpx.post(server.http + "/v1/rooms").json()["session_id"]
    for what in ("interrupt", "say"):
        early = httpx.post(f"{server.http}/v1/sessions/{session_id}/{what}", json={"text": "Hello."})
        assert (early.status_code, early.json()["code"]) == (404, "session_not_started")
        assert early.json()["retryable"]


def test_what_the_agent_is_to_say_has_words_and_is_not_too_long(serve: Serve) -> None:
    server = serve(limits=Limits(text_chars=20))

    async def main() -> None:
        async with server.caller() as caller, httpx.AsyncClient(base_url=server.http) as http:
            path = f"/v1/sessions/{caller.events('session.started')[0]['session_id']}"
            for text, code in (("", "empty_text"), (" \n", "empty_text"), ("x" * 21, "text_too_long")):
                refused = await http.post(f"{path}/say", json={"text": text})
                assert (refused.status_code, refused.json()["code"]) == (400, code)
                assert refused.headers["content-type"].startswith("application/problem+json")
            assert (await http.post(f"{path}/say", json={"text": "x" * 20})).status_code == 202
            assert (await caller.until("reply.finished"))["text"] == "x" * 20
            assert len(caller.events("reply.started")) == 1, "what was refused is not said"

    asyncio.run(main())


def test_what_happened_in_a_session_is_told_while_it_is_live_and_afterwards(serve: Serve) -> None:
    server = serve({"transcript": "mm-hm", "repeat": 10, "ms_per_word": 40})

    async def main() -> str:
        async with server.caller() as caller:
            session_id = str(caller.events("session.started")[0]["session_id"])
            await caller.tell("text", text="go on")
            while not caller.audio():
                await caller.receive()
            pcm = noise(300) + silence(500)
            for start in range(0, len(pcm), 640):
                await caller.ws.send(pcm[start : start + 640])
                await asyncio.sleep(0.02)
            told = await caller.until("user.interruption")
            assert (told["accepted"], told["cause"]) == (False, "backchannel")
            await caller.until("reply.finished", reason="completed")
            live = await asyncio.to_thread(get, server, f"/v1/sessions/{session_id}")
            assert live["live"]
            assert live["session"]["metrics"]["false_interruptions"] == {"backchannel": 1}
            (kept,) = live["interruptions"]
            assert {name: told[name] for name in kept if name in told} == kept
            (listed,) = await asyncio.to_thread(lambda: get(server, "/v1/sessions")["items"])
            assert listed == live["session"]
            await caller.tell("end")
            ended = await caller.until("session.metrics")
            await caller.until("session.ended")
            assert [item["type"] for item in caller.log if isinstance(item, dict)][-2:] == [
                "session.metrics",
                "session.ended",
            ]
            assert ended["turns"] == 1
            return session_id

    session_id = asyncio.run(main())
    detail = get(server, f"/v1/sessions/{session_id}")
    metrics = detail["session"]["metrics"]
    assert (metrics["turns"], metrics["interruptions"], metrics["nudges"]) == (1, 0, 0)
    assert metrics["false_interruptions"] == {"backchannel": 1}
    assert get(server, "/v1/sessions")["items"] == [detail["session"]]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "words"),
    [
        ("GET", "/v1/sessions/ses_none", None, 404, "unknown_session", "ses_none"),
        ("GET", "/v1/sessions/ses_none/turns", None, 404, "unknown_session", "ses_none"),
        ("GET", "/v1/sessions/ses_none/events", None, 404, "unknown_session", "ses_none"),
        ("POST", "/v1/sessions/ses_none/interrupt", None, 404, "unknown_session", "ses_none"),
        ("POST", "/v1/sessions/ses_none/say", b'{"text": "Hello."}', 404, "unknown_session", "ses_none"),
        ("POST", "/v1/sessions/ses_none/say", b'{"words": "Hello."}', 400, "bad_request", "words"),
        ("POST", "/v1/sessions/ses_none/say", None, 400, "bad_request", "body"),
        ("GET", "/v1/rooms/room_none", None, 404, "unknown_room", "room_none"),
        ("GET", "/v1/nothing", None, 404, "not_found", ""),
        ("DELETE", "/v1/rooms", None, 405, "method_not_allowed", ""),
        ("POST", "/v1/rooms", b'{"agent": "scriptd"}', 422, "unknown_agent", "'scripted'"),
        ("POST", "/v1/rooms", b'{"agent": ', 400, "bad_json", "truncated"),
        ("POST", "/v1/rooms", b'{"agent": 5}', 400, "bad_request", "agent"),
        ("POST", "/v1/rooms", b'{"agnet": "scripted"}', 400, "bad_request", "agnet"),
        ("GET", "/v1/sessions?limit=0", None, 400, "bad_request", "limit"),
        ("GET", "/v1/sessions?limit=201", None, 400, "bad_request", "limit"),
        ("GET", "/v1/sessions?limit=many", None, 400, "bad_request", "limit"),
        ("GET", "/v1/sessions/x/events?after=then", None, 400, "bad_event_id", "then"),
    ],
)
def test_wrong_requests_get_a_problem_document(
    server: LiveServer, method: str, path: str, body: bytes | None, status: int, code: str, words: str
) -> None:
    answer = httpx.request(method, server.http + path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["title"]
    assert words in problem["detail"]
    assert problem["type"] == f"/docs/problems#{code}"
    assert problem["instance"] == path.partition("?")[0]
    assert problem["request_id"] == answer.headers["x-request-id"]


def test_a_defect_is_a_problem_document_without_a_traceback(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(room_id: str) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(server.runtime.store, "room", fail)
    answer = httpx.get(server.http + "/v1/rooms/any")
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "secret" not in answer.text
    assert "ZeroDivisionError" in caplog.text


def test_it_says_that_it_lives_and_what_it_is(server: LiveServer) -> None:
    assert get(server, "/livez") == {"status": "ok"}
    assert get(server, "/version") == {"name": "rejoinder", "version": __version__}
    ready = get(server, "/readyz")
    assert (ready["status"], ready["draining"], ready["store"]) == ("ok", False, "ok")

    async def main() -> None:
        async with server.caller() as caller:
            await caller.turn()
            ready = await asyncio.to_thread(get, server, "/readyz")
            assert ready["sessions"] >= 1

    asyncio.run(main())


def test_a_locked_database_stops_no_conversation_and_loses_nothing(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    other = sqlite3.connect(tmp_path / "own.db", isolation_level=None)

    async def ready(status: int) -> Any:
        async with httpx.AsyncClient(base_url=server.http) as http:
            deadline = time.monotonic() + 10
            while (answer := await http.get("/readyz")).status_code != status:
                assert time.monotonic() < deadline, answer.text
                await asyncio.sleep(0.05)
            return answer.json()

    async def main() -> None:
        async with server.caller() as caller, httpx.AsyncClient(base_url=server.http, timeout=10) as http:
            await caller.turn("before")
            session_id = caller.events("session.started")[0]["session_id"]
            await http.get(f"/v1/sessions/{session_id}")
            other.execute("BEGIN EXCLUSIVE")
            await caller.turn("while it is locked")
            refused = await ready(503)
            assert (refused["status"], refused["store"]) == ("not ready", "unavailable")
            assert "locked by another process" in caplog.text, "why is for the log, not for strangers"
            room = asyncio.create_task(http.post("/v1/rooms"))
            await caller.turn("still locked")
            async with server.caller() as late:
                await late.turn("I came while it was locked")
                late_id = late.events("session.started")[0]["session_id"]
            other.execute("ROLLBACK")
            assert (await ready(200))["store"] == "ok"
            assert (await room).status_code == 201
            await caller.turn("after")
            detail = (await http.get(f"/v1/sessions/{session_id}")).json()
            texts = ["before", "while it is locked", "still locked", "after"]
            assert [turn["user_text"] for turn in detail["turns"]] == texts
            assert [turn["heard_text"] for turn in detail["turns"]] == [REPLY] * 4
            events = (
                await http.get(f"/v1/sessions/{session_id}/events", headers={"accept": "application/json"})
            ).json()["items"]
            assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
            assert len((await http.get(f"/v1/sessions/{late_id}/turns")).json()) == 1

    try:
        asyncio.run(main())
    finally:
        other.close()
