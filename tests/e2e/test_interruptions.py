"""Who stops the agent: a corpus of sounds over its speech, through the real VAD, recogniser and judges."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import soxr
from tests import sounds

from rejoinder.audio import ENGINE_RATE, read_wav, speech_end, to_float
from rejoinder.manager import load_plugins
from rejoinder.models import ModelCache
from rejoinder.providers import InterruptionJudge, Judgement, Kind, Overlap, ProviderContext, VadProvider
from rejoinder.settings import Settings
from rejoinder_plugins.stt.moonshine import MoonshineProvider

pytestmark = pytest.mark.models

SPEECH = Path(__file__).parents[2] / ".speech"
FRAME_MS = 32
FRAME_BYTES = FRAME_MS * ENGINE_RATE // 1000 * 2
PRE_ROLL_FRAMES = 10
FIRST_MS, AGAIN_MS = 300, 200
"""When judges are asked, as in a session: after so much speech, then again each so often, and at its end."""
ECHO_DB = -20

AGENT = (
    "Your order has been shipped and should arrive on Thursday between nine and twelve in the morning.",
    "The restaurant is open every day from eleven until ten, and on weekends until midnight, except in August.",
    "I have found three flights to Lisbon, and the first one leaves at seven in the morning and costs ninety euros.",
)
BACKCHANNELS = (
    "Mm-hmm.",
    "Uh-huh.",
    "Yeah.",
    "Okay.",
    "Right.",
    "I see.",
    "Sure.",
    "Yeah, yeah.",
    "Got it.",
    "All right.",
)
INTERRUPTIONS = (
    *("Stop.", "Wait a moment.", "Hold on.", "No, the other one.", "No, no, that's wrong.", "What about Friday?"),
    *("Actually, I want the second one.", "Can you repeat that?", "Sorry, what was the time?", "Cancel that."),
    *("I don't need that.", "Yeah, but I want something else.", "Okay, stop.", "How much is it?", "Please be quiet."),
)


class Scene(NamedTuple):
    kind: str
    microphone: bytes
    played: bytes
    agent_text: str
    user_at_ms: float
    """When the user makes a sound; never, where there is none."""


class Verdict(NamedTuple):
    judgement: Judgement
    text: str
    at_ms: int
    """Since the scene began."""


class Ears:
    """The real VAD, recogniser and judges, asked as a session asks them."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self._executor = executor
        self._plugins = load_plugins()
        self.vad: VadProvider = self._make("vad", "silero")
        self.stt: MoonshineProvider = self._make("stt", "moonshine", partials=False)
        self.tts: Any = self._make("tts", "hibari")
        self.judges: list[InterruptionJudge] = [self._make("interruption", name) for name in ("echo", "words")]

    def _make(self, kind: Kind, name: str, **settings: Any) -> Any:
        provider = self._plugins.provider(kind, name)
        models = ModelCache(Settings().models_dir, self._plugins.models())
        unused: Any = None
        given = msgspec.convert(settings, provider.settings)
        made: Any = provider.create(ProviderContext(given, models, lambda name, workers: self._executor, unused))
        asyncio.run(made.warm_up())
        return made

    def speak(self, text: str) -> sounds.Sound:
        async def run() -> bytes:
            stream = self.tts.stream(text, voice=None, language="en")
            return b"".join([piece async for piece in stream if isinstance(piece, bytes)])

        spoken: sounds.Sound = soxr.resample(to_float(asyncio.run(run())), self.tts.sample_rate, ENGINE_RATE)
        return spoken

    def hear(self, scene: Scene) -> Verdict | None:
        """The verdict that stops the agent; None if nothing does."""
        vad = self.vad.open()
        advice = self.vad.advice
        window: list[bool] = []
        began: int | None = None
        last = asked = 0
        for at in range(len(scene.microphone) // FRAME_BYTES):
            probability = vad.process(scene.microphone[at * FRAME_BYTES : (at + 1) * FRAME_BYTES])
            if began is None:
                window = [*window[-2:], probability >= advice.on]
                if window[-1] and sum(window) >= 2:
                    began, last, asked = at + 1 - len(window) + window.index(True), at, 0
                    window = []
                continue
            if probability >= advice.off:
                last = at
            spoken_ms = (at + 1 - began) * FRAME_MS
            final = at - last >= 2
            if final or spoken_ms >= (asked + AGAIN_MS if asked else FIRST_MS):
                asked = spoken_ms
                verdict = self._judge(
                    scene, began, at + 1, (last + 1 - began) * FRAME_MS if final else spoken_ms, final
                )
                if verdict and verdict.judgement.stop:
                    return verdict
            if final:
                began = None
        return None

    def _judge(self, scene: Scene, began: int, end: int, speech_ms: int, final: bool) -> Verdict | None:
        def newest(pcm: bytes, ms: int) -> bytes:
            return pcm[max(0, end * FRAME_BYTES - ms * 32) : end * FRAME_BYTES]

        heard = scene.microphone[max(0, began - PRE_ROLL_FRAMES) * FRAME_BYTES : end * FRAME_BYTES]
        text = self.stt.submit(heard).result()
        overlap = Overlap(
            text=text,
            final=final,
            speech_ms=speech_ms,
            audio=newest(scene.microphone, min(2000, speech_ms + 300)),
            played=newest(scene.played, 3000),
            agent_text=scene.agent_text,
            min_words=1,
            language="en",
        )
        for judge in self.judges:
            if judgement := judge.judge(overlap):
                return Verdict(judgement, text, end * FRAME_MS)
        return None


@pytest.fixture(scope="module")
def ears() -> Iterator[Ears]:
    with ThreadPoolExecutor(2) as executor:
        yield Ears(executor)


@pytest.fixture(scope="module")
def agent(ears: Ears) -> list[sounds.Sound]:
    return [ears.speak(text) for text in AGENT]


def stage(
    random: np.random.Generator, agent: list[sounds.Sound], kind: str, user: sounds.Sound | None, *, echoed: bool
) -> Scene:
    """`user` over the agent's speech; `echoed`: the microphone gets that, too, from a room."""
    which = int(random.integers(len(agent)))
    played = agent[which]
    at_ms = float(random.uniform(900, 1900))
    heard = sounds.background(random, len(played) * 1000 / ENGINE_RATE)
    if echoed:
        room = sounds.room(random, decay_ms=float(random.uniform(150, 450)), direct_db=float(random.uniform(0, 8)))
        heard = heard + sounds.echo(played, ECHO_DB, float(random.uniform(20, 250)), room)
    length = 3200.0
    if user is not None:
        heard = sounds.mix((0, heard), (at_ms, user))
        length = at_ms + len(user) * 1000 / ENGINE_RATE + 300
    end = int(length * ENGINE_RATE / 1000)
    return Scene(kind, sounds.pcm(heard[:end]), sounds.pcm(played[:end]), AGENT[which], at_ms)


def recordings(random: np.random.Generator, count: int) -> Iterator[sounds.Sound]:
    """The first 2 s of recordings of a human voice."""
    names = sorted(SPEECH.glob("*.wav"))
    if not names:
        message = "recorded speech is missing: run `python tests/fetch_speech.py .speech` (needs Debian's apt-get)"
        assert "CI" not in os.environ, message
        pytest.skip(message)
    for name in random.choice(len(names), count, replace=False):
        pcm = read_wav(names[name], ENGINE_RATE)[0]
        spoken = to_float(pcm[: speech_end(pcm, ENGINE_RATE)])[: 2 * ENGINE_RATE]
        yield sounds.loudness(spoken, float(random.uniform(0.05, 0.2)))


def heard(ears: Ears, scenes: list[Scene], *, stop: bool) -> tuple[float, str]:
    """The share of scenes in which the agent did not `stop` as it should (or too early), and a list of them."""
    verdicts = [(scene, ears.hear(scene)) for scene in scenes]
    wrong = [
        f"{scene.kind}: {verdict}"
        for scene, verdict in verdicts
        if (verdict is not None and (not stop or verdict.at_ms < scene.user_at_ms)) or (verdict is None and stop)
    ]
    return len(wrong) / len(scenes), "\n".join(wrong)


def test_what_is_not_meant_does_not_stop_the_agent(ears: Ears, agent: list[sounds.Sound]) -> None:
    random = np.random.default_rng(2)
    scenes = []
    for kind, make in sounds.NOISES.items():
        scenes += [stage(random, agent, kind, make(random), echoed=False) for _ in range(6)]
    for text in BACKCHANNELS:
        for level in (0.06, 0.12):
            spoken = sounds.loudness(ears.speak(text), level)
            scenes.append(stage(random, agent, text, spoken, echoed=False))
    scenes += [stage(random, agent, "echo", None, echoed=True) for _ in range(20)]
    assert len(scenes) >= 100
    share, stopped = heard(ears, scenes, stop=False)
    assert share < 0.05, stopped


def test_people_who_interrupt_are_heard(ears: Ears, agent: list[sounds.Sound]) -> None:
    random = np.random.default_rng(3)
    scenes = []
    for number, spoken in enumerate(recordings(random, 70)):
        scenes.append(stage(random, agent, "recording", spoken, echoed=number % 5 == 0))
    for number, text in enumerate(2 * INTERRUPTIONS):
        spoken = sounds.loudness(ears.speak(text), 0.1)
        scenes.append(stage(random, agent, text, spoken, echoed=number % 5 == 0))
    assert len(scenes) >= 100
    share, missed = heard(ears, scenes, stop=True)
    assert share < 0.03, missed


def test_a_stop_word_stops_within_a_moment(ears: Ears, agent: list[sounds.Sound]) -> None:
    random = np.random.default_rng(4)
    for text in ("Stop.", "Wait.", "Hold on."):
        scene = stage(random, agent, text, sounds.loudness(ears.speak(text), 0.1), echoed=False)
        verdict = ears.hear(scene)
        assert verdict is not None, text
        assert verdict.judgement.cause == "stop_word", text
        assert verdict.at_ms - scene.user_at_ms <= 600, text
