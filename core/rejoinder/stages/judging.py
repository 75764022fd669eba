"""Asks the plugins that judge: turn detectors whether a turn is over, judges whether the user means to interrupt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from rejoinder.breaker import Breaker
from rejoinder.errors import ProviderTimeout, RejoinderError
from rejoinder.guard import FAULTS, failure_of, wrong_type
from rejoinder.providers import InterruptionJudge, Judgement, Overlap, TurnDetector, TurnSoFar

log = logging.getLogger(__name__)
TURN_AUDIO_MS = 8000
"""The newest audio of a turn that turn detectors get."""
OVERLAP_AUDIO_MS = 2000
"""The newest audio that judges of interruptions get."""
PLAYED_AUDIO_MS = 3000
"""What the client played, for them: as much, and a second more for the delay of an echo."""


class EndOfTurn:
    """The turn detectors of one session; of those that fail again and again `breaker` keeps away."""

    def __init__(
        self, detectors: Mapping[str, TurnDetector], limit_s: float = 1.0, breaker: Breaker | None = None
    ) -> None:
        self._breaker = breaker or Breaker()
        self._readers = {name: d for name, d in detectors.items() if d.wants_text}
        self._hearers = {name: d for name, d in detectors.items() if not d.wants_text}
        self._limit_s = limit_s

    @property
    def wants_audio(self) -> bool:
        """Whether one of them listens, which pays to be asked before there is a transcript."""
        return bool(self._hearers)

    async def listen(self, turn: TurnSoFar) -> float | None:
        """The probability that the turn is over, of those that need no transcript: the most doubtful counts."""
        return await self._ask(self._hearers, turn)

    async def read(self, turn: TurnSoFar) -> float | None:
        """As `listen`, of those that read the transcript."""
        return await self._ask(self._readers, turn)

    async def _ask(self, detectors: Mapping[str, TurnDetector], turn: TurnSoFar) -> float | None:
        return doubtful(*[await self._one(name, detector, turn) for name, detector in detectors.items()])

    async def _one(self, name: str, detector: TurnDetector, turn: TurnSoFar) -> float | None:
        if self._breaker.rests("turn", name):
            return None
        self._breaker.asked("turn", name)
        failure: Exception
        try:
            async with asyncio.timeout(self._limit_s):
                probability = await detector.judge(turn)
            if not (probability is None or isinstance(probability, int | float)):
                raise wrong_type(name, "judge", "a probability or None", probability)
            self._breaker.worked("turn", name)
            return probability
        except TimeoutError:
            failure = ProviderTimeout(name, f"no answer within {self._limit_s:g} s")
            log.warning("the turn detector %s did not answer within %g s", name, self._limit_s)
        except RejoinderError as error:
            failure = error
            log.warning("the turn detector failed: %s", error.explain())
        except (Exception, SystemExit) as error:
            failure = failure_of(error, name)
            log.exception("the turn detector %s failed", name)
        self._breaker.failed("turn", name, failure)
        return None


def doubtful(*probabilities: float | None) -> float | None:
    """The least of the `probabilities` that are known: to cut somebody off is worse than to wait a little."""
    return min((p for p in probabilities if p is not None), default=None)


class Judges:
    """The judges of interruptions of one session, asked in turn; the first that knows is believed."""

    def __init__(self, judges: Mapping[str, InterruptionJudge], breaker: Breaker | None = None) -> None:
        self._judges = dict(judges)
        self._breaker = breaker or Breaker()

    def judge(self, overlap: Overlap) -> Judgement | None:
        """Whether the agent is to stop. Where nobody knows in the end, words stop it and sounds do not."""
        for name, judge in tuple(self._judges.items()):
            try:
                if judgement := judge.judge(overlap):
                    return judgement
            except FAULTS as error:
                log.exception("the judge %s failed and is not asked again in this session", name)
                self._breaker.failed("interruption", name, failure_of(error, name))
                del self._judges[name]
        words = len(overlap.text.split()) if overlap.text else 0
        # A judge that cannot tell yet knows more than this count.
        if words >= overlap.min_words and (overlap.final or not self._judges):
            return Judgement(stop=True, cause="words")
        if not overlap.final:
            return None
        if overlap.text is None:
            return Judgement(stop=overlap.speech_ms >= _LONG_MS, cause="no_transcript")
        return Judgement(stop=False, cause="few_words" if words else "noise")


_LONG_MS = 700
"""Speech of unknown words that is longer than a cough or an "mm-hm"."""
