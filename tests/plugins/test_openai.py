from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import wave
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from rejoinder.errors import (
    ConfigError,
    MissingDependency,
    MissingModel,
    ProviderError,
    ProviderRejected,
    ProviderTimeout,
)
from rejoinder.providers import (
    Kind,
    LlmDelta,
    LlmProvider,
    LlmRequest,
    Message,
    Provider,
    ProviderContext,
    ToolCall,
    ToolSchema,
)
from rejoinder.settings import Deadlines, load_settings
from rejoinder.stages.chain import LlmChain
from rejoinder_plugins import openai as plugin
from rejoinder_plugins.openai.client import Deadline, OpenAISettings
from rejoinder_plugins.openai.llm import OpenAILlm
from rejoinder_plugins.openai.stt import OpenAIStt
from rejoinder_plugins.openai.tts import OpenAITts

T = TypeVar("T")
PATIENCE_S = 10
HELLO = LlmRequest((Message("system", "Be brief."), Message("user", "Hello")), max_tokens=20, temperature=0.5)


# --- a scripted server ----------------------------------------------------------------------------------------


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Exchange:
    """One request and the means to answer it."""

    request: Request
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server: Server

    async def answer(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await self.writer.drain()

    async def begin(self, kind: str = "text/event-stream") -> None:
        self.writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        await self.writer.drain()

    async def piece(self, data: bytes) -> None:
        self.writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await self.writer.drain()

    async def sse(self, *data: Any) -> None:
        for item in data:
            text = item if isinstance(item, str) else json.dumps(item)
            await self.piece(f"data: {text}\n\n".encode())

    async def end(self) -> None:
        await self.piece(b"")

    async def wait_for_disconnect(self) -> None:
        assert await self.reader.read(1) == b""
        self.server.disconnected.set()


Script = Callable[[Exchange], Awaitable[None]]


@dataclass
class Server:
    """Answers the n-th request with the n-th script (the last one repeats)."""

    scripts: tuple[Script, ...]
    requests: list[Request] = field(default_factory=list)
    requested: asyncio.Event = field(default_factory=asyncio.Event)
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                request = Request(first.split()[1], headers, body)
                self.requests.append(request)
                self.requested.set()
                script = self.scripts[min(len(self.requests), len(self.scripts)) - 1]
                await script(Exchange(request, reader, writer, self))
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(*scripts: Script) -> AsyncIterator[Server]:
    server = Server(scripts)
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await server.handle(reader, writer)
        except asyncio.CancelledError:
            pass

    listener = await asyncio.start_server(handle, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)
        await listener.wait_closed()


class NoModels:
    def path(self, name: str) -> Path:
        raise MissingModel(f"no model {name}", fix="none")


def no_llm(name: str) -> LlmProvider:
    raise AssertionError(name)


def provider(kind: Kind) -> Provider:
    return next(offer for offer in plugin.register_providers() if offer.kind == kind)


def context(url: str, **settings: Any) -> ProviderContext:
    # Through the struct's own decoder, as the settings of a process are.
    struct = msgspec.convert({"base_url": url, **settings}, OpenAISettings)
    return ProviderContext(struct, NoModels(), lambda name, workers: ThreadPoolExecutor(workers), no_llm)


@asynccontextmanager
async def llm(url: str, **settings: Any) -> AsyncIterator[OpenAILlm]:
    made = provider("llm").create(context(url, **settings))
    assert isinstance(made, OpenAILlm)
    await made.warm_up()
    try:
        yield made
    finally:
        await made.close()


async def collect(model: OpenAILlm, request: LlmRequest = HELLO) -> list[LlmDelta]:
    async with aclosing(model.stream(request)) as deltas:
        return [delta async for delta in deltas]


async def collect_into(heard: list[T], stream: AsyncGenerator[T, None]) -> None:
    async with aclosing(stream) as items:
        async for item in items:
            heard.append(item)


def run(body: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await body

    asyncio.run(limited())


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def fragment(index: int | None, call_id: str | None, name: str | None, arguments: str | None) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    known = {"index": index, "id": call_id}
    return {**{key: value for key, value in known.items() if value is not None}, "function": function}


def streams(*items: Any) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.sse(*items)
        await exchange.end()

    return script


def answers(status: int, body: Any, **headers: str) -> Script:
    async def script(exchange: Exchange) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        await exchange.answer(status, raw, **headers)

    return script


def failure(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


async def hangs(exchange: Exchange) -> None:
    await exchange.wait_for_disconnect()


SAYS_HI = streams(
    chunk(role="assistant", content=""), chunk(content="Hi"), chunk(content=" there."), chunk("stop"), "[DONE]"
)


# --- LLM ------------------------------------------------------------------------------------------------------


def test_streams_text_and_sends_the_request_as_the_wire_wants_it() -> None:
    async def body() -> None:
        tool = ToolSchema("clock", "Tells the time.", {"type": "object", "properties": {}})
        request = LlmRequest(
            (
                Message("system", "Be brief."),
                Message("user", "Time?"),
                Message("assistant", "", (ToolCall("call_1", "clock", "{}"),)),
                Message("tool", "noon", tool_call_id="call_1"),
            ),
            (tool,),
            max_tokens=20,
            temperature=0.5,
        )
        async with serving(SAYS_HI) as server, llm(server.url, llm_model="tiny", api_key="secret") as model:
            assert await collect(model, request) == ["Hi", " there."]
        sent = server.requests[0]
        assert sent.path == "/v1/chat/completions"
        assert sent.headers["authorization"] == "Bearer secret"
        call = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
        assert sent.json == {
            "model": "tiny",
            "stream": True,
            "max_tokens": 20,
            "temperature": 0.5,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Time?"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
            ],
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "clock",
                        "description": "Tells the time.",
                        "parameters": {"type": "object", "properties": {}},
                    },
                }
            ],
        }

    run(body())


