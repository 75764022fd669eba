"""The live board: one small summary of each live session of this process, kept from its events, and what changed since.

Each change has a number. Who has seen the board as of one number is told what is different now, as JSON that is made
once for all who ask.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import msgspec

from rejoinder import events
from rejoinder.clock import Clock

log = logging.getLogger(__name__)
Doing = Literal["listening", "user_speaking", "thinking", "tool", "speaking"]
SHOWN = 200
"""Characters of what was said last."""
_GONE = 2_000
"""Sessions that are over and still known, for those who come back after a while."""
_ANSWERS = 8
_MINUTE_S = 60
_encode = msgspec.json.Encoder().encode


class Live(msgspec.Struct):
    """A live session at a glance. `doing` is what happens in it now; `started_at` is Unix ms, `last_response_us` µs.

    `last_user` and `last_agent` are the beginnings of what was said last; `operator` has taken over, if anybody has;
    so many `listeners` hear it.
    """

    id: str
    agent: str
    started_at: int
    channel: str | None
    client: str | None
    node: str
    doing: Doing = "listening"
    last_user: str = ""
    last_agent: str = ""
    turns: int = 0
    interruptions: int = 0
    errors: int = 0
    last_response_us: int | None = None
    operator: str | None = None
    listeners: int = 0


class Changes(NamedTuple):
    """What is different since a number: `reset` where `changed` is all there is; then the board has `version`."""

    reset: bool
    changed: list[Live]
    gone: list[str]
    version: int


class _Row:
    """A session on the board, its number and its JSON; and what its `doing` follows from."""

    __slots__ = ("json", "live", "replying", "tools", "user_speaks", "version", "waits")

    def __init__(self, live: Live) -> None:
        self.live = live
        self.version = 0
        self.json: bytes | None = None
        self.user_speaks = False
        self.waits = False
        """The user's turn is over, and nothing of an answer has come."""
        self.replying = False
        self.tools = 0

    def doing(self) -> Doing:
        if self.user_speaks:
            return "user_speaking"
        if self.tools:
            return "tool"
        if self.waits:
            return "thinking"
        return "speaking" if self.replying else "listening"

    def encoded(self) -> bytes:
        if self.json is None:
            self.json = _encode(self.live)
        return self.json


class Board:
    """The live sessions of the process called `node`."""

    def __init__(self, node: str, clock: Clock) -> None:
        self.node = node
        self.version = 0
        """The number of the last change."""
        self.closed = False
        """Nothing changes any more: the process is about to stop."""
        self._clock = clock
        self._rows: OrderedDict[str, _Row] = OrderedDict()
        """The one that changed last comes last."""
        self._gone: OrderedDict[str, int] = OrderedDict()
        self._forgotten = 0
        """Of sessions that ended up to this number it is not known any more which they were."""
        self._told: list[Callable[[], None]] = []
        self._answers: dict[int | None, bytes] = {}
        self._answered = -1
        self._minute: deque[list[int]] = deque()
        self._broken = False
        self._handlers: dict[type, Callable[[_Row, Any], bool]] = {
            events.AgentChanged: _agent_changed,
            events.OperatorTookOver: _took_over,
            events.OperatorHandedBack: _handed_back,
            events.SpeechStarted: _speech_started,
            events.SpeechStopped: _speech_stopped,
            events.Interruption: _interruption,
            events.Transcript: _transcript,
            events.TurnCommitted: self._committed,
            events.ReplyStarted: _reply_started,
            events.ReplyText: _reply_text,
            events.ToolCalled: _tool_called,
            events.ToolReturned: _tool_returned,
            events.ReplyFinished: _reply_finished,
            events.TurnMetrics: _metrics,
            events.Error: _error,
        }

    # -- what happens

    def add(self, session_id: str, agent: str, channel: str | None = None, client: str | None = None) -> None:
        """A session begins."""
        live = Live(session_id, agent, self._clock.wall_ms(), channel, client, self.node)
        self._rows[session_id] = row = _Row(live)
        self._changed(row)

    def on_event(self, session_id: str, event: events.Event) -> None:
        """Keep what `event` says of its session; never fails."""
        handle = self._handlers.get(type(event))
        if handle is None or (row := self._rows.get(session_id)) is None:
            return
        try:
            if handle(row, event):
                row.live.doing = row.doing()
                self._changed(row)
        except Exception:
            if not self._broken:
                log.exception("the live board could not take %s", type(event).__name__)
            self._broken = True

    def listened(self, session_id: str, listeners: int) -> None:
        """So many people listen to a session now."""
        row = self._rows.get(session_id)
        if row is not None and row.live.listeners != listeners:
            row.live.listeners = listeners
            self._changed(row)

    def remove(self, session_id: str) -> None:
        """A session is over. Idempotent."""
        if self._rows.pop(session_id, None) is None:
            return
        self.version += 1
        self._gone[session_id] = self.version
        if len(self._gone) > _GONE:
            _, self._forgotten = self._gone.popitem(last=False)
        self._tell()

    def close(self) -> None:
        """Nothing changes any more; whoever waits is told. Idempotent."""
        self.closed = True
        self._tell()

    # -- what is asked

    def tell(self, told: Callable[[], None]) -> None:
        """Call `told` once: when something changes next, or the board is closed."""
        self._told.append(told)

    def changes(self, since: int | None) -> Changes:
        """What is different since that number (None: all there is)."""
        if since is None or not self._forgotten <= since <= self.version:
            return Changes(True, [row.live for row in self._rows.values()], [], self.version)
        changed = [row.live for row in self._since(since)]
        return Changes(False, changed, self._gone_since(since), self.version)

    def update(self, since: int | None) -> bytes:
        """As `changes`, as the JSON of a message to readers: `{"topic": "live", "reset", "changed", "gone"}`."""
        if since is not None and not self._forgotten <= since <= self.version:
            since = None
        if self._answered != self.version or len(self._answers) > _ANSWERS:
            self._answers.clear()
            self._answered = self.version
        if (answer := self._answers.get(since)) is None:
            rows = self._rows.values() if since is None else self._since(since)
            gone = [] if since is None else self._gone_since(since)
            answer = self._answers[since] = b'{"topic":"live","reset":%b,"changed":[%b],"gone":%b}' % (
                b"true" if since is None else b"false",
                b",".join([row.encoded() for row in rows]),
                _encode(gone),
            )
        return answer

    def turns_last_minute(self) -> int:
        """How many turns of users ended within the last 60 s."""
        self._trim(int(self._clock.monotonic()))
        return sum(count for _, count in self._minute)

    # -- inside

    def _changed(self, row: _Row) -> None:
        self.version += 1
        row.version = self.version
        row.json = None
        self._rows.move_to_end(row.live.id)
        if self._told:
            self._tell()

    def _tell(self) -> None:
        told, self._told = self._told, []
        for one in told:
            one()

    def _since(self, since: int) -> list[_Row]:
        found = []
        for row in reversed(self._rows.values()):
            if row.version <= since:
                break
            found.append(row)
        return found

    def _gone_since(self, since: int) -> list[str]:
        found = []
        for session_id in reversed(self._gone):
            if self._gone[session_id] <= since:
                break
            found.append(session_id)
        return found

    def _committed(self, row: _Row, event: events.TurnCommitted) -> bool:
        second = int(self._clock.monotonic())
        if self._minute and self._minute[-1][0] == second:
            self._minute[-1][1] += 1
        else:
            self._minute.append([second, 1])
            self._trim(second)
        row.live.turns += 1
        row.live.last_user = event.text[:SHOWN]
        row.user_speaks = False
        row.waits = row.live.operator is None
        return True

    def _trim(self, second: int) -> None:
        while self._minute and self._minute[0][0] <= second - _MINUTE_S:
            self._minute.popleft()


