"""`POST /v1/chat/completions`: the answer as one document or as a stream of chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from litestar import Request, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from rejoinder.app import Runtime
from rejoinder.breaker import Breaker
from rejoinder.ids import new_id
from rejoinder.providers import LlmDelta, ToolCall
from rejoinder.stages.chain import LlmChain
from rejoinder_adapters.openai_api.chat import Answer
from rejoinder_adapters.openai_api.chat_request import ChatRequest
from rejoinder_adapters.openai_api.models import agent_of
from rejoinder_adapters.openai_api.streaming import Events, Started, event, failure, start, unless_gone

Json = dict[str, Any]
MAX_BODY = 4 * 1024 * 1024
"""Bytes of a request: the longest contexts of today, and decoded without holding up the event loop."""


def untold(kind: str, provider: str, to: str, cause: str) -> None:
    """Of a provider that failed over nobody here needs to be told; the log has it."""


def make_route(runtime: Runtime, breaker: Breaker) -> HTTPRouteHandler:
    """The route; `breaker` knows which providers fail at the moment."""

    @post("/chat/completions", status_code=200, request_max_body_size=MAX_BODY)
    async def create_chat_completion(request: Request[Any, Any, Any], data: JSONBody[ChatRequest]) -> ASGIApp:
        """Answer a conversation as an agent; the messages are all it knows of it."""
        data.check()
        answer = await _answer(runtime, breaker, data)
        head = {"id": new_id("chatcmpl").replace("_", "-"), "created": runtime.clock.wall_ms() // 1000}
        if data.stream:
            started = await start(request, answer.pieces())
            with_usage = bool(data.stream_options and data.stream_options.include_usage)
            return Events(_chunks(answer, started, {**head, "model": data.model}, with_usage), started)
        message = await unless_gone(request, _whole(answer))
        body = {**head, "object": "chat.completion", "model": data.model, **_completion(answer, message)}
        return ASGIResponse(body=msgspec.json.encode(body), media_type="application/json")

    return create_chat_completion


async def _answer(runtime: Runtime, breaker: Breaker, data: ChatRequest) -> Answer:
    name, agent = await agent_of(runtime, data.model)
    messages = data.conversation(agent.instructions)
    client_tools = data.schemas()
    services = await runtime.services(agent)

    def adopt(task: Any) -> None:
        runtime.stragglers.add(task)
        task.add_done_callback(runtime.stragglers.discard)

    return Answer(
        llm=LlmChain(services.llm, agent.deadlines, untold, breaker),
        agent=agent,
        messages=list(messages),
        # A client that brings tools of its own does not expect ours to be run besides.
        tools={} if data.tools or data.tool_choice == "none" else services.tools,
        client_tools=() if data.tool_choice == "none" else client_tools,
        stops=data.stops(),
        max_tokens=data.limit() or agent.max_tokens,
        temperature=agent.temperature if data.temperature is None else data.temperature,
        adopt=adopt,
        hooks=runtime.hooks.session("", name),
    )


async def _whole(answer: Answer) -> Json:
    """The answer as one message."""
    texts: list[str] = []
    calls: list[Json] = []
    async with aclosing(answer.pieces()) as pieces:
        async for piece in pieces:
            if isinstance(piece, ToolCall):
                calls.append(_call(piece))
            else:
                texts.append(piece)
    text = "".join(texts)
    message: Json = {"role": "assistant", "content": None if calls and not text else text, "refusal": None}
    return {**message, "tool_calls": calls} if calls else message


def _completion(answer: Answer, message: Json) -> Json:
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
    return {"choices": [choice], "usage": answer.usage(), "system_fingerprint": None}


def _call(call: ToolCall) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


async def _chunks(
    answer: Answer, pieces: Started[LlmDelta], head: Json, with_usage: bool
) -> AsyncGenerator[bytes, None]:
    base = {**head, "object": "chat.completion.chunk", "system_fingerprint": None}
    # Only to those who asked for it: many clients expect a choice in every chunk.
    usage = {"usage": None} if with_usage else {}

    def chunk(delta: Json, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return event({**base, "choices": [choice], **usage})

    yield chunk({"role": "assistant", "content": ""})
    calls = 0
    try:
        async for piece in pieces:
            if isinstance(piece, ToolCall):
                yield chunk({"tool_calls": [{"index": calls, **_call(piece)}]})
                calls += 1
            elif piece:
                yield chunk({"content": piece})
    except Exception as error:  # noqa: BLE001 - told to the client, in the only way that is left
        yield failure(error)
        return
    yield chunk({}, answer.finish_reason)
    if with_usage:
        yield event({**base, "choices": [], "usage": answer.usage()})
    yield b"data: [DONE]\n\n"