def test_text_is_yielded_while_the_server_still_generates() -> None:
    async def body() -> None:
        read = asyncio.Event()

        async def script(exchange: Exchange) -> None:
            await exchange.begin()
            await exchange.sse(chunk(content="First"))
            await read.wait()
            await exchange.sse(chunk("stop", content=" last"), "[DONE]")
            await exchange.end()

        async with serving(script) as server, llm(server.url) as model, aclosing(model.stream(HELLO)) as deltas:
            assert await anext(deltas) == "First"
            read.set()
            assert [delta async for delta in deltas] == [" last"]

    run(body())


def test_without_a_key_none_is_sent_and_temperature_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    async def body() -> None:
        async with serving(SAYS_HI) as server, llm(server.url, send_temperature=False) as model:
            await collect(model)
        assert server.requests[0].headers["authorization"] == "Bearer none"
        assert "temperature" not in server.requests[0].json
        assert "tools" not in server.requests[0].json

    run(body())


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from-env")

    async def body() -> None:
        async with serving(SAYS_HI) as server, llm(server.url) as model:
            await collect(model)
        assert server.requests[0].headers["authorization"] == "Bearer from-env"

    run(body())


@pytest.mark.parametrize(
    "fragments",
    [
        [
            [fragment(0, "a", "clock", "")],
            [fragment(0, None, None, '{"time_')],
            [fragment(0, None, None, 'zone": "UTC"}'), fragment(1, "b", "end_call", "{}")],
        ],
        # All at once; no index; the same index for all; interleaved.
        [[fragment(0, "a", "clock", '{"time_zone": "UTC"}'), fragment(1, "b", "end_call", None)]],
        [[fragment(None, "a", "clock", '{"time_zone": "UTC"}')], [fragment(None, "b", "end_call", "{}")]],
        [[fragment(0, "a", "clock", '{"time_zone": "UTC"}')], [fragment(0, "b", "end_call", "{}")]],
        [
            [fragment(0, "a", "clock", '{"time_'), fragment(1, "b", "end_call", "{")],
            [fragment(1, None, None, "}"), fragment(0, None, None, 'zone": "UTC"}')],
        ],
    ],
)
def test_tool_calls_are_put_together(fragments: list[list[dict[str, Any]]]) -> None:
    async def body() -> None:
        items = [chunk(tool_calls=part) for part in fragments]
        script = streams(chunk(role="assistant", content="Wait."), *items, chunk("tool_calls"), "[DONE]")
        async with serving(script) as server, llm(server.url) as model:
            assert await collect(model) == [
                "Wait.",
                ToolCall("a", "clock", '{"time_zone": "UTC"}'),
                ToolCall("b", "end_call", "{}"),
            ]

    run(body())


