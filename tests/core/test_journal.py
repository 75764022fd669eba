"""The journal: heard text, and a history that is well-formed whatever happened."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rejoinder.journal import NOT_STARTED, Entry, Journal, ToolRound, without_note
from rejoinder.providers import Message, ToolCall, WordTime


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


def timed(text: str, *words: tuple[str, float, float], end_ms: float | None = 4000) -> Entry:
    entry = spoken((text, 1000, end_ms))
    entry.segments[0].words += [WordTime(*word) for word in words]
    return entry


APPLES = (("forty", 0, 300), ("two", 300, 600), ("apples", 700, 1200), ("and", 1200, 1400), ("two", 1400, 1700))


@pytest.mark.parametrize(
    ("played", "heard"),
    [
        (1000, ""),
        (1290, ""),
        (1310, "42"),
        (1940, "42"),
        (1950, "42 apples,"),
        (2590, "42 apples, and two"),
        (3340, "42 apples, and two"),
        (3360, "42 apples, and two pears."),
        (4000, "42 apples, and two pears."),
    ],
)
def test_a_word_is_heard_once_half_of_it_was_played(played: float, heard: str) -> None:
    assert timed("42 apples, and two pears.", *APPLES, ("pears", 1700, 3000)).heard(played) == heard


def test_words_without_a_time_in_a_chunk_that_is_being_made_have_not_been_made() -> None:
    entry = timed("42 apples, and two pears.", *APPLES, end_ms=None)
    assert entry.heard(9999) == "42 apples, and two"
    assert entry.word_at(9999) == 9999


def test_times_that_overlap_are_read_one_after_the_other() -> None:
    entry = timed("a 12", ("a", 0, 500), ("twelve", 300, 600))
    assert (entry.heard(1460), entry.heard(1560), entry.word_at(1460)) == ("a", "a 12", 1000)


@pytest.mark.parametrize(
    ("words", "heard"),
    [
        (("don't", "stop"), "I don't"),
        (("do", "n't", "stop"), "I don't"),
        (("DON\u2019T", "stop!"), "I don't"),
        (("dont", "stop"), "I don't"),
        (("quite", "other"), "I don't"),
    ],
)
def test_times_that_are_cut_into_words_otherwise_are_brought_together_by_their_order(
    words: tuple[str, ...], heard: str
) -> None:
    times = [("I", 0.0, 100.0), *((word, 100.0 + 400 * n, 500.0 + 400 * n) for n, word in enumerate(words))]
    entry = timed("I don't stop.", *times)
    assert entry.heard(1000 + 100 + 400 * (len(words) - 1)) == heard


def test_of_chinese_a_character_is_heard_not_a_whole_sentence() -> None:
    assert spoken(("\u4f60\u597d\uff0c\u4e16\u754c\u3002", 0, 600)).heard(340) == "\u4f60\u597d\uff0c"
    words = (("\u4f60\u597d", 0, 400), ("\u4e16\u754c", 1000, 2000))
    assert timed("\u4f60\u597d\uff0c\u4e16\u754c\u3002", *words).heard(2900) == "\u4f60\u597d\uff0c\u4e16"


@pytest.mark.parametrize(
    ("played", "begins"),
    [(1000, 1000), (1599, 1000), (1650, 1650), (1701, 1700), (2199, 1700), (3999, 2700), (4000, 4000), (9999, 9999)],
)
def test_after_a_false_alarm_the_word_that_was_cut_begins_again(played: float, begins: float) -> None:
    entry = timed("42 apples, and two pears.", *APPLES, ("pears", 1700, 3000))
    assert entry.word_at(played) == begins


def test_where_a_word_begins_is_estimated_without_times() -> None:
    entry = spoken(("One two three four.", 0, 1900), ("Five six", 1900, None))
    assert entry.word_at(450) == pytest.approx(400)
    assert entry.word_at(1899) == pytest.approx(1400)
    assert entry.word_at(1900) == 1900
    assert entry.word_at(1900 + 6 * 1000 / 15) == pytest.approx(1900 + 5 * 1000 / 15)
    assert spoken(("One two", 0, None)).word_at(7000) == pytest.approx(4000), "it is spoken slower than is common"
    assert Entry("turn_1", "rep_1", "hi").word_at(70) == 70


sentences = st.lists(st.text("ab1'-, .\u4f60\u597d\u3002", min_size=1, max_size=12), min_size=1, max_size=3)
times = st.lists(st.tuples(st.text("abAB1'- \u4f60", max_size=4), st.floats(0, 900), st.floats(0, 300)), max_size=6)


@given(sentences, st.lists(times, min_size=3, max_size=3), st.booleans(), st.lists(st.floats(0, 4000), max_size=5))
def test_whatever_the_times_the_beginning_is_heard_and_more_of_it_later(
    texts: list[str], words: list[list[tuple[str, float, float]]], whole: bool, played: list[float]
) -> None:
    texts = [text.strip() or "a" for text in texts]
    entry = Entry("turn_1", "rep_1", "hi")
    for number, text in enumerate(texts):
        segment = entry.speak(text, number * 1000)
        segment.end_ms = (number + 1) * 1000 if whole or number + 1 < len(texts) else None
        segment.words = [WordTime(word, start, start + length) for word, start, length in words[number]]
    said = " ".join(texts)
    heard = ""
    for ms in sorted(played):
        before, heard = heard, entry.heard(ms)
        assert said.startswith(heard)
        assert heard.startswith(before)
        assert min(ms, 1000 * min(ms // 1000, len(texts) - 1)) <= entry.word_at(ms) <= ms
    if whole:
        assert entry.heard(len(texts) * 1000) == said.strip()


def reply(
    text: str, heard: str, *, cut: bool = True, by_user: bool = True, thinking: bool = False
) -> tuple[Message, ...]:
    journal = Journal()
    entry = journal.propose("turn_1", "rep_1", "tell me")
    journal.commit(entry)
    entry.text, entry.thinking = text, thinking
    journal.finish(entry, heard, cut=cut, by_user=by_user)
    messages = journal.messages("", 10)
    assert messages[0] == Message("user", "tell me")
    return messages[1:]


def test_an_interrupted_reply_is_remembered_as_far_as_it_was_heard() -> None:
    (message,) = reply("It was a dark night.", "It was")
    assert message == Message("assistant", "It was... [interrupted by the user]")
    assert without_note(message.content) == "It was"


def test_of_a_reply_that_nobody_heard_nothing_is_remembered() -> None:
    assert reply("It was a dark night.", "") == ()


def test_who_cut_it_off_is_said_as_it_was() -> None:
    (message,) = reply("It was a dark night.", "It was", by_user=False)
    assert message.content == "It was... [cut off]"
    assert without_note(message.content) == "It was"


@pytest.mark.parametrize("text", ["It was.", "It\n\nwas.", "It was.  "])
def test_a_reply_is_cut_only_where_words_are_missing(text: str) -> None:
    assert reply(text, "It was.") == (Message("assistant", "It was."),)
    assert reply(text, "It was.", thinking=True)[0].content.endswith("[interrupted by the user]")
    assert reply(text, "It was.", thinking=True, cut=False) == (Message("assistant", "It was."),)


def called(state: str, **results: str) -> tuple[Journal, Entry, ToolRound]:
    journal = Journal()
    entry = journal.propose("turn_1", "rep_1", "book it")
    journal.commit(entry)
    entry.text = "Let me see. "
    tool_round = journal.call(entry, [ToolCall("c1", "book", "{}"), ToolCall("c2", "pay", "{}")], "Let me see.")
    tool_round.started.add("c1")
    tool_round.results |= results
    entry.text += "It is done."
    return journal, entry, tool_round


def test_a_call_that_runs_on_is_answered_with_that_until_its_result_is_known() -> None:
    journal, entry, tool_round = called("committed")
    journal.finish(entry, "Let me see.", cut=True)
    messages = journal.messages("", 10)
    assert [(message.role, message.tool_call_id) for message in messages] == [
        ("user", ""),
        ("assistant", ""),
        ("tool", "c1"),
        ("tool", "c2"),
    ]
    assert messages[2].content == "Still running when the user interrupted; there is no result yet."
    assert messages[3].content == NOT_STARTED
    tool_round.results["c1"] = "booked"
    assert journal.messages("", 10)[2].content == "booked"


def test_words_heard_before_and_after_a_call_stay_on_their_side_of_it() -> None:
    for heard, before, after in [
        ("Let me", "Let me... [interrupted by the user]", None),
        ("Let me see.", "Let me see.", None),
        ("Let me see. It is", "Let me see.", "It is... [interrupted by the user]"),
        ("Let me see. It is done.", "Let me see.", "It is done."),
    ]:
        journal, entry, _ = called("committed", c1="booked", c2="paid")
        journal.finish(entry, heard, cut=True)
        said = [message.content for message in journal.messages("", 10) if message.role == "assistant"]
        assert said == [before] + ([after] if after else [])


def test_an_id_names_one_call_in_the_whole_history() -> None:
    journal = Journal()
    ids = []
    for number in range(2):
        entry = journal.propose(f"turn_{number}", f"rep_{number}", "go")
        journal.commit(entry)
        same = ToolCall("call_0", "one", "{}")
        tool_round = journal.call(entry, [same, same, ToolCall("call_0", "two", "{}"), ToolCall("", "one", "{}")], "")
        assert [call.name for call in tool_round.calls] == ["one", "two", "one"], "the very same call is one call"
        ids += [call.id for call in tool_round.calls]
    assert ids[0] == "call_0"
    assert len(set(ids)) == 6
    assert all(ids)


WORDS = st.lists(st.sampled_from(["yes", "no", "one.", "two,", "\n", "\u4f60\u597d"]), max_size=5)


class Conversation(RuleBasedStateMachine):
    """Whatever happens in whatever order: what the LLM would be sent is well-formed and true."""

    @initialize(limit=st.integers(1, 14), keep=st.integers(1, 8))
    def begin(self, limit: int, keep: int) -> None:
        self.journal = Journal(keep)
        self.limit = limit
        self.keep = keep
        self.turns = 0
        self.reply: Entry | None = None
        self.said_from = 0
        self.committed: list[Entry] = []
        self.ended = 0

    @precondition(lambda self: self.reply is None)
    @rule(asked=st.booleans())
    def propose(self, asked: bool) -> None:
        self.turns += 1
        self.reply = self.journal.propose(
            f"turn_{self.turns}", f"rep_{self.turns}", f"question {self.turns}" if asked else None
        )
        self.said_from = 0

    @precondition(lambda self: self.reply is not None)
    @rule()
    def commit(self) -> None:
        assert self.reply is not None
        if self.reply not in self.committed:
            self.committed.append(self.reply)
        self.journal.commit(self.reply)

    @precondition(lambda self: self.reply is not None)
    @rule(words=WORDS, thinking=st.booleans())
    def say(self, words: list[str], thinking: bool) -> None:
        assert self.reply is not None
        self.reply.text += " ".join([*words, ""])
        self.reply.thinking = thinking

    @precondition(lambda self: self.reply is not None)
    @rule(ids=st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1, max_size=3), arguments=st.sampled_from("12"))
    def call(self, ids: list[str], arguments: str) -> None:
        assert self.reply is not None
        self.journal.call(
            self.reply, [ToolCall(id, "tool", arguments) for id in ids], self.reply.text[self.said_from :]
        )
        self.said_from = len(self.reply.text)

    @precondition(lambda self: self.reply is not None and self.reply.rounds)
    @rule(which=st.integers(0, 2))
    def start(self, which: int) -> None:
        assert self.reply is not None
        tool_round = self.reply.rounds[-1]
        tool_round.started.add(tool_round.calls[which % len(tool_round.calls)].id)

    def running(self) -> list[tuple[ToolRound, str]]:
        entries = [*self.committed, *([self.reply] if self.reply else [])]
        rounds = [tool_round for entry in entries for tool_round in entry.rounds]
        return [(one, id) for one in rounds for id in sorted(one.started) if id not in one.results]

    @precondition(lambda self: self.running())
    @rule(which=st.integers(0, 9))
    def end_a_call(self, which: int) -> None:
        running = self.running()
        tool_round, call_id = running[which % len(running)]
        self.ended += 1
        tool_round.results[call_id] = f"result {self.ended}"

    @precondition(lambda self: self.reply is not None and self.reply.state == "proposed")
    @rule()
    def discard(self) -> None:
        self.reply = None

    @precondition(lambda self: self.reply is not None and self.reply.state == "committed")
    @rule(share=st.floats(0, 1), cut=st.booleans(), by_user=st.booleans())
    def finish(self, share: float, cut: bool, by_user: bool) -> None:
        entry = self.reply
        assert entry is not None
        words = entry.text.split()
        heard = " ".join(words[: round(share * len(words))] if cut else words)
        self.journal.finish(entry, heard, cut=cut, by_user=by_user)
        self.reply = None

    @invariant()
    def the_history_is_well_formed(self) -> None:
        everything = self.journal.messages("", 10_000)
        check(everything)
        kept = self.committed[-self.keep :]
        for entry in kept:
            for tool_round in entry.rounds:
                for call_id, result in tool_round.results.items():
                    assert Message("tool", result, tool_call_id=call_id) in everything
        finished = [entry for entry in kept if entry.state == "finished"]
        if finished == kept:
            heard = [without_note(message.content) for message in everything if message.role == "assistant"]
            assert squeezed(*heard) == squeezed(*(entry.heard_text for entry in kept))
            noted = {message.content for message in everything if message.content.endswith("]")}
            assert not noted or any(entry.cut for entry in kept)
        for entry in finished:
            assert squeezed(entry.text).startswith(squeezed(entry.heard_text))
            assert entry.cut <= (entry.thinking or squeezed(entry.text) != squeezed(entry.heard_text))

    @invariant()
    def the_limit_cuts_whole_turns(self) -> None:
        everything = self.journal.messages("", 10_000, self.reply)
        messages = self.journal.messages("be kind", self.limit, self.reply)
        assert messages[0] == Message("system", "be kind")
        check(messages[1:])
        assert everything[len(everything) - len(messages) + 1 :] == messages[1:]
        own = 0
        if self.reply is not None:
            own = (self.reply.user_text is not None) + sum(1 + len(one.calls) for one in self.reply.rounds)
            if own:
                last = messages[-1]
                assert last == Message("user", self.reply.user_text or "") or last.role == "tool"
                assert last.role != "tool" or last.tool_call_id in {c.id for r in self.reply.rounds for c in r.calls}
        assert len(messages) - 1 <= max(self.limit, own)

    @invariant()
    def a_proposal_leaves_no_trace(self) -> None:
        asked = {entry.user_text for entry in self.committed}
        assert asked >= {message.content for message in self.journal.messages("", 10_000) if message.role == "user"}


def squeezed(*texts: str) -> str:
    return "".join("".join(texts).split())


def check(messages: tuple[Message, ...]) -> None:
    """Every call has its one result right behind it, every id names one call, no message is empty."""
    kinds = "".join("c" if message.tool_calls else message.role[0] for message in messages)
    assert re.fullmatch(r"(u?(ct+)*a?)*", kinds), kinds
    ids: list[str] = []
    index = 0
    while index < len(messages):
        message = messages[index]
        index += 1
        assert message.content or message.tool_calls
        assert message.role != "tool", "a result without its call"
        for call in message.tool_calls:
            assert (messages[index].role, messages[index].tool_call_id) == ("tool", call.id)
            assert messages[index].content
            ids.append(call.id)
            index += 1
    assert len(set(ids)) == len(ids)


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
