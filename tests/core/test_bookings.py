"""A model that calls tools books once: interrupted, retried, called twice at once, with models that fail half-way."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from hypothesis import example, given, settings
from hypothesis import strategies as st

from rejoinder.errors import ProviderError, ToolError
from rejoinder.events import Interrupt, ToolCalled, ToolProgress, ToolReturned
from rejoinder.providers import LlmDelta, LlmRequest, Tool, ToolCall, ToolContext
from rejoinder.settings import Agent, Deadlines, TurnPolicy
from rejoinder.testing.pilot import SessionPilot, pilot
from rejoinder.testing.scripted import ScriptedLlm, ScriptedStt, ScriptedTts
from rejoinder.testing.virtual_time import run_virtual

EXAMPLES = int(os.environ.get("REJOINDER_TEST_CONVERSATIONS", "300"))

Move = tuple[Literal["speak", "pause", "interrupt", "write", "reconnect"], int]
Mood = Literal["well", "breaks", "breaks after the call", "is late", "hangs"]

moves = st.lists(
    st.one_of(
        st.tuples(st.just("speak"), st.integers(100, 900)),
        st.tuples(st.just("pause"), st.integers(20, 2500)),
        st.tuples(st.sampled_from(["interrupt", "write", "reconnect"]), st.just(0)),
    ),
    max_size=10,
)


@dataclass
class Restaurant:
    """The outside world: what was really booked, and how long that takes."""

    takes_s: float = 0.0
    refuses: int = 0
    booked: list[str] = field(default_factory=list)

    async def book(self, arguments: dict[str, Any], context: ToolContext) -> str:
        if self.refuses:
            self.refuses -= 1
            await asyncio.sleep(self.takes_s)
            raise ToolError("The line was busy. Try again.")
        self.booked.append(context.call_id)
        await asyncio.sleep(self.takes_s)
        return "booked for eight"

    async def look(self, arguments: dict[str, Any], context: ToolContext) -> str:
        await asyncio.sleep(self.takes_s / 2)
        return "there are tables"


@dataclass
class Waiter:
    """A model that wants one table, and calls until it has read that there is one."""

    moods: list[Mood]
    twice: bool = False
    looks: bool = False
    asked: int = 0

    def script(self, request: LlmRequest) -> Iterable[LlmDelta | float | Exception]:
        mood = self.moods[self.asked % len(self.moods)]
        self.asked += 1
        if mood == "hangs":
            yield 3600.0
        if mood == "is late":
            yield 0.9
        if mood == "breaks":
            yield ProviderError("scripted", "broke")
        if any(message.role == "tool" and "booked" in message.content for message in request.messages):
            yield from ("You have a table. ", "See you at eight.")
            return
        if not request.tools:
            yield "I could not book it."
            return
        # As some servers do, the ids begin anew in every answer.
        yield ToolCall("call_0", "book", '{"at": 8, "for": "Ada"}')
        if self.looks:
            yield ToolCall("call_1", "look", "{}")
        if self.twice:
            yield ToolCall("call_2", "book", '{"for":"Ada","at":8}')
        if mood == "breaks after the call":
            yield ProviderError("scripted", "broke")


async def act(user: SessionPilot, what: str, ms: int) -> None:
    if what == "speak":
        await user.speak(ms)
    elif what == "pause":
        await user.pause(ms)
    elif what == "interrupt":
        user.command(Interrupt())
    elif what == "write":
        user.write("Book a table.")
    else:
        await user.reconnect()


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    moves,
    st.lists(st.sampled_from(["well", "breaks", "breaks after the call", "is late", "hangs"]), min_size=1, max_size=4),
    st.integers(0, 3000),
    st.integers(0, 2),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
@example([("write", 0), ("pause", 300), ("interrupt", 0), ("write", 0)], ["well"], 500, 0, True, True, False, True)
def test_a_table_is_booked_once(
    user_moves: list[Move],
    moods: list[Mood],
    takes_ms: int,
    refuses: int,
    twice: bool,
    looks: bool,
    hedge: bool,
    speculate: bool,
) -> None:
    restaurant = Restaurant(takes_ms / 1000, refuses)
    agent = Agent(
        turns=TurnPolicy(speculate=speculate),
        deadlines=Deadlines(first_token_ms=400, hedge=hedge),
        filler_after_ms=500,
    )
    waiter, other = Waiter(moods, twice, looks), Waiter(["well"], twice, looks)

    async def main() -> None:
        async with pilot(
            agent=agent,
            stt=ScriptedStt(["Book a table."], delay_s=0.05),
            llm=ScriptedLlm(waiter.script),
            fallback=ScriptedLlm(other.script),
            tts=ScriptedTts(delay_s=0.03),
            tools=[
                Tool("book", "Books a table.", restaurant.book),
                Tool("look", "Looks for tables.", restaurant.look, side_effects=False),
            ],
        ) as user:
            for what, ms in user_moves:
                await act(user, what, ms)
            await user.pause(1000)
            # From here on nobody disturbs, so it must come to a table; and to one only, whatever was before.
            waiter.moods = ["well"]
            user.write("Is it booked?")
            await asyncio.sleep(30)
            called = [(event.reply_id, event.call_id) for event in user.events(ToolCalled)]
            returned = [(event.reply_id, event.call_id) for event in user.events(ToolReturned)]
            assert sorted(called) == sorted(returned)
            assert len(set(called)) == len(called)
            assert len(restaurant.booked) == 1

    run_virtual(main(), limit_s=3000)


def test_calls_of_one_answer_run_side_by_side_and_a_failed_one_is_tried_again() -> None:
    restaurant = Restaurant(takes_s=1.0, refuses=1)
    waiter = Waiter(["well"], looks=True)

    async def main() -> None:
        async with pilot(
            agent=Agent(filler_after_ms=None),
            llm=ScriptedLlm(waiter.script),
            tools=[
                Tool("book", "Books a table.", restaurant.book),
                Tool("look", "Looks for tables.", restaurant.look, side_effects=False),
            ],
            audio=False,
        ) as user:
            began = user.now
            user.write("Book a table.")
            await user.until(ToolReturned, 4)
            assert 2.0 <= user.now - began <= 2.1
            outcomes = sorted((event.name, event.status) for event in user.events(ToolReturned))
            assert outcomes == [("book", "failed"), ("book", "ok"), ("look", "ok"), ("look", "ok")]
            assert len(restaurant.booked) == 1

    run_virtual(main())


def test_the_progress_of_a_call_is_told_between_its_beginning_and_its_end() -> None:
    async def look(arguments: dict[str, Any], context: ToolContext) -> str:
        for step in range(10):
            context.progress(f"page {step}", step / 10)
            await asyncio.sleep(0.1)
        return "there are tables"

    def script(request: LlmRequest) -> Iterable[LlmDelta | float | Exception]:
        return ["Yes."] if request.messages[-1].role == "tool" else [ToolCall("call_0", "look", "{}")]

    async def main() -> None:
        async with pilot(
            llm=ScriptedLlm(script), tools=[Tool("look", "Looks for tables.", look, side_effects=False)]
        ) as user:
            await user.speak(500)
            await user.until(ToolReturned)
            told = [item for _, item in user.log if isinstance(item, ToolCalled | ToolProgress | ToolReturned)]
            assert isinstance(told[0], ToolCalled)
            assert isinstance(told[-1], ToolReturned)
            progress = user.events(ToolProgress)
            assert 3 <= len(progress) == len(told) - 2
            assert {event.call_id for event in progress} == {told[0].call_id}
            assert (progress[0].message, progress[0].fraction) == ("page 0", 0.0)

    run_virtual(main())
