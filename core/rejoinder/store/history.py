"""The history of sessions: lists with figures, filters and facets; words in transcripts; what LLMs were sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Select, Text, and_, case, cast, func, literal, or_, select, union
from sqlalchemy.ext.asyncio import AsyncConnection

from rejoinder.errors import ProtocolError
from rejoinder.store.asking import Asking
from rejoinder.store.records import LlmRequestRecord, SessionRecord
from rejoinder.store.tables import events as events_table
from rejoinder.store.tables import interruptions, is_error, llm_requests, messages, recordings, sessions, turns

Sort = Literal["started", "slowest", "turns"]
FACETS = ("agent", "end_reason", "channel", "agent_version")

BAD_ENDS = ("error", "cancelled", "overloaded", "vad_failed")
"""Sessions that end so have failed."""
SLOW_US = 1_500_000
"""A turn that takes longer makes a session a bad one."""
MANY_INTERRUPTIONS = 3
"""So many of them, too."""
_FACET_VALUES = 50
_FIRST_CHARS = 200
_LOOKED_THROUGH = 200_000
"""So many messages are looked through for a page of what is found."""
_LARGEST_ANSWER = 8 << 20
"""Characters of what LLMs were sent that are read back at once."""


class SessionRow(SessionRecord, frozen=True, kw_only=True):
    """A session with its figures: `turns` of the user, accepted `interruptions`, `errors` that were told.

    `p50_us` and `max_us` are of its response times (nearest rank); `recorded`: its sound is kept; `live`: in this
    process. `first_text` is the beginning of the first that the user said.
    """

    live: bool = False
    turns: int = 0
    interruptions: int = 0
    errors: int = 0
    p50_us: int | None = None
    max_us: int | None = None
    recorded: bool = False
    first_text: str | None = None


class FacetCount(msgspec.Struct, frozen=True):
    """How many sessions have this value."""

    value: str
    count: int


class FoundMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that holds the words that were looked for."""

    session_id: str
    agent: str
    turn_id: str | None
    role: str
    content: str
    at: int


class Filters(NamedTuple):
    """Which sessions; `since` and `until` (Unix ms) are of their start, `provider` is (kind, name).

    `bad`: it ended in an error, a reply failed, an error was told, a turn took over 1.5 s, or the user interrupted
    three times or more. `min_ms`: a turn took at least so long.
    """

    agent: str | None = None
    agent_version: int | None = None
    channel: str | None = None
    end_reason: str | None = None
    room_id: str | None = None
    ended: bool | None = None
    since: int | None = None
    until: int | None = None
    bad: bool = False
    min_ms: int | None = None
    provider: tuple[str, str] | None = None

    @property
    def of_turns(self) -> bool:
        """Whether it asks for what turns were like, which takes longer."""
        return self.bad or self.min_ms is not None or self.provider is not None

    def conditions(self) -> list[ColumnElement[bool]]:
        """What must hold of a row of `sessions`."""
        c = sessions.c
        found: list[ColumnElement[bool]] = []
        for column, wanted in (
            (c.agent, self.agent),
            (c.agent_version, self.agent_version),
            (c.channel, self.channel),
            (c.end_reason, self.end_reason),
            (c.room_id, self.room_id),
        ):
            if wanted is not None:
                found.append(column == wanted)
        if self.ended is not None:
            found.append(c.ended_at.is_not(None) if self.ended else c.ended_at.is_(None))
        if self.since is not None:
            found.append(c.started_at >= literal(self.since, BigInteger))
        if self.until is not None:
            found.append(c.started_at < literal(self.until, BigInteger))
        if self.bad:
            found.append(or_(c.end_reason.in_(BAD_ENDS), c.id.in_(self._bad_sessions())))
        if self.min_ms is not None:
            slow = turns.c.response_us >= literal(self.min_ms * 1000, BigInteger)
            found.append(c.id.in_(self._of_turns(slow)))
        if self.provider is not None:
            kind, name = self.provider
            found.append(c.id.in_(self._of_turns(turns.c.providers[kind].as_string() == name)))
        return found

    def _of_turns(self, *wanted: ColumnElement[bool]) -> Select[Any]:
        query = select(turns.c.session_id).where(*wanted)
        # No turn comes before its session.
        return query if self.since is None else query.where(turns.c.committed_at >= literal(self.since, BigInteger))

    def _bad_sessions(self) -> Any:
        often = select(interruptions.c.session_id).where(interruptions.c.accepted)
        often = often.group_by(interruptions.c.session_id).having(func.count() >= MANY_INTERRUPTIONS)
        told = select(events_table.c.session_id).where(is_error)
        failed = self._of_turns(or_(turns.c.reply_reason == "failed", turns.c.response_us > SLOW_US))
        return select(union(failed, told, often).subquery().c.session_id)


