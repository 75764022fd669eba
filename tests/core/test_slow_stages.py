"""A stage that is made slow on purpose has the longest span of its turn, and the spans sum to the whole."""

from __future__ import annotations

from typing import Any

import pytest

from rejoinder.events import Playback, ReplyFinished, ReplyStarted, TurnMetrics
from rejoinder.settings import Agent, Deadlines, TurnPolicy
from rejoinder.testing.pilot import SessionPilot, pilot
from rejoinder.testing.scripted import ScriptedLlm, ScriptedStt, ScriptedTts
from rejoinder.testing.virtual_time import run_virtual

SLOW_S = 1.5
QUICK = TurnPolicy(pause_ms=100, min_silence_ms=300, max_silence_ms=400)
ANSWER = ("Certainly, ", "here it is.")


def slow(stage: str) -> dict[str, Any]:
    """What makes `stage` take 1.5 s longer than it needs to."""
    match stage:
        case "endpointing":
            turns = TurnPolicy(pause_ms=100, min_silence_ms=300 + 1500, max_silence_ms=400 + 1500)
            return {"agent": Agent(turns=turns)}
        case "stt":
            return {"stt": ScriptedStt(delay_s=SLOW_S)}
        case "llm":
            return {"llm": ScriptedLlm(lambda request: (SLOW_S, *ANSWER))}
        case "chunk":
            # It begins at once, and takes its time for the first words that can be spoken.
            return {"llm": ScriptedLlm(lambda request: ("Cer", SLOW_S, "tainly, ", "here it is."))}
        case "tts":
            return {"tts": ScriptedTts(delay_s=SLOW_S)}
        case "play":
            return {"llm": ScriptedLlm(lambda request: ("word " * 30,))}
    return {}


async def spoken(client: SessionPilot, stage: str) -> TurnMetrics:
    await client.speak(800)
    if stage == "play":
        # The audio is there, and the loudspeaker takes long to begin.
        await client.pause(300 + SLOW_S * 1000)
        started = client.events(ReplyStarted)[0]
        client.command(Playback(reply_id=started.reply_id, played_ms=20))
    await client.pause(4000)
    await client.until(ReplyFinished)
    return await client.until(TurnMetrics)


@pytest.mark.parametrize("stage", ["endpointing", "stt", "llm", "chunk", "tts", "play"])
def test_the_slow_stage_has_the_longest_span(stage: str) -> None:
    async def scenario() -> None:
        agent = Agent(turns=QUICK, deadlines=Deadlines(first_audio_ms=5000, first_token_ms=5000, transcript_ms=5000))
        options = {"agent": agent, "llm": ScriptedLlm(lambda request: ANSWER), **slow(stage)}
        async with pilot(**options) as client:
            metrics = await spoken(client, stage)
            lengths = {span.name: span.us for span in metrics.spans}
            assert max(lengths, key=lambda name: lengths[name]) == stage, lengths
            assert lengths[stage] >= SLOW_S * 0.7e6
            assert sum(lengths.values()) == metrics.response_us
            others = {name: us for name, us in lengths.items() if name not in (stage, "endpointing")}
            assert sum(others.values()) < 0.5e6, lengths

    run_virtual(scenario())


def test_nothing_is_slow() -> None:
    async def scenario() -> None:
        async with pilot(agent=Agent(turns=QUICK), llm=ScriptedLlm(lambda request: ANSWER)) as client:
            metrics = await spoken(client, "")
            assert metrics.response_us < 0.7e6
            assert sum(span.us for span in metrics.spans) == metrics.response_us

    run_virtual(scenario())
