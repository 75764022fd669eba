"""The rules for TTS providers: real speech at the rate they say, in order, at once, and only where there are words."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rejoinder.errors import ProviderRejected, RejoinderError
from rejoinder.providers import WordTime
from rejoinder.testing.conformance.measure import timed_ms
from rejoinder.testing.conformance.provider import Asynchronous, Bad, check_streaming, closed_ms
from rejoinder.testing.conformance.rules import NotChecked, Seen, Violation, bounded, rule

SENTENCE = "The quick brown fox jumps over the lazy dog."
LONG = "First we walk down to the river. Then we cross the old bridge and turn left. " * 3
TEXTS = (
    "Good morning.",
    SENTENCE,
    "Please call me back tomorrow morning at nine o'clock.",
    "Yes.",
    "I have put two tickets in your basket, and one more for your brother.",
    "How far is the moon?",
    "The train to London leaves at half past seven from platform number four.",
    "Thank you, goodbye.",
)
SILENT = ("", "   \n\t ", "😀 🎉", "...", "\u200b")
CHARS_PER_S = (9.0, 27.0)
"""People speak about 13 to 20 characters a second; at half or twice the rate it is mostly outside of this."""
QUIET = 0.01
SILENCE_MS = 600.0
NOISE, ROUGH = 0.2, 0.75
"""How alike neighbouring samples of something that is no speech, or maybe no PCM16, are; speech has 0.8 to 1."""


class Spoken(NamedTuple):
    """What a stream gave: its pieces, the word times with how many bytes came before each, and when the first came."""

    pieces: list[bytes]
    times: list[tuple[WordTime, int]]
    first_ms: float

    @property
    def pcm(self) -> bytes:
        """All the audio."""
        return b"".join(self.pieces)


class TtsConformance(Asynchronous):
    """What a TTS provider must do; see `rejoinder.providers.TtsProvider`."""

    kind = "tts"
    voice: str | None = None
    chars_per_s = CHARS_PER_S
    """How many characters are spoken in a second: from, to. Other scripts than Latin need other numbers."""
    sentence = SENTENCE
    """A sentence in `language`."""
    texts: Sequence[str] = TEXTS
    """Eight texts in `language`."""

    async def speak(self, provider: Any, text: str, **other: Any) -> Spoken:
        """The speech of `text`."""
        return await spoken(
            provider, text, voice=other.get("voice", self.voice), language=other.get("language", self.language)
        )

    async def use(self, provider: Any, number: int = 0) -> float:
        """Speak a text; returns how long the audio is, in s."""
        found = await self.speak(provider, self.texts[number % len(self.texts)])
        return len(found.pcm) / (2 * float(provider.sample_rate))

    def differs(self, alone: Any, together: Any) -> str:
        """Voices that are never quite the same may differ in length by a quarter."""
        if abs(alone - together) <= max(0.3, 0.25 * alone):
            return ""
        return f"{alone:.2f} s of audio alone, {together:.2f} s together with others"

    async def first_output(self, provider: Any) -> float:
        """Until the first audio."""
        return (await self.speak(provider, self.sentence)).first_ms

    async def cut_stream(self, provider: Any) -> float:
        """Close a long answer after its first audio."""
        stream = provider.stream(LONG, voice=self.voice, language=self.language)
        async for item in stream:
            if isinstance(item, bytes):
                break
        return await closed_ms(stream)

    async def open_use(self, provider: Any) -> object:
        """Read a long text slowly."""
        return await self.speak(provider, LONG)

    def bad_inputs(self) -> Sequence[Bad]:
        """Texts that are none, or that nobody expects."""
        texts = {
            "a lone surrogate": "Hello \ud800 world.",
            "control characters": "Hello\x00\x07\x1b[31m world.",
            "markup": "<speak><break time='9s'/>*Hello* `world` & \"you\" -- it's</speak>",
            "another script": "Привет мир. 你好，世界。",
            "a very long word": "a" * 300,
            "only punctuation": "?!… --- ()",
            "right to left and combining marks": "שלום e\u0301\u0301\u0301 \u202eabc",
            "numbers and symbols": "1/0 = ∞; 3.14159e-10 €, #!$%",
            "an option": "-h --version",
        }

        def give(text: str) -> Any:
            return lambda provider: self.speak(provider, text)

        return [*((what, give(text)) for what, text in texts.items()), ("an unknown voice", self._ask_unknown_voice)]

    async def _ask_unknown_voice(self, provider: Any) -> None:
        try:
            await self.speak(provider, self.sentence, voice="no-such-voice")
        except ProviderRejected:
            pass
        except RejoinderError as error:
            raise Violation(
                f"an unknown voice gives {type(error).__name__}: {error}, which is tried again",
                'raise ProviderRejected(NAME, "has no voice ...", code="unknown_voice"), or speak with another voice',
            ) from None

    @rule
    async def test_format(self) -> Seen:
        """The audio is whole samples of PCM16: no file header, no floats, no other coding."""
        async with self.ready() as provider:
            rate = provider.sample_rate
            found = await bounded(self.speak(provider, self.sentence), 60, "One use")
        if not isinstance(rate, int) or isinstance(rate, bool) or not 8_000 <= rate <= 192_000:
            raise Violation(f"`sample_rate` is {rate!r}", "set it to the rate of the audio in Hz, an int")
        if not found.pcm:
            raise Violation(f"{self.sentence!r} yields no audio", "yield the speech as bytes")
        odd = [len(piece) for piece in found.pieces if len(piece) % 2]
        if odd:
            raise Violation(
                f"a piece has {odd[0]} bytes: half a sample is missing",
                "yield whole samples of 2 bytes; keep an odd byte for the next piece",
            )
        if any(not piece for piece in found.pieces):
            raise Violation("a piece is empty", "leave out empty pieces")
        if wrong := _miscoded(found.pcm):
            raise Violation(*wrong)
        return Seen(f"{len(found.pieces)} pieces, {len(found.pcm) / 2 / rate:.1f} s at {rate} Hz")

    @rule
    async def test_loudness(self) -> Seen:
        """The speech is audible and not distorted."""
        async with self.ready() as provider:
            samples = _decoded((await bounded(self.speak(provider, self.sentence), 60, "One use")).pcm)
        peak = float(np.abs(samples).max())
        if peak < 0.02:
            raise Violation(
                f"the loudest sample is {20 * np.log10(max(peak, 1e-5)):.0f} dB of full scale",
                "scale floats from -1 to 1 by 32767",
            )
        clipped = float((np.abs(samples) >= 0.999).mean())
        if clipped > 0.02:
            raise Violation(
                f"{clipped:.0%} of the samples are at full scale", "lower the gain, so that the speech is not clipped"
            )
        return Seen(f"peak {20 * np.log10(peak):.0f} dB", peak_db=float(20 * np.log10(peak)))

    @rule
    async def test_sample_rate(self) -> Seen:
        """At the rate it says, it speaks as fast as people do."""
        _, offer = self.offer()
        async with self.ready() as provider:
            rate = provider.sample_rate
            found = await bounded(self.speak(provider, self.sentence), 60, "One use")
        declared = offer.capabilities.sample_rates
        if declared and rate not in declared:
            raise Violation(
                f"`sample_rate` is {rate}, its capabilities say {', '.join(map(str, declared))}",
                "name all rates it may have in `Capabilities(sample_rates=...)`",
            )
        loud = _loud(_decoded(found.pcm))
        seconds = (int(loud[-1]) - int(loud[0]) + 1) / rate
        speed = len(self.sentence) / seconds
        least, most = self.chars_per_s
        if not least <= speed <= most:
            raise Violation(
                f"at {rate} Hz it speaks {speed:.0f} characters a second, people {least:g} to {most:g}",
                "set `sample_rate` to the rate of the audio that is yielded (a wrong one sounds too high or low), or "
                "set `chars_per_s` for a language where this is right",
                chars_per_s=speed,
            )
        return Seen(f"{speed:.0f} characters a second", chars_per_s=speed)

    @rule
    async def test_silence_at_ends(self) -> Seen:
        """There is no long silence before or after the speech."""
        async with self.ready() as provider:
            rate = provider.sample_rate
            samples = _decoded((await bounded(self.speak(provider, self.sentence), 60, "One use")).pcm)
        loud = _loud(samples)
        before, after = loud[0] * 1000 / rate, (len(samples) - 1 - loud[-1]) * 1000 / rate
        if max(before, after) > SILENCE_MS:
            raise Violation(
                f"{before:.0f} ms of silence before the speech, {after:.0f} ms after it",
                "cut it off, for example with `rejoinder.audio.trim_silence`: every answer waits for it",
                before_ms=before,
                after_ms=after,
            )
        return Seen(f"{before:.0f} ms before, {after:.0f} ms after", before_ms=before, after_ms=after)

    @rule
    async def test_streaming(self) -> Seen:
        """It streams where it says so: a long text comes in several pieces, the first well before the last."""
        _, offer = self.offer()
        async with self.ready() as provider:
            found = await bounded(self.speak(provider, LONG), 60, "One use")
        count = len(found.pieces)
        check_streaming(offer, count, "text")
        return Seen(f"{count} pieces")

    @rule
    async def test_word_times(self) -> Seen:
        """Word times are in order, within the audio, and come before or with the audio of their word."""
        _, offer = self.offer()
        async with self.ready() as provider:
            rate = provider.sample_rate
            found = await bounded(self.speak(provider, self.sentence), 60, "One use")
        if not found.times:
            if offer.capabilities.word_times:
                raise Violation(
                    "its capabilities say `word_times=True`, but it yields none",
                    "yield `WordTime(text, start_ms, end_ms)`, or leave `word_times` out",
                )
            return Seen("it knows none")
        length = len(found.pcm) * 1000 / (2 * rate)
        last = 0.0
        for word, bytes_before in found.times:
            heard = bytes_before * 1000 / (2 * rate)
            if not (0 <= word.start_ms <= word.end_ms) or word.start_ms < last - 1:
                raise Violation(
                    f"the time of {word.text!r} is {word.start_ms:.0f} to {word.end_ms:.0f} ms, out of order",
                    "yield the words as they are spoken, in ms from the start of the stream's audio",
                )
            if word.end_ms > length + 50:
                raise Violation(
                    f"{word.text!r} ends at {word.end_ms:.0f} ms, the audio already at {length:.0f} ms",
                    "give times in ms (not s, not samples) from the start of the stream's audio",
                )
            if word.end_ms < heard - 50:
                raise Violation(
                    f"the time of {word.text!r} comes {heard - word.end_ms:.0f} ms of audio too late",
                    "yield a `WordTime` before the audio of its word, or with it",
                )
            last = word.start_ms
        if not offer.capabilities.word_times:
            raise Violation("it yields word times but does not say so", "say `Capabilities(word_times=True)`")
        return Seen(f"{len(found.times)} words")

    @rule
    async def test_nothing_to_say(self) -> Seen:
        """Text without anything to say yields nothing."""
        async with self.ready() as provider:
            for text in SILENT:
                try:
                    found = await bounded(self.speak(provider, text), 60, f"Speaking {text!r}")
                except RejoinderError as error:
                    raise Violation(
                        f"{text!r} gives {type(error).__name__}: {error}", "yield nothing where there is no word"
                    ) from None
                except Violation:
                    raise
                except Exception as error:
                    raise Violation(
                        f"{text!r} gives {type(error).__name__}: {error}", "yield nothing where there is no word"
                    ) from error
                if found.pcm:
                    ms = len(found.pcm) * 500 / provider.sample_rate
                    raise Violation(
                        f"{text!r} yields {ms:.0f} ms of audio",
                        "leave out what is no word, and yield nothing if no letter or digit is left",
                    )
        return Seen(f"{len(SILENT)} texts without a word")

    @rule
    async def test_other_language(self) -> Seen:
        """A language it does not speak is refused with ProviderRejected, or spoken all the same."""
        async with self.ready() as provider:
            try:
                found = await bounded(self.speak(provider, self.sentence, language="xx-YY"), 60, "Another language")
            except ProviderRejected:
                return Seen("refused")
            except Violation:
                raise
            except Exception as error:
                raise Violation(
                    f"an unknown language gives {type(error).__name__}: {error}",
                    'raise ProviderRejected(NAME, "does not speak ...", code="unsupported_language")',
                ) from error
        if not found.pcm:
            raise Violation("an unknown language gives silence", "raise ProviderRejected, or speak all the same")
        return Seen("spoken all the same")


async def spoken(provider: Any, text: str, *, voice: str | None, language: str) -> Spoken:
    """All that the stream of `text` gives.

    Raises:
        Violation: something in it is neither bytes nor a `WordTime`, or nothing comes for long.
    """
    pieces: list[bytes] = []
    times: list[tuple[WordTime, int]] = []
    size, first_ms = 0, 0.0
    began = time.perf_counter()
    stream = provider.stream(text, voice=voice, language=language)
    if not hasattr(stream, "aclose") or not hasattr(stream, "__anext__"):
        raise Violation(
            f"`stream` gives {type(stream).__name__}, not an async generator",
            "write it as `async def stream(...)` with `yield` in it",
        )
    async with aclosing(stream):
        async for item in stream:
            if isinstance(item, WordTime):
                times.append((item, size))
            elif isinstance(item, bytes):
                first_ms = first_ms or timed_ms(began)
                pieces.append(item)
                size += len(item)
            else:
                raise Violation(
                    f"`stream` yields {type(item).__name__}", "yield `bytes` of PCM16, and `WordTime`s if it knows them"
                )
            # The engine passes each piece on before it asks for the next one.
            await asyncio.sleep(0)
    return Spoken(pieces, times, first_ms)


def _samples(pcm: bytes) -> NDArray[np.float32]:
    return np.frombuffer(pcm[: len(pcm) // 2 * 2], "<i2").astype(np.float32) / np.float32(32768)


def _miscoded(pcm: bytes) -> tuple[str, str] | None:
    """What the audio is, if it is not raw PCM16, and what to do."""
    heads = {b"RIFF": "a WAV file", b"OggS": "an Ogg file", b"ID3": "an MP3 file", b"fLaC": "a FLAC file"}
    for head, what in heads.items():
        if pcm.startswith(head):
            return (
                f"the audio begins with {head!r}: it is {what}",
                "yield raw PCM16 (`pcm_s16le`, mono) without a header; `rejoinder.audio.read_wav` reads WAV files",
            )
    floats = np.frombuffer(pcm[: len(pcm) // 4 * 4], "<f4")
    with np.errstate(all="ignore"):
        usual = np.isfinite(floats) & (np.abs(floats) <= 1.5) & ((floats == 0) | (np.abs(floats) > 1e-9))
    if len(floats) and usual.mean() > 0.95 and np.abs(_samples(pcm)).max() > 0.05:
        return (
            "the audio is 32-bit floats",
            "convert it: `rejoinder.audio.from_float(samples)` makes PCM16 of them",
        )
    even = pcm[: len(pcm) // 2 * 2]
    smooth = _smoothness(_samples(even))
    octets = np.frombuffer(even, np.uint8)
    others = {
        "mu-law": _smoothness(_from_mu_law(octets)),
        "A-law": _smoothness(_from_mu_law(octets ^ np.uint8(0xAA))),
        "big-endian": _smoothness(np.frombuffer(even, ">i2").astype(np.float32)),
        "8 bits a sample": _smoothness(octets.astype(np.float32) - 128),
    }
    like = max(others, key=lambda name: others[name])
    # Read as bytes, PCM16 is rough, since every second one is the lower half of a sample; only very quiet sound looks
    # much the same in either order of bytes.
    if others[like] > smooth + 0.02 and (like != "big-endian" or smooth < ROUGH):
        return f"the audio is {like}", f"decode it from {like} to PCM16: signed, 16 bits a sample, little-endian"
    if smooth < NOISE:
        return (
            "the audio is noise when read as PCM16",
            "decode it first (MP3, Opus, mu-law), and yield signed 16 bits a sample, little-endian",
        )
    return None


def _decoded(pcm: bytes) -> NDArray[np.float32]:
    """The samples of `pcm`.

    Raises:
        NotChecked: it is no PCM16; there is a rule of its own for that.
    """
    if not pcm or _miscoded(pcm):
        raise NotChecked("there is no PCM16; see the rule `format`")
    return _samples(pcm)


def _loud(samples: NDArray[np.float32]) -> NDArray[np.intp]:
    """Where it can be heard."""
    loud = np.flatnonzero(np.abs(samples) > QUIET)
    if not len(loud):
        raise NotChecked("there is nothing to hear; see the rule `loudness`")
    return loud


def _smoothness(samples: NDArray[np.float32]) -> float:
    """How alike neighbouring samples are: near 1 for speech, about 0 for noise."""
    if len(samples) < 2:
        return 1.0
    centred = samples - samples.mean()
    power = float(np.dot(centred, centred))
    return float(np.dot(centred[1:], centred[:-1])) / power if power > 0 else 1.0


def _from_mu_law(octets: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Samples of G.711 mu-law; A-law is nearly the same once its bits are turned over."""
    codes = ~octets
    size = (((codes & 15).astype(np.float32) * 8 + 132) * 2.0 ** ((codes >> 4) & 7)) - 132
    return np.where(codes & 128, -size, size).astype(np.float32)
