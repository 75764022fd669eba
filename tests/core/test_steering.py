"""Operators in a session, in virtual time: what they whisper, and what happens when they speak instead of the agent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from rejoinder.errors import ProtocolError, RejoinderError, SessionError
from rejoinder.events import (
    AgentChanged,
    ClearAudio,
    Error,
    OperatorHandedBack,
    OperatorTookOver,
    ReplyFinished,
    ReplyStarted,
    ReplyText,
    SessionEnded,
    SessionStarted,
    SpeechPaused,
    SpeechStarted,
    ToolCalled,
    ToolReturned,
    Transcript,
    TurnCommitted,
    TurnMetrics,
    encode,
)
from rejoinder.providers import LlmDelta, LlmRequest, Message, Tool, ToolCall, ToolContext
from rejoinder.settings import Agent, Limits, TurnPolicy
from rejoinder.steering import Operator
from rejoinder.testing.pilot import SessionPilot, pilot
from rejoinder.testing.scripted import ScriptedLlm, ScriptedStt, ScriptedTts
from rejoinder.testing.virtual_time import run_virtual
from rejoinder.turns.machine import LEASE_S
from rejoinder_plugins.tools.transfer import TRANSFER

GRACE, ADA = Operator("user_grace", "Grace"), Operator("user_ada", "Ada")
SECRET = "The customer's contract ends in May."
LONG = "one two three four five six seven eight nine ten"


def long_winded() -> ScriptedLlm:
    return ScriptedLlm(lambda request: (LONG,))


def said(request: LlmRequest) -> list[tuple[str, str]]:
    """What an LLM was sent after the instructions."""
    return [(message.role, message.content) for message in request.messages[1:]]


def kinds(user: SessionPilot) -> list[type]:
    return [type(item) for _, item in user.log if not isinstance(item, bytes)]


async def hold(user: SessionPilot, seconds: float, operator: Operator = GRACE) -> None:
    """Stay in charge for so long, as a panel does."""
    for _ in range(round(seconds / 10)):
        user.session.steering.take_over(operator)
        await user.pause(10_000)


# -- whispers


def test_a_whisper_is_a_system_message_in_its_place_from_then_on_and_no_event_tells_it() -> None:
    async def main() -> None:
        stored: list[bytes] = []
        async with pilot(observer=lambda event, data: stored.append(data)) as user:
            user.write("hi")
            await user.until(ReplyFinished)
            assert user.session.steering.whisper(f" {SECRET} ") == SECRET
            for number, text in enumerate(("first", "second"), 2):
                user.write(text)
                await user.until(ReplyFinished, number)
            reply = ("assistant", "Hello there.")
            whisper = ("system", SECRET)
            assert [said(request) for request in user.llm.requests] == [
                [("user", "hi")],
                [("user", "hi"), reply, whisper, ("user", "first")],
                [("user", "hi"), reply, whisper, ("user", "first"), reply, ("user", "second")],
            ]
            assert user.llm.requests[-1].messages[0].content.startswith("You are a helpful")
        everything = [encode(item) for _, item in user.log if not isinstance(item, bytes)]
        assert not [data for data in (*stored, *everything) if SECRET.encode() in data]
        assert SECRET not in user.tts.spoken

    run_virtual(main())


def test_a_reply_that_is_being_prepared_is_prepared_anew_with_the_whisper() -> None:
    async def main() -> None:
        agent = Agent(turns=TurnPolicy(end_silence_ms=600))
        async with pilot(agent=agent) as user:
            await user.speak(600)
            await user.until(SpeechPaused)
            await user.pause(100)
            (first,) = user.llm.requests
            assert said(first) == [("user", "hello there")]
            user.session.steering.whisper(SECRET)
            await user.pause(60)
            assert said(user.llm.requests[1]) == [("system", SECRET), ("user", "hello there")]
            await user.until(TurnMetrics)
            assert len(user.llm.requests) == 2
            (metrics,) = user.events(TurnMetrics)
            assert (metrics.speculated, metrics.discarded) == (True, 1)
            assert len(user.events(ReplyStarted)) == 1

    run_virtual(main())


def test_a_reply_that_is_committed_goes_on_and_its_next_round_knows_the_whisper() -> None:
    async def main() -> None:
        def script(request: LlmRequest) -> Iterable[LlmDelta]:
            if request.messages[-1].role == "tool":
                yield "Done."
            else:
                yield ToolCall("c1", "book", "{}")

        llm = ScriptedLlm(script)
        async with pilot(llm=llm, tools=[booking(2.0)]) as user:
            user.write("book it")
            await user.until(ToolCalled)
            user.session.steering.whisper(SECRET)
            await user.until(ReplyFinished)
            roles = [message.role for message in llm.requests[1].messages]
            assert roles == ["system", "system", "user", "assistant", "tool"], "nothing comes between call and result"
            assert llm.requests[1].messages[1].content == SECRET
            user.write("and now?")
            await user.until(ReplyFinished, 2)
            roles = [message.role for message in llm.requests[2].messages]
            assert roles == ["system", "user", "assistant", "tool", "assistant", "system", "user"]

    run_virtual(main())


def test_a_whisper_stays_as_long_as_the_turns_beside_it() -> None:
    async def main() -> None:
        async with pilot(agent=Agent(history_messages=4)) as user:
            user.session.steering.whisper(SECRET)
            for number in range(1, 4):
                user.write(f"turn {number}")
                await user.until(ReplyFinished, number)
            assert [("system", SECRET) in said(request) for request in user.llm.requests] == [True, True, False]

    run_virtual(main())


def test_what_is_read_ahead_knows_the_whisper() -> None:
    class Reader(ScriptedLlm):
        async def prefill(self, request: LlmRequest) -> None:
            read.append(request)

    read: list[LlmRequest] = []

    async def main() -> None:
        async with pilot(llm=Reader()) as user:
            await user.pause(20)
            read.clear()
            user.session.steering.whisper(SECRET)
            await user.pause(40)
            assert [said(request) for request in read] == [[("system", SECRET), ("user", "")]]
            user.session.steering.take_over(GRACE)
            user.session.steering.whisper("More.")
            await user.speak(400)
            user.session._partial("hello")
            await user.pause(1000)
            assert len(read) == 1, "nobody is going to ask"
            assert user.session.steering.hand_back(GRACE)
            await user.until(ReplyFinished)

    run_virtual(main())


def test_what_cannot_be_whispered_is_refused() -> None:
    async def main() -> None:
        async with pilot(limits=Limits(text_chars=10)) as user:
            for text, code in ((" ", "empty_text"), ("x" * 11, "text_too_long")):
                with pytest.raises(ProtocolError) as refused:
                    user.session.steering.whisper(text)
                assert refused.value.code == code
            await user.session.close("over")
            with pytest.raises(SessionError) as over:
                user.session.steering.whisper("hello")
            assert over.value.code == "session_over"

    run_virtual(main())


# -- taking over


def test_a_reply_that_plays_is_cut_and_what_was_heard_of_it_is_kept() -> None:
    async def main() -> None:
        async with pilot(llm=long_winded(), reports=True) as user:
            user.write("count")
            await user.until(ReplyStarted)
            await user.pause(900)
            lease = user.session.steering.take_over(GRACE)
            assert user.session.operator == "Grace"
            assert (lease.operator, lease.renewed, lease.former) == (GRACE, False, None)
            (finished,) = [await user.until(ReplyFinished)]
            assert finished.reason == "interrupted"
            assert LONG.startswith(finished.heard_text)
            assert 0 < len(finished.heard_text) < len(LONG)
            order = kinds(user)
            assert order.index(OperatorTookOver) < order.index(ClearAudio) < order.index(ReplyFinished)
            assert not user.audio_after(ClearAudio)
            turn_id = user.session.steering.say("This is Grace.", GRACE)
            spoken = await user.until(ReplyFinished, 2)
            assert (spoken.turn_id, spoken.heard_text) == (turn_id, "This is Grace.")
            assert "This is Grace." in user.tts.spoken, "in the voice of the agent"
            assert user.session.steering.hand_back(GRACE)
            user.write("go on")
            await user.until(ReplyFinished, 3)
            assert said(user.llm.requests[-1]) == [
                ("user", "count"),
                ("assistant", f"{finished.heard_text}... [cut off]"),
                ("assistant", "This is Grace."),
                ("user", "go on"),
            ], "it was not the user who interrupted"

    run_virtual(main())


def test_what_the_user_says_is_heard_and_stored_and_nobody_answers() -> None:
    async def main() -> None:
        policy = TurnPolicy(nudge_after_ms=3000)
        async with pilot(agent=Agent(turns=policy), stt=ScriptedStt(("what now", "hello"))) as user:
            await user.pause(20)
            user.session.steering.take_over(GRACE)
            await user.turn()
            await hold(user, 20)
            assert [event.text for event in user.events(TurnCommitted)] == ["what now"]
            assert [event.text for event in user.events(Transcript)] == ["what now"]
            assert user.llm.requests == []
            assert not user.events(ReplyStarted), "no answer, no nudge"
            assert user.audio() == b""
            assert user.session.metrics.turns == 1

    run_virtual(main())


def test_taking_over_while_the_user_speaks_leaves_their_turn_to_the_operator() -> None:
    async def main() -> None:
        async with pilot() as user:
            await user.speak(600)
            await user.until(SpeechPaused)
            await user.pause(60)
            assert len(user.llm.requests) == 1, "a reply was being prepared"
            user.session.steering.take_over(GRACE)
            await user.pause(2000)
            assert [event.text for event in user.events(TurnCommitted)] == ["hello there"]
            assert not user.events(ReplyStarted)
            assert not user.events(ReplyText)
            assert user.session.metrics.speculations_discarded == 1
            turn = user.events(TurnCommitted)[0].turn_id
            user.session.steering.hand_back(GRACE)
            finished = await user.until(ReplyFinished)
            assert (finished.turn_id, finished.text) == (turn, "Hello there.")
            assert said(user.llm.requests[-1]) == [("user", "hello there")], "the turn is there once"
            assert len(user.events(TurnCommitted)) == 1
            assert not user.events(TurnMetrics), "how long the user waited says nothing of the agent"
            user.write("again")
            await user.until(ReplyFinished, 2)
            assert said(user.llm.requests[-1]) == [
                ("user", "hello there"),
                ("assistant", "Hello there."),
                ("user", "again"),
            ]

    run_virtual(main())


def test_the_user_may_interrupt_the_operator() -> None:
    async def main() -> None:
        async with pilot(stt=ScriptedStt(("no wait",))) as user:
            user.session.steering.take_over(GRACE)
            user.session.steering.say(LONG, GRACE)
            await user.until(ReplyStarted)
            await user.pause(500)
            await user.turn(800)
            finished = await user.until(ReplyFinished)
            assert finished.reason == "interrupted"
            assert [event.text for event in user.events(TurnCommitted)] == ["no wait"]
            user.session.steering.hand_back(GRACE)
            await user.until(ReplyFinished, 2)
            history = said(user.llm.requests[-1])
            assert history == [
                ("assistant", f"{finished.heard_text}... [interrupted by the user]"),
                ("user", "no wait"),
            ]

    run_virtual(main())


def test_handing_back_in_the_middle_of_the_users_words_lets_the_agent_answer_them() -> None:
    async def main() -> None:
        async with pilot() as user:
            user.session.steering.take_over(GRACE)
            await user.speak(500)
            assert user.events(SpeechStarted)
            user.session.steering.hand_back(GRACE)
            await user.speak(500)
            await user.until(ReplyFinished)
            assert said(user.llm.requests[-1]) == [("user", "hello there")]
            (metrics,) = [await user.until(TurnMetrics)]
            assert metrics.speculated

    run_virtual(main())


def test_after_hand_back_what_the_operator_answered_is_not_answered_again() -> None:
    async def main() -> None:
        async with pilot() as user:
            user.session.steering.take_over(GRACE)
            user.write("is it open?")
            await user.until(TurnCommitted)
            user.session.steering.say("Yes, it is.", GRACE)
            await user.until(ReplyFinished)
            user.session.steering.hand_back(GRACE)
            await user.until(OperatorHandedBack)
            await user.pause(3000)
            assert user.llm.requests == []
            user.write("until when?")
            await user.until(ReplyFinished, 2)
            assert said(user.llm.requests[0]) == [
                ("user", "is it open?"),
                ("assistant", "Yes, it is."),
                ("user", "until when?"),
            ]

    run_virtual(main())


def test_two_turns_without_an_answer_and_a_whisper_between_them_are_answered_together() -> None:
    async def main() -> None:
        async with pilot() as user:
            user.session.steering.take_over(GRACE)
            user.write("hello?")
            user.session.steering.whisper(SECRET)
            user.write("anybody?")
            user.session.steering.whisper("Say sorry.")
            user.session.steering.hand_back(GRACE)
            await user.until(ReplyFinished)
            (request,) = user.llm.requests
            assert said(request) == [
                ("user", "hello?"),
                ("system", SECRET),
                ("system", "Say sorry."),
                ("user", "anybody?"),
            ], "what is answered comes last"

    run_virtual(main())


# -- tools and transfers under way


def booking(delay_s: float, booked: list[str] | None = None) -> Tool:
    async def run(arguments: dict[str, Any], context: ToolContext) -> str:
        await asyncio.sleep(delay_s)
        if booked is not None:
            booked.append("table")
        return "booked"

    return Tool("book", "books a table", run)


def test_a_tool_with_side_effects_runs_to_its_end_and_the_agent_knows_of_it_later() -> None:
    async def main() -> None:
        def script(request: LlmRequest) -> Iterable[LlmDelta]:
            if request.messages[-1].role == "tool":
                yield "It is booked."
            else:
                yield ToolCall("c1", "book", "{}")

        booked: list[str] = []
        agent = Agent(filler_after_ms=1500)
        async with pilot(agent=agent, llm=ScriptedLlm(script), tools=[booking(3.0, booked)]) as user:
            user.write("a table, please")
            await user.until(ToolCalled)
            user.session.steering.take_over(GRACE)
            await user.until(ToolReturned)
            await user.pause(2000)
            assert booked == ["table"]
            assert user.events(ToolReturned)[0].status == "ok"
            assert [event.reason for event in user.events(ReplyFinished)] == ["interrupted"]
            assert user.tts.spoken == [], "no filler"
            user.session.steering.hand_back(GRACE)
            finished = await user.until(ReplyFinished, 2)
            assert finished.text == "It is booked.", "nothing of the answer had been heard"
            assert booked == ["table"]
            roles = [message.role for message in user.llm.requests[-1].messages]
            assert roles == ["system", "user", "assistant", "tool"]
            assert user.llm.requests[-1].messages[-1].content == "booked"

    run_virtual(main())


def test_handing_back_while_the_tool_still_runs_says_so_and_its_result_is_known_afterwards() -> None:
    async def main() -> None:
        def script(request: LlmRequest) -> Iterable[LlmDelta]:
            if any(message.role == "tool" for message in request.messages):
                yield "I am on it."
            else:
                yield from ("Let me see.", ToolCall("c1", "book", "{}"))

        async with pilot(llm=ScriptedLlm(script), tools=[booking(5.0)], audio=False) as user:
            # In writing it is heard at once, so it counts as said.
            user.write("a table, please")
            await user.until(ToolCalled)
            user.session.steering.take_over(GRACE)
            user.session.steering.hand_back(GRACE)
            await user.until(OperatorHandedBack)
            user.write("well?")
            await user.until(ReplyFinished, 2)
            (result,) = [message.content for message in user.llm.requests[-1].messages if message.role == "tool"]
            assert result.startswith("Still running")
            await user.until(ToolReturned)
            user.write("and now?")
            await user.until(ReplyFinished, 3)
            (result,) = [message.content for message in user.llm.requests[-1].messages if message.role == "tool"]
            assert result == "booked"

    run_virtual(main())


def test_a_tool_that_ends_the_call_cannot_end_it_under_the_operator() -> None:
    async def main() -> None:
        async def hang_up(arguments: dict[str, Any], context: ToolContext) -> str:
            await asyncio.sleep(1)
            context.end_session("agent_ended")
            return "goodbye"

        llm = ScriptedLlm(lambda request: (ToolCall("c1", "end_call", "{}"),))
        async with pilot(llm=llm, tools=[Tool("end_call", "", hang_up)]) as user:
            user.write("bye")
            await user.until(ToolCalled)
            user.session.steering.take_over(GRACE)
            await user.until(ToolReturned)
            user.session.steering.say("Do not go yet.", GRACE)
            await user.until(ReplyFinished, 2)
            await user.pause(1000)
            assert not user.events(SessionEnded)

    run_virtual(main())


def test_a_transfer_under_way_takes_place_without_a_greeting() -> None:
    async def main() -> None:
        def script(request: LlmRequest) -> Iterable[LlmDelta]:
            if request.messages[-1].role == "tool":
                yield "I put you through. "
            else:
                yield ToolCall("c1", "transfer", '{"agent": "billing"}')

        billing = ScriptedLlm(lambda request: ("Your bill is paid.",))
        others = {"billing": (Agent(instructions="You are billing.", greeting="Billing here."), billing)}
        desk = Agent(transfers=("billing",))
        async with pilot(agent=desk, llm=ScriptedLlm(script), tools=[TRANSFER], others=others) as user:
            user.write("my bill")
            await user.until(ReplyStarted)
            await user.until(ToolReturned)
            await user.pause(300)
            user.session.steering.take_over(GRACE)
            await user.until(AgentChanged)
            await user.pause(2000)
            assert [event.text for event in user.events(ReplyFinished)] == ["I put you through."]
            user.session.steering.hand_back(GRACE)
            user.write("is it paid?")
            finished = await user.until(ReplyFinished, 2)
            assert finished.text == "Your bill is paid."
            assert billing.requests[0].messages[0] == Message("system", "You are billing.")

    run_virtual(main())


# -- the lease


def test_an_operator_who_is_lost_leaves_the_user_to_the_agent() -> None:
    async def main() -> None:
        async with pilot() as user:
            lease = user.session.steering.take_over(GRACE)
            assert lease.expires_at == 1_700_000_000_000 + LEASE_S * 1000
            await user.pause(20_000)
            again = user.session.steering.take_over(GRACE)
            assert again.renewed
            assert again.expires_at - lease.expires_at == pytest.approx(20_000, abs=2)
            user.write("are you there?")
            await user.pause(29_000)
            assert user.session.operator == "Grace"
            assert not user.events(ReplyStarted)
            lost = await user.until(OperatorHandedBack)
            assert (lost.operator, lost.reason) == ("Grace", "lost")
            assert user.at(OperatorHandedBack) == pytest.approx(50, abs=0.1)
            assert user.session.operator is None
            await user.until(ReplyFinished)
            assert len(user.events(OperatorTookOver)) == 1, "renewing is told to nobody"
            assert not user.session.steering.hand_back(GRACE), "it is done already"

    run_virtual(main())


def test_only_one_operator_at_a_time_unless_it_is_taken_by_force() -> None:
    async def main() -> None:
        async with pilot() as user:
            steering = user.session.steering
            steering.take_over(GRACE)
            for refused in (
                lambda: steering.take_over(ADA),
                lambda: steering.say("Hello.", ADA),
                lambda: steering.hand_back(ADA),
            ):
                with pytest.raises(SessionError, match=r"Grace has taken over .* 2023-11-14T22:13:50\+00:00") as error:
                    refused()
                assert error.value.code == "taken_over"
            lease = steering.take_over(ADA, force=True)
            assert (lease.former, user.session.operator) == (GRACE, "Ada")
            with pytest.raises(SessionError):
                steering.say("Hello.", GRACE)
            steering.say("Ada here.", ADA)
            await user.until(ReplyFinished)
            assert [event.operator for event in user.events(OperatorTookOver)] == ["Grace", "Ada"]
            assert not user.events(OperatorHandedBack)
            await user.pause(LEASE_S * 1000)
            assert [event.operator for event in user.events(OperatorHandedBack)] == ["Ada"]
            assert steering.take_over(GRACE).former is None

    run_virtual(main())


def test_whoever_takes_over_as_a_lease_runs_out_has_it() -> None:
    """The session has not come round to noticing that the first one is lost."""

    async def main() -> None:
        async with pilot() as user:
            steering = user.session.steering
            steering.take_over(GRACE)
            await user.pause(LEASE_S * 1000 - 1000)
            steering._until = asyncio.get_running_loop().time()
            assert steering.take_over(ADA).former is None
            await user.pause(2000)
            assert user.session.operator == "Ada"
            assert [event.operator for event in user.events(OperatorTookOver)] == ["Grace", "Ada"]
            assert not user.events(OperatorHandedBack)
            user.write("hello")
            await user.pause(2000)
            assert not user.events(ReplyStarted)

    run_virtual(main())


# -- the end, lost clients, and sessions in writing


def test_a_session_ends_while_it_is_taken_over() -> None:
    async def main() -> None:
        async with pilot() as user:
            user.session.steering.take_over(GRACE)
            user.session.steering.say(LONG, GRACE)
            await user.until(ReplyStarted)
            await user.pause(500)
            user.session.end("client_ended")
            await user.session.wait()
            assert user.closed_reason == "client_ended"
            assert [event.reason for event in user.events(ReplyFinished)] == ["ended"]
            assert user.session.operator is None
            for late in (user.session.steering.take_over, user.session.steering.hand_back):
                with pytest.raises(RejoinderError) as over:
                    late(GRACE)
                assert over.value.code == "session_over"

    run_virtual(main())


def test_a_client_that_is_lost_comes_back_to_the_operators_words() -> None:
    async def main() -> None:
        tts = ScriptedTts(ms_per_word=400)
        async with pilot(tts=tts, reports=True, limits=Limits(idle_s=60)) as user:
            await user.pause(20)
            user.session.steering.take_over(GRACE)
            user.session.steering.say(LONG, GRACE)
            await user.until(ReplyStarted)
            await user.pause(1000)
            user._link.close()
            await asyncio.sleep(3)
            user.session.steering.take_over(GRACE)
            await user.reconnect()
            finished = await user.until(ReplyFinished)
            assert (finished.reason, finished.heard_text) == ("completed", LONG)
            assert user.session.operator == "Grace"
            assert [event.operator for event in user.events(SessionStarted)] == ["", "Grace"], "who comes is told"
            user.write("thank you")
            await user.pause(1000)
            assert len(user.events(ReplyStarted)) == 1

    run_virtual(main())


def test_in_writing_it_is_the_same() -> None:
    async def main() -> None:
        async with pilot(audio=False) as user:
            user.session.steering.take_over(GRACE)
            user.write("hello")
            await user.until(TurnCommitted)
            user.session.steering.say("Grace here.", GRACE)
            finished = await user.until(ReplyFinished)
            assert (finished.text, finished.heard_text) == ("Grace here.", "Grace here.")
            user.write("help me")
            await user.until(TurnCommitted, 2)
            user.session.steering.hand_back(GRACE)
            answered = await user.until(ReplyFinished, 2)
            assert answered.text == "Hello there."
            assert answered.turn_id == user.events(TurnCommitted)[1].turn_id
            assert said(user.llm.requests[-1]) == [
                ("user", "hello"),
                ("assistant", "Grace here."),
                ("user", "help me"),
            ]
            assert user.tts.spoken == []

    run_virtual(main())


def test_speech_without_words_is_not_apologised_for_by_the_agent() -> None:
    async def main() -> None:
        async with pilot(stt=ScriptedStt((ScriptedStt.FAIL,))) as user:
            user.session.steering.take_over(GRACE)
            await user.turn(1200, 2000)
            assert "no_transcript" in [event.code for event in user.events(Error)]
            assert not user.events(ReplyStarted)

    run_virtual(main())


def test_an_agent_that_fails_after_hand_back_says_so() -> None:
    async def main() -> None:
        llm = ScriptedLlm(lambda request: (RejoinderError("broken"),))
        async with pilot(llm=llm) as user:
            user.session.steering.take_over(GRACE)
            user.write("hello")
            user.session.steering.hand_back(GRACE)
            await user.until(ReplyFinished, 2)
            assert user.events(ReplyFinished)[1].text == "Sorry, I cannot answer right now."

    run_virtual(main())
