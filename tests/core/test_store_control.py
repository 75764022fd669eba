"""Agents, keys and secrets in SQL, on each kind of database, also when two processes change them at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rejoinder.store import schema
from rejoinder.store.agents import Agents
from rejoinder.store.keys import Keys
from rejoinder.store.store import Store


@asynccontextmanager
async def two_stores(url: str) -> AsyncIterator[tuple[Store, Store]]:
    """Two processes on one database."""
    await schema.upgrade(schema.parse_url(url))
    one, two = Store(url), Store(url)
    await one.open()
    await two.open()
    try:
        yield one, two
    finally:
        await one.close()
        await two.close()


def test_all_processes_share_a_secret(database_url: str) -> None:
    async def main() -> None:
        async with two_stores(database_url) as (one, two):
            found = await asyncio.gather(*(store.secret("tokens") for store in (one, two) for _ in range(5)))
            assert len(set(found)) == 1
            assert len(found[0]) >= 43
            assert await one.secret("other") != found[0]

    asyncio.run(main())


def test_versions_of_an_agent_are_numbered_without_a_gap(database_url: str) -> None:
    async def main() -> None:
        async with two_stores(database_url) as (one, two):
            mine, theirs = Agents(one), Agents(two)
            changes = [store.put("host", {"n": n}, by="key_1") for n in range(6) for store in (mine, theirs)]
            made = await asyncio.gather(*changes)
            assert sorted(record.version for record in made if record) == list(range(1, 13))
            newest = await mine.get("host")
            assert newest is not None
            assert (newest.version, newest.created_by) == (12, "key_1")

            both = await asyncio.gather(*(store.put("host", {"n": 99}, by="x", expect=12) for store in (mine, theirs)))
            assert sorted(record is None for record in both) == [False, True], "only one of them saw the current one"
            deleted = await mine.put("host", None, by="x")
            assert deleted is not None
            assert await theirs.get("host") is None
            assert await theirs.all() == []
            old = await theirs.get("host", 13)
            assert old is not None
            assert old.definition == {"n": 99}
            assert len(await mine.versions("host")) == 14

    asyncio.run(main())


def test_keys_are_found_by_what_they_are_and_not_stored(database_url: str) -> None:
    async def main() -> None:
        async with two_stores(database_url) as (one, two):
            keys, elsewhere = Keys(one), Keys(two)
            record, key = await keys.create("shop", ["read", "talk"], ttl_s=60)
            found = await elsewhere.find(key)
            assert found == record
            assert await elsewhere.find(key + "x") is None
            assert found is not None
            assert found.good_at(record.created_at)
            assert not found.good_at(record.created_at + 60_000)
            turned = await elsewhere.rotate(record.id, overlap_s=10)
            assert turned is not None
            old = await keys.get(record.id)
            assert old is not None
            assert old.expires_at is not None
            assert old.expires_at < record.created_at + 30_000
            assert await keys.revoke(turned[0].id)
            assert await keys.revoke(turned[0].id), "again is no error"
            assert not await keys.revoke("key_none")
            assert await keys.rotate(turned[0].id, overlap_s=0) is None
            keys.used(record.id)
            await one.writer.flush()
            assert [one.last_used_at is not None for one in await elsewhere.all()] == [False, True]

    asyncio.run(main())
