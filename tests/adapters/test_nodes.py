"""The processes on a database: each tells of itself while it runs, is lost when it does not, and then forgotten."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.adapters.conftest import running

from rejoinder import nodes as nodes_module
from rejoinder.nodes import cpu_s, rss_bytes
from rejoinder.store.nodes import NodeRecord, NodeRows
from rejoinder.store.store import Store

if TYPE_CHECKING:
    from tests.adapters.conftest import LiveServer, Serve


def nodes(server: LiveServer) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(server.http + "/v1/nodes").json()["items"]
    return found


def rows(path: Path) -> list[NodeRecord]:
    async def main() -> list[NodeRecord]:
        store = Store(f"sqlite+aiosqlite:///{path}")
        await store.open()
        try:
            return await NodeRows(store).all()
        finally:
            await store.close()

    return asyncio.run(main())


def test_a_process_tells_of_itself_until_it_stops(tmp_path: Path) -> None:
    with running(tmp_path / "own.db", {}) as server:
        (node,) = nodes(server)
        assert (node["id"], node["pid"], node["here"], node["lost"]) == (server.runtime.node, os.getpid(), True, False)
        stats = node["stats"]
        assert (stats["sessions"], stats["capacity"], stats["draining"]) == (0, 1000, False)
        assert stats["rss_bytes"] > 10_000_000
        assert "llm:scripted" in stats["loaded"]
        (row,) = rows(tmp_path / "own.db")
        assert row.id == server.runtime.node
        other = NodeRecord(
            id="node_other", host="b", pid=1, version="0.0.1", started_at=1, seen_at=2, stats={"of": "another release"}
        )
        now = server.runtime.clock.wall_ms()
        server.call(NodeRows(server.runtime.store).put(other, forget_before=0))
        first, second = nodes(server)
        assert (first["id"], first["lost"], first["here"]) == ("node_other", True, False)
        assert first["stats"]["sessions"] == 0
        assert second["here"]
        assert second["seen_at"] >= now
    assert [row.id for row in rows(tmp_path / "own.db")] == ["node_other"], "its own is removed at the end"


def test_two_processes_see_one_another(tmp_path: Path) -> None:
    with running(tmp_path / "own.db", {}) as one, running(tmp_path / "own.db", {}) as two:
        assert {node["id"] for node in nodes(one)} == {one.runtime.node, two.runtime.node}
        here = {node["id"]: node["here"] for node in nodes(two)}
        assert here == {one.runtime.node: False, two.runtime.node: True}
        assert not any(node["lost"] for node in nodes(two))


def test_it_goes_on_telling_and_forgets_those_who_are_long_gone(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes_module, "BEAT_S", 0.1)
    server = serve()
    table = NodeRows(server.runtime.store)
    now = server.runtime.clock.wall_ms()
    for name, seen in (("node_old", now - 90_000_000), ("node_lost", now - 40_000)):
        record = NodeRecord(id=name, host="b", pid=1, version="1", started_at=1, seen_at=seen, stats={})
        server.call(table.put(record, forget_before=0))
    until = time.monotonic() + 5
    while {row.id for row in server.call(table.all())} != {"node_lost", server.runtime.node}:
        assert time.monotonic() < until
        time.sleep(0.02)
    before = server.call(table.all())[-1].seen_at
    while server.call(table.all())[-1].seen_at == before:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert [node["lost"] for node in nodes(server)] == [True, False]


def test_cpu_and_memory_are_this_process(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    before = cpu_s()
    until = time.thread_time() + 0.2
    while time.thread_time() < until:
        pass
    assert cpu_s() - before > 0.1
    resident = rss_bytes()
    assert 10_000_000 < resident < 50_000_000_000
    monkeypatch.setattr(nodes_module, "_STATUS", Path("/nowhere"))
    assert 10_000_000 < rss_bytes() < 50_000_000_000, "also where the system has no /proc"


def test_the_loops_lag_is_of_the_last_minute(serve: Serve) -> None:
    server = serve()
    telemetry = server.runtime.telemetry
    telemetry._lags.clear()
    assert telemetry.lag_p99_ms() is None
    telemetry._lags.extend([0.001] * 119 + [0.5])
    assert telemetry.lag_p99_ms() == 1.0
    telemetry._lags.append(0.4)
    assert telemetry.lag_p99_ms() == 400.0
    telemetry._lags.extend([0.0] * 500)
    assert len(telemetry._lags) == 120
