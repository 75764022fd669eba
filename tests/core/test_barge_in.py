"""The user over the agent, in virtual time: ducked, stopped or resumed, and what was heard to the word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

import pytest

from rejoinder.audio import byte_count
from rejoinder.events import (
    ClearAudio,
    Error,
    Interrupt,
    Interruption,
    ReplyDucked,
    ReplyFinished,
    ReplyResumed,
    ReplyStarted,
    SessionMetrics,
    SpeechStarted,
    TurnCommitted,
    TurnMetrics,
)
from rejoinder.providers import Judgement, Overlap, TtsDelta, WordTime
from rejoinder.settings import Agent, TurnPolicy
from rejoinder.testing.pilot import SessionPilot, pilot
from rejoinder.testing.scripted import ScriptedLlm, ScriptedStt, ScriptedTts, tone
from rejoinder.testing.virtual_time import run_virtual

WORDS = [f"w{number}" for number in range(400)]
SENTENCES = [" ".join(WORDS[at : at + 8]) + ". " for at in range(0, 400, 8)]
WORD_MS = 200
RATE = 24_000
MM_HM, NOT_SURE = "Mm-hm.", ""


@dataclass
class CountingTts(ScriptedTts):
    """Every word is a tone of its own level, so that a recording says which words are in it."""

    timed: bool = False
    ms: Callable[[int], float] = field(default=lambda word: WORD_MS)

    async def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[TtsDelta, None]:
        start = 0.0
        for word in text.replace(".", "").split():
            number = int(word[1:])
            if self.timed:
                yield WordTime(word, start, start + self.ms(number))
            start += self.ms(number)
            yield tone(self.ms(number), RATE, 1000 + 50 * number)


def words_in(pcm: bytes, ms: Callable[[int], float] = lambda word: WORD_MS) -> list[str]:
    """The words of `CountingTts` of which `pcm` holds at least half, in order."""
    samples = memoryview(pcm).cast("h")
    counts: dict[int, int] = {}
    for sample in samples:
        number = round((abs(sample) - 1000) / 50)
        counts[number] = counts.get(number, 0) + 1
    return [f"w{number}" for number, count in counts.items() if count >= ms(number) * RATE / 2000 - 1]


class Rules:
    """A judge that knows three texts, and counts what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Overlap] = []

    async def warm_up(self) -> None: ...

    async def close(self) -> None: ...

    def judge(self, overlap: Overlap) -> Judgement | None:
        self.asked.append(overlap)
        if overlap.text == MM_HM:
            return Judgement(stop=False, cause="backchannel")
        return Judgement(stop=True, cause="words") if overlap.text else None


async def reading_aloud(user: SessionPilot, ms: float) -> None:
    """The agent answers with many words, and the user listens for a while."""
    user.write("hi")
    await user.until(ReplyStarted)
    await user.pause(ms)


def over_a_reply(texts: list[str], **more: object) -> dict[str, object]:
    judge = Rules()
    return {
        "llm": ScriptedLlm(lambda request: SENTENCES),
        "tts": CountingTts(),
        "stt": ScriptedStt(texts),
        "interruption": {"rules": judge},
        "reports": True,
        **more,
    }


def test_a_backchannel_dips_the_volume_and_loses_no_word() -> None:
    async def main() -> None:
        async with pilot(**over_a_reply([MM_HM])) as user:  # type: ignore[arg-type]
            await reading_aloud(user, 1510)
            await user.speak(460)
            await user.pause(3000)
            assert len(user.events(ReplyDucked)) == 1
            assert len(user.events(ReplyResumed)) == 1
            assert not user.events(ClearAudio)
            (told,) = user.events(Interruption)
            assert (told.accepted, told.cause, told.text) == (False, "backchannel", MM_HM)
            assert told.speech_ms == pytest.approx(460, abs=25)
            user.command(Interrupt())
            await user.pause(300)
            played = words_in(user.played(user.events(ReplyStarted)[0].reply_id))
            assert played == WORDS[: len(played)]
            assert len(played) >= 20
            assert [event.text for event in user.events(TurnCommitted)] == ["hi"]
            await user.session.close("over")
            assert user.events(SessionMetrics)[0].false_interruptions == {"backchannel": 1}

    run_virtual(main())


