"""The VAD provider `silero`: the Silero network on onnxruntime, asleep while a cheap gate hears nothing at all."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rejoinder.errors import MissingDependency, ProviderError
from rejoinder.hookspecs import hookimpl
from rejoinder.providers import ModelFile, Provider, ProviderContext, VadAdvice
from rejoinder_plugins.vad.webrtc import RATE, make_detector

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MODEL = ModelFile(
    name="silero-vad",
    summary="Silero VAD 6, 16 kHz",
    source="pypi:silero-vad==6.2.3#silero_vad/data/silero_vad_op18_ifless.onnx",
    sha256="7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
    size=2_845_718,
    licence="MIT",
    embedded=True,
)
FRAME_SAMPLES = 512
CONTEXT_SAMPLES = 64
GATE_MODE = 0
"""The most permissive mode of WebRTC's detector: it is stuck on in noise, which here only means no saving."""
GATE_BYTES = 960
"""WebRTC's detector takes 10, 20 or 30 ms, so it hears 30 of the 32."""
GATE_HOLD = 16
"""Frames (of 32 ms) without any sound before the network falls asleep."""
CATCH_UP = 2
"""Frames from before the gate opened that the network hears on waking: what it missed of an onset."""


class SileroVad:
    """One stream; its frames are 32 ms. Costs about 130 us a frame, 10 us while the gate is closed."""

    frame_samples = FRAME_SAMPLES

    def __init__(self, session: Any, *, gated: bool = True) -> None:
        import numpy as np

        self._session = session
        self._gated = gated
        self._input: NDArray[np.float32] = np.zeros((1, CONTEXT_SAMPLES + FRAME_SAMPLES), np.float32)
        self._rate = np.array(RATE, np.int64)
        self.network_frames = 0
        """Frames the network has run on, for measuring the gate."""
        self.reset()

    def process(self, frame: bytes) -> float:
        """Probability of speech (0 to 1) in the next 1024 bytes of PCM16 at 16 kHz."""
        if not self._gated:
            return self._run(frame)
        if self._gate.is_speech(frame[:GATE_BYTES], RATE):
            self._quiet = 0
        else:
            self._quiet += 1
            if self._quiet > GATE_HOLD:
                self._missed.append(frame)
                return 0.0
        while self._missed:
            self._run(self._missed.popleft())
        probability = self._run(frame)
        if probability >= 0.15:  # whatever the gate thinks, the network is hearing something
            self._quiet = 0
        return probability

    def reset(self) -> None:
        """Forget the past of the stream."""
        import numpy as np

        self._state: NDArray[np.float32] = np.zeros((2, 1, 128), np.float32)
        self._input.fill(0)
        self._gate = make_detector(GATE_MODE)
        self._quiet = GATE_HOLD
        self._missed: deque[bytes] = deque(maxlen=CATCH_UP)

    def _run(self, frame: bytes) -> float:
        import numpy as np

        self.network_frames += 1
        window = self._input
        window[0, CONTEXT_SAMPLES:] = np.frombuffer(frame, "<i2")
        window[0, CONTEXT_SAMPLES:] *= 1 / 32768
        probability, self._state = self._session.run(None, {"input": window, "state": self._state, "sr": self._rate})
        window[0, :CONTEXT_SAMPLES] = window[0, -CONTEXT_SAMPLES:]
        return float(probability[0, 0])


class SileroProvider:
    """Loads the network once; all streams share it and keep their own state."""

    advice = VadAdvice(on=0.5, off=0.35, start_ms=64, end_silence_ms=280)
    """Of pauses inside recorded utterances 2 % are as long as 280 ms or longer; a frame is 32 ms, so 265 would do the
    same with less room for a late one."""

    def __init__(self, context: ProviderContext) -> None:
        self._context = context
        self._session: Any = None

    async def warm_up(self) -> None:
        """Load the network.

        Raises:
            MissingDependency: onnxruntime is not installed.
            MissingModel: the model file is not in the cache.
            ProviderError: the model file cannot be loaded.
        """
        if self._session is None:
            loop = asyncio.get_running_loop()
            self._session = await loop.run_in_executor(self._context.executor("silero", 1), self._load)

    def open(self, *, gated: bool = True) -> SileroVad:
        """A detector for a new stream; `gated=False` runs the network on every frame.

        Raises:
            ProviderError: `warm_up` has not been called.
        """
        if self._session is None:
            raise ProviderError("silero", "is not loaded.", code="not_ready", fix="Call warm_up() first.")
        return SileroVad(self._session, gated=gated)

    async def close(self) -> None:
        """Let go of the network."""
        self._session = None

    def _load(self) -> Any:
        try:
            import onnxruntime
        except ImportError:
            raise MissingDependency("silero", "onnxruntime", "local") from None
        path = self._context.models.path(MODEL.name)
        options = onnxruntime.SessionOptions()
        # A frame is 0.1 ms of work: a thread pool would only add hand-overs, and spin in between.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            SileroVad(session, gated=False).process(bytes(2 * FRAME_SAMPLES))
        except Exception as error:
            raise ProviderError(
                "silero", f"cannot load {path}: {error}", code="bad_model", fix=f"rejoinder models pull {MODEL.name}"
            ) from error
        return session


@hookimpl
def register_providers() -> Iterable[Provider]:
    """Offer `silero`."""
    return [Provider("vad", "silero", "Silero's network: robust in noise, 130 us a frame of speech", SileroProvider)]


@hookimpl
def register_models() -> Iterable[ModelFile]:
    """Name the network's file."""
    return [MODEL]
