"""The rules for judges of interruptions: quick, sure of what they say, and without memory."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rejoinder.providers import Judgement, Overlap
from rejoinder.testing.conformance.measure import timed_ms
from rejoinder.testing.conformance.provider import TRIES, Bad, ProviderConformance
from rejoinder.testing.conformance.rules import NotChecked, Seen, Violation, rule
from rejoinder.testing.conformance.speech import speech
from rejoinder.testing.scripted import noise, tone

JUDGE_MS = 4.0
"""The contract says about 2; twice that allows for a slow machine."""
_CAUSE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
AGENT = "There are three parts that work together as one. Ask me for more whenever you like."
SAID: tuple[str | None, ...] = (
    "Stop.",
    "Mm-hmm.",
    "No, I meant the other one.",
    "three parts that work",
    "",
    None,
    "Yeah",
    "Wait",
)


class InterruptionConformance(ProviderConformance):
    """What a judge of interruptions must do; see `rejoinder.providers.InterruptionJudge`."""

    kind = "interruption"
    samples: Sequence[tuple[Any, str]] = ()

    def overlaps(self) -> list[Overlap]:
        """Speech over the agent: a stop word, a nod, a question, the agent's own words, a noise, nothing known yet."""
        try:
            sound = speech(self.samples, self.language)[0].pcm[:64_000]
        except NotChecked:
            sound = noise(2000)
        return [
            Overlap(
                text=text,
                final=number % 2 == 0,
                speech_ms=400.0 + 200 * (number % 3),
                audio=sound if number % 3 else noise(900, seed=number),
                played=tone(3000) if number % 2 else noise(1000, seed=number) + sound,
                agent_text=AGENT,
                min_words=1,
                language=self.language,
            )
            for number, text in enumerate(SAID)
        ]

    async def use(self, provider: Any, number: int = 0) -> Judgement | None:
        """Judge an overlap."""
        overlaps = self.overlaps()
        found: Judgement | None = provider.judge(overlaps[number % len(overlaps)])
        return found

    def bad_inputs(self) -> Sequence[Bad]:
        """Overlaps that are hardly any."""
        usual = self.overlaps()[2]
        overlaps = {
            "nothing at all": Overlap("", True, 0.0, b"", b"", "", 0, ""),
            "no sound": replace(usual, audio=b"", played=b""),
            "a single sample": replace(usual, audio=b"\x00\x01", played=b"\x00\x01"),
            "a lone surrogate": replace(usual, text="stop \ud800", agent_text="\ud800"),
            "an unknown language": replace(usual, language="xx-YY"),
            "a very long text": replace(usual, text="and then " * 500, agent_text="but then " * 500),
        }

        def give(overlap: Overlap) -> Any:
            async def run(provider: Any) -> object:
                return provider.judge(overlap)

            return run

        return [(what, give(overlap)) for what, overlap in overlaps.items()]

    @rule
    async def test_judgement(self) -> Seen:
        """It answers a `Judgement` with a cause in snake_case, or None without an opinion."""
        async with self.ready() as provider:
            found = [provider.judge(overlap) for overlap in self.overlaps()]
        for value in found:
            if value is None:
                continue
            if not isinstance(value, Judgement):
                raise Violation(
                    f"`judge` gives {type(value).__name__}",
                    'return `Judgement(stop=True, cause="...")` or None; it is no coroutine function',
                )
            if not isinstance(value.stop, bool):
                raise Violation(f"`stop` is {value.stop!r}", "make it True or False")
            if not isinstance(value.cause, str) or not _CAUSE.fullmatch(value.cause):
                raise Violation(
                    f"the cause {value.cause!r} is not in snake_case",
                    "use a short word such as `stop_word`: it is the name of a number in metrics",
                )
        causes = sorted({value.cause for value in found if value is not None})
        return Seen(f"{', '.join(causes) or 'no opinion'}")

    @rule
    async def test_judges_quickly(self) -> Seen:
        """A judgement takes at most 4 ms, since it is made on the event loop."""
        overlaps = self.overlaps()
        async with self.ready() as provider:
            best = float("inf")
            for _ in range(TRIES):
                took = []
                for overlap in overlaps * 4:
                    began = time.perf_counter()
                    provider.judge(overlap)
                    took.append(timed_ms(began))
                best = min(best, sorted(took)[len(took) // 2])
        if best > JUDGE_MS:
            raise Violation(
                f"a judgement takes {best:.1f} ms (the median)",
                "do less: it is asked every 40 ms while somebody speaks over the agent; prepare tables in `warm_up`",
                judge_ms=best,
            )
        return Seen(f"{best:.2f} ms", judge_ms=best)

    @rule
    async def test_no_memory(self) -> Seen:
        """It judges the same speech the same whatever came before: it is one for all sessions."""
        async with self.ready() as provider:
            first = [provider.judge(overlap) for overlap in self.overlaps()]
            again = [provider.judge(overlap) for overlap in reversed(self.overlaps())]
        if first != again[::-1]:
            raise Violation(
                "the same speech is judged in two ways", "keep nothing from one call of `judge` for the next"
            )
        return Seen("the same each time")