@pytest.mark.parametrize("timed", [False, True], ids=["proportional", "word times"])
@pytest.mark.parametrize("after_ms", [1110, 1390, 1510, 1730, 1890, 2210])
def test_after_a_false_alarm_the_agent_goes_on_at_the_word_that_was_cut(after_ms: int, timed: bool) -> None:
    async def main() -> None:
        things = over_a_reply([NOT_SURE], tts=CountingTts(timed=timed))
        async with pilot(**things) as user:  # type: ignore[arg-type]
            await reading_aloud(user, after_ms)
            await user.speak(500)
            await user.pause(2500)
            assert [type(e) for _, e in user.log if isinstance(e, ReplyDucked | ClearAudio | ReplyResumed)] == [
                ReplyDucked,
                ClearAudio,
                ReplyResumed,
            ]
            cleared, resumed = user.events(ClearAudio)[0], user.events(ReplyResumed)[0]
            assert cleared.played_ms - WORD_MS - 10 <= resumed.from_ms <= cleared.played_ms + 10
            assert resumed.from_ms % WORD_MS == pytest.approx(0, abs=25) or not timed
            user.command(Interrupt())
            await user.pause(400)
            finished = user.events(ReplyFinished)[0]
            before = byte_count(cleared.played_ms, RATE)
            played = user.played(finished.reply_id)
            first, second = words_in(played[:before]), words_in(played[before:])
            assert first == WORDS[: len(first)]
            assert second[0] in WORDS[len(first) - 1 : len(first) + 1], "nothing is lost, one word at most comes again"
            assert second == WORDS[int(second[0][1:]) :][: len(second)]
            if timed:
                assert finished.heard_text.split()[-1].rstrip(".") == second[-1]

    run_virtual(main())


@pytest.mark.parametrize("timed", [False, True], ids=["proportional", "word times"])
@pytest.mark.parametrize("step", range(12))
def test_what_was_heard_is_what_the_client_played_word_for_word(step: int, timed: bool) -> None:
    def ms(word: int) -> float:
        # Where the TTS tells, words may be as uneven as they are in speech.
        return 120 + 37 * (word % 7) if timed else WORD_MS

    async def main() -> None:
        things = over_a_reply(["stop it please"], tts=CountingTts(timed=timed, ms=ms))
        async with pilot(**things) as user:  # type: ignore[arg-type]
            await reading_aloud(user, 800 + 173 * step)
            await user.speak(700)
            await user.pause(100)
            finished = await user.until(ReplyFinished)
            assert (finished.reason, finished.estimated) == ("interrupted", False)
            heard = [word.strip(".") for word in finished.heard_text.split()]
            played = words_in(user.played(finished.reply_id), ms)
            # Without word times a sentence is divided by its letters, which is about right.
            assert heard == played if timed else abs(len(heard) - len(played)) <= 1
            assert not user.audio_after(ClearAudio) or user.events(ReplyStarted)[1:]

    run_virtual(main())


@pytest.mark.parametrize("interrupt_ms", [160, 300, 500])
def test_the_last_audio_comes_no_later_than_the_confirm_time(interrupt_ms: int) -> None:
    async def main() -> None:
        agent = Agent(turns=TurnPolicy(interrupt_ms=interrupt_ms))
        async with pilot(**over_a_reply(["no wait"], agent=agent)) as user:  # type: ignore[arg-type]
            await reading_aloud(user, 1500)
            began = user.now
            await user.speak(900)
            last = max(at for at, item in user.log if isinstance(item, bytes))
            assert interrupt_ms - 60 <= (last - began) * 1000 <= interrupt_ms + 20
            assert user.events(Interruption)[0].accepted

    run_virtual(main())


