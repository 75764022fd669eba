"""The audit log: who did what to what, and when; rows are only ever added."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import select

from rejoinder.store import tables
from rejoinder.store.statements import Write
from rejoinder.store.store import Store

_columns = tables.audit.c
_json = msgspec.json.Encoder().encode


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody (`actor`: the id of a user or an API key) did `action` to `subject`; `at` is Unix ms."""

    id: int
    at: int
    actor: str
    actor_name: str
    action: str
    subject: str
    detail: dict[str, Any]
    address: str


class Audit:
    """The audit log in `store`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, actor: str, actor_name: str, action: str, subject: str, *, address: str = "", **detail: Any) -> None:
        """Write down what was done; returns at once, the row is written with the next batch.

        `action` is a noun and a verb (`session.whisper`, `key.revoke`); secrets never go into `detail`.
        """
        row = (self._store.clock.wall_ms(), actor, actor_name, action, subject, _json(detail).decode(), address)
        self._store.writer.put(Write.AUDIT, row)

    async def rows(
        self,
        limit: int = 50,
        *,
        before: int | None = None,
        actor: str | None = None,
        action: str | None = None,
        subject: str | None = None,
    ) -> list[AuditRecord]:
        """At most `limit` rows, newest first; the next page is `before` the last id of this one."""
        query = select(tables.audit).order_by(_columns.id.desc()).limit(limit)
        for column, wanted in ((_columns.actor, actor), (_columns.action, action), (_columns.subject, subject)):
            if wanted is not None:
                query = query.where(column == wanted)
        if before is not None:
            query = query.where(_columns.id < before)
        async with self._store.reading() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [msgspec.convert(row, AuditRecord) for row in rows]
