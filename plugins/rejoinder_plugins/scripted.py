"""Scripted providers as a plugin: for benchmarks and tests of the engine itself, without any model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import msgspec

from rejoinder.hookspecs import hookimpl
from rejoinder.providers import Capabilities, LlmDelta, LlmRequest, Provider, ProviderContext, VadAdvice

NAME = "scripted"
REPLY = (
    "Certainly, here is what I can tell you about it. There are three parts that work together as one. "
    "Ask me for more whenever you like."
)


class ScriptedSettings(msgspec.Struct, forbid_unknown_fields=True):
    """What the scripted providers do; times in ms."""

    start_ms: int = 200
    end_silence_ms: int = 200
    transcript: str = "tell me about it"
    reply: str = REPLY
    repeat: int = 1
    """How often the reply is said in a row."""
    first_token_ms: float = 0
    token_ms: float = 0
    ms_per_word: float = 60
    first_audio_ms: float = 0
    sample_rate: int = 16_000


def _vad(context: ProviderContext) -> object:
    from rejoinder.testing.scripted import ScriptedVad

    settings = cast(ScriptedSettings, context.settings)
    return ScriptedVad(VadAdvice(start_ms=settings.start_ms, end_silence_ms=settings.end_silence_ms))


def _stt(context: ProviderContext) -> object:
    from rejoinder.testing.scripted import ScriptedStt

    return ScriptedStt((cast(ScriptedSettings, context.settings).transcript,))


def _llm(context: ProviderContext) -> object:
    from rejoinder.testing.scripted import ScriptedLlm

    settings = cast(ScriptedSettings, context.settings)
    words = settings.reply.split()

    def script(request: LlmRequest) -> Iterable[LlmDelta | float]:
        if settings.first_token_ms:
            yield settings.first_token_ms / 1000
        for _ in range(settings.repeat):
            for word in words:
                yield word + " "
                if settings.token_ms:
                    yield settings.token_ms / 1000

    return ScriptedLlm(script)


def _tts(context: ProviderContext) -> object:
    from rejoinder.testing.scripted import ScriptedTts

    settings = cast(ScriptedSettings, context.settings)
    return ScriptedTts(settings.sample_rate, settings.ms_per_word, delay_s=settings.first_audio_ms / 1000, timed=True)


@hookimpl
def register_providers() -> Iterable[Provider]:
    """One of each kind."""
    makers = {"vad": _vad, "stt": _stt, "llm": _llm, "tts": _tts}
    return [
        Provider(
            kind,  # type: ignore[arg-type]
            NAME,
            "scripted, for benchmarks and tests",
            make,  # type: ignore[arg-type]
            ScriptedSettings,
            Capabilities(streaming=True if kind in ("llm", "tts") else None, word_times=kind == "tts"),
        )
        for kind, make in makers.items()
    ]
