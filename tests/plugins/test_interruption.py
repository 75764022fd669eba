from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from tests import sounds

from rejoinder.audio import ENGINE_RATE
from rejoinder.manager import load_plugins
from rejoinder.providers import InterruptionJudge, Judgement, Overlap, ProviderContext
from rejoinder_plugins.interruption.echo import compare, repeats

AGENT = "Your order has been shipped and should arrive on Thursday between nine and twelve in the morning."
OVER = Overlap(
    text=None,
    final=False,
    speech_ms=600,
    audio=bytes(1280),
    played=bytes(1280),
    agent_text=AGENT,
    min_words=1,
    language="en",
)


def judge(name: str, **settings: Any) -> InterruptionJudge:
    provider = load_plugins().provider("interruption", name)
    unused: Any = None
    made: Any = provider.create(ProviderContext(msgspec.convert(settings, provider.settings), unused, unused, unused))
    asyncio.run(made.warm_up())
    judge: InterruptionJudge = made
    return judge


def say(text: str | None, words: InterruptionJudge | None = None, **changes: Any) -> Judgement | None:
    return (words or judge("words")).judge(replace(OVER, text=text, **changes))


# --- words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["Stop.", "Wait", "wait a second", "Hold on!", "No, no.", "Okay, okay, stop.", "Yeah, wait", "Shut up!"]
)
def test_stop_words_stop_at_once_however_many_words_it_takes(text: str) -> None:
    said = say(text, min_words=5, speech_ms=320)
    assert said == Judgement(stop=True, cause="stop_word")


@pytest.mark.parametrize(
    "text",
    [
        *("Yeah.", "Mm-hmm.", "Mhm", "Uh-huh.", "Hmm.", "Um", "mm-hm", "Okay, okay.", "Right, right, right."),
        *("I see.", "Oh, sure.", "Ha ha ha", "Got it!", "Yes, of course."),
    ],
)
@pytest.mark.parametrize("final", [False, True])
def test_backchannels_let_the_agent_speak(text: str, final: bool) -> None:
    assert say(text, final=final) == Judgement(stop=False, cause="backchannel")


def test_a_backchannel_that_goes_on_is_none() -> None:
    assert say("Yeah, but I want the other one.", speech_ms=1200) == Judgement(stop=True, cause="words")
    assert say("Right, what about Friday?", speech_ms=1200) == Judgement(stop=True, cause="words")


def test_enough_words_stop_and_too_few_do_in_no_case() -> None:
    assert say("What about Friday?") == Judgement(stop=True, cause="words")
    assert say("Friday.", final=True) == Judgement(stop=True, cause="words")
    assert say("What about", min_words=3) is None
    assert say("What about", min_words=3, final=True) == Judgement(stop=False, cause="few_words")


def test_a_first_word_or_two_may_become_anything() -> None:
    assert say("Oh, real", speech_ms=320) is None
    assert say("Oh, really?", speech_ms=520) == Judgement(stop=False, cause="backchannel")


def test_what_recognisers_make_of_a_cough_is_noise() -> None:
    for text, ms in (("You", 480), ("So?", 300), ("A whole sentence of it", 160), ("Thick.", 128), ("F. F.", 400)):
        assert say(text, speech_ms=ms) is None
        assert say(text, speech_ms=ms, final=True) == Judgement(stop=False, cause="noise"), text


def test_without_words_only_long_speech_of_unknown_words_stops() -> None:
    assert say("", final=True) == Judgement(stop=False, cause="noise")
    assert say("...", final=True) == Judgement(stop=False, cause="noise")
    assert say("") is None
    assert say(None) is None
    assert say(None, final=True, speech_ms=400) == Judgement(stop=False, cause="no_transcript")
    assert say(None, final=True, speech_ms=900) == Judgement(stop=True, cause="no_transcript")


def test_the_echo_in_a_transcript_does_not_count() -> None:
    heard = "Your order has been shaped and should"
    assert say(heard, speech_ms=1500) == Judgement(stop=False, cause="echo")
    assert say(f"{heard} okay", speech_ms=1800) == Judgement(stop=False, cause="echo")
    assert say(f"{heard} stop.", speech_ms=1800) == Judgement(stop=True, cause="stop_word")
    assert say(f"{heard}. I need it today.", speech_ms=2500) == Judgement(stop=True, cause="words")
    assert say("Thursday is too late for me.") == Judgement(stop=True, cause="words")


def test_an_operator_adds_phrases_and_languages() -> None:
    words = judge(
        "words",
        stop=("basta",),
        backchannel=("jolly good",),
        languages={"de": {"stop": ["halt", "moment mal"], "backchannel": ["genau", "ach so"]}},
    )
    assert say("Basta!", words, min_words=3) == Judgement(stop=True, cause="stop_word")
    assert say("Stop!", words, min_words=3) == Judgement(stop=True, cause="stop_word")
    assert say("Jolly good.", words) == Judgement(stop=False, cause="backchannel")
    assert say("Genau, genau.", words, language="de-AT") == Judgement(stop=False, cause="backchannel")
    assert say("Moment mal", words, language="de", min_words=4) == Judgement(stop=True, cause="stop_word")
    assert say("Genau.", words, final=True) == Judgement(stop=True, cause="words")
    own = judge("words", replace=True, stop=("halt",))
    assert say("Stop", own, min_words=2, final=True) == Judgement(stop=False, cause="few_words")


