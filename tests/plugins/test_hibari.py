from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from rejoinder import audio
from rejoinder.errors import ProviderError, ProviderRejected
from rejoinder.providers import ProviderContext
from rejoinder_plugins.stt.moonshine import MoonshineProvider, MoonshineSettings
from rejoinder_plugins.tts.hibari import RATE, HibariProvider, HibariSettings, speakable

SENTENCES = (
    "Good morning, how can I help you today?",
    "The train to London leaves at half past seven.",
    "I have put two tickets in your basket.",
)


@asynccontextmanager
async def hibari() -> AsyncIterator[HibariProvider]:
    unused: Any = None
    with ThreadPoolExecutor(2) as executor:
        provider = HibariProvider(ProviderContext(HibariSettings(), unused, lambda *_: executor, unused))
        await provider.warm_up()
        yield provider
        await provider.close()


async def speak(provider: HibariProvider, text: str, voice: str | None = None, language: str = "en") -> list[bytes]:
    async with aclosing(provider.stream(text, voice=voice, language=language)) as pieces:
        return [piece async for piece in pieces]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


@pytest.mark.models
def test_what_it_says_is_understood() -> None:
    async def run() -> None:
        unused: Any = None
        async with hibari() as tts:
            with ThreadPoolExecutor(1) as executor:
                settings = MoonshineSettings(workers=1)
                stt = MoonshineProvider(ProviderContext(settings, unused, lambda *_: executor, unused))
                await stt.warm_up()
                for sentence in SENTENCES:
                    pcm = b"".join(await speak(tts, sentence))
                    stream = stt.open(language="en", on_partial=lambda text: None)
                    stream.feed(audio.resample(pcm, RATE, audio.ENGINE_RATE))
                    assert words(await stream.flush()) == words(sentence)
                    await stream.close()
                await stt.close()

    asyncio.run(run())


@pytest.mark.models
def test_starts_with_speech_is_loud_enough_and_pauses_as_the_text_does() -> None:
    import numpy as np

    async def run() -> None:
        async with hibari() as tts:
            for text, pause_ms in (
                ("I have put it in your basket.", 120),
                ("In your basket,", 40),
                ("In your basket", 0),
            ):
                samples = audio.to_float(b"".join(await speak(tts, text)))
                heard = np.flatnonzero(np.abs(samples) > 0.02)
                assert heard[0] < 0.04 * RATE
                silence_ms = (len(samples) - heard[-1]) * 1000 / RATE
                assert pause_ms + 15 < silence_ms < pause_ms + 60
                assert 0.35 < np.abs(samples).max() <= 0.99

    asyncio.run(run())


@pytest.mark.models
def test_a_sentence_in_two_chunks_sounds_like_one() -> None:
    async def run() -> None:
        unused: Any = None
        async with hibari() as tts:
            with ThreadPoolExecutor(1) as executor:
                settings = MoonshineSettings(workers=1)
                stt = MoonshineProvider(ProviderContext(settings, unused, lambda *_: executor, unused))
                await stt.warm_up()
                for first, rest in (
                    ("Good morning, how can", "I help you today?"),
                    ("The train to London leaves", "at half past seven."),
                    ("I have put two tickets", "in your basket."),
                ):
                    chunks = [b"".join(await speak(tts, chunk)) for chunk in (first, rest)]
                    whole = b"".join(await speak(tts, f"{first} {rest}"))
                    assert 0.9 < len(b"".join(chunks)) / len(whole) < 1.3
                    stream = stt.open(language="en", on_partial=lambda text: None)
                    stream.feed(audio.resample(b"".join(chunks), RATE, audio.ENGINE_RATE))
                    assert words(await stream.flush()) == words(f"{first} {rest}")
                    await stream.close()
                await stt.close()

    asyncio.run(run())


@pytest.mark.models
def test_comes_in_pieces_and_can_be_closed_between_them() -> None:
    async def run() -> None:
        async with hibari() as tts:
            pieces = await speak(tts, " ".join(SENTENCES))
            assert len(pieces) > 6
            assert all(0 < audio.duration_ms(piece, RATE) <= 500 for piece in pieces)
            speech = tts.stream(" ".join(SENTENCES), voice=None, language="en")
            assert await anext(speech) != b""
            await speech.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(speech)
            assert await speak(tts, SENTENCES[0])

    asyncio.run(run())


@pytest.mark.models
def test_many_at_once_do_not_mix() -> None:
    async def run() -> None:
        async with hibari() as tts:
            spoken = await asyncio.gather(*(speak(tts, sentence) for sentence in SENTENCES * 3))
            lengths = [sum(map(len, pieces)) for pieces in spoken]
            assert lengths[:3] == pytest.approx(lengths[3:6], rel=0.05)
            assert len(set(lengths[:3])) == 3

    asyncio.run(run())


@pytest.mark.models
def test_nothing_to_say_yields_nothing_and_what_it_cannot_do_is_refused() -> None:
    async def run() -> None:
        async with hibari() as tts:
            for text in ("", "  \n", "…", "😀 🎉", "***"):
                assert await speak(tts, text) == []
            with pytest.raises(ProviderRejected, match="no voice 'bob'"):
                await speak(tts, "Hello", voice="bob")
            with pytest.raises(ProviderRejected, match="English only"):
                await speak(tts, "Hallo", language="de-DE")
        with pytest.raises(ProviderError, match="not loaded"):
            await speak(tts, "Hello")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("See **this** and _that_.", "See this and that."),
        ("# Title\n- one\n* two", "Title\none\ntwo"),
        ("Read [the guide](https://example.org/a/b?c=1).", "Read the guide."),
        ("Go to https://www.example.com/docs/x?y=1#z.", "Go to example dot com."),
        ("Write to me@example.org!", "Write to me at example dot org!"),
        ("It costs $3.50, e.g. now. Then 3 * 4 = 12.", "It costs $3.50, e.g. now. Then 3 * 4 = 12."),
        ("Run `pip install it` 🎉 at 20 °C", "Run pip install it at 20 °C"),
        ("snake_case stays, café too", "snake_case stays, café too"),
        ("```python\nprint()\n```", "print()"),
        ("🙂", ""),
    ],
)
def test_markup_is_not_read_out(written: str, spoken: str) -> None:
    assert " ".join(speakable(written).split(" ")).replace("  ", " ") == spoken
