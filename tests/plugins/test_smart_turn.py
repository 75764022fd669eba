from __future__ import annotations

import asyncio
import importlib.metadata
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rejoinder import audio
from rejoinder.errors import MissingModel, ProviderError
from rejoinder.manager import load_plugins
from rejoinder.models import ModelCache
from rejoinder.providers import ProviderContext, TurnDetector, TurnSoFar
from rejoinder.settings import Settings
from rejoinder_plugins.turn.smart_turn import MODEL, SAMPLES, SURE, SmartTurn, SmartTurnSettings, calibrate, log_mel

RATE = audio.ENGINE_RATE


def recording() -> bytes:
    """A man reading, from the speech recogniser's package; PCM16 at 16 kHz."""
    path = importlib.metadata.distribution("moonshine-voice").locate_file("moonshine_voice/assets/beckett.wav")
    return audio.read_wav(Path(str(path)), RATE)[0]


def make(executor: ThreadPoolExecutor, models: Path | None = None) -> SmartTurn:
    unused: Any = None
    cache = ModelCache(models or Settings().models_dir, {MODEL.name: MODEL})
    return SmartTurn(ProviderContext(SmartTurnSettings(), cache, lambda name, workers: executor, unused))


@asynccontextmanager
async def real() -> AsyncIterator[TurnDetector]:
    if ModelCache(Settings().models_dir, {MODEL.name: MODEL}).status(MODEL.name) == "missing":
        message = "the model is missing: run `rejoinder models pull smart-turn`"
        assert "CI" not in os.environ, message
        pytest.skip(message)
    with ThreadPoolExecutor(1) as executor:
        detector = make(executor)
        await detector.warm_up()
        yield detector
        await detector.close()


def turn(pcm: bytes) -> TurnSoFar:
    return TurnSoFar("", pcm, 64, "", "en")


def test_features_are_those_whisper_computes() -> None:
    # A chord that begins after 5 s of silence; the figures are those of the reference implementation in pipecat-ai.
    time = np.arange(SAMPLES) / RATE
    chord = sum(np.sin(2 * np.pi * hertz * time) * level for hertz, level in ((220, 0.2), (1330, 0.1), (5050, 0.05)))
    features = log_mel(np.where(time >= 5, chord, 0).astype(np.float32))
    assert features.shape == (80, 800)
    assert features.dtype == np.float32
    places = [(0, 0), (5, 600), (33, 600), (70, 799), (79, 500), (5, 499)]
    expected = [-0.284477, 1.715516, 1.569395, 0.14128, 0.476915, 0.668266]
    assert [float(features[place]) for place in places] == pytest.approx(expected, abs=1e-5)
    assert float(features.mean()) == pytest.approx(-0.120158, abs=1e-5)


def test_a_sentence_that_ended_is_never_quite_sure_to_end_the_turn() -> None:
    assert calibrate(0.1) == 0.1
    assert calibrate(0.5) == 0.5
    assert calibrate(0.99) <= SURE
    assert calibrate(0.8) < calibrate(0.9)
    assert calibrate(7.0) == SURE


@pytest.mark.models
def test_hears_a_sentence_broken_off_in_the_middle() -> None:
    pcm = recording()
    end = audio.speech_end(pcm[: audio.byte_count(3400, RATE)], RATE)
    pause = bytes(audio.byte_count(64, RATE))

    async def run() -> tuple[float | None, float | None]:
        async with real() as detector:
            whole = await detector.judge(turn(pcm[:end] + pause))
            return whole, await detector.judge(turn(pcm[: end - audio.byte_count(500, RATE)] + pause))

    whole, broken = asyncio.run(run())
    assert whole is not None
    assert broken is not None
    assert broken < 0.3
    assert whole > 0.5


@pytest.mark.models
def test_only_the_newest_8_seconds_count_and_silence_stands_for_what_is_missing() -> None:
    pcm = recording()
    newest = pcm[-audio.byte_count(8000, RATE) :]
    short = pcm[-audio.byte_count(2000, RATE) :]

    async def run() -> None:
        async with real() as detector:
            assert await detector.judge(turn(pcm)) == await detector.judge(turn(newest))
            padded = bytes(audio.byte_count(6000, RATE)) + short
            assert await detector.judge(turn(short)) == await detector.judge(turn(padded))
            assert await detector.judge(turn(short[: audio.byte_count(100, RATE)])) is None
            assert await detector.judge(turn(b"")) is None

    asyncio.run(run())


@pytest.mark.models
def test_the_network_runs_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    class Session:
        def run(self, outputs: None, inputs: dict[str, Any]) -> list[Any]:
            threads.append(threading.current_thread())
            return [np.full((1, 1), 0.25, np.float32)]

    async def run() -> None:
        async with real() as detector:
            monkeypatch.setattr(detector, "_session", Session())
            assert await detector.judge(turn(recording())) == 0.25

    asyncio.run(run())
    assert threads
    assert threading.main_thread() not in threads


def test_says_what_is_missing(tmp_path: Path) -> None:
    async def warm_up() -> None:
        with ThreadPoolExecutor(1) as executor:
            detector = make(executor, tmp_path)
            with pytest.raises(ProviderError, match="not loaded"):
                await detector.judge(turn(recording()))
            await detector.warm_up()

    with pytest.raises(MissingModel, match="smart-turn") as caught:
        asyncio.run(warm_up())
    assert caught.value.fix == "rejoinder models pull smart-turn"
    (tmp_path / "smart-turn.onnx").write_bytes(bytes(MODEL.size))
    with pytest.raises(ProviderError) as failed:
        asyncio.run(warm_up())
    assert failed.value.code == "bad_model"


def test_is_offered_and_optional() -> None:
    plugins = load_plugins()
    assert not plugins.provider("turn", "smart_turn").create.wants_text  # type: ignore[attr-defined]
    model = plugins.models()["smart-turn"]
    assert not model.embedded
