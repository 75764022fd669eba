"""The TTS provider `hibari`: a small English voice that speaks about a hundred times faster than real time."""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import Annotated, Any

import msgspec

from rejoinder import audio
from rejoinder.errors import MissingDependency, ProviderError, ProviderRejected
from rejoinder.hookspecs import hookimpl
from rejoinder.providers import Capabilities, Provider, ProviderContext

NAME = "hibari"
VOICE = "heart"
RATE = 24_000
WORKERS = 2
PIECE_MS = 500
GAIN = 1.6
"""+4 dB: the voice peaks at 0.3 to 0.5 of full scale."""
PEAK = 0.98
PAUSES = {**dict.fromkeys(".!?…", 120), **dict.fromkeys(",;:—–", 40)}
"""Silence after a sentence and after a clause, in ms. The voice's own is 450 to 550 and is cut off."""


class HibariSettings(msgspec.Struct, forbid_unknown_fields=True):
    """`speed` 1.0 is the voice's own pace."""

    speed: Annotated[float, msgspec.Meta(ge=0.5, le=2.0)] = 1.0


class HibariProvider:
    """One voice, shared by all sessions; a sentence takes about 30 ms in one of two threads."""

    sample_rate = RATE
    voices = (VOICE,)

    def __init__(self, context: ProviderContext) -> None:
        self._context = context
        self._speed: float = context.settings.speed
        self._voice: Any = None

    async def warm_up(self) -> None:
        """Load the voice and the pronunciation dictionary (about 1 s).

        Raises:
            MissingDependency: hibari-tts is not installed.
            ProviderError: it cannot be loaded.
        """
        if self._voice is None:
            self._voice = await self._in_thread(self._load)

    async def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[bytes, None]:
        """The speech of `text`, sentence by sentence, in pieces of up to 500 ms.

        Raises:
            ProviderRejected: there is no such voice, or the language is not English.
            ProviderError: it could not be spoken.
        """
        if voice not in (None, VOICE):
            raise ProviderRejected(
                NAME, f"has no voice {voice!r}.", code="unknown_voice", fix=f"Use {VOICE!r} or none."
            )
        if language.partition("-")[0].lower() != "en":
            raise ProviderRejected(
                NAME, f"speaks English only, not {language!r}.", code="unsupported_language", fix="Set another `tts`."
            )
        if self._voice is None:
            raise ProviderError(NAME, "is not loaded.", code="not_ready", fix="Call warm_up() first.")
        if not (text := speakable(text)):
            return
        step = audio.byte_count(PIECE_MS, RATE)
        pcm, rest = await self._in_thread(self._begin, text)
        while True:
            for start in range(0, len(pcm), step):
                yield pcm[start : start + step]
            if not rest:
                return
            pcm = await self._in_thread(self._speak, *rest.pop(0))

    async def close(self) -> None:
        """Let go of the voice."""
        self._voice = None

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        try:
            executor = self._context.executor(NAME, WORKERS)
            return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)
        except MissingDependency:
            raise
        except Exception as error:
            raise ProviderError(NAME, f"{error}", code="tts_failed") from error

    def _load(self) -> Any:
        try:
            from hibari import Hibari
        except ImportError:
            raise MissingDependency(NAME, "hibari-tts", "local") from None
        voice = Hibari(voice=VOICE, threads=1)
        voice("Ready, Rejoinder.")  # a word that no dictionary has loads the rules for those, too (20 ms)
        return voice

    def _begin(self, text: str) -> tuple[bytes, list[tuple[str, int]]]:
        """The first sentence's audio, in one go: each change of threads takes a while when the cores are busy."""
        parts = self._phonemes(text)
        return (self._speak(*parts[0]) if parts else b""), parts[1:]

    def _phonemes(self, text: str) -> list[tuple[str, int]]:
        """The phonemes of each sentence and the pause after it in ms."""
        parts = []
        for sentence in self._voice.split_sentences(text):
            spoken = self._voice.phonemize(sentence)
            last = sentence.rstrip(" \"')]”’")[-1:]
            parts += [(phonemes, PAUSES[","]) for phonemes in spoken[:-1]]
            parts += [(phonemes, PAUSES.get(last, 0)) for phonemes in spoken[-1:]]
        return parts

    def _speak(self, phonemes: str, pause_ms: int) -> bytes:
        samples = audio.trim_silence(self._voice.from_phonemes(phonemes, speed=self._speed), RATE)
        if not len(samples):
            return b""
        gain = min(GAIN, PEAK / float(abs(samples).max()))
        return audio.from_float(samples, gain) + bytes(audio.byte_count(pause_ms, RATE))


_URL = re.compile(r"\b(?:https?://|www\.)(?:www\.)?([\w.-]*\w)(?:[:/?#][^\s)\]>]*[\w/])?", re.IGNORECASE)
_REPLACEMENTS = (
    (re.compile(r"!?\[([^\]]*)\]\([^)\s]*\)"), r"\1"),  # links and images: their text
    (_URL, r"\1"),  # addresses: their host
    (re.compile(r"(?<=\w)@(?=\w)"), " at "),
    (re.compile(r"(?<=[A-Za-z0-9])\.(?=[a-z]{2})"), " dot "),  # example.com, but not e.g. nor 3.5
    (re.compile(r"^\s*(?:#{1,6}|>|[-*+•])\s+", re.MULTILINE), ""),  # headings, quotes, list items
    (re.compile(r"```\w*|[`~]+|(?<!\d)\*+(?=\S)|(?<=\S)\*+(?!\d)|\b_+|_+\b"), ""),  # code and emphasis
    (re.compile(r"\s*\|\s*"), ", "),  # cells of tables
    (re.compile(r"[^\S\n]+"), " "),
)


def speakable(text: str) -> str:
    """`text` as one would read it out: no markup, no emoji, of addresses the host alone; "" if no word is left."""
    for pattern, replacement in _REPLACEMENTS:
        text = pattern.sub(replacement, text)
    text = "".join(_characters(unicodedata.normalize("NFC", text))).strip()
    return text if any(character.isalnum() for character in text) else ""


def _characters(text: str) -> Iterator[str]:
    """Without pictures (emoji are "other symbols"), their modifiers and control characters."""
    for character in text:
        if character in "°\n" or unicodedata.category(character) not in (
            "So",
            "Sk",
            "Mn",
            "Cc",
            "Cf",
            "Cn",
            "Co",
            "Cs",
        ):
            yield character


@hookimpl
def register_providers() -> Iterable[Provider]:
    """Offer `hibari`."""
    capabilities = Capabilities(streaming=True, languages=("en",), sample_rates=(RATE,))
    return [Provider("tts", NAME, "A small English voice on the CPU", HibariProvider, HibariSettings, capabilities)]
