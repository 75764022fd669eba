"""The rows of recordings: which there are, which are done, which are to go."""

from __future__ import annotations

import msgspec
from sqlalchemy import delete, select, update

from rejoinder.store import tables
from rejoinder.store.statements import Write
from rejoinder.store.store import Store

_columns = tables.recordings.c
_MOST = 500
"""Rows that are looked at in one go."""


class RecordingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The sound of a session in `file` (None: it was deleted); times are Unix ms, `duration_ms` is None till the end.

    `started_at` is the time of the first sample; `bytes` is the size of the file.
    """

    session_id: str
    file: str | None
    rate: int
    started_at: int
    duration_ms: int | None
    bytes: int | None
    expires_at: int | None
    deleted_at: int | None
    deleted_by: str | None


class RecordingRows:
    """The recordings in `store`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def begin(self, session_id: str, file: str, rate: int, started_at: int, expires_at: int | None) -> None:
        """A recording begins; written with the next batch."""
        self._store.writer.put(Write.RECORDING, (session_id, file, rate, started_at, expires_at))

    def finish(self, session_id: str, duration_ms: int, size: int) -> None:
        """A recording is done; written with the next batch."""
        self._store.writer.put(Write.RECORDING_FINISHED, (duration_ms, size, session_id))

    async def get(self, session_id: str) -> RecordingRecord | None:
        """The recording of that session, None if it has none."""
        query = select(tables.recordings).where(_columns.session_id == session_id)
        async with self._store.reading() as connection:
            row = (await connection.execute(query)).mappings().first()
        return msgspec.convert(row, RecordingRecord) if row else None

    async def unfinished(self) -> list[RecordingRecord]:
        """Those that nobody has finished, the oldest first."""
        query = select(tables.recordings).where(_columns.duration_ms.is_(None), _columns.deleted_at.is_(None))
        return await self._all(query.order_by(_columns.started_at).limit(_MOST))

    async def expired(self, now: int) -> list[RecordingRecord]:
        """Those whose time is over at `now`, the oldest first."""
        query = select(tables.recordings).where(_columns.expires_at <= now, _columns.deleted_at.is_(None))
        return await self._all(query.order_by(_columns.expires_at).limit(_MOST))

    async def deleted(self, session_id: str, by: str) -> None:
        """Note that the sound is gone."""
        gone = {"file": None, "deleted_at": self._store.clock.wall_ms(), "deleted_by": by}
        change = update(tables.recordings).where(_columns.session_id == session_id, _columns.deleted_at.is_(None))
        async with self._store.transaction() as connection:
            await connection.execute(change.values(gone))

    async def forget_session(self, session_id: str) -> bool:
        """Delete all that is stored of a session that is over, its recording's row included; False: there is none.

        Raises:
            StoreError: the database refused; what waits to be written must be there first.
        """
        await self._store.writer.flush()
        deliveries = tables.webhook_deliveries.c
        named = f'%"session_id":"{session_id}"%'
        async with self._store.transaction() as connection:
            await connection.execute(
                delete(tables.webhook_deliveries).where(deliveries.payload.like(named.replace("_", r"\_"), escape="\\"))
            )
            # Or somebody could come to its room, and it would begin anew.
            await connection.execute(delete(tables.rooms).where(tables.rooms.c.session_id == session_id))
            gone = await connection.execute(delete(tables.sessions).where(tables.sessions.c.id == session_id))
        return gone.rowcount > 0

    async def _all(self, query: object) -> list[RecordingRecord]:
        async with self._store.reading() as connection:
            rows = (await connection.execute(query)).mappings().all()  # type: ignore[call-overload]
        return [msgspec.convert(row, RecordingRecord) for row in rows]
