"""The native protocol over a real socket: what a client may do, and what happens if it does something else."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from rejoinder.client import VoiceClient
from rejoinder.events import ReplyFinished, TurnMetrics
from rejoinder.settings import Agent, Limits
from rejoinder.testing.scripted import noise, silence
from rejoinder_adapters.wire import WireProtocol

if TYPE_CHECKING:
    from tests.adapters.conftest import Caller, LiveServer, Serve

REPLY = "Certainly, here it is."
REPLY_MS = 4 * 20


async def speak(caller: Caller, rate: int = 16_000, speech_ms: int = 200, frame_s: float = 0.0) -> None:
    """A short utterance and the silence after it, 20 ms a frame; with `frame_s` at the pace of speech."""
    pcm = noise(speech_ms, rate) + silence(400, rate)
    size = rate // 50 * 2
    for start in range(0, len(pcm), size):
        await caller.ws.send(pcm[start : start + size])
        await asyncio.sleep(frame_s)


# -- what a client may do


def test_the_subprotocol_is_agreed_on_where_it_is_offered(server: LiveServer) -> None:
    async def main() -> None:
        url = server.ws + "/ws/audio"
        for offered, agreed in (
            (["rejoinder.v1"], "rejoinder.v1"),
            (["other", "rejoinder.v1"], "rejoinder.v1"),
            (["other"], None),
            ([], None),
        ):
            names = [Subprotocol(name) for name in offered]
            async with connect(url, subprotocols=names or None, proxy=None) as ws:
                assert ws.subprotocol == agreed

    asyncio.run(main())


def test_speech_in_speech_out_at_once_and_in_order(server: LiveServer) -> None:
    async def main() -> None:
        async with server.caller() as caller:
            await speak(caller)
            await caller.until("turn.metrics")
            assert caller.log[0] == caller.events("session.started")[0]
            started = caller.events("session.started")[0]
            assert (started["seq"], started["agent"]) == (1, "scripted")
            assert (started["input_rate"], started["output_rate"]) == (16_000, 24_000)
            kinds = [item["type"] if isinstance(item, dict) else "audio" for item in caller.log]
            once = [kind for number, kind in enumerate(kinds) if kind not in kinds[:number]]
            order = ["user.speech_started", "user.speech_paused", "user.speech_stopped", "user.transcript"]
            order += ["turn.committed", "reply.started"]
            assert [kind for kind in once if kind in order] == order
            assert once.index("audio") > once.index("reply.started")
            assert once.index("reply.finished") > once.index("audio")
            assert caller.events("user.transcript")[-1]["text"] == "tell me"
            assert len(caller.audio()) == REPLY_MS * 48
            assert any(caller.audio())
            finished = caller.events("reply.finished")[0]
            assert (finished["reason"], finished["text"], finished["heard_text"]) == ("completed", REPLY, REPLY)
            assert finished["estimated"], "it never said what it played"
            events = [item for item in caller.log if isinstance(item, dict)]
            assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
            assert {event["session_id"] for event in events} == {started["session_id"]}

    asyncio.run(main())


def test_audio_goes_both_ways_at_the_same_time(serve: Serve) -> None:
    server = serve({"repeat": 40})

    async def main() -> None:
        async with server.caller() as caller:
            await speak(caller)
            await caller.until("reply.started")
            while not caller.audio():
                await caller.receive()
            await speak(caller, speech_ms=600, frame_s=0.02)
            cleared = await caller.until("clear_audio")
            first = cleared["reply_id"]
            finished = await caller.until("reply.finished", reply_id=first)
            assert finished["reason"] == "interrupted"
            await caller.until("reply.started")
            cut = caller.log.index(cleared)
            again = caller.log.index(caller.events("reply.started")[1])
            assert not [item for item in caller.log[cut:again] if isinstance(item, bytes)]
            while caller.log[-1] is not caller.log[again] and not isinstance(caller.log[-1], bytes):
                await caller.receive()

    asyncio.run(main())


@pytest.mark.parametrize(("rate_in", "rate_out"), [(8_000, 8_000), (48_000, 48_000), (16_000, 44_100)])
def test_every_client_has_its_own_rates(server: LiveServer, rate_in: int, rate_out: int) -> None:
    async def main() -> None:
        rates = {"input_rate": rate_in, "output_rate": rate_out}
        async with server.caller(configure=rates) as caller:
            started = caller.events("session.started")[0]
            assert {key: started[key] for key in rates} == rates
            await speak(caller, rate_in)
            await caller.until("reply.finished")
            assert len(caller.audio()) == pytest.approx(REPLY_MS * rate_out * 2 / 1000, abs=rate_out // 25)

    asyncio.run(main())


def test_the_url_can_say_it_all(server: LiveServer) -> None:
    async def main() -> None:
        path = "/ws/audio?agent=scripted&input_rate=8000&output_rate=16000&output=audio"
        async with server.caller(path, configure=False) as caller:
            started = await caller.until("session.started")
            assert (started["input_rate"], started["output_rate"]) == (8_000, 16_000)
            await speak(caller, 8_000)
            assert (await caller.until("reply.finished"))["heard_text"] == REPLY
            assert len(caller.audio()) == pytest.approx(REPLY_MS * 32, abs=640)

    asyncio.run(main())


def test_text_in_and_text_alone_out(server: LiveServer) -> None:
    async def main() -> None:
        async with server.caller(configure={"output": "text"}) as caller:
            finished = await caller.turn("what is it?")
            assert (finished["heard_text"], finished.get("estimated", False)) == (REPLY, finished["estimated"])
            assert "".join(event["delta"] for event in caller.events("reply.text")).strip() == REPLY
            assert (await caller.until("turn.metrics"))["response_us"] > 0
            assert caller.events("turn.committed")[0]["text"] == "what is it?"
            assert caller.audio() == b""

    asyncio.run(main())


def test_ping_before_and_after_the_configuration(server: LiveServer) -> None:
    async def main() -> None:
        async with server.caller(configure=False) as caller:
            await caller.tell("ping", t=1.5)
            assert await caller.receive() == {"type": "pong", "t": 1.5}
            await caller.tell("session.configure")
            await caller.until("session.started")
            await caller.tell("ping", t=2)
            assert await caller.until("pong") == {"type": "pong", "t": 2.0}
            await caller.turn()
            await asyncio.wait_for(await caller.ws.ping(), 5)

    asyncio.run(main())


def test_interrupt_silences_at_once(serve: Serve) -> None:
    server = serve({"repeat": 40})

    async def main() -> None:
        async with server.caller() as caller:
            await caller.tell("text", text="go on")
            while not caller.audio():
                await caller.receive()
            await caller.tell("interrupt")
            cleared = await caller.until("clear_audio")
            finished = await caller.until("reply.finished")
            assert finished["reason"] == "interrupted"
            assert finished.get("played_ms", 0) == pytest.approx(cleared["played_ms"], abs=25)
            assert len(finished["heard_text"]) < len(REPLY) * 40
            await caller.tell("ping", t=1)
            await caller.until("pong")
            assert not [item for item in caller.log[caller.log.index(cleared) :] if isinstance(item, bytes)]

    asyncio.run(main())


def test_playback_reports_are_believed(server: LiveServer) -> None:
    async def main() -> None:
        log: list[object] = []
        async with VoiceClient.connect(server.ws, on_event=log.append) as client:
            result = await client.say_text("hello")
            assert (result.reply_text, result.heard_text) == (REPLY, REPLY)
            assert client.stale_frames == 0
        (finished,) = [item for item in log if isinstance(item, ReplyFinished)]
        assert not finished.estimated
        assert finished.played_ms == pytest.approx(REPLY_MS, abs=25)
        (metrics,) = [item for item in log if isinstance(item, TurnMetrics)]
        assert metrics.spans[-1].name == "play"

    asyncio.run(main())


def test_end_ends_the_session_and_the_closing_handshake_is_quick(server: LiveServer) -> None:
    async def main() -> None:
        for reason, told in (("bye", "bye"), ("ü" * 200, "ü" * 60)):
            async with server.caller() as caller:
                await caller.turn()
                session_id = caller.events("session.started")[0]["session_id"]
                await caller.tell("end", reason=reason)
                assert await caller.until_closed(2) == (1000, told)
                assert caller.log[-1] == caller.events("session.ended")[0]
                assert caller.events("session.ended")[0]["reason"] == reason[:80]
                # The server is to drop the connection now, not when its patience ends.
                await asyncio.wait_for(caller.ws.wait_closed(), 1)
            assert session_id not in server.runtime.sessions

    asyncio.run(main())


def test_who_does_not_even_read_the_goodbye_is_not_waited_for(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rejoinder_adapters.websocket._CLOSE_S", 0.2)
    server = serve()
    connections = server.server.server_state.connections
    with server.raw("/ws/audio?output=text", receive_buffer=2048) as sock:
        data = b""
        while b"session.started" not in data:
            data += sock.recv(4096)
        (session,) = server.runtime.sessions.values()
        ping = b"\x81\x90\0\0\0\0" + b'{"type": "ping"}'
        sock.sendall(ping * 20_000)
        sock.sendall(b"\x81\x8f\0\0\0\0" + b'{"type": "end"}')
        server.call(asyncio.wait_for(session.wait(), 5))
        (wire,) = connections
        assert isinstance(wire, WireProtocol)
        assert wire.transport.get_write_buffer_size() > 65_536, "there is something that it does not read"
        server.call(asyncio.wait_for(wire.wait_lost(), 5))
    assert not connections


@pytest.mark.parametrize("goodbye", [b"\x88\x82\0\0\0\0\x03\xe8", b"\x88\x80\0\0\0\0"], ids=["1000", "no code"])
def test_who_hangs_up_ends_the_session_at_once(serve: Serve, goodbye: bytes) -> None:
    server = serve(limits=Limits(idle_s=60))
    with server.raw("/ws/audio?output=text") as sock:
        data = b""
        while b"session.started" not in data:
            data += sock.recv(4096)
        (session,) = server.runtime.sessions.values()
        sock.sendall(goodbye)
        while sock.recv(4096):
            pass
    server.call(asyncio.wait_for(session.wait(), 5))
    assert session.ended_reason == "client_left"


def test_a_connection_that_breaks_leaves_the_session_its_grace_period(serve: Serve) -> None:
    server = serve(limits=Limits(idle_s=0.3))
    sock = server.raw("/ws/audio?output=text")
    data = b""
    while b"session.started" not in data:
        data += sock.recv(4096)
    (session,) = server.runtime.sessions.values()
    reset(sock)
    server.call(asyncio.wait_for(session.wait(), 5))
    assert session.ended_reason == "idle"


def reset(sock: Any) -> None:
    """Drop the connection as a dead network does: no goodbye, not even TCP's."""
    import socket

    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# -- what it should not do


