"""The turn machine as lists of timed inputs, and hypothesis looking for the lists nobody thought of."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rejoinder.settings import TurnPolicy
from rejoinder.turns.machine import BROKE_OFF, LEASE_S, TurnMachine
from rejoinder.turns.policy import end_silence_s
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
    Transcribe,
    TranscriptReady,
    TurnJudged,
    UserWrote,
    Whispered,
)

EXAMPLES = int(os.environ.get("REJOINDER_TEST_EXAMPLES", "6000"))
"""Lists of timed inputs that the machine is given; a release is tried with 50,000."""


def machine(**policy: object) -> TurnMachine:
    return TurnMachine(TurnPolicy.model_validate(policy), end_silence_ms=300)


def play(turns: TurnMachine, *inputs: tuple[float, Input]) -> list[Command]:
    """All commands but timers, in order."""
    commands = [command for at, event in inputs for command in turns.handle(event, at)]
    return [command for command in commands if not isinstance(command, ArmTimer | StopTimer | TellSpeech | TellTimeout)]


def test_a_reply_is_prepared_in_the_pause_and_heard_when_the_turn_is_over() -> None:
    commands = play(
        machine(),
        (1.0, SpeechBegan()),
        (2.12, SpeechPaused(2.0)),
        (2.2, TranscriptReady(1, "hello")),
        (2.3, TimerFired("end_of_turn")),
    )
    assert commands == [Transcribe(1, 1), Propose(1, 1, "hello"), Commit(1, 1, speculated=True), EndUtterance()]


def test_going_on_after_a_pause_discards_the_proposal_and_keeps_the_turn() -> None:
    commands = play(
        machine(),
        (1.0, SpeechBegan()),
        (2.12, SpeechPaused(2.0)),
        (2.2, TranscriptReady(1, "book a")),
        (2.25, SpeechBegan()),
        (3.12, SpeechPaused(3.0)),
        (3.2, TranscriptReady(2, "book a table")),
        (3.3, TimerFired("end_of_turn")),
    )
    assert commands == [
        Transcribe(1, 1),
        Propose(1, 1, "book a"),
        Discard(1),
        Transcribe(1, 2),
        Propose(2, 1, "book a table"),
        Commit(2, 1, speculated=True),
        EndUtterance(),
    ]


def test_without_speculation_nothing_starts_before_the_turn_is_over() -> None:
    turns = machine(speculate=False)
    early = play(turns, (1.0, SpeechBegan()), (2.12, SpeechPaused(2.0)), (2.2, TranscriptReady(1, "hello")))
    assert early == [Transcribe(1, 1)]
    late = play(turns, (2.3, TimerFired("end_of_turn")))
    assert late == [Propose(1, 1, "hello"), Commit(1, 1, speculated=False), EndUtterance()]


def test_a_late_transcript_is_waited_for() -> None:
    turns = machine()
    assert play(turns, (1.0, SpeechBegan()), (2.12, SpeechPaused(2.0)), (2.3, TimerFired("end_of_turn"))) == [
        Transcribe(1, 1)
    ]
    assert play(turns, (2.6, TranscriptReady(1, "hello"))) == [
        Propose(1, 1, "hello"),
        Commit(1, 1, speculated=False),
        EndUtterance(),
    ]


def test_a_transcript_of_an_earlier_pause_is_ignored() -> None:
    turns = machine()
    play(turns, (1.0, SpeechBegan()), (2.1, SpeechPaused(2.0)), (2.2, SpeechBegan()), (3.1, SpeechPaused(3.0)))
    assert play(turns, (3.15, TranscriptReady(1, "stale"))) == []


def test_noise_without_words_is_no_turn() -> None:
    turns = machine()
    commands = play(
        turns,
        (1.0, SpeechBegan()),
        (1.3, SpeechPaused(1.2)),
        (1.4, TranscriptReady(1, "  ")),
        (1.5, TimerFired("end_of_turn")),
    )
    assert commands == [Transcribe(1, 1), DropTurn(1, failed=False), EndUtterance()]


def test_a_transcript_that_never_comes_is_apologised_for() -> None:
    turns = machine()
    play(turns, (1.0, SpeechBegan()), (2.1, SpeechPaused(2.0)), (2.3, TimerFired("end_of_turn")))
    commands = play(turns, (10.3, TimerFired("transcript")))
    assert [type(command) for command in commands] == [DropTurn, Say, EndUtterance]


def speaking_agent(**policy: object) -> TurnMachine:
    """An agent whose reply to a message is being heard, and a user who begins to speak over it at 2.0 s."""
    turns = machine(**policy)
    play(turns, (1.0, UserWrote("hi")), (1.1, ReplyHeard(1)))
    assert play(turns, (2.1, SpeechBegan(2.0))) == [Duck(1)]
    return turns


def timer(commands: list[Command], name: str) -> float:
    return next(command.at for command in commands if isinstance(command, ArmTimer) and command.name == name)


def test_words_over_the_answer_duck_it_first_and_then_stop_it() -> None:
    turns = speaking_agent()
    assert play(turns, (2.3, TimerFired("overlap"))) == [JudgeOverlap(2, 1, 300, final=False)]
    assert play(turns, (2.36, OverlapJudged(1, True, "words", "no the other"))) == [
        TellInterruption(2, 1, True, "words", 360, "no the other"),
        CancelReply(1, "interrupted"),
    ]
    assert turns.user == "speaking"


def test_the_judges_are_asked_when_the_confirm_time_has_passed_since_the_first_loud_frame() -> None:
    turns = machine(interrupt_ms=240)
    play(turns, (1.0, UserWrote("hi")), (1.1, ReplyHeard(1)))
    assert timer(turns.handle(SpeechBegan(2.0), 2.1), "overlap") == pytest.approx(2.24)


def test_a_backchannel_lets_the_answer_go_on_and_is_no_turn() -> None:
    turns = speaking_agent()
    assert play(turns, (2.3, TimerFired("overlap"))) == [JudgeOverlap(2, 1, 300, final=False)]
    assert play(turns, (2.35, OverlapJudged(1, False, "backchannel", "mm-hm"))) == [Resume(1)]
    assert play(turns, (2.5, SpeechPaused(2.44))) == [JudgeOverlap(2, 2, 440, final=True)]
    assert play(turns, (2.6, OverlapJudged(2, False, "backchannel", "Mm-hm."))) == [
        TellInterruption(2, 1, False, "backchannel", 440, "Mm-hm."),
        DropTurn(2, failed=False),
        EndUtterance(),
    ]
    assert (turns.user, turns.reply and turns.reply.state) == ("silent", "heard")


def test_undecided_sounds_silence_the_agent_until_they_are_judged() -> None:
    turns = speaking_agent()
    play(turns, (2.3, TimerFired("overlap")))
    assert play(turns, (2.36, OverlapJudged(1, None, "", ""))) == [Hold(1)]
    assert play(turns, (2.4, SpeechPaused(2.34))) == [JudgeOverlap(2, 2, 340, final=True)]
    assert play(turns, (2.45, OverlapJudged(2, False, "noise", ""))) == [
        TellInterruption(2, 1, False, "noise", 340, ""),
        Resume(1),
        DropTurn(2, failed=False),
        EndUtterance(),
    ]


def test_noise_that_never_ends_does_not_keep_the_agent_silent() -> None:
    turns = speaking_agent()
    at = 2.3
    commands: list[Command] = []
    for attempt in range(1, 8):
        commands += play(turns, (at, TimerFired("overlap")), (at + 0.05, OverlapJudged(attempt, None, "", "")))
        at += 0.25
    kinds = [type(command) for command in commands if not isinstance(command, JudgeOverlap)]
    assert kinds == [Hold, Resume]


def test_judges_that_do_not_answer_leave_the_agent_silent_and_in_the_end_stop_it() -> None:
    turns = speaking_agent()
    play(turns, (2.3, TimerFired("overlap")))
    assert play(turns, (2.45, TimerFired("verdict"))) == [Hold(1)]
    commands = play(turns, (2.65, TimerFired("verdict")), (3.35, TimerFired("verdict")))
    assert [type(command) for command in commands] == [TellInterruption, CancelReply]


def test_a_stop_word_is_obeyed_before_anybody_was_asked() -> None:
    turns = speaking_agent()
    commands = play(turns, (2.2, OverlapJudged(None, True, "stop_word", "stop")))
    assert [type(command) for command in commands] == [TellInterruption, CancelReply]


def test_a_short_interruption_is_a_turn_of_its_own() -> None:
    turns = speaking_agent()
    play(turns, (2.3, SpeechPaused(2.25)))
    commands = play(turns, (2.35, OverlapJudged(1, True, "words", "not now")), (2.6, TimerFired("end_of_turn")))
    assert commands == [
        TellInterruption(2, 1, True, "words", 250, "not now"),
        CancelReply(1, "interrupted"),
        Propose(2, 2, "not now"),
        Commit(2, 2, speculated=True),
        EndUtterance(),
    ]


def test_a_backchannel_that_outlasts_the_answer_is_no_turn_either() -> None:
    turns = speaking_agent()
    play(turns, (2.3, SpeechPaused(2.25)))
    assert play(turns, (2.32, ReplyOver(1))) == []
    play(turns, (2.55, TimerFired("end_of_turn")))
    assert play(turns, (2.6, OverlapJudged(1, False, "backchannel", "okay"))) == [
        DropTurn(2, failed=False),
        EndUtterance(),
    ]


def test_speech_before_the_answer_sounds_holds_it_until_it_is_clear_what_it_was() -> None:
    turns = machine()
    play(turns, (1.0, UserWrote("hi")))
    assert play(turns, (1.2, SpeechBegan(1.1))) == [Hold(1)]
    commands = play(turns, (1.3, SpeechPaused(1.25)), (1.35, OverlapJudged(1, False, "noise", "")))
    assert Resume(1) in commands


def test_a_likely_end_is_waited_for_less_and_an_unlikely_one_more() -> None:
    ends = {}
    for probability in (None, 1.0, 0.75, 0.5, 0.25, 0.0):
        turns = machine(min_silence_ms=200, max_silence_ms=1000)
        play(turns, (1.0, SpeechBegan()), (2.06, SpeechPaused(2.0)))
        commands = turns.handle(TurnJudged(1, probability), 2.1)
        ends[probability] = timer(commands, "end_of_turn") - 2.0 if commands else None
    assert ends == {
        None: None,
        1.0: pytest.approx(0.2),
        0.75: pytest.approx(0.25),
        0.5: pytest.approx(0.3),
        0.25: pytest.approx(0.65),
        0.0: pytest.approx(1.0),
    }


def test_a_silence_that_is_set_beyond_the_bounds_moves_them() -> None:
    for probability, silence in ((1.0, 0.2), (None, 2.0), (0.0, 2.0)):
        assert end_silence_s(TurnPolicy(end_silence_ms=2000), 300, probability) == pytest.approx(silence)
    assert end_silence_s(TurnPolicy(end_silence_ms=100), 300, 1.0) == pytest.approx(0.1)


def test_a_reply_to_a_turn_that_hardly_is_over_is_prepared_late() -> None:
    turns = machine(max_silence_ms=1000)
    play(turns, (1.0, SpeechBegan()), (2.06, SpeechPaused(2.0)))
    assert play(turns, (2.1, TurnJudged(1, 0.0))) == []
    commands = turns.handle(TranscriptReady(1, "I would like a"), 2.1)
    assert not [command for command in commands if isinstance(command, Propose)]
    assert timer(commands, "speculate") == pytest.approx(2.5)
    assert play(turns, (2.5, TimerFired("speculate"))) == [Propose(1, 1, "I would like a")]
    assert play(turns, (3.0, TimerFired("end_of_turn")))[0] == Commit(1, 1, speculated=True)


def test_a_silent_user_is_asked_twice_and_then_told_goodbye() -> None:
    turns = machine(nudge_after_ms=5000, nudges=("One?", "Two?"), goodbye="Bye.")
    assert timer(turns.handle(AudienceChanged(True), 1.0), "silence") == 6.0
    said = []
    for epoch in (1, 2, 3):
        (command,) = play(turns, (10.0 * epoch, TimerFired("silence")))
        assert isinstance(command, Say)
        said.append((command.text, command.purpose))
        ends = play(turns, (10.0 * epoch + 1, ReplyHeard(epoch)), (10.0 * epoch + 2, ReplyOver(epoch)))
    assert said == [("One?", "nudge"), ("Two?", "nudge"), ("Bye.", "goodbye")]
    assert ends == [End("user_idle")]


def test_whoever_speaks_between_nudges_starts_the_count_anew() -> None:
    turns = machine(nudge_after_ms=5000, nudges=("One?",), goodbye="Bye.")
    play(turns, (0.0, AudienceChanged(True)), (5.0, TimerFired("silence")), (6.0, ReplyOver(1)), (7.0, UserWrote("hi")))
    (command,) = play(turns, (8.0, ReplyOver(2)), (13.0, TimerFired("silence")))
    assert isinstance(command, Say)
    assert command.text == "One?"


def test_with_barge_in_off_speech_during_the_answer_changes_nothing() -> None:
    turns = machine(barge_in=False)
    play(turns, (1.0, UserWrote("hi")), (1.1, ReplyHeard(1)))
    commands = play(
        turns,
        (2.0, SpeechBegan()),
        (3.1, SpeechPaused(3.0)),
        (3.2, TranscriptReady(1, "but")),
        (3.3, TimerFired("end_of_turn")),
    )
    assert commands == [Transcribe(2, 1), DropTurn(2, failed=False), EndUtterance()]


def test_text_during_the_answer_stops_it_and_is_answered() -> None:
    turns = machine()
    play(turns, (1.0, UserWrote("hi")), (1.1, ReplyHeard(1)))
    assert play(turns, (2.0, UserWrote("wait"))) == [
        CancelReply(1, "interrupted"),
        Propose(2, 2, "wait"),
        Commit(2, 2, speculated=False),
    ]


def test_a_reply_without_any_output_is_given_up_and_apologised_for_once() -> None:
    turns = machine()
    play(turns, (1.0, UserWrote("hi")))
    commands = play(turns, (21.0, TimerFired("first_output")))
    assert [type(command) for command in commands] == [CancelReply, Say]
    assert play(turns, (41.0, TimerFired("first_output"))) == [CancelReply(2, "failed")]


def test_a_reply_that_breaks_off_is_explained() -> None:
    turns = machine()
    play(turns, (1.0, UserWrote("hi")), (1.1, ReplyHeard(1)))
    assert play(turns, (2.0, ReplyOver(1, failed=True))) == [Say(2, 2, BROKE_OFF, "apology")]
    assert play(turns, (3.0, ReplyOver(2, failed=True))) == []


def test_goodbye_is_heard_before_the_end_unless_the_user_goes_on() -> None:
    turns = machine()
    play(turns, (1.0, UserWrote("bye")), (1.1, ReplyHeard(1)), (1.2, EndAsked("agent_ended", after_reply=True)))
    assert play(turns, (2.0, ReplyOver(1))) == [End("agent_ended")]
    assert turns.ended

    turns = machine()
    play(turns, (1.0, UserWrote("bye")), (1.1, ReplyHeard(1)), (1.2, EndAsked("agent_ended", after_reply=True)))
    play(turns, (1.5, SpeechBegan()), (1.6, OverlapJudged(None, True, "words", "one more thing")))
    assert not turns.ended


def test_a_turn_without_end_is_ended() -> None:
    turns = machine(max_turn_ms=5000)
    play(turns, (1.0, SpeechBegan()))
    assert play(turns, (6.0, TimerFired("max_turn"))) == [Transcribe(1, 1)]
    assert turns.user == "done"


GRACE = TakenOver("Grace")
BACK = HandedBack("Grace")


def test_an_operator_stops_the_agent_and_what_the_user_says_is_kept_without_an_answer() -> None:
    turns = machine()
    play(turns, (1.0, UserWrote("hi")), (1.1, ReplyHeard(1)))
    assert play(turns, (2.0, GRACE)) == [
        TellOperator(GRACE),
        CancelReply(1, "interrupted", by_user=False),
    ]
    commands = play(
        turns,
        (3.0, SpeechBegan()),
        (4.1, SpeechPaused(4.0)),
        (4.2, TranscriptReady(1, "hello?")),
        (4.3, TimerFired("end_of_turn")),
        (5.0, UserWrote("anybody?")),
    )
    assert commands == [Transcribe(2, 1), KeepTurn(2, "hello?"), EndUtterance(), KeepTurn(3, "anybody?")]
    assert play(turns, (6.0, BACK)) == [TellOperator(BACK), Answer(2, 3)]


def test_what_was_being_prepared_when_an_operator_comes_leaves_no_trace() -> None:
    turns = machine()
    play(turns, (1.0, SpeechBegan()), (2.12, SpeechPaused(2.0)), (2.2, TranscriptReady(1, "hello")))
    assert play(turns, (2.22, GRACE)) == [TellOperator(GRACE), Discard(1)]
    assert play(turns, (2.3, TimerFired("end_of_turn"))) == [KeepTurn(1, "hello"), EndUtterance()]


def test_after_hand_back_nothing_is_answered_twice() -> None:
    turns = machine()
    play(turns, (1.0, GRACE), (2.0, UserWrote("hi")), (3.0, SayAsked("Hello.")), (3.1, ReplyHeard(1)))
    assert play(turns, (5.0, ReplyOver(1)), (6.0, BACK)) == [TellOperator(BACK)]
    turns = machine()
    play(turns, (1.0, UserWrote("hi")), (1.1, ReplyHeard(1)), (2.0, GRACE))
    assert play(turns, (6.0, BACK)) == [TellOperator(BACK)]


def test_an_answer_that_the_operator_stopped_unheard_is_given_after_hand_back() -> None:
    turns = machine()
    play(turns, (1.0, UserWrote("hi")), (1.1, GRACE))
    assert play(turns, (2.0, BACK)) == [TellOperator(BACK), Answer(2, 1)]


def test_the_agent_answers_what_the_operators_failing_words_did_not() -> None:
    turns = machine()
    play(turns, (1.0, GRACE), (2.0, UserWrote("hi")), (3.0, SayAsked("Hello.")))
    assert play(turns, (3.1, BACK)) == [TellOperator(BACK)], "it may still be heard"
    assert play(turns, (4.0, ReplyOver(1, failed=True))) == [Answer(2, 1)]


def test_a_turn_that_ends_after_hand_back_is_answered_and_a_cough_keeps_no_answer_back() -> None:
    turns = machine()
    play(turns, (1.0, GRACE), (2.0, SpeechBegan()), (3.0, BACK), (4.1, SpeechPaused(4.0)))
    commands = play(turns, (4.2, TranscriptReady(1, "are you there")), (4.3, TimerFired("end_of_turn")))
    assert commands == [Propose(1, 1, "are you there"), Commit(1, 1, speculated=True), EndUtterance()]

    turns = machine()
    play(turns, (1.0, GRACE), (2.0, UserWrote("hi")), (3.0, SpeechBegan()), (3.1, BACK), (3.3, SpeechPaused(3.2)))
    commands = play(turns, (3.4, TranscriptReady(1, "")), (3.5, TimerFired("end_of_turn")))
    assert commands == [DropTurn(2, failed=False), EndUtterance(), Answer(1, 1)]


def test_an_operator_who_is_not_heard_of_is_lost() -> None:
    turns = machine()
    assert timer(turns.handle(GRACE, 1.0), "lease") == 1.0 + LEASE_S
    commands = turns.handle(GRACE, 20.0)
    assert timer(commands, "lease") == 20.0 + LEASE_S
    assert not [command for command in commands if isinstance(command, TellOperator)], "told once"
    assert play(turns, (20.0 + LEASE_S, TimerFired("lease"))) == [TellOperator(HandedBack("Grace", "lost"))]
    assert play(turns, (51.0, BACK)) == [], "they had lost it already"


def test_while_an_operator_speaks_there_are_no_nudges_and_no_apologies() -> None:
    turns = machine(nudge_after_ms=5000)
    play(turns, (0.0, AudienceChanged(True)))
    assert StopTimer("silence") in turns.handle(GRACE, 1.0)
    play(turns, (2.0, SpeechBegan()), (4.1, SpeechPaused(4.0)), (4.3, TimerFired("end_of_turn")))
    assert play(turns, (12.0, TimerFired("transcript"))) == [DropTurn(1, failed=True), EndUtterance()]
    assert timer(turns.handle(BACK, 20.0), "silence") == 25.0


def test_a_tool_cannot_end_what_an_operator_has_taken_over_but_others_can() -> None:
    turns = machine()
    assert play(turns, (1.0, GRACE), (2.0, EndAsked("agent_ended", after_reply=True))) == [TellOperator(GRACE)]
    assert play(turns, (3.0, EndAsked("client_ended"))) == [End("client_ended")]


def test_a_reply_that_is_being_prepared_is_prepared_anew_with_what_was_whispered() -> None:
    turns = machine()
    play(turns, (1.0, SpeechBegan()), (2.12, SpeechPaused(2.0)), (2.2, TranscriptReady(1, "hello")))
    assert play(turns, (2.21, Whispered("Be kind."))) == [Discard(1), Propose(2, 1, "hello")]
    assert play(turns, (2.3, TimerFired("end_of_turn"))) == [Commit(2, 1, speculated=True), EndUtterance()]
    assert play(turns, (2.4, Whispered("Be brief."))) == [], "a committed one goes on"


@dataclass
class World:
    """Plays everybody else: fires timers that are due, and checks the rules at every step."""

    turns: TurnMachine
    now: float = 0.0
    timers: dict[str, float] = field(default_factory=dict)
    proposed: int | None = None
    live: int | None = None
    epoch: int = 0
    attempt: int = 0
    asked: int = 0
    heard: bool = False
    """Something was, since the turn `asked`."""
    over: bool = False
    level: str = "full"

    def give(self, event: Input) -> None:
        if isinstance(event, ReplyOver) and event.epoch == self.live:
            self.live = None
            self.level = "full"
        if isinstance(event, ReplyHeard) and event.epoch == self.live:
            self.heard = True
        for command in self.turns.handle(event, self.now):
            self.check(command)
        if self.over:
            return
        if self.turns.operator is not None:
            assert "lease" in self.timers, "nobody notices that the operator is gone"
            assert self.proposed is None, "prepared in vain"
            assert "silence" not in self.timers
        if self.turns.user in ("pausing", "done"):
            assert {"end_of_turn", "transcript"} & self.timers.keys(), "nobody ends this wait"
        if self.turns.user == "speaking":
            assert "max_turn" in self.timers
        if self.turns.reply and self.turns.reply.state == "committed":
            assert "first_output" in self.timers, "a reply without a deadline"
        if self.turns.overlap:
            assert self.live is not None, "an overlap without a reply"
            assert {"overlap", "verdict", "end_of_turn", "transcript"} & self.timers.keys(), "nobody ends this overlap"
        else:
            assert self.level == "full", "nobody resumes this reply"

    def check(self, command: Command) -> None:
        assert not self.over, f"{command} after the end"
        match command:
            case ArmTimer(name, at):
                self.timers[name] = at
            case StopTimer(name):
                self.timers.pop(name, None)
            case Propose(epoch, _, text):
                assert self.turns.operator is None, "the agent prepares what it may not say"
                assert self.proposed is None, "two replies at once"
                assert self.live is None, "two replies at once"
                assert text.strip()
                assert epoch > self.epoch
                self.epoch = self.proposed = epoch
            case Commit(epoch, turn):
                assert epoch == self.proposed
                self.proposed, self.live = None, epoch
                self.asked, self.heard = turn, False
            case Discard(epoch):
                assert epoch == self.proposed
                self.proposed = None
            case KeepTurn(turn, text):
                self.asked, self.heard = turn, False
                assert self.turns.operator is not None, "a turn that nobody answers"
                assert text.strip()
            case Answer(epoch, turn):
                assert self.turns.operator is None
                assert self.turns.user == "silent"
                assert self.proposed is None, "two replies at once"
                assert self.live is None, "two replies at once"
                assert turn == self.asked, "not the last turn"
                assert not self.heard, "answered twice"
                assert epoch > self.epoch
                self.epoch = self.live = epoch
            case Say(epoch, purpose=purpose):
                assert purpose == "asked" or self.turns.operator is None
                assert self.proposed is None, "two replies at once"
                assert self.live is None, "two replies at once"
                assert epoch > self.epoch
                self.epoch = self.live = epoch
            case CancelReply(epoch):
                assert epoch == self.live
                self.live = None
                self.level = "full"
            case Duck(epoch):
                assert (epoch, self.level) == (self.live, "full")
                self.level = "ducked"
            case Hold(epoch):
                assert epoch == self.live
                assert self.level != "held"
                self.level = "held"
            case Resume(epoch):
                assert epoch == self.live
                assert self.level != "full"
                self.level = "full"
            case TellInterruption(_, epoch):
                assert epoch == self.live
            case Transcribe(_, attempt) | JudgeOverlap(_, attempt):
                assert attempt > self.attempt
                self.attempt = attempt
            case End():
                self.over = True

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while due := [name for name, at in self.timers.items() if at <= until]:
            name = min(due, key=lambda name: self.timers[name])
            self.now = max(self.now, self.timers.pop(name))
            self.give(TimerFired(name))  # type: ignore[arg-type]
        self.now = until


steps = st.one_of(
    st.just("began"),
    st.just("paused"),
    st.tuples(st.just("transcript"), st.integers(-1, 0), st.sampled_from(["", "yes", "book a table", None])),
    st.tuples(st.just("turn"), st.integers(-1, 0), st.sampled_from([None, 0.0, 0.4, 0.9, 1.0])),
    st.tuples(
        st.just("overlap"),
        st.sampled_from([None, -1, 0]),
        st.sampled_from([None, True, False]),
        st.sampled_from(["", "yes", None]),
    ),
    st.tuples(st.just("audience"), st.booleans()),
    st.tuples(st.just("wrote"), st.sampled_from(["hi", "stop"])),
    st.just("interrupt"),
    st.just("say"),
    st.just("heard"),
    st.tuples(st.just("over"), st.integers(-1, 0), st.booleans()),
    st.tuples(st.just("took over"), st.sampled_from(["Grace", "Ada"])),
    st.just("handed back"),
    st.just("whispered"),
    st.tuples(st.just("end"), st.booleans()),
    st.tuples(st.just("wait"), st.floats(0.0, 9.0)),
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.lists(steps, max_size=40),
    st.builds(
        TurnPolicy,
        speculate=st.booleans(),
        barge_in=st.booleans(),
        max_speculations=st.integers(0, 2),
        nudge_after_ms=st.sampled_from([None, 3000]),
    ),
)
def test_whatever_happens_there_is_one_reply_at_most_and_a_way_out(script: list[object], policy: TurnPolicy) -> None:
    world = World(TurnMachine(policy, 300))
    for step in script:
        match step:
            case "began":
                world.give(SpeechBegan())
            case "paused":
                world.give(SpeechPaused(world.now - 0.12))
            case ("transcript", int(back), text):
                world.give(TranscriptReady(world.attempt + back, text))  # type: ignore[arg-type]
            case ("turn", int(back), probability):
                world.give(TurnJudged(world.attempt + back, probability))  # type: ignore[arg-type]
            case ("overlap", back, stop, text):
                attempt = None if back is None else world.attempt + back  # type: ignore[operator]
                world.give(OverlapJudged(attempt, stop, "test", text))  # type: ignore[arg-type]
            case ("audience", bool(hears)):
                world.give(AudienceChanged(hears))
            case ("wrote", str(text)):
                world.give(UserWrote(text))
            case "interrupt":
                world.give(InterruptAsked())
            case "say":
                world.give(SayAsked("attention"))
            case "heard":
                world.give(ReplyHeard(world.epoch))
            case ("over", int(back), bool(failed)):
                world.give(ReplyOver(world.epoch + back, failed))
            case ("took over", str(operator)):
                world.give(TakenOver(operator))
            case "handed back":
                world.give(BACK)
            case "whispered":
                world.give(Whispered("psst"))
            case ("end", bool(after)):
                world.give(EndAsked("test", after))
            case ("wait", float(seconds)):
                world.pass_time(seconds)
    # Nobody does anything any more but what the machine asked to be woken for: it comes to rest.
    world.pass_time(200)
    assert world.over or world.turns.user == "silent"
    assert world.over or world.turns.reply is None or world.turns.reply.state == "heard"
    assert world.proposed is None
    assert world.over or world.turns.operator is None
    assert world.over or world.turns.reply or world.turns._unanswered is None, "the user waits for ever"


@pytest.mark.parametrize("state", ["began", "paused", "done"])
def test_ending_works_from_every_state(state: str) -> None:
    turns = machine()
    play(turns, (1.0, SpeechBegan()))
    if state != "began":
        play(turns, (2.0, SpeechPaused(1.9)))
    if state == "done":
        play(turns, (2.3, TimerFired("end_of_turn")))
    assert play(turns, (3.0, EndAsked("bye")))[-1] == End("bye")
    assert turns.handle(UserWrote("more"), 4.0) == []
