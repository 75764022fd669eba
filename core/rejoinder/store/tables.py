"""The tables, in portable SQL: ids are text, times are Unix milliseconds, durations say their unit in the name."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only where the key is declared INTEGER.
_COUNTER = BigInteger().with_variant(Integer(), "sqlite")


def _session() -> Column[str]:
    return Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False)


def _turn() -> Column[str]:
    return Column("turn_id", ForeignKey("turns.id", ondelete="CASCADE"))


rooms = Table(
    "rooms",
    metadata,
    Column("id", String, primary_key=True),
    Column("agent", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    # The id that the session will have; no foreign key, because it starts only when somebody joins.
    Column("session_id", String, nullable=False, unique=True),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", String, primary_key=True),
    Column("room_id", ForeignKey("rooms.id", ondelete="SET NULL")),
    Column("agent", String, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("end_reason", String),
    Column("input_rate", Integer, nullable=False),
    Column("output_rate", Integer, nullable=False),
    Column("metrics", JSON),
    Index(None, "started_at"),
    Index(None, "agent", "id"),
    Index(None, "room_id"),
)

turns = Table(
    "turns",
    metadata,
    Column("id", String, primary_key=True),
    _session(),
    Column("number", Integer, nullable=False),
    Column("user_text", Text),
    Column("committed_at", BigInteger, nullable=False),
    Column("reply_id", String),
    Column("reply_text", Text),
    Column("heard_text", Text),
    Column("reply_reason", String),
    Column("played_ms", Integer),
    Column("estimated", Boolean),
    Column("response_us", BigInteger),
    Column("jitter_us", BigInteger),
    Column("speculated", Boolean),
    Column("saved_us", BigInteger),
    Column("discarded", Integer),
    Column("providers", JSON),
    Index(None, "session_id", "number"),
)

tool_calls = Table(
    "tool_calls",
    metadata,
    # The model names its calls, and some count from 0 in every answer: only the pair is unique.
    Column("reply_id", String, primary_key=True),
    Column("id", String, primary_key=True),
    _session(),
    _turn(),
    Column("name", String, nullable=False),
    Column("arguments", Text, nullable=False),
    Column("status", String),
    Column("result", Text),
    Column("called_at", BigInteger, nullable=False),
    Column("returned_at", BigInteger),
    Index(None, "session_id"),
    Index(None, "turn_id"),
)

messages = Table(
    "messages",
    metadata,
    Column("id", _COUNTER, primary_key=True, autoincrement=True),
    _session(),
    _turn(),
    Column("role", String, nullable=False),
    Column("content", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    UniqueConstraint("session_id", "seq"),
    Index(None, "turn_id"),
)

events = Table(
    "events",
    metadata,
    Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("type", String, nullable=False),
    Column("data", Text, nullable=False),
)

spans = Table(
    "spans",
    metadata,
    Column("turn_id", ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("name", String, nullable=False),
    Column("us", BigInteger, nullable=False),
    Column("hidden", Boolean, nullable=False),
)

interruptions = Table(
    "interruptions",
    metadata,
    Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    # The number of its event.
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    # No foreign key: what was no interruption is often no turn either.
    Column("turn_id", String, nullable=False),
    Column("reply_id", String, nullable=False),
    Column("accepted", Boolean, nullable=False),
    Column("cause", String, nullable=False),
    Column("speech_ms", Integer, nullable=False),
    Column("text", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)
