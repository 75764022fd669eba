"""`POST /v1/audio/speech`: text is spoken sentence by sentence, and sent while the rest is still to be spoken."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import msgspec
from litestar import Request, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from litestar.types import ASGIApp

from rejoinder.app import Runtime
from rejoinder.breaker import Breaker
from rejoinder.errors import ProviderError
from rejoinder.providers import TtsDelta, TtsProvider
from rejoinder.stages.chunker import Chunker
from rejoinder.stages.voice import Voice
from rejoinder_adapters.openai_api.chat import estimate_tokens
from rejoinder_adapters.openai_api.chat_routes import untold
from rejoinder_adapters.openai_api.codecs import FORMATS, SPEECH_RATE, change_speed, encode, need_codecs
from rejoinder_adapters.openai_api.errors import bad
from rejoinder_adapters.openai_api.models import Speaking, speaking
from rejoinder_adapters.openai_api.streaming import ByteStream, Events, event, failure, start

STOCK_VOICES = frozenset(
    ("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse")
)
"""OpenAI's own voices, which clients have built in: a provider that lacks one speaks with the agent's voice."""
MAX_BODY = 1024 * 1024
"""Bytes of a request; `limits.text_chars` is refused politely."""
_FED = 400
"""Characters that the chunker is given at once: it searches all that it holds, again and again."""


class SpeechRequest(msgspec.Struct):
    """What of the request counts here; everything else is accepted and ignored."""

    input: str
    model: str = ""
    voice: str | dict[str, Any] | None = None
    response_format: str | None = None
    speed: float | None = None
    stream_format: str | None = None

    def check(self, most_chars: int) -> None:
        """Refuse what cannot be done.

        Raises:
            ApiError: 400, naming the field.
        """
        if not any(character.isalnum() for character in self.input):
            raise bad("input", "input holds nothing to say.")
        if len(self.input) > most_chars:
            raise bad("input", f"input is longer than {most_chars} characters (limits.text_chars).", "string_too_long")
        if self.format() not in FORMATS:
            raise bad("response_format", f"response_format must be one of {', '.join(FORMATS)}.")
        if not 0.25 <= self.rate() <= 4:
            raise bad("speed", "speed must be from 0.25 to 4.")
        if self.stream_format not in (None, "audio", "sse"):
            raise bad("stream_format", "stream_format must be audio or sse.")

    def format(self) -> str:
        """Name of the audio format."""
        return self.response_format or "mp3"

    def rate(self) -> float:
        """How many times as fast as usual."""
        return 1.0 if self.speed is None else self.speed

    def wanted_voice(self) -> str | None:
        """The voice asked for; None for the agent's own."""
        voice = self.voice.get("id") if isinstance(self.voice, dict) else self.voice
        return voice if isinstance(voice, str) and voice not in ("", "default") else None


def make_routes(runtime: Runtime, breaker: Breaker) -> list[HTTPRouteHandler]:
    """The route; `breaker` knows which providers fail at the moment."""

    def voice_of(speaker: Speaking, wanted: str | None) -> Voice:
        stock = wanted in STOCK_VOICES
        return Voice(
            {name: _OrOwn(tts, speaker.voice) for name, tts in speaker.tts.items()} if stock else speaker.tts,
            voice=wanted or speaker.voice,
            language=speaker.agent.language,
            rate=SPEECH_RATE,
            chunk_ms=runtime.settings.limits.chunk_ms,
            deadlines=speaker.agent.deadlines,
            switched=untold,
            # That there is no such voice is no fault of the provider.
            breaker=breaker if stock or wanted is None else None,
        )

    @post("/audio/speech", status_code=200, request_max_body_size=MAX_BODY)
    async def create_speech(request: Request[Any, Any, Any], data: JSONBody[SpeechRequest]) -> ASGIApp:
        """Speak a text as an agent or a TTS provider does."""
        data.check(runtime.settings.limits.text_chars)
        wanted = FORMATS[data.format()]
        if wanted.codec:
            await need_codecs("response_format", data.format(), "Ask for wav or pcm")
        if data.rate() != 1.0:
            await need_codecs("speed", "Another speed than 1.0", "Leave speed out")
        speaker = await speaking(runtime, data.model)
        try:
            started = await start(request, _speech(data.input, voice_of(speaker, data.wanted_voice())))
        except ProviderError as error:
            if error.code != "unknown_voice":
                raise
            raise bad("voice", f"{error.message} {error.fix or ''}".rstrip(), "unknown_voice") from None
        if started.empty:
            await started.aclose()
            raise bad("input", "input holds nothing to say.")
        audio = encode(change_speed(aiter(started), data.rate()), data.format())
        if data.stream_format == "sse":
            return Events(_events(audio, data.input), started)
        return ByteStream(audio, started, wanted.media_type)

    return [create_speech]


class _OrOwn:
    """A TTS provider that speaks with the agent's `own` voice where it lacks the one asked for."""

    def __init__(self, tts: TtsProvider, own: str | None) -> None:
        self._tts = tts
        self._own = own
        self.sample_rate = tts.sample_rate

    async def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[TtsDelta, None]:
        begun = False
        try:
            async with aclosing(self._tts.stream(text, voice=voice, language=language)) as items:
                async for item in items:
                    begun = True
                    yield item
            return
        except ProviderError as error:
            if begun or error.code != "unknown_voice":
                raise
        async with aclosing(self._tts.stream(text, voice=self._own, language=language)) as items:
            async for item in items:
                yield item

    async def warm_up(self) -> None:
        """It is warm."""

    async def close(self) -> None:
        """Its maker closes it."""


async def _speech(text: str, voice: Voice) -> AsyncGenerator[bytes, None]:
    """The speech of `text` as PCM16; the next chunk is synthesized when the one before has been taken."""
    for chunk in _chunks(text):
        async with aclosing(voice.speak(chunk)) as items:
            async for item in items:
                if isinstance(item, bytes):
                    yield item


def _chunks(text: str) -> Iterator[str]:
    chunker = Chunker()
    for at in range(0, len(text), _FED):
        yield from chunker.feed(text[at : at + _FED])
    yield from chunker.finish()


async def _events(audio: AsyncGenerator[bytes, None], text: str) -> AsyncGenerator[bytes, None]:
    tokens = estimate_tokens(text)
    try:
        async with aclosing(audio) as pieces:
            async for piece in pieces:
                yield event({"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()})
    except Exception as error:  # noqa: BLE001 - told to the client, in the only way that is left
        yield failure(error)
        return
    usage = {"input_tokens": tokens, "output_tokens": 0, "total_tokens": tokens}
    yield event({"type": "speech.audio.done", "usage": usage})
