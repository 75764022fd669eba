"""Interruptions, what speculation saved per turn, and each session's counts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table and the columns; what was stored before has no value in them."""
    op.create_table(
        "interruptions",
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("turn_id", sa.String(), nullable=False),
        sa.Column("reply_id", sa.String(), nullable=False),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.Column("cause", sa.String(), nullable=False),
        sa.Column("speech_ms", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("session_id", "seq", name="pk_interruptions"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_interruptions_session_id_sessions", ondelete="CASCADE"
        ),
    )
    op.add_column("sessions", sa.Column("metrics", sa.JSON()))
    op.add_column("turns", sa.Column("saved_us", sa.BigInteger()))
    op.add_column("turns", sa.Column("discarded", sa.Integer()))


def downgrade() -> None:
    """Drop them, and what they held."""
    op.drop_column("turns", "discarded")
    op.drop_column("turns", "saved_us")
    op.drop_column("sessions", "metrics")
    op.drop_table("interruptions")
