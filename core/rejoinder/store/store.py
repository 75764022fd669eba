"""The store: one database, one writer, one recorder, and what can be read back."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from secrets import token_urlsafe
from typing import Any, TypeVar

import msgspec
from sqlalchemy import RowMapping, Select, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rejoinder.clock import Clock, SystemClock
from rejoinder.errors import StoreError
from rejoinder.ids import new_id
from rejoinder.settings import Limits
from rejoinder.store import schema, tables
from rejoinder.store.failures import store_error
from rejoinder.store.recorder import Recorder
from rejoinder.store.records import (
    EventRecord,
    InterruptionRecord,
    MessageRecord,
    RoomRecord,
    SessionRecord,
    SpanRecord,
    ToolCallRecord,
    TurnRecord,
)
from rejoinder.store.schema import SchemaState
from rejoinder.store.statements import Write
from rejoinder.store.writer import Writer

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_READ_FLUSH_S = 0.5
"""A read waits this long for what was recorded before it to be written."""


class Store:
    """Conversations and latency in the database at `url`; use it between `open()` and `close()`.

    Every read first waits for what was recorded before it, so that a reader sees what happened; where the database
    cannot be written now, it gets what is there. All errors of the database come as StoreError.
    """

    recorder: Recorder
    writer: Writer

    def __init__(self, url: str, *, limits: Limits | None = None, clock: Clock | None = None) -> None:
        self._url = schema.parse_url(url)
        self._limits = limits or Limits()
        self._clock = clock or SystemClock()
        self._engine: AsyncEngine | None = None

    async def open(self) -> None:
        """Connect and check the schema; an SQLite database is upgraded by itself.

        Raises:
            ConfigError: the URL cannot be used (MissingDependency: its driver is not installed).
            SchemaMismatch: the schema is not this release's; `fix` is the command to type.
            StoreError: the database cannot be reached, read or written.
        """
        if self._engine is not None:
            return
        engine = schema.make_engine(self._url)
        try:
            await self._prepare(engine)
        except BaseException as error:
            await engine.dispose()
            if isinstance(error, SQLAlchemyError | OSError):
                raise store_error(error, self._url) from error
            raise
        self._engine = engine
        self.writer = Writer(engine, capacity=self._limits.store_rows)
        self.writer.start()
        self.recorder = Recorder(self.writer.put)

    async def close(self) -> None:
        """Write what waits, within `limits.close_ms`, and disconnect. Idempotent."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        try:
            await self.writer.close(self._limits.close_ms / 1000)
        finally:
            await engine.dispose()

    async def create_room(self, agent: str, session_id: str, *, ttl_s: float | None = None) -> RoomRecord:
        """Make a room for `agent` and the session to come; it expires after `ttl_s` (default: `limits.room_ttl_s`)."""
        now = self._clock.wall_ms()
        expires_at = now + int((self._limits.room_ttl_s if ttl_s is None else ttl_s) * 1000)
        room = RoomRecord(id=new_id("room"), agent=agent, created_at=now, expires_at=expires_at, session_id=session_id)
        await self._write(Write.ROOM, (room.id, room.agent, room.created_at, room.expires_at, room.session_id))
        return room

    async def secret(self, name: str) -> str:
        """The secret called `name` that all processes on this database share: 256 random bits, made on first use."""
        columns = tables.secrets.c
        row = {"name": name, "value": token_urlsafe(32), "created_at": self._clock.wall_ms()}
        async with self.transaction() as connection:
            wanted = select(columns.value).where(columns.name == name)
            found = await connection.scalar(wanted)
            if found is None:
                # Another process may make it at this very moment; whoever comes first is right.
                kind = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
                await connection.execute(kind(tables.secrets).values(row).on_conflict_do_nothing())
                found = await connection.scalar(wanted)
        return str(found)

    async def room(self, room_id: str) -> RoomRecord | None:
        """The room called `room_id`, None if there is none."""
        return await self._one(select(tables.rooms).where(tables.rooms.c.id == room_id), RoomRecord)

    async def rooms(self, limit: int = 50, *, before: str | None = None) -> list[RoomRecord]:
        """At most `limit` rooms, newest first; the next page is `before` the last id of this one."""
        query = select(tables.rooms).order_by(tables.rooms.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(tables.rooms.c.id < before)
        return await self._all(query, RoomRecord)

    async def room_of_session(self, session_id: str) -> RoomRecord | None:
        """The room made for the session, None if it has none."""
        return await self._one(select(tables.rooms).where(tables.rooms.c.session_id == session_id), RoomRecord)

    async def session(self, session_id: str) -> SessionRecord | None:
        """The session called `session_id`, None if there is none."""
        return await self._one(select(tables.sessions).where(tables.sessions.c.id == session_id), SessionRecord)

    async def sessions(
        self,
        limit: int = 50,
        *,
        before: str | None = None,
        agent: str | None = None,
        room_id: str | None = None,
        end_reason: str | None = None,
        ended: bool | None = None,
        since: int | None = None,
        until: int | None = None,
    ) -> list[SessionRecord]:
        """At most `limit` sessions, newest first; the next page is `before` the last id of this one.

        `since` and `until` are Unix ms of the start; `until` is not included.
        """
        columns = tables.sessions.c
        query = select(tables.sessions).order_by(columns.id.desc()).limit(limit)
        wanted = (
            before is not None and columns.id < before,
            agent is not None and columns.agent == agent,
            room_id is not None and columns.room_id == room_id,
            end_reason is not None and columns.end_reason == end_reason,
            ended is not None and (columns.ended_at.is_not(None) if ended else columns.ended_at.is_(None)),
            since is not None and columns.started_at >= since,
            until is not None and columns.started_at < until,
        )
        return await self._all(query.where(*(one for one in wanted if one is not False)), SessionRecord)

    async def turns(self, session_id: str) -> list[TurnRecord]:
        """All turns of a session in their order, each with its spans and tool calls."""
        turns, spans, calls = tables.turns, tables.spans, tables.tool_calls
        of_session = turns.c.session_id == session_id
        async with self.reading() as connection:
            found = await _fetch(connection, select(turns).where(of_session).order_by(turns.c.number, turns.c.id))
            span_rows = await _fetch(
                connection,
                select(spans).join(turns).where(of_session).order_by(spans.c.turn_id, spans.c.position),
            )
            call_rows = await _fetch(
                connection,
                select(calls).where(calls.c.session_id == session_id).order_by(calls.c.called_at, calls.c.id),
            )
        spans_of: dict[str, list[SpanRecord]] = {row["id"]: [] for row in found}
        calls_of: dict[str, list[ToolCallRecord]] = {row["id"]: [] for row in found}
        for row in span_rows:
            spans_of[row["turn_id"]].append(SpanRecord(name=row["name"], us=row["us"], hidden=row["hidden"]))
        # A call made while its turn was undecided knows only its reply.
        turn_of_reply = {row["reply_id"]: row["id"] for row in found if row["reply_id"]}
        for call in (_record(row, ToolCallRecord) for row in call_rows):
            turn_id = call.turn_id or turn_of_reply.get(call.reply_id)
            if turn_id in calls_of:
                calls_of[turn_id].append(call)
        return [TurnRecord(**row, spans=spans_of[row["id"]], tool_calls=calls_of[row["id"]]) for row in found]

    async def events(self, session_id: str, *, after_seq: int = 0, limit: int = 1000) -> list[EventRecord]:
        """At most `limit` events of a session in their order, from the one after `after_seq`."""
        columns = tables.events.c
        query = (
            select(tables.events)
            .where(columns.session_id == session_id, columns.seq > after_seq)
            .order_by(columns.seq)
            .limit(limit)
        )
        return await self._all(query, EventRecord)

    async def interruptions(self, session_id: str) -> list[InterruptionRecord]:
        """When the user spoke over the agent in a session, and what came of it, in their order."""
        columns = tables.interruptions.c
        query = select(tables.interruptions).where(columns.session_id == session_id).order_by(columns.seq)
        return await self._all(query, InterruptionRecord)

    async def messages(self, session_id: str) -> list[MessageRecord]:
        """The conversation of a session in its order."""
        columns = tables.messages.c
        query = select(tables.messages).where(columns.session_id == session_id).order_by(columns.seq)
        return await self._all(query, MessageRecord)

    async def _prepare(self, engine: AsyncEngine) -> None:
        if schema.is_memory(self._url):
            async with engine.connect() as connection:
                await connection.run_sync(schema.migrate)
            return
        status = await schema.check(self._url)
        embedded = self._url.get_backend_name() == "sqlite"
        if embedded and status.state in (SchemaState.EMPTY, SchemaState.BEHIND):
            before = status.revision
            status = await schema.upgrade(self._url)
            _log.info("The database schema was upgraded from %s to %s.", before or "empty", status.revision)
        if status.state is not SchemaState.CURRENT:
            raise schema.mismatch(status, self._url)

    async def _write(self, write: Write, row: tuple[Any, ...]) -> None:
        self._require_open()
        self.writer.put(write, row)
        await self.writer.flush()

    @property
    def clock(self) -> Clock:
        """The time that rows are stamped with."""
        return self._clock

    async def _one(self, query: Select[Any], kind: type[_T]) -> _T | None:
        rows = await self._all(query, kind)
        return rows[0] if rows else None

    async def _all(self, query: Select[Any], kind: type[_T]) -> list[_T]:
        async with self.reading() as connection:
            return [_record(row, kind) for row in await _fetch(connection, query)]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A connection whose changes are committed together at the end; for what operators change, now and then.

        Raises:
            StoreError: the database refused (`row_refused` where the values are to blame, a duplicate key for one).
        """
        engine = self._require_open()
        try:
            async with engine.connect() as connection:
                if connection.dialect.name == "sqlite":
                    # What is read in it must still be true when it writes.
                    await connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection
                await connection.commit()
        except (SQLAlchemyError, OSError) as error:
            raise store_error(error, self._url) from error

    @asynccontextmanager
    async def reading(self, *, flush: bool = True) -> AsyncIterator[AsyncConnection]:
        """A connection to read from, once what was recorded before is written (without `flush`: at once).

        Raises:
            StoreError: the database cannot be read.
        """
        engine = self._require_open()
        try:
            if flush:
                await self.writer.flush(_READ_FLUSH_S)
        except StoreError as error:
            # A database that cannot be written now can often still be read.
            _log.debug("reading without what waits to be written: %s", error)
        try:
            async with engine.connect() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            raise store_error(error, self._url) from error

    def _require_open(self) -> AsyncEngine:
        if self._engine is None:
            raise StoreError("The store is closed.", code="store_closed", retryable=False)
        return self._engine


async def _fetch(connection: AsyncConnection, query: Select[Any]) -> Sequence[RowMapping]:
    result = await connection.execute(query)
    rows: Sequence[RowMapping] = result.mappings().all()
    return rows


def _record(row: RowMapping, kind: type[_T]) -> _T:
    return msgspec.convert(row, kind)
