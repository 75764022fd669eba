"""A turn's latency as contiguous spans on one clock, the jitter of outgoing audio, and a session's counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from rejoinder.errors import ProviderTimeout
from rejoinder.events import SessionMetrics, Span

Mark = Literal["decision", "transcript", "first_token", "first_chunk", "first_audio", "sent", "played"]

SPANS: tuple[tuple[str, Mark], ...] = (
    ("endpointing", "decision"),
    ("stt", "transcript"),
    ("llm", "first_token"),
    ("chunk", "first_chunk"),
    ("tts", "first_audio"),
    ("send", "sent"),
    ("play", "played"),
)
"""Each span ends at its mark; it begins where the one before it ended."""


class TurnTimer:
    """Collects the moments of one turn, in seconds on the session's monotonic clock; the first of each kind counts."""

    __slots__ = ("_marks", "start")

    def __init__(self, start: float) -> None:
        self.start = start
        """The user's last speech frame, or the arrival of their text."""
        self._marks: dict[Mark, float] = {}

    def mark(self, name: Mark, at: float) -> None:
        """Note that `name` happened at `at`."""
        self._marks.setdefault(name, at)

    def at(self, name: Mark) -> float | None:
        """When `name` happened, None if it did not."""
        return self._marks.get(name)

    def __contains__(self, name: Mark) -> bool:
        return name in self._marks

    def spans(self) -> list[Span]:
        """The spans that were reached, in microseconds.

        They are contiguous and so sum to the response time by construction. A stage that was over before the one in
        front of it, because it ran on speculation, has length 0 and is `hidden`.
        """
        spans = []
        reached = self._micros(self.start)
        for name, mark in SPANS:
            if mark in self._marks:
                end = self._micros(self._marks[mark])
                spans.append(Span(name, max(0, end - reached), hidden=end < reached))
                reached = max(reached, end)
        return spans

    @staticmethod
    def _micros(at: float) -> int:
        return round(at * 1_000_000)


class Jitter:
    """Interarrival jitter as in RFC 3550, 6.4.1: a running mean of how unevenly packets leave, in seconds."""

    __slots__ = ("_late", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self._late: float | None = None

    def packet(self, sent: float, due: float) -> None:
        """A packet that was `due` left at `sent`."""
        late = sent - due
        if self._late is not None:
            self.value += (abs(late - self._late) - self.value) / 16
        self._late = late

    def restart(self) -> None:
        """The stream paused: the next packet is not compared with the last."""
        self._late = None


@dataclass(slots=True)
class SessionTally:
    """Counts what happens in a session, for its `session.metrics`."""

    turns: int = 0
    speculations_kept: int = 0
    speculations_discarded: int = 0
    saved_us: int = 0
    interruptions: int = 0
    false_interruptions: Counter[str] = field(default_factory=Counter)
    nudges: int = 0
    resumes: int = 0
    timeouts: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def failed(self, what: str, code: str) -> None:
        """Count a failure of `what` (`llm:openai`); one with the code of a time-out is counted as such, too."""
        self.failures[what] += 1
        if code == ProviderTimeout.code:
            self.timeouts[what] += 1

    def event(self) -> SessionMetrics:
        """The figures so far."""
        return SessionMetrics(
            turns=self.turns,
            speculations_kept=self.speculations_kept,
            speculations_discarded=self.speculations_discarded,
            saved_ms=round(self.saved_us / 1000),
            interruptions=self.interruptions,
            false_interruptions=dict(self.false_interruptions),
            nudges=self.nudges,
            resumes=self.resumes,
            timeouts=dict(self.timeouts),
            failures=dict(self.failures),
        )
