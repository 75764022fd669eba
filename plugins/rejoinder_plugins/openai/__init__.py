"""Providers `openai`: LLM, STT and TTS of any server that speaks OpenAI's HTTP API, through the official SDK."""

from __future__ import annotations

from rejoinder.hookspecs import hookimpl
from rejoinder.providers import Capabilities, Provider
from rejoinder_plugins.openai.client import NAME, OpenAISettings
from rejoinder_plugins.openai.llm import OpenAILlm
from rejoinder_plugins.openai.stt import OpenAIStt
from rejoinder_plugins.openai.tts import OpenAITts


@hookimpl
def register_providers() -> list[Provider]:
    """One provider per kind; all three read the same settings."""
    server = "of any OpenAI-compatible server"
    return [
        Provider("llm", NAME, f"chat completions {server}", OpenAILlm, OpenAISettings, Capabilities(streaming=True)),
        Provider("stt", NAME, f"transcriptions {server}", OpenAIStt, OpenAISettings, Capabilities(streaming=False)),
        Provider("tts", NAME, f"speech {server}", OpenAITts, OpenAISettings, Capabilities(streaming=True)),
    ]
