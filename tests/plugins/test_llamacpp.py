from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rejoinder.errors import ConfigError, ProviderError, ProviderRejected
from rejoinder.models import ModelCache
from rejoinder.providers import LlmDelta, LlmRequest, Message, ProviderContext, ToolCall, ToolSchema
from rejoinder.settings import Settings
from rejoinder_plugins.llm.llamacpp import MODEL, LlamaCppProvider, LlamaCppSettings

SYSTEM = Message("system", "You are a helpful voice assistant. Answer in one short sentence.")
FRANCE = LlmRequest((SYSTEM, Message("user", "What is the capital of France?")))
WEATHER = ToolSchema(
    "weather", "The weather of a city.", {"type": "object", "properties": {"city": {"type": "string"}}}
)


@asynccontextmanager
async def provider(loaded: bool = True, server: Any = None, **settings: Any) -> AsyncIterator[LlamaCppProvider]:
    unused: Any = None
    given = msgspec.convert(settings, LlamaCppSettings)
    with ThreadPoolExecutor(given.parallel) as executor:
        cache = ModelCache(Settings().models_dir, {MODEL.name: MODEL})
        made = LlamaCppProvider(ProviderContext(given, cache, lambda *_: executor, unused))
        made._server = server
        if loaded and server is None:
            await made.warm_up()
        yield made
        await made.close()


class Engine:
    """Stands in for the engine: streams `chunks` and keeps what it was asked."""

    def __init__(self, *chunks: Any) -> None:
        self.chunks = chunks
        self.bodies: list[dict[str, Any]] = []
        self.sent = 0

    def handle_chat_completions(self, body: dict[str, Any], on_chunk: Any) -> None:
        self.bodies.append(body)
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            self.sent += 1
            if on_chunk(chunk if isinstance(chunk, dict) else delta(content=chunk)):
                return


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields}]}


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what a thread does sets no event of ours
        await asyncio.sleep(0)


async def ask(llm: LlamaCppProvider, request: LlmRequest) -> list[LlmDelta]:
    async with aclosing(llm.stream(request)) as deltas:
        return [each async for each in deltas]


def answer(engine: Engine, request: LlmRequest, **settings: Any) -> list[LlmDelta]:
    async def run() -> list[LlmDelta]:
        async with provider(server=engine, model="other.gguf", **settings) as llm:
            return await ask(llm, request)

    return asyncio.run(run())


@pytest.mark.models
def test_streams_an_answer(capfd: pytest.CaptureFixture[str]) -> None:
    async def run() -> list[LlmDelta]:
        async with provider() as llm:
            return await ask(llm, FRANCE)

    deltas = asyncio.run(run())
    assert len(deltas) > 4
    assert "Paris" in "".join(map(str, deltas))
    assert capfd.readouterr() == ("", "")


