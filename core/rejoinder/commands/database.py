"""The database that a command works on: named on stderr, and not made by mistake where it should be there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rejoinder.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from rejoinder.settings import Settings
    from rejoinder.store.store import Store


@asynccontextmanager
async def open_database(settings: Settings, *, make: bool) -> AsyncIterator[Store]:
    """The store of `settings`, open; its database is named on stderr.

    `make`: an SQLite file that is not there is made; else that is an error, since another one is surely meant.

    Raises:
        ConfigError: the file is not there (`no_database`).
        StoreError: the database cannot be used.
    """
    from rejoinder.store.schema import parse_url
    from rejoinder.store.store import Store

    url = parse_url(settings.database_url)
    path = _file(url)
    if path is not None and not path.exists() and not make:
        raise ConfigError(
            f"There is no database {str(path)!r}.",
            code="no_database",
            fix="Run it in the server's folder, or set REJOINDER_DATABASE_URL to the server's database.",
        )
    # Without the query, where a password may stand, too.
    shown = path or url.set(query={}).render_as_string(hide_password=True)
    click.echo(f"database: {shown}", err=True)
    store = Store(settings.database_url, limits=settings.limits)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def _file(url: URL) -> Path | None:
    """The file of an SQLite database; None for one in memory, one named by a URI of its own and other kinds."""
    from rejoinder.store.schema import is_memory

    if url.get_backend_name() != "sqlite" or is_memory(url) or "uri" in url.query:
        return None
    return Path(url.database or "").absolute()
