"""OpenAI's SDK against a real server with the embedded models: what is spoken is understood, and the guide answers."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from rejoinder.commands.ownserver import own_server

from .conftest import Start

pytestmark = pytest.mark.models

SENTENCES = "The train to the city leaves at seven in the morning. Please bring your ticket and a warm coat."


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with own_server({}, inherit=False, core=None, realtime=False, ready_s=120) as server:
        url = server.url.strip().replace("ws://", "http://")
        with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
            yield client


def words(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9 ]", " ", text.lower()).split()


def likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, words(one), words(other)).ratio()


@pytest.mark.parametrize("name", ["mp3", "wav", "opus"])
def test_what_is_spoken_is_understood(client: openai.OpenAI, name: Any) -> None:
    speech = client.audio.speech.create(model="tts-1", voice="alloy", input=SENTENCES, response_format=name)
    result = client.audio.transcriptions.create(
        model="whisper-1", file=(f"speech.{name}", speech.content), response_format="verbose_json"
    )
    assert likeness(result.text, SENTENCES) > 0.85, result.text
    assert 3 < float(result.duration) < 15


def test_a_long_speech_is_transcribed_in_pieces_and_in_order(client: openai.OpenAI) -> None:
    numbers = ("one", "two", "three", "four", "five", "six")
    text = " ".join(f"This is part {number}. {SENTENCES}" for number in numbers)
    speech = client.audio.speech.create(model="hibari", voice="heart", input=text, response_format="flac")
    events: Any = list(
        client.audio.transcriptions.create(model="moonshine", file=("speech.flac", speech.content), stream=True)
    )
    assert len(events) > 2
    assert likeness(events[-1].text, text) > 0.8, events[-1].text


def test_the_guide_answers_and_uses_its_tools(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="guide", messages=[{"role": "user", "content": "What is twelve plus thirty?"}], stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert re.search(r"\b(42|forty[- ]two)\b", text, re.IGNORECASE), text


def test_the_small_model_answers_what_no_rule_knows(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model="guide", messages=[{"role": "user", "content": "Tell me about rivers."}], max_tokens=20
    )
    assert completion.choices[0].message.content
    assert completion.usage is not None
    assert completion.usage.completion_tokens <= 60


def test_a_server_that_stops_does_not_wait_for_streams(start: Start) -> None:
    server = start({"token_ms": 200, "repeat": 1000})
    url = server.url.strip().replace("ws://", "http://")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as own:
        chat = own.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": "hello"}], stream=True, max_tokens=100_000
        )
        assert next(chat).choices[0].delta.role == "assistant"
        server.process.terminate()
        assert server.wait(10) < 8
        with pytest.raises(openai.APIConnectionError):
            list(chat)
    assert server.process.returncode == 0, server.said
    assert "Traceback" not in server.said
