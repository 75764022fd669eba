"""Thinks: history goes to the LLM, its text streams out, its tool calls are run and fed back, for a few rounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from rejoinder.clock import Clock, SystemClock
from rejoinder.events import ServerEvent, ToolCalled, ToolProgress, ToolReturned
from rejoinder.hooks import SessionHooks
from rejoinder.journal import NOT_STARTED, Entry, Journal, Sent, ToolRound
from rejoinder.providers import LlmRequest, Tool, ToolCall, ToolContext
from rejoinder.settings import Agent
from rejoinder.stages.chain import LlmChain
from rejoinder.tools import CUT_OFF, Ledger, Spawn, Told, ToolResult, run_tool

_SENTENCE_ENDS = tuple(".!?…。！？")
_CLOSING = "\"'”’)]"
_NEXT_FILLER = 3
"""Each filler comes this many times as late as the one before it."""
MAX_CALLS = 16
"""Of the calls in one answer so many are run."""
TOO_MANY = ToolResult("failed", f"Not executed: at most {MAX_CALLS} calls are run at once. Call again.")
"""What the model is told of the others."""

Tell = Callable[[ServerEvent], None]
Committed = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class Brain:
    """What an agent thinks with; shared by all replies of a session."""

    agent: Agent
    llm: LlmChain
    tools: Mapping[str, Tool]
    journal: Journal
    context: ToolContext
    spawn: Spawn
    """`spawn(work, name)` runs work that outlives its reply; the session waits for it at its end, or cancels it."""
    record: Tell
    """Publishes what happened, also after the reply is over."""
    hooks: SessionHooks
    clock: Clock = field(default_factory=SystemClock)
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.tools, self.context, self.agent.tool_timeout_ms / 1000, self.spawn)

    async def prefill(self, user_text: str) -> None:
        """Let the LLM read the prompt that a reply to `user_text` will have; that may still grow."""
        if self.hooks.changes_prompts:
            # What it would read is not what it will be sent, and maybe not for its eyes.
            return
        entry = self.journal.propose("", "", user_text)
        messages = self.journal.messages(self.agent.instructions, self.agent.history_messages, entry)
        schemas = tuple(tool.schema() for tool in self.tools.values()) if self.agent.max_tool_rounds else ()
        await self.llm.prefill(LlmRequest(messages, schemas, self.agent.max_tokens, self.agent.temperature))

    async def think(self, entry: Entry, committed: Committed, tell: Tell) -> AsyncGenerator[str, None]:
        """The text of the reply to `entry`, piece by piece; whoever reads it adds it to `entry.text` at once.

        A tool with side effects waits for `committed()`, and then runs to its end whatever becomes of the reply. Its
        result goes into the journal. The others end with the reply. While tools are slow, a committed reply that said
        nothing before them says the agent's fillers.

        `tell` gets the `ToolCalled` and `ToolReturned` of a reply that is not committed yet, `record` all others.

        Raises (while iterating):
            ProviderError: the LLM failed.
        """
        entry.thinking = True
        schemas = tuple(tool.schema() for tool in self.tools.values())
        fillers = iter(self.agent.fillers)
        for rounds_left in range(self.agent.max_tool_rounds, -1, -1):
            # Of calls that end from here on the model does not know.
            known = self.ledger.ended
            request = LlmRequest(
                self.journal.messages(self.agent.instructions, self.agent.history_messages, entry),
                # In the last round the model gets no tools, so it has to answer.
                schemas if rounds_left else (),
                self.agent.max_tokens,
                self.agent.temperature,
            )
            calls: list[ToolCall] = []
            before = len(entry.text)
            request = await self.hooks.before_llm(request)
            sent = Sent(request, self.clock.wall_ms())
            if entry.state != "finished":
                entry.sent.append(sent)
            async with aclosing(self.llm.stream(request)) as deltas:
                async for delta in deltas:
                    sent.provider = sent.provider or self.llm.used
                    if isinstance(delta, ToolCall):
                        calls.append(delta)
                    elif delta:
                        yield delta
            if not calls or not rounds_left:
                # What a model calls without having been given tools is not run.
                break
            if entry.state == "finished" or _cancelled():
                # A provider swallowed the cancellation of this reply: nobody wants these calls any more.
                return
            said = entry.text[before:]
            if said and not said[-1].isspace():
                yield _pause_after(said)
            async with aclosing(self._run(calls, said, entry, committed, tell, fillers, known)) as spoken:
                async for filler in spoken:
                    yield filler
        entry.thinking = False

    async def _run(
        self,
        calls: list[ToolCall],
        said: str,
        entry: Entry,
        committed: Committed,
        tell: Tell,
        fillers: Iterator[str],
        known: int,
    ) -> AsyncGenerator[str, None]:
        """Run `calls` side by side until all have ended; what is said meanwhile. `known` is for the ledger."""
        tool_round = self.journal.call(entry, calls, said)

        def report(event: ServerEvent) -> None:
            # What happens while the turn is undecided may still have to leave no trace.
            (tell if entry.state == "proposed" else self.record)(event)

        def end(call: ToolCall, result: ToolResult) -> None:
            tool_round.results[call.id] = result.text
            report(
                ToolReturned(
                    reply_id=entry.reply_id,
                    call_id=call.id,
                    name=call.name,
                    status=result.status,
                    result=result.text,
                )
            )

        def told(call: ToolCall) -> Told:
            return lambda message, fraction: report(
                ToolProgress(reply_id=entry.reply_id, call_id=call.id, message=message, fraction=fraction)
            )

        for call in tool_round.calls:
            report(ToolCalled(reply_id=entry.reply_id, call_id=call.id, name=call.name, arguments=call.arguments))
        for call in tool_round.calls[MAX_CALLS:]:
            tool_round.started.add(call.id)
            end(call, TOO_MANY)
        work = {
            asyncio.create_task(
                self._call(call, tool_round, entry, committed, end, told(call), known), name=f"call of {call.name}"
            )
            for call in tool_round.calls[:MAX_CALLS]
        }
        try:
            if not said.strip():
                async with aclosing(self._cover(work, tool_round, committed, fillers)) as spoken:
                    async for filler in spoken:
                        yield filler
            await asyncio.wait(work)
        finally:
            for task in work:
                task.cancel()
            try:
                await asyncio.wait(work)
            finally:
                for call in tool_round.calls:
                    if call.id not in tool_round.started:
                        end(call, ToolResult("cancelled", NOT_STARTED))
        for task in work:
            task.result()

    async def _call(
        self,
        call: ToolCall,
        tool_round: ToolRound,
        entry: Entry,
        committed: Committed,
        end: Callable[[ToolCall, ToolResult], None],
        told: Told,
        known: int,
    ) -> None:
        tool = self.tools.get(call.name)
        if tool is None or not tool.side_effects:
            tool_round.started.add(call.id)
            result = CUT_OFF
            try:
                context = replace(self.context, told=told)
                result = await run_tool(self.tools, call, context, self.agent.tool_timeout_ms / 1000)
            finally:
                end(call, result)
            return
        await committed()
        executing = self.ledger.execute(call, entry.reply_id, lambda result: end(call, result), told, known)
        if executing is not None:
            tool_round.started.add(call.id)
            # Not awaited itself: to be cancelled with the reply must not cancel it.
            await asyncio.wait({executing})

    async def _cover(
        self, work: set[asyncio.Task[None]], tool_round: ToolRound, committed: Committed, fillers: Iterator[str]
    ) -> AsyncGenerator[str, None]:
        """The fillers for `work`: each once it has lasted so long, from the commit on, and is not done."""
        after_ms = self.agent.filler_after_ms
        if after_ms is None:
            return
        await _first_of(committed, work)
        waited_ms, due_ms = 0, after_ms
        while True:
            _, pending = await asyncio.wait(work, timeout=(due_ms - waited_ms) / 1000)
            if not pending or not (filler := next(fillers, "").strip()):
                return
            tool_round.said += filler + " "
            yield filler + _pause_after(filler)
            waited_ms, due_ms = due_ms, due_ms * _NEXT_FILLER


async def _first_of(committed: Committed, work: set[asyncio.Task[None]]) -> None:
    """Until the reply is committed or all of `work` is done."""

    async def wait() -> None:
        await committed()

    opened = asyncio.create_task(wait(), name="commit")
    pending = work
    try:
        while pending and not opened.done():
            _, pending = await asyncio.wait({opened, *pending}, return_when=asyncio.FIRST_COMPLETED)
            pending = pending - {opened}
    finally:
        opened.cancel()
        await asyncio.wait({opened})


def _cancelled() -> bool:
    """Whether the current task was to stop, and somebody swallowed that."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _pause_after(text: str) -> str:
    """What lets `text` be spoken at once: behind a sentence a space, behind anything else a new line."""
    return " " if text.rstrip(_CLOSING).endswith(_SENTENCE_ENDS) else "\n"
