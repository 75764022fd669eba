"""How long the panel's figures take over 200 000 turns of a week, and how long they hold up the event loop.

    python tests/benchmarks/figures.py [--turns 200000] [--database FILE]

Makes an SQLite database (about 350 MB; one that is there already is used as it is), asks each question a few times, and
prints JSON: ms of the fastest and the slowest time, the least CPU time, and the longest that a call would have had to
wait meanwhile (on a machine that does other things, too, also for those: compare it with "nothing").
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from rejoinder.metrics import SPANS
from rejoinder.store import history, schema
from rejoinder.store.asking import Asking
from rejoinder.store.figures import Scope, latency
from rejoinder.store.history import Filters
from rejoinder.store.overview import overview
from rejoinder.store.statements import Row, Write, compile_writes
from rejoinder.store.store import Store

T0, WEEK_MS = 1_700_000_000_000, 7 * 86_400_000
PER_SESSION = 10
ROUNDS = 3


def rows(turns: int) -> Iterator[tuple[Write, Row]]:
    """What `turns` turns of sessions of ten leave behind; some go badly."""
    chance = random.Random(1)
    for number in range(turns // PER_SESSION):
        session, at = f"ses_{number:026}", T0 + WEEK_MS * number * PER_SESSION // turns
        agent = chance.choice(["guide", "reception", "support"])
        yield Write.SESSION, (session, None, agent, chance.choice([None, 1, 2]), at, 16_000, 24_000, "websocket", "x")
        yield Write.SESSION_ENDED, (at + 120_000, "vad_failed" if number % 500 == 0 else "client_ended", session)
        if number % 100 == 0:
            yield Write.EVENT, (session, 1_000_000, at, "error", '{"type":"error","code":"no_words","message":"No."}')
        for turn in range(PER_SESSION):
            turn_id, when = f"turn_{number * PER_SESSION + turn:026}", at + turn * 8_000
            reply, asked = f"rep_{turn_id}", f"What about number {chance.randrange(10_000)}, please, if you can?"
            said = "It is about noon, the sun is high in the sky, and there is a table free at seven."
            yield Write.TURN, (turn_id, session, turn + 1, asked, when, reply)
            yield Write.TURN_FINISHED, (reply, said, said, "completed", 4000, False, turn_id)
            yield Write.MESSAGE, (session, turn_id, "user", asked, when, turn * 10 + 1)
            yield Write.MESSAGE, (session, turn_id, "assistant", said, when + 4000, turn * 10 + 2)
            early = chance.random() < 0.5
            parts = [(name, int(chance.lognormvariate(11.3, 0.6))) for name, _ in SPANS]
            parts = [(name, 0 if early and name in ("stt", "llm") else us) for name, us in parts]
            providers = {
                "vad": "silero",
                "stt": "moonshine",
                "llm": chance.choice(["guide", "openai"]),
                "tts": "hibari",
            }
            whole = sum(us for _, us in parts)
            yield Write.TURN_METRICS, (whole, 300, early, 0, 0, json.dumps(providers), "{}", turn_id)
            for position, (name, us) in enumerate(parts):
                yield Write.SPAN, (turn_id, position, name, us, us == 0)


def make(path: Path, turns: int) -> None:
    """Fill a database that is set up already."""
    statements = compile_writes(
        schema.make_engine(schema.parse_url(f"sqlite+aiosqlite:///{path}")).dialect, repeat=False
    )
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous=OFF")
    waiting: dict[Write, list[Row]] = {}

    def write() -> None:
        for kind in sorted(waiting):
            connection.executemany(statements[kind], waiting[kind])
        waiting.clear()

    for count, (kind, row) in enumerate(rows(turns)):
        waiting.setdefault(kind, []).append(row)
        if count % 100_000 == 0:
            write()
    write()
    connection.commit()
    connection.close()


class Lag:
    """The longest that the event loop was held up, in ms."""

    def __init__(self) -> None:
        self.longest_ms = 0.0

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.002)
            self.longest_ms = max(self.longest_ms, (time.perf_counter() - before) * 1000 - 2)


async def measure(path: Path, turns: int) -> dict[str, Any]:
    """Ask everything that the panel asks."""
    store = Store(f"sqlite+aiosqlite:///{path}")
    await store.open()
    asking = Asking(store, limit_s=60, shared_s=0)
    week, day = Scope(T0, T0 + WEEK_MS), Scope(T0 + WEEK_MS - 86_400_000, T0 + WEEK_MS)
    end = T0 + WEEK_MS
    questions: dict[str, Callable[[], Awaitable[Any]]] = {
        "nothing (a second)": lambda: asyncio.sleep(1),
        "latency, a week": lambda: latency(asking, week),
        "latency, a week, by agent": lambda: latency(asking, week, "agent"),
        "latency, a week, by llm": lambda: latency(asking, week, "llm"),
        "latency, a week, one agent": lambda: latency(asking, week._replace(agent="guide"), "llm"),
        "latency, a day, by agent": lambda: latency(asking, day, "agent"),
        "overview, a week": lambda: overview(asking, T0, end),
        "overview, a day": lambda: overview(asking, end - 86_400_000, end),
        "sessions": lambda: history.list_sessions(asking, Filters()),
        "sessions, slowest of a week": lambda: history.list_sessions(asking, Filters(since=T0), sort="slowest"),
        "sessions, bad ones of a week": lambda: history.list_sessions(asking, Filters(since=T0, bad=True)),
        "facets, a week": lambda: history.facets(asking, Filters(since=T0)),
        "facets, bad ones of a week": lambda: history.facets(asking, Filters(since=T0, bad=True)),
        "words that are frequent": lambda: history.search(asking, "noon"),
        "words that are nowhere": lambda: history.search(asking, "xyzzy"),
    }
    found = {}
    for name, ask in questions.items():
        times, cpu = [], []
        lag = Lag()
        watching = asyncio.create_task(lag.watch())
        for _ in range(ROUNDS):
            before, used = time.perf_counter(), time.process_time()
            await ask()
            times.append((time.perf_counter() - before) * 1000)
            cpu.append((time.process_time() - used) * 1000)
        watching.cancel()
        found[name] = {
            "n": ROUNDS,
            "fastest_ms": round(min(times)),
            "slowest_ms": round(max(times)),
            "cpu_ms": round(min(cpu)),
            "loop_held_up_ms": round(lag.longest_ms, 1),
        }
    await store.close()
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }
    return {"turns": turns, "spans": turns * len(SPANS), "machine": machine, "found": found}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=200_000)
    parser.add_argument("--database", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.database or Path(folder) / "figures.db"
        if not path.exists():
            asyncio.run(schema.upgrade(schema.parse_url(f"sqlite+aiosqlite:///{path}")))
            make(path, options.turns)
        print(json.dumps(asyncio.run(measure(path, options.turns)), indent=2))


if __name__ == "__main__":
    main()
