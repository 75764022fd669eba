"""A real Wyoming server behind the bridge: formats, voices, partials; it goes away, hangs, fails and comes back."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rejoinder.audio import resample
from rejoinder.errors import ConfigError, ProviderError, ProviderRejected, ProviderTimeout
from wyoming.asr import Transcript
from wyoming.audio import AudioChunk, AudioStop
from wyoming.event import Event
from wyoming.server import AsyncEventHandler, AsyncServer

from rejoinder_wyoming import Settings
from rejoinder_wyoming.pcm import Pcm16
from rejoinder_wyoming.stt import WyomingStt
from rejoinder_wyoming.tts import WyomingTts

sys.path.insert(0, str(Path(__file__).parent))
from running import Running, running  # noqa: E402

SENTENCE = "Please call me back tomorrow morning at nine."


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as one:
        yield one


def stt(uri: str, **settings: Any) -> WyomingStt:
    return WyomingStt(SimpleNamespace(settings=Settings(stt_uri=uri, **settings)))  # type: ignore[arg-type]


def tts(uri: str, **settings: Any) -> WyomingTts:
    return WyomingTts(SimpleNamespace(settings=Settings(tts_uri=uri, **settings)))  # type: ignore[arg-type]


async def speak(provider: WyomingTts, text: str, voice: str | None = None, language: str = "en") -> bytes:
    return b"".join([piece async for piece in provider.stream(text, voice=voice, language=language)])


@asynccontextmanager
async def misbehaving(*answers: bytes) -> AsyncIterator[str]:
    """A server that sends these bytes to whoever connects, and then nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            writer.write(answer)
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield f"tcp://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


def failure(work: Callable[[], Awaitable[object]]) -> tuple[Exception, float]:
    """What it raises, and after how many seconds."""

    async def main() -> tuple[Exception, float]:
        began = time.perf_counter()
        with pytest.raises((ProviderError, ConfigError)) as caught:
            await work()
        return caught.value, time.perf_counter() - began

    return asyncio.run(main())


def test_what_the_voice_says_the_ear_understands(server: Running) -> None:
    async def main() -> None:
        voice, ear = tts(server.uri), stt(server.uri)
        await voice.warm_up()
        await ear.warm_up()
        assert voice.sample_rate == 22_050
        pcm = resample(await speak(voice, "One two three four five six."), 22_050, 16_000)
        heard: list[str] = []
        stream = ear.open(language="en-US", on_partial=heard.append)
        for at in range(0, len(pcm), 641):
            stream.feed(pcm[at : at + 641])
            await asyncio.sleep(0)
        text = await stream.flush()
        assert len({"one", "two", "three", "four", "five", "six"} & set(text.split())) >= 4, text
        assert heard[-1] == text
        assert len(heard) == len(text.split())
        half = len(pcm) // 4 * 2
        stream.reset()
        stream.feed(pcm[:half])
        flush = asyncio.create_task(stream.flush())
        await asyncio.sleep(0.01)
        flush.cancel()
        await asyncio.wait({flush})
        stream.feed(pcm[half:])
        assert await stream.flush() == text, "the whole utterance, though the server was told that the half was all"
        assert await stream.flush() == text
        stream.reset()
        assert await stream.flush() == ""
        await stream.close()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_silence_that_is_fed_while_the_transcript_is_made_does_not_spoil_it() -> None:
    class Counter(AsyncEventHandler):
        """Understands how many bytes it has heard, after a while."""

        heard = 0

        async def handle_event(self, event: Event) -> bool:
            if AudioChunk.is_type(event.type):
                self.heard += len(AudioChunk.from_event(event).audio)
            elif AudioStop.is_type(event.type):
                await asyncio.sleep(0.1)
                await self.write_event(Transcript(text=str(self.heard)).event())
            return True

    async def main(path: Path) -> None:
        server = AsyncServer.from_uri(f"unix://{path}")
        await server.start(Counter)
        tone = array("h", [0, 3000, 0, -3000] * 4000).tobytes()
        stream = stt(f"unix://{path}").open(language="en", on_partial=lambda text: None)
        stream.feed(tone)
        flush = asyncio.create_task(stream.flush())
        await asyncio.sleep(0)
        while not flush.done():
            stream.feed(bytes(320))
            await asyncio.sleep(0.01)
        assert flush.result() == "32000"
        assert await stream.flush() == "32000", "the silence after the end is not worth another request"
        stream.feed(tone)
        total = len(stream._audio)
        assert await stream.flush() == str(total), "but more speech is, all of it from the start"
        first = asyncio.create_task(stream.flush())
        stream.feed(tone)
        assert await stream.flush() == str(total + 32_000)
        await asyncio.wait({first}, timeout=1)
        assert first.done()
        await stream.close()
        await server.stop()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder, "socket")))


