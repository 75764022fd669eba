"""The VAD provider `webrtcvad`: the detector of the WebRTC project; next to no cost, good in quiet rooms only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rejoinder.errors import MissingDependency
from rejoinder.hookspecs import hookimpl
from rejoinder.providers import Provider, ProviderContext, VadAdvice

if TYPE_CHECKING:
    from webrtcvad import Vad as Detector

MODE = 3
"""The strictest of four. The others stay on in noise: modes 0 and 1 already at a signal-to-noise ratio of 5 dB."""
RATE = 16_000
FRAME_SAMPLES = 320


def make_detector(mode: int) -> Detector:
    """A detector of its own for one stream.

    Raises:
        MissingDependency: the package is not installed.
    """
    try:
        import webrtcvad
    except ImportError:
        raise MissingDependency("webrtcvad", "webrtcvad-wheels", "local") from None
    return webrtcvad.Vad(mode)


class WebrtcVad:
    """One stream; its frames are 20 ms and its probabilities 0 or 1."""

    frame_samples = FRAME_SAMPLES

    def __init__(self) -> None:
        self.reset()

    def process(self, frame: bytes) -> float:
        """1.0 if the next 640 bytes of PCM16 at 16 kHz are speech, else 0.0."""
        return 1.0 if self._detector.is_speech(frame, RATE) else 0.0

    def reset(self) -> None:
        """Forget the past of the stream."""
        self._detector = make_detector(MODE)


class WebrtcVadProvider:
    """Makes a detector per session; there is nothing to load."""

    advice = VadAdvice(on=0.5, off=0.5, start_ms=100, end_silence_ms=400)

    async def warm_up(self) -> None:
        """Fail early if the package is not there."""
        make_detector(MODE)

    def open(self) -> WebrtcVad:
        """A detector for a new stream."""
        return WebrtcVad()

    async def close(self) -> None:
        """Nothing to free."""


def _create(context: ProviderContext) -> WebrtcVadProvider:
    return WebrtcVadProvider()


@hookimpl
def register_providers() -> Iterable[Provider]:
    """Offer `webrtcvad`."""
    return [Provider("vad", "webrtcvad", "WebRTC's detector: 5 us a frame, for quiet rooms", _create)]
