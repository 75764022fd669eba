"""Runs tool calls: decodes arguments, keeps time and size limits, and turns every ending into a text for the model."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import msgspec

from rejoinder.errors import ToolError
from rejoinder.events import encodable
from rejoinder.providers import Tool, ToolCall, ToolContext

log = logging.getLogger(__name__)
_REMEMBERED = 64
"""Ended calls of which the ledger knows how they ended."""
PROGRESS_S = 0.25
"""Of one call, progress is told at most this often."""
_MAX_PROGRESS = 200

Spawn = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]
"""`spawn(work, name)` runs work that outlives its reply."""
Told = Callable[[str, float | None], None]
"""Told the message and the fraction (0 to 1, None: unknown) of a call's progress."""


class ToolResult(NamedTuple):
    """How a call ended and what the model is told."""

    status: Literal["ok", "failed", "cancelled"]
    text: str


CUT_OFF = ToolResult("cancelled", "Cancelled when the reply was cut off; it gave no result.")
"""A call without side effects whose reply was stopped."""
_UNSURE = "it may or may not have taken effect."
_BROKEN_OFF = ToolResult("cancelled", f"Cancelled when the session ended; {_UNSURE}")
_NEVER_BEGUN = ToolResult("cancelled", "Cancelled when the session ended, before it was executed.")
_TWICE = " (The same call was made twice at once; it was executed once.)"


async def run_tool(tools: Mapping[str, Tool], call: ToolCall, context: ToolContext, timeout_s: float) -> ToolResult:
    """Run `call`; never raises but for its own cancellation.

    It may take the tool's own time, else `timeout_s`. Its progress goes to `context.told` while it runs.
    """
    tool = tools.get(call.name)
    if tool is None:
        return ToolResult("failed", f"There is no tool {call.name!r}. Tools: {', '.join(sorted(tools)) or 'none'}.")
    limit_s = timeout_s if tool.timeout_ms is None else tool.timeout_ms / 1000
    progress = Progress(context.told)
    try:
        arguments = _arguments(call)
        settings = tool.settings() if tool.configured is None else tool.configured
        async with asyncio.timeout(limit_s):
            text = await tool.run(arguments, replace(context, call_id=call.id, settings=settings, told=progress))
        if not isinstance(text, str):
            raise TypeError(f"a tool must return text, this one returned {type(text).__name__}")
    except ToolError as error:
        return ToolResult("failed", encodable(_cut(error.message, tool)))
    except TimeoutError:
        unsure = f"; {_UNSURE}" if tool.side_effects else "."
        return ToolResult("failed", f"{call.name} did not answer within {limit_s:g} seconds{unsure}")
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        log.exception("the tool %s cancelled itself", call.name)
        return ToolResult("failed", f"{call.name} failed with an internal error.")
    except (Exception, SystemExit):
        log.exception("the tool %s failed", call.name)
        return ToolResult("failed", f"{call.name} failed with an internal error.")
    finally:
        progress.close()
    return ToolResult("ok", encodable(_cut(text, tool)))


def _cut(text: str, tool: Tool) -> str:
    return text if len(text) <= tool.max_result_chars else text[: tool.max_result_chars] + " [cut]"


