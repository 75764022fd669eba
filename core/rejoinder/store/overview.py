"""The overview: how a range of time was, beside the one before it, and which sessions went badly, and why."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import msgspec
from sqlalchemy import BigInteger, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from rejoinder.store.asking import Asking
from rejoinder.store.figures import (
    Percentiles,
    Scope,
    Slot,
    joined_numbers,
    measured,
    numbers_of,
    packed,
    percentiles,
    response_times,
    slot_length,
    slots_of,
)
from rejoinder.store.history import BAD_ENDS, MANY_INTERRUPTIONS, SLOW_US, Filters, SessionRow, with_figures
from rejoinder.store.tables import events, is_error, sessions, spans, turns

_BAD = 10
_MOST_EVENTS = 200
_KINDS = {"llm": "LLM", "stt": "STT", "tts": "TTS"}


class OverviewPart(msgspec.Struct, frozen=True, kw_only=True):
    """What began in a range of time: `sessions`, `turns` of users, `response` times, `errors` that were told.

    `interrupted` counts turns whose answer the user stopped.
    """

    sessions: int
    turns: int
    response: Percentiles
    errors: int
    interrupted: int


class BadSession(SessionRow, frozen=True, kw_only=True):
    """A session that went badly, and `why`, in a sentence."""

    why: str


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The range from `since` to `until` (Unix ms), and the one of the same length `before` it."""

    since: int
    until: int
    now: OverviewPart
    before: OverviewPart
    bad: list[BadSession]
    slots: list[Slot]
    slot_ms: int


async def overview(asking: Asking, since: int, until: int) -> Overview:
    """The overview of that range; those who ask the same share the answer for 2 s.

    Raises:
        StoreError: as `Asking.reading`.
    """

    async def work() -> Overview:
        slot_ms = slot_length(until - since)
        scopes = [Scope(since, until), Scope(2 * since - until, since)]
        async with asking.reading() as connection:
            counts = [await _counts(connection, scope) for scope in scopes]
            texts = []
            for scope in scopes:
                query = measured(scope, select(joined_numbers(packed(scope, slot_ms))))
                texts.append(await connection.scalar(query))
            bad = await _bad_sessions(connection, since, until)

        def make() -> Overview:
            numbers = [numbers_of(text or "") for text in texts]
            for one in numbers:
                one.sort()
            parts = [
                OverviewPart(response=percentiles(Percentiles, response_times(one)), **count)
                for one, count in zip(numbers, counts, strict=True)
            ]
            return Overview(
                since=since,
                until=until,
                now=parts[0],
                before=parts[1],
                bad=bad,
                slots=slots_of(numbers[0], scopes[0], slot_ms),
                slot_ms=slot_ms,
            )

        return await asyncio.to_thread(make)

    return await asking.shared(("overview", since, until), work)


async def _counts(connection: AsyncConnection, scope: Scope) -> dict[str, int]:
    since, until = literal(scope.since, BigInteger), literal(scope.until, BigInteger)
    started = sessions.c.started_at
    began = await connection.scalar(select(func.count()).where(started >= since, started < until))
    at = turns.c.committed_at
    stopped = func.count().filter(turns.c.reply_reason == "interrupted")
    spoken, interrupted = (
        await connection.execute(select(func.count(turns.c.user_text), stopped).where(at >= since, at < until))
    ).one()
    told = await connection.scalar(select(func.count()).where(is_error, events.c.at >= since, events.c.at < until))
    return {"sessions": began or 0, "turns": spoken, "errors": told or 0, "interrupted": interrupted}


# -- what went badly


async def _bad_sessions(connection: AsyncConnection, since: int, until: int) -> list[BadSession]:
    conditions = Filters(since=since, until=until, bad=True).conditions()
    query = select(sessions).where(*conditions).order_by(sessions.c.id.desc()).limit(_BAD)
    rows = await with_figures(connection, (await connection.execute(query)).mappings().all())
    return [BadSession(**msgspec.structs.asdict(row), why=await why(connection, row)) for row in rows]


async def why(connection: AsyncConnection, row: SessionRow) -> str:
    """Why the session counts as a bad one: the worst of what can be said of it."""
    if row.end_reason in BAD_ENDS:
        return f"ended: {row.end_reason}"
    c = turns.c
    of_session = c.session_id == row.id
    if await connection.scalar(select(c.id).where(of_session, c.reply_reason == "failed").limit(1)):
        return await _what_failed(connection, row.id)
    if row.max_us is not None and row.max_us > SLOW_US:
        slowest = select(c.id).where(of_session).order_by(c.response_us.is_(None), c.response_us.desc()).limit(1)
        longest = select(spans.c.name, spans.c.us).where(spans.c.turn_id.in_(slowest)).order_by(spans.c.us.desc())
        span = (await connection.execute(longest.limit(1))).first()
        of_it = f": {round(100 * span.us / row.max_us)} % of it {span.name}" if span else ""
        return f"A turn took {row.max_us / 1_000_000:.1f} s{of_it}"
    if row.errors:
        codes = Counter(str(told.get("code", "error")) for told in await _told(connection, row.id, "error"))
        return f"Errors: {', '.join(f'{code} ({n})' if n > 1 else code for code, n in codes.most_common(3))}"
    assert row.interruptions >= MANY_INTERRUPTIONS
    return f"The user interrupted {row.interruptions} times"


async def _what_failed(connection: AsyncConnection, session_id: str) -> str:
    """Of a session with a reply that failed: who had no other to ask, else the error's code."""
    for told in await _told(connection, session_id, "provider.switched"):
        if not told.get("to") and (kind := _KINDS.get(str(told.get("kind")))):
            return f"The {kind} failed"
    for told in await _told(connection, session_id, "error"):
        return f"A reply failed: {told.get('code')}"
    return "A reply failed"


async def _told(connection: AsyncConnection, session_id: str, kind: str) -> list[dict[str, Any]]:
    """The newest events of that kind."""
    c = events.c
    query = select(c.data).where(c.session_id == session_id, c.type == kind).order_by(c.seq.desc()).limit(_MOST_EVENTS)
    return [msgspec.json.decode(data) for data in (await connection.execute(query)).scalars()]
