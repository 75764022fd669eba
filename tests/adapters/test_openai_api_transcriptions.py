"""Transcriptions as OpenAI's own SDK gets them: every kind of file, every format, long recordings, and refusals."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
import wave
from collections.abc import Iterator
from typing import Any, cast

import av
import httpx
import numpy as np
import openai
import pytest

from rejoinder.providers import VadAdvice
from rejoinder.testing.scripted import EnergyVad, ScriptedStt, noise, silence, tone
from rejoinder_adapters.openai_api.segments import LONGEST_MS, Cutter, Piece

from .conftest import LiveServer, running
from .openai_api_help import sent

TWO = silence(500) + tone(1500) + silence(1500) + tone(1000) + silence(500)
"""Two utterances: 0.5 to 2 s and 3.5 to 4.5 s, 5 s in all."""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with running(tmp_path_factory.mktemp("transcriptions") / "test.db", {}) as server:
        yield server


@pytest.fixture
def client(live: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.http}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def stt(live: LiveServer) -> ScriptedStt:
    """The server's STT, which says something else for each utterance."""
    found = cast(ScriptedStt, live.call(live.runtime.provider("stt", "scripted")))
    found.texts = ("one two", "three", "four", "five")
    found.delay_s = 0.0
    found.__post_init__()
    return found


def wav(pcm: bytes, rate: int = 16_000, channels: int = 1, width: int = 2) -> bytes:
    """A WAV file of PCM16 mono, as samples of that width and the same on every channel."""
    samples = np.frombuffer(pcm, "<i2").astype(np.int32)
    if width == 1:
        raw = ((samples >> 8) + 128).astype(np.uint8)
    elif width == 3:
        raw = (samples << 8).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3]
    else:
        raw = (samples << (8 * width - 16)).astype(f"<i{width}")
    raw = np.repeat(raw.reshape(len(samples), 1, -1), channels, axis=1)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.ascontiguousarray(raw).tobytes())
    return buffer.getvalue()


