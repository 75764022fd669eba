"""The STT provider: an utterance is sent while it is spoken; one that goes on after its end is sent once more."""

from __future__ import annotations

import asyncio
import contextlib
from array import array
from collections.abc import Callable

from rejoinder.audio import ENGINE_RATE, SAMPLE_BYTES
from rejoinder.errors import ConfigError, ProviderError
from rejoinder.providers import ProviderContext
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.info import AsrProgram

from rejoinder_wyoming import NAME, Settings
from rejoinder_wyoming.connection import Address, Connection, checked, speaks

PIECE_BYTES = SAMPLE_BYTES * ENGINE_RATE // 20
"""50 ms: audio is sent in pieces of at least that."""
CHUNK_BYTES = SAMPLE_BYTES * ENGINE_RATE
"""And of at most 1 s."""
LONGEST_BYTES = 2 * 60 * ENGINE_RATE * SAMPLE_BYTES
"""Of an utterance that is longer (2 min) the newest are kept."""

QUIET = 100
"""Samples below this (-50 dB) are silence."""


class WyomingStt:
    """Makes streams; each utterance has a connection of its own, so the server may come and go."""

    def __init__(self, context: ProviderContext) -> None:
        self.settings: Settings = context.settings
        self.address = Address(self.settings.stt_uri, "stt_uri", self.settings)
        self._program: AsrProgram | None = None

    async def warm_up(self) -> None:
        """Ask the server what it can do.

        Raises:
            ConfigError: the address is missing or wrong, or it is no STT server.
            ProviderError: the server is not there.
        """
        if self._program is None:
            self.address.check()
            programs = (await self.address.info()).asr
            if not programs:
                raise ConfigError(f"{NAME}: the server of stt_uri is no STT server.", fix="Set stt_uri to one.")
            self._program = programs[0]

    def open(self, *, language: str, on_partial: Callable[[str], None]) -> WyomingStream:
        """A stream for a new session.

        Raises:
            ConfigError: the server does not understand the language.
        """
        known = [tag for model in (self._program.models if self._program else []) for tag in model.languages]
        if known and not speaks(known, language):
            raise ConfigError(
                f"{NAME}: the server does not understand {language[:50]!r}.",
                code="unsupported_language",
                fix="Set another `stt`.",
            )
        request = Transcribe(name=self.settings.model or None, language=language.partition("-")[0].lower())
        return WyomingStream(self.address, request, on_partial)

    async def close(self) -> None:
        """Nothing to do: connections end with their streams."""


