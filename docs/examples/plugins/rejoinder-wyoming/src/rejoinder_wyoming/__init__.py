"""The Rejoinder plugin `wyoming`: any Wyoming server as STT and TTS provider."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import msgspec
from rejoinder import hookimpl
from rejoinder.providers import Capabilities, Provider, ProviderContext

if TYPE_CHECKING:
    from rejoinder_wyoming.stt import WyomingStt
    from rejoinder_wyoming.tts import WyomingTts

REJOINDER_API = "1.0"
NAME = "wyoming"


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """What can be set in `[plugins.wyoming]`, for both providers. An address is `tcp://HOST:PORT` or `unix:///PATH`."""

    stt_uri: str = ""
    tts_uri: str = ""
    model: str = ""
    """Of the STT server; "": its own choice."""
    voice: str = ""
    """Where an agent names none; "": the first that speaks the agent's language."""
    speaker: str = ""
    """Of a voice that has several."""
    connect_timeout_ms: Annotated[int, msgspec.Meta(ge=10)] = 1_000
    reply_timeout_ms: Annotated[int, msgspec.Meta(ge=100)] = 10_000
    """The server may be silent for so long while something is wanted of it."""


def _create_stt(context: ProviderContext) -> WyomingStt:
    from rejoinder_wyoming.stt import WyomingStt

    return WyomingStt(context)


def _create_tts(context: ProviderContext) -> WyomingTts:
    from rejoinder_wyoming.tts import WyomingTts

    return WyomingTts(context)


@hookimpl
def register_providers() -> Iterable[Provider]:
    """Offer `wyoming`, twice."""
    return [
        Provider("stt", NAME, "A Wyoming speech-to-text server", _create_stt, Settings, Capabilities(streaming=True)),
        Provider("tts", NAME, "A Wyoming text-to-speech server", _create_tts, Settings, Capabilities(streaming=True)),
    ]
