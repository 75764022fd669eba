"""Models and chat completions, as OpenAI's own SDK sees them on a real server."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import openai
import pytest
from litestar import Router, get
from litestar.exceptions import NotAuthorizedException, TooManyRequestsException
from litestar.testing import create_test_client

from rejoinder.errors import ProviderError, ProviderRejected
from rejoinder.hookspecs import hookimpl
from rejoinder.providers import LlmDelta, LlmRequest, Message, Tool, ToolCall, ToolContext
from rejoinder.settings import Deadlines, Limits
from rejoinder.testing.scripted import Script, ScriptedLlm
from rejoinder_adapters.openai_api.errors import HANDLERS

from .conftest import AGENT, REPLY, LiveServer, running
from .openai_api_help import eventually, sent

HELLO: Any = [{"role": "user", "content": "hello"}]
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather", "parameters": {"type": "object", "properties": {}}},
}
AGENTS = {
    "maths": AGENT.model_copy(update={"tools": ("calculator",), "instructions": "You do sums.", "max_tool_rounds": 2}),
    "hasty": AGENT.model_copy(update={"deadlines": Deadlines(first_token_ms=50)}),
}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with running(tmp_path_factory.mktemp("openai") / "test.db", {}, agents=AGENTS) as server:
        yield server


@pytest.fixture
def client(live: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.http}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def llm(live: LiveServer) -> Iterator[ScriptedLlm]:
    """The server's LLM, whose script a test may replace."""
    found = cast(ScriptedLlm, live.call(live.runtime.provider("llm", "scripted")))
    script = found.script
    found.requests.clear()
    found.closed = 0
    yield found
    found.script = script


def says(*items: LlmDelta | float | Exception) -> Script:
    return lambda request: items


def refused(error: openai.APIStatusError) -> tuple[int, str | None, str | None]:
    """Status, param and code of an error in OpenAI's shape."""
    assert error.response.headers["content-type"].startswith("application/json")
    document = error.response.json()
    assert document.keys() == {"error"}
    assert document["error"].keys() == {"message", "type", "param", "code"}
    assert document["error"]["message"]
    return error.status_code, error.param, error.code


# --- models ---------------------------------------------------------------------------------------------------


def test_agents_are_listed_as_models_the_default_one_first(client: openai.OpenAI) -> None:
    models = list(client.models.list())
    assert [model.id for model in models] == ["scripted", "guide", "hasty", "maths"]
    assert {model.owned_by for model in models} == {"rejoinder"}
    assert abs(models[0].created - time.time()) < 3600


@pytest.mark.parametrize("model", ["maths", "hibari", "moonshine", "tts-1", "whisper-1", "gpt-4o-transcribe"])
def test_agents_and_audio_models_can_be_retrieved(client: openai.OpenAI, model: str) -> None:
    assert client.models.retrieve(model).id == model


def test_an_unknown_model_is_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as retrieved:
        client.models.retrieve("gpt-4o")
    assert refused(retrieved.value) == (404, "model", "model_not_found")
    with pytest.raises(openai.NotFoundError) as chatted:
        client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert refused(chatted.value) == (404, "model", "model_not_found")


# --- answers --------------------------------------------------------------------------------------------------


