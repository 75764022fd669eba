"""Webhooks and their outbox in SQL: what is to be delivered to whom, claimed for a while, settled, pruned."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from sqlalchemy import bindparam, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from rejoinder.store import tables
from rejoinder.store.store import Store

_hooks = tables.webhooks.c
_rows = tables.webhook_deliveries.c
WINDOW = 64
"""At most so many deliveries that are due are looked at in one go."""
_PRUNED = 500
"""At most so many of the oldest deliveries are looked at in one go."""
_SETTLE = (
    update(tables.webhook_deliveries)
    .where(_rows.id == bindparam("key"))
    .values({name: bindparam(name) for name in ("next_attempt_at", "attempts", "delivered_at", "status", "error")})
)


class Secret(msgspec.Struct, frozen=True):
    """What signs; an older one does so until `until` (Unix ms)."""

    secret: str
    until: int | None = None


class WebhookRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook; `secrets` are the newest first. Times are Unix ms."""

    id: str
    url: str
    description: str
    events: list[str]
    secrets: list[Secret]
    created_at: int
    failing_since: int | None = None
    disabled_at: int | None = None
    disabled_reason: str | None = None

    @property
    def enabled(self) -> bool:
        """Whether events are sent to it."""
        return self.disabled_at is None


class DeliveryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A message to a webhook, sent `attempts` times so far; without a `next_attempt_at` nothing more is tried.

    `status` is the receiver's last HTTP status, `error` what went wrong. Times are Unix ms.
    """

    id: str
    webhook_id: str
    type: str
    payload: str
    created_at: int
    next_attempt_at: int | None
    attempts: int = 0
    delivered_at: int | None = None
    status: int | None = None
    error: str | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an attempt. `disable` says why the webhook gets nothing any more, None that it does.

    `counted`: it tells something about the receiver (one whose webhook was deleted does not).
    """

    delivery: DeliveryRecord
    at: int
    delivered: bool = False
    next_attempt_at: int | None = None
    attempts: int
    status: int | None = None
    error: str | None = None
    disable: str | None = None
    counted: bool = True


