"""The voice: TTS that hangs, breaks or stays silent is replaced, kept phrases need none, and the rates are right."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rejoinder.audio import byte_count, duration_ms
from rejoinder.breaker import Breaker
from rejoinder.errors import ProviderError, ProviderTimeout
from rejoinder.providers import TtsDelta, TtsProvider, WordTime
from rejoinder.settings import Deadlines
from rejoinder.stages.voice import PhraseCache, PhraseKey, Voice
from rejoinder.testing.scripted import ScriptedTts, tone
from rejoinder.testing.virtual_time import run_virtual

RATE = 24_000
HANG = 1e6
REFUSAL = ProviderError("a", "no", code="provider_rate_limited")

Item = TtsDelta | float | Exception


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """In virtual time; nothing may be left running, and nothing may go wrong unseen."""
    complaints: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        await main()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        gc.collect(1)  # what was made in here is young
        await asyncio.sleep(0)

    run_virtual(watched())
    assert complaints == []


def now() -> float:
    return asyncio.get_running_loop().time()


def plays(*items: Item) -> ScriptedTts:
    """A TTS that does the same for every text."""
    return ScriptedTts(script=lambda text: items)


class Mouth(Voice):
    """With providers a, b, c and a list of what was told."""

    def __init__(self, *providers: TtsProvider, **options: Any) -> None:
        self.told: list[tuple[str, ...]] = []
        super().__init__(
            dict(zip("abc", providers, strict=False)),
            **{"voice": None, "language": "en", "rate": RATE, "chunk_ms": 1000, **options},
            deadlines=Deadlines(first_audio_ms=1000),
            switched=lambda *what: self.told.append(what),
        )

    async def says(self, text: str, into: list[TtsDelta] | None = None) -> list[TtsDelta]:
        got = [] if into is None else into
        async with aclosing(self.speak(text)) as items:
            async for item in items:
                got.append(item)
        return got


def ms(items: Iterable[TtsDelta], rate: int = RATE) -> float:
    return duration_ms(b"".join(item for item in items if isinstance(item, bytes)), rate)


def test_the_first_speaks_and_nobody_else_is_asked() -> None:
    async def main() -> None:
        a, b = ScriptedTts(), ScriptedTts()
        voice = Mouth(a, b)
        assert ms(await voice.says("Hello there.")) == 400
        assert (voice.used, voice.told, b.spoken) == ("a", [], [])

    run(main)


@pytest.mark.parametrize(
    ("items", "cause", "lasts", "asked"),
    [
        ([HANG], "provider_timeout", 1.0, 1),
        ([0.6, WordTime("Hello", 0, 100), 0.6, tone(100)], "provider_timeout", 1.0, 1),
        ([0.3, REFUSAL], "provider_rate_limited", 0.3, 1),
        ([0.3, RuntimeError("a bug")], "provider_failed", 0.3, 1),
        ([0.3], "empty_audio", 0.6, 2),
        ([b"", WordTime("Hello", 0, 100), b""], "empty_audio", 0.0, 2),
    ],
    ids=["hangs", "only times", "refuses", "raises", "nothing", "no audio"],
)
def test_one_that_gives_no_audio_is_replaced_within_the_chunk(
    items: list[Item], cause: str, lasts: float, asked: int
) -> None:
    async def main() -> None:
        a, b = plays(*items), ScriptedTts(script=lambda text: [0.2, WordTime("Hello", 5, 95), tone(100, RATE)])
        voice = Mouth(a, b)
        assert await voice.says("Hello.") == [WordTime("Hello", 5, 95), tone(100, RATE)]
        assert now() == pytest.approx(lasts + 0.2)
        assert voice.told == [("tts", "a", "b", cause)]
        assert voice.used == "b"
        assert len(a.spoken) == asked

    run(main)


def test_one_that_answers_the_second_time_is_not_replaced() -> None:
    async def main() -> None:
        a = ScriptedTts(script=lambda text: [tone(100, RATE)] if len(a.spoken) > 1 else [])
        voice = Mouth(a, ScriptedTts())
        assert ms(await voice.says("Hello.")) == 100
        assert voice.told == []

    run(main)


def test_one_that_cannot_even_make_a_stream_is_replaced() -> None:
    class Unmade(ScriptedTts):
        def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[TtsDelta, None]:
            raise ValueError("no such voice")

    async def main() -> None:
        voice = Mouth(Unmade(), ScriptedTts())
        assert ms(await voice.says("Hello.")) == 200
        assert voice.told == [("tts", "a", "b", "provider_failed")]

    run(main)


@pytest.mark.parametrize("text", ["...", "—", "!?", ""])
def test_text_with_nothing_to_say_is_no_failure(text: str) -> None:
    async def main() -> None:
        a, b = plays(), ScriptedTts()
        voice = Mouth(a, b)
        assert await voice.says(text) == []
        assert (voice.told, b.spoken, len(a.spoken)) == ([], [], 1)

    run(main)


@pytest.mark.parametrize("text", ["7", "é", "你好"])
def test_any_letter_or_digit_must_be_heard(text: str) -> None:
    async def main() -> None:
        with pytest.raises(ProviderError) as caught:
            await Mouth(plays()).says(text)
        assert caught.value.code == "empty_audio"

    run(main)


@pytest.mark.parametrize(
    ("fate", "error", "cause", "lasts"),
    [
        ([HANG], ProviderTimeout, "provider_timeout", 1.9),
        ([REFUSAL], ProviderError, "provider_rate_limited", 0.9),
        ([RuntimeError("a bug")], RuntimeError, "provider_failed", 0.9),
    ],
    ids=["hangs", "breaks", "raises"],
)
def test_after_its_first_audio_it_is_replaced_from_the_next_chunk_on(
    fate: list[Item], error: type[Exception], cause: str, lasts: float
) -> None:
    async def main() -> None:
        a, b = plays(tone(100, RATE), 0.9, tone(100, RATE), *fate), ScriptedTts()
        voice = Mouth(a, b)
        got: list[TtsDelta] = []
        with pytest.raises(error):
            await voice.says("Hello there.", into=got)
        assert ms(got) == 200
        assert now() == pytest.approx(lasts)
        assert (voice.told, b.spoken) == ([("tts", "a", "", cause)], [])
        assert ms(await voice.says("Once more.")) == 400
        assert (voice.used, len(a.spoken)) == ("b", 1)

    run(main)


def test_a_session_stays_with_the_voice_it_fell_over_to_and_comes_back() -> None:
    async def main() -> None:
        a, b = plays(REFUSAL), ScriptedTts()
        voice = Mouth(a, b)
        for _ in range(3):
            await voice.says("Hello.")
            await asyncio.sleep(8)
        assert (len(a.spoken), len(b.spoken), len(voice.told)) == (1, 3, 1)
        await asyncio.sleep(10)
        await voice.says("Hello.")
        assert len(a.spoken) == 2
        await asyncio.sleep(35)
        await voice.says("Hello.")
        assert len(a.spoken) == 2, "it stays longer after a trial that failed"
        await asyncio.sleep(30)
        a.script = None
        await voice.says("Hello.")
        await voice.says("Hello.")
        assert voice.used == "a"

    run(main)


def test_a_shared_breaker_spares_other_sessions_the_wait() -> None:
    async def main() -> None:
        breaker = Breaker()
        a = plays(HANG)
        for _ in range(2):
            await Mouth(a, ScriptedTts(), breaker=breaker).says("Hello.")
        began = now()
        await Mouth(a, ScriptedTts(), breaker=breaker).says("Hello.")
        assert now() == began
        await Mouth(a, ScriptedTts()).says("Hello.")
        assert now() == began + 1

    run(main)


def test_the_last_failure_is_raised() -> None:
    async def main() -> None:
        voice = Mouth(plays(HANG), plays(REFUSAL))
        with pytest.raises(ProviderError) as caught:
            await voice.says("Hello.")
        assert caught.value is REFUSAL
        assert voice.told == [("tts", "a", "b", "provider_timeout"), ("tts", "b", "", "provider_rate_limited")]

    run(main)


@pytest.mark.parametrize("own", [8_000, 16_000, 22_050, 24_000, 48_000])
def test_every_provider_is_resampled_from_its_own_rate(own: int) -> None:
    async def main() -> None:
        # A whole chunk at once is cut into pieces of bounded length.
        b = ScriptedTts(sample_rate=own, script=lambda text: [tone(2500, own)])
        voice = Mouth(plays(), b, rate=16_000, chunk_ms=400)
        items = await voice.says("Hello.")
        assert ms(items, 16_000) == pytest.approx(2500, abs=1)
        assert all(len(item) <= byte_count(450, 16_000) for item in items if isinstance(item, bytes))
        samples = np.frombuffer(b"".join(item for item in items if isinstance(item, bytes)), "<i2")
        crossings = np.count_nonzero(np.diff(np.signbit(samples.astype(int))))
        assert crossings / 2 / 2.5 == pytest.approx(400, rel=0.05), "the pitch is kept"

    run(main)


def test_word_times_keep_their_place() -> None:
    async def main() -> None:
        one, two, three = WordTime("One", 0, 90), WordTime("two", 100, 190), WordTime("three", 200, 290)
        items: list[Item] = [one, tone(100, RATE), two, three, tone(100, RATE), tone(100, RATE)]
        assert await Mouth(plays(*items)).says("One two three") == items
        late: list[Item] = [tone(100, RATE), one]
        assert await Mouth(plays(*late)).says("One") == late

    run(main)


@settings(max_examples=80, deadline=None)
@given(after=st.floats(0, 4), polite=st.booleans(), kept=st.booleans())
def test_a_listener_may_go_at_any_time(after: float, polite: bool, kept: bool) -> None:
    async def main() -> None:
        opened = 0

        class Counted(ScriptedTts):
            async def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[TtsDelta, None]:
                nonlocal opened
                opened += 1
                try:
                    async with aclosing(super().stream(text, voice=voice, language=language)) as items:
                        async for item in items:
                            yield item
                finally:
                    opened -= 1

        piece = tone(100, RATE)
        voice = Mouth(
            Counted(script=lambda text: [HANG]),
            Counted(script=lambda text: [0.7]),
            Counted(script=lambda text: [0.3, piece, 0.4, piece, 0.6, REFUSAL]),
        )
        stop = asyncio.Event()

        async def listen() -> None:
            if kept:
                await voice.keep(["Hello."])
            async with aclosing(voice.speak("Hello.")) as items:
                async for _ in items:
                    if stop.is_set():
                        return

        listener = asyncio.create_task(listen())
        await asyncio.sleep(after)
        stop.set()
        if not polite:
            listener.cancel()
        await asyncio.wait({listener})
        assert opened == 0
        if not listener.cancelled():
            listener.exception()

    run(main)


fates = st.sampled_from(["speaks", "hangs", "raises", "empty", "breaks"])


@settings(max_examples=80, deadline=None)
@given(st.lists(fates, min_size=1, max_size=3), st.integers(1, 3))
def test_every_chunk_is_spoken_if_anybody_can(plans: list[str], chunks: int) -> None:
    piece = tone(50, RATE)
    scripts: dict[str, list[Item]] = {
        "speaks": [0.1, piece],
        "hangs": [HANG],
        "raises": [0.1, REFUSAL],
        "empty": [0.1],
        "breaks": [0.1, piece, REFUSAL],
    }

    async def main() -> None:
        voice = Mouth(*(plays(*scripts[plan]) for plan in plans))
        broken: set[int] = set()
        for _ in range(chunks):
            began = now()
            # Who has failed is asked last; who broke off was heard at least in part.
            order = [index for index in range(len(plans)) if index not in broken] + sorted(broken)
            got: list[TtsDelta] = []
            failed = False
            try:
                await voice.says("Hello.", into=got)
            except ProviderError:
                failed = True
            assert now() - began <= 1.2 * len(plans)
            for index in order:
                if plans[index] != "speaks":
                    broken.add(index)
                if plans[index] in ("speaks", "breaks"):
                    assert got == [piece]
                    assert failed == (plans[index] == "breaks")
                    assert voice.used == "abc"[index]
                    break
            else:
                assert failed
                assert got == []

    run(main)


# --- kept phrases ---------------------------------------------------------------------------------------------


def test_a_kept_phrase_comes_at_once_and_without_a_provider() -> None:
    async def main() -> None:
        a = ScriptedTts(delay_s=0.5)
        voice = Mouth(a)
        await voice.keep(["One moment, please.", "Sorry!"])
        asked, began = len(a.spoken), now()
        a.script = lambda text: [REFUSAL]
        assert ms(await voice.says("One moment, please.")) == 600
        assert ms(await voice.says(" Sorry! ")) == 200
        # As a reply's chunker cuts it.
        assert ms(await voice.says("One moment,")) + ms(await voice.says("please.")) == 600
        assert (now(), len(a.spoken), voice.told) == (began, asked, [])
        with pytest.raises(ProviderError):
            await voice.says("Something else.")

    run(main)


def test_kept_phrases_have_the_output_rate_and_their_word_times() -> None:
    async def main() -> None:
        word = WordTime("word", 10, 90)
        voice = Mouth(ScriptedTts(script=lambda text: [word, tone(2000, 16_000)], sample_rate=16_000), rate=48_000)
        live = await voice.says("One moment,")
        await voice.keep(["One moment, please."])
        kept = await voice.says("One moment, please.")
        assert kept[: len(live)] == live
        assert ms(kept, 48_000) == pytest.approx(4000, abs=1)
        assert [item for item in kept if isinstance(item, WordTime)] == [word, WordTime("word", 2010, 2090)]
        assert all(len(item) <= byte_count(1050, 48_000) for item in kept if isinstance(item, bytes))

    run(main)


def test_what_cannot_be_kept_is_left_out_and_tried_again() -> None:
    async def main() -> None:
        a = ScriptedTts(script=lambda text: [REFUSAL] if text == "Bad." else [tone(100, RATE)])
        voice = Mouth(a)
        await voice.keep(["Bad.", "Good."])
        assert voice.told == [], "nobody waits for it"
        assert ms(await voice.says("Good.")) == 100
        with pytest.raises(ProviderError):
            await voice.says("Bad.")
        a.script = None
        await voice.keep(["Bad.", "Good."])
        assert a.spoken == ["Bad.", "Good.", "Bad.", "Bad."]

    run(main)


def test_sessions_share_phrases_and_render_each_once() -> None:
    async def main() -> None:
        phrases = PhraseCache()
        a, b = ScriptedTts(delay_s=0.5), ScriptedTts()
        voices = [Mouth(a, b, phrases=phrases) for _ in range(3)]
        async with asyncio.TaskGroup() as group:
            for voice in voices:
                group.create_task(voice.keep(["Hello.", "Hello.", "Bye."]))
        assert sorted(a.spoken) == ["Bye.", "Hello."]
        for voice in voices:
            assert ms(await voice.says("Hello.")) == ms(await voice.says("Bye.")) == 200
        assert len(a.spoken) == 2
        for other in ({"language": "de"}, {"voice": "low"}, {"rate": 16_000}):
            asked = len(a.spoken)
            await Mouth(a, phrases=phrases, **other).says("Hello.")
            assert len(a.spoken) == asked + 1, other

    run(main)


def test_keeping_may_be_cancelled_and_done_by_another() -> None:
    async def main() -> None:
        phrases = PhraseCache()
        a = ScriptedTts(delay_s=0.5)
        keeping = asyncio.create_task(Mouth(a, phrases=phrases).keep(["Hello."]))
        await asyncio.sleep(0.2)
        keeping.cancel()
        await asyncio.wait({keeping})
        voice = Mouth(a, phrases=phrases)
        await voice.keep(["Hello."])
        assert ms(await voice.says("Hello.")) == 200
        assert a.spoken == ["Hello.", "Hello."]

    run(main)


def test_phrases_are_in_the_voice_that_speaks_now() -> None:
    async def main() -> None:
        a, b = ScriptedTts(ms_per_word=100), ScriptedTts(ms_per_word=300)
        voice = Mouth(a, b)
        await voice.keep(["Hello."])
        a.script = lambda text: [REFUSAL]
        await voice.says("Oh.")
        assert ms(await voice.says("Hello.")) == 100, "better another voice than none"
        await voice.keep(["Hello."])
        assert ms(await voice.says("Hello.")) == 300
        assert voice.used == "b"

    run(main)


def test_a_phrase_rendered_by_a_stand_in_is_rendered_again() -> None:
    async def main() -> None:
        phrases = PhraseCache()
        a, b = ScriptedTts(ms_per_word=100, script=lambda text: [HANG]), ScriptedTts(ms_per_word=300)
        await Mouth(a, b, phrases=phrases).keep(["Hello."])
        a.script = None
        voice = Mouth(a, b, phrases=phrases)
        assert ms(await voice.says("Hello.")) == 300, "better another voice than a wait"
        await voice.keep(["Hello."])
        assert ms(await voice.says("Hello.")) == 100

    run(main)


def test_the_cache_is_bounded_and_keeps_what_is_used() -> None:
    cache = PhraseCache(max_bytes=1000)
    keys = [PhraseKey("a", None, "en", RATE, str(number)) for number in range(5)]
    for key in keys[:3]:
        cache.put(key, [bytes(150), WordTime("x", 0, 1), bytes(150)])
    assert cache.get(keys[0]) is not None
    cache.put(keys[3], [bytes(300)])
    assert [cache.get(key) is not None for key in keys] == [True, False, True, True, False]
    cache.put(keys[4], [bytes(1001)])
    assert cache.get(keys[4]) is None
    cache.put(keys[0], [bytes(400)])
    assert cache.size == 1000
    assert cache.claim(keys[4])
    assert not cache.claim(keys[4])
    cache.release(keys[4])
    assert cache.claim(keys[4])
    assert not cache.claim(keys[0])


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_the_earcon_is_short_soft_and_without_clicks(rate: int) -> None:
    pcm = Mouth(ScriptedTts(), rate=rate).earcon()
    assert duration_ms(pcm, rate) == pytest.approx(400, abs=1)
    samples = np.frombuffer(pcm, "<i2").astype(float) / 32768
    assert 0.05 < np.abs(samples).max() < 0.25
    assert abs(samples[0]) < 0.01
    assert abs(samples[-1]) < 0.01
    half = len(samples) * 4 // 10
    pitches = [
        np.argmax(np.abs(np.fft.rfft(part, n=rate))) for part in (samples[:half], samples[half:])
    ]  # bins of 1 Hz
    assert pitches == [pytest.approx(659, abs=8), pytest.approx(494, abs=8)]
    middle = samples[half - rate // 500 : half + rate // 500]
    assert np.abs(np.diff(middle)).max() < 0.05


def test_a_voice_that_a_provider_says_it_has_not_is_not_asked_for() -> None:
    class Choosy(ScriptedTts):
        voices: tuple[str, ...] = ("heart",)

        def __init__(self, *items: Item) -> None:
            super().__init__(script=lambda text: items)
            self.asked: list[str | None] = []

        def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[TtsDelta, None]:
            self.asked.append(voice)
            return super().stream(text, voice=voice, language=language)

    async def main() -> None:
        first, second = Choosy(REFUSAL), Choosy(tone(60, RATE))
        first.voices = ("alloy", "heart")
        await Mouth(first, second, voice="alloy").says("Yes.")
        assert (first.asked, second.asked) == (["alloy"], [None])
        await Mouth(Choosy(REFUSAL), second, voice="heart").says("Yes.")
        assert second.asked == [None, "heart"]

    run(main)
