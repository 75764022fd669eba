"""Documents that agents may look up, their passages, and the full-text index of these."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# The index holds no copy of the words but reads them from the table, so triggers must tell it of every change. The
# words are already without case and diacritics; the tokenizer takes them apart at spaces and finds their English stems.
_SQLITE = (
    """CREATE VIRTUAL TABLE passages_search USING fts5(
    words, content = 'passages', content_rowid = 'id',
    tokenize = "porter unicode61 remove_diacritics 0 categories 'L* N* Co M*'"
)""",
    """CREATE TRIGGER passages_search_insert AFTER INSERT ON passages BEGIN
    INSERT INTO passages_search (rowid, words) VALUES (new.id, new.words);
END""",
    """CREATE TRIGGER passages_search_delete AFTER DELETE ON passages BEGIN
    INSERT INTO passages_search (passages_search, rowid, words) VALUES ('delete', old.id, old.words);
END""",
    """CREATE TRIGGER passages_search_update AFTER UPDATE ON passages BEGIN
    INSERT INTO passages_search (passages_search, rowid, words) VALUES ('delete', old.id, old.words);
    INSERT INTO passages_search (rowid, words) VALUES (new.id, new.words);
END""",
)
_POSTGRESQL = (
    """ALTER TABLE passages ADD COLUMN search tsvector
GENERATED ALWAYS AS (to_tsvector('english', words)) STORED""",
    "CREATE INDEX ix_passages_search ON passages USING gin (search)",
)


def upgrade() -> None:
    """Make the tables and the index of the database's own full-text search."""
    op.create_table(
        "documents",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("collection", sa.String(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("source", sa.Text()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("characters", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_documents"),
        sa.UniqueConstraint("collection", "source", name="uq_documents_collection_source"),
    )
    op.create_table(
        "passages",
        sa.Column("id", _COUNTER, autoincrement=True, nullable=False),
        sa.Column("document_id", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("heading", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_passages"),
        sa.UniqueConstraint("document_id", "position", name="uq_passages_document_id_position"),
        sa.ForeignKeyConstraint(
            ["document_id"], ["documents.id"], name="fk_passages_document_id_documents", ondelete="CASCADE"
        ),
    )
    for statement in _SQLITE if _is_sqlite() else _POSTGRESQL:
        op.execute(statement)


def downgrade() -> None:
    """Drop them, and what they held."""
    if _is_sqlite():
        op.execute("DROP TABLE passages_search")
    for table in ("passages", "documents"):
        op.drop_table(table)


def _is_sqlite() -> bool:
    return op.get_context().dialect.name == "sqlite"
