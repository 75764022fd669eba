"""Speech as OpenAI's own SDK gets it: every format and speed, as it is spoken, for slow and lost readers, too."""

from __future__ import annotations

import base64
import io
import json
import struct
import sys
import threading
import time
import wave
from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import Any, Literal, cast

import av
import httpx
import numpy as np
import openai
import pytest

from rejoinder.errors import ProviderError, ProviderRejected
from rejoinder.providers import TtsDelta
from rejoinder.testing.scripted import ScriptedTts, tone

from .conftest import AGENT, LiveServer, running
from .openai_api_help import eventually, sent

TEXT = "Hello there, this is a test of speech. It has two sentences."
MS = 12 * 50
AGENTS = {"named": AGENT.model_copy(update={"voice": "own"})}
Format = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
FORMATS: tuple[Format, ...] = ("mp3", "opus", "aac", "flac", "wav", "pcm")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    script = {"ms_per_word": 50, "sample_rate": 16_000}
    with running(tmp_path_factory.mktemp("speech") / "test.db", script, agents=AGENTS) as server:
        yield server


@pytest.fixture
def client(live: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.http}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def tts(live: LiveServer) -> Iterator[ScriptedTts]:
    """The server's TTS, whose script a test may replace."""
    found = cast(ScriptedTts, live.call(live.runtime.provider("tts", "scripted")))
    found.spoken.clear()
    found.closed = 0
    yield found
    found.script = None


def decoded(data: bytes, name: str) -> tuple[np.ndarray[Any, np.dtype[np.float64]], int]:
    """Samples (of 1.0) and rate of an audio file."""
    if name == "pcm":
        return np.frombuffer(data, "<i2") / 32768, 24_000
    if name == "wav":
        with wave.open(io.BytesIO(data)) as file:
            assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
            return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768, file.getframerate()
    with av.open(io.BytesIO(data), "r") as container:
        frames = list(container.decode(audio=0))
        resampler = av.AudioResampler(format="s16", layout="mono")
        pcm = b"".join(out.to_ndarray().tobytes() for frame in frames for out in resampler.resample(frame))
        return np.frombuffer(pcm, "<i2") / 32768, frames[0].sample_rate


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(client: openai.OpenAI, name: Format) -> None:
    response = client.audio.speech.create(model="scripted", voice="alloy", input=TEXT, response_format=name)
    samples, rate = decoded(response.content, name)
    # Codecs add up to some tens of ms of their own at the ends.
    assert len(samples) * 1000 / rate == pytest.approx(MS, abs=90)
    assert float(np.sqrt(np.mean(np.square(samples)))) > 0.05
    kinds = {"mp3": "audio/mpeg", "opus": "audio/ogg"}
    assert response.response.headers["content-type"] == kinds.get(name, f"audio/{name}")
    if name in ("wav", "pcm", "mp3", "flac", "aac"):
        assert rate == 24_000


def test_mp3_is_what_one_gets_unasked(client: openai.OpenAI) -> None:
    response = client.audio.speech.create(model="tts-1", voice="nova", input="Hello.")
    assert response.response.headers["content-type"] == "audio/mpeg"


def test_the_header_of_a_wav_of_unknown_length(client: openai.OpenAI) -> None:
    data = client.audio.speech.create(model="scripted", voice="alloy", input=TEXT, response_format="wav").content
    assert data[:4] + data[8:16] + data[36:40] == b"RIFFWAVEfmt data"
    assert struct.unpack("<I", data[4:8]) == struct.unpack("<I", data[40:44]) == (0xFFFFFFFF,)
    assert struct.unpack("<HHIIHH", data[20:36]) == (1, 1, 24_000, 48_000, 2, 16)


