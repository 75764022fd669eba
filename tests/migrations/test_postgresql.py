"""The migrations on a real PostgreSQL server, both ways."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from rejoinder.errors import SchemaMismatch
from rejoinder.store import schema
from rejoinder.store.nodes import NodeRecord, NodeRows
from rejoinder.store.plugin_settings import StoredSections
from rejoinder.store.schema import SchemaState
from rejoinder.store.store import Store
from rejoinder.store.tables import metadata


def is_portable(_: object, name: str | None, kind: str, *__: object) -> bool:
    """The full-text index is each database's own: here a generated column and its index."""
    return (kind, name) not in {("column", "search"), ("index", "ix_passages_search")}


def differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(connection, opts={"include_object": is_portable})
    return list(compare_metadata(context, metadata))


def tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def test_each_step_up_and_down_and_up_again(postgres: str) -> None:
    async def scenario() -> None:
        url = schema.parse_url(postgres)
        assert (await schema.check(url)).state is SchemaState.EMPTY
        revisions = [step.revision for step in ScriptDirectory.from_config(schema._config()).walk_revisions()][::-1]
        for revision in revisions:
            assert (await schema.upgrade(url, revision)).revision == revision
        engine = schema.make_engine(url)
        async with engine.connect() as connection:
            assert await connection.run_sync(differences) == []
        assert (await schema.upgrade(url, "base")).state is SchemaState.EMPTY
        async with engine.connect() as connection:
            assert await connection.run_sync(tables) == {"alembic_version"}
        assert (await schema.upgrade(url)).state is SchemaState.CURRENT
        await engine.dispose()

    asyncio.run(scenario())


def test_the_server_does_not_migrate_it_by_itself(postgres: str) -> None:
    async def scenario() -> None:
        with pytest.raises(SchemaMismatch) as raised:
            await Store(postgres).open()
        assert raised.value.fix == "rejoinder db upgrade"
        await schema.upgrade(schema.parse_url(postgres))
        store = Store(postgres)
        await store.open()
        room = await store.create_room("guide", "ses_1")
        assert await store.room(room.id) == room
        await store.close()

    asyncio.run(scenario())


def test_processes_and_settings_of_plugins(postgres: str) -> None:
    async def scenario() -> None:
        await schema.upgrade(schema.parse_url(postgres))
        store = Store(postgres)
        await store.open()
        nodes = NodeRows(store)
        for seen_at in (10, 20):
            node = NodeRecord(
                id="node_1", host="a", pid=1, version="1", started_at=5, seen_at=seen_at, stats={"n": seen_at}
            )
            await nodes.put(node, forget_before=0)
        assert await nodes.all() == [node]
        await nodes.remove("node_1")
        assert await nodes.all() == []
        sections = StoredSections(store)
        for voice in ("ada", "bea"):
            stored = await sections.put("acme", {"voice": voice}, by="ada")
        assert await sections.all() == [stored]
        await sections.put("acme", {}, by="ada")
        assert await sections.all() == []
        await store.close()

    asyncio.run(scenario())
