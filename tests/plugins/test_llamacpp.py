from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rejoinder.errors import ConfigError, ProviderError, ProviderRejected
from rejoinder.models import ModelCache
from rejoinder.providers import LlmDelta, LlmRequest, Message, Prefilling, ProviderContext, ToolCall, ToolSchema
from rejoinder.settings import Settings
from rejoinder_plugins.llm.llamacpp import (
    BATCH,
    FIRST_TOKENS,
    KEEP_S,
    MODEL,
    LlamaCppProvider,
    LlamaCppSettings,
    _Place,
    _Slots,
)

SYSTEM = Message("system", "You are a helpful voice assistant. Answer in one short sentence.")
FRANCE = LlmRequest((SYSTEM, Message("user", "What is the capital of France?")))
WEATHER = ToolSchema(
    "weather", "The weather of a city.", {"type": "object", "properties": {"city": {"type": "string"}}}
)


@asynccontextmanager
async def provider(loaded: bool = True, server: Any = None, **settings: Any) -> AsyncIterator[LlamaCppProvider]:
    unused: Any = None
    given = msgspec.convert(settings, LlamaCppSettings)
    with ExitStack() as stack:
        pools: dict[str, ThreadPoolExecutor] = {}

        def pool(name: str, workers: int) -> ThreadPoolExecutor:
            if name not in pools:
                pools[name] = stack.enter_context(ThreadPoolExecutor(workers))
            return pools[name]

        cache = ModelCache(Settings().models_dir, {MODEL.name: MODEL})
        made = LlamaCppProvider(ProviderContext(given, cache, pool, unused))
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
    assert started < 24  # some are steps of the prompt; there would be a thousand
    assert reading < 24  # the whole prompt has 190 steps
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


def about(text: str) -> LlmRequest:
    return LlmRequest((SYSTEM, Message("user", text)))


