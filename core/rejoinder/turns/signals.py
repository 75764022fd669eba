"""What goes into the turn machine (what happened) and what comes out of it (what to do).

Times are seconds on the session's monotonic clock; `turn`, `epoch` and `attempt` count from 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# --- inputs: what happened --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpeechBegan:
    """The VAD is sure that the user speaks; they began at `began_at` (None: now)."""

    began_at: float | None = None


@dataclass(frozen=True, slots=True)
class SpeechPaused:
    """The user has been silent for `pause_ms`; their last speech was at `last_speech_at`."""

    last_speech_at: float


@dataclass(frozen=True, slots=True)
class TranscriptReady:
    """STT answered a `Transcribe`; `text` is None where it failed."""

    attempt: int
    text: str | None


@dataclass(frozen=True, slots=True)
class TurnJudged:
    """The turn detectors on the pause of `attempt`: how likely the turn is over; None: nobody knows."""

    attempt: int
    probability: float | None


@dataclass(frozen=True, slots=True)
class OverlapJudged:
    """The judges on the user's speech over the agent's; `stop` None: they cannot tell yet.

    `attempt` None: nobody asked, a judge knew all the same. `text` is None where it is not known.
    """

    attempt: int | None
    stop: bool | None
    cause: str
    text: str | None


@dataclass(frozen=True, slots=True)
class UserWrote:
    """A text message came; its turn is called `turn_id`, if that is given."""

    text: str
    turn_id: str = ""


@dataclass(frozen=True, slots=True)
class InterruptAsked:
    """Somebody wants the reply to stop."""


@dataclass(frozen=True, slots=True)
class SayAsked:
    """Somebody wants `text` to be said, e.g. the greeting, in a turn called `turn_id` (if that is given)."""

    text: str
    turn_id: str = ""


@dataclass(frozen=True, slots=True)
class ReplyHeard:
    """The first output of the reply of `epoch` has left."""

    epoch: int


@dataclass(frozen=True, slots=True)
class ReplyOver:
    """The reply of `epoch` has been heard to its end, or failed."""

    epoch: int
    failed: bool = False


@dataclass(frozen=True, slots=True)
class AudienceChanged:
    """Whether anybody is connected who hears the agent; who only reads is not asked whether they are still there."""

    hears: bool


@dataclass(frozen=True, slots=True)
class TakenOver:
    """The person called `operator` speaks instead of the agent; said again each time that they are heard of."""

    operator: str


@dataclass(frozen=True, slots=True)
class HandedBack:
    """The agent answers again; `lost`: because `operator` was not heard of any more."""

    operator: str
    reason: Literal["handed_back", "lost"] = "handed_back"


@dataclass(frozen=True, slots=True)
class Whispered:
    """The agent is to know `text`, which nobody hears."""

    text: str


@dataclass(frozen=True, slots=True)
class EndAsked:
    """The session is to end: now, or (`after_reply`, as the agent wants it) once the current reply has been heard."""

    reason: str
    after_reply: bool = False


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer armed by `ArmTimer` is due."""

    name: TimerName


Input = (
    SpeechBegan | SpeechPaused | TranscriptReady | TurnJudged | OverlapJudged | UserWrote | InterruptAsked | SayAsked
    | ReplyHeard | ReplyOver | AudienceChanged | TakenOver | HandedBack | Whispered | EndAsked | TimerFired
)  # fmt: skip

# --- commands: what to do ---------------------------------------------------------------------------------------

TimerName = Literal[
    "end_of_turn", "transcript", "first_output", "max_turn", "overlap", "verdict", "silence", "speculate", "lease"
]
Purpose = Literal["asked", "apology", "nudge", "goodbye"]


@dataclass(frozen=True, slots=True)
class TellSpeech:
    """Publish that the user began, paused, went on or stopped."""

    what: Literal["started", "paused", "resumed", "stopped"]
    turn: int
    silence_ms: int = 0


@dataclass(frozen=True, slots=True)
class Transcribe:
    """Get the transcript of the turn so far and ask the turn detectors.

    Answered by `TranscriptReady`, and by `TurnJudged` before or after it, with the same `attempt`.
    """

    turn: int
    attempt: int


@dataclass(frozen=True, slots=True)
class JudgeOverlap:
    """Ask the judges whether the user means to interrupt; answered by `OverlapJudged` with the same `attempt`.

    `final`: the user has paused, so the turn detectors are asked, too.
    """

    turn: int
    attempt: int
    speech_ms: int
    final: bool


@dataclass(frozen=True, slots=True)
class Duck:
    """Play the reply quieter: the user may be interrupting."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Play nothing of the reply for now; it may go on."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Resume:
    """It was no interruption: the reply goes on, from the word at which it was held."""

    epoch: int


@dataclass(frozen=True, slots=True)
class TellInterruption:
    """Publish what came of the user's speech over the reply of `epoch`."""

    turn: int
    epoch: int
    accepted: bool
    cause: str
    speech_ms: int
    text: str


@dataclass(frozen=True, slots=True)
class Propose:
    """Start preparing a reply to `text`, unheard and without side effects."""

    epoch: int
    turn: int
    text: str


@dataclass(frozen=True, slots=True)
class Commit:
    """The turn is over and its reply may be heard; a `Propose` with this `epoch` came before."""

    epoch: int
    turn: int
    speculated: bool


@dataclass(frozen=True, slots=True)
class Discard:
    """Throw a proposed reply away without a trace."""

    epoch: int


@dataclass(frozen=True, slots=True)
class CancelReply:
    """Stop a committed reply at once and keep what was heard of it; `by_user`: they have interrupted it."""

    epoch: int
    reason: Literal["interrupted", "failed", "ended"]
    by_user: bool = True


@dataclass(frozen=True, slots=True)
class Say:
    """Say a fixed text as a reply of its own (committed from the start)."""

    epoch: int
    turn: int
    text: str
    purpose: Purpose = "asked"


@dataclass(frozen=True, slots=True)
class KeepTurn:
    """The turn is over and part of the conversation; an operator has it, so the agent does not answer."""

    turn: int
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer the user's last turn now, which is part of the conversation already (committed from the start)."""

    epoch: int
    turn: int


@dataclass(frozen=True, slots=True)
class TellOperator:
    """Publish that an operator has taken over or handed back."""

    what: TakenOver | HandedBack


@dataclass(frozen=True, slots=True)
class DropTurn:
    """The turn held no words, or none for the agent, or they could not be had (`failed`): it never happened.

    `mumbled`: it was long enough to have held some.
    """

    turn: int
    failed: bool
    mumbled: bool = False


@dataclass(frozen=True, slots=True)
class EndUtterance:
    """The audio so far belongs to no turn any more; STT may forget it."""


@dataclass(frozen=True, slots=True)
class TellTimeout:
    """Count that `what` was waited for in vain."""

    what: TimerName


@dataclass(frozen=True, slots=True)
class ArmTimer:
    """Send `TimerFired(name)` at `at`; replaces an earlier one of that name."""

    name: TimerName
    at: float


@dataclass(frozen=True, slots=True)
class StopTimer:
    """Disarm a timer; it need not be armed."""

    name: TimerName


@dataclass(frozen=True, slots=True)
class End:
    """End the session."""

    reason: str


Command = (
    TellSpeech | Transcribe | JudgeOverlap | Duck | Hold | Resume | TellInterruption | Propose | Commit | Discard
    | CancelReply | Say | KeepTurn | Answer | TellOperator | DropTurn | EndUtterance | TellTimeout | ArmTimer
    | StopTimer | End
)  # fmt: skip
