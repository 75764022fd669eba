"""The journal of a conversation: proposed, committed, heard. History, heard text and tool results are views on it."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

from rejoinder.ids import new_id
from rejoinder.providers import LlmRequest, Message, ToolCall, WordTime

_CHARS_PER_SECOND = 15.0
"""A common pace of speech; used for the chunk whose audio was cut before its length was known."""
_BY_USER = "... [interrupted by the user]"
_CUT = "... [cut off]"
NOT_STARTED = "Cancelled: the reply was cut off before this call was executed. It has had no effect."
"""What the model is told of a call that was never executed."""
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_IDEOGRAPHS}][^\w\s]*|[^\s{_IDEOGRAPHS}]+")
"""What is heard as a whole or not at all: what stands between spaces; of Chinese and Japanese one character."""


def without_note(content: str) -> str:
    """The words of an assistant's message in the history, without the note that they were cut off."""
    return content.removesuffix(_BY_USER).removesuffix(_CUT)


class _Spoken(NamedTuple):
    """A word: where in its segment's text it stands, and when it sounds, in ms from the segment's start."""

    start: int
    end: int
    start_ms: float
    end_ms: float


@dataclass(slots=True)
class Segment:
    """A spoken chunk of a reply and where in it its audio lies, in ms; `end_ms` is None while it is being made."""

    text: str
    start_ms: float
    end_ms: float | None = None
    words: list[WordTime] = field(default_factory=list)
    """When its words are spoken, from its start, where the TTS says so."""

    def spoken(self, played_ms: float) -> list[_Spoken]:
        """The words of the text in order, with the times they have or (in proportion to their length) should have.

        `played_ms`, from the segment's start, is a lower bound of what has been made of it.
        """
        found = [match.span() for match in _WORD.finditer(self.text)]
        if self.end_ms is not None:
            length = self.end_ms - self.start_ms
        else:
            length = max(len(self.text) / _CHARS_PER_SECOND * 1000, played_ms)
        if self.words:
            return self._timed(found, length)
        per_char = length / max(1, len(self.text))
        return [_Spoken(start, end, start * per_char, end * per_char) for start, end in found]

    def _timed(self, found: list[tuple[int, int]], length: float) -> list[_Spoken]:
        """Bring the times and the text together: equal words first, what lies between them by its order.

        A TTS may time "forty two" where the text has "42", leave out words or punctuation, or cut words elsewhere.
        """
        timed = [(_plain(match.group()), word) for word in self.words for match in _WORD.finditer(word.text)]
        written = [_plain(self.text[start:end]) for start, end in found]
        matcher = SequenceMatcher(None, written, [plain for plain, _ in timed], autojunk=False)
        spoken: list[_Spoken] = []
        at = 0.0
        for what, first, last, first_time, last_time in matcher.get_opcodes():
            texts, times = found[first:last], [word for _, word in timed[first_time:last_time]]
            if what == "equal":
                for (start, end), word in zip(texts, times, strict=True):
                    begin = max(at, word.start_ms)
                    at = max(begin, word.end_ms)
                    spoken.append(_Spoken(start, end, begin, at))
                continue
            unmade: list[tuple[int, int]] = []
            if self.end_ms is None and last == len(found):
                # What has no time yet has no audio yet.
                texts, unmade = texts[: len(times)], texts[len(times) :]
            if times:
                begin, until = max(at, times[0].start_ms), max(word.end_ms for word in times)
            else:
                begin, until = at, timed[first_time][1].start_ms if first_time < len(timed) else length
            per_char = max(0.0, until - begin) / max(1, sum(end - start for start, end in texts))
            for start, end in texts:
                at = begin + (end - start) * per_char
                spoken.append(_Spoken(start, end, begin, at))
                begin = at
            spoken += [_Spoken(start, end, math.inf, math.inf) for start, end in unmade]
        return spoken


def _plain(word: str) -> str:
    return "".join(filter(str.isalnum, word.casefold()))


@dataclass(slots=True)
class ToolRound:
    """The tool calls a model made at once, what was `said` with them (fillers, too), and what each was answered.

    A call that was `started` and has no result is running, also after its reply is over.
    """

    calls: tuple[ToolCall, ...]
    said: str = ""
    results: dict[str, str] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Sent:
    """A request to the LLM as it was sent, when (Unix ms), and who answered ("": nobody did)."""

    request: LlmRequest
    at: int
    provider: str = ""


