"""Providers `openai`: LLM, STT and TTS of any server that speaks OpenAI's HTTP API, through the official SDK."""

from __future__ import annotations

from rejoinder.hookspecs import hookimpl
from rejoinder.providers import Provider
from rejoinder_plugins.openai.client import OpenAISettings
from rejoinder_plugins.openai.llm import OpenAILlm
from rejoinder_plugins.openai.stt import OpenAIStt
from rejoinder_plugins.openai.tts import OpenAITts


@hookimpl
def register_providers() -> list[Provider]:
    """One provider per kind; all three read the same settings."""
    return [
        Provider("llm", "openai", "chat completions of any OpenAI-compatible server", OpenAILlm, OpenAISettings),
        Provider("stt", "openai", "transcriptions of any OpenAI-compatible server", OpenAIStt, OpenAISettings),
        Provider("tts", "openai", "speech of any OpenAI-compatible server", OpenAITts, OpenAISettings),
    ]
