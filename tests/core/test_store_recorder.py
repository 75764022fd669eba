"""The recorder turns events into rows."""

from __future__ import annotations

import msgspec
import pytest

from rejoinder import events
from rejoinder.store.recorder import Recorder
from rejoinder.store.statements import Row, Write

SESSION = "ses_1"


class Bench:
    """A recorder whose rows are kept in a list; `say` numbers events as the bus does."""

    def __init__(self) -> None:
        self.rows: list[tuple[Write, Row]] = []
        self.recorder = Recorder(lambda write, row: self.rows.append((write, row)))
        self.seq = 0

    def say(self, event: events.Event) -> None:
        self.seq += 1
        event.seq, event.at, event.session_id = self.seq, 1000 + self.seq, SESSION
        self.recorder.on_event(SESSION, event, events.encode(event))

    def of(self, write: Write) -> list[Row]:
        return [row for kind, row in self.rows if kind is write]


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.say(events.SessionStarted(agent="guide", input_rate=16_000, output_rate=24_000))
    return bench


def finished(turn: str = "t1", reply: str = "r1", heard: str = "It is", **fields: object) -> events.ReplyFinished:
    return msgspec.convert(
        {
            "type": "reply.finished",
            "turn_id": turn,
            "reply_id": reply,
            "reason": "interrupted",
            "text": "It is noon.",
            "heard_text": heard,
            "played_ms": 400,
            **fields,
        },
        events.ReplyFinished,
    )


def test_every_numbered_event_is_kept_as_it_was_sent(bench: Bench) -> None:
    bench.say(events.ReplyText(reply_id="r1", delta="ça"))
    session_id, seq, at, kind, data = bench.of(Write.EVENT)[-1]
    assert (session_id, seq, at, kind) == (SESSION, 2, 1002, "reply.text")
    assert events.decode_event(data) == events.ReplyText(reply_id="r1", delta="ça", seq=2, at=1002, session_id=SESSION)


def test_pong_is_not_recorded(bench: Bench) -> None:
    before = len(bench.rows)
    bench.recorder.on_event(SESSION, events.Pong(t=1.0), b"{}")
    assert len(bench.rows) == before


def test_a_session_belongs_to_the_room_it_joined() -> None:
    bench = Bench()
    bench.recorder.join(SESSION, "room_1")
    bench.say(events.SessionStarted(agent="guide", agent_version=2, input_rate=16_000, output_rate=24_000))
    assert bench.of(Write.SESSION) == [(SESSION, "room_1", "guide", 2, 1001, 16_000, 24_000, None, None)]


def test_a_turn_is_what_was_said_answered_and_heard(bench: Bench) -> None:
    bench.say(events.TurnCommitted(turn_id="t1", text="What time is it?"))
    bench.say(events.ReplyStarted(turn_id="t1", reply_id="r1"))
    bench.say(finished())
    assert bench.of(Write.TURN) == [("t1", SESSION, 1, "What time is it?", 1002, None)]
    assert bench.of(Write.TURN_REPLY) == [("r1", "t1")]
    assert bench.of(Write.TURN_FINISHED) == [("r1", "It is noon.", "It is", "interrupted", 400, False, "t1")]
    assert bench.of(Write.MESSAGE) == [
        (SESSION, "t1", "user", "What time is it?", 1002, 2),
        (SESSION, "t1", "assistant", "It is", 1004, 4),
    ]


def test_an_answer_nobody_heard_leaves_no_message(bench: Bench) -> None:
    bench.say(events.TurnCommitted(turn_id="t1", text="Hello?"))
    bench.say(finished(heard=""))
    assert [row[2] for row in bench.of(Write.MESSAGE)] == ["user"]


def test_a_greeting_is_a_turn_without_words_of_the_user(bench: Bench) -> None:
    bench.say(events.ReplyStarted(turn_id="t0", reply_id="r0"))
    bench.say(finished("t0", "r0"))
    bench.say(events.TurnCommitted(turn_id="t1", text="Hi."))
    assert bench.of(Write.TURN) == [("t0", SESSION, 1, None, 1002, "r0"), ("t1", SESSION, 2, "Hi.", 1004, None)]