async def complains(caller: Caller, code: str) -> dict[str, Any]:
    """The error event with that code, which says what, and the session is as well as before."""
    error = await caller.until("error", code=code)
    assert error["message"].endswith(".")
    return error


BAD_MESSAGES = [
    ("hello", "bad_json"),
    ("", "bad_json"),
    ("{", "bad_json"),
    ('{"type": "text", "text": 5', "bad_json"),
    ("[1, ", "bad_json"),
    ("[]", "bad_message"),
    ("5", "bad_message"),
    ("{}", "bad_message"),
    ('{"type": "dance"}', "unknown_event"),
    ('{"type": 5}', "unknown_event"),
    ('{"type": "text", "text": "a", "loud": true}', "bad_message"),
    ('{"type": "text", "text": 5}', "bad_message"),
    ('{"type": "text"}', "bad_message"),
    ('{"type": "playback", "reply_id": "x", "played_ms": 1e999}', "bad_json"),
    ('{"type": "text", "text": 5, ', "bad_json"),
    ('{"type": "session.configure"}', "already_configured"),
    ('{"type": "text", "text": " "}', "empty_text"),
    (json.dumps({"type": "text", "text": "x" * 16_385}), "text_too_long"),
    (json.dumps({"type": "text", "text": "x" * 65_536}), "frame_too_large"),
    ('{"type": "dtmf", "digits": "12#"}', "dtmf_unused"),
]