# What each event changes in a row: whether it does.


def _agent_changed(row: _Row, event: events.AgentChanged) -> bool:
    row.live.agent = event.agent
    return True


def _took_over(row: _Row, event: events.OperatorTookOver) -> bool:
    row.live.operator = event.operator
    row.waits = False
    return True


def _handed_back(row: _Row, event: events.OperatorHandedBack) -> bool:
    row.live.operator = None
    return True


def _speech_started(row: _Row, event: events.SpeechStarted) -> bool:
    changed = not row.user_speaks
    row.user_speaks = True
    row.waits = False
    return changed


def _speech_stopped(row: _Row, event: events.SpeechStopped) -> bool:
    row.user_speaks = False
    row.waits = not row.replying and row.live.operator is None
    return True


def _interruption(row: _Row, event: events.Interruption) -> bool:
    if event.accepted:
        row.live.interruptions += 1
    else:
        # They said "mm-hm", or nothing at all: the agent speaks on.
        row.user_speaks = False
    return True


def _transcript(row: _Row, event: events.Transcript) -> bool:
    if event.text:
        if (shown := event.text[:SHOWN]) == row.live.last_user:
            return False
        row.live.last_user = shown
    elif event.final:
        # Nothing that could be understood: no answer follows.
        row.user_speaks = row.waits = False
    else:
        return False
    return True


def _reply_started(row: _Row, event: events.ReplyStarted) -> bool:
    row.live.last_agent = ""
    row.replying = row.waits = True
    return True


def _reply_text(row: _Row, event: events.ReplyText) -> bool:
    shown = row.live.last_agent
    if not row.waits and len(shown) >= SHOWN:
        return False
    row.waits = False
    row.live.last_agent = (shown + event.delta)[:SHOWN]
    return True


def _tool_called(row: _Row, event: events.ToolCalled) -> bool:
    row.tools += 1
    return True


def _tool_returned(row: _Row, event: events.ToolReturned) -> bool:
    row.tools = max(0, row.tools - 1)
    return True


def _reply_finished(row: _Row, event: events.ReplyFinished) -> bool:
    row.replying = row.waits = False
    row.live.last_agent = event.heard_text[:SHOWN] if event.reason == "interrupted" else event.text[:SHOWN]
    return True


def _metrics(row: _Row, event: events.TurnMetrics) -> bool:
    row.live.last_response_us = event.response_us
    return True


def _error(row: _Row, event: events.Error) -> bool:
    row.live.errors += 1
    return True