@pytest.mark.parametrize("speed", [0.25, 0.75, 2.0, 4.0])
def test_another_speed(client: openai.OpenAI, speed: float) -> None:
    text = TEXT * 5
    data = client.audio.speech.create(
        model="scripted", voice="alloy", input=text, response_format="pcm", speed=speed
    ).content
    samples, rate = decoded(data, "pcm")
    usual_ms = len(text.split()) * 50
    assert len(samples) * 1000 / rate == pytest.approx(usual_ms / speed, rel=0.15, abs=60)
    # The scripted voice is a tone of 400 Hz: it still is.
    spectrum = np.abs(np.fft.rfft(samples))
    assert float(np.argmax(spectrum)) * rate / len(samples) == pytest.approx(400, abs=15)


@pytest.mark.parametrize("model", ["scripted", "named", "tts-1", "tts-1-hd", "gpt-4o-mini-tts"])
def test_who_may_speak(client: openai.OpenAI, model: str) -> None:
    assert client.audio.speech.create(model=model, voice="alloy", input="Hi.", response_format="pcm").content


@pytest.mark.parametrize("model", ["whisper-1", "nobody", "moonshine"])
def test_who_cannot(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        client.audio.speech.create(model=model, voice="alloy", input="Hi.")
    assert (error.value.param, error.value.code) == ("model", "model_not_found")


def test_the_beginning_comes_before_the_rest_is_spoken(client: openai.OpenAI, tts: ScriptedTts) -> None:
    go_on = threading.Event()

    def script(text: str) -> Iterable[TtsDelta | float]:
        if "last" in text:
            while not go_on.is_set():
                yield 0.01
        yield tone(500, 16_000)

    tts.script = script
    with client.audio.speech.with_streaming_response.create(
        model="scripted", voice="alloy", input="The first sentence. The last sentence.", response_format="mp3"
    ) as response:
        pieces = response.iter_bytes()
        assert next(pieces)
        go_on.set()
        assert b"".join(pieces)
    assert tts.spoken == ["The first sentence.", "The last sentence."]


def test_events(live: LiveServer) -> None:
    body = {"model": "scripted", "voice": "alloy", "input": TEXT, "response_format": "pcm", "stream_format": "sse"}
    response = httpx.post(f"{live.http}/v1/audio/speech", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(part.removeprefix("data: ")) for part in response.text.strip().split("\n\n")]
    assert {event["type"] for event in events[:-1]} == {"speech.audio.delta"}
    assert events[-1]["type"] == "speech.audio.done"
    samples, rate = decoded(b"".join(base64.b64decode(event["audio"]) for event in events[:-1]), "pcm")
    assert len(samples) * 1000 / rate == pytest.approx(MS, abs=30)


# --- voices ---------------------------------------------------------------------------------------------------


def test_a_stock_voice_that_the_provider_lacks_becomes_the_agents_own(
    client: openai.OpenAI, tts: ScriptedTts, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    async def stream(text: str, *, voice: str | None, language: str) -> AsyncGenerator[TtsDelta, None]:
        asked.append(voice)
        if voice not in ("own", "coral"):
            raise ProviderRejected("scripted", f"has no voice {voice!r}.", code="unknown_voice", fix="Use own.")
        yield tone(100, 16_000)

    monkeypatch.setattr(tts, "stream", stream)

    def speak(voice: str) -> None:
        client.audio.speech.create(model="named", voice=voice, input="Hello.", response_format="pcm")

    speak("fable")
    assert asked == ["fable", "own"]
    speak("coral")
    assert asked[-1] == "coral"
    speak("default")
    assert asked[-1] == "own"
    with pytest.raises(openai.BadRequestError, match="no voice 'mine'") as error:
        speak("mine")
    assert (error.value.param, error.value.code) == ("voice", "unknown_voice")


# --- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": "?! ..."}, "input"),
        ({"input": "word " * 4000}, "input"),
        ({"response_format": "midi"}, "response_format"),
        ({"speed": 5}, "speed"),
        ({"stream_format": "carrier"}, "stream_format"),
        ({"input": 5}, "input"),
    ],
)
def test_what_cannot_be_spoken_is_refused(client: openai.OpenAI, change: dict[str, Any], param: str) -> None:
    body = {"model": "scripted", "voice": "alloy", "input": "Hello.", **change}
    with pytest.raises(openai.BadRequestError) as error:
        client.post("/audio/speech", body=body, cast_to=object)
    assert error.value.param == param


