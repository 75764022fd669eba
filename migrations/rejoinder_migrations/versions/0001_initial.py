"""Rooms, sessions, turns, tool calls, messages, events and spans."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _belongs_to(table: str, column: str, parent: str, ondelete: str = "CASCADE") -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{parent}.id"], name=f"fk_{table}_{column}_{parent}", ondelete=ondelete)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "rooms",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("agent", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rooms"),
        sa.UniqueConstraint("session_id", name="uq_rooms_session_id"),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("room_id", sa.String()),
        sa.Column("agent", sa.String(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger()),
        sa.Column("end_reason", sa.String()),
        sa.Column("input_rate", sa.Integer(), nullable=False),
        sa.Column("output_rate", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        _belongs_to("sessions", "room_id", "rooms", "SET NULL"),
    )
    op.create_index("ix_sessions_started_at", "sessions", ["started_at"])
    op.create_index("ix_sessions_agent_id", "sessions", ["agent", "id"])
    op.create_index("ix_sessions_room_id", "sessions", ["room_id"])
    op.create_table(
        "turns",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("user_text", sa.Text()),
        sa.Column("committed_at", sa.BigInteger(), nullable=False),
        sa.Column("reply_id", sa.String()),
        sa.Column("reply_text", sa.Text()),
        sa.Column("heard_text", sa.Text()),
        sa.Column("reply_reason", sa.String()),
        sa.Column("played_ms", sa.Integer()),
        sa.Column("estimated", sa.Boolean()),
        sa.Column("response_us", sa.BigInteger()),
        sa.Column("jitter_us", sa.BigInteger()),
        sa.Column("speculated", sa.Boolean()),
        sa.Column("providers", sa.JSON()),
        sa.PrimaryKeyConstraint("id", name="pk_turns"),
        _belongs_to("turns", "session_id", "sessions"),
    )
    op.create_index("ix_turns_session_id_number", "turns", ["session_id", "number"])
    op.create_table(
        "tool_calls",
        sa.Column("reply_id", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("turn_id", sa.String()),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("arguments", sa.Text(), nullable=False),
        sa.Column("status", sa.String()),
        sa.Column("result", sa.Text()),
        sa.Column("called_at", sa.BigInteger(), nullable=False),
        sa.Column("returned_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("reply_id", "id", name="pk_tool_calls"),
        _belongs_to("tool_calls", "session_id", "sessions"),
        _belongs_to("tool_calls", "turn_id", "turns"),
    )
    op.create_index("ix_tool_calls_session_id", "tool_calls", ["session_id"])
    op.create_index("ix_tool_calls_turn_id", "tool_calls", ["turn_id"])
    op.create_table(
        "messages",
        sa.Column("id", _COUNTER, autoincrement=True, nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("turn_id", sa.String()),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_messages"),
        sa.UniqueConstraint("session_id", "seq", name="uq_messages_session_id_seq"),
        _belongs_to("messages", "session_id", "sessions"),
        _belongs_to("messages", "turn_id", "turns"),
    )
    op.create_index("ix_messages_turn_id", "messages", ["turn_id"])
    op.create_table(
        "events",
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("session_id", "seq", name="pk_events"),
        _belongs_to("events", "session_id", "sessions"),
    )
    op.create_table(
        "spans",
        sa.Column("turn_id", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("us", sa.BigInteger(), nullable=False),
        sa.Column("hidden", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("turn_id", "position", name="pk_spans"),
        _belongs_to("spans", "turn_id", "turns"),
    )


def downgrade() -> None:
    """Drop the tables, children first."""
    for table in ("spans", "events", "messages", "tool_calls", "turns", "sessions", "rooms"):
        op.drop_table(table)
