"""Whole conversations in virtual time, on scripted providers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from rejoinder.audio import Rates
from rejoinder.errors import ProtocolError, ProviderError, SessionError
from rejoinder.events import (
    ClearAudio,
    End,
    Error,
    Event,
    Interrupt,
    Ping,
    Playback,
    Pong,
    ReplyFinished,
    ReplyStarted,
    ReplyText,
    SessionEnded,
    SessionStarted,
    SpeechStarted,
    SpeechStopped,
    ToolCalled,
    ToolReturned,
    Transcript,
    TurnCommitted,
    TurnMetrics,
)
from rejoinder.journal import Entry
from rejoinder.providers import LlmDelta, LlmRequest, Message, Tool, ToolCall, ToolContext
from rejoinder.settings import Agent, Limits, TurnPolicy
from rejoinder.testing.pilot import SessionPilot, pilot
from rejoinder.testing.scripted import Script, ScriptedLlm, ScriptedStt, ScriptedTts
from rejoinder.testing.virtual_time import run_virtual


def say(*items: LlmDelta | float | Exception) -> Script:
    return lambda request: items


LONG = tuple(f"This is sentence number {n}. " for n in range(60))


def test_speech_in_speech_out_in_this_order() -> None:
    async def main() -> None:
        async with pilot(llm=ScriptedLlm(say("Hello, ", "you there."))) as user:
            await user.turn()
            await user.until(TurnMetrics)
            kinds: list[type[Event]] = [type(item) for _, item in user.log if isinstance(item, Event)]
            assert [kind for kind in kinds if kind is not ReplyText] == [
                SessionStarted,
                SpeechStarted,
                *[kind for kind in kinds if kind.__name__ == "SpeechPaused"],
                SpeechStopped,
                Transcript,
                TurnCommitted,
                ReplyStarted,
                ReplyFinished,
                TurnMetrics,
            ]
            assert [event.seq for _, event in user.log if isinstance(event, Event)] == list(range(1, len(kinds) + 1))
            finished = user.events(ReplyFinished)[0]
            assert (finished.text, finished.heard_text) == ("Hello, you there.", "Hello, you there.")
            assert len(user.audio()) == 3 * 200 * 48

    run_virtual(main())


def test_the_response_time_is_the_silence_when_everything_else_is_speculated() -> None:
    async def main() -> None:
        llm, tts = ScriptedLlm(say(0.05, "Hello.")), ScriptedTts(delay_s=0.05)
        async with pilot(stt=ScriptedStt(delay_s=0.05), llm=llm, tts=tts) as user:
            await user.turn(1000, 0)
            spoke_until = user.now
            metrics = await user.until(TurnMetrics)
            first_audio = next(at for at, item in user.log if isinstance(item, bytes))
            assert first_audio - spoke_until == pytest.approx(0.28, abs=0.03)
            assert metrics.speculated
            spans = {span.name: span for span in metrics.spans}
            assert spans["stt"].hidden
            assert spans["llm"].hidden
            assert sum(span.us for span in metrics.spans) == metrics.response_us
            assert metrics.response_us == pytest.approx(300_000, abs=25_000)
            assert metrics.providers["llm"] == "scripted"

    run_virtual(main())


def test_without_speculation_the_stages_add_up() -> None:
    async def main() -> None:
        agent = Agent(turns=TurnPolicy(speculate=False))
        stt, llm, tts = ScriptedStt(delay_s=0.05), ScriptedLlm(say(0.2, "Hello.")), ScriptedTts(delay_s=0.1)
        async with pilot(agent=agent, stt=stt, llm=llm, tts=tts) as user:
            await user.turn(1000, 0)
            metrics = await user.until(TurnMetrics)
            spans = {span.name: span.us for span in metrics.spans}
            assert spans["llm"] == pytest.approx(200_000, abs=1000)
            assert spans["tts"] == pytest.approx(100_000, abs=1000)
            assert metrics.response_us == pytest.approx(600_000, abs=25_000)

    run_virtual(main())


def test_a_discarded_speculation_leaves_no_trace() -> None:
    async def main() -> None:
        side_effects: list[str] = []
        llm = ScriptedLlm(say(ToolCall("c1", "book", "{}")))
        async with pilot(llm=llm, tools=[tool("book", side_effects)]) as user:
            await user.turn(600, 140)
            assert len(llm.requests) == 1, "the reply was prepared"
            await user.speak(600)
            seen = [item for _, item in user.log if isinstance(item, TurnCommitted | ReplyStarted | ToolCalled | bytes)]
            assert seen == []
            assert side_effects == []
            assert user.session.journal.messages("", 10) == ()

    run_virtual(main())


def tool(name: str, log: list[str], *, side_effects: bool = True, delay_s: float = 0.0) -> Tool:
    async def run(arguments: dict[str, Any], context: ToolContext) -> str:
        await asyncio.sleep(delay_s)
        log.append(name)
        return f"{name} done"

    return Tool(name, "does it", run, side_effects=side_effects)


def test_the_first_audio_leaves_before_the_model_has_finished() -> None:
    async def main() -> None:
        async with pilot(llm=ScriptedLlm(say("First of all, ", 3.0, "the rest."))) as user:
            await user.turn(600, 600)
            started = user.at(ReplyStarted)
            first_audio = next(at for at, item in user.log if isinstance(item, bytes))
            last_delta = max(at for at, item in user.log if isinstance(item, ReplyText))
            assert first_audio - started < 0.05
            assert not user.events(ReplyFinished)
            await user.until(ReplyFinished)
            last_delta = max(at for at, item in user.log if isinstance(item, ReplyText))
            assert last_delta - first_audio > 2.5

    run_virtual(main())


def test_a_full_playout_queue_stops_the_model_from_being_read() -> None:
    async def main() -> None:
        async with pilot(llm=ScriptedLlm(say(*LONG))) as user:
            await user.turn(600, 400)
            # Five chunks of 1 s wait, one is being played; a sentence lasts 1 s; two wait as text, a few are in hands.
            assert user.llm.pulled < 14
            before = user.llm.pulled
            await user.pause(10_000)
            assert before + 8 <= user.llm.pulled <= before + 12

    run_virtual(main())


def test_barge_in_silences_at_once_and_keeps_what_was_heard() -> None:
    async def main() -> None:
        async with pilot(llm=ScriptedLlm(say(*LONG)), reports=True) as user:
            await user.turn(600, 0)
            await user.until(ReplyStarted)
            await user.pause(2500)
            await user.speak(400)
            cleared = user.events(ClearAudio)[0]
            await user.pause(100)
            assert not user.audio_after(ClearAudio)
            finished = user.events(ReplyFinished)[0]
            assert finished.reason == "interrupted"
            assert finished.heard_text.startswith("This is sentence number 0. This is sentence number 1.")
            assert 2700 <= cleared.played_ms <= 2900
            assert user.llm.closed == 1, "the model's stream was closed"

    run_virtual(main())


def test_barge_in_reaches_the_next_answer_with_an_honest_history() -> None:
    async def main() -> None:
        replies = iter([LONG, ("Fine.",)])
        llm = ScriptedLlm(lambda request: next(replies))
        async with pilot(stt=ScriptedStt(("tell me", "stop")), llm=llm) as user:
            await user.turn(600, 2000)
            await user.turn(600, 1500)
            history = llm.requests[-1].messages
            assert [message.role for message in history] == ["system", "user", "assistant", "user"]
            assert history[-1] == Message("user", "stop")
            assert history[2].content.endswith("... [interrupted by the user]")

    run_virtual(main())


def test_an_interrupt_command_stops_and_says_nothing_more() -> None:
    async def main() -> None:
        async with pilot(llm=ScriptedLlm(say(*LONG))) as user:
            await user.turn(600, 1000)
            user.command(Interrupt())
            await user.pause(20)
            await user.pause(2000)
            assert not user.audio_after(ClearAudio)
            assert len(user.events(ReplyStarted)) == 1

    run_virtual(main())


def test_written_and_spoken_turns_share_one_conversation() -> None:
    async def main() -> None:
        async with pilot(stt=ScriptedStt(("spoken",))) as user:
            user.write("written")
            await user.until(ReplyFinished)
            await user.turn()
            await user.until(ReplyFinished, 2)
            contents = [message.content for message in user.llm.requests[-1].messages if message.role == "user"]
            assert contents == ["written", "spoken"]
            assert [span.name for span in user.events(TurnMetrics)[0].spans][:2] == ["llm", "chunk"]

    run_virtual(main())


def test_a_text_client_gets_text_as_it_is_made_and_no_audio() -> None:
    async def main() -> None:
        async with pilot(llm=ScriptedLlm(say("One ", 0.5, "two.")), audio=False) as user:
            user.write("hi")
            finished = await user.until(ReplyFinished)
            assert finished.heard_text == "One two."
            assert user.audio() == b""
            assert user.tts.spoken == []
            times = [at for at, item in user.log if isinstance(item, ReplyText)]
            assert times[1] - times[0] == pytest.approx(0.5)

    run_virtual(main())


def test_tools_run_in_parallel_and_their_results_reach_the_model() -> None:
    async def main() -> None:
        log: list[str] = []

        def script(request: LlmRequest) -> Iterable[LlmDelta]:
            if request.messages[-1].role == "tool":
                return (f"Done: {request.messages[-1].content}.",)
            return (ToolCall("a", "one", "{}"), ToolCall("b", "two", "{}"))

        tools = [tool("one", log, delay_s=1.0), tool("two", log, delay_s=1.0)]
        async with pilot(llm=ScriptedLlm(script), tools=tools) as user:
            user.write("do it")
            finished = await user.until(ReplyFinished)
            assert finished.heard_text == "Done: two done."
            returned = [(at, item) for at, item in user.log if isinstance(item, ToolReturned)]
            assert [item.status for _, item in returned] == ["ok", "ok"]
            assert returned[1][0] - user.at(ToolCalled) == pytest.approx(1.0, abs=0.05)

    run_virtual(main())


def test_a_tool_without_side_effects_ends_with_its_reply_and_that_is_stated() -> None:
    async def main() -> None:
        log: list[str] = []
        llm = ScriptedLlm(say(ToolCall("a", "slow", "{}")))
        async with pilot(llm=llm, tools=[tool("slow", log, side_effects=False, delay_s=5)]) as user:
            user.write("do it")
            await user.pause(1000)
            user.command(Interrupt())
            await user.pause(100)
            assert user.events(ToolReturned)[0].status == "cancelled"
            assert user.events(ReplyFinished)[0].reason == "interrupted"
            assert user.at(ToolReturned) <= user.at(ReplyFinished)
            user.llm.script = say("ok")
            user.write("and now?")
            await user.until(ReplyFinished, 2)
            history = llm.requests[-1].messages
            assert [message.role for message in history] == ["system", "user", "assistant", "tool", "user"]
            assert history[3].content == "Cancelled when the reply was cut off; it gave no result."
            await user.pause(10_000)
            assert log == []

    run_virtual(main())


def test_a_tool_with_side_effects_outlives_its_reply_and_its_result_is_told_and_kept() -> None:
    async def main() -> None:
        log: list[str] = []
        llm = ScriptedLlm(say(ToolCall("a", "book", "{}")))
        async with pilot(llm=llm, tools=[tool("book", log, delay_s=5)]) as user:
            user.write("book it")
            await user.pause(1000)
            user.command(Interrupt())
            await user.pause(100)
            assert user.events(ReplyFinished)[0].reason == "interrupted"
            assert user.events(ToolReturned) == []
            user.llm.script = say("ok")
            user.write("and now?")
            await user.until(ReplyFinished, 2)
            history = llm.requests[-1].messages
            assert [message.role for message in history] == ["system", "user", "assistant", "tool", "user"]
            assert history[3].content == "Still running when the user interrupted; there is no result yet."
            returned = await user.until(ToolReturned)
            assert user.at(ToolReturned) == pytest.approx(5.0, abs=0.05)
            assert (returned.call_id, returned.status, returned.result) == ("a", "ok", "book done")
            assert returned.reply_id == user.events(ToolCalled)[0].reply_id
            user.write("did it work?")
            await user.until(ReplyFinished, 3)
            assert llm.requests[-1].messages[3].content == "book done"
            assert log == ["book"]

    run_virtual(main())


def test_a_tool_that_runs_when_the_session_ends_is_told_before_the_end() -> None:
    async def main() -> None:
        async with pilot(
            llm=ScriptedLlm(say(ToolCall("a", "book", "{}"))), tools=[tool("book", [], delay_s=5)]
        ) as user:
            user.write("book it")
            await user.pause(1000)
            user.session.end("enough")
            await user.session.wait()
            (returned,) = user.events(ToolReturned)
            assert (returned.status, returned.reply_id) == ("cancelled", user.events(ReplyStarted)[0].reply_id)
            assert user.events(SessionEnded)[0].reason == "enough"
            assert isinstance(user.log[-1][1], SessionEnded)

    run_virtual(main())


def test_a_slow_tool_is_covered_by_a_filler_that_is_heard_and_remembered() -> None:
    async def main() -> None:
        def script(request: LlmRequest) -> Iterable[LlmDelta]:
            return ("It is done.",) if request.messages[-1].role == "tool" else (ToolCall("a", "book", "{}"),)

        async with pilot(llm=ScriptedLlm(script), tools=[tool("book", [], delay_s=3)]) as user:
            await user.turn(600, 1000)
            finished = await user.until(ReplyFinished)
            assert finished.heard_text == "One moment, please. It is done."
            assert " ".join(user.tts.spoken) == "One moment, please. It is done."
            first_audio = next(at for at, item in user.log if isinstance(item, bytes))
            assert first_audio - user.at(ReplyStarted) == pytest.approx(1.5, abs=0.05)
            assert user.llm.requests[-1].messages[2] == Message(
                "assistant", "One moment, please.", (ToolCall("a", "book", "{}"),)
            )
            contents = [message.content for message in user.session.journal.messages("", 10)]
            assert contents == ["hello there", "One moment, please.", "book done", "It is done."]

    run_virtual(main())


def test_a_model_that_never_stops_calling_tools_has_to_answer_in_the_end() -> None:
    async def main() -> None:
        def script(request: LlmRequest) -> Iterable[LlmDelta]:
            return (ToolCall(str(len(request.messages)), "one", "{}"),) if request.tools else ("Enough.",)

        async with pilot(llm=ScriptedLlm(script), tools=[tool("one", [])], agent=Agent(max_tool_rounds=2)) as user:
            user.write("go")
            assert (await user.until(ReplyFinished)).text == "Enough."
            assert len(user.events(ToolCalled)) == 2

    run_virtual(main())


@pytest.mark.parametrize("script", [say(ProviderError("llm", "boom")), say(""), say()])
def test_a_model_that_fails_is_apologised_for_and_the_session_goes_on(script: Script) -> None:
    async def main() -> None:
        async with pilot(llm=ScriptedLlm(script)) as user:
            await user.turn(600, 1000)
            await user.until(ReplyFinished, 2)
            failed, apology = user.events(ReplyFinished)
            assert failed.reason == "failed"
            assert apology.text.startswith("Sorry")
            assert user.events(Error)[0].code in ("provider_failed", "empty_reply")
            user.llm.script = say("Back again.")
            await user.turn(600, 1000)
            assert (await user.until(ReplyFinished, 3)).heard_text == "Back again."

    run_virtual(main())


def test_a_model_that_breaks_off_is_heard_as_far_as_it_came() -> None:
    async def main() -> None:
        async with pilot(llm=ScriptedLlm(say("I was going to say. ", ProviderError("llm", "cut")))) as user:
            user.write("hi")
            finished = await user.until(ReplyFinished)
            assert finished.reason == "failed"
            assert finished.heard_text == "I was going to say."
            assert len(user.audio()) == 5 * 200 * 48

    run_virtual(main())


def test_a_model_that_hangs_is_given_up_and_apologised_for() -> None:
    async def main() -> None:
        agent = Agent(turns=TurnPolicy(first_audio_timeout_ms=3000))
        async with pilot(llm=ScriptedLlm(say(1000.0, "late")), agent=agent) as user:
            user.write("hi")
            await user.until(ReplyFinished, 2)
            assert user.events(ReplyFinished)[1].text.startswith("Sorry")
            assert user.at(ReplyFinished) == pytest.approx(3.0, abs=0.05)

    run_virtual(main())


def test_speech_without_words_gets_no_answer_and_failed_stt_an_apology() -> None:
    async def main() -> None:
        async with pilot(stt=ScriptedStt(("", ScriptedStt.FAIL, "hello"))) as user:
            await user.turn(600, 1500)
            assert user.events(ReplyStarted) == []
            await user.turn(600, 1500)
            finished = await user.until(ReplyFinished)
            assert finished.text == "Sorry, I did not catch that."
            await user.turn(600, 1500)
            assert (await user.until(TurnCommitted)).text == "hello"

    run_virtual(main())


def test_a_client_that_falls_silent_in_the_middle_of_speech_is_answered() -> None:
    async def main() -> None:
        async with pilot() as user:
            await user.speak(600)
            await asyncio.sleep(5)
            assert user.events(TurnCommitted)

    run_virtual(main())


def test_a_producer_that_swallows_its_cancellation_delays_nobody_and_stays_mute() -> None:
    class Stubborn(ScriptedTts):
        async def stream(self, text: str, *, voice: str | None, language: str) -> Any:
            yield bytes(48 * 400)
            for _ in range(20):
                try:
                    await asyncio.sleep(0.2)
                except asyncio.CancelledError:
                    pass
                yield bytes(48 * 200)

    async def main() -> None:
        async with pilot(tts=Stubborn()) as user:
            await user.turn(600, 1000)
            user.command(Interrupt())
            await user.pause(20)
            await user.pause(8000)
            assert not user.audio_after(ClearAudio)

    run_virtual(main())


def test_the_greeting_is_said_first_and_can_be_interrupted() -> None:
    async def main() -> None:
        async with pilot(agent=Agent(greeting="Welcome to this place, how are you today my friend?")) as user:
            await user.pause(400)
            await user.speak(400)
            assert user.events(ReplyFinished)[0].reason == "interrupted"
            await user.turn(600, 2000)
            assert len(user.events(ReplyFinished)) == 2

    run_virtual(main())


def test_end_after_the_goodbye_has_been_heard() -> None:
    async def main() -> None:
        async def hang_up(arguments: dict[str, Any], context: ToolContext) -> str:
            context.end_session("agent_ended")
            return "ok"

        def script(request: LlmRequest) -> Iterable[LlmDelta]:
            return () if request.messages[-1].role == "tool" else ("Goodbye then.", ToolCall("x", "end_call", "{}"))

        async with pilot(llm=ScriptedLlm(script), tools=[Tool("end_call", "", hang_up)]) as user:
            user.write("bye")
            await user.session.wait()
            assert user.events(ReplyFinished)[0].reason == "completed"
            assert user.events(SessionEnded)[0].reason == "agent_ended"
            assert user.closed_reason == "agent_ended"
            assert user.now == pytest.approx(0.4, abs=0.05), "as long as the goodbye"

    run_virtual(main())


def test_end_stops_everything_and_nobody_can_join_any_more() -> None:
    async def main() -> None:
        async with pilot(llm=ScriptedLlm(say(*LONG))) as user:
            await user.turn(600, 1000)
            user.command(End(reason="client_ended"))
            await user.session.wait()
            assert user.events(ReplyFinished)[0].reason == "ended"
            assert isinstance(user.log[-1][1], SessionEnded)
            with pytest.raises(SessionError, match="over"):
                user.session.attach(user, Rates(16000, 24000), audio=True)

    run_virtual(main())


def test_a_session_nobody_is_connected_to_ends_after_its_grace_period() -> None:
    async def main() -> None:
        async with pilot(limits=Limits(idle_s=5)) as user:
            user._link.close()
            user._link.close()
            await asyncio.sleep(4)
            assert user.session.ended_reason is None
            await asyncio.sleep(2)
            assert user.session.ended_reason == "idle"

    run_virtual(main())


def test_a_second_client_sees_the_same_events_and_hears_the_same_answer() -> None:
    async def main() -> None:
        async with pilot() as user:
            await user.pause(100)
            other = SessionPilot()
            other._link = user.session.attach(other, Rates(8000, 8000), audio=True)
            await user.turn()
            await user.until(ReplyFinished)
            assert isinstance(other.log[0][1], SessionStarted)
            assert other.log[0][1].output_rate == 8000
            theirs = [item for _, item in other.log if isinstance(item, Event)][1:]
            assert theirs == [item for _, item in user.log if isinstance(item, Event)][1:]
            assert len(other.audio()) == pytest.approx(len(user.audio()) / 3, rel=0.1)

    run_virtual(main())


def test_bad_commands_are_refused_and_the_session_goes_on() -> None:
    async def main() -> None:
        async with pilot(limits=Limits(text_chars=10)) as user:
            for text, code in (("  ", "empty_text"), ("x" * 11, "text_too_long")):
                with pytest.raises(ProtocolError) as caught:
                    user.write(text)
                assert caught.value.code == code
            with pytest.raises(ProtocolError) as caught:
                user._link.send_audio(b"odd")
            assert caught.value.code == "odd_audio"
            codes = set()
            for _ in range(1000):
                try:
                    user.write("again")
                except ProtocolError as error:
                    codes.add(error.code)
            assert codes == {"too_fast"}
            await user.pause(1000)
            user.command(Ping(t=7.0))
            assert user.events(Pong)[0].t == 7.0
            user.write("there?")
            await user.pause(1000)
            assert user.events(ReplyFinished)[-1].reason == "completed"

    run_virtual(main())


def test_an_observer_that_raises_is_removed_and_hurts_nobody() -> None:
    calls = 0

    def broken(event: Event, data: bytes) -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("observer")

    async def main() -> None:
        async with pilot(observer=broken) as user:
            user.write("hi")
            await user.until(ReplyFinished)
            assert calls == 1

    run_virtual(main())


def test_200_sessions_leave_no_task_behind() -> None:
    async def main() -> None:
        before = asyncio.all_tasks()
        for number in range(200):
            async with pilot(llm=ScriptedLlm(say(*LONG))) as user:
                await user.turn(400, 20 * (number % 40))
        assert asyncio.all_tasks() == before

    run_virtual(main())


def test_absurd_playback_reports_change_nothing() -> None:
    async def main() -> None:
        async with pilot(llm=ScriptedLlm(say(*LONG))) as user:
            user.write("hi")
            await user.pause(500)
            reply_id = user.events(ReplyStarted)[0].reply_id
            for played_ms in (1e308, -1e308, 0.0):
                user.command(Playback(reply_id=reply_id, played_ms=played_ms))
            user.command(Interrupt())
            metrics = await user.until(TurnMetrics)
            assert 0 <= metrics.response_us < 100_000
            assert user.session.ended_reason is None

    run_virtual(main())


def test_half_a_character_is_replaced_and_hurts_nobody() -> None:
    async def main() -> None:
        async def broken(arguments: dict[str, Any], context: ToolContext) -> str:
            return "caf\udce9"

        def script(request: LlmRequest) -> Iterable[LlmDelta]:
            return ("Smile \ud83d now.",) if request.messages[-1].role == "tool" else (ToolCall("a", "broken", "{}"),)

        async with pilot(llm=ScriptedLlm(script), tools=[Tool("broken", "", broken)]) as user:
            user.write("hi")
            assert (await user.until(ReplyFinished)).text == "Smile ? now."
            assert user.events(ToolReturned)[0].result == "caf?"
            user.llm.script = say(ProviderError("llm", "bad \udce9 text"))
            user.write("again")
            assert (await user.until(Error)).message == "llm: bad ? text."

    run_virtual(main())


def test_a_hanging_stt_cannot_keep_a_session_from_ending() -> None:
    class Deaf(ScriptedStt):
        def open(self, **options: Any) -> Any:
            stream = super().open(**options)

            async def hang() -> str:
                while True:
                    try:
                        await asyncio.sleep(3600)
                    except asyncio.CancelledError:
                        if asyncio.get_running_loop().time() > 100_000:
                            raise

            stream.flush = stream.close = hang  # type: ignore[method-assign,assignment]
            return stream

    async def main() -> None:
        async with pilot(stt=Deaf()) as user:
            await user.turn(600, 200)
            user.session.end("enough")
            async with asyncio.timeout(10):
                await user.session.wait()
            assert user.events(SessionEnded)[0].reason == "enough"
            assert user.closed_reason == "enough"
        await asyncio.sleep(200_000)

    run_virtual(main(), limit_s=400_000)


def test_a_connection_that_fails_is_detached_and_the_others_go_on() -> None:
    class Broken(SessionPilot):
        def on_audio(self, pcm: bytes) -> None:
            raise OSError("gone")

        def on_closed(self, reason: str) -> None:
            raise OSError("gone")

    async def main() -> None:
        async with pilot(llm=ScriptedLlm(say("One two three."))) as user:
            user.session.attach(Broken(), Rates(16000, 24000), audio=True)
            user.session.attach(Broken(), Rates(16000, 24000), audio=False)
            user.write("hi")
            assert (await user.until(ReplyFinished)).reason == "completed"
            assert len(user.audio()) == 3 * 200 * 48
        assert user.closed_reason == "test_over"

    run_virtual(main())


def test_a_defect_costs_the_reply_and_not_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with pilot(llm=ScriptedLlm(say("Fine."))) as user:
            commit = user.session.journal.commit

            def break_once(entry: Entry) -> None:
                monkeypatch.setattr(user.session.journal, "commit", commit)
                raise ZeroDivisionError

            monkeypatch.setattr(user.session.journal, "commit", break_once)
            user.write("hi")
            assert (await user.until(Error)).code == "internal"
            await user.pause(1500)
            user.write("again")
            await user.pause(1000)
            assert user.events(ReplyFinished)[-1].heard_text == "Fine."

    run_virtual(main())


def test_a_vad_that_fails_ends_the_session_with_a_word() -> None:
    async def main() -> None:
        async with pilot() as user:
            user.session._ear.listener._vad.process = lambda frame: 1 / 0  # type: ignore[method-assign]
            await user.pause(200)
            await user.session.wait()
            assert [event.code for event in user.events(Error)] == ["vad_failed"]
            assert user.events(SessionEnded)[0].reason == "vad_failed"

    run_virtual(main())


def test_a_model_that_hangs_after_its_first_sentence_is_given_up() -> None:
    async def main() -> None:
        agent = Agent(turns=TurnPolicy(first_audio_timeout_ms=3000))
        async with pilot(llm=ScriptedLlm(say("I was going to say. ", 1e6, "late")), agent=agent) as user:
            user.write("hi")
            finished = await user.until(ReplyFinished)
            assert (finished.reason, finished.heard_text) == ("failed", "I was going to say.")
            assert user.events(Error)[0].code == "provider_timeout"

    run_virtual(main())


def test_a_model_error_lets_a_slow_voice_finish_what_was_said_before_it() -> None:
    async def main() -> None:
        llm = ScriptedLlm(say("I was going to say. ", ProviderError("llm", "cut")))
        async with pilot(llm=llm, tts=ScriptedTts(delay_s=0.5)) as user:
            user.write("hi")
            finished = await user.until(ReplyFinished)
            assert (finished.reason, finished.heard_text) == ("failed", "I was going to say.")

    run_virtual(main())


def test_a_provider_that_cancels_itself_has_failed() -> None:
    async def main() -> None:
        def script(request: LlmRequest) -> Iterable[LlmDelta]:
            yield "Well. "
            raise asyncio.CancelledError

        async with pilot(llm=ScriptedLlm(script), audio=False) as user:
            user.write("hi")
            assert (await user.until(ReplyFinished)).reason == "failed"

    run_virtual(main())


def test_a_client_that_is_put_to_sleep_does_not_hold_the_reply_open() -> None:
    async def main() -> None:
        async with pilot() as user:
            user.write("hi")
            await user.pause(200)
            reply_id = user.events(ReplyStarted)[0].reply_id
            for _ in range(100):
                user.command(Playback(reply_id=reply_id, played_ms=60))
                await user.pause(100)
            assert user.events(ReplyFinished)[0].reason == "completed"

    run_virtual(main())


def test_history_says_cut_off_only_where_it_was() -> None:
    async def main() -> None:
        async with pilot(llm=ScriptedLlm(say("First part.\n\nSecond part."))) as user:
            user.write("one")
            await user.until(ReplyFinished)
            user.write("two")
            await user.until(ReplyFinished, 2)
            assert user.llm.requests[-1].messages[2] == Message("assistant", "First part. Second part.")

    run_virtual(main())


def test_what_was_said_before_a_tool_call_stays_before_it_in_the_history() -> None:
    async def main() -> None:
        def script(request: LlmRequest) -> Iterable[LlmDelta]:
            return (
                ("It is noon.",) if request.messages[-1].role == "tool" else ("Let me see.", ToolCall("a", "one", "{}"))
            )

        async with pilot(llm=ScriptedLlm(script), tools=[tool("one", [])]) as user:
            user.write("time?")
            await user.until(ReplyFinished)
            assert user.llm.requests[1].messages[2].content == "Let me see."
            contents = [message.content for message in user.session.journal.messages("", 10)]
            assert contents == ["time?", "Let me see.", "one done", "It is noon."]

    run_virtual(main())


def test_speech_resumed_over_a_typed_turns_answer_stops_it() -> None:
    async def main() -> None:
        async with pilot(llm=ScriptedLlm(say(*LONG))) as user:
            await user.turn(600, 140)
            user.write("typed")
            await user.pause(40)
            await user.speak(1000)
            assert user.events(ClearAudio)
            assert not user.audio_after(ClearAudio)

    run_virtual(main())


def test_turns_that_were_never_answered_have_no_response_time() -> None:
    async def main() -> None:
        async with pilot(llm=ScriptedLlm(say(1000.0, "late"))) as user:
            await user.turn(600, 600)
            user.command(Interrupt())
            await user.until(ReplyFinished)
            await user.pause(200)
            assert user.events(TurnMetrics) == []

    run_virtual(main())


def test_when_the_last_listener_leaves_the_rest_counts_as_unheard() -> None:
    async def main() -> None:
        async with pilot(llm=ScriptedLlm(say(*LONG))) as user:
            user.write("hi")
            await user.pause(1500)
            user._link.close()
            await asyncio.sleep(20)
            assert user.session.ended_reason == "idle"
            heard = user.session.journal.messages("", 10)[-1].content
            assert heard.startswith("This is sentence number 0.")
            assert len(heard) < 80

    run_virtual(main())


def test_nothing_of_an_interrupted_reply_is_left_in_a_rate_converter() -> None:
    async def main() -> None:
        async with pilot(llm=ScriptedLlm(say(*LONG))) as user:
            other = SessionPilot(reports=True)
            other._link = user.session.attach(other, Rates(8000, 8000), audio=True)
            other.session = user.session
            user.write("hi")
            await user.pause(1000)
            user.command(Interrupt())
            await user.pause(40)
            user.tts.level = 0
            user.write("again")
            await user.pause(500)
            assert other.audio_after(ClearAudio)
            samples = memoryview(other.audio_after(ClearAudio)).cast("h")
            assert max(map(abs, samples)) < 10, "but for dither, silence"

    run_virtual(main())


def test_a_client_at_another_rate_gets_all_of_a_reply_and_finishes_it() -> None:
    async def main() -> None:
        async with pilot() as user:
            other = SessionPilot()
            other._link = user.session.attach(other, Rates(8000, 8000), audio=True)
            user.write("hi")
            await user.until(ReplyFinished)
            assert len(other.audio()) == len(user.audio()) // 3

    run_virtual(main())


def test_a_tool_that_returns_no_text_has_failed() -> None:
    async def main() -> None:
        async def odd(arguments: dict[str, Any], context: ToolContext) -> Any:
            return None

        def script(request: LlmRequest) -> Iterable[LlmDelta]:
            return ("Well.",) if request.messages[-1].role == "tool" else (ToolCall("a", "odd", "{}"),)

        async with pilot(llm=ScriptedLlm(script), tools=[Tool("odd", "", odd)]) as user:
            user.write("hi")
            assert (await user.until(ReplyFinished)).reason == "completed"
            assert user.events(ToolReturned)[0].status == "failed"

    run_virtual(main())


def test_audio_costs_no_task_in_either_direction() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with pilot(llm=ScriptedLlm(say(*LONG))) as user:
            user.write("go on")
            await user.pause(1000)
            made: list[str] = []

            def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
                made.append(repr(coro))
                return asyncio.Task(coro, loop=loop, **options)

            loop.set_task_factory(factory)
            await user.pause(10_000)
            loop.set_task_factory(None)
            assert len(user.audio()) > 10_000 * 48
            assert made == []

    run_virtual(main())


def test_call_ids_that_a_server_uses_again_in_the_next_round_are_told_apart() -> None:
    async def main() -> None:
        def script(request: LlmRequest) -> Iterable[LlmDelta]:
            rounds = sum(message.role == "tool" for message in request.messages)
            return ("Done.",) if rounds == 2 else (ToolCall("call_0", "one", "{}"),)

        async with pilot(llm=ScriptedLlm(script), tools=[tool("one", [])]) as user:
            user.write("go")
            await user.until(ReplyFinished)
            ids = [event.call_id for event in user.events(ToolReturned)]
            assert len(set(ids)) == len(ids) == 2
            sent = user.llm.requests[-1].messages
            assert [message.tool_call_id for message in sent if message.role == "tool"] == ids

    run_virtual(main())


def test_a_reader_gets_the_whole_answer_although_the_listener_leaves() -> None:
    async def main() -> None:
        async with pilot(llm=ScriptedLlm(say(*LONG[:3]))) as user:
            reader = SessionPilot()
            reader._link = user.session.attach(reader, Rates(16000, 24000), audio=False)
            user.write("hi")
            await user.pause(300)
            user._link.close()
            await asyncio.sleep(10)
            assert reader.events(ReplyFinished)[0].reason == "completed"

    run_virtual(main())