def test_tool_calls_belong_to_the_turn_of_their_reply(bench: Bench) -> None:
    bench.say(events.TurnCommitted(turn_id="t1", text="What time is it?"))
    bench.say(events.ReplyStarted(turn_id="t1", reply_id="r1"))
    bench.say(events.ToolCalled(reply_id="r1", call_id="c1", name="clock", arguments="{}"))
    bench.say(events.ToolReturned(reply_id="r1", call_id="c1", name="clock", status="ok", result="12:00"))
    assert bench.of(Write.TOOL_CALL) == [("r1", "c1", SESSION, "t1", "clock", "{}", 1004)]
    assert bench.of(Write.TOOL_RETURNED) == [("ok", "12:00", 1005, "r1", "c1")]


def test_a_turn_is_measured_by_its_first_answer_only(bench: Bench) -> None:
    bench.say(events.TurnCommitted(turn_id="t1", text="Hi."))
    for reply, us in (("r1", 700), ("r2", 90)):
        bench.say(
            events.TurnMetrics(
                turn_id="t1",
                reply_id=reply,
                response_us=us,
                spans=[events.Span("stt", us - 10), events.Span("llm", 10, True)],
                saved_us=80,
                discarded=2,
                providers={"llm": "guide"},
            )
        )
    assert bench.of(Write.TURN_METRICS) == [(700, 0, False, 80, 2, '{"llm":"guide"}', "{}", "t1")]
    assert bench.of(Write.SPAN) == [("t1", 0, "stt", 690, False), ("t1", 1, "llm", 10, True)]


def test_an_interruption_is_kept_whether_it_was_one_or_not(bench: Bench) -> None:
    bench.say(
        events.Interruption(
            turn_id="t1", reply_id="r1", accepted=False, cause="backchannel", speech_ms=300, text="mm-\0hm"
        )
    )
    assert bench.of(Write.INTERRUPTION) == [(SESSION, 2, "t1", "r1", False, "backchannel", 300, "mm-hm", 1002)]
    assert not bench.of(Write.TURN)


def test_what_happened_in_all_is_kept_with_the_session(bench: Bench) -> None:
    bench.say(events.SessionMetrics(turns=2, interruptions=1, timeouts={"llm:openai": 1}))
    ((counts, session_id),) = bench.of(Write.SESSION_METRICS)
    assert session_id == SESSION
    kept = msgspec.json.decode(counts)
    assert (kept["turns"], kept["interruptions"], kept["nudges"]) == (2, 1, 0)
    assert kept["timeouts"] == {"llm:openai": 1}
    assert not {"type", "seq", "at", "session_id"} & kept.keys()


def test_an_error_before_the_start_has_a_session_to_belong_to() -> None:
    bench = Bench()
    bench.say(events.Error(code="missing_model", message="No model."))
    bench.say(events.SessionStarted(agent="guide", input_rate=16_000, output_rate=24_000))
    assert bench.of(Write.SESSION) == [(SESSION, None, "", None, 1001, 0, 0, None, None)]
    assert bench.of(Write.SESSION_STARTED) == [("guide", None, 1002, 16_000, 24_000, SESSION)]


def test_a_session_is_forgotten_at_its_end(bench: Bench) -> None:
    assert len(bench.recorder) == 1
    bench.say(events.SessionEnded(reason="client_ended"))
    assert bench.of(Write.SESSION_ENDED) == [(1002, "client_ended", SESSION)]
    assert len(bench.recorder) == 0


def test_what_is_remembered_of_a_long_session_stays_small(bench: Bench) -> None:
    for number in range(100):
        bench.say(events.TurnCommitted(turn_id=f"t{number}", text="And?"))
        bench.say(events.ReplyStarted(turn_id=f"t{number}", reply_id=f"r{number}"))
    state = bench.recorder._sessions[SESSION]
    assert len(state.measured) <= 8
    assert len(state.replies) <= 8
    assert [row[2] for row in bench.of(Write.TURN)] == list(range(1, 101))


def test_nul_is_kept_out_of_text_columns(bench: Bench) -> None:
    bench.say(events.TurnCommitted(turn_id="t1", text="a\0b"))
    assert bench.of(Write.TURN)[0][3] == "ab"
    assert "\0" not in bench.of(Write.EVENT)[-1][4]
