"""Whole conversations that nobody thought of: hypothesis talks, and the rules hold for what a client sees."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rejoinder.errors import ProviderError
from rejoinder.events import (
    ClearAudio,
    Event,
    Interrupt,
    ReplyFinished,
    ReplyResumed,
    ReplyStarted,
    SessionEnded,
    SessionMetrics,
    SpeechStopped,
    ToolCalled,
    ToolReturned,
    TurnMetrics,
)
from rejoinder.providers import LlmDelta, LlmRequest, Tool, ToolCall, ToolContext
from rejoinder.settings import Agent, Deadlines, TurnPolicy
from rejoinder.testing.pilot import SessionPilot, pilot
from rejoinder.testing.scripted import ScriptedLlm, ScriptedStt, ScriptedTts
from rejoinder.testing.virtual_time import run_virtual
from rejoinder_plugins.interruption.words import Words, WordsSettings

EXAMPLES = int(os.environ.get("REJOINDER_TEST_CONVERSATIONS", "400"))

steps = st.one_of(
    st.tuples(st.just("speak"), st.integers(3, 60)),
    st.tuples(st.just("pause"), st.integers(1, 70)),
    st.tuples(st.just("write"), st.sampled_from(["hi", "stop"])),
    st.just(("interrupt", 0)),
    st.just(("reconnect", 0)),
)
replies = st.lists(
    st.sampled_from(["short", "long", "slow", "tool", "two tools", "nothing", "breaks", "hangs"]),
    min_size=1,
    max_size=4,
)
texts = st.lists(st.sampled_from(["book a table", "Mm-hmm.", "", "stop", ScriptedStt.FAIL]), min_size=1, max_size=5)


def script(kinds: list[str]) -> Any:
    """The answers of a model, one kind after the other."""
    count = 0

    def answer(request: LlmRequest) -> Iterable[LlmDelta | float | Exception]:
        nonlocal count
        if request.messages[-1].role == "tool":
            return ("It is done. ", "Anything else?")
        kind = kinds[count % len(kinds)]
        count += 1
        calls = [ToolCall(f"c{count}{n}", "book", f'{{"n": {count}{n}}}') for n in range(2)]
        return {
            "short": ("Hello ", "there."),
            "long": tuple(f"This is sentence {n}. " for n in range(20)),
            "slow": (0.5, "Well, ", 0.5, "that is it."),
            "tool": ("Let me see. ", calls[0]),
            "two tools": tuple(calls),
            "nothing": (),
            "breaks": ("This is what ", 0.1, ProviderError("scripted", "broke")),
            "hangs": (3600.0,),
        }[kind]

    return answer


def well_formed(request: LlmRequest) -> None:
    """What an OpenAI-compatible server would refuse must never be sent."""
    open_calls: set[str] = set()
    seen: Counter[str] = Counter()
    for message in request.messages:
        if message.role == "tool":
            assert message.tool_call_id in open_calls, "a result without its call"
            open_calls.discard(message.tool_call_id)
            continue
        assert not open_calls, "a call without its result"
        assert message.content.strip() or message.tool_calls, "an empty message"
        for call in message.tool_calls:
            seen[call.id] += 1
            open_calls.add(call.id)
    assert not open_calls
    assert all(times == 1 for times in seen.values())
    assert request.messages[-1].role in ("user", "tool")


def check(user: SessionPilot, executed: Counter[str]) -> None:
    silent = False
    current: str | None = None
    started: list[str] = []
    finished: Counter[str] = Counter()
    for _, item in user.log:
        if isinstance(item, bytes):
            assert not silent, "audio after clear_audio"
            assert current is not None, "audio of nothing"
        elif isinstance(item, ClearAudio):
            silent = True
        elif isinstance(item, ReplyResumed):
            assert item.reply_id == current, "only the current reply may go on"
            silent = False
        elif isinstance(item, ReplyStarted):
            assert current is None or finished[current], "two replies at once"
            current, silent = item.reply_id, False
            started.append(item.reply_id)
        elif isinstance(item, ReplyFinished):
            finished[item.reply_id] += 1
            assert item.text.split() or not item.heard_text, "heard what was never said"
        elif isinstance(item, TurnMetrics):
            assert sum(span.us for span in item.spans) == item.response_us
            assert all(span.us >= 0 for span in item.spans)
    assert Counter(started) == finished, "every reply begins once and ends once"
    called = [(event.reply_id, event.call_id) for event in user.events(ToolCalled)]
    returned = [(event.reply_id, event.call_id) for event in user.events(ToolReturned)]
    assert len(set(called)) == len(called)
    assert sorted(called) == sorted(returned), "every call ends in a stated way"
    assert all(times == 1 for times in executed.values()), "a side effect happens once"
    seqs = [item.seq for _, item in user.log if isinstance(item, Event) and item.seq]
    assert sorted(set(seqs)) == list(range(1, max(seqs) + 1)), "no event is lost"
    assert isinstance(user.log[-1][1], SessionEnded)
    assert len(user.events(SessionMetrics)) == 1
    for request in user.llm.requests:
        well_formed(request)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(steps, min_size=1, max_size=14), replies, texts, st.booleans(), st.booleans(), st.integers(0, 900))
def test_the_rules_hold_in_any_conversation(
    moves: list[tuple[str, int]], kinds: list[str], heard: list[str], speculate: bool, reports: bool, tool_ms: int
) -> None:
    executed: Counter[str] = Counter()

    async def book(arguments: dict[str, Any], context: ToolContext) -> str:
        executed[str(arguments["n"])] += 1
        await asyncio.sleep(tool_ms / 1000)
        return "booked"

    policy = TurnPolicy(speculate=speculate, nudge_after_ms=4000, first_audio_timeout_ms=4000)
    agent = Agent(turns=policy, deadlines=Deadlines(first_token_ms=1500), filler_after_ms=300)

    async def main() -> None:
        async with pilot(
            agent=agent,
            stt=ScriptedStt(heard, delay_s=0.06),
            llm=ScriptedLlm(script(kinds)),
            tts=ScriptedTts(delay_s=0.03, timed=True),
            interruption={"words": Words(_Context())},  # type: ignore[arg-type]
            tools=[Tool("book", "Books a table.", book)],
            reports=reports,
        ) as user:
            for what, amount in moves:
                if user.closed_reason is not None:
                    break
                if what == "speak":
                    await user.speak(20 * amount)
                elif what == "pause":
                    await user.pause(20 * amount)
                elif what == "write":
                    user.write("hi" if amount == "hi" else "stop")  # type: ignore[comparison-overlap]
                elif what == "interrupt":
                    user.command(Interrupt())
                else:
                    await user.reconnect()
            await user.pause(1000)
            stops = user.events(SpeechStopped)
            assert all(stop.silence_ms >= 0 for stop in stops)
            await user.session.close("over")
            check(user, executed)

    run_virtual(main(), limit_s=600)


class _Context:
    settings = WordsSettings()