def test_a_tool_call_without_id_gets_one() -> None:
    async def body() -> None:
        script = streams(chunk(tool_calls=[fragment(0, None, "clock", "{}")]), chunk("tool_calls"), "[DONE]")
        async with serving(script) as server, llm(server.url) as model:
            (call,) = await collect(model)
        assert isinstance(call, ToolCall)
        assert call.id.startswith("call_")
        assert call.name == "clock"

    run(body())


def test_closing_the_stream_closes_the_connection() -> None:
    async def body() -> None:
        async def script(exchange: Exchange) -> None:
            await exchange.begin()
            await exchange.sse(chunk(content="One"))
            await exchange.wait_for_disconnect()

        async with serving(script) as server, llm(server.url) as model:
            async with aclosing(model.stream(HELLO)) as deltas:
                assert await anext(deltas) == "One"
            await server.disconnected.wait()

    run(body())


def test_cancelling_the_reader_closes_the_connection() -> None:
    async def body() -> None:
        waiting = asyncio.Event()

        async def script(exchange: Exchange) -> None:
            await exchange.begin()
            await exchange.sse(chunk(content="One"))
            await exchange.wait_for_disconnect()

        async with serving(script) as server, llm(server.url) as model:

            async def read() -> None:
                async with aclosing(model.stream(HELLO)) as deltas:
                    async for _ in deltas:
                        waiting.set()

            task = asyncio.create_task(read())
            await waiting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.disconnected.wait()

    run(body())


