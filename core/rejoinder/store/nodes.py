"""The processes on this database: each has a row that it writes now and then, and removes when it stops."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite

from rejoinder.store import tables
from rejoinder.store.store import Store

_columns = tables.nodes.c


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A process; times are Unix ms, `stats` is what it last said of itself."""

    id: str
    host: str
    pid: int
    version: str
    started_at: int
    seen_at: int
    stats: dict[str, Any]


class NodeRows:
    """The table `nodes` of `store`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def put(self, node: NodeRecord, *, forget_before: int) -> None:
        """Write the row of a process, and remove those of others that were not seen since `forget_before` (Unix ms)."""
        row = msgspec.to_builtins(node)
        async with self._store.transaction() as connection:
            kind = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
            insert: Any = kind(tables.nodes).values(row)
            changes = {"seen_at": node.seen_at, "stats": row["stats"]}
            await connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=changes))
            await connection.execute(delete(tables.nodes).where(_columns.seen_at < forget_before))

    async def remove(self, node_id: str) -> None:
        """Remove the row of a process."""
        async with self._store.transaction() as connection:
            await connection.execute(delete(tables.nodes).where(_columns.id == node_id))

    async def all(self) -> list[NodeRecord]:
        """All rows, the process that started first first."""
        async with self._store.reading() as connection:
            rows = (
                await connection.execute(select(tables.nodes).order_by(_columns.started_at, _columns.id))
            ).mappings()
            return [msgspec.convert(row, NodeRecord) for row in rows.all()]
