"""The microphone and the loudspeaker of this machine, through miniaudio."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

from rejoinder.audio import FRAME_MS, SAMPLE_BYTES, duration_ms, fade
from rejoinder.channel import Channel
from rejoinder.errors import ConfigError, MissingDependency

WAITING_FRAMES = 100


class Speaker:
    """A `Player` that is heard. Its device calls from a thread of its own."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._buffer = bytearray()
        self._received = 0
        self._gain = self._target = 1.0

    def begin(self) -> None:
        """See `Player`."""
        with self._lock:
            self._received = 0

    def feed(self, pcm: bytes) -> None:
        """See `Player`."""
        with self._lock:
            self._buffer += pcm
            self._received += len(pcm)

    def clear(self) -> None:
        """See `Player`."""
        with self._lock:
            self._received = max(0, self._received - len(self._buffer))
            self._buffer.clear()

    def duck(self, gain: float) -> None:
        """See `Player`."""
        with self._lock:
            self._target = gain

    def played_ms(self) -> float:
        """See `Player`."""
        with self._lock:
            return max(0, self._received - len(self._buffer)) * 1000 / (SAMPLE_BYTES * self._rate)

    def received_ms(self) -> float:
        """See `Player`."""
        return self._received * 1000 / (SAMPLE_BYTES * self._rate)

    def remaining_s(self) -> float:
        """See `Player`."""
        return duration_ms(self._buffer, self._rate) / 1000

    def stream(self) -> Generator[bytes, int, None]:
        """For the device: is sent the number of samples it needs, yields them; silence where there is nothing."""
        wanted = yield b""
        while True:
            with self._lock:
                pcm = bytes(self._buffer[: wanted * SAMPLE_BYTES])
                del self._buffer[: wanted * SAMPLE_BYTES]
                before, self._gain = self._gain, self._target
            if before != 1.0 or self._gain != 1.0:
                pcm = fade(pcm, before, self._gain)
            wanted = yield pcm.ljust(wanted * SAMPLE_BYTES, b"\0")


def _miniaudio() -> Any:
    try:
        import miniaudio
    except ImportError:
        error = MissingDependency("talk", "miniaudio", "mic")
        error.fix = f"{error.fix} (or use --wav FILE or --text TEXT, which need no audio device)"
        raise error from None
    return miniaudio


@contextlib.contextmanager
def _opening(what: str) -> Iterator[None]:
    try:
        with _without_stderr():
            yield
    except _miniaudio().MiniaudioError as error:
        raise ConfigError(
            f"This machine has no {what} that can be used ({error.args[0] if error.args else error}).",
            code="no_audio_device",
            fix="Use --wav FILE or --text TEXT, which need no audio device.",
        ) from None


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Keep what sound libraries print past Python (ALSA: a page, where there is no sound card) off the screen."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def check_devices() -> None:
    """Open and close the default microphone and loudspeaker.

    Raises:
        MissingDependency: miniaudio is not installed.
        ConfigError: there is no device (`no_audio_device`).
    """
    with open_speaker(24_000), _opening("microphone"):
        _capture_device(16_000).close()


@contextlib.contextmanager
def open_speaker(rate: int) -> Iterator[Speaker]:
    """The default loudspeaker, playing at `rate` Hz.

    Raises:
        MissingDependency: miniaudio is not installed.
        ConfigError: there is none (`no_audio_device`).
    """
    miniaudio = _miniaudio()
    speaker = Speaker(rate)
    stream = speaker.stream()
    next(stream)
    with _opening("loudspeaker"):
        device = miniaudio.PlaybackDevice(
            nchannels=1, sample_rate=rate, buffersize_msec=FRAME_MS, backends=_real_backends(), app_name="rejoinder"
        )
        device.start(stream)
    try:
        yield speaker
    finally:
        device.close()


@contextlib.asynccontextmanager
async def open_microphone(rate: int) -> AsyncIterator[Channel[bytes]]:
    """The default microphone: PCM16 at `rate` Hz in pieces of about 20 ms, the newest two seconds of them.

    Raises:
        MissingDependency: miniaudio is not installed.
        ConfigError: there is none (`no_audio_device`).
    """
    channel: Channel[bytes] = Channel(WAITING_FRAMES)

    def take(pcm: bytes) -> None:
        if channel.closed:
            return  # what the device still said while it was being closed
        if not channel.send_nowait(pcm):
            channel.receive_nowait()
            channel.send_nowait(pcm)

    capture = _capture(asyncio.get_running_loop(), take)
    next(capture)
    with _opening("microphone"):
        device = _capture_device(rate)
        device.start(capture)
    try:
        yield channel
    finally:
        device.close()
        channel.close()


def _capture(loop: asyncio.AbstractEventLoop, take: Callable[[bytes], None]) -> Generator[None, bytes, None]:
    while True:
        pcm = yield
        loop.call_soon_threadsafe(take, bytes(pcm))


def _capture_device(rate: int) -> Any:
    return _miniaudio().CaptureDevice(
        nchannels=1, sample_rate=rate, buffersize_msec=FRAME_MS, backends=_real_backends(), app_name="rejoinder"
    )


def _real_backends() -> list[Any]:
    """All but the null backend, which would take the place of a missing sound card without a word."""
    miniaudio = _miniaudio()
    return [
        backend for backend in miniaudio.Backend if backend not in (miniaudio.Backend.NULL, miniaudio.Backend.CUSTOM)
    ]
