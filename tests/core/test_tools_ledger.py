"""The ledger of tool calls with side effects: each at most once, on without its reply, and always with an end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from rejoinder.errors import ToolError
from rejoinder.providers import Tool, ToolCall, ToolContext
from rejoinder.testing.virtual_time import run_virtual
from rejoinder.tools import Ledger, Progress, ToolResult, run_tool

CONTEXT = ToolContext("ses_1", lambda: None, lambda reason: None)


class Bench:
    """A ledger over one tool, `book`, that takes `delay_s`."""

    def __init__(self, delay_s: float = 1.0, timeout_s: float = 10.0) -> None:
        self.executed: list[dict[str, Any]] = []
        self.ends: list[tuple[str, ToolResult]] = []
        self.closed = False

        async def book(arguments: dict[str, Any], context: ToolContext) -> str:
            self.executed.append(arguments)
            await asyncio.sleep(delay_s)
            return f"booked {len(self.executed)}"

        self.ledger = Ledger({"book": Tool("book", "", book)}, CONTEXT, timeout_s, self._spawn)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        if self.closed:
            raise RuntimeError("closed")
        return asyncio.create_task(work, name=name)

    def call(
        self, call_id: str, reply_id: str, arguments: str = "{}", known: int | None = None
    ) -> asyncio.Task[None] | None:
        call = ToolCall(call_id, "book", arguments)
        return self.ledger.execute(call, reply_id, lambda result: self.ends.append((call_id, result)), known=known)


@pytest.mark.parametrize(
    ("again", "joins"),
    [
        ('{"day": 1, "at": [2]}', True),
        (' { "at":[2],"day":1 } ', True),
        ('{"day": 2, "at": [2]}', False),
        ('{"day": 1}', False),
        ("", False),
    ],
)
def test_the_same_call_for_a_later_reply_joins_the_one_that_runs(again: str, joins: bool) -> None:
    async def main() -> None:
        bench = Bench()
        first = bench.call("a", "rep_1", '{"day": 1, "at": [2]}')
        await asyncio.sleep(0.5)
        second = bench.call("b", "rep_2", again)
        assert (first is second) == joins
        await asyncio.sleep(2)
        assert len(bench.executed) == (1 if joins else 2)
        assert [call_id for call_id, _ in bench.ends] == ["a", "b"]
        assert {result.status for _, result in bench.ends} == {"ok"}

    run_virtual(main())


def test_what_has_ended_is_executed_anew() -> None:
    async def main() -> None:
        bench = Bench()
        bench.call("a", "rep_1")
        await asyncio.sleep(1.5)
        bench.call("b", "rep_2")
        await asyncio.sleep(1.5)
        assert bench.ends == [("a", ToolResult("ok", "booked 1")), ("b", ToolResult("ok", "booked 2"))]
        assert bench.ledger._running == {}

    run_virtual(main())


def test_what_is_called_twice_at_once_is_executed_once_and_the_model_is_told() -> None:
    async def main() -> None:
        bench = Bench()
        bench.call("a", "rep_1")
        bench.call("b", "rep_1")
        await asyncio.sleep(0.5)
        bench.call("c", "rep_2")
        await asyncio.sleep(2)
        assert len(bench.executed) == 1
        twice = " (The same call was made twice at once; it was executed once.)"
        assert {call_id: result.text for call_id, result in bench.ends} == {
            "a": "booked 1",
            "b": "booked 1" + twice,
            "c": "booked 1",
        }

    run_virtual(main())


@pytest.mark.parametrize(("knew", "times"), [(False, 1), (True, 2)])
def test_a_call_made_without_knowing_how_the_last_one_ended_is_that_one(knew: bool, times: int) -> None:
    async def main() -> None:
        bench = Bench()
        bench.call("a", "rep_1")
        asked_before = bench.ledger.ended
        await asyncio.sleep(1.5)
        bench.call("b", "rep_2", known=bench.ledger.ended if knew else asked_before)
        bench.call("c", "rep_2", '{"other": 1}', known=asked_before)
        await asyncio.sleep(1.5)
        assert len(bench.executed) == times + 1
        assert [call_id for call_id, _ in bench.ends] == ["a", "b", "c"]
        assert (bench.ends[1] == ("b", bench.ends[0][1])) == (not knew)

    run_virtual(main())


def test_arguments_that_are_no_json_are_compared_as_they_are() -> None:
    async def main() -> None:
        bench = Bench()
        assert bench.call("a", "rep_1", "{no \udce9") is bench.call("b", "rep_2", "{no \udce9")
        await asyncio.sleep(2)
        assert [result.status for _, result in bench.ends] == ["failed", "failed"]
        assert bench.executed == []

    run_virtual(main())


def test_a_call_is_bounded_in_time() -> None:
    async def main() -> None:
        late = "book did not answer within 2 seconds; it may or may not have taken effect."
        bench = Bench(delay_s=1e6, timeout_s=2)
        task = bench.call("a", "rep_1")
        assert task is not None
        await task
        await asyncio.sleep(0)
        assert asyncio.get_running_loop().time() == pytest.approx(2)
        assert bench.ends == [("a", ToolResult("failed", late))]

    run_virtual(main())


@pytest.mark.parametrize(
    ("after_s", "text"),
    [
        (None, "Cancelled when the session ended, before it was executed."),
        (0.5, "Cancelled when the session ended; it may or may not have taken effect."),
    ],
)
def test_a_call_that_the_session_cancels_says_what_is_known_of_it(after_s: float | None, text: str) -> None:
    async def main() -> None:
        bench = Bench()
        task = bench.call("a", "rep_1")
        assert task is not None
        if after_s is not None:
            await asyncio.sleep(after_s)
        task.cancel()
        await asyncio.wait({task})
        assert bench.ends == [("a", ToolResult("cancelled", text))]
        assert len(bench.executed) == (after_s is not None)

    run_virtual(main())


def test_a_session_that_takes_no_more_work_executes_nothing() -> None:
    async def main() -> None:
        bench = Bench()
        bench.closed = True
        assert bench.call("a", "rep_1") is None
        await asyncio.sleep(5)
        assert (bench.executed, bench.ends, bench.ledger._running) == ([], [], {})

    run_virtual(main())


def test_a_tool_that_cancels_itself_has_failed() -> None:
    async def main() -> None:
        async def odd(arguments: dict[str, Any], context: ToolContext) -> str:
            raise asyncio.CancelledError

        result = await run_tool({"odd": Tool("odd", "", odd)}, ToolCall("a", "odd", "{}"), CONTEXT, 1.0)
        assert result == ToolResult("failed", "odd failed with an internal error.")

    run_virtual(main())


@pytest.mark.parametrize(("own_ms", "limit_s"), [(None, 5.0), (300, 0.3), (9_000, 9.0)])
def test_a_tool_may_have_a_time_of_its_own(own_ms: int | None, limit_s: float) -> None:
    async def main() -> None:
        async def slow(arguments: dict[str, Any], context: ToolContext) -> str:
            await asyncio.sleep(1e6)
            return ""

        tool = Tool("slow", "", slow, side_effects=False, timeout_ms=own_ms)
        result = await run_tool({"slow": tool}, ToolCall("a", "slow", "{}"), CONTEXT, 5.0)
        assert asyncio.get_running_loop().time() == pytest.approx(limit_s)
        assert result == ToolResult("failed", f"slow did not answer within {limit_s:g} seconds.")

    run_virtual(main())


@pytest.mark.parametrize("fails", [False, True])
def test_a_result_is_cut_to_the_size_the_tool_allows(fails: bool) -> None:
    async def main() -> None:
        async def long(arguments: dict[str, Any], context: ToolContext) -> str:
            if fails:
                raise ToolError("é" * 50)
            return "é" * 50

        tool = Tool("long", "", long, max_result_chars=10)
        result = await run_tool({"long": tool}, ToolCall("a", "long", "{}"), CONTEXT, 5.0)
        assert result == ToolResult("failed" if fails else "ok", "é" * 10 + " [cut]")

    run_virtual(main())


class Limits(msgspec.Struct):
    most: int = 3


def test_a_tool_finds_its_settings_and_the_id_of_its_call() -> None:
    async def main() -> None:
        seen: list[tuple[str, Any]] = []

        async def look(arguments: dict[str, Any], context: ToolContext) -> str:
            seen.append((context.call_id, context.settings))
            return ""

        bare = Tool("look", "", look, settings=Limits)
        for number, tool in enumerate((bare, replace(bare, configured=Limits(9)))):
            await run_tool({"look": tool}, ToolCall(f"c{number}", "look", "{}"), CONTEXT, 5.0)
        assert seen == [("c0", Limits(3)), ("c1", Limits(9))]

    run_virtual(main())


def test_progress_is_told_at_once_and_then_the_newest_at_intervals_while_the_call_runs() -> None:
    async def main() -> None:
        told: list[tuple[float, str, float | None]] = []
        kept: list[ToolContext] = []

        async def work(arguments: dict[str, Any], context: ToolContext) -> str:
            kept.append(context)
            for step in range(95):
                context.progress(f"step {step}", step / 100)
                await asyncio.sleep(0.01)
            context.progress("never told: the call is over")
            return ""

        context = ToolContext("ses_1", told=lambda text, part: told.append((now(), text, part)))
        await run_tool({"work": Tool("work", "", work)}, ToolCall("a", "work", "{}"), context, 5.0)
        kept[0].progress("nor this")
        await asyncio.sleep(5)
        assert [(text, part) for _, text, part in told] == [
            ("step 0", 0.0),
            ("step 24", 0.24),
            ("step 49", 0.49),
            ("step 74", 0.74),
        ]
        assert [at for at, _, _ in told] == pytest.approx([0, 0.25, 0.5, 0.75])

    run_virtual(main())


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (("half", 0.5), ("half", 0.5)),
        ((0.25,), ("", 0.25)),
        (("more than all", 7), ("more than all", 1.0)),
        ((-1,), ("", 0.0)),
        ((float("nan"),), ("", None)),
        (("x" * 900,), ("x" * 200, None)),
        (("half \udce9",), ("half ?", None)),
        ((None,), ("", None)),
    ],
)
def test_whatever_a_tool_says_of_its_progress_is_made_presentable(said: Any, told: tuple[str, float | None]) -> None:
    async def main() -> None:
        heard: list[tuple[str, float | None]] = []
        progress = Progress(lambda text, part: heard.append((text, part)))
        ToolContext("ses_1", told=progress).progress(*said)
        progress.close()
        assert heard == [told]

    run_virtual(main())


def test_a_thread_may_tell_of_progress_as_often_as_it_likes() -> None:
    async def main() -> None:
        told: list[str] = []
        first = asyncio.Event()

        def hear(text: str, part: float | None) -> None:
            told.append(text)
            first.set()

        progress = Progress(hear)
        context = ToolContext("ses_1", told=progress)

        def chat() -> None:
            for step in range(10_000):
                context.progress(f"{step}")

        thread = threading.Thread(target=chat)
        thread.start()
        await first.wait()
        await asyncio.to_thread(thread.join)
        assert len(told) < 100
        progress.close()

    asyncio.run(main())


def test_a_call_that_joins_another_hears_of_its_progress() -> None:
    async def main() -> None:
        told: list[tuple[str, str]] = []

        async def book(arguments: dict[str, Any], context: ToolContext) -> str:
            await asyncio.sleep(1)
            context.progress("asking the cook")
            return ""

        def spawn(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
            return asyncio.create_task(work)

        ledger = Ledger({"book": Tool("book", "", book)}, CONTEXT, 5.0, spawn)
        for call_id, reply_id in (("a", "rep_1"), ("b", "rep_2")):

            def hear(text: str, part: float | None, call_id: str = call_id) -> None:
                told.append((call_id, text))

            ledger.execute(ToolCall(call_id, "book", "{}"), reply_id, lambda result: None, hear)
        await asyncio.sleep(2)
        assert told == [("a", "asking the cook"), ("b", "asking the cook")]

    run_virtual(main())


def now() -> float:
    return asyncio.get_running_loop().time()
