"""What the hooks of plugins took in each turn."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the column; what was stored before has no value in it."""
    op.add_column("turns", sa.Column("hooks", sa.JSON()))


def downgrade() -> None:
    """Drop it, and what it held."""
    op.drop_column("turns", "hooks")