def test_bad_messages_are_answered_and_the_session_goes_on(server: LiveServer) -> None:
    async def main() -> None:
        async with server.caller() as caller:
            for message, code in BAD_MESSAGES:
                await caller.ws.send(message)
                error = await caller.until("error")
                assert (message[:80], error["code"]) == (message[:80], code)
                assert error["message"].endswith(".")
                assert error.get("fix") or code in ("frame_too_large", "dtmf_unused")
            assert (await caller.turn())["text"] == REPLY
            assert len(caller.events("error")) == len(BAD_MESSAGES)

    asyncio.run(main())


def test_json_of_bottomless_depth_is_just_bad_json(server: LiveServer) -> None:
    async def main() -> None:
        async with server.caller() as caller:
            await caller.ws.send("[" * 10_000 + "]" * 10_000)
            assert (await caller.until("error"))["code"] == "bad_json"

    asyncio.run(main())


def test_bad_frames_are_answered_and_the_session_goes_on(server: LiveServer) -> None:
    async def main() -> None:
        async with server.caller() as caller:
            await caller.ws.send(b'\xff\xfe{"type"', text=True)
            await complains(caller, "bad_json")
            await caller.ws.send([b'{"type": "te', b'xt", "text": "\xff"}'], text=True)
            await complains(caller, "bad_json")
            await caller.ws.send(bytes(641))
            assert "two bytes" in (await complains(caller, "odd_audio"))["fix"]
            await caller.ws.send(bytes(65_538))
            assert "20 ms" in (await complains(caller, "frame_too_large"))["fix"]
            await caller.ws.send([bytes(40_000), bytes(40_000)])
            await complains(caller, "frame_too_large")
            await caller.ws.send(b"")
            await speak(caller)
            assert (await caller.until("reply.finished"))["text"] == REPLY

    asyncio.run(main())


