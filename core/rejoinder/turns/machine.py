"""Who has the floor: the turn-taking state machine, without I/O. Inputs and the time go in, commands come out.

The user is silent, speaking, pausing (silent, but the turn may go on) or done (the turn is over, its transcript is
still to come). Beside that there is at most one reply: proposed (prepared, unheard), committed (it may be heard) or
heard (its first output left). Every state that waits for somebody else has a timer.

Times are seconds on the session's monotonic clock; `turn` and `epoch` count from 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rejoinder.settings import TurnPolicy

# --- inputs: what happened --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpeechBegan:
    """The VAD is sure that the user speaks."""


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
class UserWrote:
    """A text message came."""

    text: str


@dataclass(frozen=True, slots=True)
class InterruptAsked:
    """Somebody wants the reply to stop."""


@dataclass(frozen=True, slots=True)
class SayAsked:
    """Somebody wants `text` to be said, e.g. the greeting."""

    text: str


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
class EndAsked:
    """The session is to end: now, or (`after_reply`) once the current reply has been heard."""

    reason: str
    after_reply: bool = False


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer armed by `ArmTimer` is due."""

    name: TimerName


Input = (
    SpeechBegan | SpeechPaused | TranscriptReady | UserWrote | InterruptAsked | SayAsked
    | ReplyHeard | ReplyOver | EndAsked | TimerFired
)  # fmt: skip

# --- commands: what to do ---------------------------------------------------------------------------------------

TimerName = Literal["end_of_turn", "transcript", "first_output", "max_turn"]


@dataclass(frozen=True, slots=True)
class TellSpeech:
    """Publish that the user began, paused, went on or stopped."""

    what: Literal["started", "paused", "resumed", "stopped"]
    turn: int
    silence_ms: int = 0


@dataclass(frozen=True, slots=True)
class Transcribe:
    """Get the transcript of the turn so far; answered by `TranscriptReady` with the same `attempt`."""

    turn: int
    attempt: int


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
    """Stop a committed reply at once and keep what was heard of it."""

    epoch: int
    reason: Literal["interrupted", "failed", "ended"]


@dataclass(frozen=True, slots=True)
class Say:
    """Say a fixed text as a reply of its own (committed from the start)."""

    epoch: int
    turn: int
    text: str


@dataclass(frozen=True, slots=True)
class DropTurn:
    """The turn held no words, or they could not be had (`failed`): it never happened."""

    turn: int
    failed: bool


@dataclass(frozen=True, slots=True)
class EndUtterance:
    """The audio so far belongs to no turn any more; STT may forget it."""


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
    TellSpeech | Transcribe | Propose | Commit | Discard | CancelReply | Say
    | DropTurn | EndUtterance | ArmTimer | StopTimer | End
)  # fmt: skip

# --- the machine ------------------------------------------------------------------------------------------------

NOT_UNDERSTOOD = "Sorry, I did not catch that."
NOT_ANSWERED = "Sorry, I cannot answer right now."


@dataclass(slots=True)
class _Reply:
    epoch: int
    turn: int
    state: Literal["proposed", "committed", "heard"]
    fixed: bool = False
    """A `Say`: its failure is not apologised for, or apologies would follow one another for ever."""