class Outbox:
    """The webhooks in `store` and what is to be delivered to them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # -- webhooks

    async def webhooks(self) -> list[WebhookRecord]:
        """All webhooks, newest first."""
        async with self._store.reading(flush=False) as connection:
            found = await connection.execute(select(tables.webhooks).order_by(_hooks.id.desc()))
            return [msgspec.convert(row, WebhookRecord) for row in found.mappings().all()]

    async def webhook(self, webhook_id: str) -> WebhookRecord | None:
        """The webhook with that id."""
        async with self._store.reading(flush=False) as connection:
            row = (await connection.execute(select(tables.webhooks).where(_hooks.id == webhook_id))).mappings().first()
        return msgspec.convert(row, WebhookRecord) if row else None

    async def add(self, record: WebhookRecord) -> None:
        """Store a new webhook."""
        async with self._store.transaction() as connection:
            await connection.execute(insert(tables.webhooks).values(msgspec.to_builtins(record)))

    async def change(self, webhook_id: str, **values: Any) -> WebhookRecord | None:
        """Set these columns of a webhook; None if there is none."""
        async with self._store.transaction() as connection:
            if values:
                change = update(tables.webhooks).where(_hooks.id == webhook_id)
                await connection.execute(change.values(msgspec.to_builtins(values)))
            row = (await connection.execute(select(tables.webhooks).where(_hooks.id == webhook_id))).mappings().first()
        return msgspec.convert(row, WebhookRecord) if row else None

    async def delete(self, webhook_id: str) -> bool:
        """Remove a webhook; False if there is none. What still waits for it fails when it is due."""
        async with self._store.transaction() as connection:
            done = await connection.execute(delete(tables.webhooks).where(_hooks.id == webhook_id))
        return done.rowcount > 0

    # -- deliveries

    async def put(self, record: DeliveryRecord) -> None:
        """Store a delivery at once."""
        async with self._store.transaction() as connection:
            await connection.execute(insert(tables.webhook_deliveries).values(msgspec.structs.asdict(record)))

    async def deliveries(self, webhook_id: str, limit: int, *, before: str | None = None) -> list[DeliveryRecord]:
        """At most `limit` deliveries to a webhook, newest first; the next page is `before` the last id of this one."""
        query = select(tables.webhook_deliveries).where(_rows.webhook_id == webhook_id)
        if before is not None:
            query = query.where(_rows.id < before)
        async with self._store.reading() as connection:
            found = (await connection.execute(query.order_by(_rows.id.desc()).limit(limit))).mappings().all()
        return [msgspec.convert(row, DeliveryRecord) for row in found]

    async def again(self, webhook_id: str, delivery_id: str, now: int) -> DeliveryRecord | None:
        """Have a delivery sent again from `now` on, as often as a new one; None if there is none."""
        mine = (_rows.webhook_id == webhook_id) & (_rows.id == delivery_id)
        async with self._store.transaction() as connection:
            change = update(tables.webhook_deliveries).where(mine)
            await connection.execute(change.values(next_attempt_at=now, attempts=0, delivered_at=None, error=None))
            row = (await connection.execute(select(tables.webhook_deliveries).where(mine))).mappings().first()
        return msgspec.convert(row, DeliveryRecord) if row else None

    async def exchange(
        self, outcomes: Sequence[Outcome], room: Room, now: int, lease_ms: int
    ) -> tuple[list[DeliveryRecord], int | None]:
        """Note the `outcomes`, claim what is due `now`, and tell when the next one will be due (Unix ms; None: never).

        What is claimed is nobody else's for `lease_ms`; after that, unless settled, it is due again.
        """
        async with self._store.transaction() as connection:
            if outcomes:
                await self._settle(connection, outcomes)
            if room.left <= 0:
                # Whatever comes back makes room, and asks again.
                return [], None
            due = select(tables.webhook_deliveries).where(_rows.next_attempt_at <= now)
            due = due.where(_rows.webhook_id.not_in(room.full)).order_by(_rows.next_attempt_at).limit(WINDOW)
            # Where several processes share the database, each passes over what another one is claiming.
            rows = (await connection.execute(due.with_for_update(skip_locked=True))).mappings().all()
            chosen = [row for row in rows if room.take(row["webhook_id"])]
            if chosen:
                change = update(tables.webhook_deliveries).where(_rows.id.in_([row["id"] for row in chosen]))
                await connection.execute(change.values(next_attempt_at=now + lease_ms))
            later = select(func.min(_rows.next_attempt_at)).where(_rows.webhook_id.not_in(room.full))
            next_at = await connection.scalar(later) if room.left > 0 else None
        return [msgspec.convert(row, DeliveryRecord) for row in chosen], next_at

    async def release(self, deliveries: Collection[DeliveryRecord], now: int) -> None:
        """Give back what was claimed and not sent."""
        ids = [delivery.id for delivery in deliveries]
        async with self._store.transaction() as connection:
            change = update(tables.webhook_deliveries).where(_rows.id.in_(ids), _rows.next_attempt_at.is_not(None))
            await connection.execute(change.values(next_attempt_at=now))

    async def prune(self, before: int) -> bool:
        """Remove settled deliveries that are older than `before` (Unix ms), some at a time; whether there may be more.

        Only the oldest are looked at: ids sort by time, so this costs the same however many there are.
        """
        async with self._store.transaction() as connection:
            query = select(_rows.id, _rows.created_at, _rows.next_attempt_at).order_by(_rows.id).limit(_PRUNED)
            oldest = (await connection.execute(query)).all()
            old = [row.id for row in oldest if row.created_at < before and row.next_attempt_at is None]
            if old:
                await connection.execute(delete(tables.webhook_deliveries).where(_rows.id.in_(old)))
        return len(old) == _PRUNED

    async def _settle(self, connection: AsyncConnection, outcomes: Sequence[Outcome]) -> None:
        await connection.execute(
            _SETTLE,
            [
                {
                    "key": outcome.delivery.id,
                    "next_attempt_at": outcome.next_attempt_at,
                    "attempts": outcome.attempts,
                    "delivered_at": outcome.at if outcome.delivered else None,
                    "status": outcome.status,
                    "error": outcome.error,
                }
                for outcome in outcomes
            ],
        )
        failed = {o.delivery.webhook_id: o.at for o in outcomes if o.counted and not o.delivered}
        for webhook_id, at in failed.items():
            since = update(tables.webhooks).where(_hooks.id == webhook_id, _hooks.failing_since.is_(None))
            await connection.execute(since.values(failing_since=at))
        if working := {o.delivery.webhook_id for o in outcomes if o.delivered}:
            well = update(tables.webhooks).where(_hooks.id.in_(working), _hooks.failing_since.is_not(None))
            await connection.execute(well.values(failing_since=None))
        for outcome in outcomes:
            if outcome.disable is not None:
                hook = (_hooks.id == outcome.delivery.webhook_id) & _hooks.disabled_at.is_(None)
                off = update(tables.webhooks).where(hook)
                await connection.execute(off.values(disabled_at=outcome.at, disabled_reason=outcome.disable))


class Room:
    """How many more deliveries may be under way: `left` in all, and of each webhook as `limit_of` says.

    `running` counts those under way by webhook.
    """

    def __init__(self, left: int, running: dict[str, int], limit_of: dict[str, int], limit: int) -> None:
        self.left = left
        self._running = dict(running)
        self._limit_of = limit_of
        self._limit = limit

    @property
    def full(self) -> list[str]:
        """The webhooks that have enough to do."""
        return [hook for hook, count in self._running.items() if count >= self._limit_of.get(hook, self._limit)]

    def take(self, webhook_id: str) -> bool:
        """Take a place for a delivery to that webhook, if there is one."""
        count = self._running.get(webhook_id, 0)
        if self.left <= 0 or count >= self._limit_of.get(webhook_id, self._limit):
            return False
        self.left -= 1
        self._running[webhook_id] = count + 1
        return True
