"""Runs the migrations on the connection that `rejoinder.store.schema` hands in; it leaves logging alone."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from rejoinder.errors import ConfigError
from rejoinder.store.tables import metadata


def run() -> None:
    """Run the migrations that `context` asks for; the caller commits.

    Raises:
        ConfigError: Alembic was started by itself, without a connection.
    """
    connection: Connection | None = context.config.attributes.get("connection")
    if connection is None:
        raise ConfigError("The migrations are run by Rejoinder, not by alembic.", fix="rejoinder db upgrade")
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


run()
