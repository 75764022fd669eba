"""The STT provider `moonshine`: the Moonshine tiny English recogniser, a small pool of it, with partial transcripts."""

from __future__ import annotations

import asyncio
import ctypes
import os
import queue
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from rejoinder import audio
from rejoinder.errors import ConfigError, MissingDependency, ProviderError
from rejoinder.hookspecs import hookimpl
from rejoinder.providers import Capabilities, Provider, ProviderContext

NAME = "moonshine"
RATE = audio.ENGINE_RATE
SHORTEST_MS = 100
"""Less than this holds no word."""
SILENCE_LEVEL = 0.002
"""Audio without a louder 20 ms (RMS; -54 dBFS) holds no word either; of silence the recogniser makes "You" or notes."""
PARTIAL_SHARE = 0.1
"""The next partial waits until the audio has grown by this share of its length: each one transcribes all that is not
settled anew (35 ms of CPU per second of audio), so a fixed interval would let a long utterance eat a whole core."""
QUIET_MS = 40
"""So much quiet after speech may be its end: a partial starts at once, and a final shares it unless more speech comes.
The VAD needs some 60 ms more to be sure, in which most of the work is done. Less quiet is within a word ("t", "p")."""
QUIET_SHARE = 0.05
"""Quiet is what has less than this share of the loudest 20 ms of the utterance so far (RMS; -26 dB)."""
SETTLE_BYTES = audio.byte_count(12_000, RATE)
"""More audio than this is cut in two. The recogniser itself cuts after 15 s, wherever that is."""

_BLOCK = audio.byte_count(audio.FRAME_MS, RATE)


class MoonshineSettings(msgspec.Struct, forbid_unknown_fields=True):
    """`workers` recognisers of about 170 MB run at once, one thread each.

    `lead_ms` and `trail_ms` of silence are put around what is transcribed. Where the recognisers cannot keep up, the
    newest `max_backlog_s` of an utterance are kept.
    """

    workers: Annotated[int, msgspec.Meta(ge=1, le=16)] = msgspec.field(
        default_factory=lambda: min(2, os.cpu_count() or 1)
    )
    partials: bool = True
    partial_interval_ms: Annotated[int, msgspec.Meta(ge=100)] = 500
    lead_ms: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 200
    trail_ms: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 400
    max_backlog_s: Annotated[int, msgspec.Meta(ge=15, le=600)] = 60


@dataclass(slots=True)
class _Job:
    """The transcription of the first `length` bytes of an utterance: `head` is settled, `future` brings the rest."""

    length: int
    head: str
    future: Future[str]

    def holds(self, length: int) -> bool:
        """Whether it is of the first `length` bytes at least, and will have a result."""
        return self.length >= length and not self.future.cancelled()

    async def text(self) -> str:
        rest = await asyncio.wrap_future(self.future)
        return f"{self.head} {rest}".strip()


