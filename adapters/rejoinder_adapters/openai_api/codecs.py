"""Audio formats: encodes speech as it comes, and decodes uploads piece by piece. All of it runs in threads."""

from __future__ import annotations

import asyncio
import io
import itertools
import struct
import wave
from collections.abc import AsyncGenerator, Iterator
from typing import Any, NamedTuple

from rejoinder.audio import ENGINE_RATE, SAMPLE_BYTES, Resampler, read_wav
from rejoinder.errors import ConfigError
from rejoinder_adapters.openai_api.errors import ApiError, bad

SPEECH_RATE = 24_000
"""Hz of all speech that is sent, as OpenAI's."""


class Format(NamedTuple):
    """An output format: its media type, and for those that need an encoder FFmpeg's names of container and codec."""

    media_type: str
    container: str = ""
    codec: str = ""
    bit_rate: int | None = None
    options: dict[str, str] = {}  # noqa: RUF012 - never changed


FORMATS = {
    "mp3": Format("audio/mpeg", "mp3", "libmp3lame", 64_000, {"write_xing": "0"}),
    # Pages of 100 ms: by default a player would wait a second for each.
    "opus": Format("audio/ogg", "ogg", "libopus", 48_000, {"page_duration": "100000"}),
    "aac": Format("audio/aac", "adts", "aac", 64_000),
    "flac": Format("audio/flac", "flac", "flac"),
    "wav": Format("audio/wav"),
    "pcm": Format("audio/pcm"),
}

_READABLE = "aac,aiff,amr,asf,au,caf,flac,matroska,webm,mov,mp4,m4a,3gp,mp3,mpeg,mpegts,ogg,w64,wav"
"""FFmpeg's demuxers for uploads. Not its playlists: those would make it open files and addresses of their choice."""

_LONGEST_S = 4 * 3600
"""Seconds of audio in an upload: a small file may hold days of silence."""
_WAV_RATES = range(4_000, 192_001)
"""Hz of WAV files. What is lower is damage, and would become huge at 16 kHz."""


class MissingCodecs(Exception):
    """PyAV is not installed."""


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise MissingCodecs from None
    return av


async def need_codecs(param: str, what: str, instead: str) -> None:
    """Make sure that PyAV is there.

    Raises:
        ApiError: it is not (400); the message says what could be done `instead`.
    """
    try:
        await asyncio.to_thread(_av)
    except MissingCodecs:
        message = f"{what} needs audio codecs, which this server lacks. {instead}, or: pip install 'rejoinder[codecs]'"
        raise bad(param, message, "codecs_missing") from None


# --- encoding -------------------------------------------------------------------------------------------------


def wav_header(rate: int) -> bytes:
    """The header of a WAV stream of unknown length: PCM16 mono; both sizes are the largest that there is."""
    unknown = 0xFFFFFFFF
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, rate * SAMPLE_BYTES, SAMPLE_BYTES, 16)
    return struct.pack("<4sI4s", b"RIFF", unknown, b"WAVE") + form + struct.pack("<4sI", b"data", unknown)


async def encode(pcm: AsyncGenerator[bytes, None], name: str) -> AsyncGenerator[bytes, None]:
    """PCM16 at 24 kHz as one of `FORMATS`, piece by piece."""
    wanted = FORMATS[name]
    if not wanted.codec:
        if name == "wav":
            yield wav_header(SPEECH_RATE)
        async for piece in pcm:
            yield piece
        return
    encoder = await asyncio.to_thread(_Encoder, wanted)
    async for piece in pcm:
        if encoded := await asyncio.to_thread(encoder.encode, piece):
            yield encoded
    if encoded := await asyncio.to_thread(encoder.finish):
        yield encoded


async def change_speed(pcm: AsyncGenerator[bytes, None], speed: float) -> AsyncGenerator[bytes, None]:
    """PCM16 at 24 kHz, `speed` times as fast (0.25 to 4) at the same pitch."""
    if speed == 1.0:
        async for piece in pcm:
            yield piece
        return
    tempo = await asyncio.to_thread(_Tempo, speed)
    async for piece in pcm:
        if changed := await asyncio.to_thread(tempo.process, piece):
            yield changed
    if changed := await asyncio.to_thread(tempo.finish):
        yield changed


class _Sink:
    """A file that cannot be sought in; `take` gives what was written since the last time."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._written)
        self._written.clear()
        return taken


class _Encoder:
    """One stream of one format. Of one thread at a time."""

    def __init__(self, wanted: Format) -> None:
        av = _av()
        self._sink = _Sink()
        self._container = av.open(self._sink, "w", format=wanted.container, options=dict(wanted.options))
        self._stream = self._container.add_stream(wanted.codec, rate=SPEECH_RATE, layout="mono")
        if wanted.bit_rate:
            self._stream.bit_rate = wanted.bit_rate
        self._samples = 0

    def encode(self, pcm: bytes) -> bytes:
        """The next of the encoded stream; may be empty."""
        frame = _frame(pcm, self._samples)
        self._samples += frame.samples
        self._container.mux(self._stream.encode(frame))
        return self._sink.take()

    def finish(self) -> bytes:
        """What is left at the end."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._sink.take()


