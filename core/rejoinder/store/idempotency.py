"""Answers to requests that may come twice, in SQL: taken by their key, kept for a day, given again."""

from __future__ import annotations

import msgspec
from sqlalchemy import ColumnElement, delete, insert, select, update

from rejoinder.errors import StoreError
from rejoinder.ids import new_id
from rejoinder.store import tables
from rejoinder.store.store import Store

_columns = tables.idempotency.c
KEPT_MS = 86_400_000
STALE_MS = 60_000
"""A request that was not answered, and of which nothing was heard for this long, is given up."""
_PRUNE_MS = 60_000
_PRUNED = 200


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a request: without a `status` it is being answered. Times are Unix ms."""

    owner: str
    key: str
    fingerprint: str
    created_at: int
    status: int | None = None
    headers: dict[str, str] | None = None
    body: str | None = None


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A key that is taken by one attempt at a request. An attempt that became stale is followed by another one."""

    owner: str
    key: str
    attempt: str


class Answers:
    """The answers in `store`, by who asked (`owner`) and the key that they chose."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pruned = 0

    async def take(self, owner: str, key: str, fingerprint: str) -> Kept | Taken:
        """Take the key for a request that begins now; if it is taken, by what.

        Raises:
            StoreError: the database refused.
        """
        try:
            return await self._take(owner, key, fingerprint)
        except StoreError as error:
            if error.code != "row_refused":
                raise
            # Somebody else took it in the same moment.
            return await self._take(owner, key, fingerprint)

    async def keep(self, taken: Taken, status: int, headers: dict[str, str], body: str) -> None:
        """Keep the answer of the attempt that has taken the key, unless another one has it now."""
        async with self._store.transaction() as connection:
            change = update(tables.idempotency).where(_held(taken))
            await connection.execute(change.values(status=status, headers=headers, body=body))

    async def beat(self, taken: Taken) -> None:
        """Say that the attempt that has taken the key is still going on."""
        async with self._store.transaction() as connection:
            change = update(tables.idempotency).where(_held(taken))
            await connection.execute(change.values(created_at=self._store.clock.wall_ms()))

    async def release(self, taken: Taken) -> None:
        """Let the key go: the request was not answered."""
        async with self._store.transaction() as connection:
            await connection.execute(delete(tables.idempotency).where(_held(taken)))

    async def _take(self, owner: str, key: str, fingerprint: str) -> Kept | Taken:
        now = self._store.clock.wall_ms()
        async with self._store.transaction() as connection:
            if now - self._pruned >= _PRUNE_MS:
                old = select(_columns.owner, _columns.key).where(_columns.created_at < now - KEPT_MS).limit(_PRUNED)
                rows = (await connection.execute(old)).all()
                for expired in rows:
                    await connection.execute(delete(tables.idempotency).where(_is(expired.owner, expired.key)))
                # If there may be more, the next request goes on.
                self._pruned = now if len(rows) < _PRUNED else self._pruned
            # On PostgreSQL a second one waits here for the first; SQLite has one writer anyway.
            query = select(tables.idempotency).where(_is(owner, key)).with_for_update()
            row = (await connection.execute(query)).mappings().first()
            found = msgspec.convert(row, Kept) if row else None
            if found is not None and found.created_at > now - (STALE_MS if found.status is None else KEPT_MS):
                return found
            if found is not None:
                await connection.execute(delete(tables.idempotency).where(_is(owner, key)))
            taken = Taken(owner=owner, key=key, attempt=new_id("att"))
            # Until there is an answer, its place holds whose it will be.
            values = {"owner": owner, "key": key, "fingerprint": fingerprint, "created_at": now, "body": taken.attempt}
            await connection.execute(insert(tables.idempotency).values(values))
        return taken


def _held(taken: Taken) -> ColumnElement[bool]:
    return _is(taken.owner, taken.key) & _columns.status.is_(None) & (_columns.body == taken.attempt)


def _is(owner: str, key: str) -> ColumnElement[bool]:
    return (_columns.owner == owner) & (_columns.key == key)
