"""The store: what is recorded can be read back; databases that cannot be used say why."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from rejoinder import events
from rejoinder.errors import ConfigError, MissingDependency, SchemaMismatch, StoreError
from rejoinder.store import schema
from rejoinder.store.records import SpanRecord
from rejoinder.store.store import Store

MEMORY = "sqlite+aiosqlite:///:memory:"


def url_of(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


@asynccontextmanager
async def opened(url: str = MEMORY) -> AsyncIterator[Store]:
    store = Store(url)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def record(store: Store, session_id: str, *said: events.Event) -> None:
    for seq, event in enumerate(said, start=1):
        event.seq, event.at, event.session_id = seq, 1000 + seq, session_id
        store.recorder.on_event(session_id, event, events.encode(event))


def started(agent: str = "guide") -> events.SessionStarted:
    return events.SessionStarted(agent=agent, input_rate=16_000, output_rate=24_000)


def interruption(turn_id: str, accepted: bool, cause: str, words: str) -> events.Interruption:
    return events.Interruption(
        turn_id=turn_id, reply_id="r1", accepted=accepted, cause=cause, speech_ms=340, text=words
    )


def conversation() -> list[events.Event]:
    return [
        started(),
        events.ToolCalled(reply_id="r1", call_id="c1", name="clock", arguments="{}"),
        events.TurnCommitted(turn_id="t1", text="What time is it?"),
        events.ReplyStarted(turn_id="t1", reply_id="r1"),
        events.ToolReturned(reply_id="r1", call_id="c1", name="clock", status="ok", result="12:00"),
        events.TurnMetrics(
            turn_id="t1",
            reply_id="r1",
            response_us=700,
            spans=[events.Span("stt", 200), events.Span("llm", 0, True), events.Span("tts", 500)],
            jitter_us=3,
            speculated=True,
            saved_us=260,
            discarded=1,
            providers={"stt": "moonshine"},
        ),
        interruption("t1", False, "backchannel", "mm-hm"),
        interruption("t2", True, "stop_word", "wait"),
        events.ReplyFinished(
            turn_id="t1", reply_id="r1", reason="interrupted", text="It is noon.", heard_text="It is", played_ms=300
        ),
        events.SessionMetrics(turns=1, interruptions=1, false_interruptions={"backchannel": 1}),
        events.SessionEnded(reason="client_ended"),
    ]


@pytest.mark.parametrize("place", ["memory", "file"])
def test_a_conversation_can_be_read_back(place: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(MEMORY if place == "memory" else url_of(tmp_path / "test.db")) as store:
            record(store, "ses_1", *conversation())
            (turn,) = await store.turns("ses_1")
            assert (turn.user_text, turn.reply_text, turn.heard_text) == ("What time is it?", "It is noon.", "It is")
            assert turn.spans == [
                SpanRecord(name="stt", us=200, hidden=False),
                SpanRecord(name="llm", us=0, hidden=True),
                SpanRecord(name="tts", us=500, hidden=False),
            ]
            assert sum(span.us for span in turn.spans) == turn.response_us
            assert (turn.jitter_us, turn.speculated, turn.providers) == (3, True, {"stt": "moonshine"})
            assert (turn.saved_us, turn.discarded) == (260, 1)
            overheard, meant = await store.interruptions("ses_1")
            # What was no interruption belongs to no turn, and is kept all the same.
            assert (overheard.turn_id, overheard.accepted, overheard.cause, overheard.text) == (
                "t1",
                False,
                "backchannel",
                "mm-hm",
            )
            assert (meant.turn_id, meant.reply_id, meant.accepted, meant.speech_ms) == ("t2", "r1", True, 340)
            assert (meant.seq, meant.at) == (8, 1008)
            # The tool was called while the turn was undecided, and is found all the same.
            assert [(call.id, call.status, call.result) for call in turn.tool_calls] == [("c1", "ok", "12:00")]
            lines = [(line.role, line.content) for line in await store.messages("ses_1")]
            assert lines == [("user", "What time is it?"), ("assistant", "It is")]
            session = await store.session("ses_1")
            assert session is not None
            assert (session.agent, session.started_at, session.ended_at, session.end_reason) == (
                "guide",
                1001,
                1011,
                "client_ended",
            )
            assert session.metrics is not None
            assert set(session.metrics) == set(events.SessionMetrics.__struct_fields__) - {"seq", "at", "session_id"}
            assert (session.metrics["turns"], session.metrics["nudges"]) == (1, 0)
            assert session.metrics["false_interruptions"] == {"backchannel": 1}
            assert store.writer.rejected == 0

    asyncio.run(scenario())


def test_events_are_replayed_from_where_a_client_was(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened() as store:
            said = conversation()
            record(store, "ses_1", *said)
            replayed = [events.decode_event(row.data) for row in await store.events("ses_1", after_seq=2, limit=3)]
            assert replayed == said[2:5]
            assert await store.events("ses_1", after_seq=99) == []

    asyncio.run(scenario())


def test_what_is_not_there_is_none_or_empty() -> None:
    async def scenario() -> None:
        async with opened() as store:
            assert await store.session("ses_x") is None
            assert await store.room("room_x") is None
            assert await store.room_of_session("ses_x") is None
            assert await store.turns("ses_x") == []
            assert await store.interruptions("ses_x") == []

    asyncio.run(scenario())


def test_a_room_knows_its_session_and_the_session_its_room() -> None:
    async def scenario() -> None:
        async with opened() as store:
            room = await store.create_room("guide", "ses_1", ttl_s=60)
            assert room.expires_at - room.created_at == 60_000
            assert await store.room(room.id) == room
            store.recorder.join("ses_1", room.id)
            record(store, "ses_1", started())
            joined = await store.room_of_session("ses_1")
            assert joined is not None
            assert (joined.id, joined.session_id) == (room.id, "ses_1")
            session = await store.session("ses_1")
            assert session is not None
            assert session.room_id == room.id

    asyncio.run(scenario())


def test_sessions_are_listed_newest_first_in_pages() -> None:
    async def scenario() -> None:
        async with opened() as store:
            for number in range(1, 8):
                record(store, f"ses_{number}", started("guide" if number % 2 else "other"))
            first = await store.sessions(3)
            rest = await store.sessions(10, before=first[-1].id)
            assert [row.id for row in first + rest] == [f"ses_{number}" for number in range(7, 0, -1)]
            assert [row.id for row in await store.sessions(agent="other")] == ["ses_6", "ses_4", "ses_2"]

    asyncio.run(scenario())


def test_readers_of_a_memory_database_do_not_undo_what_is_being_written() -> None:
    async def scenario() -> None:
        engine = schema.make_engine(schema.parse_url(MEMORY))

        async def read() -> Any:
            async with engine.connect() as connection:
                return await connection.scalar(text("SELECT count(*) FROM t"))

        async with engine.connect() as connection:
            await connection.execute(text("CREATE TABLE t (x INTEGER)"))
            await connection.execute(text("INSERT INTO t VALUES (1)"))
            reader = asyncio.create_task(read())
            await asyncio.wait([reader], timeout=0.05)
            await connection.commit()
        assert await reader == 1
        assert await read() == 1
        await engine.dispose()

    asyncio.run(scenario())


def test_what_was_stored_is_there_after_opening_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(url_of(tmp_path / "test.db")) as store:
            record(store, "ses_1", *conversation())
        async with opened(url_of(tmp_path / "test.db")) as store:
            assert len(await store.events("ses_1")) == len(conversation())

    asyncio.run(scenario())
    # The log of writes was folded in by the last connection.
    assert [path.name for path in tmp_path.iterdir()] == ["test.db"]


def test_a_session_taken_up_again_is_one_session(tmp_path: Path) -> None:
    async def scenario() -> None:
        url = url_of(tmp_path / "test.db")
        async with opened(url) as store:
            record(store, "ses_1", started())
        async with opened(url) as store:
            again = started()
            again.seq, again.at, again.session_id = 2, 5000, "ses_1"
            store.recorder.on_event("ses_1", again, events.encode(again))
            assert len(await store.events("ses_1")) == 2
            assert store.writer.rejected == 0

    asyncio.run(scenario())


def test_closing_leaves_no_thread_and_no_descriptor(tmp_path: Path) -> None:
    others = set(threading.enumerate())

    def held() -> tuple[set[threading.Thread], int]:
        for thread in set(threading.enumerate()) - others:
            # A driver's thread says that it is done a moment before it is gone.
            thread.join(5)
        return set(threading.enumerate()) - others, len(os.listdir("/proc/self/fd"))

    async def once(store: Store) -> None:
        await store.open()
        record(store, "ses_1", started())
        await asyncio.gather(*(store.sessions() for _ in range(5)))
        await store.close()
        await store.close()

    async def scenario() -> None:
        await once(Store(url_of(tmp_path / "first.db")))
        before = held()
        for number in range(20):
            await once(Store(url_of(tmp_path / f"{number}.db") if number % 2 else MEMORY))
        assert held() == before
        assert before[0] == set()

    asyncio.run(scenario())


def test_failing_to_open_leaves_no_thread_and_no_descriptor(tmp_path: Path) -> None:
    async def scenario() -> None:
        before = threading.active_count(), len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with pytest.raises(StoreError):
                await Store(url_of(tmp_path / "absent" / "test.db")).open()
        assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before

    asyncio.run(scenario())


def test_a_directory_that_is_not_there_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "test.db"
    with pytest.raises(StoreError, match="cannot be opened") as caught:
        asyncio.run(Store(url_of(path)).open())
    assert str(path) in caught.value.message
    assert "directory" in (caught.value.fix or "")


async def _opened(url: str) -> None:
    store = Store(url)
    await store.open()
    await store.close()


def test_an_unwritable_directory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "closed" / "test.db"
    path.parent.mkdir(mode=0o555)
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        if parent != Path(tempfile.gettempdir()):
            parent.chmod(0o755)
    # What is imported late is imported now: nobody may not read everything.
    asyncio.run(_opened(url_of(tmp_path / "open.db")))
    root = os.geteuid() == 0
    if root:
        # Root may write everywhere, so be nobody for a moment.
        os.seteuid(65534)
    try:
        with pytest.raises(StoreError, match="cannot be opened"):
            asyncio.run(Store(url_of(path)).open())
    finally:
        if root:
            os.seteuid(0)


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary, " * 200)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not an SQLite database") as caught:
        asyncio.run(Store(url_of(path)).open())
    assert not caught.value.retryable
    assert path.read_bytes() == before


def test_a_read_only_database_can_be_read_and_says_why_it_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "test.db"

    async def scenario() -> None:
        async with opened(url_of(path)) as store:
            record(store, "ses_1", started())
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
        async with opened(f"sqlite+aiosqlite:///file:{path}?mode=ro&uri=true") as store:
            assert await store.session("ses_1") is not None
            record(store, "ses_2", started())
            with pytest.raises(StoreError, match="read-only") as caught:
                await store.writer.flush(0.3)
            assert "right" in (caught.value.fix or "")
            assert store.writer.health()[0] is False

    asyncio.run(scenario())


FULL_DISK = """
import asyncio, resource, signal, sys
from pathlib import Path
from typing import Any
from rejoinder.errors import StoreError
from rejoinder.store.statements import Write
from rejoinder.store.store import Store

