"""The Rejoinder plugin `espeak`: speech in a hundred languages by the program espeak-ng."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import msgspec
from rejoinder import hookimpl
from rejoinder.providers import Capabilities, Provider, ProviderContext

if TYPE_CHECKING:
    from rejoinder_espeak.voice import EspeakTts

REJOINDER_API = "1.0"
NAME = "espeak"
RATE = 22_050
"""Hz of what espeak-ng makes."""
LANGUAGES = tuple(
    "af am an ar as az ba be bg bn bs ca cmn cs cv cy da de el en eo es et eu fa fi fr ga gd gn gu hak haw he hi hr "
    "ht hu hy hyw ia id io is it ja jbo ka kk kl kn ko kok ku ky la lb lfn lt ltg lv mi mk ml mr ms mt my nb nci ne nl "
    "no nog om or pa pap pl pt py qu quc ro ru sd shn si sjn sk sl smj sq sr sv sw ta te th tk tn tr tt ug uk ur uz vi "
    "yue zh".split()
)
"""What espeak-ng 1.51 speaks. Asking the program takes a process, and every command of Rejoinder imports this module;
what the installed one does not speak is refused when it is asked for."""


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """What can be set in `[plugins.espeak]`."""

    rate: Annotated[int, msgspec.Meta(ge=80, le=450)] = 175
    """Words per minute."""
    pitch: Annotated[int, msgspec.Meta(ge=0, le=99)] = 50
    volume: Annotated[int, msgspec.Meta(ge=0, le=200)] = 100
    """Above 100 it may be distorted."""
    word_gap_ms: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    """Further silence between words."""
    variant: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{0,32}$")] = ""
    """How the voice sounds where an agent names none: `f1` to `f5`, `m1` to `m8`, `whisper`, `croak` and others."""
    program: str = "espeak-ng"


def _create(context: ProviderContext) -> EspeakTts:
    from rejoinder_espeak.voice import EspeakTts

    return EspeakTts(context)


@hookimpl
def register_providers() -> Iterable[Provider]:
    """Offer `espeak`."""
    capabilities = Capabilities(streaming=True, languages=LANGUAGES, sample_rates=(RATE,))
    return [Provider("tts", NAME, "eSpeak NG: a hundred languages, on any CPU", _create, Settings, capabilities)]
