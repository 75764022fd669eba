"""API keys in SQL: made, found by their hash, rotated with an overlap, revoked; the keys themselves are not stored."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from rejoinder.ids import new_id
from rejoinder.store import tables
from rejoinder.store.statements import Write
from rejoinder.store.store import Store

PREFIX = "rj_"
_SHOWN = 8
_columns = tables.api_keys.c
_KEYS = select(*(column for column in _columns if column.name != "hash"))


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An API key, without what makes it one; `prefix` is how it begins. Times are Unix ms."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    dev: bool
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None

    def good_at(self, now_ms: int) -> bool:
        """Whether it opens anything at that time."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > now_ms)


class Keys:
    """The API keys in `store`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create(
        self, name: str, scopes: Iterable[str], *, ttl_s: float | None = None, dev: bool = False, key: str | None = None
    ) -> tuple[KeyRecord, str]:
        """A new key, and its secret: to be shown once. It expires after `ttl_s`; `key` is one made before."""
        now = self._store.clock.wall_ms()
        expires_at = None if ttl_s is None else now + round(ttl_s * 1000)
        async with self._store.transaction() as connection:
            return await self._insert(connection, name, scopes, expires_at, dev=dev, key=key)

    async def find(self, key: str) -> KeyRecord | None:
        """The record of `key`, good or not; None if nobody made it."""
        query = _KEYS.where(_columns.hash == hash_of(key))
        async with self._store.reading(flush=False) as connection:
            row = (await connection.execute(query)).mappings().first()
        return msgspec.convert(row, KeyRecord) if row else None

    async def get(self, key_id: str) -> KeyRecord | None:
        """The key with that id."""
        query = _KEYS.where(_columns.id == key_id)
        async with self._store.reading(flush=False) as connection:
            row = (await connection.execute(query)).mappings().first()
        return msgspec.convert(row, KeyRecord) if row else None

    async def all(self) -> list[KeyRecord]:
        """All keys, newest first, also those that are no good any more."""
        query = _KEYS.order_by(_columns.id.desc())
        async with self._store.reading(flush=False) as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [msgspec.convert(row, KeyRecord) for row in rows]

    async def rotate(self, key_id: str, *, overlap_s: float) -> tuple[KeyRecord, str] | None:
        """A new key like the one with that id (name, scopes, end), which is good for another `overlap_s`.

        None if there is no such key, or it is no good any more.
        """
        now = self._store.clock.wall_ms()
        async with self._store.transaction() as connection:
            query = _KEYS.where(_columns.id == key_id).with_for_update()
            row = (await connection.execute(query)).mappings().first()
            old = msgspec.convert(row, KeyRecord) if row else None
            if old is None or not old.good_at(now):
                return None
            until = now + round(overlap_s * 1000)
            if old.expires_at is not None:
                until = min(until, old.expires_at)
            await connection.execute(update(tables.api_keys).where(_columns.id == key_id).values(expires_at=until))
            return await self._insert(connection, old.name, old.scopes, old.expires_at, dev=old.dev)

    async def _insert(
        self,
        connection: AsyncConnection,
        name: str,
        scopes: Iterable[str],
        expires_at: int | None,
        *,
        dev: bool,
        key: str | None = None,
    ) -> tuple[KeyRecord, str]:
        key = key or PREFIX + secrets.token_urlsafe(32)
        record = KeyRecord(
            id=new_id("key"),
            name=name,
            prefix=key[: len(PREFIX) + _SHOWN],
            scopes=list(scopes),
            dev=dev,
            created_at=self._store.clock.wall_ms(),
            expires_at=expires_at,
            revoked_at=None,
            last_used_at=None,
        )
        row = {**msgspec.structs.asdict(record), "hash": hash_of(key)}
        await connection.execute(insert(tables.api_keys).values(row))
        return record, key

    async def revoke(self, key_id: str) -> bool:
        """End the key with that id now; False if there is none. Idempotent."""
        async with self._store.transaction() as connection:
            change = update(tables.api_keys).where(_columns.id == key_id, _columns.revoked_at.is_(None))
            await connection.execute(change.values(revoked_at=self._store.clock.wall_ms()))
            found = await connection.scalar(select(_columns.id).where(_columns.id == key_id))
        return found is not None

    def used(self, key_id: str) -> None:
        """Note that it was used now; written with the next batch."""
        self._store.writer.put(Write.KEY_USED, (self._store.clock.wall_ms(), key_id))


def hash_of(key: str) -> str:
    """What is stored of `key`; it is random, so that a plain SHA-256 cannot be guessed backwards."""
    return hashlib.sha256(key.encode()).hexdigest()
