"""The client and `rejoinder talk`, against a server that follows a script."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http import HTTPStatus
from itertools import pairwise
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from rejoinder import client as client_module
from rejoinder import dial
from rejoinder.audio import byte_count, duration_ms, read_wav, speech_end, write_wav
from rejoinder.cli import main
from rejoinder.client import NoReply, Unreachable, VoiceClient, session_url
from rejoinder.commands import devices
from rejoinder.commands.devices import Speaker, open_microphone
from rejoinder.dial import resume_url
from rejoinder.errors import ConfigError, RejoinderError
from rejoinder.events import (
    ClearAudio,
    ClientCommand,
    Configure,
    End,
    Error,
    Event,
    Interruption,
    OperatorHandedBack,
    OperatorTookOver,
    Playback,
    ReplyDucked,
    ReplyFinished,
    ReplyResumed,
    ReplyStarted,
    ReplyText,
    ServerEvent,
    SessionEnded,
    SessionStarted,
    Span,
    SpeechPaused,
    SpeechStarted,
    Text,
    Transcript,
    TurnCommitted,
    TurnMetrics,
    decode_command,
    encode,
)
from rejoinder.playhead import Player, Playhead

RATE = 24_000


class HungUp(Exception):
    """The client has ended the call."""


class FakeCall:
    """The server's end of one connection."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.commands: list[ClientCommand] = []
        self.audio = bytearray()
        self.heard_loud_at = 0.0
        self.audio_sent_at = 0.0

    async def say(self, *events: Event) -> None:
        for event in events:
            await self.socket.send(encode(event), text=True)

    async def play(self, pcm: bytes) -> None:
        self.audio_sent_at = self.audio_sent_at or time.monotonic()
        await self.socket.send(pcm)

    async def until(self, done: Callable[[ClientCommand | bytes], bool]) -> None:
        """Read what the client sends up to the first message that is `done`; an `end` ends the script."""
        async for message in self.socket:
            item: ClientCommand | bytes
            if isinstance(message, bytes):
                item = message
                self.audio += message
                if any(message):
                    self.heard_loud_at = time.monotonic()
            else:
                item = decode_command(message)
                self.commands.append(item)
                if isinstance(item, End):
                    await self.say(SessionEnded(reason="client_ended"))
                    raise HungUp
            if done(item):
                return

    async def until_played(self, reply_id: str, ms: float) -> None:
        await self.until(lambda item: isinstance(item, Playback) and item.reply_id == reply_id and item.played_ms >= ms)

    async def until_speech_ended(self, silent_frames: int = 5) -> None:
        silent = -math.inf

        def ended(item: ClientCommand | bytes) -> bool:
            nonlocal silent
            if isinstance(item, bytes):
                silent = 0 if any(item) else silent + 1
            return silent >= silent_frames

        await self.until(ended)

    async def until_end(self) -> None:
        await self.until(lambda item: False)

    def reported(self, reply_id: str) -> list[float]:
        return [c.played_ms for c in self.commands if isinstance(c, Playback) and c.reply_id == reply_id]


Script = Callable[[FakeCall], Awaitable[None]]


@contextmanager
def server(
    script: Script, process_request: Callable[[ServerConnection, Request], Response] | None = None
) -> Iterator[tuple[str, list[FakeCall]]]:
    """A server in a thread; its URL, and the calls it has had."""
    loop = asyncio.new_event_loop()
    calls: list[FakeCall] = []
    ready: list[int] = []
    started = threading.Event()
    stop = asyncio.Event()

    async def handle(socket: ServerConnection) -> None:
        call = FakeCall(socket)
        calls.append(call)
        await call.until(lambda item: isinstance(item, Configure))
        with suppress(HungUp):
            await script(call)

    async def run() -> None:
        async with serve(
            handle,
            "127.0.0.1",
            0,
            subprotocols=[Subprotocol("rejoinder.v1")],
            compression=None,
            process_request=process_request,
        ) as listening:
            ready.append(next(iter(listening.sockets)).getsockname()[1])
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    started.wait()
    try:
        yield f"ws://127.0.0.1:{ready[0]}", calls
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


STARTED = SessionStarted(seq=1, session_id="ses_1", agent="fake", input_rate=16_000, output_rate=RATE)


def metrics(reply_id: str) -> TurnMetrics:
    spans = [Span(name="endpointing", us=320_000), Span(name="stt", us=0, hidden=True), Span(name="tts", us=35_400)]
    return TurnMetrics(turn_id="t1", reply_id=reply_id, response_us=355_400, spans=spans)


