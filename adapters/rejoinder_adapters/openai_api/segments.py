"""Long recordings in pieces: cut at silences by VAD, transcribed in order, without ever holding up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import NamedTuple

from rejoinder.audio import ENGINE_RATE, SAMPLE_BYTES
from rejoinder.providers import SttStream, Vad, VadAdvice

LONGEST_MS = 25_000
"""A piece without any silence is cut by here, at the frame that is least like speech."""
_PAUSE_MS = 600
"""Silence that ends a piece of any length."""
_LONG_MS, _SHORT_PAUSE_MS = 12_000, 200
"""From this length on, so much silence is enough."""
_SEARCH_MS = 8_000
"""A cut without silence is made within this much before that."""
_PRE_ROLL_MS = 300
"""Audio before speech is detected that belongs to it."""
_SLICE = 8
"""Frames between two chances for others on the event loop: about 1 ms of VAD."""

_FED = 2 * ENGINE_RATE * SAMPLE_BYTES
"""Bytes that a recogniser is given at once."""


class Piece(NamedTuple):
    """A piece of the recording, PCM16 at 16 kHz, and where in the recording its speech begins and ends, in ms."""

    pcm: bytes
    start_ms: float
    end_ms: float


class Cutter:
    """Cuts a recording, frame by frame. What holds no speech is left out."""

    def __init__(self, vad: Vad, advice: VadAdvice) -> None:
        self._vad = vad
        self._advice = advice
        self._bytes = vad.frame_samples * SAMPLE_BYTES
        self._ms = vad.frame_samples * 1000 / ENGINE_RATE
        self._frames: list[bytes] = []
        self._levels: list[float] = []
        self._start = 0
        """The number of the first frame that is kept."""
        self._speech = False
        self._voiced = 0
        self._silent = 0

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame."""
        return self._bytes

    def feed(self, frame: bytes) -> Piece | None:
        """Take the next frame; the piece that it ends."""
        level = self._vad.process(frame)
        self._frames.append(frame)
        self._levels.append(level)
        if not self._speech:
            # Counted with some patience: a weak frame takes one back and does not start anew.
            self._voiced = self._voiced + 1 if level >= self._advice.on else max(0, self._voiced - 1)
            self._speech = self._voiced * self._ms >= self._advice.start_ms
            if not self._speech:
                self._forget(self._count(_PRE_ROLL_MS + 2 * self._advice.start_ms))
                return None
        self._silent = self._silent + 1 if level < self._advice.off else 0
        length = len(self._frames) * self._ms
        pause_ms = _SHORT_PAUSE_MS if length >= _LONG_MS else _PAUSE_MS
        if self._silent * self._ms >= pause_ms:
            return self._cut(len(self._frames))
        if length >= LONGEST_MS:
            tail = self._levels[-self._count(_SEARCH_MS) :]
            weakest = min(reversed(range(len(tail))), key=tail.__getitem__)
            return self._cut(len(self._frames) - len(tail) + weakest + 1, speech=True)
        return None

    def finish(self) -> Piece | None:
        """The last piece, at the end of the recording."""
        return self._cut(len(self._frames)) if self._speech else None

    def _count(self, ms: float) -> int:
        return max(1, round(ms / self._ms))

    def _forget(self, keep: int) -> None:
        dropped = max(0, len(self._frames) - keep)
        del self._frames[:dropped], self._levels[:dropped]
        self._start += dropped

    def _cut(self, end: int, speech: bool = False) -> Piece:
        voiced = [at for at, level in enumerate(self._levels[:end]) if level >= self._advice.off] or [0]
        first, last = self._start + voiced[0], self._start + voiced[-1] + 1
        piece = Piece(b"".join(self._frames[:end]), first * self._ms, last * self._ms)
        del self._frames[:end], self._levels[:end]
        self._start += end
        self._speech, self._voiced, self._silent = speech, 0, 0
        return piece


@dataclass(slots=True)
class Segment:
    """What was said in a piece; times in s from the start of the recording."""

    start: float
    end: float
    text: str


class Transcription:
    """A recording that is being transcribed; `duration_s` is how much of it was read so far."""

    def __init__(self, audio: AsyncIterator[bytes], vad: Vad, advice: VadAdvice, stt: SttStream) -> None:
        self._audio = audio
        self._cutter = Cutter(vad, advice)
        self._stt = stt
        self._read = 0

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return self._read / (SAMPLE_BYTES * ENGINE_RATE)

    async def segments(self) -> AsyncGenerator[Segment, None]:
        """What was said, piece by piece; pieces without words are left out.

        Raises (while iterating):
            ApiError: the recording cannot be read.
            ProviderError: it could not be transcribed.
        """
        try:
            async with aclosing(self._pieces()) as pieces:
                async for piece in pieces:
                    for at in range(0, len(piece.pcm), _FED):
                        self._stt.feed(piece.pcm[at : at + _FED])
                        await asyncio.sleep(0)
                    text = (await self._stt.flush()).strip()
                    self._stt.reset()
                    if text:
                        yield Segment(round(piece.start_ms / 1000, 3), round(piece.end_ms / 1000, 3), text)
        finally:
            await self._stt.close()

    async def _pieces(self) -> AsyncGenerator[Piece, None]:
        size = self._cutter.frame_bytes
        rest = b""
        async for pcm in self._audio:
            self._read += len(pcm)
            data = rest + pcm
            whole = len(data) - len(data) % size
            for number, at in enumerate(range(0, whole, size)):
                if number % _SLICE == 0:
                    await asyncio.sleep(0)
                if (piece := self._cutter.feed(data[at : at + size])) is not None:
                    yield piece
            rest = data[whole:]
        if rest and (piece := self._cutter.feed(rest + bytes(size - len(rest)))) is not None:
            yield piece
        if (piece := self._cutter.finish()) is not None:
            yield piece