async def _breaks(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.sse(chunk(content="Half an"))
    exchange.writer.close()


async def _drops(exchange: Exchange) -> None:
    exchange.writer.close()


@pytest.mark.parametrize(
    ("script", "error", "code", "retryable", "said", "text"),
    [
        (answers(401, failure("bad key")), ProviderRejected, "provider_unauthorized", False, [], "bad key"),
        (answers(403, failure("no")), ProviderRejected, "provider_unauthorized", False, [], "API key"),
        (answers(404, failure("no model")), ProviderRejected, "provider_rejected", False, [], "'tiny'"),
        (answers(400, failure("odd")), ProviderRejected, "provider_rejected", False, [], "odd"),
        (answers(429, failure("slow"), retry_after="7"), ProviderError, "provider_rate_limited", True, [], "after 7 s"),
        (answers(429, failure("slow")), ProviderError, "provider_rate_limited", True, [], "slow"),
        (answers(500, b"<html>oops"), ProviderError, "provider_failed", True, [], "500"),
        (answers(503, failure("busy")), ProviderError, "provider_failed", True, [], "busy"),
        (_drops, ProviderError, "provider_unreachable", True, [], "connection"),
        (_breaks, ProviderError, "provider_unreachable", True, ["Half an"], "connection"),
        (streams(chunk(content="Half")), ProviderError, "provider_failed", True, ["Half"], "ended before"),
        (streams(chunk(content="A"), failure("gpu")), ProviderError, "provider_failed", True, ["A"], "gpu"),
        (streams(chunk(content="A"), "{oh no"), ProviderError, "provider_failed", True, ["A"], "no JSON"),
        (
            streams(7, [], "null", {"choices": 3}, {}, "[DONE]"),
            ProviderError,
            "provider_failed",
            True,
            [],
            "ended before",
        ),
        (answers(200, b"<html>a login page"), ProviderError, "provider_failed", True, [], "ended before"),
        (
            streams(chunk(tool_calls=[fragment(0, "a", "clock", "{")])),
            ProviderError,
            "provider_failed",
            True,
            [],
            "ended",
        ),
    ],
)
def test_failures_of_the_server_are_told_apart(
    script: Script, error: type[ProviderError], code: str, retryable: bool, said: list[str], text: str
) -> None:
    async def body() -> None:
        heard: list[LlmDelta] = []
        async with serving(script) as server, llm(server.url, llm_model="tiny") as model:
            with pytest.raises(ProviderError) as raised:
                await collect_into(heard, model.stream(HELLO))
        failed = raised.value
        assert type(failed) is error
        assert (failed.code, failed.retryable, heard) == (code, retryable, said)
        assert text in failed.message
        assert len(server.requests) == 1
        if code == "provider_unauthorized":
            assert "api_key" in (failed.fix or "")

    run(body())


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        ({"retry_after": "7"}, 7, 7),
        ({"retry_after": "0.5"}, 0.5, 0.5),
        ({"retry_after": "-3"}, 0, 0),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0, 0),
        ({"retry_after": format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)}, 3000, 3600),
        ({"retry_after": "soon"}, None, None),
        ({"retry_after": "inf"}, None, None),
        ({"retry_after": ""}, None, None),
        ({}, None, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_how_long_the_server_wants_to_be_left_alone(
    status: int, said: dict[str, str], least: float | None, most: float | None
) -> None:
    async def body() -> None:
        async with serving(answers(status, failure("slow"), **said)) as server, llm(server.url) as model:
            with pytest.raises(ProviderError) as raised:
                await collect(model)
        after = raised.value.retry_after_s
        if least is None or most is None:
            assert after is None
        else:
            assert after is not None
            assert least <= after <= most

    run(body())


def test_nobody_listens() -> None:
    async def body() -> None:
        async with serving(SAYS_HI) as server:
            pass
        async with llm(server.url, max_retries=1) as model:
            with pytest.raises(ProviderError, match="connection to http://127") as raised:
                await collect(model)
        assert raised.value.code == "provider_unreachable"

    run(body())


def test_a_server_that_hangs_is_given_up_and_disconnected() -> None:
    async def body() -> None:
        async with serving(hangs) as server, llm(server.url, first_token_timeout_s=0.05, max_retries=1) as model:
            with pytest.raises(ProviderTimeout, match="did not begin"):
                await collect(model)
            await server.disconnected.wait()
        assert len(server.requests) == 1

    run(body())


def test_a_server_that_hangs_after_the_role_or_the_first_token() -> None:
    def script(first: dict[str, Any]) -> Script:
        async def play(exchange: Exchange) -> None:
            await exchange.begin()
            await exchange.sse(first)
            await exchange.wait_for_disconnect()

        return play

    async def body() -> None:
        limits = {"first_token_timeout_s": 0.1, "total_timeout_s": 0.3}
        for first, stage in ((chunk(role="assistant", content=""), "begin"), (chunk(content="One"), "finish")):
            async with serving(script(first)) as server, llm(server.url, **limits) as model:
                with pytest.raises(ProviderTimeout, match=f"did not {stage}"):
                    await collect(model)
                await server.disconnected.wait()

    run(body())


def test_only_waiting_for_the_server_uses_up_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("rejoinder_plugins.openai.client.time.monotonic", lambda: now)

    async def takes(seconds: float) -> None:
        nonlocal now
        now += seconds

    async def body() -> None:
        nonlocal now
        deadline = Deadline(5, 20)
        await deadline.wait(takes(4))
        now += 1000
        await deadline.wait(takes(3))
        with pytest.raises(ProviderTimeout, match="did not begin"):
            await deadline.wait(asyncio.sleep(0))
        deadline.started = True
        await deadline.wait(takes(14))
        with pytest.raises(ProviderTimeout, match="did not finish"):
            await deadline.wait(asyncio.sleep(0))

    asyncio.run(body())


def test_one_retry_before_the_first_token_and_none_after_it() -> None:
    async def body() -> None:
        async with serving(answers(500, failure("once")), SAYS_HI) as server, llm(server.url, max_retries=1) as model:
            assert await collect(model) == ["Hi", " there."]
        async with serving(answers(500, failure("always"))) as server, llm(server.url, max_retries=1) as model:
            with pytest.raises(ProviderError, match="always"):
                await collect(model)
        assert len(server.requests) == 2
        for script in (_breaks, answers(401, failure("no")), answers(429, failure("no"))):
            async with serving(script, SAYS_HI) as server, llm(server.url, max_retries=1) as model:
                with pytest.raises(ProviderError):
                    await collect(model)
            assert len(server.requests) == 1

    run(body())


async def _goes_quiet(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.sse(chunk(content="Half an"))
    await exchange.wait_for_disconnect()


async def _only_a_role(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.sse(chunk(role="assistant", content=""))
    exchange.writer.close()


@asynccontextmanager
async def chained(first: Script, hedge: bool) -> AsyncIterator[tuple[LlmChain, Server, Server, list[tuple[str, ...]]]]:
    """Two servers and the chain that asks them; the list is what it told."""
    told: list[tuple[str, ...]] = []
    async with (
        serving(first) as one,
        serving(SAYS_HI) as two,
        llm(one.url, max_retries=1) as model_one,
        llm(two.url) as model_two,
    ):
        deadlines = Deadlines(first_token_ms=300, hedge=hedge)
        yield LlmChain({"one": model_one, "two": model_two}, deadlines, lambda *what: told.append(what)), one, two, told


@pytest.mark.parametrize("hedge", [False, True])
@pytest.mark.parametrize(
    ("script", "cause", "requests"),
    [
        (answers(401, failure("bad key")), "provider_unauthorized", 1),
        (answers(429, failure("slow"), retry_after="7"), "provider_rate_limited", 1),
        # The two that another try may mend get one, before the next server is asked.
        (answers(500, failure("oops")), "provider_failed", 2),
        (_drops, "provider_unreachable", 2),
        (_only_a_role, "provider_unreachable", 2),
        (answers(200, b"<html>a login page"), "provider_failed", 2),
        (hangs, "provider_timeout", 1),
    ],
)
def test_the_next_server_answers_where_the_first_gave_nothing(
    script: Script, cause: str, requests: int, hedge: bool
) -> None:
    async def body() -> None:
        async with chained(script, hedge) as (chain, one, two, told):
            async with aclosing(chain.stream(HELLO)) as deltas:
                assert [delta async for delta in deltas] == ["Hi", " there."]
            assert told == [("llm", "one", "two", cause)]
            assert (chain.used, len(one.requests), len(two.requests)) == ("two", requests, 1)
            if script is hangs:
                await one.disconnected.wait()

    run(body())


@pytest.mark.parametrize("hedge", [False, True])
@pytest.mark.parametrize(
    ("script", "cause"),
    [
        (_breaks, "provider_unreachable"),
        (streams(chunk(content="Half an")), "provider_failed"),
        (streams(chunk(content="Half an"), failure("gpu")), "provider_failed"),
        (_goes_quiet, "provider_timeout"),
    ],
)
def test_no_other_server_is_asked_once_something_was_said(script: Script, cause: str, hedge: bool) -> None:
    async def body() -> None:
        heard: list[LlmDelta] = []
        async with chained(script, hedge) as (chain, one, two, told):
            with pytest.raises(ProviderError) as raised:
                await collect_into(heard, chain.stream(HELLO))
            assert (raised.value.code, heard) == (cause, ["Half an"])
            assert told == [("llm", "one", "", cause)]
            assert (chain.used, len(one.requests), len(two.requests)) == ("one", 1, 0)

    run(body())


def test_one_connection_serves_many_turns_and_close_is_final() -> None:
    async def body() -> None:
        async with serving(SAYS_HI) as server, llm(server.url) as model:
            for _ in range(3):
                assert await collect(model) == ["Hi", " there."]
            await model.close()
            await model.close()
            with pytest.raises(ProviderError, match="closed"):
                await collect(model)

    run(body())


async def _says_hi_and_hangs_up(exchange: Exchange) -> None:
    """As llama.cpp does it: the connection is closed after the answer, a moment later, with no word of it."""
    await SAYS_HI(exchange)
    # Whoever sends on this connection now gets no answer.
    await exchange.reader.readuntil(b"\r\n\r\n")
    exchange.writer.close()


def test_a_connection_that_was_closed_meanwhile_is_no_failure() -> None:
    async def body() -> None:
        async with serving(_says_hi_and_hangs_up) as server, llm(server.url) as model:
            for _ in range(3):
                assert await collect(model) == ["Hi", " there."]
            assert len(server.requests) == 3
        # But a server that hangs up on a new connection has failed, and one that does it twice as well.
        async with serving(SAYS_HI, _drops) as server, llm(server.url) as model:
            await collect(model)
            with pytest.raises(ProviderError) as raised:
                await collect(model)
            assert raised.value.code == "provider_unreachable"
            assert len(server.requests) == 3

    run(body())


def test_openais_own_server_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    made = OpenAILlm(context("https://api.openai.com/v1/"))
    with pytest.raises(ConfigError) as raised:
        asyncio.run(made.warm_up())
    assert raised.value.code == "missing_api_key"


def test_the_sdk_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, rejoinder_plugins.openai as p; p.register_providers(); sys.exit('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", ["llm", "stt", "tts"])
def test_a_missing_sdk_is_named(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    made = provider(kind).create(context("http://127.0.0.1:1/v1"))
    with pytest.raises(MissingDependency, match="openai"):
        asyncio.run(made.warm_up())


# --- STT and TTS ----------------------------------------------------------------------------------------------


def frames_of(request: Request) -> bytes:
    with wave.open(io.BytesIO(request.body[request.body.index(b"RIFF") :])) as wav:
        assert (wav.getframerate(), wav.getnchannels(), wav.getsampwidth()) == (16_000, 1, 2)
        frames: bytes = wav.readframes(wav.getnframes())
        return frames


def test_stt_sends_the_utterance_as_wav() -> None:
    async def body() -> None:
        async with serving(answers(200, {"text": " Hello there. "})) as server:
            made = OpenAIStt(context(server.url, stt_model="ears"))
            await made.warm_up()
            stream = made.open(language="en-US", on_partial=lambda text: None)
            assert await stream.flush() == ""
            stream.feed(b"\x01\x02" * 1600)
            stream.feed(b"\x03\x04" * 1600)
            assert await stream.flush() == "Hello there."
            stream.reset()
            assert await stream.flush() == ""
            stream.feed(b"\x05\x06" * 1600)
            assert await stream.flush() == "Hello there."
            await stream.close()
            await made.close()
        first, second = server.requests
        assert first.path == "/v1/audio/transcriptions"
        assert all(f'name="{name}"\r\n\r\n{value}' in first.body.decode("latin1") for name, value in
                   (("model", "ears"), ("language", "en"), ("response_format", "json")))  # fmt: skip
        assert frames_of(first) == b"\x01\x02" * 1600 + b"\x03\x04" * 1600
        assert frames_of(second) == b"\x05\x06" * 1600

    run(body())


def test_stt_is_bounded_and_keeps_the_newest() -> None:
    async def body() -> None:
        async with serving(answers(200, {"text": "x"})) as server:
            made = OpenAIStt(context(server.url, stt_max_s=0.2))
            stream = made.open(language="", on_partial=lambda text: None)
            for value in range(50):
                stream.feed(bytes([value]) * 640)
            assert await stream.flush() == "x"
            await made.close()
        assert frames_of(server.requests[0]) == b"".join(bytes([value]) * 640 for value in range(40, 50))
        assert b'name="language"' not in server.requests[0].body

    run(body())


def test_stt_failures_and_cancelling() -> None:
    async def body() -> None:
        for script, code in (
            (answers(401, failure("no")), "provider_unauthorized"),
            (answers(500, failure("no")), "provider_failed"),
            (answers(200, b"{oh no"), "provider_failed"),
            (hangs, "provider_timeout"),
        ):
            async with serving(script) as server:
                made = OpenAIStt(context(server.url, total_timeout_s=0.2))
                stream = made.open(language="en", on_partial=lambda text: None)
                stream.feed(bytes(6400))
                with pytest.raises(ProviderError) as raised:
                    await stream.flush()
                assert raised.value.code == code
                await made.close()

        async with serving(hangs) as server:
            made = OpenAIStt(context(server.url))
            stream = made.open(language="en", on_partial=lambda text: None)
            stream.feed(bytes(6400))
            task = asyncio.create_task(stream.flush())
            await server.requested.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.disconnected.wait()
            await made.close()

    run(body())


def test_tts_streams_whole_samples_as_they_come() -> None:
    async def body() -> None:
        heard = asyncio.Event()

        async def script(exchange: Exchange) -> None:
            await exchange.begin("audio/pcm")
            await exchange.piece(b"\x01\x02\x03")
            await heard.wait()
            await exchange.piece(b"\x04")
            await exchange.piece(b"\x05\x06\x07")
            await exchange.end()

        async with serving(script) as server:
            made = OpenAITts(context(server.url, tts_model="mouth", voice="ash"))
            assert made.sample_rate == 24_000
            async with aclosing(made.stream("Hello.", voice=None, language="en")) as pieces:
                assert await anext(pieces) == b"\x01\x02"
                heard.set()
                rest = b"".join([piece async for piece in pieces])
            assert rest == b"\x03\x04\x05\x06"
            assert [piece async for piece in made.stream(" ... ", voice=None, language="en")] == []
            async with aclosing(made.stream("Hi.", voice="coral", language="en")) as pieces:
                await anext(pieces)
            await made.close()
        assert server.requests[0].path == "/v1/audio/speech"
        assert server.requests[0].json == {
            "input": "Hello.",
            "model": "mouth",
            "voice": "ash",
            "response_format": "pcm",
        }
        assert server.requests[1].json["voice"] == "coral"

    run(body())


def test_tts_closed_half_way_closes_the_connection() -> None:
    async def body() -> None:
        async def script(exchange: Exchange) -> None:
            await exchange.begin("application/octet-stream")
            await exchange.piece(bytes(480))
            await exchange.wait_for_disconnect()

        async with serving(script) as server:
            made = OpenAITts(context(server.url))
            async with aclosing(made.stream("Hello.", voice=None, language="en")) as pieces:
                assert await anext(pieces) == bytes(480)
            await server.disconnected.wait()
            await made.close()

    run(body())


def test_tts_failures() -> None:
    async def cut(exchange: Exchange) -> None:
        await exchange.begin("audio/pcm")
        await exchange.piece(bytes(480))
        exchange.writer.close()

    async def mp3(exchange: Exchange) -> None:
        await exchange.answer(200, b"ID3", kind="audio/mpeg")

    async def body() -> None:
        for script, code, pieces in (
            (answers(401, failure("no")), "provider_unauthorized", 0),
            (answers(404, failure("no")), "provider_rejected", 0),
            (answers(500, failure("no")), "provider_failed", 0),
            (answers(200, {"text": "?"}), "provider_rejected", 0),
            (mp3, "provider_rejected", 0),
            (hangs, "provider_timeout", 0),
            (cut, "provider_unreachable", 1),
        ):
            heard: list[bytes] = []
            async with serving(script) as server:
                made = OpenAITts(context(server.url, first_token_timeout_s=0.2))
                with pytest.raises(ProviderError) as raised:
                    await collect_into(heard, made.stream("Hello.", voice=None, language="en"))
                assert (raised.value.code, len(heard)) == (code, pieces)
                await made.close()

    run(body())


# --- a real server --------------------------------------------------------------------------------------------


@pytest.mark.models
def test_streams_from_a_real_server() -> None:
    import xllamacpp

    model_file = load_settings().models_dir / "smollm2.gguf"
    assert model_file.is_file(), "run `rejoinder models pull`"
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model_file)
    parameters.hostnames, parameters.port = ["127.0.0.1"], 0
    parameters.n_ctx, parameters.n_parallel, parameters.verbosity = 2048, 1, -1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(parameters)

    async def body() -> None:
        async with llm(f"{server.listening_address}/v1", llm_model="smollm2", total_timeout_s=60) as model:
            deltas = await collect(model, LlmRequest((Message("user", "Say hello."),), max_tokens=12))
            assert len(deltas) > 3
            assert all(isinstance(delta, str) for delta in deltas)
            # Closed half-way, the server is free for the next request at once.
            async with aclosing(
                model.stream(LlmRequest((Message("user", "Tell me a story."),), max_tokens=200))
            ) as story:
                await anext(story)
            assert await collect(model, LlmRequest((Message("user", "Say hello."),), max_tokens=5))

    async def limited() -> None:
        async with asyncio.timeout(120):
            await body()

    asyncio.run(limited())


def test_errors_name_the_server_without_its_secrets() -> None:
    from rejoinder_plugins.openai.client import OpenAISettings, place

    settings = OpenAISettings(base_url="http://svc:hunter2@127.0.0.1:9/v1?key=hunter3")
    assert place(settings) == "http://127.0.0.1:9/v1"