async def answer(call: FakeCall, number: int, text: str, ms: int = 200) -> None:
    """A whole spoken answer; over when the client says that it has played all of it."""
    reply, turn = f"r{number}", f"t{number}"
    await call.say(
        TurnCommitted(turn_id=turn, text=f"question {number}"),
        ReplyStarted(reply_id=reply, turn_id=turn),
        ReplyText(reply_id=reply, delta=text[:4]),
        ReplyText(reply_id=reply, delta=text[4:]),
    )
    for _ in range(ms // 20):
        await call.play(b"\x01\x02" * (byte_count(20, RATE) // 2))
    await call.say(metrics(reply))
    await call.until_played(reply, ms)
    await call.say(
        ReplyFinished(reply_id=reply, turn_id=turn, reason="completed", text=text, heard_text=text, played_ms=ms)
    )


async def polite(call: FakeCall) -> None:
    """Answers two utterances or texts."""
    await call.say(STARTED)
    configure = call.commands[0]
    for number in (1, 2):
        if isinstance(configure, Configure) and configure.output == "audio":
            await call.until_speech_ended()
            await call.say(
                SpeechStarted(turn_id=f"t{number}"),
                SpeechPaused(turn_id=f"t{number}"),
                Transcript(turn_id=f"t{number}", text=f"question {number}", final=True),
            )
            await answer(call, number, "An answer.")
    await call.until_end()


def speech(ms: int, silence_ms: int, rate: int = 16_000) -> bytes:
    wave = [int(9000 * math.sin(2 * math.pi * 200 * i / rate)) for i in range(ms * rate // 1000)]
    return b"".join(s.to_bytes(2, "little", signed=True) for s in wave) + bytes(byte_count(silence_ms, rate))


def run_cli(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert isinstance(ended.value.code, int)
    return ended.value.code


# --- pieces ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("ws://127.0.0.1:8080", "ws://127.0.0.1:8080/ws/audio"),
        ("http://host:1/", "ws://host:1/ws/audio"),
        ("https://host/v1/sessions/ses_1/ws?token=a", "wss://host/v1/sessions/ses_1/ws?token=a"),
        ("localhost:8080", "ws://localhost:8080/ws/audio"),
    ],
)
def test_a_url_is_completed(given: str, meant: str) -> None:
    assert session_url(given) == meant


@pytest.mark.parametrize("given", ["ftp://host", "ws://", "http:///path"])
def test_an_impossible_url_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="not the URL"):
        session_url(given)


def test_the_end_of_speech_is_found_before_trailing_silence_noise_and_clicks() -> None:
    loud = speech(500, 0)
    assert speech_end(loud + bytes(32_000), 16_000) == len(loud)
    assert speech_end(loud + b"\x03\x00" * 16_000, 16_000) == len(loud)
    assert speech_end(loud + bytes(6400) + speech(30, 200), 16_000) == len(loud)  # a click
    assert speech_end(loud + bytes(1600) + speech(100, 200), 16_000) == len(loud) + 1600 + 3200
    assert speech_end(bytes(3200), 16_000) == 3200


def test_a_playhead_waits_when_it_runs_dry() -> None:
    now = 10.0
    playhead = Playhead(RATE, lambda: now)
    playhead.begin()
    playhead.feed(bytes(byte_count(100, RATE)))
    now = 10.04
    assert playhead.played_ms() == pytest.approx(40)
    now = 10.5
    assert playhead.played_ms() == pytest.approx(100)
    assert playhead.remaining_s() == 0
    playhead.feed(bytes(byte_count(100, RATE)))
    now = 10.53
    assert playhead.played_ms() == pytest.approx(130)
    playhead.clear()
    now = 11.0
    assert playhead.played_ms() == pytest.approx(130)
    assert playhead.received_ms() == pytest.approx(130)


def test_what_is_left_of_a_reply_does_not_count_as_heard_of_the_next() -> None:
    now = 10.0
    speaker = Speaker(RATE)
    device = speaker.stream()
    next(device)
    second = bytes(byte_count(1000, RATE))

    def play(ms: int) -> None:
        nonlocal now
        now += ms / 1000
        device.send(RATE * ms // 1000)

    players: tuple[Player, Player] = (speaker, Playhead(RATE, lambda: now))

    def both(read: Callable[[Player], float]) -> float:
        first, other = map(read, players)
        assert first == pytest.approx(other)
        return first

    for player in players:
        player.begin()
        player.feed(second)
    play(400)
    assert both(lambda player: player.played_ms()) == pytest.approx(400)
    for player in players:
        player.begin()
    play(100)
    assert both(lambda player: player.played_ms()) == 0
    for player in players:
        player.feed(second)
    assert both(lambda player: player.received_ms()) == pytest.approx(1000)
    play(500)
    assert both(lambda player: player.played_ms()) == pytest.approx(0)
    play(300)
    assert both(lambda player: player.played_ms()) == pytest.approx(300)
    for player in players:
        player.clear()
    assert both(lambda player: player.received_ms()) == pytest.approx(300)


def test_the_microphone_keeps_the_newest_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        def start(self, capture: Generator[None, bytes, None]) -> None:
            self.capture = capture

        def close(self) -> None:
            self.capture.send(b"late")

    device = Device()
    monkeypatch.setattr(devices, "_capture_device", lambda rate: device)

    async def script() -> list[bytes]:
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        async with open_microphone(16_000) as microphone:
            for number in range(devices.WAITING_FRAMES + 3):
                device.capture.send(bytes([number]))
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not complaints
        return [pcm async for pcm in microphone]

    assert asyncio.run(script()) == [bytes([number]) for number in range(3, devices.WAITING_FRAMES + 3)]


# --- the client -----------------------------------------------------------------------------------------------


def test_a_spoken_turn_is_timed_from_its_last_speech(tmp_path: Path) -> None:
    wav = tmp_path / "q.wav"
    write_wav(wav, speech(200, 400), 16_000)

    async def script(url: str) -> None:
        async with VoiceClient.connect(url, agent="fake") as client:
            result = await client.say_wav(wav)
        assert result.transcript == "question 1"
        assert result.reply_text == result.heard_text == "An answer."
        assert result.reason == "completed"
        assert duration_ms(result.audio, RATE) == 200
        assert result.metrics is not None
        assert result.metrics.response_us == 355_400
        assert isinstance(result.events[-1], ReplyFinished)
        # The client's interval includes the server's; taking the file's end for the speech's would make it shorter.
        served_ms = (calls[0].audio_sent_at - calls[0].heard_loud_at) * 1000
        assert result.first_audio_ms is not None
        assert result.first_audio_ms >= served_ms > 0
        assert client.ended == SessionEnded(reason="client_ended")

    with server(polite) as (url, calls):
        asyncio.run(script(url))
    first = calls[0].commands[0]
    assert first == Configure(agent="fake", input_rate=16_000, output_rate=RATE, output="audio")
    assert calls[0].socket.subprotocol == "rejoinder.v1"
    reports = calls[0].reported("r1")
    assert reports == sorted(reports)
    assert reports[-1] == pytest.approx(200)
    assert isinstance(calls[0].commands[-1], End)
    assert len(calls[0].audio) % 640 == 0


def test_clear_audio_drops_what_is_buffered_and_everything_until_the_next_reply() -> None:
    frame = b"\x07\x07" * (byte_count(20, RATE) // 2)

    async def interrupted(call: FakeCall) -> None:
        await call.say(STARTED)
        await call.until(lambda item: isinstance(item, Text))
        await call.say(ReplyStarted(reply_id="r1", turn_id="t1"))
        await call.play(frame * 250)
        await call.until_played("r1", 100)
        await call.say(ClearAudio(reply_id="r1", played_ms=100))
        await call.play(frame)
        cut = ReplyFinished(reply_id="r1", turn_id="t1", reason="interrupted", text="long", heard_text="lo")
        await call.say(cut)
        await answer(call, 2, "Now this.")
        await call.until_end()

    async def script(url: str) -> None:
        async with VoiceClient.connect(url) as client:
            result = await client.say_text("hello")
            assert client.stale_frames == 1
        assert (result.reply_text, result.reason) == ("Now this.", "completed")
        assert duration_ms(result.audio, RATE) == 200
        assert b"\x07" not in result.audio

    with server(interrupted) as (url, calls):
        asyncio.run(script(url))
    assert 100 <= calls[0].reported("r1")[-1] < 5000
    assert calls[0].reported("r2")[-1] == pytest.approx(200)


def test_a_greeting_is_waited_for_and_is_not_the_answer() -> None:
    async def greeting(call: FakeCall) -> None:
        await call.say(STARTED)
        await answer(call, 0, "Welcome.", ms=60)
        await call.until(lambda item: isinstance(item, Text))
        await answer(call, 1, "The answer.", ms=20)
        await call.until_end()

    async def script(url: str) -> None:
        async with VoiceClient.connect(url) as client:
            await client.wait_greeting(grace=5)
            assert (await client.say_text("hello")).reply_text == "The answer."

    with server(greeting) as (url, calls):
        asyncio.run(script(url))
    assert calls[0].reported("r0")[-1] == pytest.approx(60)


def test_events_can_be_followed_until_the_session_ends() -> None:
    async def script(url: str) -> list[str]:
        async with VoiceClient.connect(url) as client:

            async def follow() -> list[str]:
                return [type(event).__name__ async for event in client.events()]

            following = asyncio.create_task(follow())
            await client.say_text("hello")
        return await following

    async def short(call: FakeCall) -> None:
        await call.say(STARTED)
        await call.until(lambda item: isinstance(item, Text))
        await call.socket.send('{"type": "from.the.future", "seq": 9}')
        await answer(call, 1, "Yes.", ms=20)
        await call.until_end()

    with server(short) as (url, _):
        names = asyncio.run(script(url))
    assert names[0] == "TurnCommitted"
    assert names[-1] == "SessionEnded"


def test_a_server_that_never_answers_is_given_up_with_its_last_error() -> None:
    async def dumb(call: FakeCall) -> None:
        await call.say(STARTED, Error(code="provider_failed", message="stt: broken"))
        await call.until_end()

    async def script(url: str) -> None:
        async with VoiceClient.connect(url) as client:
            with pytest.raises(NoReply, match="stt: broken"):
                await client.say_text("hello", timeout=0.05)

    with server(dumb) as (url, _):
        asyncio.run(script(url))


def test_a_refused_session_says_why() -> None:
    async def refuse(call: FakeCall) -> None:
        await call.say(Error(code="unknown_agent", message="There is no agent 'x'.", fix="Define it."))

    async def script(url: str) -> None:
        with pytest.raises(RejoinderError, match="no agent 'x'") as refused:
            async with VoiceClient.connect(url, agent="x"):
                pass
        assert (refused.value.code, refused.value.fix) == ("unknown_agent", "Define it.")

    with server(refuse) as (url, _):
        asyncio.run(script(url))


def test_a_lost_connection_ends_the_turn() -> None:
    async def vanish(call: FakeCall) -> None:
        await call.say(STARTED)
        await call.until(lambda item: isinstance(item, Text))
        call.socket.transport.abort()

    async def script(url: str) -> None:
        async with VoiceClient.connect(url) as client:
            with pytest.raises(Unreachable):
                await client.say_text("hello")

    with server(vanish) as (url, _):
        asyncio.run(script(url))


@asynccontextmanager
async def stuck_server() -> AsyncIterator[str]:
    """A server that starts a session and then reads no more."""
    over = asyncio.Event()

    async def handle(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(encode(STARTED), text=True)
        socket.transport.pause_reading()
        await over.wait()
        socket.transport.abort()

    async with serve(handle, "127.0.0.1", 0, subprotocols=["rejoinder.v1"], ping_interval=None) as listening:  # type: ignore[list-item]
        try:
            yield f"ws://127.0.0.1:{next(iter(listening.sockets)).getsockname()[1]}"
        finally:
            over.set()


@pytest.mark.parametrize("waiting_bytes", [0, 2**25])
def test_closing_does_not_wait_for_a_server_that_reads_no_more(
    monkeypatch: pytest.MonkeyPatch, waiting_bytes: int
) -> None:
    monkeypatch.setattr(client_module, "GOODBYE_S", 0.05)
    opened: list[ClientConnection] = []
    connect = dial.open_socket

    async def open_socket(url: str, timeout: float, credential: str | None) -> ClientConnection:
        opened.append(await connect(url, timeout, credential))
        return opened[0]

    monkeypatch.setattr(client_module, "open_socket", open_socket)

    async def script() -> None:
        async with stuck_server() as url, asyncio.timeout(8), VoiceClient.connect(url) as client:
            sending = asyncio.create_task(client.send_audio(bytes(waiting_bytes)))
            await asyncio.sleep(0)
            await client.close()
            await asyncio.gather(sending, return_exceptions=True)
            assert opened[0].transport.is_closing()
            assert opened[0].connection_lost_waiter.done()
            await asyncio.sleep(0)
            assert not [task for task in asyncio.all_tasks() if "keepalive" in repr(task.get_coro())]

    asyncio.run(script())


class OwnBug(Exception):
    pass


def raise_on(kind: type[ServerEvent]) -> Callable[[ServerEvent], None]:
    def on_event(event: ServerEvent) -> None:
        if isinstance(event, kind):
            raise OwnBug("mine")

    return on_event


async def one_text(call: FakeCall) -> None:
    await call.say(STARTED)
    await call.until(lambda item: isinstance(item, Text))
    await answer(call, 1, "Yes.", ms=20)
    await call.until_end()


@pytest.mark.parametrize("kind", [SessionStarted, ReplyText, TurnMetrics, ReplyFinished, SessionEnded])
def test_what_the_callback_raises_is_raised_to_the_caller(kind: type[ServerEvent]) -> None:
    async def script(url: str) -> None:
        with pytest.raises(OwnBug):
            async with VoiceClient.connect(url, on_event=raise_on(kind)) as client:
                await client.say_text("hello")

    with server(one_text) as (url, _):
        asyncio.run(script(url))


def test_what_the_callback_raised_is_told_to_who_sends_and_once_to_who_goes_on() -> None:
    async def script(url: str) -> None:
        async with VoiceClient.connect(url, on_event=raise_on(TurnCommitted)) as client:
            with pytest.raises(OwnBug):
                await client.say_text("hello")
            with pytest.raises(OwnBug):
                await client.send_audio(bytes(640))
            with pytest.raises(OwnBug):
                await client.say_text("again")

    with server(one_text) as (url, _):
        asyncio.run(script(url))


def test_a_recording_may_be_longer_than_an_answer_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "TURN_LIMIT_S", 0)
    said = speech(300, 0)

    async def listen(call: FakeCall) -> None:
        await call.say(STARTED)
        await call.until(lambda item: isinstance(item, bytes) and any(item))
        await call.say(SpeechStarted(turn_id="t1"))
        await call.until_end()

    async def script(url: str) -> None:
        async with VoiceClient.connect(url) as client:
            with pytest.raises(NoReply):
                await client.say_audio(said)

    with server(listen) as (url, calls):
        asyncio.run(script(url))
    assert bytes(calls[0].audio).startswith(said)


# --- interruptions and lost lines -----------------------------------------------------------------------------


class Loudness(Playhead):
    """Notes how loud it was told to play."""

    def __init__(self) -> None:
        super().__init__(RATE)
        self.gains: list[float] = []

    def duck(self, gain: float) -> None:
        self.gains.append(gain)


def test_a_reply_is_ducked_held_and_goes_on() -> None:
    async def interrupted(call: FakeCall) -> None:
        await call.say(STARTED)
        await call.until(lambda item: isinstance(item, Text))
        await call.say(TurnCommitted(turn_id="t1", text="hi"), ReplyStarted(reply_id="r1", turn_id="t1"))
        await call.play(b"\x01\x01" * (RATE // 2))
        await call.say(ReplyDucked(reply_id="r1"))
        await call.until_played("r1", 20)
        await call.say(ClearAudio(reply_id="r1", played_ms=50))
        await call.play(b"\x09\x09" * 240)
        # Where it stopped is told at once, and no more than was played.
        await call.until(lambda item: isinstance(item, Playback))
        stopped = call.reported("r1")[-1]
        await call.say(
            Interruption(turn_id="t2", reply_id="r1", accepted=False, cause="noise", speech_ms=200),
            ReplyResumed(reply_id="r1", from_ms=round(stopped)),
        )
        await call.play(b"\x02\x02" * (RATE // 10))
        await call.until_played("r1", stopped + 98)
        stops.append(stopped)
        await call.say(
            ReplyDucked(reply_id="r1"),
            ReplyResumed(reply_id="r1", from_ms=round(stopped) + 100),
            ReplyFinished(reply_id="r1", turn_id="t1", reason="completed", text="Yes.", heard_text="Yes."),
            metrics("r1"),
        )
        await call.until_end()

    player = Loudness()
    stops: list[float] = []

    async def script(url: str) -> None:
        async with VoiceClient.connect(url, player=player) as client:
            result = await client.say_text("hi")
            assert client.stale_frames == 1, "what comes between clear_audio and reply.resumed"
        first = result.audio.count(b"\x01\x01")
        assert first * 1000 / RATE == pytest.approx(stops[0], abs=1)
        assert result.audio == b"\x01\x01" * first + b"\x02\x02" * (RATE // 10), "what was really played"

    with server(interrupted) as (url, _):
        asyncio.run(script(url))
    assert player.gains == [1.0, client_module.DUCKED, 1.0, 1.0, client_module.DUCKED, 1.0]


def test_a_speaker_grows_quiet_and_loud_again_without_a_jump() -> None:
    speaker = Speaker(RATE)
    device = speaker.stream()
    next(device)
    speaker.begin()
    speaker.feed((8000).to_bytes(2, "little") * 2400)

    def block() -> list[int]:
        return list(memoryview(device.send(480)).cast("h"))

    assert block() == [8000] * 480
    speaker.duck(0.25)
    falling = block()
    assert (falling[0], falling[-1]) == (8000, 2000)
    assert max(before - after for before, after in pairwise(falling)) < 20
    assert block() == [2000] * 480
    assert speaker.played_ms() == pytest.approx(60), "quiet or not, it was played"
    speaker.duck(1.0)
    rising = block()
    assert (rising[0], rising[-1]) == (2000, 8000)
    assert block() == [8000] * 480
    assert block() == [0] * 480


RESUMABLE = SessionStarted(
    seq=1, session_id="ses_1", agent="fake", input_rate=16_000, output_rate=RATE, resume_token="first"
)


def shaky() -> Script:
    """A server whose line breaks in the middle of the answer, and once more before the client is back."""
    attempts: list[Configure] = []

    async def script(call: FakeCall) -> None:
        configure = call.commands[0]
        assert isinstance(configure, Configure)
        attempts.append(configure)
        if len(attempts) == 1:
            await call.say(RESUMABLE)
            await call.until(lambda item: isinstance(item, Text))
            await call.say(
                TurnCommitted(seq=2, turn_id="t1", text="hi"),
                ReplyStarted(seq=3, reply_id="r1", turn_id="t1"),
                ReplyText(seq=4, reply_id="r1", delta="An answer."),
                Error(code="slow", message="The LLM is slow."),
            )
            await call.play(b"\x01\x01" * (RATE // 2))
            await call.until_played("r1", 40)
            call.socket.transport.abort()
        elif len(attempts) == 2:
            call.socket.transport.abort()
        else:
            assert (configure.resume_token, configure.last_seq) == ("first", 4)
            assert configure.played_ms is not None
            assert attempts[1] == configure, "what was not played when the line broke is not played later either"
            assert 40 <= configure.played_ms < 450
            played = round(configure.played_ms)
            await call.say(
                msgspec.structs.replace(RESUMABLE, seq=7, resume_token="second", resumed=True),
                ClearAudio(seq=5, reply_id="r1", played_ms=played),
                OVERHEARD,
                ReplyResumed(seq=7, reply_id="r1", from_ms=played),
            )
            await call.play(b"\x02\x02" * (RATE // 10))
            await call.until_played("r1", played + 98)
            text = "An answer."
            await call.say(
                ReplyFinished(seq=8, reply_id="r1", turn_id="t1", reason="completed", text=text, heard_text=text),
                msgspec.structs.replace(metrics("r1"), seq=9),
            )
            await call.until_end()

    return script


OVERHEARD = Interruption(
    seq=6, turn_id="t2", reply_id="r1", accepted=False, cause="backchannel", speech_ms=90, text="mm-hm"
)


def test_a_line_that_breaks_twice_costs_no_event_and_no_audio() -> None:
    events: list[ServerEvent] = []
    lost: list[str] = []

    async def script(url: str) -> None:
        async with VoiceClient.connect(url, on_event=events.append, on_lost=lost.append) as client:
            result = await client.say_text("hi")
            assert (client.resumes, client.stale_frames, len(lost)) == (1, 0, 1)
        (_, _, last) = calls
        configure = last.commands[0]
        assert isinstance(configure, Configure)
        assert configure.played_ms is not None
        first = result.audio.count(b"\x01\x01")
        assert first * 1000 / RATE == pytest.approx(configure.played_ms, abs=1)
        assert result.audio == b"\x01\x01" * first + b"\x02\x02" * (RATE // 10)
        assert result.heard_text == "An answer."
        assert [call.socket.request.path for call in calls if call.socket.request] == [
            "/ws/audio",
            "/v1/sessions/ses_1/ws",
            "/v1/sessions/ses_1/ws",
        ]

    with server(shaky()) as (url, calls):
        asyncio.run(script(url))
    assert [event.seq for event in events if not isinstance(event, Error | SessionEnded)] == [
        1, 2, 3, 4, 7, 5, 6, 7, 8, 9,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("url", "back"),
    [
        ("ws://host:1/ws/audio", "ws://host:1/v1/sessions/ses_1/ws"),
        ("wss://host/voice/ws/audio?agent=guide", "wss://host/voice/v1/sessions/ses_1/ws"),
        ("ws://host/v1/sessions/ses_1/ws?output_rate=8000", "ws://host/v1/sessions/ses_1/ws"),
    ],
)
def test_a_client_comes_back_to_its_session(url: str, back: str) -> None:
    assert resume_url(url, "ses_1") == back


def test_talk_tells_of_lost_lines_and_of_what_was_no_interruption(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "reply.wav"
    with server(shaky()) as (url, _):
        assert run_cli("talk", "--url", url, "--text", "hi", "--out", str(out)) == 0
    printed = capsys.readouterr()
    assert "  [not interrupted: backchannel ('mm-hm')]\n" in printed.out
    lost = printed.err.index("The connection was lost")
    assert "Trying to come back ..." in printed.err[lost:]
    assert printed.err.index("The connection is back.") > lost


# --- the command ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["handed_back", "lost"])
def test_talk_says_who_speaks_instead_of_the_agent(
    reason: Literal["handed_back", "lost"], capsys: pytest.CaptureFixture[str]
) -> None:
    def reply(number: int, text: str) -> tuple[ServerEvent, ...]:
        reply_id, turn_id = f"r{number}", f"t{number}"
        return (
            ReplyStarted(reply_id=reply_id, turn_id=turn_id),
            ReplyFinished(reply_id=reply_id, turn_id=turn_id, reason="completed", text=text, heard_text=text),
        )

    async def taken_over(call: FakeCall) -> None:
        await call.say(STARTED, OperatorTookOver(operator="Grace"))
        for number in (1, 2, 3):
            await call.until(lambda item: isinstance(item, Text))
            if number == 3:
                await call.say(OperatorHandedBack(operator="Grace", reason=reason))
            await call.say(TurnCommitted(turn_id=f"t{number}", text="hello?"))
            if number != 2:
                # The second one is not answered by anybody; the client does not wait for that.
                await call.say(*reply(number, "Yes?"), metrics(f"r{number}"))
        await call.until_end()

    texts = [argument for text in ("one", "two", "three") for argument in ("--text", text)]
    with server(taken_over) as (url, _):
        assert run_cli("talk", "--url", url, *texts, "--timeout", "5") == 0
    printed = capsys.readouterr()
    assert "Grace has taken over from the agent.\n" in printed.err
    back = "Grace has handed back: the agent" if reason == "handed_back" else "Grace is gone, and the agent"
    assert f"{back} answers again.\n" in printed.err


def test_talk_speaks_files_and_writes_the_reply(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wav, out = tmp_path / "q.wav", tmp_path / "reply.wav"
    write_wav(wav, speech(100, 100), 16_000)
    with server(polite) as (url, _):
        assert run_cli("talk", "--url", url, "--wav", str(wav), "--wav", str(wav), "--out", str(out)) == 0
    printed = capsys.readouterr().out
    assert "you: question 1\nagent: An answer.\n  endpointing 320 · stt 0* · tts 35 ─ 355 ms (heard after " in printed
    assert "you: question 2" in printed
    table = [line.split() for line in printed.splitlines()[-6:]]
    assert table[0] == ["ms", "p50", "p95", "max", "n"]
    assert ["response", "355", "-", "355", "2"] in table
    pcm, rate = read_wav(out)
    assert duration_ms(pcm, rate) == 400


def test_talk_prints_nothing_but_events_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wav = tmp_path / "q.wav"
    write_wav(wav, speech(100, 100), 16_000)
    with server(polite) as (url, _):
        assert run_cli("talk", "--url", url, "--json", "--wav", str(wav)) == 0
    types = [json.loads(line)["type"] for line in capsys.readouterr().out.splitlines()]
    assert types[0] == "session.started"
    assert "turn.metrics" in types
    assert types[-1] == "session.ended"


def test_talk_by_text_asks_for_no_audio_and_shows_errors_with_their_fix(capsys: pytest.CaptureFixture[str]) -> None:
    async def by_text(call: FakeCall) -> None:
        await call.say(STARTED, Error(code="slow", message="The LLM is slow.", fix="Take a smaller one."))
        await call.until(lambda item: isinstance(item, Text))
        await call.say(
            ReplyStarted(reply_id="r1", turn_id="t1"),
            ReplyText(reply_id="r1", delta="Hello."),
            ReplyFinished(reply_id="r1", turn_id="t1", reason="completed", text="Hello.", heard_text="Hello."),
        )
        await call.until_end()

    with server(by_text) as (url, calls):
        assert run_cli("talk", "--url", url, "--text", "hi") == 0
    printed = capsys.readouterr()
    assert printed.out == "agent: Hello.\n"
    assert "error: The LLM is slow. Fix: Take a smaller one. [slow]" in printed.err
    assert calls[0].commands[:2] == [Configure(output="text"), Text(text="hi")]


@pytest.mark.parametrize("options", [("--json",), ()])
def test_talk_ends_quietly_when_nobody_reads_on(options: tuple[str, ...]) -> None:
    with server(one_text) as (url, calls):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-c", "from rejoinder.cli import main; main()", "talk", "--url", url]
        try:
            ended = subprocess.run(
                [*command, "--text", "hi", *options], stdout=writer, stderr=subprocess.PIPE, timeout=60
            )
        finally:
            os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert calls


def test_talk_without_a_server_exits_5(capsys: pytest.CaptureFixture[str], unused_port: int) -> None:
    assert run_cli("talk", "--url", f"127.0.0.1:{unused_port}", "--text", "hi") == 5
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Fix: rejoinder serve [unreachable]" in printed.err


def test_talk_without_an_answer_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    async def dumb(call: FakeCall) -> None:
        await call.say(STARTED)
        await call.until_end()

    with server(dumb) as (url, _):
        assert run_cli("talk", "--url", url, "--text", "hi", "--timeout", "0.05") == 1
    assert "[no_reply]" in capsys.readouterr().err


def test_talk_refuses_a_file_that_is_no_wav(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "notes.wav"
    text.write_text("these are no samples")
    assert run_cli("talk", "--wav", str(text)) == 3
    assert "is not a PCM WAV file" in capsys.readouterr().err


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- rooms, keys and errors of the command --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "meant", "token"),
    [
        ("http://host/talk#session=ses_1&token=a.b-c", "ws://host/v1/sessions/ses_1/ws", "a.b-c"),
        ("https://host:1/voice/talk#token=t&session=ses_1", "wss://host:1/voice/v1/sessions/ses_1/ws", "t"),
        ("http://host/talk#session=a%2Fb", "ws://host/v1/sessions/a%2Fb/ws", None),
        ("ws://host/v1/sessions/ses_1/ws#token=t", "ws://host/v1/sessions/ses_1/ws", None),
        ("ws://host/talk", "ws://host/talk", None),
    ],
)
def test_the_link_to_a_rooms_page_names_its_session_and_token(given: str, meant: str, token: str | None) -> None:
    assert session_url(given) == meant
    assert dial.page_token(given) == token


def test_a_link_without_its_session_is_refused() -> None:
    with pytest.raises(ConfigError, match="names no session"):
        session_url("https://host/talk")


@pytest.mark.parametrize(
    ("path", "options", "shown"),
    [
        ("", ("--key", "rk_given"), "rk_given"),
        ("", (), "rk_variable"),
        ("/talk#session=ses_1&token=invited", (), "invited"),
        ("/talk#session=ses_1&token=invited", ("--key", "rk_given"), "rk_given"),
    ],
)
def test_talk_shows_the_key_it_is_given(
    monkeypatch: pytest.MonkeyPatch, path: str, options: tuple[str, ...], shown: str
) -> None:
    monkeypatch.setenv("REJOINDER_API_KEY", "rk_variable")
    with server(one_text) as (url, calls):
        assert run_cli("talk", "--url", url.replace("ws:", "http:") + path, "--text", "hi", *options) == 0
    request = calls[0].socket.request
    assert request is not None
    assert request.headers["Authorization"] == f"Bearer {shown}"
    assert request.path == ("/v1/sessions/ses_1/ws" if path else "/ws/audio")


@pytest.mark.parametrize(("path", "ends"), [("/v1/sessions/ses_1/ws", False), ("/ws/audio", True)])
def test_who_joined_a_session_leaves_it_and_who_has_one_ends_it(path: str, ends: bool) -> None:
    with server(one_text) as (url, calls):
        assert run_cli("talk", "--url", url + path, "--text", "hi") == 0
    assert any(isinstance(command, End) for command in calls[0].commands) is ends
    assert calls[0].socket.close_code == 1000


@pytest.mark.parametrize("code", ["unknown_agent", "session_over"])
def test_an_error_that_ends_the_session_is_printed_once(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def refuse(call: FakeCall) -> None:
        await call.say(Error(code=code, message="It cannot be.", fix="Do this."))

    for options, exit_code in (((), 1), (("--json",), 1)):
        with server(refuse) as (url, _):
            assert run_cli("talk", "--url", url, "--text", "hi", *options) == exit_code
        printed = capsys.readouterr()
        assert printed.err == f"error: It cannot be. Fix: Do this. [{code}]\n"


def test_the_end_of_a_session_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    async def stop(call: FakeCall) -> None:
        await call.say(STARTED)
        await call.until(lambda item: isinstance(item, Text))
        await call.say(SessionEnded(reason="server_stopped"))

    with server(stop) as (url, _):
        assert run_cli("talk", "--url", url, "--text", "hi") == 1
    assert capsys.readouterr().err == "The session has ended: server_stopped.\n"


@pytest.mark.parametrize("options", [("--json",), ()])
def test_talk_ends_at_the_first_forbidden(options: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    async def read_only(call: FakeCall) -> None:
        await call.say(STARTED)
        with suppress(HungUp):
            await call.until(lambda item: isinstance(item, Text))
            no = Error(code="forbidden", message="You may listen and read here, not talk.", fix="Ask for a token.")
            await call.say(no, no)
            await call.until_end()

    with server(read_only) as (url, calls):
        path = "/v1/sessions/ses_1/ws"
        assert run_cli("talk", "--url", url + path, "--text", "one", "--text", "two", "--timeout", "20", *options) == 4
    expected = "error: You may listen and read here, not talk. Fix: Ask for a token. [forbidden]\n"
    assert capsys.readouterr().err == expected
    assert [command.text for command in calls[0].commands if isinstance(command, Text)] == ["one"]


@pytest.mark.parametrize(("status", "code"), [(401, "unauthorized"), (403, "forbidden")])
def test_a_key_that_is_refused_exits_4(status: int, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    problem = {"detail": "Not you.", "code": code, "fix": "Ask."}

    def refuse(connection: ServerConnection, request: Request) -> Response:
        return connection.respond(HTTPStatus(status), json.dumps(problem))

    with server(one_text, process_request=refuse) as (url, _):
        assert run_cli("talk", "--url", url, "--text", "hi") == 4
    assert capsys.readouterr().err.count(f"[{code}]") == 1
