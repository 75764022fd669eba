"""WAV files that grow: valid after every write, whatever happens next. All of it blocks; call it in a thread."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import numpy as np

from rejoinder.audio import SAMPLE_BYTES

HEADER_BYTES = 44
MOST_BYTES = 0xFFFF_FFFF - HEADER_BYTES
"""The format cannot hold more sound."""
PEAKS_PER_SECOND = 100
_PEAKS_READ_S = 20
_OPEN = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def header(size: int, rate: int, channels: int) -> bytes:
    """The first 44 bytes of a PCM16 WAV file with `size` bytes of sound."""
    frame = channels * SAMPLE_BYTES
    form = struct.pack("<4sI4s", b"RIFF", HEADER_BYTES - 8 + size, b"WAVE")
    kind = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * frame, frame, 8 * SAMPLE_BYTES)
    return form + kind + struct.pack("<4sI", b"data", size)


def write_at(path: Path, offset: int, pcm: bytes, rate: int, channels: int) -> None:
    """Write `pcm` at `offset` bytes of the sound, and then the header; the file is made if it is not there.

    What lies between the end so far and `offset` is silence. Nothing stays open.

    Raises:
        OSError: it cannot be written; what was there before is still valid.
    """
    file = os.open(path, _OPEN | os.O_CREAT, 0o600)
    try:
        rest, at = memoryview(pcm), HEADER_BYTES + offset
        while rest:
            written = os.pwrite(file, rest, at)
            rest, at = rest[written:], at + written
        size = max(0, os.fstat(file).st_size - HEADER_BYTES)
        os.pwrite(file, header(size, rate, channels), 0)
    finally:
        os.close(file)


def finish(path: Path, size: int | None, rate: int, channels: int) -> int:
    """Make it end after `size` bytes of sound (None: with its last whole frame); how many bytes of sound it has.

    Raises:
        OSError: it is not there, or cannot be written.
    """
    frame = channels * SAMPLE_BYTES
    file = os.open(path, _OPEN)
    try:
        if size is None:
            size = max(0, os.fstat(file).st_size - HEADER_BYTES) // frame * frame
        # Without a byte of disk: what is beyond the end so far is a hole, and reads as silence.
        os.ftruncate(file, HEADER_BYTES + size)
        os.pwrite(file, header(size, rate, channels), 0)
        os.fsync(file)
    finally:
        os.close(file)
    return size


def idle_s(path: Path) -> float | None:
    """For how long nobody has written to it; None if it is not there."""
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return None


def peaks(path: Path, rate: int, channels: int) -> list[bytes]:
    """The loudest sample (0 to 127) of each 10 ms, for each channel.

    Raises:
        OSError: it cannot be read.
    """
    step = rate // PEAKS_PER_SECOND
    found: list[list[bytes]] = [[] for _ in range(channels)]
    with path.open("rb") as file:
        file.seek(HEADER_BYTES)
        while raw := file.read(_PEAKS_READ_S * rate * channels * SAMPLE_BYTES):
            samples = np.frombuffer(raw[: len(raw) // (channels * SAMPLE_BYTES) * channels * SAMPLE_BYTES], "<i2")
            sides = np.abs(samples.reshape(-1, channels).astype(np.int32))
            missing = -len(sides) % step
            sides = np.pad(sides, ((0, missing), (0, 0)))
            loudest = np.minimum(sides.reshape(-1, step, channels).max(axis=1) >> 8, 127).astype(np.uint8)
            for channel in range(channels):
                found[channel].append(loudest[:, channel].tobytes())
    return [b"".join(parts) for parts in found]