def test_a_failure_before_the_first_audio_is_an_http_error(client: openai.OpenAI, tts: ScriptedTts) -> None:
    tts.script = lambda text: (ProviderError("x", "busy", code="provider_rate_limited", retry_after_s=3),)
    with pytest.raises(openai.RateLimitError) as error:
        client.audio.speech.create(model="scripted", voice="alloy", input="Hello.")
    assert error.value.response.headers["retry-after"] == "3"


@pytest.mark.parametrize("name", ["wav", "mp3"])
def test_speech_that_breaks_does_not_look_complete(live: LiveServer, tts: ScriptedTts, name: str) -> None:
    tts.script = lambda text: (tone(500, 16_000), ProviderError("x", "it broke"))
    body = {"model": "scripted", "voice": "alloy", "input": "Hello.", "response_format": name}
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(f"{live.http}/v1/audio/speech", json=body)


def test_speech_that_breaks_is_told_in_events(live: LiveServer, tts: ScriptedTts) -> None:
    tts.script = lambda text: (tone(500, 16_000), ProviderError("x", "it broke"))
    body = {"model": "scripted", "input": "Hello.", "response_format": "pcm", "stream_format": "sse"}
    last = httpx.post(f"{live.http}/v1/audio/speech", json=body).text.strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "provider_failed"


def _read(client: openai.OpenAI, name: Format) -> bytes:
    with client.audio.speech.with_streaming_response.create(
        model="scripted", voice="alloy", input="Hello.", response_format=name
    ) as response:
        return b"".join(response.iter_bytes())


def test_without_codecs_wav_and_pcm_are_left(client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    for change in ({}, {"response_format": "opus"}, {"response_format": "wav", "speed": 2.0}):
        body = {"model": "scripted", "voice": "alloy", "input": "Hello.", **change}
        with pytest.raises(openai.BadRequestError, match=r"pip install 'rejoinder\[codecs\]'") as error:
            client.post("/audio/speech", body=body, cast_to=object)
        assert error.value.code == "codecs_missing"
    assert _read(client, "wav")
    assert _read(client, "pcm")


# --- slow and lost readers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wav", "flac"])
def test_a_reader_that_is_slow_holds_synthesis_back_and_one_that_leaves_ends_it(
    client: openai.OpenAI, tts: ScriptedTts, name: Format
) -> None:
    noise = np.random.default_rng(1).integers(-9000, 9000, 16_000, dtype="<i2").tobytes()
    # 20 MB a sentence: more than any socket holds.
    tts.script = lambda text: (noise for _ in range(400))
    text = " ".join(f"Sentence number {number} is this one." for number in range(20))
    with client.audio.speech.with_streaming_response.create(
        model="scripted", voice="alloy", input=text, response_format=name
    ) as response:
        pieces = response.iter_bytes(1000)
        assert next(pieces)
        before = -1
        while before != len(tts.spoken):
            before = len(tts.spoken)
            time.sleep(0.3)
        assert len(tts.spoken) < 5
        assert tts.closed == 0
    eventually(lambda: tts.closed == 1)


def test_a_client_that_leaves_before_the_first_audio_ends_synthesis(live: LiveServer, tts: ScriptedTts) -> None:
    tts.script = lambda text: (1000.0,)
    with sent(live, "/v1/audio/speech", json={"model": "scripted", "voice": "alloy", "input": "Hello."}):
        eventually(lambda: bool(tts.spoken))
    eventually(lambda: tts.closed == 1)
