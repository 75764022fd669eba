"""The rules for LLM providers: pieces of text and whole tool calls, as they are generated, and silence once closed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from rejoinder.errors import RejoinderError
from rejoinder.providers import LlmRequest, Message, ToolCall, ToolSchema
from rejoinder.testing.conformance.measure import raised_at, timed_ms
from rejoinder.testing.conformance.provider import USE_S, Asynchronous, Bad, check_streaming, closed_ms
from rejoinder.testing.conformance.rules import NotChecked, Seen, Violation, bounded, rule

SYSTEM = Message("system", "You are a helpful voice assistant. Answer in one or two short spoken sentences.")
QUESTIONS = (
    "What is the capital of France?",
    "How many days are there in a week?",
    "Say hello to Martha.",
    "What color is the sky?",
    "Name a fruit.",
    "What is two plus two?",
    "Who wrote Hamlet?",
    "What can you do for me?",
)
STORY = "Tell me a long story about a dog that travels around the world, with many details."
TOOL = ToolSchema(
    "get_weather",
    "Tells the weather of a city.",
    {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "For example: Paris"}},
        "required": ["city"],
    },
)


class LlmConformance(Asynchronous):
    """What an LLM provider must do; see `rejoinder.providers.LlmProvider`."""

    kind = "llm"
    first_output_ms = 5000.0
    max_tokens = 60
    """Of the answers that are asked for; 200 for a long one."""
    wish = "What is the weather in Paris? Use the tool."
    """What makes the model call the tool `get_weather`."""

    def request(self, text: str, **other: Any) -> LlmRequest:
        """A request that asks `text`."""
        given = {"max_tokens": self.max_tokens, "temperature": 0.0, **other}
        return LlmRequest((SYSTEM, Message("user", text)), **given)

    async def use(self, provider: Any, number: int = 0) -> list[Any]:
        """Ask a question; returns the deltas."""
        return await answer(provider, self.request(QUESTIONS[number % len(QUESTIONS)]))

    def differs(self, alone: Any, together: Any) -> str:
        """Models may say it differently; they must say something."""
        return "" if together or not alone else "an answer alone, none together with others"

    async def first_output(self, provider: Any) -> float:
        """Until the first delta."""
        began = time.perf_counter()
        async with aclosing(provider.stream(self.request(QUESTIONS[0]))) as deltas:
            async for _ in deltas:
                break
        return timed_ms(began)

    async def cut_stream(self, provider: Any) -> float:
        """Close a long answer after its first delta."""
        stream = provider.stream(self.request(STORY, max_tokens=200))
        async for _ in stream:
            break
        return await closed_ms(stream)

    async def open_use(self, provider: Any) -> object:
        """A long answer."""
        return await answer(provider, self.request(STORY, max_tokens=200))

    def bad_inputs(self) -> Sequence[Bad]:
        """Conversations that are none, or that nobody expects."""
        user = Message("user", "Hello")
        call = ToolCall("call_1", "get_weather", '{"city": "Paris"}')
        requests = {
            "no messages": LlmRequest(()),
            "a system message alone": LlmRequest((SYSTEM,)),
            "an empty message": LlmRequest((SYSTEM, Message("user", ""))),
            "a lone surrogate": LlmRequest((SYSTEM, Message("user", "Hello \ud800"))),
            "control characters": LlmRequest((SYSTEM, Message("user", "\x00\x07<|im_end|>"))),
            "two user messages in a row": LlmRequest((SYSTEM, user, user)),
            "an answer as the last message": LlmRequest((SYSTEM, user, Message("assistant", "Hello."))),
            "the result of a call nobody made": LlmRequest((SYSTEM, user, Message("tool", "x", tool_call_id="call_9"))),
            "a call without a result": LlmRequest((SYSTEM, user, Message("assistant", "", (call,)), user), (TOOL,)),
            "arguments that are no JSON": LlmRequest(
                (
                    SYSTEM,
                    user,
                    Message("assistant", "", (ToolCall("call_1", "get_weather", "{oops"),)),
                    Message("tool", "failed", tool_call_id="call_1"),
                ),
                (TOOL,),
            ),
        }

        def give(request: LlmRequest) -> Any:
            short = LlmRequest(request.messages, request.tools, max_tokens=16)
            return lambda provider: answer(provider, short)

        return [(what, give(request)) for what, request in requests.items()]

    @rule
    async def test_deltas(self) -> Seen:
        """The answer is non-empty pieces of text and whole tool calls, and it ends."""
        async with self.ready() as provider:
            deltas = await bounded(answer(provider, self.request(QUESTIONS[0])), USE_S, "The answer")
        if not deltas:
            raise Violation(
                f"{QUESTIONS[0]!r} gets no answer", "yield its text; raise ProviderError if the model gave none"
            )
        for delta in deltas:
            if isinstance(delta, str) and not delta:
                raise Violation("a piece of text is empty", "leave out empty pieces (`if text: yield text`)")
            if not isinstance(delta, str | ToolCall):
                raise Violation(
                    f"`stream` yields {type(delta).__name__}",
                    "yield `str` for text and `rejoinder.providers.ToolCall` for tool calls",
                )
        return Seen(f"{len(deltas)} pieces")

    @rule
    async def test_streaming(self) -> Seen:
        """It streams where it says so: a long answer comes in several pieces, the first well before the last."""
        _, offer = self.offer()
        async with self.ready() as provider:
            began = time.perf_counter()
            first_ms, count = 0.0, 0
            async with aclosing(provider.stream(self.request(STORY, max_tokens=200))) as deltas:
                async for _ in deltas:
                    first_ms = first_ms or timed_ms(began)
                    count += 1
            whole_ms = timed_ms(began)
        check_streaming(offer, count, "answer")
        return Seen(f"{count} pieces, the first after {first_ms:.0f} of {whole_ms:.0f} ms", first_output_ms=first_ms)

    @rule
    async def test_tool_calls(self) -> Seen:
        """Tool calls are whole: an id, the name of a tool that was offered, and arguments that are a JSON object."""
        async with self.ready() as provider:
            request = self.request(self.wish, tools=(TOOL,), max_tokens=200)
            try:
                deltas = await bounded(answer(provider, request), USE_S, "The answer")
            except RejoinderError as error:
                raise Violation(
                    f"a request with a tool gives {error.explain()}",
                    "ignore `request.tools` if the model knows no tools",
                ) from None
        calls = [delta for delta in deltas if isinstance(delta, ToolCall)]
        ids = [call.id for call in calls]
        for call in calls:
            if not call.id or not isinstance(call.id, str):
                raise Violation("a tool call has no id", 'make one: `new_id("call")` of `rejoinder.ids`')
            if call.name != TOOL.name:
                raise Violation(
                    f"it calls {call.name!r}, offered was {TOOL.name!r}", "give the name as the model wrote it, whole"
                )
            if not _is_object(call.arguments):
                raise Violation(
                    f"the arguments of a tool call are {call.arguments!r}",
                    "collect all fragments before you yield the call; they are one JSON object as text, {} if empty",
                )
        if len(set(ids)) < len(ids):
            raise Violation("two tool calls have the same id", "give each an id of its own")
        if not calls:
            raise NotChecked(f"the model called no tool when asked {self.wish!r}; set `wish`")
        return Seen(f"{len(calls)} calls")

    @rule
    async def test_closing_stops(self) -> Seen:
        """Once the stream is closed the model stops: the next answer begins as soon as ever."""
        async with self.ready() as provider:
            usual = min([await self.first_output(provider) for _ in range(3)])
            after = []
            for _ in range(3):
                await bounded(self.cut_stream(provider), USE_S, "Closing the stream")
                after.append(await bounded(self.first_output(provider), USE_S, "The next answer"))
                # The next try must not be an answer to what is already going on.
                await asyncio.sleep(0)
        ms = min(after)
        if ms > max(3 * usual, usual + 500):
            raise Violation(
                f"after a closed stream the next answer begins after {ms:.0f} ms instead of {usual:.0f} ms",
                "stop the model when the generator is closed (`finally`): tell its thread, or close the connection",
                next_ms=ms,
                usual_ms=usual,
            )
        return Seen(f"next answer after {ms:.0f} ms, usual {usual:.0f} ms", next_ms=ms, usual_ms=usual)

    @rule
    async def test_prefill(self) -> Seen:
        """`prefill`, if there is one, never raises for a failure of the model, and can be cancelled."""
        async with self.ready() as provider:
            prefill = getattr(provider, "prefill", None)
            if prefill is None:
                return Seen("it has none")
            try:
                await bounded(prefill(self.request(QUESTIONS[0])), USE_S, "`prefill`")
                task = asyncio.ensure_future(prefill(self.request(STORY)))
                await asyncio.sleep(0.005)
                task.cancel()
                began = time.perf_counter()
                await asyncio.wait({task}, timeout=2.0)
                took = timed_ms(began)
            except Violation:
                raise
            except Exception as error:
                raise Violation(
                    f"`prefill` raised {type(error).__name__}: {error}{raised_at(error, self.roots())}",
                    "catch what fails in it: nobody waits for its result",
                ) from error
        return Seen(f"cancelled within {took:.0f} ms")


async def answer(provider: Any, request: LlmRequest) -> list[Any]:
    """The deltas of an answer.

    Raises:
        Violation: `stream` is no async generator.
    """
    stream = provider.stream(request)
    if not hasattr(stream, "aclose") or not hasattr(stream, "__anext__"):
        raise Violation(
            f"`stream` gives {type(stream).__name__}, not an async generator",
            "write it as `async def stream(self, request)` with `yield` in it",
        )
    deltas = []
    async with aclosing(stream):
        async for delta in stream:
            deltas.append(delta)
            # The engine passes each piece on before it asks for the next one.
            await asyncio.sleep(0)
    return deltas


def _is_object(text: object) -> bool:
    try:
        return isinstance(text, str) and isinstance(json.loads(text), dict)
    except ValueError:
        return False
