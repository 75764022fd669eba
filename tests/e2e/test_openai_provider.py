"""The `openai` provider against a server that nobody here wrote: llama.cpp's, with the embedded model."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest

from rejoinder.client import VoiceClient
from rejoinder.errors import ProviderRejected
from rejoinder.events import Interrupt, ReplyFinished, ReplyText, Text
from rejoinder.models import ModelCache
from rejoinder.providers import LlmDelta, LlmProvider, LlmRequest, Message, ProviderContext, ToolCall, ToolSchema
from rejoinder.settings import load_settings
from rejoinder_plugins.openai.client import OpenAISettings
from rejoinder_plugins.openai.llm import OpenAILlm

if TYPE_CHECKING:
    from tests.e2e.conftest import Start

pytestmark = pytest.mark.models
PATIENCE_S = 120
STORY = LlmRequest((Message("user", "Tell me a long story about a whale."),), max_tokens=300, temperature=0)
CLOCK = ToolSchema(
    "clock",
    "Tells the time.",
    {"type": "object", "properties": {"time_zone": {"type": "string"}}, "required": ["time_zone"]},
)


@dataclass(frozen=True)
class LlamaServer:
    """The server as it is seen from outside."""

    address: str

    @property
    def url(self) -> str:
        return f"{self.address}/v1"

    async def slot(self) -> dict[str, Any]:
        """What its only slot is doing, by its own account."""
        async with httpx.AsyncClient(trust_env=False) as client:
            slots = (await client.get(f"{self.address}/slots")).json()
        assert len(slots) == 1
        return dict(slots[0])

    async def decoded(self) -> int:
        """How many steps the model has computed since the server started."""
        async with httpx.AsyncClient(trust_env=False) as client:
            page = (await client.get(f"{self.address}/metrics")).text
        return int(page.split("\nllamacpp:n_decode_total ")[1].split("\n")[0])

    async def until(self, is_processing: bool) -> None:
        """Return when the slot is (not) at work; the test's own deadline ends the waiting."""
        while (await self.slot())["is_processing"] is not is_processing:  # noqa: ASYNC110 - it can only be asked
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def server() -> Iterator[LlamaServer]:
    model = load_settings().models_dir / "smollm2.gguf"
    assert model.is_file(), "run `rejoinder models pull`"
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("llamacpp_server.py")), str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, "the server did not start"
        yield LlamaServer(address)
    finally:
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def no_llm(name: str) -> LlmProvider:
    raise AssertionError(name)


@asynccontextmanager
async def llm(server: LlamaServer, **settings: Any) -> AsyncIterator[OpenAILlm]:
    struct = msgspec.convert({"base_url": server.url, "llm_model": "smollm2", **settings}, OpenAISettings)
    made = OpenAILlm(ProviderContext(struct, ModelCache(Path(), {}), lambda _, n: ThreadPoolExecutor(n), no_llm))
    await made.warm_up()
    try:
        yield made
    finally:
        await made.close()


async def collect(model: OpenAILlm, request: LlmRequest) -> list[LlmDelta]:
    async with aclosing(model.stream(request)) as deltas:
        return [delta async for delta in deltas]


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await body()

    asyncio.run(limited())


def test_the_first_words_come_while_the_server_still_generates(server: LlamaServer) -> None:
    async def body() -> None:
        async with llm(server) as model, aclosing(model.stream(STORY)) as deltas:
            assert isinstance(await anext(deltas), str)
            slot = await server.slot()
            assert slot["is_processing"]
            assert slot["next_token"][0]["n_decoded"] < STORY.max_tokens / 2

    run(body)


def test_a_whole_answer_is_what_the_server_says_without_streaming(server: LlamaServer) -> None:
    async def body() -> None:
        request = LlmRequest((Message("user", "Say hello."),), max_tokens=16, temperature=0)
        async with llm(server) as model:
            deltas = await collect(model, request)
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            answer = await client.post(
                f"{server.url}/chat/completions",
                json={
                    "messages": [{"role": "user", "content": "Say hello."}],
                    "max_tokens": 16,
                    "temperature": 0,
                },
            )
        assert len(deltas) > 3
        assert "".join(str(delta) for delta in deltas) == answer.json()["choices"][0]["message"]["content"]

    run(body)


@pytest.mark.parametrize("how", ["closed", "cancelled"])
def test_a_stream_that_is_given_up_stops_the_model(server: LlamaServer, how: str) -> None:
    async def body() -> None:
        async with llm(server) as model:
            at_first = await server.decoded()
            await collect(model, STORY)
            whole = await server.decoded() - at_first
            begun = asyncio.Event()

            async def read() -> None:
                async with aclosing(model.stream(STORY)) as deltas:
                    async for _ in deltas:
                        begun.set()
                        if how == "closed":
                            return

            before = await server.decoded()
            task = asyncio.create_task(read())
            await begun.wait()
            if how == "cancelled":
                task.cancel()
            await asyncio.wait([task])
            await server.until(is_processing=False)
            stopped = await server.decoded()
            assert stopped - before < whole / 2
            # The slot is free for the next request at once, and nothing of the old one runs on beside it.
            assert await collect(model, LlmRequest((Message("user", "Hi."),), max_tokens=1, temperature=0))
            assert await server.decoded() - stopped < 10

    run(body)


