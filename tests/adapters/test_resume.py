"""A connection that is lost and comes back: what was missed, what was not heard, and who may take whose place."""

from __future__ import annotations

import asyncio
import json
from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest

from rejoinder import client as client_module
from rejoinder import dial
from rejoinder.audio import Rates
from rejoinder.client import Unreachable, VoiceClient
from rejoinder.errors import RejoinderError
from rejoinder.events import (
    Configure,
    End,
    Error,
    ReplyFinished,
    ReplyResumed,
    ServerEvent,
    SessionStarted,
    SpeechStarted,
    TurnCommitted,
    encode,
)
from rejoinder.providers import TtsDelta
from rejoinder.settings import Agent, Limits, TurnPolicy
from rejoinder.testing.scripted import ScriptedTts, noise, silence
from rejoinder_adapters.websocket import Connection

if TYPE_CHECKING:
    from tests.adapters.conftest import Caller, LiveServer, Serve

WORD_MS = 20
WORDS = 100
AGENT = Agent(vad="scripted", stt="scripted", llm="scripted", tts="scripted", tools=())
SCRIPT = {"reply": "word " * WORDS, "ms_per_word": WORD_MS}
RATE = 24_000


def ms_of(caller: Caller) -> float:
    return len(caller.audio()) * 1000 / (2 * RATE)


async def lose_in_the_middle(caller: Caller) -> dict[str, Any]:
    """Ask, hear about half a second, and fall off the network; what the client knows then."""
    started = caller.events("session.started")[0]
    await caller.tell("text", text="go on")
    reply = await caller.until("reply.started")
    while ms_of(caller) < 700:
        await caller.receive()
    # This client has played all but 200 ms of what it got.
    played = ms_of(caller) - 200
    await caller.tell("playback", reply_id=reply["reply_id"], played_ms=played)
    caller.ws.transport.abort()
    return {
        "session_id": started["session_id"],
        "resume_token": started["resume_token"],
        "last_seq": max(item["seq"] for item in caller.log if isinstance(item, dict)),
        "played_ms": played,
    }


