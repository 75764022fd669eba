"""Agents that were defined over REST: every version is kept, the newest one counts."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import func, insert, select, text

from rejoinder.store import tables
from rejoinder.store.store import Store

_columns = tables.agents.c


class AgentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One version of an agent; without a `definition` it was deleted then. `created_by` is who made it."""

    name: str
    version: int
    definition: dict[str, Any] | None
    created_at: int
    created_by: str


class Agents:
    """The agents in `store`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, name: str, version: int | None = None) -> AgentRecord | None:
        """The agent called `name` (in that `version`, else the newest); None if there is none, or it was deleted."""
        query = select(tables.agents).where(_columns.name == name)
        if version is not None:
            query = query.where(_columns.version == version)
        async with self._store.reading(flush=False) as connection:
            row = (await connection.execute(query.order_by(_columns.version.desc()).limit(1))).mappings().first()
        return msgspec.convert(row, AgentRecord) if row and row["definition"] is not None else None

    async def all(self) -> list[AgentRecord]:
        """The newest version of each agent that is not deleted, by name."""
        newest = select(_columns.name, func.max(_columns.version).label("version")).group_by(_columns.name).subquery()
        query = (
            select(tables.agents)
            .join(newest, (_columns.name == newest.c.name) & (_columns.version == newest.c.version))
            .order_by(_columns.name)
        )
        async with self._store.reading(flush=False) as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [msgspec.convert(row, AgentRecord) for row in rows if row["definition"] is not None]

    async def versions(self, name: str) -> list[AgentRecord]:
        """All versions of the agent called `name`, newest first."""
        query = select(tables.agents).where(_columns.name == name).order_by(_columns.version.desc())
        async with self._store.reading(flush=False) as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [msgspec.convert(row, AgentRecord) for row in rows]

    async def put(
        self, name: str, definition: dict[str, Any] | None, *, by: str, expect: int | None = None
    ) -> AgentRecord | None:
        """A new version of the agent called `name`; without a `definition` it is deleted.

        `expect` is the version that it must have now (0: it must not be there); None is returned if it has another.
        """
        async with self._store.transaction() as connection:
            if connection.dialect.name == "postgresql":
                # One change at a time: the number of the next version is that of the last one and one.
                await connection.execute(text("LOCK TABLE agents IN SHARE ROW EXCLUSIVE MODE"))
            query = select(_columns.version, _columns.definition).where(_columns.name == name)
            row = (await connection.execute(query.order_by(_columns.version.desc()).limit(1))).first()
            there = row is not None and row.definition is not None
            if expect is not None and expect != (row.version if row is not None and there else 0):
                return None
            record = AgentRecord(
                name=name,
                version=row.version + 1 if row is not None else 1,
                definition=definition,
                created_at=self._store.clock.wall_ms(),
                created_by=by,
            )
            await connection.execute(insert(tables.agents).values(msgspec.structs.asdict(record)))
        return record