def test_a_hanging_stt_cannot_keep_the_user_from_interrupting() -> None:
    async def main() -> None:
        async with pilot(**over_a_reply(["x"], stt=ScriptedStt(["x"], delay_s=60))) as user:  # type: ignore[arg-type]
            await reading_aloud(user, 1500)
            began = user.now
            await user.speak(3000)
            last = max(at for at, item in user.log if isinstance(item, bytes))
            assert (last - began) * 1000 <= 300 + 150 + 40, "undecided: it is silent"
            assert user.events(ReplyFinished)[0].reason == "interrupted"
            assert user.events(Interruption)[0].cause == "no_transcript"

    run_virtual(main())


def test_a_judge_that_raises_is_left_out_and_words_still_stop_the_agent() -> None:
    class Broken(Rules):
        def judge(self, overlap: Overlap) -> Judgement | None:
            self.asked.append(overlap)
            raise RuntimeError("broken")

    async def main() -> None:
        broken = Broken()
        things = over_a_reply(["please stop"], interruption={"broken": broken})
        async with pilot(**things) as user:  # type: ignore[arg-type]
            await reading_aloud(user, 1500)
            await user.speak(600)
            assert user.events(ReplyFinished)[0].reason == "interrupted"
            assert len(broken.asked) == 1

    run_virtual(main())


def test_judges_hear_the_user_and_what_the_agent_was_playing() -> None:
    async def main() -> None:
        things = over_a_reply([MM_HM])
        async with pilot(**things) as user:  # type: ignore[arg-type]
            await reading_aloud(user, 3000)
            await user.speak(500)
            judge = things["interruption"]["rules"]  # type: ignore[index]
            asked = judge.asked[0]
            assert asked.speech_ms == pytest.approx(300, abs=25)
            assert len(asked.audio) == pytest.approx(byte_count(600, 16_000), abs=2000)
            assert len(asked.played) == pytest.approx(byte_count(3000, 16_000), abs=20_000)
            assert asked.agent_text.startswith("w0 w1 w2")
            assert "w12" in asked.agent_text
            assert "w40" not in asked.agent_text

    run_virtual(main())


def test_a_cough_before_the_answer_sounds_costs_nothing_but_its_time() -> None:
    async def main() -> None:
        things = over_a_reply(["hello there", ""], llm=ScriptedLlm(lambda request: (0.3, *SENTENCES)))
        async with pilot(**things) as user:  # type: ignore[arg-type]
            await user.turn(600, 320)
            assert user.events(TurnCommitted)
            assert not user.audio()
            await user.speak(200)
            await user.pause(1500)
            assert user.audio(), "the answer came all the same"
            assert not [event for event in user.events(ReplyFinished) if event.reason != "completed"]
            assert [event.cause for event in user.events(Interruption)] == ["noise"]

    run_virtual(main())


def test_who_goes_on_speaking_before_the_answer_sounds_is_answered_once() -> None:
    async def main() -> None:
        things = over_a_reply(
            ["book a table", "for two please"], llm=ScriptedLlm(lambda request: (0.6, *SENTENCES[:1]))
        )
        async with pilot(**things) as user:  # type: ignore[arg-type]
            await user.turn(600, 320)
            await user.speak(800)
            await user.pause(3500)
            assert [event.text for event in user.events(TurnCommitted)] == ["book a table", "for two please"]
            texts = [event.heard_text for event in user.events(ReplyFinished)]
            assert texts == ["", SENTENCES[0].strip()]
            last = user.llm.requests[-1].messages
            assert [message.content for message in last if message.role == "user"] == ["book a table", "for two please"]

    run_virtual(main())


def test_min_words_of_a_profile_must_be_reached() -> None:
    async def main() -> None:
        agent = Agent(turns=TurnPolicy(min_words=3))
        things = over_a_reply(["well yes"], agent=agent, interruption={})
        async with pilot(**things) as user:  # type: ignore[arg-type]
            await reading_aloud(user, 1500)
            await user.speak(500)
            await user.pause(500)
            assert [(e.accepted, e.cause) for e in user.events(Interruption)] == [(False, "few_words")]

    run_virtual(main())


