from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import itertools
import sys
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rejoinder import audio
from rejoinder.errors import ConfigError, ProviderError
from rejoinder.providers import ProviderContext
from rejoinder_plugins.stt import moonshine
from rejoinder_plugins.stt.moonshine import MoonshineProvider, MoonshineSettings, MoonshineStream

RATE = audio.ENGINE_RATE
FRAME = audio.byte_count(audio.FRAME_MS, RATE)


def recording(name: str) -> bytes:
    path = importlib.metadata.distribution("moonshine-voice").locate_file(f"moonshine_voice/assets/{name}.wav")
    return audio.read_wav(Path(str(path)), RATE)[0]


def nothing(text: str) -> None:
    pass


async def idle(stream: MoonshineStream) -> None:
    if stream._task is not None:
        await asyncio.wait({stream._task})


def provider_of(executor: ThreadPoolExecutor, **settings: Any) -> MoonshineProvider:
    unused: Any = None
    return MoonshineProvider(ProviderContext(MoonshineSettings(**settings), unused, lambda *_: executor, unused))


@asynccontextmanager
async def real(**settings: Any) -> AsyncIterator[MoonshineProvider]:
    with ThreadPoolExecutor(settings.get("workers", 1)) as executor:
        provider = provider_of(executor, **settings)
        await provider.warm_up()
        try:
            yield provider
        finally:
            await provider.close()