def test_an_answer_as_a_whole(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="scripted", messages=HELLO, user="ignored", seed=7)
    assert completion.id.startswith("chatcmpl-")
    assert completion.object == "chat.completion"
    assert completion.model == "scripted"
    [choice] = completion.choices
    assert choice.finish_reason == "stop"
    assert choice.message.content is not None
    assert choice.message.content.strip() == REPLY
    assert choice.message.tool_calls is None
    usage = completion.usage
    assert usage is not None
    assert usage.completion_tokens == -(-len(choice.message.content) // 4)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_the_framing_of_a_stream(live: LiveServer) -> None:
    body = {"model": "scripted", "messages": HELLO, "stream": True}
    response = httpx.post(f"{live.http}/v1/chat/completions", json=body)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert b"\r" not in response.content
    events = response.text.removesuffix("\n\n").split("\n\n")
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert not any("usage" in chunk for chunk in chunks)
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text.strip() == REPLY


def test_usage_in_a_stream_for_those_who_ask(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="scripted", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
    assert all(chunk.usage is None and chunk.choices for chunk in chunks[:-1])


def test_the_first_words_come_while_the_rest_is_generated(client: openai.OpenAI, llm: ScriptedLlm) -> None:
    go_on = threading.Event()

    def script(request: LlmRequest) -> Iterable[LlmDelta | float]:
        yield "First"
        while not go_on.is_set():
            yield 0.01
        yield " last"

    llm.script = script
    with client.chat.completions.create(model="scripted", messages=HELLO, stream=True) as stream:
        texts = (chunk.choices[0].delta.content for chunk in stream)
        assert next(texts) == ""
        assert next(texts) == "First"
        go_on.set()
        assert [text for text in texts if text] == [" last"]


def test_the_helper_of_the_sdk(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="scripted", messages=HELLO) as stream:
        kinds = {event.type for event in stream}
        completion = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert (completion.choices[0].message.content or "").strip() == REPLY


def test_the_agents_instructions_come_before_the_clients(client: openai.OpenAI, llm: ScriptedLlm) -> None:
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Speak"}, {"type": "text", "text": "French."}]},
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        {"role": "assistant", "content": "Oui."},
        {"role": "system", "content": "Now German."},
        {"role": "user", "content": "hello?"},
    ]
    client.chat.completions.create(model="maths", messages=messages, temperature=0.5, max_tokens=77)
    [request] = llm.requests
    assert request.messages == (
        Message("system", "You do sums.\n\nBe brief.\n\nSpeak\nFrench."),
        Message("user", "hello"),
        Message("assistant", "Oui."),
        Message("system", "Now German."),
        Message("user", "hello?"),
    )
    assert request.temperature == 0.5
    assert request.max_tokens == 77


def test_text_ends_before_a_stop_sequence_also_one_that_comes_in_pieces(
    client: openai.OpenAI, llm: ScriptedLlm
) -> None:
    llm.script = says("One, two <", "EN", "D> three", " four")
    chunks = client.chat.completions.create(model="scripted", messages=HELLO, stop=["<END>", "four"], stream=True)
    choices = [chunk.choices[0] for chunk in chunks]
    assert "".join(choice.delta.content or "" for choice in choices) == "One, two "
    assert choices[-1].finish_reason == "stop"
    eventually(lambda: llm.closed == 1)


def test_what_only_looked_like_a_stop_sequence_is_said(client: openai.OpenAI, llm: ScriptedLlm) -> None:
    llm.script = says("a <", "E", "x> <EN")
    completion = client.chat.completions.create(model="scripted", messages=HELLO, stop="<END>")
    assert completion.choices[0].message.content == "a <Ex> <EN"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_answer_is_cut_at_the_limit(client: openai.OpenAI, llm: ScriptedLlm, name: str) -> None:
    llm.script = lambda request: (f"{number} " for number in range(1000))
    completion = client.chat.completions.create(model="scripted", messages=HELLO, extra_body={name: 3})
    assert completion.choices[0].message.content == "0 1 2 "
    assert completion.choices[0].finish_reason == "length"
    assert llm.requests[-1].max_tokens == 3
    eventually(lambda: llm.closed == 1)


# --- tools ----------------------------------------------------------------------------------------------------


def test_the_agents_tools_are_run_here(client: openai.OpenAI, llm: ScriptedLlm) -> None:
    def script(request: LlmRequest) -> Iterable[LlmDelta]:
        if request.messages[-1].role == "tool":
            return (f"It is {request.messages[-1].content}.",)
        return ("Let me see.", ToolCall("call_1", "calculator", '{"expression": "12 + 30"}'))

    llm.script = script
    stream = client.chat.completions.create(model="maths", messages=HELLO, stream=True)
    choices = [chunk.choices[0] for chunk in stream]
    assert "".join(choice.delta.content or "" for choice in choices) == "Let me see. It is 42."
    assert not any(choice.delta.tool_calls for choice in choices)
    assert choices[-1].finish_reason == "stop"
    assert [tool.name for tool in llm.requests[0].tools] == ["calculator"]
    assert llm.requests[1].messages[-2].tool_calls[0].id == "call_1"


def test_a_model_that_only_calls_tools_must_answer_in_the_end(client: openai.OpenAI, llm: ScriptedLlm) -> None:
    def script(request: LlmRequest) -> Iterable[LlmDelta]:
        return (ToolCall("call_1", "calculator", '{"expression": "1"}'),) if request.tools else ("Enough.",)

    llm.script = script
    completion = client.chat.completions.create(model="maths", messages=HELLO)
    assert completion.choices[0].message.content == "Enough."
    assert len(llm.requests) == 3


def test_of_very_many_calls_in_one_answer_only_so_many_are_run(client: openai.OpenAI, llm: ScriptedLlm) -> None:
    def script(request: LlmRequest) -> Iterable[LlmDelta]:
        if request.messages[-1].role == "tool":
            return ("Done.",)
        return [ToolCall(f"call_{number}", "calculator", f'{{"expression": "{number}"}}') for number in range(100)]

    llm.script = script
    assert client.chat.completions.create(model="maths", messages=HELLO).choices[0].message.content == "Done."
    results = {message.tool_call_id: message.content for message in llm.requests[1].messages if message.role == "tool"}
    assert list(results) == [f"call_{number}" for number in range(100)]
    assert list(results.values())[:16] == [str(number) for number in range(16)]
    assert all(result.startswith("Not executed: at most 16") for result in list(results.values())[16:])


def test_the_clients_tools_are_called_by_the_client(client: openai.OpenAI, llm: ScriptedLlm) -> None:
    llm.script = says("Moment.", ToolCall("call_a", "weather", '{"city": "Rome"}'), ToolCall("call_b", "weather", "{}"))
    completion = client.chat.completions.create(model="maths", messages=HELLO, tools=[WEATHER])
    [choice] = completion.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Moment."
    calls: Any = choice.message.tool_calls
    assert [(call.id, call.function.arguments) for call in calls] == [("call_a", '{"city": "Rome"}'), ("call_b", "{}")]
    assert [tool.name for tool in llm.requests[-1].tools] == ["weather"]

    llm.script = lambda request: (f"Sunny? {request.messages[-1].content}",)
    back: Any = [
        *HELLO,
        choice.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": "call_a", "content": "Rain."},
        {"role": "tool", "tool_call_id": "call_b", "content": "Snow."},
    ]
    completion = client.chat.completions.create(model="maths", messages=back, tools=[WEATHER])
    assert completion.choices[0].message.content == "Sunny? Snow."
    assert llm.requests[-1].messages[-2] == Message("tool", "Rain.", tool_call_id="call_a")
    assert [call.id for call in llm.requests[-1].messages[-3].tool_calls] == ["call_a", "call_b"]


def test_tool_calls_in_a_stream(client: openai.OpenAI, llm: ScriptedLlm) -> None:
    llm.script = says(ToolCall("call_a", "weather", "{}"), ToolCall("call_b", "weather", '{"x": 1}'))
    with client.chat.completions.stream(model="scripted", messages=HELLO, tools=[WEATHER]) as stream:
        chunks = [event.chunk for event in stream if event.type == "chunk"]
        final = stream.get_final_completion().choices[0]
    indexes = [call.index for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert indexes == [0, 1]
    assert final.finish_reason == "tool_calls"
    assert [call.function.arguments for call in final.message.tool_calls or ()] == ["{}", '{"x": 1}']


def test_tool_choice(client: openai.OpenAI, llm: ScriptedLlm) -> None:
    other: Any = {"type": "function", "function": {"name": "other"}}
    tools: Any = [WEATHER, other]
    named: Any = {"type": "function", "function": {"name": "other"}}
    client.chat.completions.create(model="maths", messages=HELLO, tools=tools, tool_choice="none")
    client.chat.completions.create(model="maths", messages=HELLO, tools=tools, tool_choice=named)
    client.chat.completions.create(model="maths", messages=HELLO, tool_choice="none")
    assert [[tool.name for tool in request.tools] for request in llm.requests] == [[], ["other"], []]


# --- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 2}, "n"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
            "messages[0].content[0]",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(client: openai.OpenAI, change: dict[str, Any], param: str) -> None:
    body = {"model": "scripted", "messages": HELLO, **change}
    with pytest.raises(openai.BadRequestError) as error:
        client.post("/chat/completions", body=body, cast_to=object)
    status, told, code = refused(error.value)
    assert (status, told) == (400, param)
    assert code


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model": "scripted"}', b'{"model": 1, "messages": []}', b""])
def test_a_malformed_body_is_refused_in_the_same_shape(live: LiveServer, body: bytes) -> None:
    response = httpx.post(
        f"{live.http}/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code", "headers"),
    [
        (
            ProviderError("x", "busy", code="provider_rate_limited", retry_after_s=6.5),
            429,
            "provider_rate_limited",
            {"retry-after": "7"},
        ),
        (ProviderRejected("x", "no"), 502, "provider_rejected", {"x-should-retry": "false"}),
        (ProviderError("x", "gone", code="provider_unreachable"), 502, "provider_unreachable", {}),
        (RuntimeError("a defect"), 500, "internal", {}),
    ],
)
def test_a_failure_before_the_first_token_is_an_http_error(
    client: openai.OpenAI,
    llm: ScriptedLlm,
    stream: bool,
    error: Exception,
    status: int,
    code: str,
    headers: dict[str, str],
) -> None:
    llm.script = says(error)
    with pytest.raises(openai.APIStatusError) as told:
        client.chat.completions.create(model="scripted", messages=HELLO, stream=cast(Any, stream))
    assert refused(told.value) == (status, None, code)
    assert headers.items() <= told.value.response.headers.items()
    assert "a defect" not in told.value.response.text


def test_a_late_model_is_a_timeout(client: openai.OpenAI, llm: ScriptedLlm) -> None:
    llm.script = says(30.0, "late")
    with pytest.raises(openai.APIStatusError) as told:
        client.chat.completions.create(model="hasty", messages=HELLO)
    assert refused(told.value) == (504, None, "provider_timeout")


def test_a_failure_in_the_middle_is_told_in_the_stream(client: openai.OpenAI, llm: ScriptedLlm) -> None:
    llm.script = says("Half", ProviderError("x", "it broke"))
    stream = client.chat.completions.create(model="scripted", messages=HELLO, stream=True)
    assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "Half"]
    with pytest.raises(openai.APIError, match="it broke") as told:
        next(stream)
    assert told.value.code == "provider_failed"