# --- echo -----------------------------------------------------------------------------------------------------


def speech(random: np.random.Generator, ms: float, voice: float) -> sounds.Sound:
    """Something that sounds like talking, from nothing: hums of a wandering voice with short gaps."""
    parts: list[sounds.Sound] = []
    while sum(map(len, parts)) < ms * 16:
        parts.append(sounds.hum(random, syllables=1, voice=voice * float(random.uniform(0.8, 1.3))))
        parts.append(sounds.silence(float(random.uniform(10, 60))))
    return np.concatenate(parts)[: int(ms * 16)]


def scene(seed: int, *, echoed: bool, user: bool, heard_ms: int = 1000) -> Overlap:
    random = np.random.default_rng(seed)
    played = speech(random, 3000, 210)
    microphone = sounds.background(random, 3000)
    if echoed:
        room = sounds.room(random, decay_ms=float(random.uniform(150, 450)), direct_db=float(random.uniform(0, 8)))
        microphone = microphone + sounds.echo(played, -20, float(random.uniform(20, 500)), room)
    if user:
        microphone[-ENGINE_RATE * 300 // 1000 :] += speech(random, 300, 120)
    return replace(OVER, audio=sounds.pcm(microphone)[-heard_ms * 32 :], played=sounds.pcm(played), agent_text="")


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("heard_ms", [600, 1600])
def test_the_agent_s_own_voice_from_a_room_does_not_stop_it(seed: int, heard_ms: int) -> None:
    echo = judge("echo")
    assert echo.judge(scene(seed, echoed=True, user=False, heard_ms=heard_ms)) == Judgement(stop=False, cause="echo")


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("echoed", [True, False])
def test_a_user_is_not_taken_for_the_echo_also_when_speaking_over_it(seed: int, echoed: bool) -> None:
    assert judge("echo").judge(scene(seed, echoed=echoed, user=True)) is None


def test_after_a_cough_over_the_echo_the_agent_goes_on() -> None:
    random = np.random.default_rng(1)
    overlap = scene(1, echoed=True, user=False, heard_ms=1200)
    heard = np.frombuffer(overlap.audio, "<i2") / 32768
    coughed = sounds.mix((0, heard.astype(np.float32)), (200, sounds.cough(random)))
    assert judge("echo").judge(replace(overlap, audio=sounds.pcm(coughed))) == Judgement(stop=False, cause="echo")


def test_the_delay_of_the_echo_is_found() -> None:
    random = np.random.default_rng(3)
    played = speech(random, 3000, 200)
    for delay in (0, 90, 420):
        heard = sounds.echo(played, -20, delay, sounds.room(random, decay_ms=100, direct_db=12))
        match = compare(sounds.pcm(heard[-16000:]), sounds.pcm(played))
        assert match is not None
        assert match.delay_ms == pytest.approx(delay, abs=5)
        assert match.overall > 0.8


def test_nothing_played_or_heard_is_no_echo() -> None:
    echo = judge("echo")
    overlap = scene(0, echoed=True, user=False)
    assert echo.judge(replace(overlap, played=bytes(len(overlap.played)))) is None
    assert echo.judge(replace(overlap, audio=bytes(len(overlap.audio)))) is None
    assert echo.judge(replace(overlap, audio=b"", played=b"")) is None
    assert echo.judge(replace(overlap, audio=overlap.audio[:99], played=overlap.played[:99])) is None


def test_the_agent_s_own_words_are_an_echo_where_its_sound_is_not_found() -> None:
    echo = judge("echo")
    for text in (
        "should arrive on Thursday",
        "Your order has been",
        "order has been shaped and should arrive on Thursday",
    ):
        assert echo.judge(replace(OVER, text=text)) == Judgement(stop=False, cause="echo"), text
    for other in ("on Thursday", "should arrive on Friday", "I want it on Thursday between nine and ten", "", None):
        assert echo.judge(replace(OVER, text=other)) is None, other


def test_a_call_costs_the_event_loop_little() -> None:
    echo = judge("echo")
    overlap = scene(5, echoed=True, user=True, heard_ms=2000)
    took = []
    for _ in range(30):
        started = time.perf_counter()
        echo.judge(overlap)
        took.append(time.perf_counter() - started)
    assert min(took) < 0.005  # about 0.002; more is a defect, not a slow machine


def test_a_number_of_any_length_is_a_word() -> None:
    assert repeats("7 " + "1" * 5000 + " 20", "seven " + "1" * 5000 + " twenty")
