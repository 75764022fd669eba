"""Who has the floor: the turn-taking state machine, without I/O. Inputs and the time go in, commands come out.

The user is silent, speaking, pausing (silent, but the turn may go on) or done (the turn is over, its transcript is
still to come). Beside that there is at most one reply: proposed (prepared, unheard), committed (it may be heard) or
heard (its first output left). Where the user speaks while a reply is committed or heard, an overlap is open until it
is clear whether they mean to interrupt: the reply is ducked first, then held, then cancelled or resumed.

While an operator has taken over, nothing is prepared and nobody answers: turns are kept, and what is said is what the
operator wants to be said. Somebody who has taken over has to be heard of (`LEASE_S`), or the agent answers again.

Every state that waits for somebody else has a timer. The vocabulary is in `signals.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rejoinder.settings import TurnPolicy
from rejoinder.turns.policy import UNLIKELY, end_silence_s
from rejoinder.turns.signals import (
    Answer,
    ArmTimer,
    AudienceChanged,
    CancelReply,
    Command,
    Commit,
    Discard,
    DropTurn,
    Duck,
    End,
    EndAsked,
    EndUtterance,
    HandedBack,
    Hold,
    Input,
    InterruptAsked,
    JudgeOverlap,
    KeepTurn,
    OverlapJudged,
    Propose,
    Purpose,
    ReplyHeard,
    ReplyOver,
    Resume,
    Say,
    SayAsked,
    SpeechBegan,
    SpeechPaused,
    StopTimer,
    TakenOver,
    TellInterruption,
    TellOperator,
    TellSpeech,
    TellTimeout,
    TimerFired,
    TimerName,
    Transcribe,
    TranscriptReady,
    TurnJudged,
    UserWrote,
    Whispered,
)

NOT_UNDERSTOOD = "Sorry, I did not catch that."
NOT_ANSWERED = "Sorry, I cannot answer right now."
BROKE_OFF = "Sorry, I lost the thread. Please ask me again."
PHRASES = (NOT_UNDERSTOOD, NOT_ANSWERED, BROKE_OFF)
"""What is said when something fails; worth having ready."""
LEASE_S = 30.0
"""An operator who is not heard of for this long is lost."""

_VERDICT_S = 0.15
"""Judges that have not answered by then leave the question open: the agent falls silent until they have."""
_ASK_AGAIN_S = 0.2
_UNDECIDED_S = 1.0
"""Sounds that hold no word after this long (beyond `interrupt_ms`) are noise, and the agent goes on; where nobody can
tell whether they hold any, it stops."""


_MUMBLE_S = 0.8
"""Who spoke this long and was not understood meant something; anything shorter may have been a noise."""


@dataclass(slots=True)
class _Reply:
    epoch: int
    turn: int
    state: Literal["proposed", "committed", "heard"]
    fixed: bool = False
    """A `Say`: its failure is not apologised for, or apologies would follow one another for ever."""


@dataclass(slots=True)
class _Overlap:
    """The user's speech over a reply. `level` is what was done to it; `final`: the user has paused."""

    began_at: float
    level: Literal["full", "ducked", "held"]
    attempt: int = 0
    final: bool = False


