"""Figures of latency: exact percentiles, slots of time, a heatmap and stages, from the rows of turns and spans.

A percentile is the nearest rank: of `n` values in order the one at `ceil(p * n)`. The database reads the rows and hands
the bare numbers over in one piece per column; they are put in order in a thread (a window function gives the same, and
takes several times as long: `docs/how-to/latency.md` has it for whoever wants to check).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Select, String, case, cast, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from rejoinder.metrics import SPANS
from rejoinder.store.asking import Asking
from rejoinder.store.records import SpanRecord
from rejoinder.store.tables import sessions, spans, turns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]

P = TypeVar("P", bound="Percentiles")
Group = Literal["agent", "stt", "llm", "tts", "version"]

P95_FROM, P99_FROM = 20, 100
"""A percentile of fewer values says nothing: it is None."""
MOST_SLOTS = 120
_SECOND, _MINUTE, _HOUR = 1000, 60_000, 3_600_000
_SLOTS_MS = (
    *(n * _SECOND for n in (1, 2, 5, 10, 15, 30)),
    *(n * _MINUTE for n in (1, 2, 5, 10, 15, 30)),
    *(n * _HOUR for n in (1, 2, 3, 6, 12, 24)),
)
EDGES_US = (*(round(20_000 * 1.25**n) for n in range(36)), 60_000_000)
"""Upper edges of the heatmap's buckets; the last bucket, behind them, is open."""
_SLOWEST = 20
_MOST_GROUPS = 50
_TURN_BITS = 40
"""A number for a turn holds its slot and, in so many bits, its response time."""
_PIECE = 200_000
"""Characters of numbers that are read at once: that takes about a ms."""
_MASK = (1 << _TURN_BITS) - 1


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Nearest-rank percentiles of `n` times in us; `p95_us` is None if there are fewer than 20, `p99_us` than 100."""

    n: int
    p50_us: int | None
    p95_us: int | None
    p99_us: int | None


class Slot(Percentiles, frozen=True, kw_only=True):
    """The turns that were committed in the time that begins at `at` (Unix ms)."""

    at: int


class Stage(Percentiles, frozen=True, kw_only=True):
    """One kind of span; `hidden` of the `n` were over before the stage in front of them, and count as 0."""

    name: str
    hidden: int


class Grouped(Percentiles, frozen=True, kw_only=True):
    """The turns that have something in common."""

    value: str


class Heatmap(msgspec.Struct, frozen=True, kw_only=True):
    """How often which response time: `cells` are (slot, bucket, n); a bucket reaches to its edge, inclusively."""

    edges_us: tuple[int, ...]
    cells: list[tuple[int, int, int]]


class SlowTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A turn that took long."""

    session_id: str
    turn_id: str
    number: int
    agent: str
    at: int
    response_us: int
    user_text: str | None
    spans: list[SpanRecord]
    providers: dict[str, str] | None


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Response times of the turns that were committed from `since` on and before `until` (Unix ms)."""

    since: int
    until: int
    slot_ms: int
    all: Percentiles
    slots: list[Slot]
    heatmap: Heatmap
    stages: list[Stage]
    groups: list[Grouped]
    slowest: list[SlowTurn]


class Scope(NamedTuple):
    """Which turns: committed from `since` on and before `until` (Unix ms), with `agent`, by `provider` (kind, name)."""

    since: int
    until: int
    agent: str | None = None
    provider: tuple[str, str] | None = None


def slot_length(span_ms: int) -> int:
    """How long (ms) the slots are, at most 120, into which `span_ms` is cut."""
    return next((ms for ms in _SLOTS_MS if span_ms <= ms * MOST_SLOTS), -(-span_ms // MOST_SLOTS))


async def latency(asking: Asking, scope: Scope, group: Group | None = None) -> Latency:
    """The figures of `scope`; those who ask the same share the answer for 2 s.

    Raises:
        StoreError: as `Asking.reading`.
    """

    async def work() -> Latency:
        slot_ms = slot_length(scope.until - scope.since)
        async with asking.reading() as connection:
            packed = await _packed_turns(connection, scope, slot_ms, group)
            stage_rows = await _packed_spans(connection, scope)
            slowest = await slowest_turns(connection, scope, _SLOWEST)
        return await asyncio.to_thread(_latency, scope, slot_ms, packed, stage_rows, slowest, group)

    return await asking.shared(("latency", scope, group), work)


# -- what is asked


def measured(scope: Scope, query: Select[Any], *, joined: bool = False) -> Select[Any]:
    """`query` over `turns`, for the measured ones of `scope` (`joined`: it is over `sessions`, too)."""
    columns = turns.c
    query = query.where(
        columns.committed_at >= literal(scope.since, BigInteger),
        columns.committed_at < literal(scope.until, BigInteger),
        columns.response_us.is_not(None),
    )
    if scope.agent is not None:
        if not joined:
            query = query.join(sessions, sessions.c.id == columns.session_id)
        query = query.where(sessions.c.agent == scope.agent)
    if scope.provider is not None:
        kind, name = scope.provider
        query = query.where(columns.providers[kind].as_string() == name)
    return query


def packed(scope: Scope, slot_ms: int) -> ColumnElement[int]:
    """A turn as one number: which slot it is in, and its response time."""
    slot = (turns.c.committed_at - literal(scope.since, BigInteger)) // literal(slot_ms, BigInteger)
    return slot * literal(1 << _TURN_BITS, BigInteger) + turns.c.response_us


def joined_numbers(number: ColumnElement[int], where: ColumnElement[bool] | None = None) -> ColumnElement[str]:
    """All of `number` (where ...) in one text, with commas."""
    text = func.aggregate_strings(cast(number, String), ",")
    return text if where is None else text.filter(where)


async def _packed_turns(
    connection: AsyncConnection, scope: Scope, slot_ms: int, group: Group | None
) -> list[tuple[str, str]]:
    """The numbers of all turns, by what they have in common."""
    numbers = joined_numbers(packed(scope, slot_ms))
    by: tuple[ColumnElement[Any], ...] = ()
    if group in ("agent", "version"):
        by = (sessions.c.agent, *((sessions.c.agent_version,) if group == "version" else ()))
        query = select(numbers, *by).select_from(turns.join(sessions, sessions.c.id == turns.c.session_id))
    else:
        by = (turns.c.providers[group].as_string(),) if group else ()
        query = select(numbers, *by).select_from(turns)
    query = measured(scope, query, joined=group in ("agent", "version")).group_by(*by)
    rows = (await connection.execute(query)).all()
    return [(_value(row[1:]), row[0]) for row in rows if row[0]]


def _value(parts: Sequence[Any]) -> str:
    """What a group is called: an agent of a stored version `reception v3`."""
    name = str(parts[0] or "") if parts else ""
    return f"{name} v{parts[1]}" if len(parts) > 1 and parts[1] is not None else name


async def _packed_spans(connection: AsyncConnection, scope: Scope) -> list[tuple[str, str]]:
    """Twice the length of each span, and one more if it is hidden, by its name."""
    number = spans.c.us * 2 + case((spans.c.hidden, 1), else_=0)
    names = [name for name, _ in SPANS]
    columns: list[Any] = [joined_numbers(number, spans.c.name == name) for name in names]
    query = select(*columns).select_from(turns.join(spans, spans.c.turn_id == turns.c.id))
    row = (await connection.execute(measured(scope, query))).one()
    return [(name, text) for name, text in zip(names, row, strict=True) if text]


async def slowest_turns(connection: AsyncConnection, scope: Scope, limit: int) -> list[SlowTurn]:
    """The `limit` slowest turns of `scope`, the slowest first, each with its spans."""
    slow = measured(scope, select(turns.c.id)).order_by(turns.c.response_us.desc(), turns.c.id.desc()).limit(limit)
    ids = (await connection.execute(slow)).scalars().all()
    if not ids:
        return []
    about = (turns, sessions.c.agent)
    found = select(*about).join(sessions, sessions.c.id == turns.c.session_id).where(turns.c.id.in_(ids))
    rows = {row["id"]: row for row in (await connection.execute(found)).mappings()}
    parts: dict[str, list[SpanRecord]] = {turn_id: [] for turn_id in ids}
    query = select(spans).where(spans.c.turn_id.in_(ids)).order_by(spans.c.turn_id, spans.c.position)
    for row in (await connection.execute(query)).mappings():
        parts[row["turn_id"]].append(SpanRecord(name=row["name"], us=row["us"], hidden=row["hidden"]))
    return [
        SlowTurn(
            session_id=row["session_id"],
            turn_id=turn_id,
            number=row["number"],
            agent=row["agent"],
            at=row["committed_at"],
            response_us=row["response_us"],
            user_text=row["user_text"],
            spans=parts[turn_id],
            providers=row["providers"],
        )
        for turn_id, row in ((turn_id, rows[turn_id]) for turn_id in ids)
    ]


# -- what is made of it, in a thread


def numbers_of(text: str) -> Numbers:
    """The numbers in what `joined_numbers` gave."""
    import numpy as np

    parts = []
    start = 0
    # In pieces, between which other threads may run: the one with the calls above all.
    while start < len(text):
        end = text.find(",", start + _PIECE)
        end = len(text) if end < 0 else end
        parts.append(np.array(msgspec.json.decode(f"[{text[start:end]}]", type=list[int]), dtype=np.int64))
        start = end + 1
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])


def percentiles(kind: type[P], ordered: Numbers, **more: Any) -> P:
    """The percentiles of times in rising order, with `more` fields."""
    n = len(ordered)

    def at(percent: int, least: int) -> int | None:
        # ceil(p * n) in whole numbers, counted from 1.
        return int(ordered[(n * percent + 99) // 100 - 1]) if n >= least else None

    return kind(n=n, p50_us=at(50, 1), p95_us=at(95, P95_FROM), p99_us=at(99, P99_FROM), **more)


def response_times(packed_turns: Numbers) -> Numbers:
    """The response times of packed turns, in rising order."""
    import numpy as np

    times: Numbers = np.sort(packed_turns & _MASK)
    return times


def slots_of(ordered: Numbers, scope: Scope, slot_ms: int) -> list[Slot]:
    """All slots of `scope`, empty ones too, from packed turns in rising order."""
    import numpy as np

    count = -(-(scope.until - scope.since) // slot_ms)
    ends = np.searchsorted(ordered, np.arange(1, count + 1, dtype=np.int64) << _TURN_BITS)
    starts = [0, *ends[:-1]]
    times = ordered & _MASK
    return [
        percentiles(Slot, times[start:end], at=scope.since + number * slot_ms)
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def _latency(
    scope: Scope,
    slot_ms: int,
    packed_turns: Iterable[tuple[str, str]],
    packed_spans: Iterable[tuple[str, str]],
    slowest: list[SlowTurn],
    group: Group | None,
) -> Latency:
    import numpy as np

    by_group: dict[str, Numbers] = {}
    for value, text in packed_turns:
        numbers = numbers_of(text)
        by_group[value] = np.concatenate([by_group[value], numbers]) if value in by_group else numbers
    ordered = np.sort(np.concatenate([np.empty(0, dtype=np.int64), *by_group.values()]))
    groups = [percentiles(Grouped, response_times(part), value=value) for value, part in by_group.items()]
    groups.sort(key=lambda one: (-one.n, one.value))
    stages = []
    for name, text in packed_spans:
        numbers = numbers_of(text)
        hidden = int((numbers & 1).sum())
        stages.append(percentiles(Stage, np.sort(numbers >> 1), name=name, hidden=hidden))
    return Latency(
        since=scope.since,
        until=scope.until,
        slot_ms=slot_ms,
        all=percentiles(Percentiles, response_times(ordered)),
        slots=slots_of(ordered, scope, slot_ms),
        heatmap=Heatmap(edges_us=EDGES_US, cells=_cells(ordered)),
        stages=stages,
        groups=groups[:_MOST_GROUPS] if group else [],
        slowest=slowest,
    )


def _cells(ordered: Numbers) -> list[tuple[int, int, int]]:
    """Where turns fall by slot and bucket."""
    import numpy as np

    bucket = np.searchsorted(np.array(EDGES_US), ordered & _MASK, side="left")
    width = len(EDGES_US) + 1
    found, counts = np.unique((ordered >> _TURN_BITS) * width + bucket, return_counts=True)
    return [(int(cell) // width, int(cell) % width, int(n)) for cell, n in zip(found, counts, strict=True)]
