"""LLM by chat completions: streams text and whole tool calls."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rejoinder.errors import ProviderError, ProviderTimeout
from rejoinder.ids import new_id
from rejoinder.providers import LlmDelta, LlmRequest, Message, ProviderContext, ToolCall, ToolSchema
from rejoinder_plugins.openai.client import NAME, Connection

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = logging.getLogger(__name__)


class OpenAILlm:
    """Chat completions, streamed; closing the stream closes the HTTP response, so that the server stops generating."""

    def __init__(self, context: ProviderContext) -> None:
        self._connection = Connection(context.settings)
        self._settings = self._connection.settings
        # OpenAI's own newer models refuse the old name; many other servers know only that.
        official = (urlsplit(self._settings.base_url).hostname or "").endswith("openai.com")
        self._limit_name = "max_completion_tokens" if official else "max_tokens"

    async def warm_up(self) -> None:
        """Import the SDK and make the client."""
        await self._connection.warm_up()

    async def stream(self, request: LlmRequest) -> AsyncGenerator[LlmDelta, None]:
        """The answer as it comes; tool calls follow the text, whole.

        Raises (while iterating):
            ProviderRejected: the server refused key, model or request.
            ProviderTimeout: no first token, or no end, in time.
            ProviderError: the server failed, limits the rate, or the stream broke.
        """
        client = self._connection.client()
        for retries_left in range(self._settings.max_retries, -1, -1):
            started = False
            try:
                async with aclosing(self._attempt(client, request)) as deltas:
                    async for delta in deltas:
                        started = True
                        yield delta
            except ProviderError as error:
                hopeless = (
                    not error.retryable or isinstance(error, ProviderTimeout) or error.code == "provider_rate_limited"
                )
                if started or hopeless or not retries_left:
                    raise
                log.warning("retrying: %s", error.explain())
            else:
                return

    async def close(self) -> None:
        """Close the client."""
        await self._connection.close()

    async def _attempt(self, client: AsyncOpenAI, request: LlmRequest) -> AsyncGenerator[LlmDelta, None]:
        deadline = self._connection.deadline()
        calls = _ToolCalls()
        finished = False
        with self._connection.errors("llm_model"):
            create: Any = client.chat.completions.create
            chunks = await deadline.wait(create(stream=True, **self._body(request)))
            try:
                while True:
                    try:
                        chunk = await deadline.wait(anext(chunks))
                    except StopAsyncIteration:
                        break
                    text, fragments, ended = _read(chunk)
                    finished = finished or ended
                    if fragments:
                        deadline.started = True
                        calls.add(fragments)
                    if text:
                        deadline.started = True
                        yield text
            finally:
                await chunks.close()
        # A tool call cut short would be run with half of its arguments.
        if not finished:
            raise ProviderError(NAME, "the stream ended before the answer did")
        for call in calls.whole():
            yield call

    def _body(self, request: LlmRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._settings.llm_model,
            "messages": [_message(message) for message in request.messages],
            self._limit_name: request.max_tokens,
        }
        if self._settings.send_temperature:
            body["temperature"] = request.temperature
        if request.tools:
            body["tools"] = [_tool(tool) for tool in request.tools]
        return body


class _ToolCalls:
    """Puts the fragments of tool calls together; servers differ in what they leave out (index, id, name)."""

    def __init__(self) -> None:
        self._calls: list[dict[str, str]] = []
        self._at: dict[int, dict[str, str]] = {}

    def add(self, fragments: Iterable[Any]) -> None:
        """Take the fragments of one chunk."""
        for fragment in fragments:
            index = getattr(fragment, "index", None)
            call_id = getattr(fragment, "id", None) or ""
            function = getattr(fragment, "function", None)
            call = self._at.get(index) if isinstance(index, int) else (self._calls[-1] if self._calls else None)
            if call is None or (call_id and call["id"] and call_id != call["id"]):
                call = {"id": "", "name": "", "arguments": ""}
                self._calls.append(call)
            if isinstance(index, int):
                self._at[index] = call
            call["id"] = call["id"] or call_id
            call["name"] = call["name"] or getattr(function, "name", None) or ""
            call["arguments"] += getattr(function, "arguments", None) or ""

    def whole(self) -> list[ToolCall]:
        """The calls, in the order they began."""
        return [
            ToolCall(call["id"] or new_id("call"), call["name"], call["arguments"] or "{}")
            for call in self._calls
            if call["name"]
        ]


def _read(chunk: Any) -> tuple[str, list[Any], bool]:
    """The text, the fragments of tool calls and whether the answer ends; the SDK does not check what servers send."""
    choices = getattr(chunk, "choices", None)
    if not choices or not isinstance(choices, list):
        return "", [], False
    delta = getattr(choices[0], "delta", None)
    text, fragments = getattr(delta, "content", None), getattr(delta, "tool_calls", None)
    ended = bool(getattr(choices[0], "finish_reason", None))
    return text if isinstance(text, str) else "", fragments if isinstance(fragments, list) else [], ended


def _message(message: Message) -> dict[str, Any]:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.tool_call_id, "content": message.content}
    if message.tool_calls:
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
        return {"role": "assistant", "content": message.content or None, "tool_calls": calls}
    return {"role": message.role, "content": message.content}


def _tool(tool: ToolSchema) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}