class Watched:
    """The real engine; keeps the progress of each request's prompt: (tokens from the cache, read, in all)."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.slots: list[int] = []
        self.read: list[list[tuple[int, int, int]]] = []

    def handle_chat_completions(self, body: dict[str, Any], on_chunk: Callable[[Any], bool]) -> None:
        steps: list[tuple[int, int, int]] = []
        self.slots.append(body["id_slot"])
        self.read.append(steps)

        def watch(chunk: Any) -> bool:
            for each in chunk if isinstance(chunk, list) else [chunk]:
                if progress := each.get("prompt_progress"):
                    steps.append((progress["cache"], progress["processed"], progress["total"]))
            return on_chunk(chunk)

        self.server.handle_chat_completions(body, watch)

    def new_tokens(self, request: int = -1) -> int:
        cached, _, total = self.read[request][0]
        return total - cached


@pytest.mark.models
def test_a_prefilled_prompt_is_not_read_again() -> None:
    async def run() -> None:
        async with provider() as llm:
            assert isinstance(llm, Prefilling)
            engine = llm._server = Watched(llm._server)
            for text in ("", "Could you", "Could you tell me what", "Could you tell me what the capital of France"):
                await llm.prefill(about(text))
            # The new words, and the end of the template: the end of the turn and the beginning of the answer.
            assert [engine.new_tokens(i) < 14 for i in range(4)] == [False, True, True, True]
            assert await ask(llm, about("Could you tell me what the capital of France is?"))
            assert engine.new_tokens() < 9
            assert engine.read[-1][0][2] > 30
            await llm.prefill(about("And of Italy?"))
            assert await ask(llm, about("And of Italy?"))
            assert engine.new_tokens() == 1

    asyncio.run(run())


@pytest.mark.models
def test_the_system_prompt_alone_can_be_prefilled() -> None:
    async def run() -> None:
        async with provider() as llm:
            engine = llm._server = Watched(llm._server)
            await llm.prefill(LlmRequest((SYSTEM,)))
            await ask(llm, FRANCE)
            assert engine.new_tokens() < 16
            assert engine.new_tokens(0) > 20

    asyncio.run(run())


@pytest.mark.models
def test_conversations_at_once_keep_what_was_prefilled_for_them() -> None:
    async def run() -> None:
        async with provider() as llm:
            engine = llm._server = Watched(llm._server)
            one = "Would you please send me a large pizza with mushrooms and olives"
            other = "Where is the next station and when does the last train to London leave"
            for count in range(4, 14):
                await llm.prefill(about(" ".join(one.split()[:count])))
                await llm.prefill(about(" ".join(other.split()[:count])))
            assert len(set(engine.slots[::2])) == len(set(engine.slots[1::2])) == 1
            assert set(engine.slots) == {0, 1}
            await asyncio.gather(ask(llm, about(one + "?")), ask(llm, about(other + "?")))
            assert engine.new_tokens(-1) < 9
            assert engine.new_tokens(-2) < 9

    asyncio.run(run())


@pytest.mark.models
def test_an_answer_ends_a_prefill_after_the_step_it_is_at() -> None:
    async def run() -> None:
        async with provider() as llm:
            await llm.prefill(about(""))
            engine = llm._server = Watched(llm._server)
            reading = asyncio.create_task(llm.prefill(about("word " * 500)))
            await until(lambda: bool(engine.read and len(engine.read[0]) > 2))
            steps = len(engine.read[0])
            assert await ask(llm, about("word word word?"))
            await reading
            assert len(engine.read) == 2
            assert len(engine.read[0]) <= steps + 2
            assert engine.new_tokens(1) < 12  # what it had read by then is of use
            assert all(b[1] - a[1] <= BATCH for a, b in zip(engine.read[0], engine.read[0][1:], strict=False))

    asyncio.run(run())


class Held(Engine):
    """Comes to a halt in the middle of each prompt until it is let; runs out then."""

    def __init__(self, *chunks: Any) -> None:
        super().__init__(*chunks)
        self.may_go = threading.Event()
        self.stopped: list[bool] = []

    def handle_chat_completions(self, body: dict[str, Any], on_chunk: Any) -> None:
        self.bodies.append(body)
        assert self.may_go.wait(10)
        self.stopped.append(on_chunk({"prompt_progress": {"total": 9, "cache": 0, "processed": 8}}))
        if not self.stopped[-1]:
            for chunk in self.chunks:
                on_chunk(delta(content=chunk))

    def said(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.bodies]


def test_the_newest_prefill_replaces_those_that_wait() -> None:
    async def run() -> None:
        engine = Held()
        async with provider(server=engine, model="other.gguf") as llm:
            reading = [asyncio.create_task(llm.prefill(about("a")))]
            await until(lambda: len(engine.bodies) == 1)
            reading += [asyncio.create_task(llm.prefill(about(text))) for text in ("a b", "x", "a b c", "x y", "x y z")]
            await asyncio.sleep(0)
            engine.may_go.set()
            await asyncio.gather(*reading)
            assert engine.said() == ["a", "a b c", "x y z"]
            assert [body["max_tokens"] for body in engine.bodies] == [0] * 3
            assert llm._prefills == []

            # Unrelated ones are not hoarded either: `parallel` wait.
            engine.may_go.clear()
            reading = [asyncio.create_task(llm.prefill(about(letter))) for letter in "abcdef"]
            await asyncio.sleep(0)
            engine.may_go.set()
            await asyncio.gather(*reading)
            assert engine.said()[3:] == ["a", "e", "f"]

    asyncio.run(run())


def test_a_prefill_waits_for_the_first_words_of_an_answer_but_not_for_all_of_it() -> None:
    class Spoken(Engine):
        def handle_chat_completions(self, body: dict[str, Any], on_chunk: Any) -> None:
            self.bodies.append(body)
            if body["max_tokens"]:
                for at in range(20):
                    if at in gates:
                        reached[at].set()
                        assert gates[at].wait(10)
                    on_chunk(delta(content="word "))

    gates = {2: threading.Event(), FIRST_TOKENS + 4: threading.Event()}
    reached = {at: threading.Event() for at in gates}

    async def run() -> None:
        engine = Spoken()
        async with provider(server=engine, model="other.gguf") as llm, aclosing(llm.stream(FRANCE)) as answer:
            await anext(answer)
            await until(reached[2].is_set)
            reading = asyncio.create_task(llm.prefill(about("something else")))
            for _ in range(20):
                await asyncio.sleep(0)
            assert not reading.done()
            assert len(engine.bodies) == 1
            gates[2].set()
            await reading  # the answer is at its gate, unread
            assert len(engine.bodies) == 2
            gates[FIRST_TOKENS + 4].set()
            assert len([each async for each in answer]) == 19

    asyncio.run(run())


def test_a_prefill_takes_no_thread_and_no_slot_of_answers_and_an_answer_can_take_its() -> None:
    async def run() -> None:
        engine = Held("ok")
        async with provider(server=engine, model="other.gguf", parallel=1) as llm:
            reading = asyncio.create_task(llm.prefill(about("a b c")))
            await until(lambda: len(engine.bodies) == 1)
            answering = asyncio.create_task(ask(llm, about("a b c d")))
            await until(lambda: len(engine.bodies) == 2)  # at the engine, though the prefill is still in its step
            assert [body["id_slot"] for body in engine.bodies] == [0, 0]
            await reading
            engine.may_go.set()
            assert await answering == ["ok"]
            # Each thread of the engine notes that for itself, when it has come to its end.
            await until(lambda: len(engine.stopped) == 2)
            assert sorted(engine.stopped) == [False, True]
            # A waiting prefill that the answer goes beyond is not read after it.
            engine.may_go.clear()
            answering = asyncio.create_task(ask(llm, about("one")))
            await until(lambda: len(engine.bodies) == 3)
            waiting = asyncio.create_task(llm.prefill(about("two")))
            await asyncio.sleep(0)
            assert len(llm._prefills) == 1
            next_answer = asyncio.create_task(ask(llm, about("two three")))
            await until(lambda: len(llm._streams) == 2)
            engine.may_go.set()
            assert await answering == await next_answer == ["ok"]
            await waiting
            assert engine.said()[2:] == ["one", "two three"]

    asyncio.run(run())


def test_a_prefill_without_a_free_slot_is_given_up() -> None:
    async def run() -> None:
        engine = Engine(*["word "] * 40)
        async with provider(server=engine, model="other.gguf", parallel=1) as llm:
            assert llm._slots.take("somebody", _Place("", "")) == 0
            await llm.prefill(about("a"))
            assert engine.bodies == []

    asyncio.run(run())


def test_a_cancelled_prefill_stops_the_engine_and_the_next_one_is_read() -> None:
    async def run() -> None:
        engine = Held()
        async with provider(server=engine, model="other.gguf") as llm:
            reading = asyncio.create_task(llm.prefill(about("a")))
            await until(lambda: len(engine.bodies) == 1)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            later = asyncio.create_task(llm.prefill(about("b")))
            await asyncio.sleep(0)
            engine.may_go.set()
            await later
            assert engine.stopped == [True, False]

    asyncio.run(run())


def test_a_prefill_never_fails() -> None:
    refusal = {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}}

    async def run() -> None:
        for engine in (Engine(RuntimeError("out of memory")), Engine(ValueError("template")), Engine(refusal)):
            async with provider(server=engine, model="other.gguf") as llm:
                await llm.prefill(FRANCE)
                assert len(engine.bodies) == 1
                await llm.prefill(LlmRequest(()))
                assert [message["role"] for message in engine.bodies[1]["messages"]] == ["user"]
        async with provider(loaded=False) as llm:
            await llm.prefill(FRANCE)

    asyncio.run(run())


def test_which_slot_a_request_gets() -> None:
    now = 100.0
    slots = _Slots(2, lambda: now)

    def take(text: str, *, prefill: bool = True, lasting: str | None = None) -> int | None:
        place = _Place(text, text if lasting is None else lasting, prefill)
        slot = slots.take(place, place)
        slots.release(place, place)
        return slot

    one, other = "system: hello, would you please", "system: what is the capital"
    assert [take(one), take(other), take(one + " send"), take(other + " of"), take(one[:-6] + "send me")] == [
        0,
        1,
        0,
        1,
        0,
    ]
    # An answer whose conversation is not kept leaves only the system prompt: anybody's.
    assert take(other + " of France?", prefill=False, lasting="system: ") == 1
    assert take("system: please") == 1
    # A long conversation is not thrown away for a new one, until it has been silent for long.
    long = one + " and so on" * 20
    assert take(long) == 0
    assert take("another conversation, not as long") == 1
    assert take(long + " more") == 0
    assert take("another conversation, not as long as that") == 1
    now += KEEP_S + 1
    assert take("system: the third") == 0
    # Two at work leave none for a prefill.
    held = [_Place(text, text) for text in ("a", "b")]
    assert sorted(str(slots.take(place, place)) for place in held) == ["0", "1"]
    assert take("c") is None
    slots.release(held[0], held[0])
    assert take("c") is not None