async def list_sessions(
    asking: Asking, filters: Filters, limit: int = 50, *, before: str | None = None, sort: Sort = "started"
) -> tuple[list[SessionRow], str | None]:
    """At most `limit` sessions, the newest (or slowest, or longest) first, and the `before` of the next page.

    Raises:
        ProtocolError: `before` is not what a page of this order gave (`bad_cursor`).
        StoreError: as `Asking.reading`.
    """
    c = sessions.c
    query = select(sessions).where(*filters.conditions()).limit(limit)
    if sort == "started":
        query = query.order_by(c.id.desc())
        if before is not None:
            query = query.where(c.id < before)
    else:
        value: ColumnElement[int] = (
            func.max(turns.c.response_us) if sort == "slowest" else func.count(turns.c.user_text)
        )
        each = select(turns.c.session_id, func.coalesce(value, 0).label("value")).group_by(turns.c.session_id)
        if filters.since is not None:
            each = each.where(turns.c.committed_at >= literal(filters.since, BigInteger))
        by = each.subquery()
        query = query.add_columns(by.c.value).join(by, by.c.session_id == c.id).order_by(by.c.value.desc(), c.id.desc())
        if before is not None:
            number, last = _cursor(before)
            at = literal(number, BigInteger)
            query = query.where(or_(by.c.value < at, and_(by.c.value == at, c.id < last)))
    async with asking.reading(large=sort != "started" or filters.of_turns) as connection:
        found = (await connection.execute(query)).mappings().all()
        rows = await with_figures(connection, found)
    if len(rows) < limit:
        return rows, None
    return rows, rows[-1].id if sort == "started" else f"{found[-1]['value']}:{rows[-1].id}"


def _cursor(text: str) -> tuple[int, str]:
    """The number and the id in the cursor of a page."""
    number, _, last = text.partition(":")
    if not (number.isascii() and number.isdigit() and len(number) <= 18 and last):
        raise ProtocolError(
            f"{text[:40]!r} is not the cursor of a page in this order.",
            code="bad_cursor",
            fix="Send the next_cursor of the page before, with the same order.",
        )
    return int(number), last


async def facets(asking: Asking, filters: Filters) -> dict[str, list[FacetCount]]:
    """How many sessions have which value, the most frequent first: of all that fit the other filters."""

    async def work() -> dict[str, list[FacetCount]]:
        found = {}
        async with asking.reading() as connection:
            for name in FACETS:
                column = sessions.c[name]
                others = Filters(**{**filters._asdict(), name: None}).conditions()
                query = select(column, func.count().label("count")).where(column.is_not(None), *others)
                query = query.group_by(column).order_by(func.count().desc(), column).limit(_FACET_VALUES)
                found[name] = [FacetCount(str(row[0]), row[1]) for row in (await connection.execute(query)).all()]
        return found

    return await asking.shared(("facets", filters), work)


async def session_row(asking: Asking, session_id: str) -> SessionRow | None:
    """The session called `session_id` with its figures, None if there is none."""
    async with asking.reading(large=False) as connection:
        found = await connection.execute(select(sessions).where(sessions.c.id == session_id))
        rows = await with_figures(connection, found.mappings().all())
    return rows[0] if rows else None


async def with_figures(connection: AsyncConnection, found: Sequence[Any]) -> list[SessionRow]:
    """The sessions in `found` (rows of their table) with what is counted of them."""
    ids = [row["id"] for row in found]
    if not ids:
        return []
    figures: dict[str, dict[str, Any]] = {session_id: {} for session_id in ids}
    for query in (_turn_figures(ids), _interruption_figures(ids), _error_figures(ids), _recorded(ids), _first(ids)):
        for row in (await connection.execute(query)).mappings():
            counted = dict(row)
            figures[counted.pop("session_id")].update(counted)
    columns = sessions.c.keys()
    return [SessionRow(**{name: row[name] for name in columns}, **figures[row["id"]]) for row in found]