def test_a_message_beyond_all_bounds_ends_that_connection_alone(server: LiveServer) -> None:
    async def main() -> None:
        async with server.caller() as other, server.caller() as caller:
            await caller.ws.send(bytes((1 << 20) + 2))
            assert (await caller.until_closed())[0] == 1009
            assert (await other.turn())["text"] == REPLY

    asyncio.run(main())


def test_nothing_works_before_the_configuration_and_then_everything(server: LiveServer) -> None:
    async def main() -> None:
        async with server.caller(configure=False) as caller:
            await caller.ws.send(bytes(640))
            assert "session.configure" in (await complains(caller, "not_configured"))["fix"]
            await caller.ws.send(bytes(640))
            await caller.tell("text", text="hello")
            await complains(caller, "not_configured")
            await caller.tell("session.configure", input_rate=16_001)
            assert "16000" in (await complains(caller, "bad_rate"))["fix"]
            await caller.tell("session.configure", output_rate=-1)
            await complains(caller, "bad_rate")
            await caller.tell("session.configure", input_rate="fast")
            await complains(caller, "bad_message")
            await caller.tell("session.configure", output="smell")
            await complains(caller, "bad_message")
            await caller.tell("session.configure")
            await caller.until("session.started")
            assert (await caller.turn())["text"] == REPLY
            assert len(caller.events("error")) == 6, "early audio is complained of once"

    asyncio.run(main())


def test_audio_right_behind_the_configuration_is_not_lost(server: LiveServer) -> None:
    async def main() -> None:
        async with server.caller(configure=False) as caller:
            await caller.tell("session.configure")
            await speak(caller)
            assert (await caller.until("reply.finished"))["text"] == REPLY
            assert caller.events("error") == []

    asyncio.run(main())


def test_who_never_says_what_they_want_is_sent_away(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rejoinder_adapters.websocket._CONFIGURE_S", 0.1)

    async def main() -> None:
        async with server.caller(configure=False) as caller:
            assert await caller.until_closed() == (1008, "not_configured")
            assert "0.1 seconds" in caller.events("error")[0]["message"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/ws/audio?agent=nobody", "unknown_agent"),
        ("/ws/audio?agent=broken", "unknown_stt_provider"),
        ("/ws/audio?agent=toolless", "unknown_tool"),
        ("/ws/audio?input_rate=12", "bad_rate"),
        ("/ws/audio?output_rate=loud", "bad_message"),
        ("/ws/audio?color=red", "bad_message"),
        ("/v1/sessions/ses_nowhere/ws?output=text", "unknown_session"),
    ],
)
def test_what_cannot_be_started_says_why_and_closes(broken_server: LiveServer, path: str, code: str) -> None:
    async def main() -> None:
        async with broken_server.caller(path, configure=False) as caller:
            assert await caller.until_closed() == (1008, code)
            (error,) = caller.events("error")
            assert error["code"] == code
            assert error["message"]
        async with broken_server.caller() as caller:
            assert (await caller.turn())["text"] == REPLY

    asyncio.run(main())


