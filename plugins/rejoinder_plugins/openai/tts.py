"""TTS by audio speech: raw PCM, passed on as it arrives."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

from rejoinder.audio import SAMPLE_BYTES
from rejoinder.errors import ProviderRejected
from rejoinder.providers import ProviderContext
from rejoinder_plugins.openai.client import NAME, Connection

_NOT_PCM = ("audio/mpeg", "audio/mp3", "audio/wav", "audio/x-wav", "audio/ogg", "audio/opus", "audio/flac", "audio/aac")


class OpenAITts:
    """Speech, streamed; closing the stream closes the HTTP response."""

    def __init__(self, context: ProviderContext) -> None:
        self._connection = Connection(context.settings)
        self._settings = self._connection.settings
        self.sample_rate: int = self._settings.tts_rate

    async def warm_up(self) -> None:
        """Import the SDK and make the client."""
        await self._connection.warm_up()

    async def close(self) -> None:
        """Close the client."""
        await self._connection.close()

    async def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[bytes, None]:
        """The speech of `text` as whole samples of PCM16 at `sample_rate`; the language is the text's own.

        Raises (while iterating):
            ProviderRejected: the server refused key, model or request, or sent something else than PCM.
            ProviderTimeout: no first audio, or no end, in time.
            ProviderError: the server failed, limits the rate, or the stream broke.
        """
        if not any(character.isalnum() for character in text):
            return
        client = self._connection.client()
        deadline = self._connection.deadline()
        request = client.audio.speech.with_streaming_response.create(
            input=text, model=self._settings.tts_model, voice=voice or self._settings.voice, response_format="pcm"
        )
        with self._connection.errors("tts_model"):
            response = await deadline.wait(request.__aenter__())
            try:
                kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
                if kind in _NOT_PCM or kind == "application/json" or kind.startswith("text/"):
                    raise ProviderRejected(
                        NAME,
                        f"asked for PCM, the server sent {kind}",
                        fix="Use a speech server that supports response_format=pcm.",
                    )
                half = b""
                # The SDK says iterator, but it is a generator; left open it would close late.
                async with aclosing(cast(AsyncGenerator[bytes, None], response.iter_bytes())) as pieces:
                    while True:
                        try:
                            piece = half + await deadline.wait(anext(pieces))
                        except StopAsyncIteration:
                            break
                        whole = len(piece) - len(piece) % SAMPLE_BYTES
                        half = piece[whole:]
                        if whole:
                            deadline.started = True
                            yield piece[:whole]
            finally:
                await request.__aexit__(None, None, None)