class WyomingStream:
    """One session's utterances."""

    def __init__(self, address: Address, request: Transcribe, on_partial: Callable[[str], None]) -> None:
        self._address = address
        self._request = request
        self._on_partial = on_partial
        self._audio = bytearray()
        self._loudest = 0
        self._attempt: _Attempt | None = None
        self._ending: set[asyncio.Task[str]] = set()
        self._closed = False

    def feed(self, pcm: bytes) -> None:
        """Take the next audio; it is sent beside."""
        if self._closed:
            return
        speaks = self._speaks(pcm)
        self._audio += pcm
        if len(self._audio) > LONGEST_BYTES + CHUNK_BYTES:
            del self._audio[: (len(self._audio) - LONGEST_BYTES) // 2 * 2]
            self._drop()
        attempt = self._attempt
        if attempt is None:
            if len(self._audio) >= PIECE_BYTES:
                self._begin()
        elif not attempt.stopped:
            attempt.news.set()
        else:
            # The server has been told that this was all. If it was not, it must hear everything again; but the silence
            # after the end is not worth that.
            attempt.stale = attempt.stale or speaks
            if attempt.stale and not attempt.waiting:
                self._drop()
                self._begin()

    async def flush(self) -> str:
        """The transcript of the utterance so far.

        Raises:
            ProviderError: the server failed or went away.
        """
        if self._closed or len(self._audio) < SAMPLE_BYTES:
            return ""
        attempt = self._attempt
        if attempt is None or attempt.failed or attempt.stale:
            self._drop()
            attempt = self._begin()
        attempt.stop()
        attempt.waiting += 1
        try:
            # Not the task itself: if this is cancelled, the next flush may want its result.
            await asyncio.wait({attempt.task})
        finally:
            attempt.waiting -= 1
        # It is cancelled where a newer flush or utterance has taken over, or the stream is closed.
        return "" if attempt.task.cancelled() else attempt.task.result()

    def reset(self) -> None:
        """Begin a new utterance."""
        self._drop()
        self._audio = bytearray()
        self._loudest = 0

    async def close(self) -> None:
        """Close the connection. Idempotent."""
        self._closed = True
        self.reset()
        if self._ending:
            await asyncio.wait(self._ending)

    def _speaks(self, pcm: bytes) -> bool:
        """Whether there may be speech in it: something within 20 dB of the loudest so far."""
        # Where the last piece ended in the middle of a sample, this one begins there.
        start = len(self._audio) % 2
        samples = array("h", pcm[start : start + (len(pcm) - start) // 2 * 2])
        loudest = max(max(samples, default=0), -min(samples, default=0))
        self._loudest = max(self._loudest, loudest)
        return loudest >= max(QUIET, self._loudest // 10)

    def _begin(self) -> _Attempt:
        self._attempt = _Attempt(self._address, self._request, self._audio, self._on_partial)
        return self._attempt

    def _drop(self) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None and not attempt.task.done():
            attempt.task.cancel()
            self._ending.add(attempt.task)
            attempt.task.add_done_callback(self._ending.discard)


class _Attempt:
    """The utterance on its way to the server and back as text, by one connection."""

    def __init__(
        self, address: Address, request: Transcribe, audio: bytearray, on_partial: Callable[[str], None]
    ) -> None:
        self._address = address
        self._request = request
        self._audio = audio
        """Grows while it is sent."""
        self._on_partial = on_partial
        self.news = asyncio.Event()
        self.end: int | None = None
        """Where the audio ends, as far as is known."""
        self.stale = False
        """It was not: there was more speech."""
        self.waiting = 0
        """So many wait for the transcript."""
        self.task = asyncio.create_task(self._run(), name=f"{NAME} utterance")
        # Whoever flushes asks for what went wrong; if nobody does, nobody minds.
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def failed(self) -> bool:
        """Whether it has ended without a transcript."""
        return self.task.done() and (self.task.cancelled() or self.task.exception() is not None)

    @property
    def stopped(self) -> bool:
        """Whether the server is told that this was all."""
        return self.end is not None

    def stop(self) -> None:
        """That was all."""
        if self.end is None:
            self.end = len(self._audio)
            self.news.set()

    async def _run(self) -> str:
        async with self._address.connect() as connection:
            listening = asyncio.create_task(self._listen(connection), name=f"{NAME} transcript")
            try:
                listening.add_done_callback(lambda _: self.news.set())
                await self._send(connection, listening)
                return await self._address.in_time(listening)
            finally:
                listening.cancel()
                with contextlib.suppress(asyncio.CancelledError, ProviderError):
                    await listening

    async def _send(self, connection: Connection, listening: asyncio.Task[str]) -> None:
        form = {"rate": ENGINE_RATE, "width": SAMPLE_BYTES, "channels": 1}
        await connection.send(self._request)
        await connection.send(AudioStart(**form))
        sent = 0
        # A server that finds the end itself may have answered before.
        while not listening.done():
            end = (len(self._audio) if self.end is None else self.end) // SAMPLE_BYTES * SAMPLE_BYTES
            if end - sent >= PIECE_BYTES or (self.stopped and end > sent):
                piece = bytes(self._audio[sent : min(end, sent + CHUNK_BYTES)])
                await connection.send(AudioChunk(audio=piece, **form))
                sent += len(piece)
            elif self.stopped:
                await connection.send(AudioStop())
                return
            else:
                self.news.clear()
                await self.news.wait()

    async def _listen(self, connection: Connection) -> str:
        """The transcript; what comes before it is told as it comes."""
        so_far = ""
        while True:
            # While somebody speaks there is nothing to be said.
            event = await connection.receive(patient=True)
            if Transcript.is_type(event.type):
                transcript: Transcript = checked(Transcript, event)
                text: str = transcript.text
                return text.strip()
            if TranscriptStart.is_type(event.type):
                so_far = ""
            elif TranscriptChunk.is_type(event.type):
                chunk: TranscriptChunk = checked(TranscriptChunk, event)
                so_far += chunk.text
                if partial := so_far.strip():
                    self._on_partial(partial)
