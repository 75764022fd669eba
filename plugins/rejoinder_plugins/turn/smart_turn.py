"""The turn detector `smart_turn`: an audio model that hears whether somebody has finished.

Smart Turn v3.2 is a small network on the log-mel features of Whisper. It costs about 55 ms of one core per pause, in a
thread. It takes silence itself for a sign, so it is asked once, early in a pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from rejoinder.audio import ENGINE_RATE, SAMPLE_BYTES, to_float
from rejoinder.errors import MissingDependency, ProviderError
from rejoinder.hookspecs import hookimpl
from rejoinder.providers import ModelFile, Provider, ProviderContext, TurnSoFar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "smart_turn"
MODEL = ModelFile(
    name="smart-turn",
    summary="Smart Turn 3.2: hears the end of a turn",
    source="pypi:pipecat-ai==1.14.0#pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx",
    sha256="2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f",
    size=8_679_182,
    licence="BSD-2-Clause",
)
SAMPLES = 8 * ENGINE_RATE
"""What the network hears: the newest 8 s; less is preceded by silence."""
SHORTEST = ENGINE_RATE // 5
"""Fewer samples than this are not worth an opinion."""

WINDOW = 400
HOP = 160
BANDS = 80
FLOOR = 1e-10
RANGE = 8.0
"""Powers of ten below the loudest that still count."""

SURE = 0.55
"""The most it answers: the network hears that a sentence has ended, but not whether another one follows. At the pauses
between two sentences of recorded speech it is as sure (over 0.9 at 55 of 100) as at the end (75 of 100); where somebody
breaks off in the middle of one, it is below 0.3 at 54 of 100 (7 of 100 at the end)."""


class SmartTurnSettings(msgspec.Struct, forbid_unknown_fields=True):
    """`workers` pauses are judged at a time, each on one core."""

    workers: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Whisper's features of 16 kHz audio, [80 bands, one frame per 10 ms]: logarithmic power, in about -1 to 1.

    The audio is brought to mean 0 and variance 1 first, as the network was trained.
    """
    import numpy as np

    level = (samples - samples.mean()) / np.sqrt(samples.var() + np.float32(1e-7))
    padded = np.pad(level, WINDOW // 2, mode="reflect").astype(np.float64)
    count = len(samples) // HOP
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[: count * HOP : HOP]
    window, bands = _tables()
    spectrum = np.fft.rfft(frames * window)
    power = spectrum.real**2 + spectrum.imag**2
    # Each band is a few frequencies wide. One product of matrices would go to BLAS and its threads, which on a busy
    # machine wait for one another for 100 ms.
    mel = np.stack([(power[:, start : start + len(weights)] * weights).sum(axis=1) for start, weights in bands])
    log = np.log10(np.maximum(mel, FLOOR))
    features: NDArray[np.float32] = ((np.maximum(log, log.max() - RANGE) + 4) / 4).astype(np.float32)
    return features


@cache
def _tables() -> tuple[NDArray[np.float64], list[tuple[int, NDArray[np.float64]]]]:
    """The window of a frame, and of each mel band the first of its frequencies and the weights from there on."""
    import numpy as np

    # Slaney's mel scale: even up to 1 kHz (15 mel), then by the same ratio, 27 steps for a factor of 6.4.
    top = 15 + 27 * np.log(ENGINE_RATE / 2 / 1000) / np.log(6.4)
    mel = np.linspace(0, top, BANDS + 2)
    hertz = np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))
    low, middle, high = hertz[:-2], hertz[1:-1], hertz[2:]
    frequency = np.fft.rfftfreq(WINDOW, 1 / ENGINE_RATE)[:, None]
    triangles = np.minimum((frequency - low) / (middle - low), (high - frequency) / (high - middle)).clip(0)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    bands = []
    for weights in (triangles * 2 / (high - low)).T:
        inside = np.flatnonzero(weights)
        bands.append((int(inside[0]), weights[inside[0] : inside[-1] + 1]))
    return window, bands


class SmartTurn:
    """See `rejoinder.providers.TurnDetector`."""

    wants_text = False

    def __init__(self, context: ProviderContext) -> None:
        self._context = context
        self._workers: int = context.settings.workers
        self._session: Any = None

    async def warm_up(self) -> None:
        """Load the network (about 0.2 s) and run it once.

        Raises:
            MissingDependency: onnxruntime is not installed.
            MissingModel: the model file is not in the cache.
            ProviderError: the model file cannot be loaded.
        """
        if self._session is None:
            self._session = await self._in_thread(self._load)

    async def judge(self, turn: TurnSoFar) -> float | None:
        """What the voice says; None where there is too little of it.

        Raises:
            ProviderError: `warm_up` has not been called, or the network failed.
        """
        session = self._session
        if session is None:
            raise ProviderError(NAME, "is not loaded.", code="not_ready", fix="Call warm_up() first.")
        if len(turn.audio) < SHORTEST * SAMPLE_BYTES:
            return None
        probability: float = await self._in_thread(_probability, session, turn.audio)
        return probability

    async def close(self) -> None:
        """Let go of the network."""
        self._session = None

    async def _in_thread(self, work: Any, *arguments: Any) -> Any:
        executor = self._context.executor(NAME, self._workers)
        return await asyncio.get_running_loop().run_in_executor(executor, work, *arguments)

    def _load(self) -> Any:
        try:
            import onnxruntime
        except ImportError:
            raise MissingDependency(NAME, "onnxruntime", "local") from None
        path = self._context.models.path(MODEL.name)
        options = onnxruntime.SessionOptions()
        # It shares the machine with STT and TTS: one core for a little longer is better than all of them at once.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            _probability(session, bytes(SHORTEST * SAMPLE_BYTES))
        except Exception as error:
            raise ProviderError(
                NAME, f"cannot load {path}: {error}", code="bad_model", fix=f"rejoinder models pull {MODEL.name}"
            ) from error
        return session


def calibrate(output: float) -> float:
    """The probability that a turn is over, from the network's output (0 to 1): as it is up to 0.5, at most `SURE`."""
    output = min(max(output, 0.0), 1.0)
    return output if output <= 0.5 else 0.5 + (output - 0.5) * (2 * SURE - 1)


def _probability(session: Any, pcm: bytes) -> float:
    import numpy as np

    samples = np.zeros(SAMPLES, np.float32)
    heard = to_float(pcm[-SAMPLES * SAMPLE_BYTES :])
    samples[SAMPLES - len(heard) :] = heard
    try:
        (logits,) = session.run(None, {"input_features": log_mel(samples)[None]})
    except Exception as error:
        raise ProviderError(NAME, f"cannot judge: {error}", code="turn_failed") from error
    return calibrate(float(logits[0, 0]))


@hookimpl
def register_providers() -> Iterable[Provider]:
    """Offer `smart_turn`."""
    return [
        Provider("turn", NAME, "Smart Turn: hears the end of a turn, 55 ms of a core", SmartTurn, SmartTurnSettings)
    ]


@hookimpl
def register_models() -> Iterable[ModelFile]:
    """Name the network's file."""
    return [MODEL]