def back(lost: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    fields = {name: lost[name] for name in ("resume_token", "last_seq", "played_ms")}
    return f"/v1/sessions/{lost['session_id']}/ws", fields


async def gone(server: LiveServer, session_id: str) -> None:
    """Until the server has noticed that nobody is there."""
    session = server.runtime.sessions[session_id]
    async with asyncio.timeout(5):
        while session._audience.links:  # noqa: ASYNC110 - in another thread
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("noticed", [True, False], ids=["after the server noticed", "before"])
def test_who_comes_back_gets_what_was_missed_once_and_the_rest_from_the_word_that_was_cut(
    serve: Serve, noticed: bool
) -> None:
    server = serve(SCRIPT)

    async def main() -> None:
        async with server.caller() as first:
            lost = await lose_in_the_middle(first)
        if noticed:
            await gone(server, lost["session_id"])
        path, fields = back(lost)
        async with server.caller(path, fields) as second:
            started = second.events("session.started")[0]
            assert started["resumed"] is True
            assert started["resume_token"] != lost["resume_token"]
            resumed = await second.until("reply.resumed")
            assert lost["played_ms"] - WORD_MS <= resumed["from_ms"] <= lost["played_ms"]
            finished = await second.until("reply.finished")
            assert (finished["reason"], len(finished["heard_text"].split())) == ("completed", WORDS)
            assert ms_of(second) == pytest.approx(WORDS * WORD_MS - resumed["from_ms"], abs=1)
            seqs = [item["seq"] for item in first.log + second.log[1:] if isinstance(item, dict)]
            assert seqs == list(range(1, len(seqs) + 1)), "every event once, in order"
            cleared = second.log.index(second.events("clear_audio")[0])
            again = second.log.index(resumed)
            assert not [item for item in second.log[cleared:again] if isinstance(item, bytes)]

    asyncio.run(main())


def test_the_session_ends_when_the_one_it_was_made_for_hangs_up_after_coming_back(serve: Serve) -> None:
    server = serve(SCRIPT)

    async def main() -> None:
        async with server.caller() as first:
            lost = await lose_in_the_middle(first)
        session = server.runtime.sessions[lost["session_id"]]
        path, fields = back(lost)
        async with server.caller(path, fields) as second:
            await second.until("reply.resumed")
        await asyncio.to_thread(server.call, asyncio.wait_for(session.wait(), 5))
        assert session.ended_reason == "client_left"

    asyncio.run(main())


def test_an_agent_may_rather_begin_anew(serve: Serve) -> None:
    agent = AGENT.model_copy(update={"turns": TurnPolicy(pause_ms=40, on_resume="fresh")})
    server = serve(SCRIPT, agents={"scripted": agent})

    async def main() -> None:
        async with server.caller() as first:
            lost = await lose_in_the_middle(first)
        await gone(server, lost["session_id"])
        path, fields = back(lost)
        async with server.caller(path, fields) as second:
            finished = await second.until("reply.finished")
            assert finished["reason"] == "interrupted"
            assert len(finished["heard_text"].split()) == pytest.approx(lost["played_ms"] / WORD_MS, abs=1)
            assert not second.audio()
            await second.turn()

    asyncio.run(main())


def test_a_token_of_somebody_else_is_refused_and_says_what_to_do(serve: Serve) -> None:
    server = serve(SCRIPT)

    async def main() -> None:
        async with server.caller() as first:
            session_id = first.events("session.started")[0]["session_id"]
            path = f"/v1/sessions/{session_id}/ws"
            async with server.caller(path, False) as other:
                await other.tell("session.configure", resume_token="guessed")
                error = await other.until("error")
                assert error["code"] == "bad_resume_token"
                assert (await other.until_closed())[0] == 1008
            async with server.caller("/ws/audio", False) as other:
                await other.tell("session.configure", resume_token="guessed")
                assert (await other.until("error"))["code"] == "bad_resume_token"
            await first.turn()

    asyncio.run(main())


def test_after_the_grace_period_the_session_is_over(serve: Serve) -> None:
    server = serve(SCRIPT, limits=Limits(idle_s=0.1))

    async def main() -> None:
        async with server.caller() as first:
            lost = await lose_in_the_middle(first)
        session = server.runtime.sessions[lost["session_id"]]
        await asyncio.to_thread(server.call, asyncio.wait_for(session.wait(), 5))
        path, fields = back(lost)
        async with server.caller(path, False) as second:
            await second.tell("session.configure", **fields)
            assert (await second.until("error"))["code"] == "session_over"

    asyncio.run(main())


def test_an_old_socket_that_still_hangs_is_displaced(serve: Serve) -> None:
    server = serve(SCRIPT)

    async def main() -> None:
        async with server.caller() as first:
            started = first.events("session.started")[0]
            path = f"/v1/sessions/{started['session_id']}/ws"
            async with server.caller(path, {"resume_token": started["resume_token"], "last_seq": 1}) as second:
                assert await first.until_closed() == (1000, "resumed_elsewhere")
                await second.turn()
                assert server.runtime.sessions

    asyncio.run(main())


def test_the_python_client_comes_back_by_itself_and_hears_everything(serve: Serve) -> None:
    server = serve(SCRIPT)

    async def main() -> None:
        events: list[ServerEvent] = []
        async with VoiceClient.connect(server.ws, on_event=events.append) as client:

            async def cut() -> None:
                while client.player.played_ms() < 600:  # noqa: ASYNC110 - a playhead tells nobody
                    await asyncio.sleep(0.01)
                assert client._socket is not None
                client._socket.transport.abort()

            cutting = asyncio.create_task(cut())
            result = await client.say_text("go on")
            await cutting
            assert (client.resumes, client.stale_frames) == (1, 0)
            assert len(result.heard_text.split()) == WORDS
            (resumed,) = [event for event in events if isinstance(event, ReplyResumed)]
            whole = WORDS * WORD_MS
            repeated = len(result.audio) * 1000 / (2 * RATE) - whole
            assert -1 <= repeated <= WORD_MS + 1, "no word is missing, and one at most comes twice"
            assert 550 <= resumed.from_ms <= 1000
            (finished,) = [event for event in events if isinstance(event, ReplyFinished)]
            assert not finished.estimated
            again = await client.say_text("and now?")
            assert again.reason == "completed"
        seqs = [event.seq for event in events if not getattr(event, "resumed", False)]
        assert seqs == list(range(1, len(seqs) + 1))

    asyncio.run(main())


def test_a_client_that_wants_no_coming_back_is_told_that_the_line_is_dead(serve: Serve) -> None:
    server = serve(SCRIPT)

    async def main() -> None:
        async with VoiceClient.connect(server.ws, resume=False) as client:
            assert client._socket is not None
            asyncio.get_running_loop().call_later(0.3, client._socket.transport.abort)
            with pytest.raises(Unreachable):
                await client.say_text("go on")

    asyncio.run(main())


def test_nothing_is_missing_between_what_was_played_before_and_what_comes_after(serve: Serve) -> None:
    server = serve(SCRIPT)
    spoken = array("H")

    def count(text: str) -> Iterable[TtsDelta]:
        """Audio in which each sample says where it is."""
        size = len(text.split()) * WORD_MS * RATE // 1000
        piece = array("H", ((len(spoken) + at) % 2**16 for at in range(size)))
        spoken.extend(piece)
        yield piece.tobytes()

    async def main() -> None:
        tts = cast(ScriptedTts, await asyncio.to_thread(server.call, server.runtime.provider("tts", "scripted")))
        tts.sample_rate, tts.script = RATE, count
        async with server.caller() as first:
            lost = await lose_in_the_middle(first)
        await gone(server, lost["session_id"])
        path, fields = back(lost)
        async with server.caller(path, fields) as second:
            resumed = await second.until("reply.resumed")
            await second.until("reply.finished", reason="completed")
        whole = spoken[: WORDS * WORD_MS * RATE // 1000].tobytes()
        before, after = first.audio(), second.audio()
        assert whole.startswith(before)
        assert whole.endswith(after)
        begins_ms = (len(whole) - len(after)) * 1000 / (2 * RATE)
        assert begins_ms == pytest.approx(resumed["from_ms"], abs=1)
        assert begins_ms <= lost["played_ms"], "no gap"
        assert begins_ms % WORD_MS == pytest.approx(0, abs=1), "from the beginning of a word"

    asyncio.run(main())


def test_the_url_can_ask_to_come_back(serve: Serve) -> None:
    server = serve(SCRIPT)

    async def main() -> None:
        async with server.caller() as first:
            lost = await lose_in_the_middle(first)
        await gone(server, lost["session_id"])
        path, fields = back(lost)
        query = "&".join(f"{name}={value}" for name, value in fields.items())
        async with server.caller(f"{path}?{query}", False) as second:
            assert (await second.until("session.started"))["resumed"]
            await second.until("reply.resumed")
            async with server.caller(f"{path}?resume_token=guessed&played_ms=nan", False) as other:
                assert await other.until_closed() == (1008, "bad_resume_token")

    asyncio.run(main())


def test_who_comes_back_is_heard_again(serve: Serve) -> None:
    server = serve(SCRIPT)

    async def speak(caller: Caller) -> None:
        pcm = noise(200) + silence(400)
        for start in range(0, len(pcm), 640):
            await caller.ws.send(pcm[start : start + 640])

    async def main() -> None:
        async with server.caller(configure={"output": "text"}) as first:
            await speak(first)
            await first.until("reply.finished")
            started = first.events("session.started")[0]
            last_seq = max(item["seq"] for item in first.log if isinstance(item, dict))
            first.ws.transport.abort()
        await gone(server, started["session_id"])
        back_again = {"resume_token": started["resume_token"], "last_seq": last_seq, "output": "text"}
        async with server.caller(f"/v1/sessions/{started['session_id']}/ws", back_again) as second:
            await speak(second)
            await second.until("user.transcript", final=True, text="tell me")
            await second.until("reply.finished")

    asyncio.run(main())


def test_the_reply_goes_on_for_who_is_still_there(serve: Serve) -> None:
    server = serve(SCRIPT)
    room = httpx.post(server.http + "/v1/rooms").json()
    path = f"/v1/sessions/{room['session_id']}/ws"

    async def main() -> None:
        async with server.caller(path) as first, server.caller(path) as other:
            lost = await lose_in_the_middle(first)
            await other.until("reply.started")
            while ms_of(other) < 1500:
                await other.receive()
            async with server.caller(path, back(lost)[1]) as second:
                finished = await second.until("reply.finished")
                assert not second.events("clear_audio") + second.events("reply.resumed")
                assert 0 < ms_of(second) < WORDS * WORD_MS - 1000
                seqs = [item["seq"] for item in first.log + second.log[1:] if isinstance(item, dict)]
                assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
                assert await other.until("reply.finished") == finished
                assert (finished["reason"], ms_of(other)) == ("completed", WORDS * WORD_MS)
                metrics = server.runtime.sessions[room["session_id"]].metrics
                assert metrics.resumes == 1
            # The session of a room is nobody's own: it does not end with who left.
            await other.turn()

    asyncio.run(main())


class Wire:
    """What a connection writes to, without a socket."""

    def __init__(self) -> None:
        self.texts: list[dict[str, Any]] = []

    def write_text(self, data: bytes) -> None:
        self.texts.append(json.loads(data))

    def write_binary(self, data: bytes) -> None:
        pass

    def buffered(self) -> int:
        return 0


def test_what_the_displaced_one_still_says_is_not_heard(serve: Serve) -> None:
    server = serve(SCRIPT)
    runtime = server.runtime

    async def displace() -> None:
        session = await runtime.start_session(None, Rates(16_000, RATE))
        wires = Wire(), Wire()
        old, new = (Connection(runtime, cast(Any, wire)) for wire in wires)
        old.join(session, Configure(), owner=True)
        while not wires[0].texts:  # noqa: ASYNC110 - a wire tells nobody
            await asyncio.sleep(0)
        old.on_binary(silence(20))
        new.join(session, Configure(resume_token=wires[0].texts[0]["resume_token"], last_seq=1), owner=False)
        assert (old.closed.result(), new.owner) == ("resumed_elsewhere", True)
        # What was on its way when it was displaced.
        old.on_binary(noise(20))
        old.on_text(encode(End()))
        new.on_binary(silence(20))
        assert session._speaker is new._link
        assert not session._inbox.closed
        told = wires[1].texts[0]
        assert (told["type"], told["resumed"]) == ("session.started", True)
        await asyncio.sleep(0)
        assert session.ended_reason is None
        await session.close("tested")

    server.call(displace())


class Network:
    """What lies between a client and its server; it can be cut, and `down` it takes no new connections."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.up = asyncio.Event()
        self.up.set()
        self.attempts = 0
        connect = dial.open_socket

        async def open_socket(url: str, timeout: float, credential: str | None) -> Any:
            self.attempts += 1
            if not self.up.is_set():
                raise Unreachable("The network is down.")
            return await connect(url, timeout, credential)

        monkeypatch.setattr(client_module, "open_socket", open_socket)

    def cut(self, client: VoiceClient) -> None:
        assert client._socket is not None
        client._socket.transport.abort()


def test_what_is_said_while_the_line_is_dead_is_said_afterwards(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve({**SCRIPT, "reply": "Back."})
    events: list[ServerEvent] = []
    lost: list[str] = []

    async def main() -> None:
        network = Network(monkeypatch)
        async with VoiceClient.connect(server.ws, on_event=events.append, on_lost=lost.append) as client:
            for turn in range(3):
                network.up.clear()
                network.cut(client)
                saying = asyncio.create_task(client.say_text(f"turn {turn}"))
                async with asyncio.timeout(10):
                    attempts = network.attempts
                    while network.attempts < attempts + 2:  # noqa: ASYNC110 - attempts are counted, not told
                        await asyncio.sleep(0.01)
                assert not saying.done()
                network.up.set()
                result = await saying
                assert (result.transcript, result.heard_text) == (f"turn {turn}", "Back.")
            assert (client.resumes, len(lost)) == (3, 3)
            assert "lost" in lost[0]

    asyncio.run(main())
    assert not [event for event in events if isinstance(event, Error)]
    assert [event.text for event in events if isinstance(event, TurnCommitted)] == ["turn 0", "turn 1", "turn 2"]
    seqs = [event.seq for event in events if not (isinstance(event, SessionStarted) and event.resumed)]
    assert seqs == list(range(1, len(seqs) + 1))


def test_a_recording_that_is_being_said_goes_on_where_the_line_broke(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve({**SCRIPT, "reply": "I see."})

    async def main() -> None:
        network = Network(monkeypatch)
        async with VoiceClient.connect(server.ws) as client:
            saying = asyncio.create_task(client.say_audio(noise(1200) + silence(200)))
            async with asyncio.timeout(10):
                async for event in client.events():
                    if isinstance(event, SpeechStarted):
                        break
                network.cut(client)
                result = await saying
            assert client.resumes == 1
            assert result.transcript.startswith("tell me")
            assert result.heard_text == "I see."

    asyncio.run(main())


def test_who_cannot_come_back_is_told_so(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(SCRIPT)
    monkeypatch.setattr(client_module, "RESUME_S", 0.5)

    async def main() -> None:
        network = Network(monkeypatch)
        async with VoiceClient.connect(server.ws) as client:

            async def read() -> list[ServerEvent]:
                return [event async for event in client.events()]

            reading = asyncio.create_task(read())
            await asyncio.sleep(0)
            network.up.clear()
            network.cut(client)
            async with asyncio.timeout(5):
                with pytest.raises(Unreachable, match="lost"):
                    await client.say_text("go on")
                assert await reading == [], "who reads events is not left waiting"
            assert 2 <= network.attempts <= 6, "with growing pauses"

    asyncio.run(main())


def test_whose_session_is_over_is_told_so(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(SCRIPT, limits=Limits(idle_s=0.1))

    async def main() -> None:
        network = Network(monkeypatch)
        async with VoiceClient.connect(server.ws) as client:
            assert client.session is not None
            session = server.runtime.sessions[client.session.session_id]
            network.up.clear()
            network.cut(client)
            await asyncio.to_thread(server.call, asyncio.wait_for(session.wait(), 5))
            network.up.set()
            with pytest.raises(RejoinderError) as caught:
                await client.say_text("are you there?")
            assert caught.value.code == "session_over"

    asyncio.run(main())


def test_closing_while_the_line_is_dead_is_quick_and_leaves_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(SCRIPT)

    async def main() -> None:
        network = Network(monkeypatch)
        before = asyncio.all_tasks()
        async with asyncio.timeout(2), VoiceClient.connect(server.ws) as client:
            network.up.clear()
            network.cut(client)
            while not client._away:  # noqa: ASYNC110 - as long as it takes the loop
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before

    asyncio.run(main())


class Proxy:
    """Carries bytes between clients and a server; frozen connections stay open and carry nothing any more."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._pumps: list[asyncio.Task[None]] = []
        self._writers: list[asyncio.StreamWriter] = []
        self.url = ""

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        self.freeze()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += (writer, back)
        self._pumps += (asyncio.create_task(_pump(reader, back)), asyncio.create_task(_pump(there, writer)))

    def freeze(self) -> None:
        """All that there are now."""
        for pump in self._pumps:
            pump.cancel()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65_536):
        sink.write(data)
    sink.close()


def test_a_line_that_dies_without_a_word_is_noticed(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(SCRIPT)
    for name in ("PING_S", "PONG_S", "CLOSE_S"):
        monkeypatch.setattr(dial, name, 0.2)

    async def main() -> None:
        async with Proxy(server.port) as proxy, VoiceClient.connect(proxy.url) as client:

            async def freeze() -> None:
                while client.player.played_ms() < 300:  # noqa: ASYNC110 - a playhead tells nobody
                    await asyncio.sleep(0.01)
                proxy.freeze()

            freezing = asyncio.create_task(freeze())
            result = await client.say_text("go on")
            await freezing
            assert client.resumes == 1
            assert (result.reason, len(result.heard_text.split())) == ("completed", WORDS)
            repeated = len(result.audio) * 1000 / (2 * RATE) - WORDS * WORD_MS
            assert -1 <= repeated <= WORD_MS + 1

    asyncio.run(main())