def encoded(pcm: bytes, container: str, codec: str, rate: int = 48_000) -> bytes:
    """An audio file of another format, in stereo where the codec can."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream = cast("av.AudioStream", file.add_stream(codec, rate=rate))
        stream.layout = "stereo"
        frame = av.AudioFrame.from_ndarray(np.frombuffer(pcm, "<i2").reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    return buffer.getvalue()


def check(result: Any) -> None:
    """That `result` (verbose) is of `TWO`."""
    assert result.text == "one two three"
    assert result.duration == pytest.approx(5, abs=0.1)
    assert [segment.text for segment in result.segments] == ["one two", "three"]
    times = [time for segment in result.segments for time in (segment.start, segment.end)]
    assert times == pytest.approx([0.5, 2, 3.5, 4.5], abs=0.1)


# --- kinds of files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "channels", "width"), [(16_000, 1, 2), (8_000, 1, 1), (44_100, 2, 2), (48_000, 2, 3), (96_000, 1, 4)]
)
def test_wav(client: openai.OpenAI, stt: ScriptedStt, rate: int, channels: int, width: int) -> None:
    from rejoinder.audio import resample

    data = wav(resample(TWO, 16_000, rate), rate, channels, width)
    check(client.audio.transcriptions.create(model="scripted", file=("a.wav", data), response_format="verbose_json"))


@pytest.mark.parametrize(
    ("name", "container", "codec"),
    [
        ("a.mp3", "mp3", "libmp3lame"),
        ("a.ogg", "ogg", "libopus"),
        ("a.webm", "webm", "libopus"),
        ("a.m4a", "mp4", "aac"),
        ("a.aac", "adts", "aac"),
        ("a.flac", "flac", "flac"),
        ("float.wav", "wav", "pcm_f32le"),
    ],
)
def test_other_formats(client: openai.OpenAI, stt: ScriptedStt, name: str, container: str, codec: str) -> None:
    data = encoded(TWO, container, codec)
    check(client.audio.transcriptions.create(model="scripted", file=(name, data), response_format="verbose_json"))


def test_speech_of_this_server_can_be_sent_back(client: openai.OpenAI, stt: ScriptedStt) -> None:
    speech = client.audio.speech.create(model="tts-1", voice="alloy", input="a b c " * 20, response_format="wav")
    result = client.audio.transcriptions.create(model="whisper-1", file=("a.wav", speech.content))
    assert result.text == "one two"
    assert cast(Any, result.usage).seconds == pytest.approx(60 * 0.02, abs=0.05)


@pytest.mark.parametrize("model", ["scripted", "whisper-1", "gpt-4o-mini-transcribe", ""])
def test_who_may_listen(client: openai.OpenAI, stt: ScriptedStt, model: str) -> None:
    assert client.audio.transcriptions.create(model=model, file=("a.wav", wav(TWO))).text == "one two three"


# --- formats of the answer ------------------------------------------------------------------------------------


def test_text_and_subtitles(client: openai.OpenAI, stt: ScriptedStt) -> None:
    def render(response_format: Any) -> Any:
        stt.__post_init__()
        return client.audio.transcriptions.create(
            model="scripted", file=("a.wav", wav(TWO)), response_format=response_format, language="en", prompt="names"
        )

    assert render("text") == "one two three\n"
    srt = render("srt").split("\n\n")
    assert [cue.strip().split("\n")[0] for cue in srt] == ["1", "2"]
    assert srt[0].startswith("1\n00:00:00,")
    assert " --> 00:00:0" in srt[0]
    assert srt[0].endswith("\none two")
    vtt = render("vtt")
    assert vtt.startswith("WEBVTT\n\n00:00:00.")
    assert "three" in vtt


def test_a_stream(client: openai.OpenAI, stt: ScriptedStt) -> None:
    events: Any = list(client.audio.transcriptions.create(model="scripted", file=("a.wav", wav(TWO)), stream=True))
    assert [event.type for event in events] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == "one two three"


def test_the_stream_begins_before_the_end_is_transcribed(
    client: openai.OpenAI, stt: ScriptedStt, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    texts = iter(["first", "second"])

    def next_text() -> str:
        text = next(texts)
        assert text == "first" or go_on.is_set()
        return text

    monkeypatch.setattr(stt, "next_text", next_text)
    # Some minutes lie between the two, so that the first is told long before the second is read.
    data = wav(tone(1000) + silence(120_000) + tone(1000))
    stream: Any = client.audio.transcriptions.create(model="scripted", file=("a.wav", data), stream=True)
    assert next(stream).delta == "first"
    go_on.set()
    assert [event.type for event in stream][-1] == "transcript.text.done"


def test_silence_has_no_words(client: openai.OpenAI, stt: ScriptedStt) -> None:
    result = client.audio.transcriptions.create(model="scripted", file=("a.wav", wav(silence(3000))))
    assert result.text == ""
    [done] = client.audio.transcriptions.create(model="scripted", file=("a.wav", wav(silence(10))), stream=True)
    assert done.type == "transcript.text.done"


# --- long recordings ------------------------------------------------------------------------------------------


def cut(pcm: bytes) -> list[Piece]:
    cutter = Cutter(EnergyVad(), VadAdvice(start_ms=100, end_silence_ms=300))
    size = cutter.frame_bytes
    pieces = [cutter.feed(pcm[at : at + size]) for at in range(0, len(pcm), size)]
    return [piece for piece in [*pieces, cutter.finish()] if piece is not None]


def test_speech_without_a_pause_is_cut_and_nothing_is_lost() -> None:
    pcm = noise(61_000)
    pieces = cut(pcm)
    assert b"".join(piece.pcm for piece in pieces) == pcm
    assert len(pieces) == 3
    assert all(len(piece.pcm) / 32 <= LONGEST_MS for piece in pieces)


def test_a_long_piece_is_cut_at_its_weakest_place() -> None:
    pcm = noise(20_000) + silence(100) + noise(10_000)
    first, second = cut(pcm)
    assert first.end_ms == pytest.approx(20_000, abs=120)
    assert first.pcm + second.pcm == pcm


def test_a_long_piece_is_cut_at_a_short_pause_and_a_short_one_is_not() -> None:
    pause = silence(300)
    assert len(cut(noise(3_000) + pause + noise(3_000))) == 1
    assert len(cut(noise(14_000) + pause + noise(3_000))) == 2
    assert len(cut(noise(3_000) + silence(700) + noise(3_000))) == 2


def test_clicks_and_silence_are_no_speech() -> None:
    assert cut((noise(40) + silence(960)) * 10) == []


# --- refusals -------------------------------------------------------------------------------------------------


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:%d/livez\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"this is no audio" * 100,
        b"RIFF\x00\x00\x00\x00WAVE",
        wav(TWO)[:30],
        wav(TWO)[:24] + b"\x01\x00\x00\x00" + wav(TWO)[28:],
        encoded(TWO, "mp3", "libmp3lame")[:50],
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        PLAYLIST % 9,
    ],
    ids=["empty", "text", "no chunks", "cut header", "1 Hz", "cut mp3", "concat", "playlist"],
)
def test_what_is_no_audio_is_refused(client: openai.OpenAI, stt: ScriptedStt, data: bytes) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.audio.transcriptions.create(model="scripted", file=("a.mp3", data))
    assert (error.value.param, error.value.code) == ("file", "invalid_audio")


def test_a_video_without_sound_is_refused(client: openai.OpenAI) -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame(64, 64, "yuv420p")
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    with pytest.raises(openai.BadRequestError, match="no audio track"):
        client.audio.transcriptions.create(model="scripted", file=("a.mkv", buffer.getvalue()))


def test_an_upload_that_is_too_large_is_413(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError, match="26214400 bytes") as error:
        client.audio.transcriptions.create(model="scripted", file=("a.wav", bytes(26 * 1024 * 1024)))
    assert error.value.status_code == 413
    assert error.value.code == "request_too_large"


def test_what_the_form_lacks_is_named(live: LiveServer, client: openai.OpenAI) -> None:
    url = f"{live.http}/v1/audio/transcriptions"
    for request in ({"data": {"model": "scripted"}}, {"json": {"model": "scripted"}}, {"content": b""}):
        error = httpx.post(url, **cast(Any, request)).json()["error"]
        assert (error["param"], error["code"]) == ("file", "missing_file")
    broken = httpx.post(url, content=b"--x\r\nnonsense", headers={"content-type": "multipart/form-data; boundary=x"})
    assert broken.status_code == 400
    assert broken.json()["error"]["type"] == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.audio.transcriptions.create(
            model="scripted", file=("a.wav", wav(TWO)), response_format=cast(Any, "diarized_json")
        )
    assert wrong.value.param == "response_format"


def test_an_unknown_model_and_translations_are_404(live: LiveServer, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        client.audio.transcriptions.create(model="hibari", file=("a.wav", wav(TWO)))
    assert error.value.code == "model_not_found"
    files = {"file": ("a.wav", wav(TWO))}
    response = httpx.post(f"{live.http}/v1/audio/translations", data={"model": "whisper-1"}, files=files)
    assert response.status_code == 404
    assert "transcriptions" in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_recogniser_that_fails_is_502(client: openai.OpenAI, stt: ScriptedStt, stream: bool) -> None:
    stt.texts = (ScriptedStt.FAIL,)
    with pytest.raises(openai.InternalServerError) as error:
        client.audio.transcriptions.create(model="scripted", file=("a.wav", wav(TWO)), stream=cast(Any, stream))
    assert error.value.status_code == 502
    assert error.value.code == "provider_failed"


def test_without_codecs_wav_is_left(client: openai.OpenAI, stt: ScriptedStt, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(TWO, "mp3", "libmp3lame")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(openai.BadRequestError, match=r"pip install 'rejoinder\[codecs\]'") as error:
        client.audio.transcriptions.create(model="scripted", file=("a.mp3", data))
    assert error.value.code == "codecs_missing"
    assert client.audio.transcriptions.create(model="scripted", file=("a.wav", wav(TWO))).text == "one two three"


def test_a_client_that_leaves_is_not_transcribed_for(
    live: LiveServer, stt: ScriptedStt, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, closed = threading.Event(), threading.Event()
    opened = stt.open

    def open_stream(**options: Any) -> Any:
        stream = opened(**options)

        async def flush() -> str:
            begun.set()
            await asyncio.sleep(1000)
            return ""

        async def close() -> None:
            closed.set()

        monkeypatch.setattr(stream, "flush", flush)
        monkeypatch.setattr(stream, "close", close)
        return stream

    monkeypatch.setattr(stt, "open", open_stream)
    files = {"file": ("a.wav", wav(TWO))}
    with sent(live, "/v1/audio/transcriptions", data={"model": "scripted"}, files=files):
        assert begun.wait(10)
        assert not closed.is_set()
    assert closed.wait(10)
