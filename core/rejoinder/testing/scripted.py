"""Scripted providers: they answer what they are told to, after stated delays, in the time of the running loop."""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from rejoinder.audio import byte_count
from rejoinder.errors import ProviderError
from rejoinder.providers import LlmDelta, LlmRequest, TtsDelta, VadAdvice, WordTime

LOUD = 1_000
"""A sample at or above this (of 32767) is speech to the scripted VAD."""


def tone(ms: float, rate: int = 16_000, level: int = 8_000) -> bytes:
    """`ms` of a square wave of about 400 Hz: speech to the scripted VAD."""
    half = max(1, rate // 800)
    high, low = level.to_bytes(2, "little", signed=True) * half, (-level).to_bytes(2, "little", signed=True) * half
    size = byte_count(ms, rate)
    return ((high + low) * (size // (4 * half) + 1))[:size]


def noise(ms: float, rate: int = 16_000, level: int = 8_000, seed: int = 0) -> bytes:
    """`ms` of white noise, the same for the same `seed`: speech to the scripted VAD, and no echo of any tone."""
    samples = array("h", (random.Random(seed).choices(range(-level, level), k=byte_count(ms, rate) // 2)))
    return samples.tobytes()


def silence(ms: float, rate: int = 16_000) -> bytes:
    """`ms` of digital silence."""
    return bytes(byte_count(ms, rate))


class _Loaded:
    """Nothing to load or free."""

    async def warm_up(self) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """Nothing to free."""


class EnergyVad:
    """Speech is what is loud: looks at every 16th sample of a 20 ms frame."""

    frame_samples = 320

    def process(self, frame: bytes) -> float:
        """1.0 for a loud frame, else 0.0."""
        return 1.0 if max(memoryview(frame).cast("h")[::16]) >= LOUD else 0.0

    def reset(self) -> None:
        """It remembers nothing."""


@dataclass
class ScriptedVad(_Loaded):
    """A VAD provider on loudness, with times in ms."""

    advice: VadAdvice = field(default_factory=lambda: VadAdvice(start_ms=100, end_silence_ms=300))

    def open(self) -> EnergyVad:
        """A new detector."""
        return EnergyVad()


class ScriptedSttStream:
    """Answers the next text of its script for every utterance; the same one if asked again without a reset."""

    def __init__(self, provider: ScriptedStt, on_partial: Callable[[str], None]) -> None:
        self._provider = provider
        self._on_partial = on_partial
        self._current: str | None = None
        self.fed = 0

    def feed(self, pcm: bytes) -> None:
        """Count the bytes."""
        self.fed += len(pcm)

    async def flush(self) -> str:
        """The text of this utterance, after the provider's delay."""
        if self._provider.delay_s:
            await asyncio.sleep(self._provider.delay_s)
        if self._current is None:
            self._current = self._provider.next_text()
        if self._current == ScriptedStt.FAIL:
            raise ProviderError("scripted", "told to fail")
        return self._current

    def reset(self) -> None:
        """The next utterance gets the next text."""
        self._current = None
        self.fed = 0

    async def close(self) -> None:
        """Nothing to free."""


@dataclass
class ScriptedStt(_Loaded):
    """An STT provider: `texts` one after the other, the last one for ever; `FAIL` raises."""

    texts: Sequence[str] = ("hello there",)
    delay_s: float = 0.0
    FAIL = "<fail>"

    def __post_init__(self) -> None:
        self._next = 0

    def next_text(self) -> str:
        """The text of a new utterance."""
        text = self.texts[min(self._next, len(self.texts) - 1)]
        self._next += 1
        return text

    def open(self, *, language: str, on_partial: Callable[[str], None]) -> ScriptedSttStream:
        """A stream on the shared script."""
        return ScriptedSttStream(self, on_partial)


Script = Callable[[LlmRequest], Iterable[LlmDelta | float | Exception]]


@dataclass
class ScriptedLlm(_Loaded):
    """An LLM provider: `script(request)` gives deltas, pauses (float, seconds) and exceptions to raise.

    `requests` holds what it was asked, `pulled` how many deltas were taken, `closed` how many streams were cut short.
    """

    script: Script = lambda request: ("Hello", " there.")
    requests: list[LlmRequest] = field(default_factory=list)
    pulled: int = 0
    closed: int = 0

    async def stream(self, request: LlmRequest) -> AsyncGenerator[LlmDelta, None]:
        """Play the script."""
        self.requests.append(request)
        done = False
        try:
            for item in self.script(request):
                if isinstance(item, float):
                    await asyncio.sleep(item)
                elif isinstance(item, Exception):
                    raise item
                else:
                    self.pulled += 1
                    yield item
            done = True
        finally:
            self.closed += not done


@dataclass
class ScriptedTts(_Loaded):
    """A TTS provider: a tone of `ms_per_word` for each word, after `delay_s`, in pieces of `piece_ms`.

    `timed`: it says when each word is spoken. With `script`, `script(text)` gives audio, word times, pauses (float,
    seconds) and exceptions to raise instead.
    `spoken` holds what it was asked for, `closed` counts the streams that were cut short.
    """

    sample_rate: int = 24_000
    ms_per_word: float = 200
    piece_ms: float = 200
    delay_s: float = 0.0
    level: int = 8_000
    timed: bool = False
    spoken: list[str] = field(default_factory=list)
    script: Callable[[str], Iterable[TtsDelta | float | Exception]] | None = None
    closed: int = 0

    async def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[TtsDelta, None]:
        """Speak, or play the script."""
        self.spoken.append(text)
        done = False
        try:
            for item in self.script(text) if self.script is not None else self._speech(text):
                if isinstance(item, float):
                    await asyncio.sleep(item)
                elif isinstance(item, Exception):
                    raise item
                else:
                    yield item
            done = True
        finally:
            self.closed += not done

    def _speech(self, text: str) -> Iterable[TtsDelta | float]:
        if self.delay_s:
            yield float(self.delay_s)
        words = text.split() if any(character.isalnum() for character in text) else []
        if self.timed:
            for number, word in enumerate(words):
                yield WordTime(word, number * self.ms_per_word, (number + 1) * self.ms_per_word)
        left = len(words) * self.ms_per_word
        while left > 0:
            yield tone(min(left, self.piece_ms), self.sample_rate, self.level)
            left -= self.piece_ms