class Progress:
    """Tells how far a call is, from any thread: the first at once, then the newest each `PROGRESS_S`, till `close()`.

    Make it on the event loop. A chatty tool costs one callback each `PROGRESS_S`, however much it says.
    """

    def __init__(self, told: Told) -> None:
        self._told = told
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._newest: tuple[str, float | None] | None = None
        self._asked = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __call__(self, message: str, fraction: float | None) -> None:
        """Take the newest; never raises."""
        self._newest = (encodable(str(message)[:_MAX_PROGRESS]), _fraction(fraction))
        if threading.get_ident() == self._thread:
            self._flush()
        elif not self._asked:
            self._asked = True
            try:
                self._loop.call_soon_threadsafe(self._flush)
            except RuntimeError:
                pass  # the loop is closed, and nobody listens any more

    def close(self) -> None:
        """Tell nothing more; idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _flush(self) -> None:
        if self._closed or self._timer is not None:
            return
        # Before the newest is read: a thread that brings a newer one meanwhile asks again.
        self._asked = False
        newest, self._newest = self._newest, None
        if newest is None:
            return
        self._timer = self._loop.call_later(PROGRESS_S, self._due)
        try:
            self._told(*newest)
        except Exception:
            log.exception("progress could not be told")

    def _due(self) -> None:
        self._timer = None
        self._flush()


def _fraction(value: object) -> float | None:
    if not isinstance(value, int | float) or value != value:  # NaN is not itself
        return None
    return min(1.0, max(0.0, float(value)))


@dataclass(slots=True, eq=False)
class _Running:
    """A call that is being executed or has ended, and whom to tell of its progress and its end."""

    key: tuple[str, bytes]
    reply_id: str
    ended: list[Callable[[ToolResult], None]]
    told: list[Told]
    task: asyncio.Task[None] = field(init=False)
    result: ToolResult = _NEVER_BEGUN
    number: int = 0

    def progress(self, message: str, fraction: float | None) -> None:
        for told in self.told:
            told(message, fraction)

    def result_for(self, reply_id: str) -> ToolResult:
        """The result, as one more call in the answer `reply_id` is told."""
        if reply_id != self.reply_id:
            return self.result
        return ToolResult(self.result.status, self.result.text + _TWICE)


class Ledger:
    """A session's calls of tools with side effects: each is executed at most once, and runs on without its reply.

    A call with the same tool and arguments as one that is still running is not executed: it joins that one and gets its
    result. So does one that was made before the model could know how the other ended. (The model, cut off before it
    had the result, tries again what is already under way; or it makes the same call twice in one answer, which is a
    slip far more often than a wish. If it was one, it sees what happened and may call again.)
    """

    def __init__(self, tools: Mapping[str, Tool], context: ToolContext, timeout_s: float, spawn: Spawn) -> None:
        self._tools = tools
        self._context = context
        self._timeout_s = timeout_s
        self._spawn = spawn
        self._running: dict[tuple[str, bytes], _Running] = {}
        self._past: deque[_Running] = deque(maxlen=_REMEMBERED)
        self.ended = 0
        """How many calls have ended. What the model is told when it is asked tells of these; see `execute`."""

    def execute(
        self,
        call: ToolCall,
        reply_id: str,
        ended: Callable[[ToolResult], None],
        told: Told | None = None,
        known: int | None = None,
    ) -> asyncio.Task[None] | None:
        """Start `call`, or join the same one; `ended(result)` is called once, whatever becomes of the reply.

        `known` is what `self.ended` was when the model was asked (None: now); `told` is told of progress.

        Returns the task that executes it (do not cancel it), or None if the session takes no more work: then nothing
        was executed and `ended` is not called.
        """
        key = (call.name, _canonical(call.arguments))
        if other := self._running.get(key):
            other.ended.append(lambda _: ended(other.result_for(reply_id)))
            if told is not None:
                other.told.append(told)
            return other.task
        for past in reversed(self._past):
            if known is None or past.number <= known:
                break
            if past.key == key:
                ended(past.result_for(reply_id))
                return past.task
        running = _Running(key, reply_id, [ended], [told] if told is not None else [])
        work = self._work(call, running)
        try:
            running.task = self._spawn(work, f"tool {call.name}")
        except RuntimeError:  # the session's task group is closed
            work.close()
            return None
        self._running[key] = running
        # Not at the end of the work itself: a task that is cancelled before its first step never gets there.
        running.task.add_done_callback(lambda _: self._end(running))
        return running.task

    async def _work(self, call: ToolCall, running: _Running) -> None:
        running.result = _BROKEN_OFF
        context = replace(self._context, told=running.progress)
        running.result = await run_tool(self._tools, call, context, self._timeout_s)

    def _end(self, running: _Running) -> None:
        del self._running[running.key]
        self.ended += 1
        running.number = self.ended
        self._past.append(running)
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