@dataclass(slots=True)
class Entry:
    """One turn: what the user said (None where the agent spoke first) and the reply to it."""

    turn_id: str
    reply_id: str
    user_text: str | None
    state: Literal["proposed", "committed", "finished"] = "proposed"
    text: str = ""
    segments: list[Segment] = field(default_factory=list)
    rounds: list[ToolRound] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    """What the LLM was sent for it; kept only until it is over."""
    heard_text: str = ""
    thinking: bool = False
    """The LLM is not done with it: there is more to say than `text`."""
    cut: bool = False
    """Words are missing at its end: the user did not hear them, or they were never made."""
    by_user: bool = False
    """It was the user who cut it off."""

    def speak(self, text: str, start_ms: float) -> Segment:
        """Note that the audio of `text` begins at `start_ms` of the reply."""
        segment = Segment(text, start_ms)
        self.segments.append(segment)
        return segment

    def word_at(self, played_ms: float) -> float:
        """Where in the reply, in ms, the word begins that sounds at `played_ms`; between two words `played_ms` itself.

        Never after `played_ms`, and never before the chunk in which that lies. Without word times it is estimated in
        proportion to characters. Past the end of a chunk nothing is cut, so it is `played_ms`, too.
        """
        for segment in self.segments:
            if segment.start_ms <= played_ms and (segment.end_ms is None or played_ms < segment.end_ms):
                into = played_ms - segment.start_ms
                words = segment.spoken(into)
                for word in words:
                    # Audio that goes on past the estimated end is still that of the last word.
                    last = word is words[-1] and segment.end_ms is None and not segment.words
                    if word.start_ms <= into and (into < word.end_ms or last):
                        return segment.start_ms + word.start_ms
        return played_ms

    def heard(self, played_ms: float) -> str:
        """The words within the first `played_ms` of the reply: those of which at least half was played.

        That is known from the word times of the TTS, else estimated in proportion to a chunk's audio. It is always the
        beginning of what was spoken: the texts of the segments, joined with spaces.
        """
        texts = []
        for segment in self.segments:
            if played_ms <= segment.start_ms:
                break
            if segment.end_ms is not None and played_ms >= segment.end_ms:
                texts.append(segment.text)
                continue
            into, end = played_ms - segment.start_ms, 0
            for word in segment.spoken(into):
                if into < (word.start_ms + word.end_ms) / 2:
                    break
                end = word.end
            texts.append(segment.text[:end])
            break
        return " ".join(filter(None, texts)).strip()


@dataclass(frozen=True, slots=True)
class Whisper:
    """What the agent was told between two turns, and nobody heard."""

    text: str


