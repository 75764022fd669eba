"""Speaks: each speakable chunk through TTS, resampled once, in pieces of bounded length."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from rejoinder.audio import Resampler, byte_count
from rejoinder.providers import TtsDelta, TtsProvider
from rejoinder.settings import Deadlines
from rejoinder.stages.chain import Switched
from rejoinder.stages.punctual import punctual


class Voice:
    """One session's voice at the output `rate` (Hz): its TTS providers by name, in the order in which they are asked.

    Pieces are at most `chunk_ms` long.
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
    ) -> None:
        self._providers = providers
        self._voice = voice
        self._language = language
        self._rate = rate
        self._chunk_ms = chunk_ms
        self._deadlines = deadlines
        self._switched = switched
        self.used = next(iter(providers))
        """The one that spoke last."""

    async def speak(self, text: str) -> AsyncGenerator[TtsDelta, None]:
        """The audio of `text` as PCM16 pieces, and the times of its words where they are known.

        Raises (while iterating):
            ProviderError: TTS failed.
        """
        tts = self._providers[self.used]
        resampler = Resampler(tts.sample_rate, self._rate)
        step = byte_count(self._chunk_ms, tts.sample_rate)
        source = tts.stream(text, voice=self._voice, language=self._language)
        async with aclosing(punctual(source, self._deadlines.first_audio_ms / 1000, self.used)) as stream:
            async for piece in stream:
                if not isinstance(piece, bytes):
                    yield piece
                    continue
                # Resampled piece by piece: a whole minute at once would hold up the event loop.
                for start in range(0, len(piece), step):
                    if converted := resampler.process(piece[start : start + step]):
                        yield converted
        if rest := resampler.process(b"", last=True):
            yield rest
