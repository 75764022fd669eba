"""Thinks: history goes to the LLM, its text streams out, its tool calls are run and fed back, for a few rounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from rejoinder.events import ServerEvent, ToolCalled, ToolReturned
from rejoinder.ids import new_id
from rejoinder.journal import Entry, Journal, ToolRound
from rejoinder.providers import LlmRequest, Tool, ToolCall, ToolContext
from rejoinder.settings import Agent
from rejoinder.stages.chain import LlmChain
from rejoinder.tools import run_tool


@dataclass(frozen=True, slots=True)
class Brain:
    """What an agent thinks with; shared by all replies of a session."""

    agent: Agent
    llm: LlmChain
    tools: Mapping[str, Tool]
    journal: Journal
    context: ToolContext
    spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
    """`spawn(work, name)` runs work that outlives its reply; the session waits for it at its end, or cancels it."""

    async def think(
        self, entry: Entry, committed: Callable[[], Awaitable[object]], tell: Callable[[ServerEvent], None]
    ) -> AsyncGenerator[str, None]:
        """The text of the reply to `entry`, piece by piece.

        A tool with side effects waits for `committed()`. `tell` gets `ToolCalled` and `ToolReturned`.

        Raises (while iterating):
            ProviderError: the LLM failed.
        """
        schemas = tuple(tool.schema() for tool in self.tools.values())
        for round_number in range(self.agent.max_tool_rounds + 1):
            request = LlmRequest(
                self.journal.messages(self.agent.instructions, self.agent.history_messages, entry),
                # In the last round the model gets no tools, so it has to answer.
                schemas if round_number < self.agent.max_tool_rounds else (),
                self.agent.max_tokens,
                self.agent.temperature,
            )
            calls: list[ToolCall] = []
            before = len(entry.text)
            async with aclosing(self.llm.stream(request)) as deltas:
                async for delta in deltas:
                    if isinstance(delta, ToolCall):
                        calls.append(delta)
                    elif delta:
                        yield delta
            if not calls:
                return
            said = entry.text[before:]
            if said and not said[-1].isspace():
                yield " "
            await self._run(calls, said, entry, committed, tell)

    async def _run(
        self,
        calls: list[ToolCall],
        said: str,
        entry: Entry,
        committed: Callable[[], Awaitable[object]],
        tell: Callable[[ServerEvent], None],
    ) -> None:
        # Some servers count calls from 0 in every answer; within a reply an id must name one call.
        used = {call.id for tool_round in entry.rounds for call in tool_round.calls}
        calls = [replace(call, id=new_id("call")) if call.id in used else call for call in calls]
        tool_round = ToolRound(tuple(calls), said)
        entry.rounds.append(tool_round)

        async def run(call: ToolCall) -> None:
            tool = self.tools.get(call.name)
            if tool is None or tool.side_effects:
                await committed()
            tell(ToolCalled(reply_id=entry.reply_id, call_id=call.id, name=call.name, arguments=call.arguments))
            returned = ToolReturned(
                reply_id=entry.reply_id, call_id=call.id, name=call.name, status="cancelled", result=""
            )
            try:
                result = await run_tool(self.tools, call, self.context, self.agent.tool_timeout_ms / 1000)
                tool_round.results[call.id] = returned.result = result.text
                returned.status = result.status
            finally:
                tell(returned)

        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(run(call))