class Counting:
    """The real engine; counts the chunks of each request."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.chunks: list[int] = []

    def handle_chat_completions(self, body: dict[str, Any], on_chunk: Callable[[Any], bool]) -> None:
        request = len(self.chunks)
        self.chunks.append(0)

        def count(chunk: Any) -> bool:
            self.chunks[request] += 1
            return on_chunk(chunk)

        self.server.handle_chat_completions(body, count)


@pytest.mark.models
def test_closing_the_answer_stops_the_model_and_the_next_request_works() -> None:
    async def run() -> list[int]:
        long = LlmRequest((SYSTEM, Message("user", "Tell me a very long story about dogs.")), max_tokens=1000)
        async with provider(parallel=1, max_tokens=1000) as llm:
            engine = llm._server = Counting(llm._server)
            stream = llm.stream(long)
            assert await anext(stream)
            await stream.aclose()
            reading = asyncio.create_task(ask(llm, LlmRequest((SYSTEM, Message("user", "word " * 1500)))))
            await until(lambda: len(engine.chunks) == 2 and engine.chunks[1] > 0)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            assert llm._streams == set()
            # There is one thread: this answer only comes once both generations before it have ended.
            assert "Paris" in "".join(map(str, await ask(llm, FRANCE)))
            return engine.chunks

    started, reading, answered = asyncio.run(run())
    assert started < 8
    assert reading < 6  # the whole prompt has 24 steps
    assert answered > 4


@pytest.mark.models
def test_two_answer_at_once_and_a_request_too_long_is_refused() -> None:
    async def run() -> None:
        async with provider() as llm:
            a, b = await asyncio.gather(ask(llm, FRANCE), ask(llm, FRANCE))
            assert a
            assert b
            with pytest.raises(ProviderRejected) as caught:
                await ask(llm, LlmRequest((SYSTEM, Message("user", "word " * 5000))))
            assert caught.value.code == "context_too_long"
            assert await ask(llm, FRANCE)

    asyncio.run(run())


def test_files_that_are_no_models(tmp_path: Path) -> None:
    async def load(model: str) -> None:
        async with provider(model=model):
            pass

    with pytest.raises(ConfigError, match="no model file"):
        asyncio.run(load(str(tmp_path / "none.gguf")))
    (tmp_path / "bad.gguf").write_bytes(b"no model")
    with pytest.raises(ProviderError) as caught:
        asyncio.run(load(str(tmp_path / "bad.gguf")))
    assert caught.value.code == "bad_model"


def test_answers_that_are_played_slowly_do_not_keep_the_next_caller_waiting() -> None:
    async def run() -> None:
        engine = Engine(*["word "] * 1000)
        async with (
            provider(server=engine, model="other.gguf", parallel=2) as llm,
            aclosing(llm.stream(FRANCE)) as first,
            aclosing(llm.stream(FRANCE)) as second,
        ):
            await anext(first)
            await anext(second)
            async with asyncio.timeout(10):  # else a failure would hang
                assert len(await ask(llm, FRANCE)) == 1000
            assert len([each async for each in first]) == 999

    asyncio.run(run())


def test_closing_an_unread_answer_stops_the_engine() -> None:
    class Gated(Engine):
        def handle_chat_completions(self, body: dict[str, Any], on_chunk: Any) -> None:
            def gated(chunk: Any) -> bool:
                assert self.sent == 1 or closed.wait(10)
                return bool(on_chunk(chunk))

            super().handle_chat_completions(body, gated)

    closed = threading.Event()

    async def run() -> None:
        engine = Gated(*["word "] * 1000)
        async with provider(server=engine, model="other.gguf") as llm:
            stream = llm.stream(FRANCE)
            await anext(stream)
            await stream.aclose()
            closed.set()
        assert engine.sent <= 2

    asyncio.run(run())


class Small(Engine):
    """Has room for `words` words, and refuses more."""

    def __init__(self, words: int) -> None:
        super().__init__("ok")
        self.words = words

    def handle_chat_completions(self, body: dict[str, Any], on_chunk: Any) -> None:
        if sum(len(message["content"].split()) for message in body["messages"]) <= self.words:
            super().handle_chat_completions(body, on_chunk)
            return
        self.bodies.append(body)
        on_chunk({"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}})


def test_a_conversation_too_long_for_the_context_loses_its_oldest_turns() -> None:
    call = ToolCall("c1", "weather", "{}")
    turns = [
        (
            Message("user", f"question {i}"),
            Message("assistant", "", tool_calls=(call,)),
            Message("tool", "sunny", tool_call_id="c1"),
            Message("assistant", f"answer {i}"),
        )
        for i in range(16)
    ]
    past = tuple(message for turn in turns for message in turn)
    request = LlmRequest((Message("system", "be brief"), *past, Message("user", "and now")))
    for words in (20, 6, 4):
        engine = Small(words)
        assert answer(engine, request, history="all") == ["ok"]
        for body in engine.bodies[1:]:
            roles = [message["role"] for message in body["messages"]]
            assert roles == ["system", *["user", "assistant", "tool", "assistant"] * (len(roles) // 4), "user"]
            assert body["messages"][-1]["content"] == "and now"
            assert body["max_tokens"] == engine.bodies[0]["max_tokens"]
        assert len(engine.bodies) <= 7
        assert 2 * sum(len(message["content"].split()) for message in engine.bodies[-1]["messages"]) >= words

    engine = Small(3)
    with pytest.raises(ProviderRejected) as caught:
        answer(engine, request, history="all")
    assert caught.value.code == "context_too_long"
    assert len(engine.bodies[-1]["messages"]) == 2


def test_the_current_turn_is_never_cut() -> None:
    call = ToolCall("c1", "weather", "{}")
    result = Message("tool", "rain", tool_call_id="c1")
    current = (Message("user", "now"), *(Message("assistant", "", tool_calls=(call,)), result) * 8)
    engine = Small(12)
    request = LlmRequest((Message("assistant", "hello there"), Message("user", "a b c d"), *current))
    assert answer(engine, request, history="all") == ["ok"]
    assert [message["content"] for message in engine.bodies[-1]["messages"]] == [each.content for each in current]


def test_an_answer_that_has_begun_is_not_begun_again() -> None:
    refusal = {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}}
    engine = Engine("so", refusal)
    with pytest.raises(ProviderRejected):
        answer(engine, LlmRequest((Message("user", "a"), Message("assistant", "b"), Message("user", "c"))))
    assert len(engine.bodies) == 1


def test_warming_up_at_once_loads_the_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []

    def load(self: LlamaCppProvider) -> Engine:
        loads.append(self)
        return Engine()

    monkeypatch.setattr(LlamaCppProvider, "_load", load)

    async def run() -> None:
        async with provider(loaded=False) as llm:
            await asyncio.gather(llm.warm_up(), llm.warm_up())
            await llm.warm_up()

    asyncio.run(run())
    assert len(loads) == 1


def test_errors_of_the_engine_reach_the_reader() -> None:
    with pytest.raises(ProviderError) as failed:
        answer(Engine("a", RuntimeError("out of memory")), FRANCE)
    assert failed.value.code == "llm_failed"
    assert failed.value.retryable
    with pytest.raises(ProviderRejected, match="template"):
        answer(Engine(ValueError("template")), FRANCE)
    with pytest.raises(ProviderRejected) as rejected:
        answer(Engine({"error": {"code": 400, "message": "long", "type": "exceed_context_size_error"}}), FRANCE)
    assert "n_ctx" in str(rejected.value.fix)


def test_tool_calls_come_whole_from_deltas() -> None:
    engine = Engine(
        "Let me look.",
        [
            delta(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "weather", "arguments": '{"ci'}}]),
            delta(tool_calls=[{"index": 0, "function": {"arguments": 'ty":"Rome"}'}}]),
        ],
    )
    engine.chunks = (engine.chunks[0], *engine.chunks[1])
    request = LlmRequest(FRANCE.messages, tools=(WEATHER,))
    assert answer(engine, request) == ["Let me look.", ToolCall("c1", "weather", '{"city":"Rome"}')]
    assert engine.bodies[0]["tools"][0]["function"]["name"] == "weather"


@pytest.mark.parametrize("frame", ["{}", "```json\n{}\n```", "\n {}\n"])
def test_a_tool_call_written_as_bare_json_is_not_spoken(frame: str) -> None:
    text = frame.replace("{}", '{"name": "weather", "arguments": {"city": "Rome"}}')
    found = answer(Engine(*text), LlmRequest(FRANCE.messages, tools=(WEATHER,)))
    assert len(found) == 1
    assert isinstance(found[0], ToolCall)
    assert (found[0].name, json.loads(found[0].arguments)) == ("weather", {"city": "Rome"})


def test_other_text_in_braces_is_text() -> None:
    request = LlmRequest(FRANCE.messages, tools=(WEATHER,))
    for text in ('{"name": "unknown", "arguments": {}}', "{curly} talk", '{"name": "weather"', "``plain", '[{"a": 1}]'):
        assert "".join(map(str, answer(Engine(*text), request))) == text
    assert answer(Engine("{", "}"), FRANCE) == ["{", "}"]


def test_history_is_cut_to_whole_messages_and_keeps_the_current_turn() -> None:
    call = ToolCall("c1", "weather", "{}")
    messages = (
        SYSTEM,
        Message("user", "first"),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "sunny", tool_call_id="c1"),
        Message("assistant", "It is sunny."),
        Message("user", "second"),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "rain", tool_call_id="c1"),
    )

    def sent(**settings: Any) -> list[str]:
        engine = Engine("ok")
        answer(engine, LlmRequest(messages), **settings)
        return [message["content"] or message["role"] for message in engine.bodies[0]["messages"]]

    now = ["second", "assistant", "rain"]
    assert sent() == sent(history="all") == [SYSTEM.content, "first", "assistant", "sunny", "It is sunny.", *now]
    assert sent(history=2) == [SYSTEM.content, "It is sunny.", *now]
    assert sent(history=0) == [SYSTEM.content, *now]


def test_the_embedded_model_is_asked_in_the_way_it_copes_with() -> None:
    async def run() -> dict[str, Any]:
        engine = Engine("ok")
        async with provider(server=engine) as llm:
            past = (SYSTEM, Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
            await ask(llm, LlmRequest(past, tools=(WEATHER,), temperature=0.9))
        return engine.bodies[0]

    body = asyncio.run(run())
    assert [message["content"] for message in body["messages"]] == [SYSTEM.content, "c"]
    assert "tools" not in body
    assert body["temperature"] == 0.2
    assert body["max_tokens"] == 90


def test_it_is_asked_only_once_loaded() -> None:
    async def run() -> None:
        async with provider(loaded=False) as llm:
            with pytest.raises(ProviderError, match="not loaded"):
                await ask(llm, FRANCE)

    asyncio.run(run())
