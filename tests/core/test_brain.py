"""The brain: what tools do before and after the commit, what becomes of them, and what is said while they run."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.linear import within

from rejoinder.events import ServerEvent, ToolCalled, ToolProgress, ToolReturned
from rejoinder.hooks import Hooks
from rejoinder.journal import NOT_STARTED, Entry, Journal
from rejoinder.manager import Plugins
from rejoinder.providers import LlmDelta, LlmRequest, Message, Tool, ToolCall, ToolContext
from rejoinder.settings import Agent
from rejoinder.stages.brain import Brain, _pause_after
from rejoinder.stages.chain import LlmChain
from rejoinder.testing.scripted import Script, ScriptedLlm
from rejoinder.testing.virtual_time import run_virtual

RUNNING = "Still running when the user interrupted; there is no result yet."


class Bench:
    """A brain on a scripted LLM. `book` (with side effects) and `look` (without) take `delay_s`."""

    def __init__(self, script: Script, *, delay_s: float = 1.0, agent: Agent | None = None) -> None:
        self.llm = ScriptedLlm(script)
        self.journal = Journal()
        self.executed: list[tuple[str, float]] = []
        self.recorded: list[ServerEvent] = []
        self.spawned: list[asyncio.Task[None]] = []
        self.replies: list[Reply] = []
        agent = agent or Agent()

        def tool(name: str, side_effects: bool) -> Tool:
            async def run(arguments: dict[str, Any], context: ToolContext) -> str:
                self.executed.append((name, now()))
                await asyncio.sleep(arguments.get("s", delay_s))
                return f"{name} done"

            return Tool(name, "", run, side_effects=side_effects)

        self.brain = Brain(
            agent,
            LlmChain({"scripted": self.llm}, agent.deadlines, lambda *switched: None),
            {"book": tool("book", True), "look": tool("look", False)},
            self.journal,
            ToolContext("ses_1", lambda: None, lambda reason: None),
            self._spawn,
            self.recorded.append,
            Hooks(Plugins()).session("ses_1"),
        )

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self.spawned.append(task)
        return task

    def reply(self, user_text: str = "go") -> Reply:
        reply = Reply(self, self.journal.propose(f"turn_{len(self.replies)}", f"rep_{len(self.replies)}", user_text))
        self.replies.append(reply)
        return reply

    def returned(self) -> list[tuple[str, str, str]]:
        return [(e.call_id, e.status, e.result) for e in self.recorded if isinstance(e, ToolReturned)]


class Reply:
    """One reply: what it said, and when."""

    def __init__(self, bench: Bench, entry: Entry) -> None:
        self.entry = entry
        self.told: list[ServerEvent] = []
        self.said: list[tuple[float, str]] = []
        self._bench = bench
        self._committed = asyncio.Event()
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        thoughts = self._bench.brain.think(self.entry, self._committed.wait, self.told.append)
        async with aclosing(thoughts) as deltas:
            async for delta in deltas:
                self.entry.text += delta
                self.said.append((now(), delta))

    def commit(self) -> Reply:
        self._bench.journal.commit(self.entry)
        self._committed.set()
        return self

    async def cut(self, heard: str = "") -> None:
        self.task.cancel()
        await asyncio.wait({self.task})
        self._bench.journal.finish(self.entry, heard, cut=True)

    async def end(self) -> None:
        await self.task
        self._bench.journal.finish(self.entry, self.entry.text, cut=False)


def now() -> float:
    return asyncio.get_running_loop().time()


def calls(*names: str, before: str = "", after: str = "Done.") -> Script:
    """Calls tools in the first round, answers when it has their results."""

    def script(request: LlmRequest) -> Iterable[LlmDelta]:
        if request.messages[-1].role == "tool":
            return (after,)
        return [before, *(ToolCall(f"{len(request.messages)}.{n}", name, "{}") for n, name in enumerate(names))]

    return script


def test_nothing_with_side_effects_is_executed_before_the_commit() -> None:
    async def main() -> None:
        bench = Bench(calls("book", "look"))
        reply = bench.reply()
        await asyncio.sleep(5)
        assert bench.executed == [("look", 0.0)]
        assert [type(event) for event in reply.told] == [ToolCalled, ToolCalled, ToolReturned]
        reply.commit()
        await reply.end()
        assert bench.executed[1:] == [("book", 5.0)]
        assert [type(event) for event in bench.recorded] == [ToolReturned]
        assert reply.entry.text == "Done."

    run_virtual(main())


def test_a_discarded_reply_executes_nothing_and_publishes_nothing() -> None:
    async def main() -> None:
        bench = Bench(calls("book", "look"))
        reply = bench.reply()
        await asyncio.sleep(0.5)
        reply.task.cancel()
        await asyncio.wait({reply.task})
        reply.commit()
        await asyncio.sleep(10)
        assert bench.executed == [("look", 0.0)]
        assert bench.recorded == []
        statuses = {event.name: event.status for event in reply.told if isinstance(event, ToolReturned)}
        assert statuses == {"book": "cancelled", "look": "cancelled"}

    run_virtual(main())


def test_a_result_after_the_interruption_is_published_and_reaches_the_next_request() -> None:
    async def main() -> None:
        bench = Bench(calls("book", "look"), delay_s=5)
        first = bench.reply().commit()
        await asyncio.sleep(1)
        await first.cut()
        assert bench.returned() == [("2.1", "cancelled", "Cancelled when the reply was cut off; it gave no result.")]
        bench.llm.script = lambda request: ("Yes?",)
        await bench.reply("well?").commit().end()
        tools = [message for message in bench.llm.requests[-1].messages if message.role == "tool"]
        assert [message.content for message in tools] == [RUNNING, bench.returned()[0][2]]
        await asyncio.sleep(5)
        assert bench.returned()[1:] == [("2.0", "ok", "book done")]
        await bench.reply("and?").commit().end()
        tools = [message for message in bench.llm.requests[-1].messages if message.role == "tool"]
        assert [message.content for message in tools] == ["book done", bench.returned()[0][2]]
        assert sorted(bench.executed) == [("book", 0.0), ("look", 0.0)]

    run_virtual(main())


def test_a_call_cut_off_before_it_was_started_is_stated_as_never_executed() -> None:
    async def main() -> None:
        bench = Bench(calls("book"))
        reply = bench.reply()
        await asyncio.sleep(0.1)
        # Committed, but nothing that waits for it has run since.
        bench.journal.commit(reply.entry)
        await reply.cut()
        await asyncio.sleep(5)
        assert bench.executed == []
        assert bench.returned() == [("2.0", "cancelled", NOT_STARTED)]
        assert bench.journal.messages("", 10)[-1] == Message("tool", NOT_STARTED, tool_call_id="2.0")

    run_virtual(main())


def test_a_call_made_again_while_it_runs_joins_it_and_both_get_the_result() -> None:
    async def main() -> None:
        bench = Bench(calls("book"), delay_s=5)
        first = bench.reply().commit()
        await asyncio.sleep(1)
        await first.cut()
        bench.llm.script = lambda request: (
            (f"It says: {request.messages[-1].content}.",)
            if request.messages[-1].role == "tool" and request.messages[-1].tool_call_id == "again"
            else (ToolCall("again", "book", " {} "),)
        )
        second = bench.reply("book it, please").commit()
        await second.end()
        assert second.entry.text.endswith("It says: book done.")
        assert now() == pytest.approx(5)
        assert bench.executed == [("book", 0.0)]
        assert bench.returned() == [("2.0", "ok", "book done"), ("again", "ok", "book done")]
        called = [event.call_id for event in bench.recorded if isinstance(event, ToolCalled)]
        assert called == ["2.0", "again"]

    run_virtual(main())


@pytest.mark.parametrize(("name", "times"), [("book", 1), ("look", 2)])
def test_of_two_equal_calls_in_one_answer_a_side_effect_happens_once(name: str, times: int) -> None:
    async def main() -> None:
        bench = Bench(calls(name, name))
        await bench.reply().commit().end()
        assert len(bench.executed) == times
        assert [status for _, status, _ in bench.returned()] == ["ok", "ok"]

    run_virtual(main())


def test_of_very_many_calls_in_one_answer_only_so_many_are_run() -> None:
    async def main() -> None:
        bench = Bench(calls(*["look"] * 40))
        await bench.reply().commit().end()
        assert len(bench.executed) == 16
        assert [status for _, status, _ in bench.returned()] == ["failed"] * 24 + ["ok"] * 16
        assert len(bench.llm.requests) == 2

    run_virtual(main())


def test_what_a_model_calls_in_the_last_round_is_not_run() -> None:
    async def main() -> None:
        rounds = 0

        def script(request: LlmRequest) -> Iterable[LlmDelta]:
            nonlocal rounds
            rounds += 1
            return ("And ", ToolCall(f"c{rounds}", "book", f'{{"n": {rounds}}}'))

        bench = Bench(script, agent=Agent(max_tool_rounds=2))
        reply = bench.reply().commit()
        await reply.end()
        assert len(bench.executed) == 2
        assert len(bench.llm.requests) == 3
        assert not bench.llm.requests[-1].tools
        assert not reply.entry.thinking

    run_virtual(main())


@pytest.mark.parametrize("name", ["book", "look"])
def test_how_far_a_call_is_is_told(name: str) -> None:
    async def main() -> None:
        bench = Bench(calls(name))
        reply = bench.reply().commit()
        tool = bench.brain.tools[name]

        async def run(arguments: dict[str, Any], context: ToolContext) -> str:
            context.progress("half of it", 0.5)
            return await tool.run(arguments, context)

        bench.brain.tools[name] = replace(tool, run=run)  # type: ignore[index]
        await reply.end()
        progress = [event for event in bench.recorded if isinstance(event, ToolProgress)]
        assert [(e.reply_id, e.call_id, e.message, e.fraction) for e in progress] == [
            ("rep_0", "2.0", "half of it", 0.5)
        ]

    run_virtual(main())


def test_a_session_that_takes_no_more_work_states_the_call_as_never_executed() -> None:
    async def main() -> None:
        bench = Bench(calls("book"))

        def refuse(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
            raise RuntimeError("finished")

        bench.brain.ledger._spawn = refuse
        await bench.reply().commit().end()
        assert bench.executed == []
        assert bench.returned() == [("2.0", "cancelled", NOT_STARTED)]

    run_virtual(main())


def test_a_model_that_swallows_its_cancellation_gets_no_tool_executed() -> None:
    async def main() -> None:
        bench = Bench(calls("book"))

        class Stubborn(ScriptedLlm):
            async def stream(self, request: LlmRequest) -> Any:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    pass
                yield ToolCall("a", "book", "{}")

        bench.brain.llm = Stubborn()  # type: ignore[assignment]
        reply = bench.reply().commit()
        await asyncio.sleep(1)
        await reply.cut()
        await asyncio.sleep(60)
        assert bench.executed == []
        assert reply.entry.rounds == []

    run_virtual(main())


def test_a_reply_that_was_cut_before_the_model_had_ended_lacks_words() -> None:
    async def main() -> None:
        bench = Bench(lambda request: ("It was a dark ", 2.0, "night."))
        reply = bench.reply().commit()
        await asyncio.sleep(1)
        await reply.cut("It was a dark")
        whole = bench.reply().commit()
        await whole.task
        bench.journal.finish(whole.entry, "It was a dark night.", cut=True)
        assert [reply.entry.cut, whole.entry.cut] == [True, False]

    run_virtual(main())


# -- fillers


def spoken(reply: Reply) -> list[tuple[float, str]]:
    return [(round(at, 3), text) for at, text in reply.said if text.strip()]


@pytest.mark.parametrize("name", ["book", "look"])
def test_slow_tools_are_covered_by_fillers_each_three_times_as_late(name: str) -> None:
    async def main() -> None:
        agent = Agent(filler_after_ms=500, fillers=("One moment.", "Hold on", "Nearly there."))
        bench = Bench(calls(name), delay_s=4, agent=agent)
        reply = bench.reply().commit()
        await reply.end()
        assert spoken(reply) == [(0.5, "One moment. "), (1.5, "Hold on\n"), (4.0, "Done.")]
        messages = bench.journal.messages("", 10)
        assert [message.content for message in messages] == ["go", "One moment. Hold on", f"{name} done", "Done."]
        assert bench.llm.requests[-1].messages[1:] == messages[:-1]

    run_virtual(main())


@pytest.mark.parametrize(
    ("delay_s", "before", "after_ms"), [(1.4, "", 1500), (9.0, "Let me see. ", 1500), (9.0, "", None)]
)
def test_there_is_no_filler_where_none_is_needed(delay_s: float, before: str, after_ms: int | None) -> None:
    async def main() -> None:
        bench = Bench(calls("book", before=before), delay_s=delay_s, agent=Agent(filler_after_ms=after_ms))
        reply = bench.reply().commit()
        await reply.end()
        assert [text for _, text in spoken(reply)] == ([before] if before else []) + ["Done."]

    run_virtual(main())


def test_a_speculation_says_no_filler_and_its_time_counts_from_the_commit() -> None:
    async def main() -> None:
        bench = Bench(calls("look"), delay_s=8)
        reply = bench.reply()
        await asyncio.sleep(5)
        assert reply.said == []
        reply.commit()
        await reply.end()
        assert spoken(reply) == [(6.5, "One moment, please. "), (8.0, "Done.")]

    run_virtual(main())


def test_a_filler_is_said_once_in_a_reply() -> None:
    async def main() -> None:
        def script(request: LlmRequest) -> Iterable[LlmDelta]:
            rounds = sum(message.role == "tool" for message in request.messages)
            return ("Done.",) if rounds == 3 else (ToolCall(str(rounds), "book", "{}"),)

        bench = Bench(script, delay_s=2)
        reply = bench.reply().commit()
        await reply.end()
        assert spoken(reply) == [(1.5, "One moment, please. "), (3.5, "Still working on it. "), (6.0, "Done.")]
        said = [message.content for message in bench.journal.messages("", 20) if message.role == "assistant"]
        assert said == ["One moment, please.", "Still working on it.", "", "Done."]

    run_virtual(main())


def test_a_filler_that_was_cut_is_remembered_where_it_was_said() -> None:
    async def main() -> None:
        bench = Bench(calls("book"), delay_s=5)
        reply = bench.reply().commit()
        await asyncio.sleep(2)
        await reply.cut("One moment,")
        contents = [message.content for message in bench.journal.messages("", 10)]
        assert contents == ["go", "One moment,... [interrupted by the user]", RUNNING]

    run_virtual(main())


def test_a_reader_that_leaves_at_a_filler_takes_the_tool_without_side_effects_along() -> None:
    async def main() -> None:
        bench = Bench(calls("look", "book"), delay_s=5)
        entry = bench.journal.propose("turn_1", "rep_1", "go")
        bench.journal.commit(entry)
        opened = asyncio.Event()
        opened.set()
        async with aclosing(bench.brain.think(entry, opened.wait, lambda event: None)) as deltas:
            assert await anext(deltas) == "One moment, please. "
        assert [status for _, status, _ in bench.returned()] == ["cancelled"]
        await asyncio.sleep(5)
        assert [status for _, status, _ in bench.returned()] == ["cancelled", "ok"]

    run_virtual(main())


def test_what_is_said_before_a_call_does_not_wait_for_it() -> None:
    async def main() -> None:
        for before, pause in [("Let me see.", " "), ("Let me see", "\n"), ('"See."', " "), ("Let me see. ", "")]:
            bench = Bench(calls("book", before=before))
            reply = bench.reply().commit()
            await reply.end()
            assert reply.entry.text == f"{before}{pause}Done."

    run_virtual(main())


# -- everything at once

plan = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from(["book", "look", "none"]), st.sampled_from([0, 1, 4, 30])), max_size=3),
        st.one_of(st.none(), st.sampled_from([0, 0.1, 2])),
        st.one_of(st.none(), st.sampled_from([0, 0.1, 1, 6, 20])),
        st.floats(0, 3),
    ),
    max_size=5,
)


@given(plan, st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_call_ends_once_and_is_executed_at_most_once(
    script: list[tuple[list[tuple[str, int]], float | None, float | None, float]], drop: bool
) -> None:
    """Replies that call tools, are committed and cut off (or neither) at any time, one after the other."""

    async def main() -> None:
        bench = Bench(lambda request: ("Hm.",))
        for number, (wanted, commit_at, cut_at, pause) in enumerate(script):
            # The same ids in every reply, as some servers have it; the same arguments, so that calls join.
            asked: list[LlmDelta] = [ToolCall(f"c{n}", name, f'{{"s": {s}}}') for n, (name, s) in enumerate(wanted)]
            answers = iter([asked])
            bench.llm.script = lambda request, answers=answers: next(answers, ()) or ("Well.",)  # type: ignore[misc]
            reply = bench.reply(f"question {number}")
            began = now()
            for at, what in sorted([(commit_at, "commit"), (cut_at, "cut")], key=lambda pair: pair[0] or 0):
                if at is None:
                    continue
                await asyncio.sleep(max(0.0, began + at - now()))
                if what == "commit" and not reply.task.done():
                    reply.commit()
                elif what == "cut":
                    await reply.cut()
            if commit_at is None:
                reply.task.cancel()
            elif not reply.task.done():
                await reply.end()
            await asyncio.wait({reply.task})
            if commit_at is None:
                committed = {entry.user_text for entry in bench.journal._entries}
                assert reply.entry.user_text not in committed
                ids = {call.id for tool_round in reply.entry.rounds for call in tool_round.calls}
                assert not [event for event in bench.recorded if getattr(event, "reply_id", "") == reply.entry.reply_id]
                assert ids == {event.call_id for event in reply.told if isinstance(event, ToolReturned)}
            check(bench.journal.messages("", 1000))
            await asyncio.sleep(pause)
        if drop:
            for task in bench.spawned:
                task.cancel()
        await asyncio.sleep(60)
        assert all(task.done() for task in bench.spawned)
        everything = [*bench.recorded, *(event for reply in bench.replies for event in reply.told)]
        called = [(e.reply_id, e.call_id) for e in everything if isinstance(e, ToolCalled)]
        ended = [(e.reply_id, e.call_id) for e in everything if isinstance(e, ToolReturned)]
        assert len(set(called)) == len(called)
        assert sorted(called) == sorted(ended)
        books = [key for reply in bench.replies for key in called if key[0] == reply.entry.reply_id]
        assert len(bench.executed) <= len(books)
        messages = bench.journal.messages("", 1000)
        check(messages)
        results = {(e.call_id, e.result) for e in everything if isinstance(e, ToolReturned)}
        assert {(m.tool_call_id, m.content) for m in messages if m.role == "tool"} <= results

    run_virtual(main())


def check(messages: tuple[Message, ...]) -> None:
    kinds = "".join("c" if message.tool_calls else message.role[0] for message in messages)
    assert re.fullmatch(r"(u(ct+)*a?)*", kinds), kinds
    called = [call.id for message in messages for call in message.tool_calls]
    assert called == [message.tool_call_id for message in messages if message.role == "tool"]
    assert len(set(called)) == len(called)


@pytest.mark.parametrize(
    ("text", "pause"),
    [
        ("Done.", " "),
        ('He said "yes!")', " "),
        ("终于。", " "),
        ("One moment,", "\n"),
        (".x", "\n"),
        ('"', "\n"),
        ("", "\n"),
    ],
)
def test_a_filler_that_is_no_sentence_ends_its_line(text: str, pause: str) -> None:
    assert _pause_after(text) == pause


def test_the_end_of_a_text_is_found_at_its_end() -> None:
    with within():
        assert _pause_after("." * 1_000_000 + "x") == "\n"
        assert _pause_after("." + '"' * 1_000_000) == " "