def test_nudges_come_while_nobody_speaks_and_end_the_session() -> None:
    async def main() -> None:
        policy = TurnPolicy(nudge_after_ms=5000, nudges=("Still there?",), goodbye="Bye then.")
        async with pilot(agent=Agent(turns=policy)) as user:
            await user.turn(600, 400)
            await user.until(TurnMetrics)
            ended = user.now
            await user.until(ReplyStarted, 2)
            assert user.now - ended == pytest.approx(5.0, abs=0.3)
            await user.pause(12_000)
            assert user.closed_reason == "user_idle"
            texts = [event.heard_text for event in user.events(ReplyFinished)]
            assert texts == ["Hello there.", "Still there?", "Bye then."]
            assert user.events(SessionMetrics)[0].nudges == 1

    run_virtual(main())


def test_who_only_reads_is_not_nudged() -> None:
    async def main() -> None:
        policy = TurnPolicy(nudge_after_ms=2000)
        async with pilot(agent=Agent(turns=policy), audio=False) as user:
            user.write("hi")
            await asyncio.sleep(20)
            assert len(user.events(ReplyFinished)) == 1
            assert user.closed_reason is None

    run_virtual(main())


def test_speculations_are_counted_and_what_they_saved() -> None:
    async def main() -> None:
        llm, tts = ScriptedLlm(lambda request: (0.05, "Hello.")), ScriptedTts(delay_s=0.05)
        async with pilot(stt=ScriptedStt(("one", "one two", "three"), delay_s=0.05), llm=llm, tts=tts) as user:
            await user.turn(600, 140)
            await user.turn(600, 0)
            metrics = await user.until(TurnMetrics)
            assert (metrics.speculated, metrics.discarded) == (True, 1)
            # Prepared from 60 ms of silence on for 150 ms, while the turn ended at 300.
            assert metrics.saved_us == pytest.approx(150_000, abs=25_000)
            await user.session.close("over")
            (counts,) = user.events(SessionMetrics)
            assert (counts.speculations_kept, counts.speculations_discarded) == (1, 1)
            assert counts.saved_ms == pytest.approx(metrics.saved_us / 1000, abs=1)

    run_virtual(main())


def test_a_speculation_has_a_budget() -> None:
    async def main() -> None:
        agent = Agent(turns=TurnPolicy(speculation_tokens=5, end_silence_ms=900))
        llm = ScriptedLlm(lambda request: [f"word{n} " for n in range(50)])
        async with pilot(agent=agent, llm=llm) as user:
            await user.turn(600, 500)
            assert llm.pulled == 6
            await user.until(TurnMetrics)
            assert llm.pulled == 50

    run_virtual(main())


def test_a_typed_message_and_a_rest_call_take_the_same_way() -> None:
    async def main() -> None:
        for command in (Interrupt(), None):
            async with pilot(**over_a_reply(["x"], tts=CountingTts(timed=True))) as user:  # type: ignore[arg-type]
                await reading_aloud(user, 1500)
                user.write("stop") if command is None else user.command(command)
                finished = await user.until(ReplyFinished)
                assert finished.reason == "interrupted"
                heard = [word.strip(".") for word in finished.heard_text.split()]
                assert heard == words_in(user.played(finished.reply_id))
                assert len(heard) == 8

    run_virtual(main())


def test_no_turn_is_lost_when_the_user_speaks_on_for_a_minute() -> None:
    async def main() -> None:
        agent = Agent(turns=TurnPolicy(max_turn_ms=3000))
        async with pilot(**over_a_reply(["and so on"], agent=agent)) as user:  # type: ignore[arg-type]
            await reading_aloud(user, 1500)
            await user.speak(8000)
            await user.pause(1000)
            assert len(user.events(SpeechStarted)) >= 2
            assert not user.events(Error)

    run_virtual(main())