class _Tempo:
    """FFmpeg's `atempo`. Of one thread at a time."""

    def __init__(self, speed: float) -> None:
        av = _av()
        self._graph = av.filter.Graph()
        source = self._graph.add_abuffer(format="s16", sample_rate=SPEECH_RATE, layout="mono", name="in")
        # One filter makes it at most half as fast; two in a row make a quarter.
        parts = [speed] if speed >= 0.5 else [0.5, speed / 0.5]
        chain = [source, *(self._graph.add("atempo", f"{part:g}") for part in parts), self._graph.add("abuffersink")]
        for one, following in itertools.pairwise(chain):
            one.link_to(following)
        self._graph.configure()
        self._samples = 0

    def process(self, pcm: bytes) -> bytes:
        frame = _frame(pcm, self._samples)
        self._samples += frame.samples
        self._graph.push(frame)
        return self._pull()

    def finish(self) -> bytes:
        self._graph.push(None)
        return self._pull()

    def _pull(self) -> bytes:
        av = _av()
        pieces = []
        while True:
            try:
                pieces.append(_bytes(self._graph.pull()))
            except (av.error.BlockingIOError, av.error.EOFError):
                return b"".join(pieces)


def _frame(pcm: bytes, at: int) -> Any:
    """A frame of PCM16 mono at the speech rate that begins at sample `at`."""
    import numpy as np

    frame = _av().AudioFrame.from_ndarray(np.frombuffer(pcm, "<i2").reshape(1, -1), format="s16", layout="mono")
    frame.sample_rate = SPEECH_RATE
    frame.pts = at
    return frame


def _bytes(frame: Any) -> bytes:
    data: bytes = frame.to_ndarray().tobytes()
    return data


# --- decoding -------------------------------------------------------------------------------------------------


async def decode(upload: bytes) -> AsyncGenerator[bytes, None]:
    """An audio file as PCM16 mono at 16 kHz, about a second at a time: WAV by itself, all else through PyAV.

    Raises (while iterating):
        ApiError: it is no audio, holds more than four hours, or needs PyAV and that is missing (400).
    """
    left = _LONGEST_S * ENGINE_RATE * SAMPLE_BYTES
    pieces = await asyncio.to_thread(_open, upload)
    # Not closed at the end: if we are cancelled a thread may still be in it, and freeing it does the same.
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        left -= len(piece)
        if left < 0:
            raise bad("file", f"The file holds more than {_LONGEST_S // 3600} hours of audio.", "audio_too_long")
        yield piece


def _open(upload: bytes) -> Iterator[bytes]:
    if not upload:
        raise bad("file", "The file is empty.", "invalid_audio")
    try:
        with wave.open(io.BytesIO(upload), "rb"):
            return _wav(upload)
    except (wave.Error, EOFError):
        # No WAV, or one that Python's module does not know (floats, compressed): FFmpeg does.
        return _compressed(upload)


def _wav(upload: bytes) -> Iterator[bytes]:
    try:
        with wave.open(io.BytesIO(upload), "rb") as wav:
            if wav.getframerate() not in _WAV_RATES:
                raise ValueError(f"{wav.getframerate()} Hz")
            resampler = Resampler(wav.getframerate(), ENGINE_RATE)
            while raw := wav.readframes(wav.getframerate()):
                piece, _ = read_wav(_as_wav(raw, wav))
                yield resampler.process(piece)
            if rest := resampler.process(b"", last=True):
                yield rest
    except (wave.Error, EOFError, ConfigError, ValueError) as error:
        raise bad("file", f"The WAV file is damaged: {error}", "invalid_audio") from None


def _as_wav(raw: bytes, like: wave.Wave_read) -> bytes:
    """A piece of a WAV file as a WAV file of its own, so that nobody needs to hold all of a long one converted."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as wav:
        wav.setnchannels(like.getnchannels())
        wav.setsampwidth(like.getsampwidth())
        wav.setframerate(like.getframerate())
        wav.writeframes(raw)
    return buffer.getvalue()


def _compressed(upload: bytes) -> Iterator[bytes]:
    try:
        av = _av()
    except MissingCodecs:
        message = "Files other than WAV need audio codecs, which this server lacks. Send a PCM WAV file, or: "
        raise bad("file", message + "pip install 'rejoinder[codecs]'", "codecs_missing") from None
    try:
        with av.open(io.BytesIO(upload), "r", options={"format_whitelist": _READABLE}) as container:
            if not container.streams.audio:
                raise bad("file", "The file has no audio track.", "invalid_audio")
            resampler = av.AudioResampler(format="s16", layout="mono", rate=ENGINE_RATE)
            held = bytearray()
            for frame in container.decode(container.streams.audio[0]):
                for converted in resampler.resample(frame):
                    held += _bytes(converted)
                if len(held) >= ENGINE_RATE * SAMPLE_BYTES:
                    yield bytes(held)
                    held.clear()
            for converted in resampler.resample(None):
                held += _bytes(converted)
            if held:
                yield bytes(held)
    except ApiError:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        known = ", ".join(("wav", "mp3", "m4a", "mp4", "ogg", "webm", "flac", "aac"))
        text = getattr(error, "strerror", None) or error
        message = f"The file cannot be decoded ({text}). Send one of: {known}."
        raise bad("file", message, "invalid_audio") from None
