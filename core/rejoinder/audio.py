"""PCM16 audio: sizes, resampling, loudness, silence trimming and WAV files.

All audio inside the engine is mono, signed 16-bit, little-endian ("PCM16"); `rate` is in Hz, times are in ms.
"""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rejoinder.errors import ConfigError, ProtocolError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENGINE_RATE = 16_000
"""Rate of all audio going to VAD and STT, in Hz."""
FRAME_MS = 20
SAMPLE_BYTES = 2
_MIN_SOUND_BLOCKS = 8
_MAX_GAP_BLOCKS = 5
RATES = (8_000, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)


def check_rate(rate: int, what: str) -> int:
    """`rate` if it is one a client may use.

    Raises:
        ProtocolError: it is not (`bad_rate`).
    """
    if rate not in RATES:
        raise ProtocolError(
            f"{what} {rate} Hz is not supported.", code="bad_rate", fix=f"Use one of {', '.join(map(str, RATES))}."
        )
    return rate


class Rates(NamedTuple):
    """Sample rates of a connection in Hz, as its client sees them; `check_rates` makes them."""

    input: int
    output: int


def check_rates(input_rate: int, output_rate: int) -> Rates:
    """The rates a client asks for.

    Raises:
        ProtocolError: one is not supported (`bad_rate`).
    """
    return Rates(check_rate(input_rate, "input_rate"), check_rate(output_rate, "output_rate"))


def byte_count(ms: float, rate: int) -> int:
    """Bytes of `ms` of PCM16 at `rate`, rounded down to whole samples."""
    return int(ms * rate / 1000) * SAMPLE_BYTES


def duration_ms(pcm: bytes | bytearray | memoryview, rate: int) -> float:
    """Length of `pcm` at `rate` in ms."""
    return len(pcm) * 1000 / (SAMPLE_BYTES * rate)


def to_float(pcm: bytes | bytearray | memoryview) -> NDArray[np.float32]:
    """PCM16 as float32 samples in [-1, 1)."""
    import numpy as np

    return np.frombuffer(pcm, dtype="<i2").astype(np.float32) / np.float32(32768.0)


def from_float(samples: NDArray[np.float32], gain: float = 1.0) -> bytes:
    """Float samples as PCM16, after `gain`, clipped."""
    import numpy as np

    pcm: bytes = np.clip(samples * (32767.0 * gain), -32768, 32767).astype("<i2").tobytes()
    return pcm


def fade(pcm: bytes, start: float, end: float) -> bytes:
    """PCM16 whose gain goes evenly from `start` to `end`: a jump would click."""
    import numpy as np

    samples = np.frombuffer(pcm, dtype="<i2")
    faded: bytes = (samples * np.linspace(start, end, len(samples))).astype("<i2").tobytes()
    return faded


def trim_silence(
    samples: NDArray[np.float32], rate: int, *, level: float = 0.01, keep_ms: float = 20
) -> NDArray[np.float32]:
    """`samples` without what is quieter than `level` at both ends, but for `keep_ms` on each side."""
    import numpy as np

    loud = np.flatnonzero(np.abs(samples) > level)
    if not len(loud):
        return samples[:0]
    keep = int(keep_ms * rate / 1000)
    return samples[max(0, int(loud[0]) - keep) : int(loud[-1]) + 1 + keep]


