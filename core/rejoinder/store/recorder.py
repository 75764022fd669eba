"""The recorder: a projection of the event stream onto rows, cheap enough for the event loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, get_args

import msgspec

from rejoinder import events
from rejoinder.store.records import LlmSent, counts_of
from rejoinder.store.statements import Row, Write

log = logging.getLogger(__name__)
_T = TypeVar("_T")

_json = msgspec.json.Encoder().encode
_TAGS: dict[type, str] = {kind: str(kind.__struct_config__.tag) for kind in get_args(events.ServerEvent)}
_LARGEST_REQUEST = 1 << 20
"""Characters of JSON; what an LLM was sent beyond that is not kept."""
_KEPT = 8  # turns and replies of a session that may still get an event


class _Session:
    """What must be remembered of a live session: how many turns it had and which are recent."""

    __slots__ = ("measured", "replies", "turns")

    def __init__(self) -> None:
        self.turns = 0
        self.measured: dict[str, bool] = {}  # by turn
        self.replies: dict[str, str] = {}  # turn by reply


class Recorder:
    """Turns each event into rows and hands them to `put`; it forgets a session at its `session.ended`."""

    def __init__(self, put: Callable[[Write, Row], None]) -> None:
        self._put = put
        self._sessions: dict[str, _Session] = {}
        self._rooms: dict[str, str] = {}
        self._origins: dict[str, tuple[str, str]] = {}
        self._project: dict[type, Callable[[_Session, str, Any], None]] = {
            events.SessionStarted: self._session_started,
            events.SessionMetrics: self._session_metrics,
            events.SessionEnded: self._session_ended,
            events.Interruption: self._interruption,
            events.TurnCommitted: self._turn_committed,
            events.ReplyStarted: self._reply_started,
            events.ReplyFinished: self._reply_finished,
            events.ToolCalled: self._tool_called,
            events.ToolReturned: self._tool_returned,
            events.TurnMetrics: self._turn_metrics,
        }

    def join(self, session_id: str, room_id: str) -> None:
        """Say before a session's first event that it is held in `room_id`."""
        self._rooms[session_id] = room_id

    def came(self, session_id: str, channel: str, client: str) -> None:
        """Say before a session's first event how its first client came, and its User-Agent ("": unknown)."""
        self._origins[session_id] = (channel, client)

    def llm_requests(self, session_id: str, turn_id: str, reply_id: str, sent: Iterable[LlmSent]) -> None:
        """Record what the LLM was sent for a reply that has just finished; one that is too large is left out."""
        if session_id not in self._sessions:
            return
        for position, one in enumerate(sent):
            if len(one.messages) + len(one.tools) > _LARGEST_REQUEST:
                log.warning("what the LLM was sent for %s is too large to be kept", reply_id)
                continue
            about = (one.at, one.provider, one.messages, one.tools)
            self._put(
                Write.LLM_REQUEST,
                (reply_id, position, session_id, turn_id, *about, one.max_tokens, one.temperature),
            )

    def on_event(self, session_id: str, event: events.Event, encoded: bytes) -> None:
        """Record `event`, whose JSON is `encoded`; events without a number (`pong`) are not recorded."""
        if event.seq == 0:
            return
        session = self._sessions.get(session_id)
        if session is None:
            session = self._begin(session_id, event)
        kind = type(event)
        self._put(Write.EVENT, (session_id, event.seq, event.at, _TAGS[kind], encoded.decode()))
        project = self._project.get(kind)
        if project is not None:
            project(session, session_id, event)

    def __len__(self) -> int:
        return len(self._sessions)

    def _begin(self, session_id: str, event: events.Event) -> _Session:
        session = self._sessions[session_id] = _Session()
        room = self._rooms.pop(session_id, None)
        # An error may come before `session.started`; the row must be there for the event to belong to.
        agent, version, rates = "", None, (0, 0)
        if isinstance(event, events.SessionStarted):
            agent, version, rates = event.agent, event.agent_version or None, (event.input_rate, event.output_rate)
        channel, client = self._origins.pop(session_id, ("", ""))
        came = (channel or None, _storable(client) or None)
        self._put(Write.SESSION, (session_id, room, agent, version, event.at, *rates, *came))
        return session

    def _session_started(self, session: _Session, session_id: str, event: events.SessionStarted) -> None:
        if event.seq > 1:
            rates = (event.input_rate, event.output_rate)
            self._put(Write.SESSION_STARTED, (event.agent, event.agent_version or None, event.at, *rates, session_id))

    def _session_metrics(self, session: _Session, session_id: str, event: events.SessionMetrics) -> None:
        self._put(Write.SESSION_METRICS, (_json(counts_of(event)).decode(), session_id))

    def _session_ended(self, session: _Session, session_id: str, event: events.SessionEnded) -> None:
        self._put(Write.SESSION_ENDED, (event.at, event.reason, session_id))
        del self._sessions[session_id]

    def _turn_committed(self, session: _Session, session_id: str, event: events.TurnCommitted) -> None:
        text = _storable(event.text)
        if event.turn_id in session.measured:
            self._put(Write.TURN_COMMITTED, (text, event.at, event.turn_id))
        else:
            self._turn(session, session_id, event.turn_id, text, event.at)
        self._put(Write.MESSAGE, (session_id, event.turn_id, "user", text, event.at, event.seq))

    def _reply_started(self, session: _Session, session_id: str, event: events.ReplyStarted) -> None:
        _remember(session.replies, event.reply_id, event.turn_id)
        if event.turn_id in session.measured:
            self._put(Write.TURN_REPLY, (event.reply_id, event.turn_id))
        else:
            self._turn(session, session_id, event.turn_id, None, event.at, event.reply_id)

    def _reply_finished(self, session: _Session, session_id: str, event: events.ReplyFinished) -> None:
        if event.turn_id not in session.measured:
            self._turn(session, session_id, event.turn_id, None, event.at, event.reply_id)
        heard = _storable(event.heard_text)
        self._put(
            Write.TURN_FINISHED,
            (
                event.reply_id,
                _storable(event.text),
                heard,
                event.reason,
                event.played_ms,
                event.estimated,
                event.turn_id,
            ),
        )
        if heard:
            self._put(Write.MESSAGE, (session_id, event.turn_id, "assistant", heard, event.at, event.seq))

    def _interruption(self, session: _Session, session_id: str, event: events.Interruption) -> None:
        cause, text = _storable(event.cause), _storable(event.text)
        about = (event.turn_id, event.reply_id, event.accepted, cause, event.speech_ms, text)
        self._put(Write.INTERRUPTION, (session_id, event.seq, *about, event.at))

    def _tool_called(self, session: _Session, session_id: str, event: events.ToolCalled) -> None:
        turn_id = session.replies.get(event.reply_id)
        arguments = _storable(event.arguments)
        self._put(
            Write.TOOL_CALL, (event.reply_id, event.call_id, session_id, turn_id, event.name, arguments, event.at)
        )

    def _tool_returned(self, session: _Session, session_id: str, event: events.ToolReturned) -> None:
        result = _storable(event.result)
        self._put(Write.TOOL_RETURNED, (event.status, result, event.at, event.reply_id, event.call_id))

    def _turn_metrics(self, session: _Session, session_id: str, event: events.TurnMetrics) -> None:
        # A turn is measured once: the user waited for its first answer.
        if session.measured.get(event.turn_id):
            return
        if event.turn_id not in session.measured:
            self._turn(session, session_id, event.turn_id, None, event.at, event.reply_id)
        session.measured[event.turn_id] = True
        providers, hooks = _json(event.providers).decode(), _json(event.hooks).decode()
        speculation = (event.speculated, event.saved_us, event.discarded)
        self._put(
            Write.TURN_METRICS, (event.response_us, event.jitter_us, *speculation, providers, hooks, event.turn_id)
        )
        for position, span in enumerate(event.spans):
            self._put(Write.SPAN, (event.turn_id, position, span.name, span.us, span.hidden))

    def _turn(
        self, session: _Session, session_id: str, turn_id: str, text: str | None, at: int, reply_id: str | None = None
    ) -> None:
        session.turns += 1
        _remember(session.measured, turn_id, False)
        self._put(Write.TURN, (turn_id, session_id, session.turns, text, at, reply_id))


def _remember(recent: dict[str, _T], key: str, value: _T) -> None:
    recent[key] = value
    if len(recent) > _KEPT:
        del recent[next(iter(recent))]


def _storable(text: str) -> str:
    # PostgreSQL refuses NUL in text; in JSON it is escaped, so the event keeps it.
    return text.replace("\0", "") if "\0" in text else text
