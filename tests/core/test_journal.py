"""The journal: heard text, and a history that is well-formed whatever happened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoinder.journal import Entry, Journal, ToolRound
from rejoinder.providers import Message, ToolCall


def spoken(*segments: tuple[str, float, float | None]) -> Entry:
    entry = Entry("turn_1", "rep_1", "hi")
    for text, start, end in segments:
        entry.speak(text, start).end_ms = end
    return entry


@pytest.mark.parametrize(
    ("played", "heard"),
    [
        (0, ""),
        (1000, "One two three four."),
        (2000, "One two three four. Five six"),
        (9999, "One two three four. Five six seven eight."),
    ],
)
def test_heard_text_follows_the_audio(played: float, heard: str) -> None:
    entry = spoken(("One two three four.", 0, 1000), ("Five six seven eight.", 1000, 3000))
    assert entry.heard(played) == heard


def test_a_chunk_cut_while_it_was_made_is_measured_by_a_common_pace() -> None:
    assert spoken(("one two three four five six", 0, None)).heard(1000) == "one two three"


def test_a_proposal_leaves_no_trace() -> None:
    journal = Journal()
    journal.finish(journal.propose("turn_1", "rep_1", "hello"), "never", cut=False)
    assert journal.messages("be kind", 10) == (Message("system", "be kind"),)


def test_an_interrupted_reply_is_remembered_as_far_as_it_was_heard() -> None:
    journal = Journal()
    entry = journal.propose("turn_1", "rep_1", "tell me")
    journal.commit(entry)
    entry.text = "It was a dark night."
    journal.finish(entry, "It was", cut=True)
    assert journal.messages("", 10)[-1] == Message("assistant", "It was...")


def test_a_call_that_was_cut_off_gets_an_answer() -> None:
    journal = Journal()
    entry = journal.propose("turn_1", "rep_1", "book it")
    journal.commit(entry)
    entry.rounds.append(ToolRound((ToolCall("c1", "book", "{}"), ToolCall("c2", "pay", "{}")), "", {"c1": "booked"}))
    journal.finish(entry, "", cut=True)
    roles = [(message.role, message.tool_call_id) for message in journal.messages("", 10)]
    assert roles == [("user", ""), ("assistant", ""), ("tool", "c1"), ("tool", "c2")]


turns = st.lists(
    st.tuples(
        st.one_of(st.none(), st.just("question")),
        st.lists(st.lists(st.booleans(), min_size=1, max_size=3), max_size=2),
        st.sampled_from(["", "an answer"]),
        st.booleans(),
    ),
    max_size=8,
)


@given(turns, st.integers(2, 12))
def test_history_is_always_well_formed_and_bounded(
    script: list[tuple[str | None, list[list[bool]], str, bool]], limit: int
) -> None:
    journal = Journal()
    for number, (user_text, rounds, heard, finished) in enumerate(script):
        entry = journal.propose(f"turn_{number}", f"rep_{number}", user_text)
        journal.commit(entry)
        for index, answered in enumerate(rounds):
            calls = tuple(ToolCall(f"{number}.{index}.{n}", "tool", "{}") for n in range(len(answered)))
            results = {call.id: "ok" for call, done in zip(calls, answered, strict=True) if done}
            entry.rounds.append(ToolRound(calls, "", results))
        entry.text = heard
        if finished:
            journal.finish(entry, heard, cut=False)
    messages = journal.messages("system", limit)
    assert messages[0].role == "system"
    assert len(messages) <= limit + 1
    open_calls: set[str] = set()
    for message in messages[1:]:
        if message.role == "tool":
            assert message.tool_call_id in open_calls
            open_calls.remove(message.tool_call_id)
        else:
            assert not open_calls, "a call without a result before the next message"
            open_calls = {call.id for call in message.tool_calls}
    assert not open_calls
