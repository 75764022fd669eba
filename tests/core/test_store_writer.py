"""The writer: batches, outages, bad rows and bounds."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rejoinder.errors import StoreError
from rejoinder.store import schema
from rejoinder.store.statements import Row, Write
from rejoinder.store.writer import Writer

SESSION: Row = ("ses_1", None, "guide", None, 1, 16_000, 24_000, None, None)


def message(seq: int, session_id: str = "ses_1") -> Row:
    return (session_id, None, "user", f"text {seq}", seq, seq)


def an_event(seq: int, kind: str = "reply.text", data: str = "{}") -> Row:
    return ("ses_1", seq, seq, kind, data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


@asynccontextmanager
async def writing(path: Path, capacity: int = 20_000) -> AsyncIterator[tuple[Writer, AsyncEngine]]:
    """A started writer on a fresh database that does not wait for locks."""
    url = schema.parse_url(f"sqlite+aiosqlite:///{path}")
    await schema.upgrade(url)
    engine = schema.make_engine(url)

    @event.listens_for(engine.sync_engine, "connect")
    def impatient(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout=0")
        cursor.close()

    writer = Writer(engine, capacity=capacity)
    writer.start()
    writer.put(Write.SESSION, SESSION)
    await writer.flush()
    try:
        yield writer, engine
    finally:
        await writer.close(0.5)
        await engine.dispose()


def rows(path: Path, query: str) -> list[Any]:
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute(query)]
    finally:
        connection.close()


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Another connection holds the lock for writing."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - a writer has no event for its health
            await asyncio.sleep(0.005)


async def until_failing(writer: Writer) -> None:
    await until(lambda: not writer.health()[0])


def test_what_is_put_together_is_one_transaction_in_order(path: Path) -> None:
    async def scenario() -> None:
        async with writing(path) as (writer, engine):
            commits: list[object] = []
            event.listen(engine.sync_engine, "commit", commits.append)
            for seq in range(1, 201):
                writer.put(Write.MESSAGE, message(seq))
                writer.put(Write.EVENT, an_event(seq))
            await writer.flush()
            assert len(commits) == 1
            assert writer.waiting == 0
        assert rows(path, "SELECT seq FROM messages ORDER BY id") == list(range(1, 201))
        assert rows(path, "SELECT count(*) FROM events") == [200]

    asyncio.run(scenario())


def test_rows_are_written_without_a_flush(path: Path) -> None:
    async def scenario() -> None:
        async with writing(path) as (writer, _):
            writer.put(Write.MESSAGE, message(1))
            await until(lambda: not writer.waiting)
            assert rows(path, "SELECT seq FROM messages") == [1]

    asyncio.run(scenario())


def test_an_update_finds_the_row_that_was_put_before_it_in_the_same_batch(path: Path) -> None:
    async def scenario() -> None:
        async with writing(path) as (writer, _):
            writer.put(Write.TURN, ("t1", "ses_1", 1, "Hi.", 1, None))
            writer.put(Write.TURN_REPLY, ("r1", "t1"))
            writer.put(Write.SESSION_ENDED, (9, "client_ended", "ses_1"))
            await writer.flush()
        assert rows(path, "SELECT reply_id FROM turns") == ["r1"]
        assert rows(path, "SELECT end_reason FROM sessions") == ["client_ended"]

    asyncio.run(scenario())


def test_a_locked_database_is_reported_and_what_waited_is_written_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with writing(path) as (writer, _):
            async with locked(path):
                for seq in range(1, 51):
                    writer.put(Write.MESSAGE, message(seq))
                await until_failing(writer)
                with pytest.raises(StoreError, match="locked") as caught:
                    await writer.flush(0.01)
                assert caught.value.retryable
                assert caught.value.fix
                assert writer.waiting == 50
                writer.put(Write.MESSAGE, message(51))
            await writer.flush()
            assert writer.health() == (True, None)
            assert (writer.dropped, writer.rejected) == (0, 0)
        assert rows(path, "SELECT seq FROM messages ORDER BY id") == list(range(1, 52))

    asyncio.run(scenario())
    assert sum("Cannot store" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("bad", [[0], [6], [3, 4], [0, 1, 2, 3, 4, 5, 6]])
def test_a_bad_row_is_taken_out_and_named_and_the_rest_is_written(
    path: Path, caplog: pytest.LogCaptureFixture, bad: list[int]
) -> None:
    async def scenario() -> None:
        async with writing(path) as (writer, _):
            for seq in range(7):
                writer.put(Write.MESSAGE, message(seq, "nobody" if seq in bad else "ses_1"))
            await writer.flush()
            assert writer.rejected == len(bad)
            assert writer.health() == (True, None)
        assert rows(path, "SELECT seq FROM messages ORDER BY id") == [seq for seq in range(7) if seq not in bad]

    asyncio.run(scenario())
    named = [record.message for record in caplog.records if record.message.startswith("Not stored")]
    assert len(named) == len(bad)
    assert f"messages (session_id='nobody', turn_id=None, seq={bad[0]})" in named[0]
    assert "text" not in "".join(named)


@pytest.mark.parametrize("value", ["\ud800", 1 << 70, object()], ids=["surrogate", "too large", "no SQL type"])
def test_a_value_the_driver_cannot_take_is_a_bad_row(path: Path, value: object) -> None:
    async def scenario() -> None:
        async with writing(path) as (writer, _):
            writer.put(Write.MESSAGE, ("ses_1", None, "user", value, 1, 1))
            writer.put(Write.MESSAGE, message(2))
            await writer.flush()
            assert writer.rejected == 1
        assert rows(path, "SELECT seq FROM messages") == [2]

    asyncio.run(scenario())


def test_a_commit_whose_answer_was_lost_is_not_repeated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = AsyncConnection.commit
    lost: list[bool] = []

    async def commit_and_lose(self: AsyncConnection) -> None:
        await commit(self)
        if not lost:
            lost.append(True)
            raise OperationalError("COMMIT", None, sqlite3.OperationalError("connection lost"))

    async def scenario() -> None:
        async with writing(path) as (writer, _):
            monkeypatch.setattr(AsyncConnection, "commit", commit_and_lose)
            for seq in range(1, 11):
                writer.put(Write.MESSAGE, message(seq))
            await until_failing(writer)
            writer.put(Write.MESSAGE, message(11))
            await writer.flush()
            assert writer.rejected == 0
        assert rows(path, "SELECT seq FROM messages ORDER BY id") == list(range(1, 12))

    asyncio.run(scenario())


def test_rows_that_came_during_a_failed_attempt_stay_behind_those_of_it(path: Path) -> None:
    async def scenario() -> None:
        async with writing(path) as (writer, engine):

            @event.listens_for(engine.sync_engine, "before_cursor_execute", once=True)
            def fail(_1: object, _2: object, statement: str, *_: object) -> None:
                writer.put(Write.MESSAGE, message(3))
                raise OperationalError(statement, None, sqlite3.OperationalError("disk I/O error"))

            writer.put(Write.MESSAGE, message(1))
            writer.put(Write.MESSAGE, message(2))
            await writer.flush()
        assert rows(path, "SELECT seq FROM messages ORDER BY id") == [1, 2, 3]

    asyncio.run(scenario())


def test_a_number_given_twice_is_not_silently_swallowed(path: Path) -> None:
    async def scenario() -> None:
        async with writing(path) as (writer, _):
            writer.put(Write.EVENT, an_event(1))
            writer.put(Write.EVENT, an_event(1, "error"))
            await writer.flush()
            assert writer.rejected == 1

    asyncio.run(scenario())


def test_over_its_bound_the_oldest_streamed_text_goes_first(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with writing(path, capacity=100) as (writer, _):
            async with locked(path):
                writer.put(Write.EVENT, an_event(1, "turn.committed"))
                for seq in range(1, 31):
                    writer.put(Write.MESSAGE, message(seq))
                    writer.put(Write.EVENT, an_event(2 * seq))
                    writer.put(Write.EVENT, an_event(2 * seq + 1, "user.transcript", '{"final":true}'))
                await until_failing(writer)
                for seq in range(100, 200):
                    writer.put(Write.EVENT, an_event(seq))
                assert writer.waiting <= 100
                assert writer.dropped >= 90
            await writer.flush()
        assert rows(path, "SELECT count(*) FROM messages") == [30]
        assert rows(path, "SELECT count(*) FROM events WHERE type = 'user.transcript'") == [30]
        assert rows(path, "SELECT seq FROM events WHERE type = 'turn.committed'") == [1]
        kept = rows(path, "SELECT seq FROM events WHERE type = 'reply.text' ORDER BY seq")
        assert kept[-1] == 199
        assert len(kept) <= 40

    asyncio.run(scenario())
    assert sum("cannot keep up" in record.message for record in caplog.records) == 1


def test_with_no_event_left_to_drop_new_rows_are_refused(path: Path) -> None:
    async def scenario() -> None:
        async with writing(path, capacity=100) as (writer, _):
            async with locked(path):
                for seq in range(300):
                    writer.put(Write.MESSAGE, message(seq))
                assert writer.waiting == 100
                assert writer.dropped == 200
            await writer.flush()
        assert rows(path, "SELECT seq FROM messages ORDER BY id") == list(range(100))

    asyncio.run(scenario())


def test_more_than_one_batch_is_flushed_to_the_end(path: Path) -> None:
    async def scenario() -> None:
        async with writing(path) as (writer, _):
            for seq in range(1, 7001):
                writer.put(Write.EVENT, an_event(seq))
            await writer.flush()
            assert rows(path, "SELECT count(*) FROM events") == [7000]

    asyncio.run(scenario())


def test_closing_writes_what_waits_and_closing_again_is_harmless(path: Path) -> None:
    async def scenario() -> None:
        async with writing(path) as (writer, _):
            writer.put(Write.MESSAGE, message(1))
            await writer.close()
            await writer.close()
            writer.put(Write.MESSAGE, message(2))
            assert writer.dropped == 1
            with pytest.raises(StoreError, match="closed"):
                await writer.flush()
        assert rows(path, "SELECT seq FROM messages") == [1]

    asyncio.run(scenario())


def test_closing_during_an_outage_ends_and_says_how_much_was_lost(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with writing(path) as (writer, _), locked(path):
            for seq in range(5):
                writer.put(Write.MESSAGE, message(seq))
            await writer.close(0.05)
            assert writer.dropped == 5
            assert writer.waiting == 0

    with caplog.at_level(logging.ERROR):
        asyncio.run(scenario())
    assert any("5 rows were not stored" in record.message for record in caplog.records)


def a_request(reply: str, size: int = 10) -> Row:
    return (reply, 0, "ses_1", None, 1, "guide", "x" * size, "[]", 300, 0.3)


def test_when_it_is_full_the_oldest_requests_to_llms_go_first(path: Path) -> None:
    async def scenario() -> None:
        async with writing(path, capacity=20) as (writer, engine):
            for number in range(10):
                writer.put(Write.LLM_REQUEST, a_request(f"r{number}"))
            for seq in range(1, 11):
                writer.put(Write.EVENT, an_event(seq))
            assert (writer.waiting, writer.dropped) == (20, 0)
            writer.put(Write.EVENT, an_event(11))
            assert (writer.waiting, writer.dropped) == (19, 2)
            await writer.flush()
            async with engine.connect() as connection:
                kept = (await connection.exec_driver_sql("SELECT reply_id FROM llm_requests")).scalars().all()
                count = await connection.scalar(text("SELECT count(*) FROM events"))
            assert sorted(kept) == [f"r{number}" for number in range(2, 10)]
            assert count == 11

    asyncio.run(scenario())


def test_requests_to_llms_take_only_so_much_memory(path: Path) -> None:
    async def scenario() -> None:
        async with writing(path) as (writer, _):
            for number in range(20):
                writer.put(Write.LLM_REQUEST, a_request(f"r{number}", 1_000_000))
            assert (writer.waiting, writer.dropped) == (16, 4)
            for number in range(600):
                writer.put(Write.LLM_REQUEST, a_request(f"s{number}"))
            assert writer.waiting <= 500
            await writer.flush()
            assert writer.waiting == 0
            assert writer.rejected == 0

    asyncio.run(scenario())