path = Path(sys.argv[1])

async def main():
    store = Store(f"sqlite+aiosqlite:///{path}")
    await store.open()
    store.writer.put(Write.SESSION, ("ses_1", None, "guide", None, 1, 2, 3, None, None))
    store.writer.put(Write.EVENT, ("ses_1", 1, 1, "error", "first"))
    await store.writer.flush()
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path(f"{path}-wal").stat().st_size + 8192, hard))
    for seq in range(2, 402):
        store.writer.put(Write.EVENT, ("ses_1", seq, seq, "error", "x" * 500))
    try:
        await store.writer.flush(1.0)
    except StoreError as error:
        print(error.explain())
    ok, error = store.writer.health()
    assert not ok and error is not None and store.writer.waiting == 400, (ok, error, store.writer.waiting)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await store.writer.flush()
    assert store.writer.health() == (True, None)
    assert (store.writer.dropped, store.writer.rejected) == (0, 0)
    rows = await store.events("ses_1")
    assert [row.seq for row in rows] == list(range(1, 402)), len(rows)
    await store.close()

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
asyncio.run(main())
"""


def test_a_full_disk_loses_nothing_once_there_is_room_again(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "test.db")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "Cannot use the database" in done.stdout
    assert "space" in done.stdout


def test_a_newer_schema_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "test.db"

    async def scenario() -> None:
        async with opened(url_of(path)):
            pass
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
        with pytest.raises(SchemaMismatch, match="9999") as caught:
            await Store(url_of(path)).open()
        assert caught.value.fix == "pip install --upgrade rejoinder"

    asyncio.run(scenario())


def test_tables_of_another_program_are_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE sessions (theirs TEXT)")
    with pytest.raises(SchemaMismatch, match="did not make"):
        asyncio.run(Store(url_of(path)).open())


@pytest.mark.parametrize("url", ["rubbish", "sqlite:///test.db", "nosql+driver://host/db"])
def test_a_url_that_cannot_work_is_refused_with_examples(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        asyncio.run(Store(url).open())
    assert "sqlite+aiosqlite:///" in (caught.value.fix or "")


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(MissingDependency) as caught:
        asyncio.run(Store("postgresql+asyncpg://user:secret@host/db").open())
    assert caught.value.fix == "pip install 'rejoinder[postgres]'"
    assert "secret" not in caught.value.explain()


def test_using_a_closed_store_is_a_clear_error() -> None:
    with pytest.raises(StoreError, match="closed"):
        asyncio.run(Store(MEMORY).sessions())


def test_a_password_in_the_query_of_the_url_is_not_shown() -> None:
    from rejoinder.store.failures import place
    from rejoinder.store.schema import parse_url

    shown = place(parse_url("sqlite+aiosqlite:///x.db").set(drivername="mysql", query={"password": "s3cret"}))
    assert "s3cret" not in shown


def test_what_is_there_can_be_read_while_another_process_holds_the_write_lock(tmp_path: Path) -> None:
    path = tmp_path / "test.db"

    async def scenario() -> None:
        async with opened(url_of(path)) as store:
            record(store, "ses_1", started())
            await store.writer.flush()
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                record(store, "ses_2", started())
                session = await store.session("ses_1")
                assert session is not None
                assert await store.session("ses_2") is None
                other.execute("ROLLBACK")
            await store.writer.flush()
            assert await store.session("ses_2") is not None

    asyncio.run(scenario())