# --- clients that go away -------------------------------------------------------------------------------------


def endless(request: LlmRequest) -> Iterable[LlmDelta | float]:
    while True:
        yield "word "
        yield 0.001


def silent(request: LlmRequest) -> Iterable[LlmDelta | float]:
    yield 1000.0


def test_a_client_that_leaves_a_stream_stops_the_model(client: openai.OpenAI, llm: ScriptedLlm) -> None:
    llm.script = endless
    stream = client.chat.completions.create(model="scripted", messages=HELLO, stream=True, max_tokens=1_000_000)
    for _ in range(5):
        next(stream)
    stream.close()
    eventually(lambda: llm.closed == 1)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_the_first_token_stops_the_model(
    live: LiveServer, llm: ScriptedLlm, stream: bool
) -> None:
    llm.script = silent
    body = {"model": "scripted", "messages": HELLO, "stream": stream}
    with sent(live, "/v1/chat/completions", json=body):
        eventually(lambda: bool(llm.requests))
    eventually(lambda: llm.closed == 1)


def test_only_so_many_requests_are_worked_on_at_once(tmp_path: Path) -> None:
    with running(tmp_path / "full.db", {}, limits=Limits(openai_requests=2)) as live:
        llm = cast(ScriptedLlm, live.call(live.runtime.provider("llm", "scripted")))
        llm.script, script = silent, llm.script
        url = live.http + "/v1/chat/completions"
        body = {"model": "scripted", "messages": HELLO}

        def answered() -> httpx.Response:
            return httpx.post(url, json={**body, "max_tokens": 1}, timeout=10)

        with sent(live, "/v1/chat/completions", json=body):
            eventually(lambda: bool(llm.requests))
            llm.script = script
            assert answered().status_code == 200
            # An upload counts from before it is read.
            with socket.create_connection(("127.0.0.1", live.port), timeout=10) as upload:
                upload.sendall(
                    b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n"
                    b"content-type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
                )
                eventually(lambda: answered().status_code == 503)
                full = answered()
                assert full.headers["retry-after"] == "1"
                assert full.json()["error"]["code"] == "full"
                assert full.json()["error"]["type"] == "server_error"
                assert httpx.get(live.http + "/v1/models").status_code == 200, "what is only looked up does not count"
            eventually(lambda: answered().status_code == 200)
        eventually(lambda: llm.closed >= 1)
        assert answered().status_code == 200


