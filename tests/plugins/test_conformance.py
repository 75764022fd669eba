"""Our own plugins keep the rules of the conformance kit, as those of strangers must."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from tests.plugins.test_openai import Exchange, chunk, fragment, serving

from rejoinder.testing import (
    AdapterConformance,
    InterruptionConformance,
    LlmConformance,
    SttConformance,
    ToolConformance,
    TtsConformance,
    TurnConformance,
    VadConformance,
)
from rejoinder.testing.scripted import tone

SENTENCE = "Please call me back tomorrow morning."


# --- VAD, turns, interruptions ------------------------------------------------------------------------------------


@pytest.mark.models
class TestWebrtcVad(VadConformance):
    provider = "webrtcvad"


@pytest.mark.models
class TestSilero(VadConformance):
    provider = "silero"


class TestRules(TurnConformance):
    provider = "rules"


@pytest.mark.models
class TestSmartTurn(TurnConformance):
    provider = "smart_turn"
    # A pause takes 55 ms of a core.
    runs = 40


class TestEcho(InterruptionConformance):
    provider = "echo"


class TestWords(InterruptionConformance):
    provider = "words"


# --- speech -------------------------------------------------------------------------------------------------------


@pytest.mark.models
class TestMoonshine(SttConformance):
    provider = "moonshine"
    # An utterance takes 100 ms of a core.
    runs = 40
    real_s = 3.0


@pytest.mark.models
class TestHibari(TtsConformance):
    plugin = "rejoinder_plugins.tts.hibari"
    provider = "hibari"


# --- LLMs ---------------------------------------------------------------------------------------------------------


class TestGuide(LlmConformance):
    provider = "guide"
    settings: Mapping[str, Any] = {"fallback": None}
    # It calls its own few tools only.
    test_tool_calls = None  # type: ignore[assignment]


@pytest.mark.models
class TestLlamaCpp(LlmConformance):
    provider = "llamacpp"
    # An answer takes half a second of all cores.
    runs = 16
    max_tokens = 16
    most_s = 15.0
    # So small a model does not call what it is offered; that a call is read is tested in test_llamacpp.py.
    test_tool_calls = None  # type: ignore[assignment]


# --- scripted providers: what they say is given, so it has nothing to do with what they hear ------------------------


class TestScriptedTts(TtsConformance):
    provider = "scripted"
    settings: Mapping[str, Any] = {"ms_per_word": 250}


class TestScriptedLlm(LlmConformance):
    provider = "scripted"
    # By its settings it only says a text.
    test_tool_calls = None  # type: ignore[assignment]


class TestScriptedVad(VadConformance):
    provider = "scripted"


# --- tools --------------------------------------------------------------------------------------------------------


class TestClock(ToolConformance):
    tool = "clock"
    arguments: Mapping[str, Any] = {"time_zone": "Europe/Paris"}


class TestCalculator(ToolConformance):
    tool = "calculator"
    arguments: Mapping[str, Any] = {"expression": "(12 + 30) * 1.5"}


class TestLastLatency(ToolConformance):
    tool = "last_latency"


class TestEndCall(ToolConformance):
    tool = "end_call"


class TestHttpGet(ToolConformance):
    tool = "http_get"


# --- an adapter ---------------------------------------------------------------------------------------------------


class TestRest(AdapterConformance):
    plugin = "rejoinder_adapters.rest"
    # It has some fifty routes.
    runs = 60
    # And no section of its own.
    test_settings = None  # type: ignore[assignment]


# --- openai, beside a server that says what it is told ----------------------------------------------------------------


async def answer(exchange: Exchange) -> None:
    """What a server of a model gives, slowly enough to be cut off."""
    request = exchange.request
    if request.path.endswith("/audio/speech"):
        await exchange.begin("audio/pcm")
        words = len(re.findall(r"\w+", request.json["input"]))
        for _ in range(words):
            await exchange.piece(tone(250, 24_000))
            await asyncio.sleep(0.001)
        await exchange.end()
    elif request.path.endswith("/audio/transcriptions"):
        start = request.body.index(b"data", request.body.index(b"WAVE")) + 8
        sound = request.body[start : start + int.from_bytes(request.body[start - 4 : start], "little") // 2 * 2]
        loud = np.abs(np.frombuffer(sound, "<i2").astype(int)).max(initial=0) > 1000
        await exchange.answer(200, json.dumps({"text": SENTENCE if loud else ""}).encode())
    else:
        await exchange.begin()
        asked = "".join(message["content"] or "" for message in request.json["messages"][-1:])
        if "weather" in asked and request.json.get("tools"):
            await exchange.sse(chunk(tool_calls=[fragment(0, "call_1", "get_weather", '{"city": ')]))
            await exchange.sse(chunk(tool_calls=[fragment(0, None, None, '"Paris"}')]))
        else:
            for word in SENTENCE.split():
                await exchange.sse(chunk(content=f"{word} "))
                await asyncio.sleep(0.001)
        await exchange.sse(chunk("stop"), "[DONE]")
        await exchange.end()


@contextmanager
def server() -> Iterator[str]:
    """The address of a server in a thread of its own: each rule has another event loop."""
    ready, stop = threading.Event(), asyncio.Event()
    found: dict[str, Any] = {}

    async def run() -> None:
        found["loop"] = asyncio.get_running_loop()
        async with serving(answer) as made:
            found["url"] = made.url
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="openai server")
    thread.start()
    assert ready.wait(10)
    try:
        yield found["url"]
    finally:
        found["loop"].call_soon_threadsafe(stop.set)
        thread.join(10)


@pytest.fixture(scope="class", autouse=True)
def openai_server(request: pytest.FixtureRequest) -> Iterator[None]:
    """The suites of `openai` are told where their server is."""
    if getattr(request.cls, "provider", "") != "openai":
        yield
        return
    with server() as url:
        request.cls.settings = {"base_url": url, "api_key": "secret", **request.cls.settings}
        yield


class TestOpenAILlm(LlmConformance):
    provider = "openai"
    runs = 100


class TestOpenAITts(TtsConformance):
    provider = "openai"
    runs = 60


@pytest.mark.models
class TestOpenAIStt(SttConformance):
    provider = "openai"
    runs = 60
    real_s = 1.0
    # The server says one sentence, whatever it hears.
    error_rate = 1.0
