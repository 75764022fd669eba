"""One answer to a chat: the agent's LLM chain, its tools in rounds, stop sequences, limits and the count of tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

from rejoinder.hooks import SessionHooks
from rejoinder.ids import new_id
from rejoinder.providers import LlmDelta, LlmRequest, Message, Tool, ToolCall, ToolContext, ToolSchema
from rejoinder.settings import Agent
from rejoinder.stages.brain import MAX_CALLS, TOO_MANY
from rejoinder.stages.chain import LlmChain
from rejoinder.tools import ToolResult, run_tool

FinishReason = Literal["stop", "length", "tool_calls"]
_BYTES_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 4


def estimate_tokens(text: str) -> int:
    """Tokens of `text`: one for every four bytes of UTF-8, rounded up. Providers do not tell the true number."""
    return _tokens(_size(text))


def _size(text: str) -> int:
    return len(text.encode(errors="replace"))


def _tokens(size: int) -> int:
    return -(-size // _BYTES_PER_TOKEN)


def prompt_tokens(messages: Iterable[Message]) -> int:
    """Tokens of a prompt: as `estimate_tokens`, and four for each message."""
    return sum(
        _TOKENS_PER_MESSAGE
        + estimate_tokens(message.content)
        + sum(estimate_tokens(call.name + call.arguments) for call in message.tool_calls)
        for message in messages
    )


class StopSequences:
    """Cuts a stream of text before the first of `stops`; holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.met = False

    def feed(self, text: str) -> str:
        """What of the text so far can be passed on."""
        if not self._stops:
            return text
        self._held += text
        at = min((at for stop in self._stops if (at := self._held.find(stop)) >= 0), default=-1)
        if at >= 0:
            self.met = True
            passed, self._held = self._held[:at], ""
            return passed
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        end = len(self._held) - keep
        passed, self._held = self._held[:end], self._held[end:]
        return passed

    def finish(self) -> str:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that begin `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


@dataclass(slots=True)
class Answer:
    """An answer that is being made; `finish_reason` and the counts hold once `pieces` has ended.

    `tools` are the agent's, run here; `client_tools` are the client's, whose calls are passed on. `adopt(task)` takes a
    call with side effects that goes on without us.
    """

    llm: LlmChain
    agent: Agent
    messages: list[Message]
    tools: Mapping[str, Tool]
    client_tools: tuple[ToolSchema, ...]
    stops: Sequence[str]
    max_tokens: int
    temperature: float
    adopt: Callable[[asyncio.Task[Any]], None]
    hooks: SessionHooks
    finish_reason: FinishReason = "stop"
    prompt_tokens: int = 0
    _bytes: int = 0
    _context: ToolContext = field(default_factory=lambda: ToolContext(session_id=new_id("chat")))

    def usage(self) -> dict[str, int]:
        """The tokens, estimated."""
        prompt, completion = self.prompt_tokens, _tokens(self._bytes)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    async def pieces(self) -> AsyncGenerator[LlmDelta, None]:
        """The text, piece by piece, and the calls of the client's tools. Closing it stops the model at once.

        An empty text comes when the model begins with a call of one of the agent's tools: it has answered, and the
        text is still to come.

        Raises (while iterating):
            ProviderError: the LLM failed.
        """
        self.prompt_tokens = prompt_tokens(self.messages)
        stops = StopSequences(self.stops)
        offered = self.client_tools or tuple(tool.schema() for tool in self.tools.values())
        rounds = 0 if self.client_tools or not self.tools else self.agent.max_tool_rounds
        left = self.max_tokens
        for round_number in range(rounds + 1):
            # In the last round the agent's tools are kept back, so the model has to answer.
            schemas = self.client_tools or (offered if round_number < rounds else ())
            request = LlmRequest(tuple(self.messages), schemas, left, self.temperature)
            calls: list[ToolCall] = []
            texts: list[str] = []
            request = await self.hooks.before_llm(request)
            async with aclosing(self.llm.stream(request)) as deltas:
                async for delta in deltas:
                    # What a provider streams at once is a token at least, so this is never too early.
                    left -= 1
                    if isinstance(delta, ToolCall):
                        calls.append(delta)
                        yield self._counted(delta) if self.client_tools else ""
                        continue
                    texts.append(delta)
                    if text := stops.feed(delta):
                        yield self._counted(text)
                    if stops.met:
                        return
                    if left <= 0:
                        break
            if self.client_tools and calls:
                self.finish_reason = "tool_calls"
            elif left <= 0:
                self.finish_reason = "length"
            if self.client_tools or not calls or not schemas or left <= 0:
                break
            said = "".join(texts)
            if said and not said[-1].isspace():
                yield self._counted(stops.feed(" "))
            self.messages.append(Message("assistant", said, tuple(calls)))
            for call, result in zip(calls, await self._run(calls), strict=True):
                self.messages.append(Message("tool", result.text, tool_call_id=call.id))
        if text := stops.finish():
            yield self._counted(text)

    def _counted(self, delta: LlmDelta) -> LlmDelta:
        self._bytes += _size(delta if isinstance(delta, str) else delta.name + delta.arguments)
        return delta

    async def _run(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Run the first `calls` side by side. If we are cancelled, those with side effects go on to their end."""
        calls, left = calls[:MAX_CALLS], calls[MAX_CALLS:]
        timeout_s = self.agent.tool_timeout_ms / 1000
        tasks = [
            asyncio.create_task(run_tool(self.tools, call, self._context, timeout_s), name=f"tool {call.name}")
            for call in calls
        ]
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            for call, task in zip(calls, tasks, strict=True):
                tool = self.tools.get(call.name)
                if tool is not None and tool.side_effects:
                    self.adopt(task)
                else:
                    task.cancel()
            raise
        return [*(task.result() for task in tasks), *(TOO_MANY for _ in left)]