def test_a_reader_that_is_slow_holds_the_model_back(client: openai.OpenAI, llm: ScriptedLlm) -> None:
    llm.script = lambda request: ("x" * 50_000 for _ in range(2_000))
    pulled = llm.pulled
    stream = client.chat.completions.create(model="scripted", messages=HELLO, stream=True, max_tokens=1_000_000)
    next(stream)
    before = -1
    while before != llm.pulled:
        before = llm.pulled
        time.sleep(0.2)
    assert llm.pulled - pulled < 1_000
    stream.close()
    eventually(lambda: llm.closed == 1)


class Booking:
    """A plugin with a tool that has side effects, which lasts until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.done = threading.Event()

    @hookimpl
    def register_tools(self) -> Iterable[Tool]:
        async def run(arguments: dict[str, Any], context: ToolContext) -> str:
            self.begun.set()
            await asyncio.to_thread(self.go_on.wait, 10)
            self.done.set()
            return "booked"

        return [Tool("book", "Book it", run, side_effects=True)]


def test_a_tool_with_side_effects_runs_to_its_end_without_the_client(tmp_path: Path) -> None:
    booking = Booking()
    agent = AGENT.model_copy(update={"tools": ("book",)})
    with running(tmp_path / "tools.db", {}, agents={"booker": agent}) as live:
        assert live.runtime.plugins.add("booking", lambda: booking)
        llm = cast(ScriptedLlm, live.call(live.runtime.provider("llm", "scripted")))
        llm.script = says(ToolCall("call_1", "book", "{}"))
        with openai.OpenAI(base_url=f"{live.http}/v1", api_key="unused", max_retries=0) as client:
            stream = client.chat.completions.create(model="booker", messages=HELLO, stream=True)
            assert next(stream).choices[0].delta.role == "assistant"
            assert booking.begun.wait(10)
            stream.close()
            eventually(lambda: bool(live.runtime.stragglers))
        booking.go_on.set()
        assert booking.done.wait(10)
        eventually(lambda: not live.runtime.stragglers)
    assert len(llm.requests) == 1


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NotAuthorizedException("No key."), 401, "invalid_api_key"),
        (TooManyRequestsException(), 429, "rate_limit_exceeded"),
    ],
)
def test_what_a_guard_of_the_router_raises_has_the_same_shape(error: Exception, status: int, code: str) -> None:
    def guard(connection: Any, handler: Any) -> None:
        raise error

    @get("/models")
    async def models() -> None:
        """Never reached."""

    router = Router("/v1", route_handlers=[models], guards=[guard], exception_handlers=HANDLERS)
    with create_test_client(router, openapi_config=None, logging_config=None) as test_client:
        response = test_client.get("/v1/models")
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
