"""The ledger of tool calls with side effects: each at most once, on without its reply, and always with an end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from rejoinder.providers import Tool, ToolCall, ToolContext
from rejoinder.testing.virtual_time import run_virtual
from rejoinder.tools import Ledger, ToolResult, run_tool

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

    def call(self, call_id: str, reply_id: str, arguments: str = "{}") -> asyncio.Task[None] | None:
        call = ToolCall(call_id, "book", arguments)
        return self.ledger.execute(call, reply_id, lambda result: self.ends.append((call_id, result)))


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


def test_two_alike_in_one_reply_are_two_wishes_and_a_third_for_another_is_none() -> None:
    async def main() -> None:
        bench = Bench()
        bench.call("a", "rep_1")
        bench.call("b", "rep_1")
        await asyncio.sleep(0.5)
        bench.call("c", "rep_2")
        await asyncio.sleep(2)
        assert len(bench.executed) == 2
        assert sorted(call_id for call_id, _ in bench.ends) == ["a", "b", "c"]

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
        bench = Bench(delay_s=1e6, timeout_s=2)
        task = bench.call("a", "rep_1")
        assert task is not None
        await task
        await asyncio.sleep(0)
        assert asyncio.get_running_loop().time() == pytest.approx(2)
        assert bench.ends == [("a", ToolResult("failed", "book did not answer within 2 seconds."))]

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
