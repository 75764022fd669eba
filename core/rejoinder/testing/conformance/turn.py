"""The rules for turn detectors: an opinion from 0 to 1 or none, in time, of whatever somebody said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rejoinder import audio
from rejoinder.providers import TurnSoFar
from rejoinder.testing.conformance.provider import TRIES, USE_S, Asynchronous, Bad
from rejoinder.testing.conformance.rules import NotChecked, Seen, Violation, bounded, rule
from rejoinder.testing.conformance.speech import Speech, speech
from rejoinder.testing.scripted import noise, silence

LONGEST = audio.byte_count(8_000, audio.ENGINE_RATE)
PAUSE_MS = 60.0


class TurnConformance(Asynchronous):
    """What a turn detector must do; see `rejoinder.providers.TurnDetector`."""

    kind = "turn"
    first_output_ms = 200.0
    """It is asked while everybody waits: its opinion must be there before `turns.min_silence_ms` are over."""
    samples: Sequence[tuple[Any, str]] = ()
    """WAV files and what is said in them; none: sentences spoken by an installed TTS."""

    def turns(self) -> list[TurnSoFar]:
        """Turns up to a pause: said in full, broken off, very short and very long."""
        try:
            known = speech(self.samples, self.language)
        except NotChecked:
            known = [Speech(noise(1500), "Please call me back tomorrow morning.")]
        made = [self.turn(one.text, one.pcm) for one in known]
        made += [self.turn(text, known[0].pcm) for text in ("I would like to", "Yes.", "My number is five five", "Um")]
        return [*made, self.turn(" ".join(one.text for one in known), (b"".join(one.pcm for one in known) * 3))]

    def turn(self, text: str, pcm: bytes, asked: str = "How can I help you?") -> TurnSoFar:
        """A turn as the engine gives it: the newest 8 s, the pause included."""
        heard = (pcm + silence(PAUSE_MS))[-LONGEST:]
        return TurnSoFar(text, heard, PAUSE_MS, asked, self.language)

    async def use(self, provider: Any, number: int = 0) -> float | None:
        """Judge a turn."""
        turns = self.turns()
        found: float | None = await provider.judge(turns[number % len(turns)])
        return found

    def differs(self, alone: Any, together: Any) -> str:
        """The same opinion."""
        if alone is None or together is None:
            return "" if alone is together else f"{alone} alone, {together} together with others"
        return "" if abs(alone - together) < 0.02 else f"{alone} alone, {together} together with others"

    def bad_inputs(self) -> Sequence[Bad]:
        """Turns that are hardly any."""
        turns = {
            "nothing at all": TurnSoFar("", b"", 0.0, "", ""),
            "silence": TurnSoFar("", silence(8_000), 8_000.0, "", self.language),
            "a lone surrogate": self.turn("hello \ud800", noise(500)),
            "an unknown language": replace(self.turn("hello", noise(500)), language="xx-YY"),
            "a very long text": self.turn("and then " * 5_000, noise(8_000)),
            "a single sample": TurnSoFar("hello", b"\x00\x01", 60.0, "", self.language),
            "the loudest noise": self.turn("", noise(8_000, level=32_767)),
        }

        def give(turn: TurnSoFar) -> Any:
            return lambda provider: provider.judge(turn)

        return [(what, give(turn)) for what, turn in turns.items()]

    @rule
    async def test_opinion(self) -> Seen:
        """It answers a float from 0 to 1, or None without an opinion."""
        async with self.ready() as provider:
            if not isinstance(provider.wants_text, bool):
                raise Violation(f"`wants_text` is {provider.wants_text!r}", "set it to True or False")
            found = [await bounded(provider.judge(turn), USE_S, "`judge`") for turn in self.turns()]
        for value in found:
            if value is not None and (type(value) not in (float, int) or not 0 <= value <= 1):
                raise Violation(
                    f"`judge` gives {value!r}", "return a `float` from 0 to 1 (`float(probability)`), or None"
                )
        known = [value for value in found if value is not None]
        if not known:
            return Seen(f"no opinion on {len(found)} turns")
        return Seen(f"{min(known):.2f} to {max(known):.2f}; no opinion on {len(found) - len(known)} of {len(found)}")

    @rule
    async def test_no_memory(self) -> Seen:
        """It judges a turn the same whatever came before: it is one for all sessions."""
        async with self.ready() as provider:
            first = [await bounded(self.use(provider, n), USE_S, "`judge`") for n in range(TRIES)]
            again = [await bounded(self.use(provider, n), USE_S, "`judge`") for n in reversed(range(TRIES))]
        for one, other in zip(first, reversed(again), strict=True):
            if problem := self.differs(one, other):
                raise Violation(
                    f"the same turn is judged in two ways ({one}, {other}): {problem}",
                    "keep nothing from one call of `judge` for the next; all it may know is in `TurnSoFar`",
                )
        return Seen("the same each time")