class TurnMachine:
    """One conversation's turn-taking. `end_silence_ms` ends a turn where the policy names none (the VAD's advice)."""

    def __init__(self, policy: TurnPolicy, end_silence_ms: int) -> None:
        self._policy = policy
        self._advice_ms = end_silence_ms
        self.user: Literal["silent", "speaking", "pausing", "done"] = "silent"
        self.reply: _Reply | None = None
        self.overlap: _Overlap | None = None
        self._epoch = 0
        self._turn = 0
        self._speech_turn = 0
        self._attempt = 0
        self._attempts_open = False
        self._text: str | None = None
        self._failed = False
        self._probability: float | None = None
        self._speculations = 0
        self._began_at = 0.0
        self._last_speech_at = 0.0
        self._apologised = False
        self._end_reason: str | None = None
        self._hears = False
        self._awaiting_user = False
        self._nudged = 0
        self.operator: str | None = None
        """Who speaks instead of the agent."""
        self._unanswered: int | None = None
        """The user's last turn, if nobody has said anything since because of an operator."""
        self._out: list[Command] = []
        self.ended = False

    def handle(self, event: Input, now: float) -> list[Command]:
        """What to do about `event`, in this order. After `End` nothing more comes."""
        if self.ended:
            return []
        self._out = []
        match event:
            case SpeechBegan(began_at):
                self._speech_began(now if began_at is None else min(began_at, now), now)
            case SpeechPaused(last_speech_at):
                self._speech_paused(last_speech_at, now)
            case TranscriptReady(attempt, text):
                self._transcript(attempt, text, now)
            case TurnJudged(attempt, probability):
                self._turn_judged(attempt, probability, now)
            case OverlapJudged(attempt, stop, cause, text):
                self._overlap_judged(attempt, stop, cause, text, now)
            case UserWrote(text=text):
                self._turn += 1
                self._commit(self._turn, text, now)
            case InterruptAsked():
                self._unanswered = None
                self._stop_reply("interrupted")
            case SayAsked(text=text):
                self._stop_reply("interrupted")
                self._say(text, now)
            case ReplyHeard(epoch):
                if self.reply and self.reply.epoch == epoch and self.reply.state == "committed":
                    self.reply.state = "heard"
                    self._unanswered = None
                    self._do(StopTimer("first_output"))
            case ReplyOver(epoch, failed):
                self._reply_over(epoch, failed, now)
            case AudienceChanged(hears):
                self._hears = hears
            case TakenOver(operator):
                self._taken_over(operator, now)
            case HandedBack():
                self._handed_back(event)
            case Whispered():
                self._prepare_anew()
            case EndAsked(reason, after_reply):
                self._end_asked(reason, after_reply)
            case TimerFired(name):
                self._timer(name, now)
        self._answer_what_is_left(now)
        self._watch_silence(now)
        return self._out

    # -- the user

    def _speech_began(self, began_at: float, now: float) -> None:
        if self.user == "speaking":
            return
        self._nudged = 0
        if self.user == "silent":
            self._turn += 1
            self._speech_turn = self._turn
            self._began_at = began_at
            self._speculations = 0
            self._do(TellSpeech("started", self._speech_turn))
            self._do(ArmTimer("max_turn", now + self._policy.max_turn_ms / 1000))
        else:
            self._discard_proposal()
            self._do(StopTimer("end_of_turn"), StopTimer("transcript"), StopTimer("speculate"))
            if self.user == "done":
                self._do(ArmTimer("max_turn", now + self._policy.max_turn_ms / 1000))
            self._do(TellSpeech("resumed", self._speech_turn))
        self.user = "speaking"
        self._forget_transcript()
        if self.overlap:
            self.overlap.final = False
            self._do(StopTimer("verdict"), ArmTimer("overlap", now + _ASK_AGAIN_S))
        elif self.reply and self.reply.state != "proposed" and self._policy.barge_in:
            self._open_overlap(self.reply, began_at, now)

    def _speech_paused(self, last_speech_at: float, now: float) -> None:
        if self.user != "speaking":
            return
        self.user = "pausing"
        self._last_speech_at = last_speech_at
        self._do(TellSpeech("paused", self._speech_turn))
        self._ask_for_text(now)
        self._do(ArmTimer("end_of_turn", last_speech_at + self._end_silence()))

    def _end_silence(self) -> float:
        return end_silence_s(self._policy, self._advice_ms, self._probability)

    def _turn_judged(self, attempt: int, probability: float | None, now: float) -> None:
        if self.user == "pausing" and attempt == self._attempt and probability is not None:
            self._probability = probability
            self._do(ArmTimer("end_of_turn", max(now, self._last_speech_at + self._end_silence())))

    def _transcript(self, attempt: int, text: str | None, now: float) -> None:
        if not self._attempts_open or attempt != self._attempt or self.overlap:
            return
        self._attempts_open = False
        self._text = text.strip() if text is not None else None
        self._failed = text is None
        if self.user == "done":
            self._do(StopTimer("transcript"))
            self._close_turn(now)
        elif self._probability is None or self._probability >= UNLIKELY:
            self._speculate()
        else:
            # Most likely they go on. If not, half of the long wait is enough to prepare the reply.
            self._do(ArmTimer("speculate", max(now, self._last_speech_at + self._end_silence() / 2)))

    def _speculate(self) -> None:
        policy = self._policy
        if self.operator is not None or not policy.speculate:
            return
        if self._text and self.reply is None and self._speculations < policy.max_speculations:
            self._speculations += 1
            self._propose(self._speech_turn, self._text)

    def _prepare_anew(self) -> None:
        """A reply that is not committed yet was prepared without something that the agent is to know."""
        if self.reply and self.reply.state == "proposed":
            self._discard_proposal()
            self._speculate()

    def _turn_is_over(self, now: float) -> None:
        """The end-of-turn silence has passed, or the turn is too long."""
        self._do(StopTimer("max_turn"), StopTimer("end_of_turn"), StopTimer("speculate"))
        silence = round(max(0.0, now - self._last_speech_at) * 1000) if self.user == "pausing" else 0
        if self.user == "speaking":
            self._last_speech_at = now
            self._ask_for_text(now)
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
            mumbled = not self._failed and not self._text and self._last_speech_at - self._began_at >= _MUMBLE_S
            self._do(DropTurn(self._speech_turn, self._failed, mumbled))
            sorry = self._failed or (mumbled and not self._apologised)
            if sorry and self.reply is None and self.operator is None:
                self._apologised = True
                self._say(NOT_UNDERSTOOD, now, "apology")
        self._forget_transcript()
        self._do(EndUtterance())

    def _ask_for_text(self, now: float) -> None:
        """The user has paused: the transcript is wanted, and during an overlap the last word of the judges."""
        self._attempt += 1
        self._attempts_open = True
        self._text = None
        if self.overlap:
            self.overlap.final = True
            self.overlap.attempt = self._attempt
            self._do(StopTimer("overlap"), StopTimer("verdict"))
            spoken = round(max(0.0, self._last_speech_at - self.overlap.began_at) * 1000)
            self._do(JudgeOverlap(self._speech_turn, self._attempt, spoken, final=True))
        else:
            self._do(Transcribe(self._speech_turn, self._attempt))

    def _forget_transcript(self) -> None:
        self._text = None
        self._failed = False
        self._attempts_open = False
        self._probability = None

    # -- the user over the agent

    def _open_overlap(self, reply: _Reply, began_at: float, now: float) -> None:
        if reply.state == "heard":
            self.overlap = _Overlap(began_at, "ducked")
            self._do(Duck(reply.epoch))
        else:
            # Nothing sounds yet. Most likely the turn was not over: better not to begin now.
            self.overlap = _Overlap(began_at, "held")
            self._do(Hold(reply.epoch))
        self._do(ArmTimer("overlap", max(now, began_at + self._policy.interrupt_ms / 1000)))

    def _ask_judges(self, overlap: _Overlap, now: float) -> None:
        self._attempt += 1
        overlap.attempt = self._attempt
        self._do(ArmTimer("verdict", now + _VERDICT_S))
        speech_ms = round((now - overlap.began_at) * 1000)
        self._do(JudgeOverlap(self._speech_turn, self._attempt, speech_ms, final=False))

    def _overlap_judged(self, attempt: int | None, stop: bool | None, cause: str, text: str | None, now: float) -> None:
        overlap = self.overlap
        if overlap is None:
            # The reply is over meanwhile; what was not meant for it is no turn of its own either.
            if attempt is None:
                return
            if stop is False:
                text = ""
                self._began_at = self._last_speech_at  # understood, so not to be apologised for
            self._transcript(attempt, text, now)
            return
        if attempt is None:
            if stop:
                self._interrupted(overlap, cause, text, now)
            return
        if attempt != overlap.attempt:
            return
        self._do(StopTimer("verdict"))
        if stop:
            self._interrupted(overlap, cause, text, now)
        elif overlap.final:
            self._not_interrupted(overlap, cause, text)
        else:
            if stop is False or self._undecided_too_long(overlap, now):
                self._restore(overlap)
            else:
                self._hold(overlap)
            self._do(ArmTimer("overlap", now + _ASK_AGAIN_S))

    def _undecided_too_long(self, overlap: _Overlap, now: float) -> bool:
        return now - overlap.began_at > self._policy.interrupt_ms / 1000 + _UNDECIDED_S

    def _interrupted(self, overlap: _Overlap, cause: str, text: str | None, now: float) -> None:
        attempt, final = overlap.attempt, overlap.final
        self._tell_interruption(overlap, True, cause, text, now)
        self._stop_reply("interrupted")
        if final:
            self._transcript(attempt, text, now)

    def _not_interrupted(self, overlap: _Overlap, cause: str, text: str | None) -> None:
        self._tell_interruption(overlap, False, cause, text, self._last_speech_at)
        self._restore(overlap)
        self._close_overlap()
        self.user = "silent"
        self._forget_transcript()
        self._do(StopTimer("end_of_turn"), StopTimer("transcript"), StopTimer("max_turn"))
        self._do(DropTurn(self._speech_turn, failed=False), EndUtterance())

    def _hold(self, overlap: _Overlap) -> None:
        if overlap.level != "held" and self.reply:
            overlap.level = "held"
            self._do(Hold(self.reply.epoch))

    def _restore(self, overlap: _Overlap) -> None:
        if overlap.level != "full" and self.reply:
            overlap.level = "full"
            self._do(Resume(self.reply.epoch))

    def _close_overlap(self) -> None:
        if self.overlap:
            self.overlap = None
            self._do(StopTimer("overlap"), StopTimer("verdict"))

    def _tell_interruption(self, overlap: _Overlap, accepted: bool, cause: str, text: str | None, until: float) -> None:
        assert self.reply is not None
        spoken = self._last_speech_at if overlap.final else until
        speech_ms = round(max(0.0, spoken - overlap.began_at) * 1000)
        self._do(TellInterruption(self._speech_turn, self.reply.epoch, accepted, cause, speech_ms, text or ""))

    # -- the reply

    def _propose(self, turn: int, text: str) -> None:
        self._epoch += 1
        self.reply = _Reply(self._epoch, turn, "proposed")
        self._do(Propose(self._epoch, turn, text))

    def _commit(self, turn: int, text: str, now: float) -> None:
        self._end_reason = None
        self._nudged = 0
        self._apologised = False
        if self.reply and (self.reply.state != "proposed" or self.reply.turn != turn):
            self._stop_reply("interrupted")
        if self.operator is not None:
            self._unanswered = turn
            self._do(KeepTurn(turn, text))
            return
        self._unanswered = None
        speculated = self.reply is not None
        if self.reply is None:
            self._propose(turn, text)
        assert self.reply is not None
        self.reply.state = "committed"
        self._do(Commit(self.reply.epoch, turn, speculated))
        self._await_output(now)

    def _say(self, text: str, now: float, purpose: Purpose = "asked") -> None:
        self._epoch += 1
        self._turn += 1
        self.reply = _Reply(self._epoch, self._turn, "committed", fixed=True)
        self._do(Say(self._epoch, self._turn, text, purpose))
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
        if not failed:
            self._unanswered = None
        self._close_overlap()
        self._do(StopTimer("first_output"))
        if self._end_reason is not None:
            self._end(self._end_reason)
        elif failed and not reply.fixed and self.user == "silent":
            self._say(NOT_ANSWERED if unheard else BROKE_OFF, now, "apology")

    def _stop_reply(self, reason: Literal["interrupted", "failed", "ended"], *, by_user: bool = True) -> None:
        """Stop whatever reply there is: a proposal leaves no trace, anything else is cancelled for `reason`."""
        if self.reply is None:
            return
        if self.reply.state == "proposed":
            self._discard_proposal()
            return
        self._do(StopTimer("first_output"), CancelReply(self.reply.epoch, reason, by_user))
        self.reply = None
        self._close_overlap()
        if reason == "interrupted":
            self._end_reason = None

    def _discard_proposal(self) -> None:
        if self.reply and self.reply.state == "proposed":
            self._do(Discard(self.reply.epoch))
            self.reply = None

    # -- an operator instead of the agent

    def _taken_over(self, operator: str, now: float) -> None:
        self._do(ArmTimer("lease", now + LEASE_S))
        if self.operator == operator:
            return
        first, self.operator = self.operator is None, operator
        self._do(TellOperator(TakenOver(operator)))
        if not first:
            return
        if self.reply and self.reply.state == "committed" and not self.reply.fixed:
            # Nothing of the answer was heard.
            self._unanswered = self.reply.turn
        self._do(StopTimer("speculate"))
        self._stop_reply("interrupted", by_user=False)

    def _handed_back(self, event: HandedBack) -> None:
        if self.operator is None:
            return
        self.operator = None
        self._nudged = 0
        self._do(StopTimer("lease"), TellOperator(event))

    def _answer_what_is_left(self, now: float) -> None:
        """The operator has left the user without an answer: the agent gives it, once nobody speaks."""
        turn = self._unanswered
        if turn is None or self.operator is not None or self.reply or self.user != "silent" or self.ended:
            return
        self._unanswered = None
        self._epoch += 1
        self.reply = _Reply(self._epoch, turn, "committed")
        self._do(Answer(self._epoch, turn))
        self._await_output(now)

    # -- time and the end

    def _end_asked(self, reason: str, after_reply: bool) -> None:
        if after_reply and self.operator is not None:
            # A tool of the agent wants it, in a reply that the operator has stopped.
            return
        if after_reply and self.reply and self.reply.state != "proposed":
            self._end_reason = reason
        else:
            self._end(reason)

    def _timer(self, name: TimerName, now: float) -> None:
        match name:
            case "speculate" if self.user == "pausing":
                self._speculate()
            case "end_of_turn" if self.user == "pausing":
                self._turn_is_over(now)
            case "max_turn" if self.user in ("speaking", "pausing"):
                self._turn_is_over(now)
            case "transcript" if self.user == "done":
                self._do(TellTimeout("transcript"))
                self._no_transcript(now)
            case "overlap" if self.overlap and not self.overlap.final:
                self._ask_judges(self.overlap, now)
            case "verdict" if self.overlap and not self.overlap.final:
                self._no_verdict(self.overlap, now)
            case "first_output" if self.reply and self.reply.state == "committed":
                self._no_output(self.reply, now)
            case "silence" if self._awaiting_user:
                self._awaiting_user = False
                self._nudge(now)
            case "lease" if self.operator is not None:
                self._handed_back(HandedBack(self.operator, "lost"))

    def _no_transcript(self, now: float) -> None:
        if self.overlap:
            long = self._last_speech_at - self.overlap.began_at >= _UNDECIDED_S
            self._overlap_judged(self.overlap.attempt, long, "no_transcript", None, now)
            return
        self._failed = True
        self._text = None
        self._attempts_open = False
        self._close_turn(now)

    def _no_verdict(self, overlap: _Overlap, now: float) -> None:
        if self._undecided_too_long(overlap, now):
            self._do(TellTimeout("verdict"))
            self._interrupted(overlap, "no_transcript", None, now)
        else:
            self._hold(overlap)
            self._do(ArmTimer("verdict", now + _ASK_AGAIN_S))

    def _no_output(self, reply: _Reply, now: float) -> None:
        if self.overlap:
            # It may not be heard as long as the user speaks.
            self._await_output(now)
            return
        self._do(TellTimeout("first_output"))
        self._stop_reply("failed")
        if self._end_reason is not None:
            self._end(self._end_reason)
        elif not reply.fixed and self.user == "silent":
            self._say(NOT_ANSWERED, now, "apology")

    def _watch_silence(self, now: float) -> None:
        """Nobody speaks and nobody is about to: after a while the user is asked, in the end the session ends."""
        if self.ended:
            return
        after = self._policy.nudge_after_ms
        waiting = self.user == "silent" and self.reply is None and self._hears and after is not None
        waiting = waiting and self.operator is None
        if waiting and not self._awaiting_user:
            self._do(ArmTimer("silence", now + (after or 0) / 1000))
        elif self._awaiting_user and not waiting:
            self._do(StopTimer("silence"))
        self._awaiting_user = waiting

    def _nudge(self, now: float) -> None:
        policy = self._policy
        if self._nudged < len(policy.nudges):
            self._say(policy.nudges[self._nudged], now, "nudge")
            self._nudged += 1
        elif policy.goodbye:
            self._say(policy.goodbye, now, "goodbye")
            self._end_reason = "user_idle"
        else:
            self._end("user_idle")

    def _end(self, reason: str) -> None:
        self._stop_reply("ended")
        self._do(End(reason))
        self.ended = True

    def _do(self, *commands: Command) -> None:
        self._out.extend(commands)
