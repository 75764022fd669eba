"""What is special about PocketSphinx: processes that decode, and who gets which."""

from __future__ import annotations

import asyncio
import random
import time
from array import array
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import psutil
import pytest
from rejoinder.errors import ConfigError, ProviderError

from rejoinder_pocketsphinx import Settings
from rejoinder_pocketsphinx.recogniser import PocketsphinxStream, PocketsphinxStt

T = TypeVar("T")
ONE_S = 32_000


def noise(seconds: float, seed: int = 1) -> bytes:
    """Loud enough for words, though there are none."""
    chance = random.Random(seed)
    return array("h", (chance.randint(-6000, 6000) for _ in range(int(16_000 * seconds)))).tobytes()


def run(use: Callable[[PocketsphinxStt], Awaitable[T]], **settings: Any) -> T:
    async def main() -> T:
        stt = PocketsphinxStt(SimpleNamespace(settings=Settings(**settings)))  # type: ignore[arg-type]
        await stt.warm_up()
        try:
            return await use(stt)
        finally:
            await stt.close()
            assert not psutil.Process().children()

    return asyncio.run(main())


def opened(stt: PocketsphinxStt) -> PocketsphinxStream:
    return stt.open(language="en-GB", on_partial=lambda text: None)


async def flushed(stream: PocketsphinxStream, pcm: bytes) -> str:
    stream.feed(pcm)
    return await stream.flush()


def test_the_loop_goes_on_while_a_long_utterance_is_decoded() -> None:
    async def use(stt: PocketsphinxStt) -> float:
        stream = opened(stt)
        work = asyncio.create_task(flushed(stream, noise(5)))
        worst, last = 0.0, time.perf_counter()
        while not work.done():
            await asyncio.sleep(0.001)
            worst, last = max(worst, time.perf_counter() - last), time.perf_counter()
        await stream.close()
        return worst

    assert min(run(use, decoders=1) for _ in range(3)) < 0.02, "PocketSphinx holds Python's lock: not in this process"


def test_more_speakers_than_decoders_wait_for_their_turn() -> None:
    async def use(stt: PocketsphinxStt) -> None:
        first, second, third = opened(stt), opened(stt), opened(stt)
        await flushed(first, noise(0.5))
        waits = asyncio.create_task(flushed(second, noise(0.5)))
        gives_up = asyncio.create_task(flushed(third, noise(0.5)))
        await asyncio.wait({waits}, timeout=0.3)
        assert not waits.done(), "the decoder belongs to the first until its utterance is over"
        gives_up.cancel()
        await asyncio.wait({gives_up})
        third.reset()
        first.reset()
        async with asyncio.timeout(10):
            await waits
        await second.close()
        async with asyncio.timeout(10):
            await flushed(third, noise(0.5))
        await third.close()
        await first.close()

    run(use, decoders=1)


def test_a_process_that_dies_is_an_error_and_then_replaced() -> None:
    async def use(stt: PocketsphinxStt) -> None:
        stream = opened(stt)
        await flushed(stream, noise(0.3))
        psutil.Process().children()[0].kill()
        with pytest.raises(ProviderError, match="has ended"):
            await flushed(stream, noise(0.3))
        stream.feed(noise(0.1))
        with pytest.raises(ProviderError):
            await stream.flush()
        stream.reset()
        async with asyncio.timeout(20):
            await flushed(stream, noise(0.3))
        await stream.close()

    run(use, decoders=1)


def test_a_flush_that_runs_when_the_stream_or_the_provider_is_closed_ends() -> None:
    async def use(stt: PocketsphinxStt) -> None:
        closed, reset, left = opened(stt), opened(stt), opened(stt)
        flushes = [asyncio.create_task(flushed(stream, noise(3))) for stream in (closed, reset, left)]
        await asyncio.sleep(0.05)
        await closed.close()
        reset.reset()
        await stt.close()
        done, pending = await asyncio.wait(flushes, timeout=2)
        assert not pending
        assert [flush.exception() for flush in flushes[:2]] == [None, None]
        assert isinstance(flushes[2].exception(), ProviderError)
        for stream in (reset, left):
            await stream.close()
        assert len([task for task in asyncio.all_tasks()]) == 1

    run(use, decoders=1)


def test_what_was_asked_for_an_utterance_that_is_over_does_not_come_in_the_next() -> None:
    async def use(stt: PocketsphinxStt) -> None:
        heard: list[str] = []
        stream = stt.open(language="en", on_partial=heard.append)
        for _ in range(5):
            stream.feed(noise(2))
            await asyncio.sleep(0.02)
            stream.reset()
        heard.clear()
        assert await flushed(stream, bytes(ONE_S)) == ""
        assert heard == []
        await stream.close()

    run(use, decoders=1)


def test_the_silence_after_the_end_costs_nothing() -> None:
    async def use(stt: PocketsphinxStt) -> tuple[float, float]:
        stream = opened(stt)
        began = time.perf_counter()
        text = await flushed(stream, noise(4))
        first = time.perf_counter() - began
        began = time.perf_counter()
        for _ in range(10):
            assert await flushed(stream, bytes(641)) == text
        again = time.perf_counter() - began
        await stream.close()
        return first, again

    first, again = run(use, decoders=1)
    assert again < first / 5


def test_a_backlog_is_bounded() -> None:
    async def use(stt: PocketsphinxStt) -> None:
        busy, waiting = opened(stt), opened(stt)
        await flushed(busy, noise(0.2))
        for _ in range(200):
            waiting.feed(bytes(ONE_S + 1))
        assert len(waiting._utterance.pending) <= 21 * ONE_S
        await busy.close()
        await waiting.close()

    run(use, decoders=1)


def test_other_languages_are_refused_and_it_must_be_warmed_up() -> None:
    async def main() -> None:
        stt = PocketsphinxStt(SimpleNamespace(settings=Settings()))  # type: ignore[arg-type]
        with pytest.raises(ConfigError) as caught:
            stt.open(language="de", on_partial=lambda text: None)
        assert caught.value.code == "unsupported_language"
        stream = opened(stt)
        with pytest.raises(ProviderError) as early:
            await flushed(stream, noise(0.2))
        assert early.value.code == "not_ready"
        await stream.close()
        await stt.close()

    asyncio.run(main())
