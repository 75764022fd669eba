"""One turn as a client saw it, and how it is put together from what the server sends."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rejoinder.events import (
    OperatorHandedBack,
    OperatorTookOver,
    ReplyFinished,
    ReplyStarted,
    ReplyText,
    ServerEvent,
    SpeechPaused,
    SpeechStarted,
    SpeechStopped,
    Transcript,
    TurnCommitted,
    TurnMetrics,
)


@dataclass(slots=True)
class TurnResult:
    """One turn as the client saw it."""

    transcript: str = ""
    """What the server understood; several utterances are joined by a space."""
    reply_text: str = ""
    """What the answer said, as generated."""
    heard_text: str = ""
    """What of it was played."""
    audio: bytes = b""
    """What was played of the answer: PCM16 at the output rate."""
    first_audio_ms: float | None = None
    """From the last speech sample (or text) sent to the first audio frame of the answer received."""
    cut_off: bool = False
    """The server took the turn for over before all of it was said."""
    reason: str = ""
    """How the answer ended, as in `reply.finished`; `taken_over`: an operator has the turn and has said nothing yet."""
    metrics: TurnMetrics | None = None
    events: list[ServerEvent] = field(default_factory=list)


class TurnInProgress:
    """What is collected of a turn while it goes on; `taken_over`: an operator speaks instead of the agent."""

    def __init__(self, *, taken_over: bool = False) -> None:
        self._result = TurnResult()
        self.taken_over = taken_over
        self._kept = False
        self.said_at: float | None = None
        self.texts: list[str] = []
        self.metrics: dict[str, TurnMetrics] = {}
        self.reply: ReplyStarted | None = None
        self.first_audio_at: float | None = None
        self.audio = bytearray()
        self.deltas: list[str] = []
        self.speaking = False
        self.finished: ReplyFinished | None = None

    def said(self) -> None:
        """All is said now; a reply that is over already was not the answer to it."""
        self.said_at = time.monotonic()
        self.finished = None

    def see(self, event: ServerEvent) -> None:
        """Take the next event."""
        self._result.events.append(event)
        if isinstance(event, SpeechStarted):
            self.speaking = True
        elif isinstance(event, SpeechPaused | SpeechStopped):
            self.speaking = False
        elif isinstance(event, Transcript) and event.final:
            self._result.transcript = event.text
        elif isinstance(event, OperatorTookOver | OperatorHandedBack):
            self.taken_over = isinstance(event, OperatorTookOver)
            self._kept = False
        elif isinstance(event, TurnCommitted):
            self.texts.append(event.text)
            self._kept = self.taken_over
            self._result.cut_off = self._result.cut_off or self.said_at is None
        elif isinstance(event, ReplyStarted):
            self._kept = False
            self.reply, self.first_audio_at, self.finished = event, None, None
            self.audio.clear()
            self.deltas.clear()
        elif isinstance(event, ReplyText):
            self.deltas.append(event.delta)
        elif isinstance(event, ReplyFinished):
            self.finished = event
        elif isinstance(event, TurnMetrics):
            self.metrics[event.reply_id] = event

    def over(self) -> bool:
        """Whether everything that was said has its answer, and that has come to its natural end.

        Or an operator has it: when they will answer, if at all, nobody knows.
        """
        end = self.finished
        # One that failed before anything of it was heard is followed by an apology.
        answered = end is not None and end.reason != "interrupted" and (end.reason != "failed" or end.heard_text != "")
        return (answered or self._kept) and self.said_at is not None and not self.speaking

    def measured(self) -> bool:
        """Whether the latency of the answer is known."""
        return self.reply is not None and self.reply.reply_id in self.metrics

    def result(self) -> TurnResult:
        """What it was."""
        result = self._result
        if self.texts:
            result.transcript = " ".join(self.texts)
        result.audio = bytes(self.audio)
        result.reply_text = "".join(self.deltas)
        if self._kept:
            result.reason = "taken_over"
        elif self.finished:
            result.reason = self.finished.reason
            result.reply_text = self.finished.text or result.reply_text
            result.heard_text = self.finished.heard_text
        if self.reply:
            result.metrics = self.metrics.get(self.reply.reply_id)
        if self.said_at is not None and self.first_audio_at is not None:
            result.first_audio_ms = (self.first_audio_at - self.said_at) * 1000
        return result
