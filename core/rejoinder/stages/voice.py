"""Speaks: each speakable chunk through TTS, resampled once, in pieces of bounded length."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from rejoinder.audio import Resampler, byte_count
from rejoinder.providers import TtsProvider
from rejoinder.stages.punctual import punctual


@dataclass(frozen=True, slots=True)
class Voice:
    """An agent's voice at the output `rate` (Hz); pieces are at most `chunk_ms` long and come within `limit_s`."""

    tts: TtsProvider
    name: str
    voice: str | None
    language: str
    rate: int
    chunk_ms: int
    limit_s: float

    async def speak(self, text: str) -> AsyncGenerator[bytes, None]:
        """The audio of `text` as PCM16 pieces.

        Raises (while iterating):
            ProviderError: TTS failed.
        """
        resampler = Resampler(self.tts.sample_rate, self.rate)
        step = byte_count(self.chunk_ms, self.tts.sample_rate)
        source = self.tts.stream(text, voice=self.voice, language=self.language)
        async with aclosing(punctual(source, self.limit_s, self.name)) as stream:
            async for pcm in stream:
                # Resampled piece by piece: a whole minute at once would hold up the event loop.
                for start in range(0, len(pcm), step):
                    if converted := resampler.process(pcm[start : start + step]):
                        yield converted
        if rest := resampler.process(b"", last=True):
            yield rest
