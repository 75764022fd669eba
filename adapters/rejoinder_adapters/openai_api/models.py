"""Which agent or provider a model name means, and the models that are listed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, cast

from rejoinder.app import Runtime
from rejoinder.errors import UnknownName
from rejoinder.host import Services
from rejoinder.providers import SttProvider, TtsProvider
from rejoinder.settings import Agent
from rejoinder_adapters.openai_api.errors import ApiError

AudioKind = Literal["tts", "stt"]
_ALIASES: dict[AudioKind, re.Pattern[str]] = {
    "tts": re.compile(r"tts-1|gpt-.*tts"),
    "stt": re.compile(r"whisper|gpt-.*transcribe"),
}
"""Names of OpenAI's own models, which clients have built in: they mean the default agent."""


async def agent_of(runtime: Runtime, name: str | None) -> tuple[str, Agent]:
    """The agent called `name` (None: the default one), with its name.

    Raises:
        UnknownName: there is none (`unknown_agent`).
        ConfigError: its definition does not fit this release.
    """
    chosen = await runtime.catalog.get(name)
    return chosen.name, chosen.definition


async def agent_names(runtime: Runtime) -> list[str]:
    """The names of all agents, the default one first."""
    default, _ = await agent_of(runtime, None)
    return [default, *(agent.name for agent in await runtime.catalog.all() if agent.name != default)]


@dataclass(frozen=True, slots=True)
class Speaking:
    """Who speaks: an agent's TTS chain, or one provider alone."""

    agent: Agent
    tts: dict[str, TtsProvider]
    voice: str | None


@dataclass(frozen=True, slots=True)
class Hearing:
    """Who listens: an agent's STT chain, or one provider alone; the VAD is the agent's."""

    agent: Agent
    services: Services
    stt: dict[str, SttProvider]


async def speaking(runtime: Runtime, model: str) -> Speaking:
    """Who speaks as `model`: an agent, a TTS provider, or the default agent for OpenAI's names.

    Raises:
        ApiError: nobody does (404 `model_not_found`).
        RejoinderError: they cannot be loaded.
    """
    agent, provider = await _audio_model(runtime, model, "tts")
    if provider is not None:
        return Speaking(agent, {provider: cast(TtsProvider, await runtime.provider("tts", provider))}, None)
    return Speaking(agent, dict((await runtime.services(agent)).tts), agent.voice)


async def hearing(runtime: Runtime, model: str) -> Hearing:
    """Who listens as `model`: an agent, an STT provider, or the default agent for OpenAI's names.

    Raises:
        ApiError: nobody does (404 `model_not_found`).
        RejoinderError: they cannot be loaded.
    """
    agent, provider = await _audio_model(runtime, model, "stt")
    services = await runtime.services(agent)
    if provider is not None:
        return Hearing(agent, services, {provider: cast(SttProvider, await runtime.provider("stt", provider))})
    return Hearing(agent, services, dict(services.stt))


async def _audio_model(runtime: Runtime, model: str, kind: AudioKind) -> tuple[Agent, str | None]:
    try:
        return (await agent_of(runtime, model or None))[1], None
    except UnknownName:
        _, default = await agent_of(runtime, None)
    if any(offer.name == model for offer in runtime.plugins.providers(kind)):
        return default, model
    if _ALIASES[kind].match(model):
        return default, None
    providers = ", ".join(offer.name for offer in runtime.plugins.providers(kind))
    message = f"There is no model {model!r} for this; use the name of an agent or of a provider ({providers})."
    raise ApiError(404, message, param="model", code="model_not_found")


async def find_model(runtime: Runtime, model: str, created: int) -> dict[str, Any]:
    """The model object of `model`; the audio models are not listed, but found.

    Raises:
        ApiError: there is none (404 `model_not_found`).
    """
    try:
        name, _ = await agent_of(runtime, model)
    except UnknownName as error:
        audio = any(offer.name == model for kind in _ALIASES for offer in runtime.plugins.providers(kind))
        if not audio and not any(alias.match(model) for alias in _ALIASES.values()):
            raise ApiError(404, error.message, param="model", code="model_not_found") from None
        name = model
    return model_object(name, created)


def model_object(name: str, created: int) -> dict[str, Any]:
    """A model as OpenAI describes it; `created` in Unix seconds."""
    return {"id": name, "object": "model", "created": created, "owned_by": "rejoinder"}
