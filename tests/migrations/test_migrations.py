"""The migrations make exactly the tables of the store, all or nothing, and can be undone."""

from __future__ import annotations

import asyncio
import io
import logging
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from click.testing import CliRunner
from sqlalchemy import Connection, create_engine, event, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateTable

from rejoinder.commands import db
from rejoinder.errors import SchemaMismatch
from rejoinder.store import schema
from rejoinder.store.schema import SchemaState
from rejoinder.store.store import Store
from rejoinder.store.tables import metadata

HEAD = ScriptDirectory.from_config(schema._config()).get_current_head()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


def url_of(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_the_migrated_schema_is_that_of_the_tables(path: Path) -> None:
    def differences(connection: Connection) -> list[Any]:
        options = {"compare_server_default": True, "include_object": is_portable}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    def is_portable(_: object, name: str | None, kind: str, *__: object) -> bool:
        # The full-text index is each database's own: here a virtual table, which keeps its data in more of them.
        return not (kind == "table" and (name or "").startswith("passages_search"))

    async def scenario() -> None:
        url = schema.parse_url(url_of(path))
        await schema.upgrade(url)
        engine = schema.make_engine(url)
        async with engine.connect() as connection:
            assert await connection.run_sync(differences) == []
        await engine.dispose()

    asyncio.run(scenario())


def test_constraints_have_the_names_of_the_tables(path: Path) -> None:
    """Names of keys are not compared by Alembic, and a later migration has to know them."""

    def names(create: str) -> set[str]:
        words = create.replace("(", " ").split()
        return {words[i + 1] for i, word in enumerate(words) if word == "CONSTRAINT"}

    url = schema.parse_url(url_of(path))
    asyncio.run(schema.upgrade(url))
    engine = schema.make_engine(url)
    with closing(sqlite3.connect(path)) as connection:
        for table in metadata.sorted_tables:
            (made,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table.name,)).fetchone()
            assert names(made) == names(str(CreateTable(table).compile(dialect=engine.dialect)))


def test_up_down_and_up_again(path: Path) -> None:
    async def scenario() -> None:
        url = schema.parse_url(url_of(path))
        assert (await schema.upgrade(url)).state is SchemaState.CURRENT
        assert set(metadata.tables) <= tables(path)
        assert (await schema.upgrade(url, "base")).state is SchemaState.EMPTY
        assert tables(path) == {"alembic_version"}
        assert (await schema.upgrade(url)).state is SchemaState.CURRENT
        assert (await schema.upgrade(url)).state is SchemaState.CURRENT

    asyncio.run(scenario())


def test_what_an_older_release_stored_is_still_there(path: Path) -> None:
    """Each step up and down, with rows in the tables."""
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)

    def rows(query: str) -> list[Any]:
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute(query).fetchall()

    with engine.connect() as connection:
        assert schema.migrate(connection, "0001").state is SchemaState.BEHIND
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("INSERT INTO sessions VALUES ('ses_1', NULL, 'guide', 1, 9, 'idle', 16000, 24000)")
        raw.execute("INSERT INTO turns (id, session_id, number, committed_at) VALUES ('t1', 'ses_1', 1, 2)")
        raw.execute("INSERT INTO spans VALUES ('t1', 0, 'llm', 5, 0)")

    async def read() -> None:
        store = Store(url_of(path))
        await store.open()
        try:
            session = await store.session("ses_1")
            assert session is not None
            assert (session.end_reason, session.metrics) == ("idle", None)
            (turn,) = await store.turns("ses_1")
            assert (turn.saved_us, turn.discarded, len(turn.spans)) == (None, None, 1)
            assert await store.interruptions("ses_1") == []
        finally:
            await store.close()

    asyncio.run(read())
    assert rows("SELECT version_num FROM alembic_version") == [(HEAD,)]
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("INSERT INTO interruptions VALUES ('ses_1', 3, 't2', 'r1', 1, 'words', 400, 'no', 5)")
        raw.execute("UPDATE turns SET saved_us = 7, discarded = 1")
    with engine.connect() as connection:
        command.downgrade(schema._config(connection), "0001")
        connection.commit()
    assert rows("SELECT * FROM sessions") == [("ses_1", None, "guide", 1, 9, "idle", 16_000, 24_000)]
    assert rows("SELECT id, number FROM turns") == [("t1", 1)]
    assert rows("SELECT name FROM spans") == [("llm",)]
    assert "interruptions" not in tables(path)
    asyncio.run(read())


def test_the_steps_can_be_taken_on_postgresql() -> None:
    scripts = ScriptDirectory.from_config(schema._config())
    for revision in scripts.walk_revisions():
        for step in (revision.module.upgrade, revision.module.downgrade):
            sql = io.StringIO()
            options = {"as_sql": True, "output_buffer": sql}
            context = MigrationContext.configure(dialect_name="postgresql", opts=options)
            with Operations.context(context):
                step()
            assert sql.getvalue().count(";") > 0
            assert "AUTOINCREMENT" not in sql.getvalue()


def test_a_migration_that_fails_leaves_nothing_behind(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)

    @event.listens_for(engine, "before_cursor_execute")
    def refuse(_1: object, _2: object, statement: str, *_: object) -> None:
        if "CREATE TABLE messages" in statement:
            raise OperationalError(statement, None, sqlite3.OperationalError("disk full"))

    with engine.connect() as connection, pytest.raises(OperationalError):
        schema.migrate(connection)
    assert tables(path) == set()


def test_processes_that_upgrade_at_once_do_not_disturb_one_another(path: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from rejoinder.store import schema\n"
        "sys.stdin.read()\n"
        "print(asyncio.run(schema.upgrade(schema.parse_url(sys.argv[1]))).state.value)\n"
    )
    command = [sys.executable, "-c", code, url_of(path)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert out.strip() == "current", err


def test_logging_is_left_alone(path: Path) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    mine = logging.getLogger("rejoinder.test_logging_is_left_alone")
    asyncio.run(schema.upgrade(schema.parse_url(url_of(path))))
    assert (root.level, list(root.handlers)) == before
    assert not mine.disabled


def test_a_schema_behind_names_the_command_to_type() -> None:
    url = schema.parse_url("postgresql+asyncpg://user:secret@host/db")
    error = schema.mismatch(schema.SchemaStatus(SchemaState.BEHIND, "0001", "0002"), url)
    assert error.fix == "rejoinder db upgrade"
    assert "secret" not in error.explain()


def test_the_tables_can_be_made_on_postgresql() -> None:
    dialect = make_url("postgresql+asyncpg://").get_dialect()()
    for table in metadata.sorted_tables:
        sql = str(CreateTable(table).compile(dialect=dialect))
        assert "AUTOINCREMENT" not in sql
    assert "id BIGSERIAL" in str(CreateTable(metadata.tables["messages"]).compile(dialect=dialect))


def test_the_command_upgrades_and_checks(path: Path) -> None:
    def run(*args: str) -> Any:
        return CliRunner().invoke(db.command, [*args, "--url", url_of(path)])

    assert run("current").output == "empty\n"
    assert not path.exists()
    behind = run("check")
    assert isinstance(behind.exception, SchemaMismatch)
    assert behind.exit_code == 1
    assert HEAD in run("upgrade").output
    assert run("current").output == f"{HEAD}\n"
    assert run("check").exit_code == 0


def test_the_command_takes_the_database_of_the_settings(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REJOINDER_DATABASE_URL", url_of(path))
    assert CliRunner().invoke(db.command, ["upgrade"]).exit_code == 0
    assert set(metadata.tables) <= tables(path)
