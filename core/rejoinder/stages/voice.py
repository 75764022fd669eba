"""Speaks: each speakable chunk through TTS, the next provider if one fails, and kept phrases without any."""

from __future__ import annotations

import functools
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import NamedTuple

from rejoinder.audio import SAMPLE_BYTES, Resampler, byte_count, from_float
from rejoinder.breaker import Breaker
from rejoinder.errors import ProviderError
from rejoinder.guard import wrong_type
from rejoinder.providers import TtsDelta, TtsProvider, WordTime
from rejoinder.settings import Deadlines
from rejoinder.stages.chain import Switched, cause_of, log_failure
from rejoinder.stages.chunker import Chunker
from rejoinder.stages.punctual import Closing, within

log = logging.getLogger(__name__)

_STICKY_S = 30.0
"""A session stays at least this long with the provider it fell over to: a voice that changes back and forth is worse
than the second best."""
_STICKY_MOST_S = 300.0
_JUDGED_LETTERS = 40
_PACE = (4.0, 35.0)
"""Letters a second between which English and its like are spoken; people stay between 8 and 20."""
_ATTEMPTS = 2
"""Of a provider that answers without audio; some do now and then."""


class PhraseKey(NamedTuple):
    """What makes two recordings the same. `rate` is the audio's, in Hz."""

    provider: str
    voice: str | None
    language: str
    rate: int
    text: str