@pytest.fixture(scope="module")
def broken_server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tests.adapters.conftest import AGENT, running

    agents = {
        "broken": AGENT.model_copy(update={"stt": "nobody"}),
        "toolless": AGENT.model_copy(update={"tools": ("hammer",)}),
    }
    with running(tmp_path_factory.mktemp("broken") / "test.db", {}, agents=agents) as live:
        yield live


def test_a_defect_in_a_provider_is_told_without_its_traceback(
    broken_server: LiveServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(agent: Agent) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(broken_server.runtime, "services", fail)

    async def main() -> None:
        async with broken_server.caller(configure=False) as caller:
            await caller.tell("session.configure")
            assert await caller.until_closed() == (1011, "internal")
            assert "secret" not in json.dumps(caller.events("error"))

    asyncio.run(main())
    assert "ZeroDivisionError" in caplog.text


def test_a_full_server_says_so_and_takes_the_next_when_there_is_room(serve: Serve) -> None:
    server = serve(limits=Limits(sessions=1))

    async def main() -> None:
        async with server.caller() as first:
            async with server.caller(configure=False) as second:
                await second.tell("session.configure")
                assert await second.until_closed() == (1008, "full")
                assert second.events("error")[0]["retryable"]
            assert (await first.turn())["text"] == REPLY
            await first.tell("end")
            await first.until("session.ended")
        async with server.caller() as third:
            assert (await third.turn())["text"] == REPLY

    asyncio.run(main())


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://[", "http://127.0.0.1:1"])
def test_foreign_pages_may_not_connect(server: LiveServer, origin: str) -> None:
    with server.raw("/ws/audio", f"Origin: {origin}") as sock:
        answer = b""
        while chunk := sock.recv(4096):
            answer += chunk
    head, _, body = answer.decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 403 ")
    assert "application/problem+json" in head
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (403, "bad_origin")
    assert "allowed_origins" in problem["fix"]
    assert origin in problem["detail"]
    assert (problem["type"], problem["instance"]) == ("/docs/problems#bad_origin", "/ws/audio")


def test_own_and_listed_pages_may_connect(serve: Serve) -> None:
    server = serve(allowed_origins=("https://app.example",))
    for origin in (server.http, "https://app.example"):
        with server.raw("/ws/audio", f"Origin: {origin}") as sock:
            assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    "command",
    [
        {"type": "text", "text": "again"},
        {"type": "interrupt"},
    ],
    ids=lambda command: command["type"],
)
def test_a_flood_of_commands_is_refused_and_the_session_goes_on(server: LiveServer, command: dict[str, str]) -> None:
    async def main() -> None:
        async with server.caller(configure={"output": "text"}) as caller, server.caller() as other:
            flood = json.dumps(command).encode()
            frame = b"\x81" + bytes((0x80 | len(flood),)) + b"\0\0\0\0" + flood
            # One write: the server finds them all before its session gets to run.
            transport = caller.ws.transport
            assert transport is not None
            transport.write(frame * 2000)
            error = await caller.until("error")
            assert (error["code"], error["retryable"]) == ("too_fast", True)
            assert (await other.turn())["text"] == REPLY
            await caller.tell("ping", t=9)
            await caller.until("pong")
            await caller.tell("text", text="at last")
            await caller.until("turn.committed", text="at last")
            assert (await caller.until("reply.finished", reason="completed"))["text"] == REPLY

    asyncio.run(main())


def test_a_server_about_to_stop_takes_nobody_and_says_so(serve: Serve) -> None:
    server = serve()

    async def main() -> None:
        async with server.caller() as live:
            server.runtime.draining = True
            ready = await asyncio.to_thread(httpx.get, server.http + "/readyz")
            assert (ready.status_code, ready.json()["draining"]) == (503, True)
            async with server.caller(configure=False) as caller:
                await caller.tell("session.configure")
                assert await caller.until_closed() == (1008, "draining")
                assert caller.events("error")[0]["retryable"]
            assert (await live.turn())["text"] == REPLY

    asyncio.run(main())


def test_a_page_that_does_not_exist_is_refused(server: LiveServer) -> None:
    with server.raw("/ws/nothing") as sock:
        assert b" 101 " not in sock.recv(4096)
    assert httpx.get(server.http + "/livez").status_code == 200
