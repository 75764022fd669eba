from __future__ import annotations

import asyncio
import importlib.metadata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rejoinder import audio
from rejoinder.errors import MissingModel, ProviderError
from rejoinder.models import ModelCache
from rejoinder.providers import NoSettings, ProviderContext, Vad
from rejoinder.settings import Settings
from rejoinder_plugins.vad.silero import MODEL, SileroProvider
from rejoinder_plugins.vad.webrtc import WebrtcVadProvider

SECOND = bytes(2 * audio.ENGINE_RATE)
ON, OFF = 0.5, 0.35


def speech() -> bytes:
    """The first 9 s of a man reading, from the speech recogniser's package; PCM16 at 16 kHz."""
    path = importlib.metadata.distribution("moonshine-voice").locate_file("moonshine_voice/assets/beckett.wav")
    return audio.read_wav(Path(str(path)), audio.ENGINE_RATE)[0][: 9 * len(SECOND)]


def probabilities(vad: Vad, pcm: bytes) -> list[float]:
    size = vad.frame_samples * audio.SAMPLE_BYTES
    return [vad.process(pcm[at : at + size]) for at in range(0, len(pcm) - size + 1, size)]


def silero(models: Path | None = None) -> SileroProvider:
    def no_llm(name: str) -> None:
        raise AssertionError

    cache = ModelCache(models or Settings().models_dir, {MODEL.name: MODEL})
    executor = ThreadPoolExecutor(1)
    provider = SileroProvider(ProviderContext(NoSettings(), cache, lambda name, workers: executor, no_llm))  # type: ignore[arg-type]
    try:
        asyncio.run(provider.warm_up())
    finally:
        executor.shutdown()
    return provider


def first(found: list[float], level: float) -> int:
    return next(i for i, p in enumerate(found) if p >= level)


def test_webrtc_tells_speech_from_silence() -> None:
    provider = WebrtcVadProvider()
    asyncio.run(provider.warm_up())
    vad = provider.open()
    assert set(probabilities(vad, SECOND)) == {0.0}
    heard = probabilities(vad, speech())
    assert set(heard) == {0.0, 1.0}
    assert sum(heard) > len(heard) / 3
    assert set(probabilities(vad, SECOND)[20:]) == {0.0}


@pytest.mark.models
def test_silero_tells_speech_from_silence_and_streams_do_not_mix() -> None:
    provider = silero()
    vad, other = provider.open(), provider.open()
    alone = probabilities(provider.open(), speech())
    heard = []
    size = vad.frame_samples * audio.SAMPLE_BYTES
    pcm = speech()
    for at in range(0, len(pcm) - size + 1, size):
        heard.append(vad.process(pcm[at : at + size]))
        assert other.process(bytes(size)) < OFF
    assert heard == alone
    assert max(heard) > 0.9
    assert max(probabilities(vad, SECOND)[10:]) < OFF


@pytest.mark.models
def test_silence_does_not_reach_the_network_and_speech_loses_nothing_by_it() -> None:
    import numpy as np

    loud = audio.to_float(speech())
    noise = np.random.default_rng(1).standard_normal(len(loud)).astype(np.float32) * np.float32(5e-4)
    quiet, soft = audio.from_float(noise), audio.from_float(loud * np.float32(0.05) + noise)
    provider = silero()
    gated, always = provider.open(), provider.open(gated=False)

    assert max(probabilities(gated, quiet)) < OFF
    assert gated.network_frames < len(quiet) / 1024 * 0.1
    probabilities(always, quiet)

    asleep, awake = probabilities(gated, soft), probabilities(always, soft)
    assert first(asleep, ON) <= first(awake, ON)
    lost = sum(a < OFF and b >= ON for a, b in zip(asleep, awake, strict=True))
    assert lost <= sum(b >= ON for b in awake) * 0.05


@pytest.mark.models
def test_silero_reset_forgets_the_stream() -> None:
    vad = silero().open()
    before = probabilities(vad, speech())
    vad.reset()
    assert probabilities(vad, speech()) == before


def test_silero_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingModel, match="silero-vad") as caught:
        silero(tmp_path)
    assert caught.value.fix == "rejoinder models pull silero-vad"
    (tmp_path / "silero-vad.onnx").write_bytes(bytes(MODEL.size))
    with pytest.raises(ProviderError) as failed:
        silero(tmp_path)
    assert failed.value.code == "bad_model"