def speech_end(pcm: bytes, rate: int) -> int:
    """Bytes of `pcm` up to the end of its speech; all of it for a recording without any sound.

    That is the end of its last sound: at least 80 ms of loud 10 ms blocks with no gap over 50 ms. Loud is what the
    recording itself sets apart: the level, between 15 and 45 dB below its loudest, that best divides its blocks into
    two kinds (Otsu's method). So neither noise nor a click after the last word counts as speech.
    """
    import numpy as np

    samples = np.frombuffer(pcm, dtype="<i2").astype(np.float64)
    size = max(1, rate // 100)
    blocks = samples[: len(samples) // size * size].reshape(-1, size)
    power = np.mean(np.square(blocks), axis=1) if len(blocks) else np.zeros(0)
    if not len(power) or power.max() < 1:
        return len(pcm)
    levels = np.clip(10 * np.log10(power / power.max() + 1e-9), -60, 0)
    best, threshold = -1.0, -45.0
    for candidate in range(-45, -14):
        loud = levels >= candidate
        share = float(loud.mean())
        if 0 < share < 1:
            apart = share * (1 - share) * float(levels[loud].mean() - levels[~loud].mean()) ** 2
            if apart > best:
                best, threshold = apart, candidate
    blocks_at = np.flatnonzero(levels >= threshold)
    sounds = np.split(blocks_at, np.flatnonzero(np.diff(blocks_at) > _MAX_GAP_BLOCKS + 1) + 1)
    long = [sound for sound in sounds if len(sound) >= _MIN_SOUND_BLOCKS] or sounds
    return int(long[-1][-1] + 1) * size * 2


class Resampler:
    """A streaming sample-rate converter (soxr HQ); equal rates pass through untouched."""

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self.target = target
        self._stream = None
        if source != target:
            import soxr

            self._stream = soxr.ResampleStream(source, target, 1, dtype="int16", quality="HQ")

    def process(self, pcm: bytes, *, last: bool = False) -> bytes:
        """Convert the next piece of PCM16; `last` flushes what the filter holds back (about 12 ms)."""
        if self._stream is None:
            return pcm
        import numpy as np

        out: bytes = self._stream.resample_chunk(np.frombuffer(pcm, dtype="<i2"), last=last).tobytes()
        return out


def resample(pcm: bytes, source: int, target: int) -> bytes:
    """Convert a whole clip of PCM16."""
    return pcm if source == target else Resampler(source, target).process(pcm, last=True)


def read_wav(source: Path | bytes, rate: int | None = None) -> tuple[bytes, int]:
    """PCM16 mono and its rate from a WAV file (8 to 32 bits; channels are averaged); resampled to `rate` if given.

    Raises:
        ConfigError: no such file, no WAV, or a compressed one (`bad_wav`).
    """
    import numpy as np

    name = str(source) if isinstance(source, Path) else "the upload"
    try:
        with wave.open(io.BytesIO(source) if isinstance(source, bytes) else str(source), "rb") as wav:
            width, channels, own_rate = wav.getsampwidth(), wav.getnchannels(), wav.getframerate()
            raw = wav.readframes(wav.getnframes())
    except FileNotFoundError:
        raise ConfigError(f"There is no file {name!r}.", code="bad_wav", fix="Check the path.") from None
    except (wave.Error, EOFError, OSError) as error:
        raise ConfigError(
            f"{name!r} is not a PCM WAV file ({error}).",
            code="bad_wav",
            fix="Convert it, e.g.: ffmpeg -i IN -ac 1 -ar 16000 -c:a pcm_s16le OUT.wav",
        ) from None
    if channels < 1 or own_rate < 1 or width not in (1, 2, 3, 4):
        raise ConfigError(f"{name!r} has an impossible WAV header.", code="bad_wav")
    raw = raw[: len(raw) // (width * channels) * width * channels]
    if width == 1:
        samples = (np.frombuffer(raw, dtype=np.uint8).astype(np.int32) - 128) << 8
    elif width == 3:
        octets = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 3).astype(np.int32)
        samples = octets[:, 1] | (octets[:, 2].astype(np.int8).astype(np.int32) << 8)
    else:
        samples = np.frombuffer(raw, dtype=f"<i{width}").astype(np.int32)
        if width == 4:
            samples >>= 16
    mono = samples.reshape(-1, channels).mean(axis=1) if channels > 1 else samples
    pcm = mono.astype("<i2").tobytes()
    return (pcm, own_rate) if rate is None else (resample(pcm, own_rate, rate), rate)


def write_wav(path: Path, pcm: bytes, rate: int) -> None:
    """Write PCM16 mono as a WAV file.

    Raises:
        ConfigError: the file cannot be written (`bad_path`).
    """
    try:
        with wave.open(str(path), "wb") as wav:
            wav.setnchannels(1)
            wav.setsampwidth(SAMPLE_BYTES)
            wav.setframerate(rate)
            wav.writeframes(pcm)
    except OSError as error:
        raise ConfigError(
            f"Cannot write {str(path)!r}: {error}.", code="bad_path", fix="Choose a folder you may write to."
        ) from None