def test_the_next_request_may_come_at_once(server: LlamaServer) -> None:
    """As after a tool's result. This server closes its connection after each streamed answer, and does not say so."""

    async def body() -> None:
        async with llm(server) as model:
            for _ in range(10):
                assert await collect(model, LlmRequest((Message("user", "Hi."),), max_tokens=2, temperature=0))

    run(body)


def clock_chat(*zones: str) -> tuple[Message, ...]:
    """A conversation in which the clock was asked each time: the small model goes on as it has seen itself do."""
    messages: list[Message] = []
    for number, zone in enumerate(zones):
        call = ToolCall(f"call_{number}", "clock", json.dumps({"time_zone": zone}))
        messages += (
            Message("user", f"What time is it in {zone}?"),
            Message("assistant", "", (call,)),
            Message("tool", "noon", tool_call_id=call.id),
            Message("assistant", "It is noon."),
        )
    return tuple(messages)


def test_a_tool_call_comes_whole(server: LlamaServer) -> None:
    async def body() -> None:
        messages = (
            *clock_chat("UTC", "Europe/Paris", "UTC"),
            Message("user", "What time is it in Europe/Paris?"),
        )
        async with llm(server) as model:
            deltas = await collect(model, LlmRequest(messages, (CLOCK,), max_tokens=60, temperature=0))
        calls = [delta for delta in deltas if isinstance(delta, ToolCall)]
        assert [call.name for call in calls] == ["clock"]
        assert calls[0].id
        assert json.loads(calls[0].arguments) == {"time_zone": "Europe/Paris"}
        assert "".join(delta for delta in deltas if isinstance(delta, str)).strip() == ""

    run(body)


def test_tool_results_are_taken_and_answered(server: LlamaServer) -> None:
    async def body() -> None:
        messages = (*clock_chat("UTC", "Europe/Paris"), *clock_chat("UTC")[:-1])
        async with llm(server) as model:
            deltas = await collect(model, LlmRequest(messages, (CLOCK,), max_tokens=30, temperature=0))
        assert "noon" in "".join(delta for delta in deltas if isinstance(delta, str))

    run(body)


def test_a_request_that_the_server_refuses_is_named_as_such(server: LlamaServer) -> None:
    async def body() -> None:
        async with llm(server) as model:
            with pytest.raises(ProviderRejected, match="context size") as raised:
                await collect(model, LlmRequest((Message("user", "whale " * 5000),)))
        assert not raised.value.retryable

    run(body)


def agents(server: LlamaServer) -> dict[str, str]:
    """The settings of `rejoinder serve`: only the language model is real."""
    agent = {"vad": "scripted", "stt": "scripted", "llm": "openai", "tts": "scripted", "tools": ["clock"]}
    return {
        "AGENTS": json.dumps({"scripted": {**agent, "max_tokens": 1200, "temperature": 0}}),
        "PLUGINS": json.dumps({"scripted": {"ms_per_word": 20}, "openai": {"base_url": server.url}}),
    }


def test_a_session_talks_through_it(server: LlamaServer, start: Start) -> None:
    rejoinder = start({}, **agents(server))

    async def body() -> None:
        async with VoiceClient.connect(rejoinder.url) as client:
            first = await client.say_text("Say hello.", timeout=60)
            second = await client.say_text("Say it again.", timeout=60)
        assert len(first.reply_text.split()) > 1
        assert first.reply_text.strip()
        assert second.reply_text.strip()

    run(body)


def test_a_barge_in_reaches_the_model(server: LlamaServer, start: Start) -> None:
    rejoinder = start({}, **agents(server))

    async def body() -> None:
        begun, finished = asyncio.Event(), asyncio.Event()
        replies: list[ReplyFinished] = []

        def see(event: object) -> None:
            if isinstance(event, ReplyText):
                begun.set()
            elif isinstance(event, ReplyFinished):
                replies.append(event)
                finished.set()

        async with VoiceClient.connect(rejoinder.url, on_event=see) as client:
            await client.send(Text(text="Tell me a long story about a whale."))
            await begun.wait()
            assert (await server.slot())["is_processing"]
            await client.send(Interrupt())
            await server.until(is_processing=False)
            await finished.wait()
            stopped_at = await server.decoded()
        assert replies[0].reason == "interrupted"
        assert await server.decoded() == stopped_at

    run(body)
