"""The rules for STT providers: the same text however the sound is cut up, nothing for silence, partials in time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rejoinder import audio
from rejoinder.testing.conformance.measure import timed_ms
from rejoinder.testing.conformance.provider import TRIES, USE_S, Asynchronous, Bad, pieces
from rejoinder.testing.conformance.rules import NotChecked, Seen, Violation, bounded, rule
from rejoinder.testing.conformance.speech import Speech, error_rate, speech, words
from rejoinder.testing.scripted import noise, silence, tone

FRAME = audio.byte_count(audio.FRAME_MS, audio.ENGINE_RATE)
FEED_MS = 2.0
ERROR_RATE = 0.5
SAME = 0.34
"""Where sound is cut up otherwise, partials may be settled at other places, and a word or two come out differently."""
_AFTER_S = 0.3


class SttConformance(Asynchronous):
    """What an STT provider must do; see `rejoinder.providers.SttProvider`."""

    kind = "stt"
    samples: Sequence[tuple[str | Path, str]] = ()
    """WAV files and what is said in them; none: sentences spoken by an installed TTS."""
    real_s = 6.0
    """So much of the speech is fed in real time in the search for partials."""
    error_rate = ERROR_RATE
    """The share of words that may be wrong."""

    def speech(self) -> list[Speech]:
        """Speech with its words.

        Raises:
            NotChecked: there is none.
        """
        return speech(self.samples, self.language)

    def sounds(self) -> list[bytes]:
        """Speech, else something loud: enough for the rules that do not look at the words."""
        try:
            return [one.pcm for one in self.speech()]
        except NotChecked:
            return [tone(600) + silence(200) + noise(900 + 200 * n) + silence(300) for n in range(3)]

    def open(self, provider: Any, on_partial: Any = None) -> Any:
        """A stream; `on_partial` is told of partials."""
        return provider.open(language=self.language, on_partial=on_partial or (lambda text: None))

    @asynccontextmanager
    async def opened(self, provider: Any) -> AsyncIterator[Any]:
        """A stream that is closed in the end."""
        stream = self.open(provider)
        try:
            yield stream
        finally:
            await stream.close()

    async def use(self, provider: Any, number: int = 0) -> str:
        """Transcribe one utterance in a stream of its own."""
        sounds = self.sounds()
        return await self.transcribe(provider, sounds[number % len(sounds)])

    async def transcribe(self, provider: Any, pcm: bytes, size: int = FRAME) -> str:
        """The transcript of `pcm`, fed in pieces of `size` bytes."""
        async with self.opened(provider) as stream:
            await feed(stream, pcm, size)
            text: str = await stream.flush()
            return text

    def differs(self, alone: Any, together: Any) -> str:
        """It must be the same text, but for what happens where two partials meet."""
        return "" if _same(alone, together) else f"{alone!r} alone, {together!r} together with others"

    async def first_output(self, provider: Any) -> float:
        """From the end of the speech until its transcript."""
        async with self.opened(provider) as stream:
            await feed(stream, self.sounds()[0])
            began = time.perf_counter()
            await stream.flush()
            return timed_ms(began)

    async def open_use(self, provider: Any) -> object:
        """A long utterance."""
        return await self.transcribe(provider, b"".join(self.sounds()))

    def bad_inputs(self) -> Sequence[Bad]:
        """Sound that is none, or that nobody expects."""
        sounds = {
            "an empty piece": b"",
            "the loudest noise": noise(1500, level=32_767),
            "a minute at once": noise(60_000, level=3_000),
            "a constant": b"\xff\x7f" * 16_000,
        }

        def give(pcm: bytes) -> Any:
            return lambda provider: self.transcribe(provider, pcm, max(1, len(pcm)))

        return [
            *((what, give(pcm)) for what, pcm in sounds.items()),
            ("a flush of nothing", lambda provider: self.transcribe(provider, b"")),
            ("an unknown language", self._open_unknown),
            ("feeding after close", self._feed_closed),
        ]

    async def _open_unknown(self, provider: Any) -> None:
        stream = provider.open(language="xx-YY", on_partial=lambda text: None)
        await stream.close()

    async def _feed_closed(self, provider: Any) -> None:
        stream = self.open(provider)
        await stream.close()
        await stream.close()
        stream.feed(tone(100))

    @rule
    async def test_transcript(self) -> Seen:
        """It understands speech: at most half of the words are wrong."""
        known = self.speech()
        async with self.ready() as provider:
            rates, heard = [], []
            for one in known:
                text = await bounded(self.transcribe(provider, one.pcm), USE_S, "A transcript")
                if not isinstance(text, str):
                    raise Violation(f"`flush` returns {type(text).__name__}", "return the text as `str`")
                rates.append(error_rate(text, one.text) * len(words(one.text)))
                heard.append((text, one.text))
        rate = sum(rates) / max(1, sum(len(words(one.text)) for one in known))
        if rate > self.error_rate:
            text, said = heard[0]
            raise Violation(
                f"{rate:.0%} of the words are wrong: of {said!r} it understands {text!r}",
                "what it is fed is PCM16 mono at 16 kHz: convert it to what the model wants (rate, floats); for "
                "one that does not understand plain English set `samples` in a suite (tests/test_conformance.py)",
                word_error_rate=rate,
            )
        return Seen(f"{rate:.0%} of the words wrong", word_error_rate=rate)

    @rule
    async def test_silence(self) -> Seen:
        """Silence has no words."""
        async with self.ready() as provider:
            for pcm in (silence(1500), noise(1500, level=8)):
                text = await bounded(self.transcribe(provider, pcm), USE_S, "A transcript")
                if words(text):
                    raise Violation(
                        f"silence gives {text!r}",
                        'return "" where the sound is too quiet for speech: models make words of silence',
                    )
        return Seen("nothing heard")

    @rule
    async def test_any_pieces(self) -> Seen:
        """However the sound is cut into pieces, odd numbers of bytes included, the text is the same."""
        pcm = self.sounds()[0]
        async with self.ready() as provider:
            usual = await bounded(self.transcribe(provider, pcm), USE_S, "A transcript")
            for size in (321, 4_001, len(pcm)):
                text = await bounded(self.transcribe(provider, pcm, size), USE_S, "A transcript")
                if not _same(usual, text):
                    raise Violation(
                        f"in pieces of {size} bytes it understands {text!r}, in pieces of {FRAME} bytes {usual!r}",
                        "collect the bytes as they come; a piece may end in the middle of a sample",
                    )
        return Seen("pieces of 321, 640, 4001 bytes and all at once")

    @rule
    async def test_feed_is_quick(self) -> Seen:
        """`feed` returns at once: at most 2 ms for 20 ms of sound."""
        pcm = b"".join(self.sounds()[:2])
        async with self.ready() as provider:
            best = float("inf")
            for _ in range(TRIES):
                stream = self.open(provider)
                took = []
                for piece in pieces(pcm, FRAME):
                    began = time.perf_counter()
                    stream.feed(piece)
                    took.append(timed_ms(began))
                    # So that what runs beside it, in this loop and in threads, has its time.
                    await asyncio.sleep(0.001)
                await stream.close()
                best = min(best, sorted(took)[int(0.95 * (len(took) - 1))])
        if best > FEED_MS:
            raise Violation(
                f"`feed` takes {best:.1f} ms for 20 ms of sound",
                "only keep the bytes in `feed`; transcribe in a thread of `context.executor(name, workers)`",
                feed_ms=best,
            )
        return Seen(f"{best:.2f} ms", feed_ms=best)

    @rule
    async def test_flush_again(self) -> Seen:
        """`flush` may be repeated, and feeding goes on after it: the next one gives the text of all."""
        pcm = self.sounds()[0]
        async with self.ready() as provider:
            async with self.opened(provider) as stream:
                half = len(pcm) // 4 * 2
                await feed(stream, pcm[:half])
                await bounded(stream.flush(), USE_S, "`flush`")
                await feed(stream, pcm[half:])
                whole = await bounded(stream.flush(), USE_S, "`flush`")
                again = await bounded(stream.flush(), USE_S, "A second `flush`")
            usual = await bounded(self.transcribe(provider, pcm), USE_S, "A transcript")
        if not _same(whole, again):
            raise Violation(
                f"a second `flush` gives {again!r} instead of {whole!r}", "keep the utterance until `reset` is called"
            )
        if not _same(usual, whole):
            raise Violation(
                f"after a `flush` in the middle the text is {whole!r}, without one {usual!r}",
                "`flush` gives the transcript of all that was fed since the last `reset`; it ends nothing",
            )
        return Seen("the text of all")

    @rule
    async def test_feed_during_flush(self) -> Seen:
        """The silence after the last word is fed while `flush` runs, and changes nothing."""
        pcm = self.sounds()[0]
        async with self.ready() as provider:
            usual = await bounded(self.transcribe(provider, pcm), USE_S, "A transcript")
            async with self.opened(provider) as stream:
                await feed(stream, pcm)
                flushing = asyncio.create_task(bounded(stream.flush(), USE_S, "`flush`"))
                while not flushing.done():
                    stream.feed(bytes(audio.byte_count(audio.FRAME_MS, audio.ENGINE_RATE)))
                    await asyncio.wait({flushing}, timeout=audio.FRAME_MS / 1000)
                text = flushing.result()
        if not _same(usual, text):
            raise Violation(
                f"with silence fed while `flush` runs the text is {text!r}, without it {usual!r}",
                "`flush` is about what was fed before it was called; what comes meanwhile is for the next one",
            )
        return Seen("the same text")

    @rule
    async def test_reset(self) -> Seen:
        """`reset` forgets what was fed."""
        sounds = self.sounds()
        first, second = sounds[0], sounds[1 % len(sounds)]
        async with self.ready() as provider:
            async with self.opened(provider) as stream:
                await feed(stream, first)
                stream.reset()
                nothing = await bounded(stream.flush(), USE_S, "`flush`")
                stream.reset()
                await feed(stream, first)
                await bounded(stream.flush(), USE_S, "`flush`")
                stream.reset()
                await feed(stream, second)
                text = await bounded(stream.flush(), USE_S, "`flush`")
            usual = await bounded(self.transcribe(provider, second), USE_S, "A transcript")
        if words(nothing) or not _same(usual, text):
            raise Violation(
                f"after `reset` it gives {nothing or text!r} instead of {'' if words(nothing) else usual!r}",
                "begin a new utterance in `reset`: drop the bytes, the partials and what still runs for them",
            )
        return Seen("forgotten")

    @rule
    async def test_partials(self) -> Seen:
        """Partials come on the event loop's thread, while the stream is open, and are text."""
        _, offer = self.offer()
        pcm = b"".join(self.sounds()) + silence(600)
        here = threading.get_ident()
        heard: list[tuple[object, int]] = []
        async with self.ready() as provider:
            stream = self.open(provider, lambda text: heard.append((text, threading.get_ident())))
            if heard:
                raise Violation("a partial comes before any sound", "call `on_partial` only for what was fed")
            # Partials are made while somebody speaks.
            for piece in pieces(pcm[: audio.byte_count(self.real_s * 1000, audio.ENGINE_RATE)], FRAME):
                stream.feed(piece)
                await asyncio.sleep(audio.FRAME_MS / 1000)
            await bounded(stream.flush(), USE_S, "`flush`")
            count = len(heard)
            await feed(stream, pcm)
            await stream.close()
            closed = len(heard)
            await asyncio.sleep(_AFTER_S)
        if len(heard) > closed:
            raise Violation(
                "a partial comes after `close`",
                "cancel what runs in `close`, and look whether it is closed before you call",
            )
        for text, thread in heard:
            if thread != here:
                raise Violation(
                    "`on_partial` is called from another thread",
                    "call it through `loop.call_soon_threadsafe(on_partial, text)`",
                )
            if not isinstance(text, str):
                raise Violation(f"a partial is {type(text).__name__}", "call `on_partial` with the text so far")
        if offer.capabilities.streaming and not count:
            raise Violation(
                f"its capabilities say `streaming=True`, but no partial came in {self.real_s:g} s of sound",
                "call `on_partial(text_so_far)` while sound is fed, or say `streaming=False`",
            )
        if offer.capabilities.streaming is False and count:
            raise Violation("it gives partials but says `streaming=False`", "say `Capabilities(streaming=True)`")
        return Seen(f"{count} partials in {self.real_s:g} s", partials=count)


async def feed(stream: Any, pcm: bytes, size: int = FRAME) -> None:
    """Feed `pcm` in pieces of `size` bytes, as fast as it takes them."""
    for piece in pieces(pcm, size):
        stream.feed(piece)
        await asyncio.sleep(0)


def _same(one: str, other: str) -> bool:
    return words(one) == words(other) or error_rate(other, one) <= SAME
