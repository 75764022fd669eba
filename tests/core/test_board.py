"""The live board: what is shown of a session follows from its events; who has seen it is told what is different."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from rejoinder import board as board_module
from rejoinder import events as e
from rejoinder.board import SHOWN, Board, Live
from rejoinder.clock import SystemClock


class Now(SystemClock):
    def __init__(self) -> None:
        self.s = 1000.0

    def monotonic(self) -> float:
        return self.s


@pytest.fixture
def board() -> Board:
    return Board("node_1", Now())


def shown(board: Board, session_id: str = "ses_1") -> Live:
    return next(live for live in board.changes(None).changed if live.id == session_id)


def see(board: Board, *seen: e.Event, session_id: str = "ses_1") -> str:
    for event in seen:
        board.on_event(session_id, event)
    return shown(board, session_id).doing


COMMITTED = e.TurnCommitted(turn_id="t", text="what time is it")
STARTED = e.ReplyStarted(reply_id="r", turn_id="t")


def finished(reason: Any = "completed", text: str = "It is noon.", heard: str = "It is noon.") -> e.ReplyFinished:
    return e.ReplyFinished(reply_id="r", turn_id="t", reason=reason, text=text, heard_text=heard)


def test_a_turn_from_listening_to_listening(board: Board) -> None:
    board.add("ses_1", "guide", "websocket", "browser")
    assert see(board) == "listening"
    assert see(board, e.SpeechStarted(turn_id="t")) == "user_speaking"
    assert see(board, e.SpeechPaused(turn_id="t")) == "user_speaking", "they may go on"
    assert see(board, e.SpeechStopped(turn_id="t", silence_ms=200)) == "thinking"
    assert see(board, e.Transcript(turn_id="t", text="what time is it", final=True)) == "thinking"
    assert see(board, COMMITTED, STARTED) == "thinking", "nothing of the answer is there yet"
    assert see(board, e.ToolCalled(reply_id="r", call_id="c", name="clock", arguments="{}")) == "tool"
    returned = e.ToolReturned(reply_id="r", call_id="c", name="clock", status="ok", result="12")
    assert see(board, returned) == "thinking"
    assert see(board, e.ReplyText(reply_id="r", delta="It is ")) == "speaking"
    see(board, e.ReplyText(reply_id="r", delta="noon."))
    assert shown(board).last_agent == "It is noon."
    assert see(board, finished()) == "listening"
    see(board, e.TurnMetrics(turn_id="t", reply_id="r", response_us=640_000, spans=[]))
    live = shown(board)
    assert (live.channel, live.client, live.node) == ("websocket", "browser", "node_1")
    assert (live.last_user, live.turns, live.last_response_us) == ("what time is it", 1, 640_000)


def test_an_interruption_counts_when_it_was_meant(board: Board) -> None:
    board.add("ses_1", "guide")
    see(board, COMMITTED, STARTED, e.ReplyText(reply_id="r", delta="Well"), e.SpeechStarted(turn_id="u"))
    assert shown(board).doing == "user_speaking"
    noise = e.Interruption(turn_id="u", reply_id="r", accepted=False, cause="noise", speech_ms=100)
    assert see(board, noise) == "speaking", "the agent speaks on"
    meant = e.Interruption(turn_id="u", reply_id="r", accepted=True, cause="words", speech_ms=400, text="stop")
    see(board, e.SpeechStarted(turn_id="u"), meant, finished("interrupted", "Well, it is noon.", "Well"))
    assert (shown(board).interruptions, shown(board).last_agent) == (1, "Well"), "only what was heard"
    assert shown(board).doing == "user_speaking"


def test_speech_without_words_is_not_waited_for(board: Board) -> None:
    board.add("ses_1", "guide")
    see(board, e.SpeechStarted(turn_id="t"), e.SpeechStopped(turn_id="t", silence_ms=300))
    assert see(board, e.Transcript(turn_id="t", text="", final=True)) == "listening"
    assert shown(board).last_user == ""


def test_operators_errors_agents_and_listeners(board: Board) -> None:
    board.add("ses_1", "guide")
    see(board, e.OperatorTookOver(operator="ada"))
    assert shown(board).operator == "ada"
    assert see(board, COMMITTED) == "listening", "a person answers, not the agent"
    see(board, e.OperatorHandedBack(operator="ada", reason="handed_back"), e.Error(code="x", message="y"))
    see(board, e.AgentChanged(agent="sales", former="guide"))
    board.listened("ses_1", 2)
    live = shown(board)
    assert (live.operator, live.errors, live.agent, live.listeners) == (None, 1, "sales", 2)
    version = board.version
    board.listened("ses_1", 2)
    assert board.version == version


def test_texts_are_cut_and_what_is_beyond_changes_nothing(board: Board) -> None:
    board.add("ses_1", "guide")
    see(board, e.Transcript(turn_id="t", text="x" * 5000, final=False), STARTED)
    see(board, *(e.ReplyText(reply_id="r", delta="word ") for _ in range(100)))
    assert len(shown(board).last_user) == len(shown(board).last_agent) == SHOWN
    version = board.version
    see(board, e.ReplyText(reply_id="r", delta="more"), e.ReplyDucked(reply_id="r"), e.Pong(t=1.0))
    assert board.version == version


def test_a_reader_is_told_what_is_different(board: Board) -> None:
    for number in range(3):
        board.add(f"ses_{number}", "guide")
    all_there_is = board.changes(None)
    assert all_there_is.reset
    assert len(all_there_is.changed) == 3
    since = all_there_is.version
    assert board.changes(since) == (False, [], [], since)
    for _ in range(5):
        see(board, COMMITTED, session_id="ses_1")
    board.remove("ses_2")
    board.remove("ses_2")
    changes = board.changes(since)
    assert ([live.id for live in changes.changed], changes.gone, changes.reset) == (["ses_1"], ["ses_2"], False)
    assert board.changes(changes.version) == (False, [], [], changes.version)
    assert board.changes(board.version + 1).reset, "of another life"


def test_the_message_is_what_the_changes_are_and_is_made_once(board: Board) -> None:
    for number in range(3):
        board.add(f"ses_{number}", "guide")
    since = board.version
    see(board, COMMITTED, session_id="ses_0")
    board.remove("ses_2")
    message = json.loads(board.update(since))
    assert message["topic"] == "live"
    assert (message["reset"], [one["id"] for one in message["changed"]], message["gone"]) == (
        False,
        ["ses_0"],
        ["ses_2"],
    )
    assert message["changed"][0]["last_user"] == COMMITTED.text
    assert set(message["changed"][0]) == set(Live.__struct_fields__), "every field, also those that are as by default"
    assert board.update(since) is board.update(since)
    whole = json.loads(board.update(None))
    assert (whole["reset"], len(whole["changed"]), whole["gone"]) == (True, 2, [])
    see(board, COMMITTED, session_id="ses_1")
    assert len(json.loads(board.update(since))["changed"]) == 2


def test_what_went_long_ago_is_forgotten_and_then_all_is_told(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "_GONE", 3)
    since = board.version
    for number in range(5):
        board.add(f"ses_{number}", "guide")
        board.remove(f"ses_{number}")
    assert board.changes(since).reset
    assert json.loads(board.update(since))["reset"]
    assert board.changes(board.version - 3).gone == ["ses_4", "ses_3"]
    assert len(board._gone) == 3


def test_the_next_change_is_told_once(board: Board) -> None:
    told: list[int] = []
    board.tell(lambda: told.append(board.version))
    board.add("ses_1", "guide")
    see(board, COMMITTED)
    assert told == [1]
    board.tell(lambda: told.append(-1))
    board.close()
    board.close()
    assert told == [1, -1]


def test_turns_of_the_last_minute() -> None:
    now = Now()
    board = Board("node_1", now)
    board.add("ses_1", "guide")
    for _ in range(90):
        see(board, COMMITTED, COMMITTED)
        now.s += 1
    assert board.turns_last_minute() in (118, 120)
    now.s += 61
    assert board.turns_last_minute() == 0
    assert not board._minute


def test_a_broken_event_costs_nobody_anything(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    board.add("ses_1", "guide")
    for _ in range(2):
        board.on_event("ses_1", e.TurnCommitted(turn_id="t", text=None))  # type: ignore[arg-type]
    assert caplog.text.count("could not take TurnCommitted") == 1, "it is said once"
    board.on_event("ses_unknown", COMMITTED)
    assert see(board, e.SpeechStarted(turn_id="t")) == "user_speaking"


def test_an_event_costs_microseconds() -> None:
    board = Board("node_1", SystemClock())
    for number in range(500):
        board.add(f"ses_{number}", "guide")
    seen = [
        e.SpeechStarted(turn_id="t"),
        COMMITTED,
        STARTED,
        *(e.ReplyText(reply_id="r", delta="word ") for _ in range(20)),
        finished(),
    ]
    best = float("inf")
    for _ in range(5):
        began = time.thread_time()
        for number in range(500):
            for event in seen:
                board.on_event(f"ses_{number}", event)
        best = min(best, (time.thread_time() - began) / (500 * len(seen)))
    assert best < 5e-6, f"{best * 1e6:.1f} us"
