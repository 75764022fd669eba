"""Speaks: each speakable chunk through TTS, resampled once, in pieces of bounded length."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from rejoinder.audio import Resampler, byte_count
from rejoinder.providers import TtsProvider


@dataclass(frozen=True, slots=True)
class Voice:
    """An agent's voice at the session's output rate (Hz); pieces are at most `chunk_ms` long."""

    tts: TtsProvider
    voice: str | None
    language: str
    rate: int
    chunk_ms: int

    async def speak(self, text: str) -> AsyncGenerator[bytes, None]:
        """The audio of `text` as PCM16 pieces.

        Raises (while iterating):
            ProviderError: TTS failed.
        """
        resampler = Resampler(self.tts.sample_rate, self.rate)
        limit = byte_count(self.chunk_ms, self.rate)
        async with aclosing(self.tts.stream(text, voice=self.voice, language=self.language)) as stream:
            async for pcm in stream:
                converted = resampler.process(pcm)
                for start in range(0, len(converted), limit):
                    yield converted[start : start + limit]
        if rest := resampler.process(b"", last=True):
            yield rest