class PhraseCache:
    """Spoken phrases that sessions share; at most `max_bytes` of audio, those not used for longest go first."""

    def __init__(self, max_bytes: int = 32 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._phrases: OrderedDict[PhraseKey, tuple[TtsDelta, ...]] = OrderedDict()
        self._claimed: set[PhraseKey] = set()
        self.size = 0
        """Bytes of audio in it."""

    def get(self, key: PhraseKey) -> tuple[TtsDelta, ...] | None:
        """The phrase, as a TTS would stream it; None if it is not there."""
        phrase = self._phrases.get(key)
        if phrase is not None:
            self._phrases.move_to_end(key)
        return phrase

    def put(self, key: PhraseKey, phrase: Iterable[TtsDelta]) -> None:
        """Keep a phrase, unless it alone is too large."""
        items = tuple(phrase)
        if _audio_bytes(items) > self._max_bytes:
            return
        self._drop(key)
        self._phrases[key] = items
        self.size += _audio_bytes(items)
        while self.size > self._max_bytes:
            self._drop(next(iter(self._phrases)))

    def _drop(self, key: PhraseKey) -> None:
        if (phrase := self._phrases.pop(key, None)) is not None:
            self.size -= _audio_bytes(phrase)

    def claim(self, key: PhraseKey) -> bool:
        """Whether the caller is to render it: it is not there, and nobody else is at it. Then `release` it."""
        if key in self._phrases or key in self._claimed:
            return False
        self._claimed.add(key)
        return True

    def release(self, key: PhraseKey) -> None:
        """The caller is done with it, in whatever way."""
        self._claimed.discard(key)


class Voice:
    """One session's voice at the output `rate` (Hz): its TTS providers by name, in the order in which they are asked.

    Pieces are at most `chunk_ms` long. Each provider has `deadlines.first_audio_ms` for the first audio of a chunk,
    and between its pieces. `phrases` and `breaker` may be shared by the sessions of a process. `odd(provider, what)` is
    told of one whose speech can hardly be right.
    """

    def __init__(
        self,
        providers: Mapping[str, TtsProvider],
        *,
        voice: str | None,
        language: str,
        rate: int,
        chunk_ms: int,
        deadlines: Deadlines,
        switched: Switched,
        breaker: Breaker | None = None,
        phrases: PhraseCache | None = None,
        odd: Callable[[str, str], None] = lambda provider, what: None,
    ) -> None:
        self._odd = odd
        self._providers = providers
        self._voice = voice
        self._language = language
        self._rate = rate
        self._chunk_ms = chunk_ms
        self._limit_s = deadlines.first_audio_ms / 1000
        self._switched = switched
        self._breaker = breaker
        self._sticky = Breaker(failures=1, least_s=_STICKY_S, most_s=_STICKY_MOST_S)
        self._phrases = PhraseCache() if phrases is None else phrases
        self.used = next(iter(providers))
        """The one that spoke last."""

    async def speak(self, text: str) -> AsyncGenerator[TtsDelta, None]:
        """The audio of `text` as PCM16 pieces, and the times of its words where they are known.

        A kept phrase comes at once, without asking anybody. A provider that fails before its first audio is replaced
        by the next within the chunk, one that breaks later from the next chunk on.

        Raises (while iterating):
            ProviderTimeout: the last provider was late, or the one that speaks did not go on.
            ProviderError: the last one failed or made no audio (`empty_audio`), or the one that speaks broke.
        """
        if (kept := self._kept(text)) is not None:
            for item in kept:
                yield item
            return
        async with aclosing(self._speak(text, self._switched, self._spoke)) as items:
            async for item in items:
                yield item

    async def keep(self, texts: Iterable[str]) -> None:
        """Render fixed phrases (fillers, apologies) ahead, so that `speak` has them at once, even without a provider.

        Takes as long as speaking them; phrases that are there already, or that another session renders, cost
        nothing. What fails is logged and left out. May be cancelled at any time.
        """
        for chunk in (chunk for text in texts for chunk in chunks_of(text)):
            wanted = self._key(self._order()[0], chunk)
            if not self._phrases.claim(wanted):
                continue
            spoke: list[str] = []
            try:
                async with aclosing(self._speak(chunk, _untold, spoke.append)) as items:
                    phrase = [item async for item in items]
                if spoke:
                    self._phrases.put(self._key(spoke[0], chunk), phrase)
            except Exception as error:  # noqa: BLE001 - it only saves time
                log.warning("the phrase %r could not be kept: %r", chunk, error)
            finally:
                self._phrases.release(wanted)

    def earcon(self) -> bytes:
        """A soft tone of two notes, about 400 ms of PCM16 at the output rate: for when nothing else can be heard."""
        return _earcon(self._rate)

    def _kept(self, text: str) -> list[TtsDelta] | None:
        """The kept audio of `text`; None if a part of it is missing."""
        chunks = chunks_of(text)
        for name in self._order():
            phrases = [self._phrases.get(self._key(name, chunk)) for chunk in chunks]
            found = [phrase for phrase in phrases if phrase is not None]
            if found and len(found) == len(chunks):
                self.used = name
                return _joined(found, self._rate)
        return None

    def _key(self, name: str, text: str) -> PhraseKey:
        return PhraseKey(name, self._voice, self._language, self._rate, text)

    def _order(self) -> list[str]:
        names = list(self._providers)
        if self._breaker is not None:
            names = self._breaker.order("tts", names)
        return self._sticky.order("tts", names)

    def _spoke(self, name: str) -> None:
        self.used = name

    async def _speak(
        self, text: str, switched: Switched, spoke: Callable[[str], None]
    ) -> AsyncGenerator[TtsDelta, None]:
        audible = any(character.isalnum() for character in text)
        order = self._order()
        for name, to in zip(order, [*order[1:], ""], strict=True):
            self._asked(name)
            failure: Exception | None = None
            heard = False
            for _ in range(_ATTEMPTS):
                try:
                    async with aclosing(self._stream(name, text)) as items:
                        async for item in items:
                            if not heard:
                                heard = True
                                spoke(name)
                            yield item
                except Exception as error:  # noqa: BLE001 - told below, and raised if there is no other
                    failure = error
                    break
                if heard or not audible:
                    self._worked(name, heard)
                    return
            failure = failure or ProviderError(name, f"it made no audio of {len(text)} characters", code="empty_audio")
            to = "" if heard else to
            self._failed(name, failure)
            log_failure("tts", name, to, failure)
            switched("tts", name, to, cause_of(failure))
            if not to:
                raise failure

    async def _stream(self, name: str, text: str) -> AsyncGenerator[TtsDelta, None]:
        """What one provider makes of `text`, at the output rate; nothing before its first audio."""
        tts = self._providers[name]
        resampler = Resampler(tts.sample_rate, self._rate)
        step = byte_count(self._chunk_ms, tts.sample_rate)
        words: list[WordTime] = []
        begun = timed = False
        made = 0
        async with Closing(_opened(tts, name, text, self._voice, self._language), name) as stream:
            while (piece := await within(_audio(stream, words), self._limit_s, name)) is not None:
                made += len(piece)
                timed = timed or bool(words)
                # Resampled piece by piece: a whole minute at once would hold up the event loop.
                for start in range(0, len(piece), step):
                    if converted := resampler.process(piece[start : start + step]):
                        begun = True
                        while words:
                            yield words.pop(0)
                        yield converted
        rest = resampler.process(b"", last=True)
        if begun or rest:
            while words:
                yield words.pop(0)
        if rest:
            yield rest
        self._judge_pace(name, text, made / byte_count(1000, tts.sample_rate), timed)

    def _judge_pace(self, name: str, text: str, seconds: float, timed: bool) -> None:
        """Look whether `text` can have been spoken in that time; it cannot where the sample rate is a wrong one."""
        letters = sum(map(str.isalpha, text))
        # Who knows when each word is spoken knows how fast; other scripts need fewer letters.
        if timed or letters < _JUDGED_LETTERS or not text.isascii() or not seconds:
            return
        if not _PACE[0] <= letters / seconds <= _PACE[1]:
            rate = self._providers[name].sample_rate
            self._odd(name, f"{letters} letters were spoken in {seconds:.1f} s; is its sample_rate right ({rate} Hz)")

    def _asked(self, name: str) -> None:
        self._sticky.asked("tts", name)
        if self._breaker is not None:
            self._breaker.asked("tts", name)

    def _failed(self, name: str, error: Exception) -> None:
        self._sticky.failed("tts", name)
        if self._breaker is not None:
            self._breaker.failed("tts", name, error)

    def _worked(self, name: str, heard: bool) -> None:
        # Text with nothing to say tells nothing about the provider.
        if heard:
            self._sticky.worked("tts", name)
            if self._breaker is not None:
                self._breaker.worked("tts", name)


def _untold(kind: str, provider: str, to: str, cause: str) -> None:
    """For what no user waits for."""


async def _opened(
    tts: TtsProvider, name: str, text: str, voice: str | None, language: str
) -> AsyncGenerator[TtsDelta, None]:
    # Makes the stream on first use: one that fails to be made fails like one that breaks.
    known = getattr(tts, "voices", None)
    if known is not None and voice not in known:
        # In a chain the agent's voice is the first one's; better another voice than none.
        voice = None
    async with aclosing(tts.stream(text, voice=voice, language=language)) as items:
        async for item in items:
            if not isinstance(item, bytes | WordTime):
                raise wrong_type(name, "stream", "bytes or a WordTime", item)
            yield item


async def _audio(stream: AsyncGenerator[TtsDelta, None], words: list[WordTime]) -> bytes | None:
    """The next audio; None at the end. The times that come before it are added to `words`."""
    async for item in stream:
        if isinstance(item, WordTime):
            words.append(item)
        elif item:
            return item
    return None


def chunks_of(text: str) -> list[str]:
    """`text` in the chunks in which a reply of it is spoken, so that a kept phrase is found chunk by chunk, too."""
    chunker = Chunker()
    return chunker.feed(text) + chunker.finish()


def _joined(phrases: list[tuple[TtsDelta, ...]], rate: int) -> list[TtsDelta]:
    """Phrases one after the other; word times count from the start of the first."""
    items: list[TtsDelta] = []
    offset_ms = 0.0
    for phrase in phrases:
        for item in phrase:
            if isinstance(item, WordTime):
                item = WordTime(item.text, item.start_ms + offset_ms, item.end_ms + offset_ms)
            items.append(item)
        offset_ms += _audio_bytes(phrase) * 1000 / (SAMPLE_BYTES * rate)
    return items


def _audio_bytes(phrase: Iterable[TtsDelta]) -> int:
    return sum(len(item) for item in phrase if isinstance(item, bytes))


@functools.lru_cache(maxsize=8)
def _earcon(rate: int) -> bytes:
    import numpy as np

    notes = []
    for hz, ms in ((659.26, 160), (493.88, 240)):
        at = np.arange(int(rate * ms / 1000)) / rate
        # A soft start without a click, and a decay like a chime's that has ended where the note ends.
        envelope = np.minimum(1, at / 0.012) * np.exp(-at / 0.09) * np.minimum(1, (ms / 1000 - at) / 0.02)
        notes.append((0.16 * envelope * np.sin(2 * np.pi * hz * at)).astype(np.float32))
    return from_float(np.concatenate(notes))