def _turn_figures(ids: list[str]) -> Select[Any]:
    c = turns.c
    # Those without a response time come last, and count() leaves them out.
    order = (c.response_us.is_(None), c.response_us)
    ranked = (
        select(
            c.session_id,
            c.user_text,
            c.response_us,
            func.row_number().over(partition_by=c.session_id, order_by=order).label("rank"),
            func.count(c.response_us).over(partition_by=c.session_id).label("n"),
        )
        .where(c.session_id.in_(ids))
        .subquery()
    )
    r = ranked.c
    # ceil(n / 2) in whole numbers.
    middle = case((r.rank == (r.n + 1) // 2, r.response_us))
    return select(
        r.session_id,
        func.count(r.user_text).label("turns"),
        func.max(r.response_us).label("max_us"),
        func.max(middle).label("p50_us"),
    ).group_by(r.session_id)


def _interruption_figures(ids: list[str]) -> Select[Any]:
    c = interruptions.c
    query = select(c.session_id, func.count().label("interruptions")).where(c.session_id.in_(ids), c.accepted)
    return query.group_by(c.session_id)


def _error_figures(ids: list[str]) -> Select[Any]:
    c = events_table.c
    query = select(c.session_id, func.count().label("errors")).where(c.session_id.in_(ids), is_error)
    return query.group_by(c.session_id)


def _recorded(ids: list[str]) -> Select[Any]:
    c = recordings.c
    return select(c.session_id, literal(True).label("recorded")).where(c.session_id.in_(ids), c.file.is_not(None))


def _first(ids: list[str]) -> Select[Any]:
    c = messages.c
    first = select(c.session_id, func.min(c.seq).label("seq")).where(c.session_id.in_(ids), c.role == "user")
    found = first.group_by(c.session_id).subquery()
    text = func.substr(c.content, 1, _FIRST_CHARS).label("first_text")
    return select(c.session_id, text).join(found, and_(found.c.session_id == c.session_id, found.c.seq == c.seq))


# -- words in transcripts


async def search(
    asking: Asking,
    words: str,
    limit: int = 50,
    *,
    before: str | None = None,
    agent: str | None = None,
    since: int | None = None,
    until: int | None = None,
) -> tuple[list[FoundMessage], str | None]:
    """Messages that hold `words`, in any case, newest first, and the `before` of the next page.

    At most 200 000 messages are looked through for one page: it may be short, or empty, and still have a next one.
    Where the database knows the case of ASCII letters only, as SQLite, words are also found in capitals and without.

    Raises:
        ProtocolError: `before` is not what a page gave (`bad_cursor`).
        StoreError: as `Asking.reading`.
    """
    c = messages.c
    within = _within(since, until, before)
    newest_first = (c.at.desc(), c.id.desc())
    looked = select(c.id, c.at).where(*within).order_by(*newest_first).offset(_LOOKED_THROUGH).limit(1)
    query = select(c.id, *(c[name] for name in FoundMessage.__struct_fields__ if name != "agent"), sessions.c.agent)
    query = query.join(sessions, sessions.c.id == c.session_id).order_by(*newest_first).limit(limit)
    if agent is not None:
        query = query.where(sessions.c.agent == agent)
    async with asking.reading() as connection:
        end = (await connection.execute(looked)).first()
        if end is not None:
            within.append(or_(c.at > end.at, and_(c.at == end.at, c.id > end.id)))
        query = query.where(*within, _holds(c.content, words, connection.dialect.name == "postgresql"))
        rows = (await connection.execute(query)).mappings().all()
    items = [msgspec.convert(row, FoundMessage) for row in rows]
    if len(rows) == limit:
        return items, f"{rows[-1]['at']}:{rows[-1]['id']}"
    # The first that was not looked at is the next.
    return items, f"{end.at}:{end.id + 1}" if end is not None else None


def _within(since: int | None, until: int | None, before: str | None) -> list[ColumnElement[bool]]:
    """The messages of that time that come behind the cursor `before`."""
    c = messages.c
    within: list[ColumnElement[bool]] = []
    if since is not None:
        within.append(c.at >= literal(since, BigInteger))
    if until is not None:
        within.append(c.at < literal(until, BigInteger))
    if before is not None:
        at, last = _cursor(before)
        moment, message = literal(at, BigInteger), literal(_cursor(f"{last}:.")[0], BigInteger)
        within += [c.at <= moment, or_(c.at < moment, c.id < message)]
    return within


def _holds(content: ColumnElement[str], words: str, any_case: bool) -> ColumnElement[bool]:
    """Whether `words` stand in `content`. `any_case`: there is an operator that ignores the case."""
    # SQLite's LIKE knows the case of ASCII letters, and so does PostgreSQL's ILIKE in the locale C.
    forms = dict.fromkeys((words, words.lower(), words.upper(), words.capitalize(), words.title()))
    like = content.icontains if any_case else content.contains
    return or_(*(like(form, autoescape=True) for form in forms))


# -- what LLMs were sent


async def llm_requests_of(
    asking: Asking, session_id: str, limit: int = 200, *, reply_id: str | None = None
) -> list[LlmRequestRecord]:
    """The newest `limit` requests to LLMs of a session (for one reply), in their order.

    At most about 8 MiB of them; the rest is found by their replies.
    """
    c = llm_requests.c
    newest_first = (c.at.desc(), c.reply_id.desc(), c.position.desc())
    size = func.length(cast(c.messages, Text)) + func.length(cast(c.tools, Text))
    sized = select(
        c.reply_id,
        c.position,
        func.row_number().over(order_by=newest_first).label("number"),
        func.sum(size).over(order_by=newest_first).label("size"),
    ).where(c.session_id == session_id)
    if reply_id is not None:
        sized = sized.where(c.reply_id == reply_id)
    few = sized.order_by(*newest_first).limit(limit).subquery()
    as_text = {"messages": cast(c.messages, Text).label("messages"), "tools": cast(c.tools, Text).label("tools")}
    wanted = (as_text.get(name, c[name]) for name in LlmRequestRecord.__struct_fields__)
    query = (
        select(*wanted)
        .join(few, and_(few.c.reply_id == c.reply_id, few.c.position == c.position))
        .where(or_(few.c.number == 1, few.c.size <= _LARGEST_ANSWER))
        .order_by(c.at, c.reply_id, c.position)
    )
    async with asking.reading(large=False) as connection:
        rows = (await connection.execute(query)).mappings().all()
    return [LlmRequestRecord(**{**row, "messages": _raw(row["messages"]), "tools": _raw(row["tools"])}) for row in rows]


def _raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())
