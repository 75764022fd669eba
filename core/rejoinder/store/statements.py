"""Every statement that writes, compiled once per database so that a row costs no more than its tuple."""

from __future__ import annotations

import enum
from typing import Any

from sqlalchemy import Dialect, Insert, Table, Update, bindparam, update
from sqlalchemy.dialects import postgresql, sqlite

from rejoinder.store import tables

Row = tuple[Any, ...]


class Write(enum.IntEnum):
    """The writes, in the order in which a batch does them: parents before children, inserts before updates."""

    ROOM = 0
    SESSION = enum.auto()
    TURN = enum.auto()
    TOOL_CALL = enum.auto()
    MESSAGE = enum.auto()
    EVENT = enum.auto()
    SPAN = enum.auto()
    INTERRUPTION = enum.auto()
    WEBHOOK_DELIVERY = enum.auto()
    LLM_REQUEST = enum.auto()
    RECORDING = enum.auto()
    AUDIT = enum.auto()
    SESSION_STARTED = enum.auto()
    SESSION_METRICS = enum.auto()
    SESSION_ENDED = enum.auto()
    TURN_COMMITTED = enum.auto()
    TURN_REPLY = enum.auto()
    TURN_FINISHED = enum.auto()
    TURN_METRICS = enum.auto()
    TOOL_RETURNED = enum.auto()
    KEY_USED = enum.auto()
    LOGIN_SEEN = enum.auto()
    RECORDING_FINISHED = enum.auto()


_INSERTS: dict[Write, tuple[Table, tuple[str, ...]]] = {
    Write.ROOM: (tables.rooms, ("id", "agent", "created_at", "expires_at", "session_id")),
    Write.SESSION: (
        tables.sessions,
        ("id", "room_id", "agent", "agent_version", "started_at", "input_rate", "output_rate", "channel", "client"),
    ),
    Write.TURN: (tables.turns, ("id", "session_id", "number", "user_text", "committed_at", "reply_id")),
    Write.TOOL_CALL: (
        tables.tool_calls,
        ("reply_id", "id", "session_id", "turn_id", "name", "arguments", "called_at"),
    ),
    Write.MESSAGE: (tables.messages, ("session_id", "turn_id", "role", "content", "at", "seq")),
    Write.EVENT: (tables.events, ("session_id", "seq", "at", "type", "data")),
    Write.SPAN: (tables.spans, ("turn_id", "position", "name", "us", "hidden")),
    Write.INTERRUPTION: (
        tables.interruptions,
        ("session_id", "seq", "turn_id", "reply_id", "accepted", "cause", "speech_ms", "text", "at"),
    ),
    Write.WEBHOOK_DELIVERY: (
        tables.webhook_deliveries,
        ("id", "webhook_id", "type", "payload", "created_at", "next_attempt_at", "attempts"),
    ),
    Write.LLM_REQUEST: (
        tables.llm_requests,
        (
            "reply_id",
            "position",
            "session_id",
            "turn_id",
            "at",
            "provider",
            "messages",
            "tools",
            "max_tokens",
            "temperature",
        ),
    ),
    Write.RECORDING: (tables.recordings, ("session_id", "file", "rate", "started_at", "expires_at")),
    Write.AUDIT: (tables.audit, ("at", "actor", "actor_name", "action", "subject", "detail", "address")),
}

# The columns set, then those that find the row: the order of the values in a tuple.
_UPDATES: dict[Write, tuple[Table, tuple[str, ...], tuple[str, ...]]] = {
    Write.SESSION_STARTED: (
        tables.sessions,
        ("agent", "agent_version", "started_at", "input_rate", "output_rate"),
        ("id",),
    ),
    Write.SESSION_METRICS: (tables.sessions, ("metrics",), ("id",)),
    Write.SESSION_ENDED: (tables.sessions, ("ended_at", "end_reason"), ("id",)),
    Write.TURN_COMMITTED: (tables.turns, ("user_text", "committed_at"), ("id",)),
    Write.TURN_REPLY: (tables.turns, ("reply_id",), ("id",)),
    Write.TURN_FINISHED: (
        tables.turns,
        ("reply_id", "reply_text", "heard_text", "reply_reason", "played_ms", "estimated"),
        ("id",),
    ),
    Write.TURN_METRICS: (
        tables.turns,
        ("response_us", "jitter_us", "speculated", "saved_us", "discarded", "providers", "hooks"),
        ("id",),
    ),
    Write.TOOL_RETURNED: (tables.tool_calls, ("status", "result", "returned_at"), ("reply_id", "id")),
    Write.KEY_USED: (tables.api_keys, ("last_used_at",), ("id",)),
    Write.LOGIN_SEEN: (tables.logins, ("seen_at",), ("hash",)),
    Write.RECORDING_FINISHED: (tables.recordings, ("duration_ms", "bytes"), ("session_id",)),
}

_IDENTIFYING = ("session_id", "turn_id", "reply_id", "id", "seq", "position")

# A session may be taken up again by another process, which publishes its start once more.
_REPEATABLE = {Write.SESSION}


def describe(write: Write, row: Row) -> str:
    """The table and key of `row`, for logs (never its contents)."""
    if write in _INSERTS:
        table, columns = _INSERTS[write]
    else:
        table, changed, keys = _UPDATES[write]
        columns = changed + keys
    values = dict(zip(columns, row, strict=True))
    shown = (f"{name}={values[name]!r}" for name in _IDENTIFYING if name in values)
    return f"{table.name} ({', '.join(shown)})"


def compile_writes(dialect: Dialect, *, repeat: bool) -> list[str]:
    """SQL text per `Write`, with positional parameters; with `repeat`, rows that are there already are left alone."""
    return [_compile(write, dialect, repeat or write in _REPEATABLE) for write in Write]


def _compile(write: Write, dialect: Dialect, repeat: bool) -> str:
    statement: Insert | Update
    if write in _INSERTS:
        table, order = _INSERTS[write]
        parameters: dict[str, Any] = {name: bindparam(name) for name in order}
        if repeat:
            insert = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
            statement = insert(table).values(parameters).on_conflict_do_nothing().inline()
        else:
            statement = Insert(table).values(parameters).inline()
    else:
        table, changed, keys = _UPDATES[write]
        order = (*changed, *(f"key_{name}" for name in keys))
        statement = (
            update(table)
            .where(*(table.c[name] == bindparam(f"key_{name}") for name in keys))
            .values({name: bindparam(name) for name in changed})
        )
    compiled = statement.compile(dialect=dialect)
    # Tuples are filled in the order of the tables above; a database that would reorder them must not go unnoticed.
    if tuple(compiled.positiontup or ()) != order:
        raise AssertionError(f"{write.name}: parameters are {compiled.positiontup}, not {order}")
    return str(compiled)
