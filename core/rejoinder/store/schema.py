"""The schema's version: read it, compare it with this release's, bring it up to date through Alembic."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from sqlalchemy import Connection, create_engine, event, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, InvalidRequestError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool

from rejoinder.errors import ConfigError, MissingDependency, SchemaMismatch, sentence
from rejoinder.store.failures import place, store_error
from rejoinder.store.tables import metadata

if TYPE_CHECKING:
    from alembic.config import Config

_T = TypeVar("_T")

# Alembic keeps the migration that runs in a module's global.
_ALEMBIC = threading.Lock()
_BUSY_S = 1  # in the driver's thread; the writer tries again by itself
_EXAMPLES = "sqlite+aiosqlite:///rejoinder.db or postgresql+asyncpg://user:password@host/rejoinder"


class SchemaState(Enum):
    """How a database's schema stands to this release's."""

    CURRENT = "current"
    EMPTY = "empty"
    BEHIND = "behind"
    UNKNOWN = "unknown"


class SchemaStatus(NamedTuple):
    """What a database holds (`revision`, None if it was never set up) and what this release needs (`head`)."""

    state: SchemaState
    revision: str | None
    head: str


def parse_url(url: str) -> URL:
    """The database `url`, parsed.

    Raises:
        ConfigError: it is no URL of a database.
    """
    try:
        return make_url(url)
    except ArgumentError:
        raise ConfigError("database_url is not the URL of a database.", fix=f"Use {_EXAMPLES}.") from None


def is_memory(url: URL) -> bool:
    """Whether `url` is an SQLite database that lives in memory only."""
    return url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:")


def make_engine(url: URL) -> AsyncEngine:
    """An engine for `url`: SQLite with foreign keys and a write-ahead log, waiting for locks at most one second.

    Raises:
        ConfigError: `url` names no database that can be used here.
        MissingDependency: its driver is not installed.
    """
    options: dict[str, Any] = {}
    if is_memory(url):
        # One connection is the database, and it has one transaction: whoever comes second waits for it.
        options = {"poolclass": AsyncAdaptedQueuePool, "pool_size": 1, "max_overflow": 0}
    try:
        engine = create_async_engine(url, **options)
    except ModuleNotFoundError as error:
        extra = "postgres" if url.get_backend_name() == "postgresql" else "local"
        raise MissingDependency(url.drivername, error.name or url.drivername, extra) from None
    except (NoSuchModuleError, InvalidRequestError) as error:
        raise ConfigError(
            sentence(f"database_url has the driver {url.drivername!r}, which does not work here: {error}"),
            fix=f"Use {_EXAMPLES}.",
        ) from None
    if url.get_backend_name() == "sqlite":
        event.listen(engine.sync_engine, "connect", _set_pragmas)
    return engine


def _set_pragmas(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute(f"PRAGMA busy_timeout={_BUSY_S * 1000}")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        # What may only be read keeps the journal it has.
        if not (error.sqlite_errorname or "").startswith("SQLITE_READONLY"):
            raise
    finally:
        cursor.close()


def status_of(connection: Connection) -> SchemaStatus:
    """How the schema of the database behind `connection` stands."""
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    scripts = ScriptDirectory.from_config(_config())
    head = scripts.get_current_head() or ""
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is None:
        ours = set(metadata.tables) & set(inspect(connection).get_table_names())
        return SchemaStatus(SchemaState.UNKNOWN if ours else SchemaState.EMPTY, None, head)
    if revision == head:
        return SchemaStatus(SchemaState.CURRENT, revision, head)
    try:
        scripts.get_revision(revision)
    except CommandError:
        return SchemaStatus(SchemaState.UNKNOWN, revision, head)
    return SchemaStatus(SchemaState.BEHIND, revision, head)


def migrate(connection: Connection, revision: str = "head") -> SchemaStatus:
    """Bring the database behind `connection` to `revision`, in one transaction.

    Raises:
        SchemaMismatch: the database holds a schema this release does not know.
    """
    from alembic import command

    if connection.dialect.name == "sqlite":
        # The driver would begin only at the first row; this makes the whole change one transaction, for one process.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    status = status_of(connection)
    if status.state is SchemaState.UNKNOWN:
        raise mismatch(status, connection.engine.url)
    if revision == "base":
        command.downgrade(_config(connection), revision)
    else:
        command.upgrade(_config(connection), revision)
    status = status_of(connection)
    connection.commit()
    return status


def mismatch(status: SchemaStatus, url: URL) -> SchemaMismatch:
    """The error for a schema that is not this release's."""
    where = place(url)
    if status.state is not SchemaState.UNKNOWN:
        found = repr(status.revision) if status.revision else "empty"
        return SchemaMismatch(
            f"The schema of {where} is {found}; this release needs {status.head!r}.", fix="rejoinder db upgrade"
        )
    if status.revision is None:
        return SchemaMismatch(
            f"There are tables with our names in {where} that Rejoinder did not make.",
            fix="Set REJOINDER_DATABASE_URL to another database.",
        )
    return SchemaMismatch(
        f"The schema of {where} is {status.revision!r}, which this release does not know: a newer one made it.",
        fix="pip install --upgrade rejoinder",
    )


async def check(url: URL) -> SchemaStatus:
    """How the schema of the database at `url` stands; a file that is not there is not made.

    Raises:
        StoreError: the database cannot be reached or read.
    """
    if url.get_backend_name() == "sqlite" and _is_missing_file(url):
        return SchemaStatus(SchemaState.EMPTY, None, await _aside(_head))
    return await _aside(lambda: _connected(url, status_of))


async def upgrade(url: URL, revision: str = "head") -> SchemaStatus:
    """Bring the database at `url` to `revision` (of this release, or "base" for none), in a thread of its own.

    Raises:
        SchemaMismatch: it holds a schema this release does not know.
        StoreError: it cannot be reached or written.
    """
    return await _aside(lambda: _connected(url, lambda connection: migrate(connection, revision)))


def _connected(url: URL, work: Callable[[Connection], SchemaStatus]) -> SchemaStatus:
    try:
        if url.get_backend_name() != "sqlite":
            return asyncio.run(_connected_async(make_engine(url), work))
        # Foreign keys are not enforced here, SQLite's default: a migration that rebuilds a table drops the old one,
        # which would delete what refers to its rows.
        engine = create_engine(url.set(drivername="sqlite"), poolclass=NullPool, connect_args={"timeout": _BUSY_S})
        with engine.connect() as connection:
            return work(connection)
    except (SQLAlchemyError, OSError) as error:
        raise store_error(error, url) from error


async def _connected_async(engine: AsyncEngine, work: Callable[[Connection], SchemaStatus]) -> SchemaStatus:
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(work)
    finally:
        await engine.dispose()


async def _aside(work: Callable[[], _T]) -> _T:
    """Run `work` in a thread that ends with it: the loader of migrations would hold up the loop."""

    def alone() -> _T:
        with _ALEMBIC:
            return work()

    executor = ThreadPoolExecutor(1, thread_name_prefix="store-schema")
    done = executor.submit(alone)
    try:
        return await asyncio.wrap_future(done)
    finally:
        # A cancelled caller does not wait for what cannot be cancelled.
        executor.shutdown(wait=done.done())


def _head() -> str:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def _is_missing_file(url: URL) -> bool:
    if is_memory(url) or "uri" in url.query:
        return False
    return not Path(url.database or "").exists()


def _config(connection: Connection | None = None) -> Config:
    from alembic.config import Config

    config = Config()
    # By name only: the core does not import the migrations.
    config.set_main_option("script_location", "rejoinder_migrations:")
    config.attributes["connection"] = connection
    return config