class Recogniser:
    """Stands in for the pool's recognisers: says how much audio it was given, when it is let."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_go = threading.Event()
        self.started = threading.Semaphore(0)
        self.calls: list[int] = []
        monkeypatch.setattr(moonshine, "_recognise", self._recognise)

    @asynccontextmanager
    async def provider(self, **settings: Any) -> AsyncIterator[MoonshineProvider]:
        with ThreadPoolExecutor(settings["workers"]) as executor:
            provider = provider_of(executor, **settings)
            provider._executor = executor
            for _ in range(settings["workers"]):
                provider._idle.put(self)
            try:
                yield provider
            finally:
                self.may_go.set()
                await provider.close()

    def close(self) -> None:
        pass

    def _recognise(self, transcriber: object, pcm: bytes, lead_ms: int, trail_ms: int) -> str:
        self.calls.append(round(audio.duration_ms(pcm, RATE)))
        self.started.release()
        assert self.may_go.wait(10)
        return f"{self.calls[-1]} ms"

    async def running(self) -> None:
        assert await asyncio.to_thread(self.started.acquire, timeout=10)


def loud(ms: int) -> bytes:
    return b"\x00\x20" * (ms * RATE // 1000)


@pytest.mark.models
def test_transcribes_a_recording_with_partials_on_the_way() -> None:
    partials: list[str] = []

    async def run() -> str:
        async with real(workers=1) as provider:
            stream = provider.open(language="en-GB", on_partial=partials.append)
            pcm = recording("beckett")
            for at in range(0, len(pcm), FRAME * 25):
                stream.feed(pcm[at : at + FRAME * 25])
                await idle(stream)
            text = await stream.flush()
            assert await stream.flush() == text
            await stream.close()
            return text

    text = asyncio.run(run())
    assert "ever tried" in text.lower()
    assert "fail better" in text.lower()
    assert len(partials) > 3
    assert text.lower().startswith(partials[2].lower().rstrip(".?!,").split(",")[0][:5])


@pytest.mark.models
def test_joins_the_lines_of_a_long_recording() -> None:
    async def run() -> str:
        async with real(workers=1, partials=False) as provider:
            stream = provider.open(language="en", on_partial=nothing)
            pcm = recording("two_cities")
            for at in range(0, len(pcm), FRAME * 25):
                stream.feed(pcm[at : at + FRAME * 25])
                await idle(stream)
            assert len(stream._audio) < 13 * 2 * RATE
            return await stream.flush()

    text = asyncio.run(run()).lower()
    assert "best of times" in text
    assert len(text.split()) > 90


@pytest.mark.models
def test_sessions_at_once_get_their_own_words() -> None:
    async def run() -> None:
        async with real(workers=2, partials=False) as provider:
            texts = []
            for start in (0, 0, 4, 4):
                stream = provider.open(language="en", on_partial=nothing)
                stream.feed(recording("beckett")[start * 2 * RATE : (start + 4) * 2 * RATE])
                texts.append(stream.flush())
            a, b, c, d = await asyncio.gather(*texts)
            assert a == b
            assert c == d
            assert a != c

    asyncio.run(run())


@pytest.mark.models
def test_silence_and_clicks_have_no_words() -> None:
    async def run() -> None:
        async with real(workers=1) as provider:
            stream = provider.open(language="en", on_partial=nothing)
            assert await stream.flush() == ""
            stream.feed(bytes(2 * RATE))
            assert await stream.flush() == ""
            stream.reset()
            stream.feed(loud(60))
            assert await stream.flush() == ""

    asyncio.run(run())


def test_a_final_does_not_wait_behind_a_partial_while_a_recogniser_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        recogniser = Recogniser(monkeypatch)
        async with recogniser.provider(workers=2) as provider:
            first = provider.open(language="en", on_partial=nothing)
            second = provider.open(language="en", on_partial=nothing)
            first.feed(loud(600))
            await recogniser.running()
            second.feed(loud(700))  # a second partial would take the last recogniser: it has to wait
            first.feed(loud(100))
            final = asyncio.create_task(first.flush())
            await recogniser.running()
            recogniser.may_go.set()
            assert await final == "700 ms"
            assert recogniser.calls == [600, 700]
            await first.close()
            await second.close()

    asyncio.run(run())


def test_a_final_of_the_audio_a_partial_is_at_shares_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        recogniser = Recogniser(monkeypatch)
        heard: list[str] = []
        async with recogniser.provider(workers=1) as provider:
            stream = provider.open(language="en", on_partial=heard.append)
            stream.feed(loud(600))
            await recogniser.running()
            recogniser.may_go.set()
            assert await stream.flush() == "600 ms"
            assert await stream.flush() == "600 ms"
            assert recogniser.calls == [600]
            assert heard == ["600 ms"]
            stream.feed(loud(20))
            assert await stream.flush() == "620 ms"
            await stream.close()

    asyncio.run(run())


def quiet(ms: int) -> bytes:
    return b"\x80\x00" * (ms * RATE // 1000)  # 36 dB below `loud`


def test_a_pause_is_transcribed_at_once_and_the_final_shares_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        recogniser = Recogniser(monkeypatch)
        heard: list[str] = []
        async with recogniser.provider(workers=1) as provider:
            stream = provider.open(language="en", on_partial=heard.append)
            for part in (loud(200), quiet(20)):
                stream.feed(part)
            assert stream._task is None
            stream.feed(quiet(20))
            await recogniser.running()
            stream.feed(quiet(60))
            final = asyncio.create_task(stream.flush())
            await asyncio.sleep(0)
            recogniser.may_go.set()
            assert await final == "240 ms"
            await idle(stream)
            assert heard == ["240 ms"]
            stream.feed(quiet(100))
            assert await stream.flush() == "240 ms"
            # More speech, even a little and faint, is not in it.
            stream.feed(quiet(40)[:-640] + loud(20)[:320])
            assert await stream.flush() == "430 ms"
            stream.feed(b"\x00\x04" * (20 * RATE // 1000))
            assert await stream.flush() == "450 ms"
            assert recogniser.calls == [240, 430, 450]
            # So little of it is waited for more. A new utterance knows nothing of the old one.
            stream.feed(quiet(60))
            assert stream._task is None
            stream.reset()
            stream.feed(loud(200) + quiet(20))
            assert stream._task is None
            stream.feed(quiet(20))
            await idle(stream)
            assert recogniser.calls[3:] == [240]
            await stream.close()

    asyncio.run(run())


def test_silence_alone_is_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        recogniser = Recogniser(monkeypatch)
        async with recogniser.provider(workers=1) as provider:
            stream = provider.open(language="en", on_partial=nothing)
            for _ in range(20):
                stream.feed(bytes(audio.byte_count(20, RATE)))
            assert stream._task is None
            await stream.close()

    asyncio.run(run())


@pytest.mark.models
def test_what_a_final_shares_with_a_partial_is_all_that_was_said() -> None:
    async def run() -> None:
        async with real(workers=2) as provider:
            for end in (2.6, 5):
                pcm = recording("beckett")[: int(end * RATE) * 2]
                pcm = pcm[: audio.speech_end(pcm, RATE)] + bytes(audio.byte_count(100, RATE))
                plain = provider.open(language="en", on_partial=nothing)
                plain._audio += pcm
                plain._length = plain._heard_all = len(pcm)
                whole = await plain.flush()
                shared = provider.open(language="en", on_partial=nothing)
                for at in range(0, len(pcm), FRAME):
                    shared.feed(pcm[at : at + FRAME])
                    await idle(shared)
                job = shared._job
                assert job is not None
                assert job.length < len(pcm)
                text = await shared.flush()
                assert shared._job is job
                assert text.lower().strip(".,!? ") == whole.lower().strip(".,!? ")
                await plain.close()
                await shared.close()

    asyncio.run(run())


def test_a_cancelled_final_leaves_the_next_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        recogniser = Recogniser(monkeypatch)
        async with recogniser.provider(workers=1, partials=False) as provider:
            stream = provider.open(language="en", on_partial=nothing)
            stream.feed(loud(300))
            running = asyncio.create_task(stream.flush())
            await recogniser.running()
            stream.feed(loud(100))
            queued = asyncio.create_task(stream.flush())
            await asyncio.sleep(0)
            for task in (running, queued):
                task.cancel()
            await asyncio.gather(running, queued, return_exceptions=True)
            recogniser.may_go.set()
            assert await stream.flush() == "400 ms"
            assert recogniser.calls == [300, 400]
            await stream.close()

    asyncio.run(run())


def test_nothing_of_an_utterance_is_heard_after_reset_or_close(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        recogniser = Recogniser(monkeypatch)
        heard: list[str] = []
        async with recogniser.provider(workers=1) as provider:
            stream = provider.open(language="en", on_partial=heard.append)
            stream.feed(loud(600))
            await recogniser.running()
            stream.reset()
            recogniser.may_go.set()
            await idle(stream)
            recogniser.may_go.clear()
            stream.feed(loud(700))
            await recogniser.running()
            await stream.close()
            await stream.close()
            assert stream._task is None
        assert heard == []
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


def test_a_backlog_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        recogniser = Recogniser(monkeypatch)
        async with recogniser.provider(workers=1, partials=False, max_backlog_s=15) as provider:
            stream = provider.open(language="en", on_partial=nothing)
            for _ in range(2000):
                stream.feed(loud(20))
                assert len(stream._audio) <= 15 * 2 * RATE
            recogniser.may_go.set()
            await stream.flush()
            await stream.close()

    asyncio.run(run())


def test_a_long_utterance_is_settled_on_the_way_so_that_its_end_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        recogniser = Recogniser(monkeypatch)
        recogniser.may_go.set()
        async with recogniser.provider(workers=1, partials=False) as provider:
            stream = provider.open(language="en", on_partial=nothing)
            for second in range(40):
                stream.feed(loud(800) + bytes(audio.byte_count(200, RATE)))
                await idle(stream)
                assert len(stream._audio) <= 12_000 * 2 * RATE // 1000, second
            text = await stream.flush()
            assert text == " ".join(f"{ms} ms" for ms in recogniser.calls)
            assert sum(recogniser.calls) == 40_000
            cuts = list(itertools.accumulate(recogniser.calls))[:-1]
            assert [ms % 1000 for ms in cuts] == [900] * len(cuts)
            assert max(recogniser.calls) <= 12_000
            stream.reset()
            stream.feed(loud(200))
            assert await stream.flush() == "200 ms"
            await stream.close()

    asyncio.run(run())


def test_a_final_waits_for_what_is_being_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        recogniser = Recogniser(monkeypatch)
        async with recogniser.provider(workers=2, partials=False) as provider:
            stream = provider.open(language="en", on_partial=nothing)
            stream.feed(loud(13_000))
            await recogniser.running()
            final = asyncio.create_task(stream.flush())
            await asyncio.sleep(0)
            recogniser.may_go.set()
            head, tail = (await final).removesuffix(" ms").split(" ms ")
            assert int(head) + int(tail) == 13_000
            await stream.close()

    asyncio.run(run())


def test_what_is_being_settled_does_not_delay_the_next_utterance(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        recogniser = Recogniser(monkeypatch)
        async with recogniser.provider(workers=1, partials=False) as provider:
            one = provider.open(language="en", on_partial=nothing)
            other = provider.open(language="en", on_partial=nothing)
            one.feed(loud(13_000))
            await recogniser.running()
            other.feed(loud(13_000))
            await asyncio.sleep(0)  # this one is in the queue
            assert len(provider._jobs) == 2
            for stream in (one, other):
                stream.reset()
                stream.feed(loud(300))
            finals = [asyncio.create_task(stream.flush()) for stream in (one, other)]
            for _ in range(3):
                await asyncio.sleep(0)
            # What runs in the thread and the two finals, which are queued already; the queued settling is gone.
            assert len(provider._jobs) == 3
            recogniser.may_go.set()
            assert [await final for final in finals] == ["300 ms"] * 2
            assert recogniser.calls[1:] == [300, 300]
            await one.close()
            await other.close()

    asyncio.run(run())


def test_the_next_utterance_is_settled_while_that_of_the_old_one_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        recogniser = Recogniser(monkeypatch)
        async with recogniser.provider(workers=2, partials=False) as provider:
            stream = provider.open(language="en", on_partial=nothing)
            stream.feed(loud(13_000))
            await recogniser.running()
            stream.reset()
            stream.feed(loud(14_000))
            await recogniser.running()
            final = asyncio.create_task(stream.flush())
            await asyncio.sleep(0)
            recogniser.may_go.set()
            head, tail = (await final).removesuffix(" ms").split(" ms ")
            assert int(head) + int(tail) == 14_000
            await stream.close()

    asyncio.run(run())


def test_reset_or_close_at_once_after_audio_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        recogniser = Recogniser(monkeypatch)
        async with recogniser.provider(workers=1) as provider:
            for ms in (600, 13_000):
                stream = provider.open(language="en", on_partial=nothing)
                stream.feed(loud(ms))
                stream.reset()
                await asyncio.sleep(0)
                await idle(stream)
                closed = provider.open(language="en", on_partial=nothing)
                closed.feed(loud(ms))
                await closed.close()
                assert stream._task is closed._task is None
                await stream.close()
            assert recogniser.calls == []
        gc.collect()  # a task that failed unheard, or a coroutine never awaited, speaks up when it is collected

    asyncio.run(run())
    assert caplog.text == ""


def test_closing_waits_for_work_that_ends_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        recogniser = Recogniser(monkeypatch)
        async with recogniser.provider(workers=2, partials=False) as provider:
            for _ in range(2):
                provider.submit(loud(300))
                await recogniser.running()

            def wrap(future: Future[str]) -> asyncio.Future[str]:
                recogniser.may_go.set()
                while provider._jobs:  # the threads take their jobs out
                    time.sleep(0)
                return original(future)

            original = asyncio.wrap_future
            monkeypatch.setattr(asyncio, "wrap_future", wrap)
            await provider.close()
            monkeypatch.undo()

    asyncio.run(run())


def test_a_failed_load_keeps_no_recogniser(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Transcriber] = []

    class Transcriber:
        def __init__(self, model: str, arch: object, options: object) -> None:
            if len(made) == 1:
                made.append(self)
                raise MemoryError("no room")
            made.append(self)
            self.closed = False

        def close(self) -> None:
            self.closed = True

    package = SimpleNamespace(ModelArch=SimpleNamespace(TINY=0))
    monkeypatch.setitem(sys.modules, "moonshine_voice", package)
    monkeypatch.setitem(sys.modules, "moonshine_voice.transcriber", SimpleNamespace(Transcriber=Transcriber))
    monkeypatch.setitem(sys.modules, "moonshine_voice.utils", SimpleNamespace(get_assets_path=lambda: "assets"))
    monkeypatch.setenv("MOONSHINE_ORT_SINGLE_THREAD", "1")
    monkeypatch.setattr(moonshine, "_recognise", lambda *_: "")

    async def run() -> None:
        with ThreadPoolExecutor(2) as executor:
            provider = provider_of(executor, workers=2)
            with pytest.raises(ProviderError, match="no room"):
                await provider.warm_up()
            assert made[0].closed
            assert provider._idle.empty()
            await provider.warm_up()
            assert provider._idle.qsize() == 2
            await provider.close()
            assert all(transcriber.closed for transcriber in made[2:])

    asyncio.run(run())


def test_refuses_what_it_cannot_do() -> None:
    with ThreadPoolExecutor(1) as executor:
        provider = provider_of(executor)
        with pytest.raises(ConfigError, match="English only"):
            provider.open(language="de", on_partial=nothing)
        with pytest.raises(ProviderError, match="not loaded"):
            provider.submit(loud(500))