def test_a_voice_of_another_format_is_the_same_speech(server: Running) -> None:
    async def main() -> None:
        provider = tts(server.uri)
        await provider.warm_up()
        usual = await speak(provider, SENTENCE)
        studio = await speak(provider, SENTENCE, voice="studio")
        seconds = len(studio) / 2 / provider.sample_rate
        assert abs(seconds - len(usual) / 2 / provider.sample_rate) < 0.5
        assert np.abs(np.frombuffer(studio, "<i2")).max() > 5_000
        assert await speak(provider, "Guten Tag.", language="de-AT") == await speak(
            provider, "Guten Tag.", voice="german"
        )

    asyncio.run(main())


def test_every_width_and_number_of_channels_becomes_mono_pcm16() -> None:
    loud = np.array([0, 1000, -1000, 32767, -32768], "<i2")
    wide = loud.astype("<i4")
    coded = {
        (1, 1): ((wide >> 8) + 128).astype(np.uint8).tobytes(),
        (2, 1): loud.tobytes(),
        (2, 2): np.stack([loud, loud], axis=1).tobytes(),
        (3, 1): (wide << 8).view(np.uint8).reshape(-1, 4)[:, :3].tobytes(),
        (4, 2): np.repeat(wide << 16, 2).tobytes(),
    }
    for (width, channels), audio in coded.items():
        pcm = Pcm16(width, channels)
        got = np.frombuffer(b"".join(pcm.convert(audio[at : at + 1]) for at in range(len(audio))), "<i2")
        assert np.abs(got.astype(int) - loud).max() <= (255 if width == 1 else 0), (width, channels)
    for width, channels in ((5, 1), (2, 0), (0, 1)):
        with pytest.raises(ProviderError, match="channels of"):
            Pcm16(width, channels)


def test_an_old_server_does_as_well() -> None:
    async def main(uri: str) -> None:
        voice, ear = tts(uri), stt(uri)
        await voice.warm_up()
        await ear.warm_up()
        pcm = resample(await speak(voice, SENTENCE), 22_050, 16_000)
        heard: list[str] = []
        stream = ear.open(language="en", on_partial=heard.append)
        stream.feed(pcm)
        assert await stream.flush()
        assert heard == []
        await stream.close()

    with running("--plain") as server:
        asyncio.run(main(server.uri))


def test_a_server_that_is_killed_is_an_error_at_once_and_serves_again_when_it_is_back() -> None:
    async def main(server: Running) -> None:
        voice, ear = tts(server.uri), stt(server.uri)
        await voice.warm_up()
        await ear.warm_up()
        speech = voice.stream("One two three four. " * 500, voice=None, language="en")
        assert await anext(speech)
        stream = ear.open(language="en", on_partial=lambda text: None)
        stream.feed(bytes(32_000))
        await asyncio.sleep(0.1)
        server.kill()
        began = time.perf_counter()
        with pytest.raises(ProviderError):
            async for _ in speech:
                pass
        with pytest.raises(ProviderError):
            await stream.flush()
        with pytest.raises(ProviderError, match="cannot be reached"):
            await speak(voice, SENTENCE)
        assert time.perf_counter() - began < 1
        await asyncio.to_thread(server.again)
        assert await speak(voice, SENTENCE)
        assert await stream.flush() == "", "the utterance is sent anew"
        await stream.close()

    with running() as server:
        asyncio.run(main(server))


