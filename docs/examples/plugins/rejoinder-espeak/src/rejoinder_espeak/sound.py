"""Sound as espeak-ng writes it, made into what Rejoinder wants: no header, whole samples, no silence at the ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable

import numpy as np
from rejoinder.errors import ProviderError

from rejoinder_espeak import NAME

HEADER = 44
LEVEL = 160
"""Samples below this are silence (-46 dB)."""
LEAD_MS = 20
PAUSE_MS = 100
"""So much silence stays at the end: about what lies between two sentences."""


async def without_header(pieces: AsyncIterable[bytes], rate: int) -> AsyncGenerator[bytes, None]:
    """The samples of a WAV file that comes in pieces: PCM16, whole samples.

    Raises:
        ProviderError: it is no mono PCM16 at `rate`.
    """
    head, rest = b"", b""
    async for piece in pieces:
        if len(head) < HEADER:
            head += piece
            if len(head) < HEADER:
                continue
            _check(head, rate)
            piece, head = head[HEADER:], head[:HEADER]
        piece = rest + piece
        whole = len(piece) // 2 * 2
        rest = piece[whole:]
        if whole:
            yield piece[:whole]


def _check(head: bytes, rate: int) -> None:
    channels, own_rate, bits = (int.from_bytes(head[a:b], "little") for a, b in ((22, 24), (24, 28), (34, 36)))
    if head[:4] != b"RIFF" or head[36:40] != b"data" or (channels, own_rate, bits) != (1, rate, 16):
        raise ProviderError(
            NAME,
            f"espeak-ng made {channels} channels of {bits} bits at {own_rate} Hz, not one of 16 bits at {rate} Hz",
            code="bad_audio",
            retryable=False,
            fix="Use a voice of its own; those of MBROLA have other rates.",
        )


class Trimmer:
    """Cuts the silence off both ends of PCM16 that comes in pieces: silence is held back until sound follows."""

    def __init__(self, rate: int) -> None:
        self._lead = 2 * (LEAD_MS * rate // 1000)
        self._pause = 2 * (PAUSE_MS * rate // 1000)
        self._begun = False
        self._silence = b""

    def process(self, pcm: bytes) -> bytes:
        """What of the sound so far can be given out."""
        pcm = self._silence + pcm
        loud = np.flatnonzero(np.abs(np.frombuffer(pcm, "<i2").astype(np.int32)) >= LEVEL)
        if not len(loud):
            self._silence = pcm if self._begun else pcm[-self._lead :]
            return b""
        start = 0 if self._begun else max(0, 2 * int(loud[0]) - self._lead)
        end = 2 * (int(loud[-1]) + 1)
        self._begun, self._silence = True, pcm[end:]
        return pcm[start:end]

    def end(self) -> bytes:
        """The short pause after the last sound; b"" if there was none."""
        return self._silence[: self._pause] if self._begun else b""
