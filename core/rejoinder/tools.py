"""Runs tool calls: decodes arguments, keeps time and size limits, and turns every ending into a text for the model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec

from rejoinder.errors import ToolError
from rejoinder.events import encodable
from rejoinder.providers import Tool, ToolCall, ToolContext

log = logging.getLogger(__name__)
_MAX_RESULT = 8_000

Spawn = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]
"""`spawn(work, name)` runs work that outlives its reply."""


class ToolResult(NamedTuple):
    """How a call ended and what the model is told."""

    status: Literal["ok", "failed", "cancelled"]
    text: str


CUT_OFF = ToolResult("cancelled", "Cancelled when the reply was cut off; it gave no result.")
"""A call without side effects whose reply was stopped."""
_BROKEN_OFF = ToolResult("cancelled", "Cancelled when the session ended; it may or may not have taken effect.")
_NEVER_BEGUN = ToolResult("cancelled", "Cancelled when the session ended, before it was executed.")


async def run_tool(tools: Mapping[str, Tool], call: ToolCall, context: ToolContext, timeout_s: float) -> ToolResult:
    """Run `call`; never raises but for its own cancellation. Results are cut at 8000 characters."""
    tool = tools.get(call.name)
    if tool is None:
        return ToolResult("failed", f"There is no tool {call.name!r}. Tools: {', '.join(sorted(tools)) or 'none'}.")
    try:
        arguments = _arguments(call)
        async with asyncio.timeout(timeout_s):
            text = await tool.run(arguments, context)
        if not isinstance(text, str):
            raise TypeError(f"a tool must return text, this one returned {type(text).__name__}")
    except ToolError as error:
        return ToolResult("failed", error.message)
    except TimeoutError:
        return ToolResult("failed", f"{call.name} did not answer within {timeout_s:g} seconds.")
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        log.exception("the tool %s cancelled itself", call.name)
        return ToolResult("failed", f"{call.name} failed with an internal error.")
    except Exception:
        log.exception("the tool %s failed", call.name)
        return ToolResult("failed", f"{call.name} failed with an internal error.")
    text = encodable(text)
    return ToolResult("ok", text if len(text) <= _MAX_RESULT else text[:_MAX_RESULT] + " [cut]")


@dataclass(slots=True, eq=False)
class _Running:
    """A call that is being executed, and whom to tell of its end."""

    reply_id: str
    ended: list[Callable[[ToolResult], None]]
    task: asyncio.Task[None] = field(init=False)
    result: ToolResult = _NEVER_BEGUN


class Ledger:
    """A session's calls of tools with side effects: each is executed at most once, and runs on without its reply.

    A call with the same tool and arguments as one that is still running for an earlier reply is not executed: it joins
    that one and gets its result. (The model, cut off before it had the result, tries again what is already under way.)
    Two such calls in one answer of the model are two wishes and run both.
    """

    def __init__(self, tools: Mapping[str, Tool], context: ToolContext, timeout_s: float, spawn: Spawn) -> None:
        self._tools = tools
        self._context = context
        self._timeout_s = timeout_s
        self._spawn = spawn
        self._running: dict[tuple[str, bytes], list[_Running]] = {}

    def execute(self, call: ToolCall, reply_id: str, ended: Callable[[ToolResult], None]) -> asyncio.Task[None] | None:
        """Start `call`, or join the one that runs; `ended(result)` is called once, whatever becomes of the reply.

        Returns the task that executes it (do not cancel it), or None if the session takes no more work: then nothing
        was executed and `ended` is not called.
        """
        key = (call.name, _canonical(call.arguments))
        for running in self._running.get(key, ()):
            if running.reply_id != reply_id:
                running.ended.append(ended)
                return running.task
        running = _Running(reply_id, [ended])
        work = self._work(call, running)
        try:
            running.task = self._spawn(work, f"tool {call.name}")
        except RuntimeError:  # the session's task group is closed
            work.close()
            return None
        self._running.setdefault(key, []).append(running)
        # Not at the end of the work itself: a task that is cancelled before its first step never gets there.
        running.task.add_done_callback(lambda _: self._end(key, running))
        return running.task

    async def _work(self, call: ToolCall, running: _Running) -> None:
        running.result = _BROKEN_OFF
        running.result = await run_tool(self._tools, call, self._context, self._timeout_s)

    def _end(self, key: tuple[str, bytes], running: _Running) -> None:
        self._running[key].remove(running)
        if not self._running[key]:
            del self._running[key]
        for ended in running.ended:
            ended(running.result)


def _canonical(arguments: str) -> bytes:
    """The same for arguments that mean the same."""
    try:
        return msgspec.json.encode(msgspec.json.decode(arguments or "{}"), order="sorted")
    except (msgspec.DecodeError, UnicodeEncodeError):
        return arguments.encode(errors="replace")


def _arguments(call: ToolCall) -> dict[str, Any]:
    try:
        return msgspec.json.decode(call.arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ToolError(f"The arguments of {call.name} must be one JSON object ({error}).") from None