def test_closing_in_the_middle_closes_the_connection(server: Running) -> None:
    async def main() -> None:
        voice = tts(server.uri)
        await voice.warm_up()
        for _ in range(3):
            stream = voice.stream("Hello there. " * 2000, voice=None, language="en")
            await anext(stream)
            began = time.perf_counter()
            await stream.aclose()
            assert time.perf_counter() - began < 0.05
        task = asyncio.create_task(speak(voice, "be silent"))
        await asyncio.sleep(0.1)
        task.cancel()
        began = time.perf_counter()
        await asyncio.wait({task})
        assert task.cancelled()
        assert time.perf_counter() - began < 0.05

    asyncio.run(main())


def test_a_server_that_fails_hangs_or_breaks_off_is_named(server: Running) -> None:
    async def say(text: str) -> None:
        voice = tts(server.uri, reply_timeout_ms=400)
        await voice.warm_up()
        await speak(voice, text)

    error, _ = failure(lambda: say("fail"))
    assert "I was asked to" in str(error)
    error, took = failure(lambda: say("be silent"))
    assert isinstance(error, ProviderTimeout)
    assert took < 3
    error, _ = failure(lambda: say("break off"))
    assert "closed the connection" in str(error)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"{}\n",
        b'{"type": "info", "data": {"asr": [{}], "tts": [{}]}}\n',
        b'{"type": "info", "data": 3}\n',
        b"",
    ],
)
def test_what_is_no_wyoming_server_is_an_error(answer: bytes) -> None:
    async def main(made: Callable[..., WyomingStt | WyomingTts]) -> None:
        async with misbehaving(answer) as uri:
            await made(uri, reply_timeout_ms=300).warm_up()

    for made in (stt, tts):
        error, took = failure(lambda made=made: main(made))  # type: ignore[misc]
        assert isinstance(error, ProviderError)
        assert took < 3


def test_a_recogniser_that_never_answers_is_given_up(server: Running) -> None:
    async def main() -> None:
        async with misbehaving() as uri:
            stream = stt(uri, reply_timeout_ms=200).open(language="en", on_partial=lambda text: None)
            stream.feed(bytes(32_000))
            try:
                await stream.flush()
            finally:
                await stream.close()

    error, took = failure(main)
    assert isinstance(error, ProviderTimeout)
    assert took < 3


def test_settings_that_do_not_fit_say_what_to_set(server: Running) -> None:
    for uri in ("", "localhost:10300", "tcp://localhost", "http://localhost:1", "tcp://host:port"):
        error, _ = failure(stt(uri).warm_up)
        assert "REJOINDER_PLUGINS__WYOMING__STT_URI" in str(getattr(error, "fix", "")), uri
    error, _ = failure(tts(server.uri, voice="caruso").warm_up)
    assert "english, german, studio" in str(getattr(error, "fix", ""))
    error, took = failure(tts("tcp://127.0.0.1:9").warm_up)
    assert "cannot be reached" in str(error)
    assert took < 1.5


def test_unknown_voices_and_languages_are_refused(server: Running) -> None:
    async def main() -> None:
        voice, ear = tts(server.uri), stt(server.uri)
        await voice.warm_up()
        await ear.warm_up()
        with pytest.raises(ProviderRejected, match="no voice 'caruso'"):
            await speak(voice, SENTENCE, voice="caruso")
        with pytest.raises(ProviderRejected, match="no voice for 'fr'"):
            await speak(voice, SENTENCE, language="fr")
        with pytest.raises(ConfigError, match="does not understand"):
            ear.open(language="fr", on_partial=lambda text: None)
        assert await speak(voice, "...") == b""

    asyncio.run(main())


def test_a_very_long_utterance_keeps_its_newest_part(server: Running) -> None:
    async def main() -> None:
        stream = stt(server.uri).open(language="en", on_partial=lambda text: None)
        tone = array("h", [0, 3000, 0, -3000] * 4000).tobytes()
        for _ in range(130):
            stream.feed(tone)
            assert len(stream._audio) <= 122 * 32_000
        await stream.close()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
