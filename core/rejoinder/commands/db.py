"""`rejoinder db`: bring the database's schema up to date, and say how it stands."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_url_option = click.option("--url", help="The database (default: database_url of the settings).")


@click.group("db")
def command() -> None:
    """Create, upgrade and inspect the database."""


@command.command()
@_url_option
def upgrade(url: str | None) -> None:
    """Bring the schema up to date; makes it where there is none."""
    from rejoinder.store import schema

    status = asyncio.run(schema.upgrade(_database(url)))
    click.echo(f"The database has the schema {status.revision}.")


@command.command()
@_url_option
def current(url: str | None) -> None:
    """Print the schema's revision ("empty" where there is none)."""
    from rejoinder.store import schema

    status = asyncio.run(schema.check(_database(url)))
    click.echo(status.revision or "empty")


@command.command()
@_url_option
def check(url: str | None) -> None:
    """Fail unless the schema is the one this release needs."""
    from rejoinder.store import schema

    database = _database(url)
    status = asyncio.run(schema.check(database))
    if status.state is not schema.SchemaState.CURRENT:
        raise schema.mismatch(status, database)
    click.echo(f"The database has the schema {status.revision}, which this release needs.")


def _database(url: str | None) -> URL:
    from rejoinder.settings import load_settings
    from rejoinder.store import schema

    return schema.parse_url(url or load_settings().database_url)
