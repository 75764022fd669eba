"""The Rejoinder plugin `pocketsphinx`: English speech recognition by PocketSphinx, model included."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import msgspec
from rejoinder import hookimpl
from rejoinder.providers import Capabilities, Provider, ProviderContext

if TYPE_CHECKING:
    from rejoinder_pocketsphinx.recogniser import PocketsphinxStt

REJOINDER_API = "1.0"
NAME = "pocketsphinx"
RATE = 16_000
"""Hz of the audio it is fed."""


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """What can be set in `[plugins.pocketsphinx]`."""

    decoders: Annotated[int, msgspec.Meta(ge=1, le=32)] = msgspec.field(
        default_factory=lambda: min(2, os.cpu_count() or 1)
    )
    """Processes of about 100 MB. As many people may speak at the same moment; others wait for one that is free."""
    partials: bool = True


def _create(context: ProviderContext) -> PocketsphinxStt:
    from rejoinder_pocketsphinx.recogniser import PocketsphinxStt

    return PocketsphinxStt(context)


@hookimpl
def register_providers() -> Iterable[Provider]:
    """Offer `pocketsphinx`."""
    capabilities = Capabilities(streaming=True, languages=("en",))
    return [Provider("stt", NAME, "PocketSphinx, English, on the CPU", _create, Settings, capabilities)]