class Journal:
    """The newest `keep` turns of a conversation and what was whispered between them, oldest first."""

    def __init__(self, keep: int = 100) -> None:
        self._items = deque[Entry | Whisper](maxlen=keep)

    @property
    def _entries(self) -> Iterator[Entry]:
        """The turns, newest first."""
        return (item for item in reversed(self._items) if isinstance(item, Entry))

    def propose(self, turn_id: str, reply_id: str, user_text: str | None) -> Entry:
        """A new entry that leaves no trace until it is committed."""
        return Entry(turn_id, reply_id, user_text)

    def commit(self, entry: Entry) -> None:
        """The user's turn is over: `entry` is part of the conversation."""
        if entry.state == "proposed":
            entry.state = "committed"
            self._items.append(entry)

    def keep(self, turn_id: str, user_text: str) -> None:
        """The user's turn is part of the conversation, and is not answered (yet)."""
        self._items.append(Entry(turn_id, "", user_text, "finished"))

    def reopen(self, reply_id: str) -> Entry:
        """The user's last turn, of which nothing was answered, is answered now; what its tools have done stays known.

        It comes after what was whispered since, so that it is still the last that the LLM reads.
        """
        former = next((entry for entry in self._entries if entry.user_text is not None), None)
        if former is None:
            # So much was said since that it is forgotten.
            former = Entry(new_id("turn"), "", None)
        else:
            self._items.remove(former)
        # Of what its calls were announced with nothing was heard; a call that still runs writes into its old results.
        rounds = [replace(tool_round, said="") for tool_round in former.rounds]
        entry = Entry(former.turn_id, reply_id, former.user_text, "committed", rounds=rounds)
        self._items.append(entry)
        return entry

    def whisper(self, text: str) -> None:
        """From now on the agent knows `text`."""
        self._items.append(Whisper(text))

    def call(self, entry: Entry, calls: Iterable[ToolCall], said: str) -> ToolRound:
        """Note that the model made `calls` after it had `said` something; in the history an id names one call.

        Some servers count calls from 0 in every answer: an id that is in use (or empty) is replaced by a new one. The
        very same call twice in one answer is one call.
        """
        used = {call.id for e in (*self._entries, entry) for r in e.rounds for call in r.calls} | {""}
        own: list[ToolCall] = []
        seen: set[ToolCall] = set()
        for call in calls:
            if call not in seen:
                own.append(replace(call, id=new_id("call")) if call.id in used else call)
            if call.id:
                seen.add(call)
            used.add(call.id)
        entry.rounds.append(tool_round := ToolRound(tuple(own), said))
        return tool_round

    def finish(self, entry: Entry, heard_text: str, *, cut: bool, by_user: bool = True) -> None:
        """The reply is over; the user heard `heard_text`. `cut`: it was stopped before its end, `by_user` or not.

        The results of calls that are still running may be added later.
        """
        if entry.state != "committed":
            return
        entry.state = "finished"
        entry.heard_text = heard_text
        entry.cut = cut and (entry.thinking or _weight(heard_text) < _weight(entry.text))
        entry.by_user = cut and by_user

    def last_heard(self) -> str:
        """What the user last heard of the agent; "" before it said anything."""
        return next((entry.heard_text for entry in self._entries if entry.heard_text), "")

    def messages(self, instructions: str, limit: int, current: Entry | None = None) -> tuple[Message, ...]:
        """What the LLM is sent: the instructions, then the newest turns within about `limit` messages, then `current`.

        What was whispered stands, as a system message, where it came between the turns; it is no part of any, and stays
        as long as they would. What came since `current` began stands before that: a prompt ends with what is answered.

        Well-formed always: a tool result follows its call, no call is without one, no id names two calls, a turn is
        never cut in two. Where the user did not hear all of a reply, a note ends what they heard; a reply of which
        they heard nothing is left out.
        """
        tail = _messages_of(current) if current else []
        turns: list[list[Message]] = []
        count = len(tail)
        for item in reversed(self._items):
            if item is current:
                continue
            messages = [Message("system", item.text)] if isinstance(item, Whisper) else _messages_of(item)
            count += len(messages)
            if count > limit:
                break
            turns.append(messages)
        system = [Message("system", instructions)] if instructions else []
        return (*system, *(message for turn in reversed(turns) for message in turn), *tail)


def _messages_of(entry: Entry) -> list[Message]:
    messages = [] if entry.user_text is None else [Message("user", entry.user_text)]
    finished = entry.state == "finished"
    note = _BY_USER if entry.by_user else _CUT
    heard = entry.heard_text
    for tool_round in entry.rounds:
        said = " ".join(tool_round.said.split())
        if finished:
            weight = _weight(said)
            said, heard = _split(heard, weight)
            if entry.cut and said and _weight(said) < weight:
                said += note
        messages.append(Message("assistant", said, tool_calls=tool_round.calls))
        messages += [
            Message("tool", _result(entry, tool_round, call.id), tool_call_id=call.id) for call in tool_round.calls
        ]
    if finished and heard.strip():
        # All that was said before has been heard, so what is missing is missing here.
        messages.append(Message("assistant", " ".join(heard.split()) + (note if entry.cut else "")))
    return messages


def _result(entry: Entry, tool_round: ToolRound, call_id: str) -> str:
    if call_id in tool_round.results:
        return tool_round.results[call_id]
    if call_id not in tool_round.started:
        return NOT_STARTED
    if entry.state != "finished":
        return "Still running; there is no result yet."
    who = "the user interrupted" if entry.by_user else "the reply was cut off"
    return f"Still running when {who}; there is no result yet."


def _weight(text: str) -> int:
    """Its length without spaces: what is spoken differs from what was written only in these."""
    return len("".join(text.split()))


def _split(text: str, weight: int) -> tuple[str, str]:
    """`text` cut in two, the first of at most this `weight`."""
    at = 0
    while at < len(text) and (weight or text[at].isspace()):
        weight -= not text[at].isspace()
        at += 1
    return " ".join(text[:at].split()), text[at:]