class TurnMachine:
    """One conversation's turn-taking. `end_silence_ms` ends a turn where the policy names none (the VAD's advice)."""

    def __init__(self, policy: TurnPolicy, end_silence_ms: int) -> None:
        self._policy = policy
        self._end_silence = (policy.end_silence_ms or end_silence_ms) / 1000
        self.user: Literal["silent", "speaking", "pausing", "done"] = "silent"
        self.reply: _Reply | None = None
        self._epoch = 0
        self._turn = 0
        self._speech_turn = 0
        self._attempt = 0
        self._attempts_open = False
        self._text: str | None = None
        self._failed = False
        self._speculations = 0
        self._last_speech_at = 0.0
        self._end_reason: str | None = None
        self._out: list[Command] = []
        self.ended = False

    def handle(self, event: Input, now: float) -> list[Command]:
        """What to do about `event`, in this order. After `End` nothing more comes."""
        if self.ended:
            return []
        self._out = []
        match event:
            case SpeechBegan():
                self._speech_began(now)
            case SpeechPaused(last_speech_at):
                self._speech_paused(last_speech_at)
            case TranscriptReady(attempt, text):
                self._transcript(attempt, text, now)
            case UserWrote(text):
                self._turn += 1
                self._commit(self._turn, text, now)
            case InterruptAsked():
                self._stop_reply("interrupted")
            case SayAsked(text):
                self._stop_reply("interrupted")
                self._say(text, now)
            case ReplyHeard(epoch):
                if self.reply and self.reply.epoch == epoch and self.reply.state == "committed":
                    self.reply.state = "heard"
                    self._do(StopTimer("first_output"))
            case ReplyOver(epoch, failed):
                self._reply_over(epoch, failed, now)
            case EndAsked(reason, after_reply):
                if after_reply and self.reply and self.reply.state != "proposed":
                    self._end_reason = reason
                else:
                    self._end(reason)
            case TimerFired(name):
                self._timer(name, now)
        return self._out

    # -- the user

    def _speech_began(self, now: float) -> None:
        if self.user == "speaking":
            return
        if self.user == "silent":
            if self.reply and self.reply.state != "proposed" and self._policy.barge_in:
                self._stop_reply("interrupted")
            self._turn += 1
            self._speech_turn = self._turn
            self._speculations = 0
            self._do(TellSpeech("started", self._speech_turn))
            self._do(ArmTimer("max_turn", now + self._policy.max_turn_ms / 1000))
        else:
            if self._policy.barge_in:
                # A typed message may have been answered during the pause.
                self._stop_reply("interrupted")
            self._discard_proposal()
            self._do(StopTimer("end_of_turn"), StopTimer("transcript"))
            if self.user == "done":
                self._do(ArmTimer("max_turn", now + self._policy.max_turn_ms / 1000))
            self._do(TellSpeech("resumed", self._speech_turn))
        self.user = "speaking"
        self._forget_transcript()

    def _speech_paused(self, last_speech_at: float) -> None:
        if self.user != "speaking":
            return
        self.user = "pausing"
        self._last_speech_at = last_speech_at
        self._do(TellSpeech("paused", self._speech_turn))
        self._transcribe()
        self._do(ArmTimer("end_of_turn", last_speech_at + self._end_silence))

    def _transcript(self, attempt: int, text: str | None, now: float) -> None:
        if not self._attempts_open or attempt != self._attempt:
            return
        self._attempts_open = False
        self._text = text.strip() if text is not None else None
        self._failed = text is None
        if self.user == "done":
            self._do(StopTimer("transcript"))
            self._close_turn(now)
        elif self._text and self._may_speculate():
            self._speculations += 1
            self._propose(self._speech_turn, self._text)

    def _may_speculate(self) -> bool:
        policy = self._policy
        return policy.speculate and self.reply is None and self._speculations < policy.max_speculations

    def _turn_is_over(self, now: float) -> None:
        """The end-of-turn silence has passed, or the turn is too long."""
        self._do(StopTimer("max_turn"), StopTimer("end_of_turn"))
        silence = round(max(0.0, now - self._last_speech_at) * 1000) if self.user == "pausing" else 0
        if self.user == "speaking":
            self._transcribe()
        self.user = "done"
        self._do(TellSpeech("stopped", self._speech_turn, silence))
        if self._attempts_open:
            self._do(ArmTimer("transcript", now + self._policy.transcript_timeout_ms / 1000))
        else:
            self._close_turn(now)

    def _close_turn(self, now: float) -> None:
        """The turn is over and its transcript is known (or known to be missing)."""
        self.user = "silent"
        busy = self.reply is not None and self.reply.state != "proposed" and not self._policy.barge_in
        if self._text and not busy:
            self._commit(self._speech_turn, self._text, now)
        else:
            self._discard_proposal()
            self._do(DropTurn(self._speech_turn, self._failed))
            if self._failed and self.reply is None:
                self._say(NOT_UNDERSTOOD, now)
        self._forget_transcript()
        self._do(EndUtterance())

    def _transcribe(self) -> None:
        self._attempt += 1
        self._attempts_open = True
        self._text = None
        self._do(Transcribe(self._speech_turn, self._attempt))

    def _forget_transcript(self) -> None:
        self._text = None
        self._failed = False
        self._attempts_open = False

    # -- the reply

    def _propose(self, turn: int, text: str) -> None:
        self._epoch += 1
        self.reply = _Reply(self._epoch, turn, "proposed")
        self._do(Propose(self._epoch, turn, text))

    def _commit(self, turn: int, text: str, now: float) -> None:
        self._end_reason = None
        if self.reply and (self.reply.state != "proposed" or self.reply.turn != turn):
            self._stop_reply("interrupted")
        speculated = self.reply is not None
        if self.reply is None:
            self._propose(turn, text)
        assert self.reply is not None
        self.reply.state = "committed"
        self._do(Commit(self.reply.epoch, turn, speculated))
        self._await_output(now)

    def _say(self, text: str, now: float) -> None:
        self._epoch += 1
        self._turn += 1
        self.reply = _Reply(self._epoch, self._turn, "committed", fixed=True)
        self._do(Say(self._epoch, self._turn, text))
        self._await_output(now)

    def _await_output(self, now: float) -> None:
        self._do(ArmTimer("first_output", now + self._policy.first_audio_timeout_ms / 1000))

    def _reply_over(self, epoch: int, failed: bool, now: float) -> None:
        reply = self.reply
        if not reply or reply.epoch != epoch:
            return
        if reply.state == "proposed":
            # A proposal that failed is tried again in earnest once the turn is over.
            if failed:
                self._discard_proposal()
            return
        unheard = reply.state == "committed"
        self.reply = None
        self._do(StopTimer("first_output"))
        if self._end_reason is not None:
            self._end(self._end_reason)
        elif failed and unheard and not reply.fixed and self.user == "silent":
            self._say(NOT_ANSWERED, now)

    def _stop_reply(self, reason: Literal["interrupted", "failed", "ended"]) -> None:
        """Stop whatever reply there is: a proposal leaves no trace, anything else is cancelled for `reason`."""
        if self.reply is None:
            return
        if self.reply.state == "proposed":
            self._discard_proposal()
            return
        self._do(StopTimer("first_output"), CancelReply(self.reply.epoch, reason))
        self.reply = None
        if reason == "interrupted":
            self._end_reason = None

    def _discard_proposal(self) -> None:
        if self.reply and self.reply.state == "proposed":
            self._do(Discard(self.reply.epoch))
            self.reply = None

    # -- time and the end

    def _timer(self, name: TimerName, now: float) -> None:
        match name:
            case "end_of_turn" if self.user == "pausing":
                self._turn_is_over(now)
            case "max_turn" if self.user in ("speaking", "pausing"):
                self._turn_is_over(now)
            case "transcript" if self.user == "done":
                self._failed = True
                self._text = None
                self._close_turn(now)
            case "first_output" if self.reply and self.reply.state == "committed":
                fixed = self.reply.fixed
                self._stop_reply("failed")
                if self._end_reason is not None:
                    self._end(self._end_reason)
                elif not fixed and self.user == "silent":
                    self._say(NOT_ANSWERED, now)

    def _end(self, reason: str) -> None:
        self._stop_reply("ended")
        self._do(End(reason))
        self.ended = True

    def _do(self, *commands: Command) -> None:
        self._out.extend(commands)
