"""STT by audio transcriptions: collects an utterance and sends it as a WAV file; no partial transcripts."""

from __future__ import annotations

import io
import logging
import wave
from collections import deque
from collections.abc import Callable
from typing import Any

from rejoinder.audio import ENGINE_RATE, SAMPLE_BYTES, byte_count
from rejoinder.providers import ProviderContext
from rejoinder_plugins.openai.client import Connection

log = logging.getLogger(__name__)

MIN_MS = 100
"""Shorter audio is refused by servers, and holds no word."""


class OpenAIStt:
    """Opens streams that share one client."""

    def __init__(self, context: ProviderContext) -> None:
        self._connection = Connection(context.settings)

    async def warm_up(self) -> None:
        """Import the SDK and make the client."""
        await self._connection.warm_up()

    def open(self, *, language: str, on_partial: Callable[[str], None]) -> OpenAISttStream:
        """A stream for a new session; `on_partial` is never called."""
        return OpenAISttStream(self._connection, language)

    async def close(self) -> None:
        """Close the client."""
        await self._connection.close()


class OpenAISttStream:
    """The utterance of one session, kept until `reset`."""

    def __init__(self, connection: Connection, language: str) -> None:
        self._connection = connection
        self._language = language.partition("-")[0]
        self._limit = byte_count(connection.settings.stt_max_s * 1000, ENGINE_RATE)
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._cut = False

    def feed(self, pcm: bytes) -> None:
        """Keep `pcm`; beyond `stt_max_s` the oldest audio is forgotten."""
        self._pieces.append(pcm)
        self._size += len(pcm)
        if self._size > self._limit and not self._cut:
            self._cut = True
            log.warning("an utterance is longer than %g s; its beginning is lost", self._connection.settings.stt_max_s)
        while self._size > self._limit:
            self._size -= len(self._pieces.popleft())

    async def flush(self) -> str:
        """The transcript of what was fed since the last `reset`.

        Raises:
            ProviderError: it could not be transcribed.
        """
        if self._size < byte_count(MIN_MS, ENGINE_RATE):
            return ""
        upload = ("speech.wav", _wav(b"".join(self._pieces)), "audio/wav")
        client = self._connection.client()
        deadline = self._connection.deadline()
        deadline.started = True
        fields: dict[str, Any] = {"model": self._connection.settings.stt_model, "response_format": "json"}
        if self._language:
            fields["language"] = self._language
        with self._connection.errors("stt_model"):
            result: Any = await deadline.wait(client.audio.transcriptions.create(file=upload, **fields))
        text = result if isinstance(result, str) else getattr(result, "text", None)
        return text.strip() if isinstance(text, str) else ""

    def reset(self) -> None:
        """Forget what was fed."""
        self._pieces.clear()
        self._size = 0
        self._cut = False

    async def close(self) -> None:
        """Forget what was fed."""
        self.reset()


def _wav(pcm: bytes) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(SAMPLE_BYTES)
        wav.setframerate(ENGINE_RATE)
        wav.writeframes(pcm)
    return buffer.getvalue()
