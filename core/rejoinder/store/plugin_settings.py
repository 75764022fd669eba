"""Settings of plugins that were made in the panel, by the name of the section."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite

from rejoinder.store import tables
from rejoinder.store.store import Store

_columns = tables.plugin_settings.c


class StoredSection(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored of `[plugins.NAME]`, since when (Unix ms), and by whom."""

    name: str
    values: dict[str, Any]
    updated_at: int
    updated_by: str


class StoredSections:
    """The table `plugin_settings` of `store`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def all(self) -> list[StoredSection]:
        """All of them."""
        async with self._store.reading(flush=False) as connection:
            rows = (await connection.execute(select(tables.plugin_settings))).mappings().all()
        # A row has a method `values` of its own.
        return [
            StoredSection(
                name=row["name"], values=row["values"], updated_at=row["updated_at"], updated_by=row["updated_by"]
            )
            for row in rows
        ]

    async def put(self, name: str, values: dict[str, Any], *, by: str) -> StoredSection:
        """Store a section, in place of what was there; without `values` it is removed."""
        record = StoredSection(name=name, values=values, updated_at=self._store.clock.wall_ms(), updated_by=by)
        async with self._store.transaction() as connection:
            if not values:
                await connection.execute(delete(tables.plugin_settings).where(_columns.name == name))
                return record
            kind = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
            row = msgspec.structs.asdict(record)
            insert: Any = kind(tables.plugin_settings).values(row)
            del row["name"]
            await connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_=row))
        return record
