"""The STT provider and its streams: utterances are decoded while they are spoken, each in a process of the pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.util import find_spec

from rejoinder.errors import ConfigError, MissingDependency, ProviderError
from rejoinder.providers import ProviderContext

from rejoinder_pocketsphinx import NAME, RATE, Settings
from rejoinder_pocketsphinx.pool import Decoder, Pool
from rejoinder_pocketsphinx.worker import AUDIO, FINAL

PIECE_BYTES = 2 * RATE // 10
"""100 ms: a process is asked that often while somebody speaks."""
MOST_BYTES = 2 * RATE
"""At most 1 s is asked for at once, so that a process is soon free for the next one."""
BACKLOG_BYTES = 2 * RATE * 20
"""Kept, the newest, while no decoder is free: more could not be decoded in the 3 s that a transcript may take."""


class PocketsphinxStt:
    """Makes streams that share a pool of processes."""

    def __init__(self, context: ProviderContext) -> None:
        self.settings: Settings = context.settings
        self.pool = Pool(self.settings.decoders)

    async def warm_up(self) -> None:
        """Start the processes (about 0.5 s).

        Raises:
            MissingDependency: PocketSphinx is not installed.
            ProviderError: it cannot be loaded.
        """
        if self.pool.open:
            return
        if find_spec("pocketsphinx") is None:
            raise MissingDependency(NAME, "pocketsphinx")
        await self.pool.start()

    def open(self, *, language: str, on_partial: Callable[[str], None]) -> PocketsphinxStream:
        """A stream for a new session.

        Raises:
            ConfigError: the language is not English.
        """
        if language.partition("-")[0].lower() != "en":
            raise ConfigError(
                f"{NAME} understands English only, not {language[:50]!r}.",
                code="unsupported_language",
                fix="Set another `stt`.",
            )
        return PocketsphinxStream(self.pool, on_partial if self.settings.partials else None)

    async def close(self) -> None:
        """End the processes."""
        await self.pool.close()


class _Utterance:
    """What belongs to one utterance. `reset` makes a new one, so nothing of the old one can get into the next."""

    def __init__(self) -> None:
        self.pending = bytearray()
        """Audio that no decoder has got yet."""
        self.length = 0
        self.news = asyncio.Event()
        """There is enough audio, or somebody waits for the transcript."""
        self.waiting: list[asyncio.Future[str]] = []
        self.transcript = ""
        self.transcript_of = 0
        """It is of so much of the audio, in bytes."""
        self.error: ProviderError | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for the transcript."""
        return any(not one.done() for one in self.waiting)

    def tell(self, result: str | ProviderError) -> None:
        """End the waiting."""
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            if one.done():
                continue
            if isinstance(result, str):
                one.set_result(result)
            else:
                one.set_exception(result)


class PocketsphinxStream:
    """One session's utterances. A decoder is taken with the first sound of one, and given back at its end."""

    def __init__(self, pool: Pool, on_partial: Callable[[str], None] | None) -> None:
        self._pool = pool
        self._on_partial = on_partial
        self._closed = False
        self._ending: set[asyncio.Task[None]] = set()
        self._utterance = _Utterance()
        self._mean = ""
        """What was learned of voice and microphone; see `worker.Recogniser`."""

    def feed(self, pcm: bytes) -> None:
        """Take the next audio; it is decoded beside."""
        utterance = self._utterance
        if self._closed or utterance.error is not None:
            return
        utterance.pending += pcm
        utterance.length += len(pcm)
        if len(utterance.pending) > BACKLOG_BYTES + PIECE_BYTES:
            # Nothing was sent yet, so the rest begins with a whole sample.
            del utterance.pending[: (len(utterance.pending) - BACKLOG_BYTES) // 2 * 2]
        if len(utterance.pending) >= PIECE_BYTES:
            self._wake(utterance)

    async def flush(self) -> str:
        """The transcript of the utterance so far.

        Raises:
            ProviderError: it could not be transcribed.
        """
        utterance = self._utterance
        if utterance.error is not None:
            raise utterance.error
        if self._closed or utterance.transcript_of == utterance.length:
            return utterance.transcript
        result: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        utterance.waiting.append(result)
        self._wake(utterance)
        return await result

    def reset(self) -> None:
        """Begin a new utterance; a `flush` of the old one gets what there is."""
        self._end()
        self._utterance = _Utterance()

    async def close(self) -> None:
        """End the stream. Idempotent."""
        self._closed = True
        self._end()
        if self._ending:
            await asyncio.wait(self._ending)

    def _end(self) -> None:
        task = self._utterance.task
        if task is not None and not task.done():
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def _wake(self, utterance: _Utterance) -> None:
        utterance.news.set()
        if utterance.task is None:
            utterance.task = asyncio.create_task(self._run(utterance), name=f"{NAME} utterance")

    async def _run(self, utterance: _Utterance) -> None:
        try:
            decoder = await self._pool.take()
            try:
                await self._decode(utterance, decoder)
            finally:
                self._pool.give_back(decoder)
        except ProviderError as error:
            utterance.error = error
            utterance.tell(error)
        finally:
            utterance.tell(utterance.transcript)

    async def _decode(self, utterance: _Utterance, decoder: Decoder) -> None:
        """Until the utterance is over."""
        decoder.reset(self._mean)
        said = ""
        while True:
            pending = utterance.pending
            if len(pending) >= PIECE_BYTES or (pending and utterance.wanted):
                piece = bytes(pending[:MOST_BYTES])
                del pending[:MOST_BYTES]
                text, _ = await decoder.ask(AUDIO, piece)
                if text != said and self._on_partial is not None:
                    self._on_partial(text)
                said = text
            elif utterance.wanted:
                length = utterance.length
                utterance.transcript, self._mean = await decoder.ask(FINAL)
                utterance.transcript_of = length
                utterance.tell(utterance.transcript)
            else:
                utterance.news.clear()
                await utterance.news.wait()