class MoonshineStream:
    """One session's utterance, one after the other.

    What lies more than about 12 s back is settled: cut off at its quietest place, transcribed once and kept as text.
    So a flush never has more than that to do, however long somebody talks.
    """

    def __init__(self, provider: MoonshineProvider, on_partial: Callable[[str], None]) -> None:
        self._provider = provider
        self._on_partial = on_partial
        self._limit = audio.byte_count(provider.settings.max_backlog_s * 1000, RATE)
        self._interval = audio.byte_count(provider.settings.partial_interval_ms, RATE)
        self._task: asyncio.Task[None] | None = None
        self._settling = False
        self._closed = False
        self._utterance = 0
        self._audio = bytearray()
        self._half = b""
        self._due = self._interval
        self.reset()

    def feed(self, pcm: bytes) -> None:
        """Take the next audio; settles the oldest or starts a partial transcription when one is due."""
        if self._half or len(pcm) % audio.SAMPLE_BYTES:
            # A piece may end in the middle of a sample; its other half comes with the next one.
            pcm = self._half + pcm
            whole = len(pcm) // audio.SAMPLE_BYTES * audio.SAMPLE_BYTES
            pcm, self._half = pcm[:whole], pcm[whole:]
        self._audio += pcm
        self._listen(pcm)
        self._length += len(pcm)
        if len(self._audio) > self._limit:
            # A tenth at once, so that a very long backlog is not moved as a whole with each frame.
            del self._audio[: len(self._audio) - self._limit // 20 * 18]
        if self._task is not None or self._closed:
            return
        if len(self._audio) > SETTLE_BYTES:
            self._settling = True
            self._start(self._settle)
        elif (self._length >= self._due or self._may_be_over()) and self._provider.may_run_partial():
            self._due = self._length + max(self._interval, int(len(self._audio) * PARTIAL_SHARE))
            self._start(self._run_partial)

    async def flush(self) -> str:
        """The transcript of the utterance so far.

        Raises:
            ProviderError: it could not be transcribed.
        """
        if self._settling and self._task is not None:
            await asyncio.wait({self._task})
        job = self._job
        if job is None or not job.holds(min(self._length, self._heard_all)):
            job = self._submit()
        return await job.text()

    def reset(self) -> None:
        """Begin a new utterance; what still runs for the old one is dropped."""
        if self._settling and self._task is not None:
            # Out of the queue; in a thread it runs out, but neither the next flush nor the next task waits for it.
            self._task.cancel()
            self._task = None
            self._settling = False
        self._audio.clear()
        self._half = b""
        self._utterance += 1
        self._length = 0
        self._due = self._interval
        self._loudest = 0.0
        self._heard_all = 0
        """Length up to the last speech, and `QUIET_MS` more; a transcription of that is one of the whole."""
        self._head = self._heard = ""
        self._job: _Job | None = None

    def _listen(self, pcm: bytes) -> None:
        """Find the end of speech so far in the next audio (of a long piece: in its last second)."""
        import numpy as np

        quiet = audio.byte_count(QUIET_MS, RATE)
        for start in range(max(0, (len(pcm) - 2 * RATE) // _BLOCK * _BLOCK), len(pcm), _BLOCK):
            block = audio.to_float(pcm[start : start + _BLOCK])
            level = float(np.sqrt(np.dot(block, block) / max(1, len(block))))
            self._loudest = max(self._loudest, level)
            if level >= max(SILENCE_LEVEL, QUIET_SHARE * self._loudest):
                self._heard_all = self._length + min(len(pcm), start + _BLOCK) + quiet

    def _may_be_over(self) -> bool:
        """Whether it is quiet after speech that no transcription has yet, and enough of it for one."""
        if not self._loudest or self._length < self._heard_all:
            return False
        new = self._heard_all - (self._job.length if self._job else 0)
        return new >= max(audio.byte_count(SHORTEST_MS + QUIET_MS, RATE), len(self._audio) * PARTIAL_SHARE / 2)

    async def close(self) -> None:
        """End the stream; a transcription already in a thread runs out, unheard. Idempotent."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        self.reset()

    def _start(self, work: Callable[[], Awaitable[None]]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._guard(work), name="moonshine stream")

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except ProviderError:
            pass  # the flush that follows meets the same audio, and says so
        finally:
            if self._task is asyncio.current_task():
                self._task = None
                self._settling = False

    def _submit(self) -> _Job:
        self._job = _Job(self._length, self._head, self._provider.submit(bytes(self._audio)))
        return self._job

    async def _run_partial(self) -> None:
        utterance = self._utterance
        text = await self._submit().text()
        if utterance == self._utterance and text and text != self._heard:
            self._heard = text
            self._on_partial(text)

    async def _settle(self) -> None:
        dropped = self._length - len(self._audio)
        head = bytes(self._audio[: _quietest(self._audio[:SETTLE_BYTES])])
        text = await asyncio.wrap_future(self._provider.submit(head))
        # The backlog may have lost its oldest part meanwhile.
        del self._audio[: max(0, len(head) - (self._length - len(self._audio) - dropped))]
        self._head = f"{self._head} {text}".strip()


class MoonshineProvider:
    """A pool of recognisers: each runs one transcription at a time, finals before partials."""

    def __init__(self, context: ProviderContext) -> None:
        self.settings: MoonshineSettings = context.settings
        self._context = context
        self._executor: Executor | None = None
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._jobs: set[Future[str]] = set()

    async def warm_up(self) -> None:
        """Load the recognisers (about 0.5 s each) and run each once.

        Raises:
            MissingDependency: moonshine-voice is not installed.
            ProviderError: it cannot be loaded here.
        """
        if self._executor is None:
            executor = self._context.executor(NAME, self.settings.workers)
            await asyncio.get_running_loop().run_in_executor(executor, self._load)
            self._executor = executor

    def open(self, *, language: str, on_partial: Callable[[str], None]) -> MoonshineStream:
        """A stream for a new session.

        Raises:
            ConfigError: another language than English (`unsupported_language`).
        """
        if language.partition("-")[0].lower() != "en":
            raise ConfigError(
                f"moonshine understands English only, not {language!r}.",
                code="unsupported_language",
                fix="Set another `stt` for this agent, for example openai.",
            )
        return MoonshineStream(self, on_partial)

    def may_run_partial(self) -> bool:
        """Whether a recogniser is free and, where there are several, another one stays free for a final."""
        busy = len(self._jobs)
        return self.settings.partials and busy < max(1, self.settings.workers - 1)

    def submit(self, pcm: bytes) -> Future[str]:
        """Transcribe PCM16 at 16 kHz in the pool; cancelling the future takes it out of the queue."""
        if self._executor is None:
            raise ProviderError(NAME, "is not loaded.", code="not_ready", fix="Call warm_up() first.")
        future = self._executor.submit(self._transcribe, pcm)
        self._jobs.add(future)
        future.add_done_callback(self._jobs.discard)
        return future

    async def close(self) -> None:
        """Wait for what still runs in a thread, then free the recognisers."""
        self._executor = None
        for future in tuple(self._jobs):
            future.cancel()
        running = [asyncio.wrap_future(future) for future in tuple(self._jobs)]
        await asyncio.gather(*running, return_exceptions=True)
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    def _load(self) -> None:
        # Read when the library is loaded: half the CPU for about the same latency, and the pool scales with cores.
        os.environ["MOONSHINE_ORT_SINGLE_THREAD"] = "1"
        try:
            from moonshine_voice import ModelArch
            from moonshine_voice.transcriber import Transcriber
            from moonshine_voice.utils import get_assets_path
        except ImportError:
            raise MissingDependency(NAME, "moonshine-voice", "local") from None
        except OSError as error:
            raise ProviderError(
                NAME, f"its library does not load here: {error}", code="unsupported_platform", retryable=False,
                fix="It needs glibc 2.34 or newer; else set another `stt`.",
            ) from None  # fmt: skip
        # We find the ends of utterances ourselves: its own detector only smears them.
        options = {"return_audio_data": "false", "vad_threshold": 0.0}
        loaded: list[Any] = []
        try:
            for _ in range(self.settings.workers):
                model = os.path.join(str(get_assets_path()), "tiny-en")
                transcriber = Transcriber(model, ModelArch.TINY, options=options)
                loaded.append(transcriber)
                _recognise(transcriber, bytes(2 * RATE), 0, 0)
        except Exception as error:
            for transcriber in loaded:
                transcriber.close()
            raise ProviderError(NAME, f"cannot be loaded: {error}", code="bad_model", retryable=False) from error
        for transcriber in loaded:
            self._idle.put(transcriber)

    def _transcribe(self, pcm: bytes) -> str:
        """In a thread of the pool; whoever holds a recogniser is its only user, as it is not thread-safe."""
        if audio.duration_ms(pcm, RATE) < SHORTEST_MS or _loudest(pcm) < SILENCE_LEVEL:
            return ""
        transcriber = self._idle.get()
        try:
            return _recognise(transcriber, pcm, self.settings.lead_ms, self.settings.trail_ms)
        finally:
            self._idle.put(transcriber)


def _quietest(pcm: bytes | bytearray) -> int:
    """Where to cut `pcm`, in bytes: the middle of the quietest 200 ms of its second half."""
    import numpy as np

    samples = audio.to_float(pcm)
    frame = RATE * audio.FRAME_MS // 1000
    start = len(samples) // 2
    energy = np.square(samples[start : start + (len(samples) - start) // frame * frame].reshape(-1, frame)).sum(axis=1)
    quietest = int(np.convolve(energy, np.ones(10), "valid").argmin()) + 5
    return (start + quietest * frame) * audio.SAMPLE_BYTES


def _loudest(pcm: bytes) -> float:
    """RMS of the loudest 20 ms, of full scale."""
    import numpy as np

    samples = audio.to_float(pcm)
    frame = RATE * audio.FRAME_MS // 1000
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame)
    return float(np.sqrt(np.square(frames).mean(axis=1).max()))


def _recognise(transcriber: Any, pcm: bytes, lead_ms: int, trail_ms: int) -> str:
    """The text of `pcm` with silence put around it: an abrupt start or end costs the word there."""
    import numpy as np
    from moonshine_voice.moonshine_api import TranscriptC

    lead, trail = (np.zeros(ms * RATE // 1000, np.float32) for ms in (lead_ms, trail_ms))
    samples = np.concatenate((lead, audio.to_float(pcm), trail))
    transcript = ctypes.POINTER(TranscriptC)()
    # The package's own method turns the array into a Python list, float by float, under the interpreter lock.
    status = transcriber._lib.moonshine_transcribe_without_streaming(
        transcriber._handle,
        samples.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
        len(samples),
        RATE,
        0,
        ctypes.byref(transcript),
    )
    if status:
        reason = transcriber._lib.moonshine_error_to_string(status)
        text = reason.decode(errors="replace") if reason else f"error {status}"
        raise ProviderError(NAME, f"cannot transcribe: {text}", code="stt_failed")
    # It cuts after 15 s, so there may be several lines.
    result = transcript.contents
    lines = (ctypes.string_at(result.lines[i].text).decode(errors="replace") for i in range(result.line_count))
    text = " ".join(line.strip() for line in lines).strip()
    return text if any(character.isalnum() for character in text) else ""


@hookimpl
def register_providers() -> Iterable[Provider]:
    """Offer `moonshine`."""
    capabilities = Capabilities(streaming=True, languages=("en",))
    summary = "Moonshine tiny, English, on the CPU"
    return [Provider("stt", NAME, summary, MoonshineProvider, MoonshineSettings, capabilities)]
