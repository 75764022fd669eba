"""The turn machine as lists of timed inputs, and hypothesis looking for the lists nobody thought of."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rejoinder.settings import TurnPolicy
from rejoinder.turns.machine import (
    ArmTimer,
    CancelReply,
    Command,
    Commit,
    Discard,
    DropTurn,
    End,
    EndAsked,
    EndUtterance,
    Input,
    InterruptAsked,
    Propose,
    ReplyHeard,
    ReplyOver,
    Say,
    SayAsked,
    SpeechBegan,
    SpeechPaused,
    StopTimer,
    TellSpeech,
    TimerFired,
    Transcribe,
    TranscriptReady,
    TurnMachine,
    UserWrote,
)

POLICY = TurnPolicy()


def machine(**policy: object) -> TurnMachine:
    return TurnMachine(TurnPolicy.model_validate(policy), end_silence_ms=300)


def play(turns: TurnMachine, *inputs: tuple[float, Input]) -> list[Command]:
    """All commands but timers, in order."""
    commands = [command for at, event in inputs for command in turns.handle(event, at)]
    return [command for command in commands if not isinstance(command, ArmTimer | StopTimer | TellSpeech)]


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


def test_speech_during_the_answer_stops_it() -> None:
    turns = machine()
    play(turns, (1.0, UserWrote("hi")), (1.1, ReplyHeard(1)))
    assert play(turns, (2.0, SpeechBegan())) == [CancelReply(1, "interrupted")]


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


def test_a_failed_reply_that_was_heard_in_part_needs_no_apology() -> None:
    turns = machine()
    play(turns, (1.0, UserWrote("hi")), (1.1, ReplyHeard(1)))
    assert play(turns, (2.0, ReplyOver(1, failed=True))) == []


def test_goodbye_is_heard_before_the_end_unless_the_user_goes_on() -> None:
    turns = machine()
    play(turns, (1.0, UserWrote("bye")), (1.1, ReplyHeard(1)), (1.2, EndAsked("agent_ended", after_reply=True)))
    assert play(turns, (2.0, ReplyOver(1))) == [End("agent_ended")]
    assert turns.ended

    turns = machine()
    play(turns, (1.0, UserWrote("bye")), (1.1, ReplyHeard(1)), (1.2, EndAsked("agent_ended", after_reply=True)))
    play(turns, (1.5, SpeechBegan()))
    assert not turns.ended


def test_a_turn_without_end_is_ended() -> None:
    turns = machine(max_turn_ms=5000)
    play(turns, (1.0, SpeechBegan()))
    assert play(turns, (6.0, TimerFired("max_turn"))) == [Transcribe(1, 1)]
    assert turns.user == "done"


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
    over: bool = False

    def give(self, event: Input) -> None:
        if isinstance(event, ReplyOver) and event.epoch == self.live:
            self.live = None
        for command in self.turns.handle(event, self.now):
            self.check(command)
        if self.over:
            return
        if self.turns.user in ("pausing", "done"):
            assert {"end_of_turn", "transcript"} & self.timers.keys(), "nobody ends this wait"
        if self.turns.user == "speaking":
            assert "max_turn" in self.timers
        if self.turns.reply and self.turns.reply.state == "committed":
            assert "first_output" in self.timers, "a reply without a deadline"

    def check(self, command: Command) -> None:
        assert not self.over, f"{command} after the end"
        match command:
            case ArmTimer(name, at):
                self.timers[name] = at
            case StopTimer(name):
                self.timers.pop(name, None)
            case Propose(epoch, _, text):
                assert self.proposed is None, "two replies at once"
                assert self.live is None, "two replies at once"
                assert text.strip()
                assert epoch > self.epoch
                self.epoch = self.proposed = epoch
            case Commit(epoch):
                assert epoch == self.proposed
                self.proposed, self.live = None, epoch
            case Discard(epoch):
                assert epoch == self.proposed
                self.proposed = None
            case Say(epoch):
                assert self.proposed is None, "two replies at once"
                assert self.live is None, "two replies at once"
                assert epoch > self.epoch
                self.epoch = self.live = epoch
            case CancelReply(epoch):
                assert epoch == self.live
                self.live = None
            case Transcribe(_, attempt):
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
    st.tuples(st.just("wrote"), st.sampled_from(["hi", "stop"])),
    st.just("interrupt"),
    st.just("say"),
    st.just("heard"),
    st.tuples(st.just("over"), st.integers(-1, 0), st.booleans()),
    st.tuples(st.just("end"), st.booleans()),
    st.tuples(st.just("wait"), st.floats(0.0, 9.0)),
)


@settings(max_examples=3000, deadline=None)
@given(
    st.lists(steps, max_size=40),
    st.builds(TurnPolicy, speculate=st.booleans(), barge_in=st.booleans(), max_speculations=st.integers(0, 2)),
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
            case ("end", bool(after)):
                world.give(EndAsked("test", after))
            case ("wait", float(seconds)):
                world.pass_time(seconds)
    # Nobody does anything any more but what the machine asked to be woken for: it comes to rest.
    world.pass_time(200)
    assert world.over or world.turns.user == "silent"
    assert world.over or world.turns.reply is None or world.turns.reply.state == "heard"
    assert world.proposed is None


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
