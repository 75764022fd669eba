"""The TTS provider: a connection for each chunk of text, closed when the user interrupts."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from rejoinder.audio import Resampler
from rejoinder.errors import ConfigError, ProviderError, ProviderRejected
from rejoinder.providers import ProviderContext
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.info import TtsProgram, TtsVoice
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeStopped,
    SynthesizeVoice,
)

from rejoinder_wyoming import NAME, Settings
from rejoinder_wyoming.connection import Address, checked, speaks
from rejoinder_wyoming.pcm import Pcm16

GREETING = "Hello."
"""Spoken once, unheard: only the audio itself tells the rate."""


class WyomingTts:
    """Speaks with the voices of a server."""

    sample_rate = 22_050
    """That of the server's usual voice, once it is known."""

    def __init__(self, context: ProviderContext) -> None:
        self._settings: Settings = context.settings
        self._address = Address(self._settings.tts_uri, "tts_uri", self._settings)
        self._program: TtsProgram | None = None

    async def warm_up(self) -> None:
        """Ask the server for its voices, and let it say something, so that its rate is known.

        Raises:
            ConfigError: the address is missing or wrong, or the server has no voice of that name.
            ProviderError: the server is not there or does not work.
        """
        if self._program is not None:
            return
        self._address.check()
        programs = (await self._address.info()).tts
        if not programs or not programs[0].voices:
            raise ConfigError(f"{NAME}: the server of tts_uri has no voice.", fix="Set tts_uri to a TTS server.")
        program = programs[0]
        names = [voice.name for voice in program.voices]
        if self._settings.voice and self._settings.voice not in names:
            raise ConfigError(
                f"{NAME}: the server has no voice {self._settings.voice!r}.",
                fix=f"Set REJOINDER_PLUGINS__WYOMING__VOICE to one of {', '.join(names[:20])}.",
            )
        voice = self._settings.voice or names[0]
        async with aclosing(self._spoken(GREETING, voice, streaming=program.supports_synthesize_streaming)) as chunks:
            async for chunk in chunks:
                self.sample_rate = chunk.rate
                break
            else:
                raise ProviderError(NAME, "the server speaks, but no sound comes", code="empty_audio")
        self._program = program

    async def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[bytes, None]:
        """The speech of `text` as it comes from the server, as PCM16 at `sample_rate`.

        Raises:
            ProviderRejected: the server has no such voice, or none for the language.
            ProviderError: the server failed or went away.
        """
        program = self._program
        if program is None:
            raise ProviderError(NAME, "is not ready.", code="not_ready", fix="Call warm_up() first.")
        chosen = self._choose(program, voice, language)
        if not any(character.isalnum() for character in text):
            return
        pcm: Pcm16 | None = None
        resampler: Resampler | None = None
        async with aclosing(self._spoken(text, chosen, streaming=program.supports_synthesize_streaming)) as chunks:
            async for chunk in chunks:
                if pcm is None or resampler is None:
                    pcm = Pcm16(chunk.width, chunk.channels)
                    # A voice may have another rate than the usual one.
                    resampler = Resampler(chunk.rate, self.sample_rate)
                elif (chunk.width, chunk.channels, chunk.rate) != (pcm.width, pcm.channels, resampler.source):
                    raise ProviderError(NAME, "the server changes the format of the audio in its middle")
                if sound := resampler.process(pcm.convert(chunk.audio)):
                    yield sound
        if (
            resampler is not None
            and resampler.source != resampler.target
            and (end := resampler.process(b"", last=True))
        ):
            yield end

    async def close(self) -> None:
        """Nothing to do: connections end with their streams."""

    def _choose(self, program: TtsProgram, voice: str | None, language: str) -> str:
        by_name: dict[str, TtsVoice] = {one.name: one for one in program.voices}
        if voice is not None:
            if voice not in by_name:
                raise ProviderRejected(
                    NAME,
                    f"the server has no voice {voice[:50]!r}.",
                    code="unknown_voice",
                    fix=f"Use one of {', '.join(list(by_name)[:20])}.",
                )
            return voice
        usual = by_name.get(self._settings.voice)
        for one in [usual] if usual is not None else program.voices:
            if not one.languages or speaks(one.languages, language):
                name: str = one.name
                return name
        raise ProviderRejected(
            NAME, f"has no voice for {language[:50]!r}.", code="unsupported_language", fix="Set another `tts`."
        )

    async def _spoken(self, text: str, voice: str, *, streaming: bool) -> AsyncGenerator[AudioChunk, None]:
        """The audio for `text` in the server's own format."""
        wanted = SynthesizeVoice(name=voice, speaker=self._settings.speaker or None)
        text = text.encode("utf-8", "ignore").decode()
        async with self._address.connect() as connection:
            if streaming:
                await connection.send(SynthesizeStart(voice=wanted))
                await connection.send(SynthesizeChunk(text=text))
                await connection.send(SynthesizeStop())
            else:
                await connection.send(Synthesize(text=text, voice=wanted))
            while True:
                event = await connection.receive()
                if AudioChunk.is_type(event.type):
                    chunk: AudioChunk = checked(AudioChunk, event)
                    if chunk.audio:
                        yield chunk
                elif AudioStart.is_type(event.type):
                    continue
                # Asked piece by piece, it may make several clips, each with its end.
                elif SynthesizeStopped.is_type(event.type) or (not streaming and AudioStop.is_type(event.type)):
                    return
