"""The journal of a conversation: proposed, committed, heard. History, heard text and tool results are views on it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from rejoinder.providers import Message, ToolCall, WordTime

_CHARS_PER_SECOND = 15.0
"""A common pace of speech; used for the chunk whose audio was cut before its length was known."""
_CUT = "..."


@dataclass(slots=True)
class Segment:
    """A spoken chunk of a reply and where in it its audio lies, in ms; `end_ms` is None while it is being made."""

    text: str
    start_ms: float
    end_ms: float | None = None
    words: list[WordTime] = field(default_factory=list)
    """When its words are spoken, from its start, where the TTS says so."""


@dataclass(slots=True)
class ToolRound:
    """The tool calls a model made at once, what it `said` before them, and what each was answered."""

    calls: tuple[ToolCall, ...]
    said: str = ""
    results: dict[str, str] = field(default_factory=dict)


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
    heard_text: str = ""
    cut: bool = False

    def speak(self, text: str, start_ms: float) -> Segment:
        """Note that the audio of `text` begins at `start_ms` of the reply."""
        segment = Segment(text, start_ms)
        self.segments.append(segment)
        return segment

    def word_at(self, played_ms: float) -> float:
        """Where in the reply, in ms, the word begins that sounds at `played_ms`."""
        return played_ms

    def heard(self, played_ms: float) -> str:
        """The words within the first `played_ms` of the reply; within a chunk, in proportion to its audio."""
        words = []
        for segment in self.segments:
            if played_ms <= segment.start_ms:
                break
            if segment.end_ms is not None and played_ms >= segment.end_ms:
                words.append(segment.text)
                continue
            length = (segment.end_ms or 0) - segment.start_ms
            if segment.end_ms is None:
                length = len(segment.text) / _CHARS_PER_SECOND * 1000
            share = min(1.0, (played_ms - segment.start_ms) / length) if length > 0 else 1.0
            words.append(_first_words(segment.text, share))
        return " ".join(filter(None, words)).strip()


def _first_words(text: str, share: float) -> str:
    """The words of `text` that begin within the first `share` of its characters."""
    limit = len(text) * share
    kept, position = [], 0
    for word in text.split():
        position = text.index(word, position)
        if position + len(word) / 2 > limit:
            break
        kept.append(word)
        position += len(word)
    return " ".join(kept)


class Journal:
    """The newest `keep` turns of a conversation, oldest first."""

    def __init__(self, keep: int = 100) -> None:
        self._entries = deque[Entry](maxlen=keep)

    def propose(self, turn_id: str, reply_id: str, user_text: str | None) -> Entry:
        """A new entry that leaves no trace until it is committed."""
        return Entry(turn_id, reply_id, user_text)

    def commit(self, entry: Entry) -> None:
        """The user's turn is over: `entry` is part of the conversation."""
        if entry.state == "proposed":
            entry.state = "committed"
            self._entries.append(entry)

    def finish(self, entry: Entry, heard_text: str, *, cut: bool) -> None:
        """The reply is over; the user heard `heard_text`, not all if it was `cut`. Every tool call gets an end."""
        if entry.state != "committed":
            return
        entry.state = "finished"
        entry.heard_text = heard_text
        entry.cut = cut
        for tool_round in entry.rounds:
            for call in tool_round.calls:
                tool_round.results.setdefault(call.id, "The call was cancelled; it may or may not have taken effect.")

    def messages(self, instructions: str, limit: int, current: Entry | None = None) -> tuple[Message, ...]:
        """What the LLM is sent: the instructions, then the newest turns within about `limit` messages, then `current`.

        Well-formed always: a tool result follows its call, no call is without one, a turn is never cut in two.
        """
        tail = _messages_of(current) if current else []
        turns: list[list[Message]] = []
        count = len(tail)
        for entry in reversed(self._entries):
            if entry is current:
                continue
            messages = _messages_of(entry)
            count += len(messages)
            if count > limit:
                break
            turns.append(messages)
        system = [Message("system", instructions)] if instructions else []
        return (*system, *(message for turn in reversed(turns) for message in turn), *tail)


def _messages_of(entry: Entry) -> list[Message]:
    messages = [] if entry.user_text is None else [Message("user", entry.user_text)]
    finished = entry.state == "finished"
    heard = deque(entry.heard_text.split())
    for tool_round in entry.rounds:
        answered = tuple(call for call in tool_round.calls if call.id in tool_round.results)
        said = tool_round.said.strip()
        if finished:
            said = " ".join(heard.popleft() for _ in range(min(len(heard), len(said.split()))))
        if answered:
            messages.append(Message("assistant", said, tool_calls=answered))
            messages += [Message("tool", tool_round.results[call.id], tool_call_id=call.id) for call in answered]
    if finished and heard:
        messages.append(Message("assistant", " ".join(heard) + (_CUT if entry.cut else "")))
    return messages
