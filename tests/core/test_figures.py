"""The figures equal what plain Python makes of the same rows; on both databases, whatever the turns were."""

from __future__ import annotations

import asyncio
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from rejoinder.errors import ProtocolError, StoreError
from rejoinder.metrics import SPANS
from rejoinder.store import history, schema
from rejoinder.store.asking import Asking
from rejoinder.store.figures import (
    EDGES_US,
    MOST_SLOTS,
    P95_FROM,
    P99_FROM,
    Group,
    Latency,
    Percentiles,
    Scope,
    latency,
    slot_length,
)
from rejoinder.store.history import Filters, SessionRow
from rejoinder.store.overview import Overview, OverviewPart, overview
from rejoinder.store.statements import Write
from rejoinder.store.store import Store

NAMES = [name for name, _ in SPANS]
WHICH = (("vad", ("silero",)), ("stt", ("moonshine", "other")), ("llm", ("guide", "openai")), ("tts", ("hibari",)))


@dataclass
class ATurn:
    """A turn as it is in the tables."""

    id: str
    session_id: str
    at: int
    text: str | None
    reason: str
    parts: list[tuple[str, int, bool]]
    providers: dict[str, str]
    response: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.response = sum(us for _, us, _ in self.parts) if self.parts else None


@dataclass
class ASession:
    """A session as it is in the tables."""

    id: str
    agent: str
    version: int | None
    at: int
    end_reason: str | None
    channel: str | None
    turns: list[ATurn]
    interruptions: list[bool]
    errors: list[int]


@dataclass
class World:
    """All there is."""

    sessions: list[ASession]

    def turns(self, scope: Scope) -> list[tuple[ASession, ATurn]]:
        return [
            (session, turn)
            for session in self.sessions
            for turn in session.turns
            if turn.response is not None
            and scope.since <= turn.at < scope.until
            and scope.agent in (None, session.agent)
            and (scope.provider is None or turn.providers.get(scope.provider[0]) == scope.provider[1])
        ]

    def write(self, store: Store) -> None:
        put = store.writer.put
        for session in self.sessions:
            about = (session.agent, session.version, session.at, 16_000, 24_000, session.channel, None)
            put(Write.SESSION, (session.id, None, *about))
            if session.end_reason is not None:
                put(Write.SESSION_ENDED, (session.at + 9, session.end_reason, session.id))
            for number, turn in enumerate(session.turns, start=1):
                reply = f"rep_{turn.id}"
                put(Write.TURN, (turn.id, session.id, number, turn.text, turn.at, reply))
                put(Write.TURN_FINISHED, (reply, "Yes.", "Yes.", turn.reason, 300, False, turn.id))
                if turn.text:
                    put(Write.MESSAGE, (session.id, turn.id, "user", turn.text, turn.at, number))
                if turn.response is not None:
                    providers = msgspec.json.encode(turn.providers).decode()
                    put(Write.TURN_METRICS, (turn.response, 0, False, 0, 0, providers, "{}", turn.id))
                for position, (name, us, hidden) in enumerate(turn.parts):
                    put(Write.SPAN, (turn.id, position, name, us, hidden))
            for seq, accepted in enumerate(session.interruptions):
                put(Write.INTERRUPTION, (session.id, seq, "t", "r", accepted, "words", 300, "", session.at))
            for seq, at in enumerate(session.errors):
                put(Write.EVENT, (session.id, seq, at, "error", '{"type":"error","code":"no_words"}'))


# -- plain Python


def reference(times: Sequence[int]) -> dict[str, int | None]:
    ordered, n = sorted(times), len(times)

    def at(p: float, least: int) -> int | None:
        # In thousandths, so that 0.95 is not a little more than that.
        return ordered[math.ceil(round(p * 1000) * n / 1000) - 1] if n >= least else None

    return {"n": n, "p50_us": at(0.5, 1), "p95_us": at(0.95, P95_FROM), "p99_us": at(0.99, P99_FROM)}


def shown(found: Percentiles) -> dict[str, int | None]:
    return {name: getattr(found, name) for name in Percentiles.__struct_fields__}


def group_of(group: Group, session: ASession, turn: ATurn) -> str:
    if group == "agent":
        return session.agent
    if group == "version":
        return session.agent if session.version is None else f"{session.agent} v{session.version}"
    return turn.providers.get(group, "")


def check_latency(found: Latency, world: World, scope: Scope, group: Group | None) -> None:
    chosen = world.turns(scope)
    times = [turn.response or 0 for _, turn in chosen]
    assert shown(found.all) == reference(times)
    # Slots.
    by_slot: dict[int, list[int]] = defaultdict(list)
    for _, turn in chosen:
        by_slot[(turn.at - scope.since) // found.slot_ms].append(turn.response or 0)
    assert len(found.slots) == math.ceil((scope.until - scope.since) / found.slot_ms) <= MOST_SLOTS
    for number, slot in enumerate(found.slots):
        assert slot.at == scope.since + number * found.slot_ms
        assert shown(slot) == reference(by_slot.get(number, []))
    # The heatmap.
    assert all(low < high for low, high in itertools.pairwise(EDGES_US))
    cells: dict[tuple[int, int], int] = defaultdict(int)
    for number, slot_times in by_slot.items():
        for us in slot_times:
            cells[number, sum(edge < us for edge in EDGES_US)] += 1
    assert {(slot, bucket): n for slot, bucket, n in found.heatmap.cells} == cells
    # Stages.
    parts: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    for _, turn in chosen:
        for name, us, hidden in turn.parts:
            parts[name].append((us, hidden))
    assert [stage.name for stage in found.stages] == [name for name in NAMES if name in parts]
    for stage in found.stages:
        assert shown(stage) == reference([us for us, _ in parts[stage.name]])
        assert stage.hidden == sum(hidden for _, hidden in parts[stage.name])
    # Groups.
    by_group: dict[str, list[int]] = defaultdict(list)
    for session, turn in chosen if group else ():
        assert group is not None
        by_group[group_of(group, session, turn)].append(turn.response or 0)
    assert {one.value: shown(one) for one in found.groups} == {
        value: reference(times) for value, times in by_group.items()
    }
    assert [one.n for one in found.groups] == sorted((one.n for one in found.groups), reverse=True)
    # The slowest.
    ranked = sorted(chosen, key=lambda pair: (pair[1].response or 0, pair[1].id), reverse=True)[:20]
    assert [(slow.turn_id, slow.session_id, slow.agent, slow.response_us) for slow in found.slowest] == [
        (turn.id, session.id, session.agent, turn.response) for session, turn in ranked
    ]
    for slow, (_, turn) in zip(found.slowest, ranked, strict=True):
        assert [(span.name, span.us, span.hidden) for span in slow.spans] == turn.parts
        assert sum(span.us for span in slow.spans) == slow.response_us
        assert (slow.user_text, slow.providers) == (turn.text, turn.providers)


def part_of(world: World, since: int, until: int) -> OverviewPart:
    within = range(since, until)
    turns = [turn for session in world.sessions for turn in session.turns if turn.at in within]
    return OverviewPart(
        sessions=sum(session.at in within for session in world.sessions),
        turns=sum(turn.text is not None for turn in turns),
        response=Percentiles(**reference([turn.response for turn in turns if turn.response is not None])),  # type: ignore[arg-type]
        errors=sum(at in within for session in world.sessions for at in session.errors),
        interrupted=sum(turn.reason == "interrupted" for turn in turns),
    )


def is_bad(session: ASession) -> bool:
    return (
        session.end_reason in history.BAD_ENDS
        or bool(session.errors)
        or sum(session.interruptions) >= 3
        or any(turn.reason == "failed" or (turn.response or 0) > 1_500_000 for turn in session.turns)
    )


def check_overview(found: Overview, world: World) -> None:
    since, until = found.since, found.until
    assert found.now == part_of(world, since, until)
    assert found.before == part_of(world, since - (until - since), since)
    assert sum(slot.n for slot in found.slots) == found.now.response.n
    bad = [session.id for session in world.sessions if is_bad(session) and session.at in range(since, until)]
    assert [session.id for session in found.bad] == sorted(bad, reverse=True)[:10]
    assert all(session.why for session in found.bad)


def check_rows(rows: Sequence[SessionRow], world: World) -> None:
    known = {session.id: session for session in world.sessions}
    for row in rows:
        session = known[row.id]
        times = [turn.response for turn in session.turns if turn.response is not None]
        said = [turn.text for turn in session.turns if turn.text is not None]
        assert row.turns == len(said)
        assert row.p50_us == reference(times)["p50_us"]
        assert row.max_us == max(times, default=None)
        assert row.interruptions == sum(session.interruptions)
        assert row.errors == len(session.errors)
        assert row.first_text == next((text for text in said if text), None)
        assert (row.agent, row.agent_version, row.channel) == (session.agent, session.version, session.channel)


# -- random worlds

LATENCY_MD = Path(__file__).parents[2] / "docs/how-to/latency.md"
T0 = 1_700_000_000_000
agents = st.sampled_from(["guide", "reception"])
reasons = st.sampled_from(["completed", "completed", "completed", "interrupted", "failed"])
lengths = st.one_of(st.integers(0, 400_000), st.integers(0, 70_000_000), st.sampled_from(EDGES_US), st.just(0))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    span = draw(st.sampled_from([5_000, 3_600_000, 86_400_000]))
    times = st.integers(T0 - span, T0 + span)
    found: list[ASession] = []
    count = 0
    for number in range(draw(st.integers(0, 6))):
        at = draw(times)
        turns = []
        for _ in range(draw(st.integers(0, 5))):
            reached = NAMES[: draw(st.sampled_from([0, 4, 6, 7, 7, 7]))]
            parts = [(name, draw(lengths), draw(st.booleans())) for name in reached]
            parts = [(name, 0 if hidden else us, hidden) for name, us, hidden in parts]
            kept = draw(st.booleans())
            providers = {kind: draw(st.sampled_from(names)) for kind, names in WHICH if kept or kind != "tts"}
            said = draw(st.sampled_from([None, "Hello", "<script>alert(1)</script>", "50 % off_", "ÄRGER"]))
            later = at + draw(st.integers(0, span // 4))
            turns.append(ATurn(f"turn_{count:04}", f"ses_{number:03}", later, said, draw(reasons), parts, providers))
            count += 1
        found.append(
            ASession(
                f"ses_{number:03}",
                draw(agents),
                draw(st.sampled_from([None, 1, 2])),
                at,
                draw(st.sampled_from([None, "idle", "client_ended", "vad_failed"])),
                draw(st.sampled_from([None, "sse", "websocket"])),
                turns,
                draw(st.lists(st.booleans(), max_size=5)),
                [at] * draw(st.integers(0, 2)),
            )
        )
    return World(found)


def many(turns: int = 700) -> World:
    """Enough turns for every percentile, in some order that is not theirs."""
    found = []
    for number in range(turns // 10):
        session = f"ses_{number:03}"
        made = []
        for turn in range(10):
            value = (number * 10 + turn) * 7919 % turns
            parts = [(name, value * 100 + place, False) for place, name in enumerate(NAMES)]
            parts[2] = ("llm", 0, True) if turn % 3 == 0 else parts[2]
            providers = {"vad": "silero", "stt": "moonshine", "llm": ("guide", "openai")[turn % 2], "tts": "hibari"}
            at = T0 + number * 60_000 + turn
            made.append(ATurn(f"turn_{number:03}{turn}", session, at, f"Hi {turn}", "completed", parts, providers))
        agent, version = (("guide", None), ("reception", 1), ("reception", 2))[number % 3]
        found.append(ASession(session, agent, version, T0 + number * 60_000, "idle", "sse", made, [], []))
    return World(found)


class Bench:
    """A store on a loop of its own, filled anew for each example."""

    def __init__(self, url: str) -> None:
        self.runner = asyncio.Runner()
        self.store = Store(url)
        self.run(self._open(url))
        self.asking = Asking(self.store, shared_s=0)

    async def _open(self, url: str) -> None:
        if url.startswith("postgresql"):
            await schema.upgrade(schema.parse_url(url))
        await self.store.open()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    async def fill(self, world: World) -> None:
        async with self.store.transaction() as connection:
            await connection.execute(text("DELETE FROM sessions"))
        world.write(self.store)
        await self.store.writer.flush()
        assert self.store.writer.rejected == 0

    def close(self) -> None:
        self.run(self.store.close())
        self.runner.close()


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    found = Bench(database_url)
    yield found
    found.close()


async def check(bench: Bench, world: World, scope: Scope, group: Group | None) -> None:
    asking = bench.asking
    await bench.fill(world)
    check_latency(await latency(asking, scope, group), world, scope, group)
    check_overview(await overview(asking, scope.since, scope.until), world)
    rows, _ = await history.list_sessions(asking, Filters(), 200)
    assert len(rows) == len(world.sessions)
    check_rows(rows, world)
    bad, _ = await history.list_sessions(asking, Filters(bad=True), 200)
    assert {row.id for row in bad} == {session.id for session in world.sessions if is_bad(session)}


ranges = st.sampled_from([(T0, T0 + 5_000), (T0 - 5_000, T0 + 5_000), (T0, T0 + 86_400_000), (T0 - 10**9, T0 + 10**9)])
groups = st.sampled_from([None, *get_args(Group)])
providers = st.sampled_from([None, None, ("llm", "guide"), ("stt", "other"), ("tts", "nobody")])


def test_figures_of_random_turns_equal_the_reference(bench: Bench) -> None:
    @settings(max_examples=60, deadline=None)
    @given(worlds(), ranges, st.sampled_from([None, None, "guide"]), providers, groups)
    def holds(
        world: World, times: tuple[int, int], agent: str | None, provider: tuple[str, str] | None, group: Group | None
    ) -> None:
        bench.run(check(bench, world, Scope(*times, agent, provider), group))

    holds()


def test_figures_of_many_turns_equal_the_reference_and_the_window_functions_of_the_docs(bench: Bench) -> None:
    async def scenario() -> None:
        world = many()
        await bench.fill(world)
        scope = Scope(T0, T0 + 86_400_000)
        for group in (None, *get_args(Group)):
            check_latency(await latency(bench.asking, scope, group), world, scope, group)
        only = Scope(T0, T0 + 86_400_000, "reception", ("llm", "openai"))
        found = await latency(bench.asking, only)
        check_latency(found, world, only, None)
        assert found.all.p95_us is not None
        assert found.all.p99_us is not None
        check_overview(await overview(bench.asking, T0, T0 + 3_600_000), world)
        # Whoever looks for themselves finds the same.
        everything = await latency(bench.asking, scope)
        values = {"since": scope.since, "until": scope.until, "slot_ms": everything.slot_ms}
        async with bench.store.reading() as connection:
            whole, slots, stages, slowest = [
                [dict(row) for row in (await connection.execute(text(query), values)).mappings()] for query in in_docs()
            ]
        assert whole == [shown(everything.all)]
        assert [(row["slot"], row["n"], row["p50_us"]) for row in slots] == [
            (number, slot.n, slot.p50_us) for number, slot in enumerate(everything.slots) if slot.n
        ]
        assert {row.pop("name"): row for row in stages} == {
            stage.name: {"n": stage.n, "hidden": stage.hidden, "p50_us": stage.p50_us, "p95_us": stage.p95_us}
            for stage in everything.stages
        }
        assert [row["id"] for row in slowest] == [turn.turn_id for turn in everything.slowest]

    bench.run(scenario())


def in_docs() -> list[str]:
    """The queries that docs/how-to/latency.md has for whoever wants to check."""
    return re.findall(r"```sql\n(.*?)```", LATENCY_MD.read_text(), re.DOTALL)


def test_few_turns_have_no_high_percentiles(bench: Bench) -> None:
    async def scenario() -> None:
        for n, p95, p99 in (
            (0, False, False),
            (19, False, False),
            (20, True, False),
            (99, True, False),
            (100, True, True),
        ):
            world = many()
            turns = [turn for session in world.sessions for turn in session.turns][:n]
            for session in world.sessions:
                session.turns = [turn for turn in session.turns if turn in turns]
            await bench.fill(world)
            found = await latency(bench.asking, Scope(T0, T0 + 86_400_000))
            assert (found.all.n, found.all.p95_us is not None, found.all.p99_us is not None) == (n, p95, p99)

    bench.run(scenario())


@pytest.mark.parametrize("span_ms", [1, 1000, 3_600_000, 86_400_000, 7 * 86_400_000, 90 * 86_400_000, 10**12])
def test_there_are_never_too_many_slots(span_ms: int) -> None:
    assert math.ceil(span_ms / slot_length(span_ms)) <= MOST_SLOTS


# -- lists of sessions


def test_sessions_in_every_order_come_in_pages(bench: Bench) -> None:
    async def scenario() -> None:
        world = many(200)
        for number, session in enumerate(world.sessions):
            session.turns = session.turns[: number % 4]
        await bench.fill(world)
        key: dict[history.Sort, Callable[[ASession], Any]] = {
            "started": lambda session: session.id,
            "slowest": lambda session: (max((turn.response or 0 for turn in session.turns), default=0), session.id),
            "turns": lambda session: (len(session.turns), session.id),
        }
        for sort, order in key.items():
            seen: list[str] = []
            before = None
            for _ in range(20):
                rows, before = await history.list_sessions(bench.asking, Filters(), 3, before=before, sort=sort)
                seen += [row.id for row in rows]
                if before is None:
                    break
            wanted = [session.id for session in sorted(world.sessions, key=order, reverse=True)]
            # Sessions in which nobody said anything have no place in the others' order.
            spoken = {session.id for session in world.sessions if session.turns or sort == "started"}
            assert seen == [session_id for session_id in wanted if session_id in spoken]
        with pytest.raises(ProtocolError) as refused:
            await history.list_sessions(bench.asking, Filters(), before="ses_1", sort="slowest")
        assert refused.value.code == "bad_cursor"

    bench.run(scenario())


def test_filters_and_facets(bench: Bench) -> None:
    async def scenario() -> None:
        world = many(120)
        world.sessions[3].channel = "websocket"
        world.sessions[4].end_reason = "vad_failed"
        world.sessions[5].turns[0].providers["llm"] = "third"
        await bench.fill(world)

        async def ids(**filters: Any) -> list[str]:
            rows, _ = await history.list_sessions(bench.asking, Filters(**filters), 200)
            return [row.id for row in rows][::-1]

        def those(holds: Callable[[ASession], bool]) -> list[str]:
            return [session.id for session in world.sessions if holds(session)]

        assert await ids(agent="reception", agent_version=2) == those(lambda s: s.version == 2)
        assert await ids(channel="websocket") == ["ses_003"]
        assert await ids(end_reason="vad_failed") == ["ses_004"]
        assert await ids(bad=True) == ["ses_004"]
        assert await ids(provider=("llm", "third")) == ["ses_005"]
        assert await ids(min_ms=50, since=T0) == those(lambda s: max(t.response or 0 for t in s.turns) >= 50_000)
        assert await ids(since=T0 + 60_000, until=T0 + 180_000) == ["ses_001", "ses_002"]
        counted = await history.facets(bench.asking, Filters(agent="guide", end_reason="idle"))
        as_told = {name: {one.value: one.count for one in found} for name, found in counted.items()}
        assert as_told == {
            # Of the agent and of the end all values are counted, among what fits the rest.
            "agent": {"guide": 4, "reception": 7},
            "end_reason": {"idle": 4},
            "channel": {"sse": 3, "websocket": 1},
            "agent_version": {},
        }

    bench.run(scenario())


def test_why_a_session_is_bad(bench: Bench) -> None:
    def session(number: int, **changes: Any) -> ASession:
        parts = [("endpointing", 62_000 * 31, False), ("llm", 38_000 * 31, False)] if changes.pop("slow", False) else []
        turn = ATurn(f"turn_{number}", f"ses_{number}", T0, "Hi", changes.pop("reason", "completed"), parts, {})
        made = ASession(f"ses_{number}", "guide", None, T0, "idle", None, [turn], [], [])
        for name, value in changes.items():
            setattr(made, name, value)
        return made

    async def scenario() -> None:
        world = World(
            [
                session(1, slow=True),
                session(2, end_reason="vad_failed", errors=[T0]),
                session(3, interruptions=[True, True, False, True]),
                session(4, errors=[T0, T0]),
                session(5, reason="failed"),
                session(6, reason="failed", errors=[T0]),
                session(7),
                session(8, interruptions=[True, True, False]),
            ]
        )
        await bench.fill(world)
        failed = '{"type":"provider.switched","kind":"llm","provider":"openai","to":"","cause":"provider_failed"}'
        bench.store.writer.put(Write.EVENT, ("ses_5", 9, T0, "provider.switched", failed))
        found = await overview(bench.asking, T0 - 1, T0 + 1000)
        assert {one.id: one.why for one in found.bad} == {
            "ses_1": "A turn took 3.1 s: 62 % of it endpointing",
            "ses_2": "ended: vad_failed",
            "ses_3": "The user interrupted 3 times",
            "ses_4": "Errors: no_words (2)",
            "ses_5": "The LLM failed",
            "ses_6": "A reply failed: no_words",
        }

    bench.run(scenario())


# -- words


def test_words_are_found_as_they_stand_there(bench: Bench) -> None:
    async def scenario() -> None:
        said = ["Hello <script>alert(1)</script>", "50 % off", "50 euros off", "a_b", "axb", "ÄRGER", "ärger", "c\\d"]
        turns = [ATurn(f"turn_{n}", "ses_1", T0 + n, what, "completed", [], {}) for n, what in enumerate(said)]
        world = World([ASession("ses_1", "guide", None, T0, None, None, turns, [], [])])
        await bench.fill(world)

        async def found(words: str, **more: Any) -> list[str]:
            items, _ = await history.search(bench.asking, words, **more)
            return [item.content for item in items]

        assert await found("HELLO <SCRIPT>") == ["Hello <script>alert(1)</script>"]
        assert await found("0 %") == ["50 % off"]
        assert await found("a_b") == ["a_b"]
        assert await found("c\\d") == ["c\\d"]
        assert await found("ärger") == ["ärger", "ÄRGER"]
        assert await found("Ärger") == ["ärger", "ÄRGER"]
        assert await found("off", until=T0 + 2) == ["50 % off"]
        assert await found("off", since=T0 + 2) == ["50 euros off"]
        assert await found("off", agent="other") == []
        assert await found("';DROP TABLE messages;--") == []

    bench.run(scenario())


def test_what_is_found_comes_in_pages_that_look_through_so_many(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_LOOKED_THROUGH", 7)

    async def scenario() -> None:
        turns = [
            # Several have the same time.
            ATurn(f"turn_{n:02}", "ses_1", T0 + n // 3, "yes" if n % 5 == 0 else "no.", "completed", [], {})
            for n in range(40)
        ]
        await bench.fill(World([ASession("ses_1", "guide", None, T0, None, None, turns, [], [])]))
        seen: list[str | None] = []
        before, pages = None, 0
        while pages == 0 or before is not None:
            items, before = await history.search(bench.asking, "YES", 2, before=before, since=T0)
            seen += [item.turn_id for item in items]
            pages += 1
            assert pages < 30
        assert seen == [f"turn_{n:02}" for n in range(35, -1, -5)]
        assert pages >= 40 // 7
        for bad in ("x", "5", "5:x", "-1:2", ":"):
            with pytest.raises(ProtocolError):
                await history.search(bench.asking, "yes", before=bad)

    bench.run(scenario())


# -- what LLMs were sent


def test_what_llms_were_sent_is_read_back_in_order_and_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        await bench.fill(World([ASession("ses_1", "guide", None, T0, None, None, [], [], [])]))
        for number in range(6):
            for position in range(2):
                messages = f'[{{"role":"user","content":"<b>{number}{position}\\u0000"}}]'
                row = (f"rep_{number}", position, "ses_1", None, T0 + number, "guide", messages, "[]", 300, 0.3)
                bench.store.writer.put(Write.LLM_REQUEST, row)
        found = await history.llm_requests_of(bench.asking, "ses_1")
        assert [(one.reply_id, one.position) for one in found] == [(f"rep_{n}", p) for n in range(6) for p in range(2)]
        assert msgspec.json.decode(found[0].messages) == [{"role": "user", "content": "<b>00\0"}]
        assert (found[0].provider, found[0].max_tokens, found[0].temperature) == ("guide", 300, 0.3)
        (one, other) = await history.llm_requests_of(bench.asking, "ses_1", reply_id="rep_3")
        assert (one.reply_id, one.position, other.position) == ("rep_3", 0, 1)
        assert [one.reply_id for one in await history.llm_requests_of(bench.asking, "ses_1", 3)] == [
            "rep_4",
            "rep_5",
            "rep_5",
        ]
        monkeypatch.setattr(history, "_LARGEST_ANSWER", 100)
        assert [one.position for one in await history.llm_requests_of(bench.asking, "ses_1")] == [0, 1]
        monkeypatch.setattr(history, "_LARGEST_ANSWER", 1)
        assert [one.position for one in await history.llm_requests_of(bench.asking, "ses_1")] == [1]

    bench.run(scenario())


# -- how it is asked

ENDLESS = {
    "sqlite": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n",
    "postgresql": "SELECT pg_sleep(3600)",
}


def test_what_takes_too_long_is_cut_off_and_the_connection_is_of_use_again(bench: Bench) -> None:
    async def scenario() -> None:
        asking = Asking(bench.store, limit_s=0.2)
        for _ in range(3):
            with pytest.raises(StoreError) as refused:
                async with asking.reading() as connection:
                    await connection.execute(text(ENDLESS[connection.dialect.name]))
            assert refused.value.code == "query_too_slow"
        assert (await latency(asking, Scope(0, 1000))).all.n == 0

    bench.run(scenario())


def test_what_was_asked_by_whoever_left_ends_too(bench: Bench) -> None:
    async def scenario() -> None:
        asking = Asking(bench.store, limit_s=0.3)
        for _ in range(4):
            started = asyncio.Event()

            async def ask(started: asyncio.Event = started) -> None:
                async with asking.reading() as connection:
                    started.set()
                    await connection.execute(text(ENDLESS[connection.dialect.name]))

            task = asyncio.create_task(ask())
            await started.wait()
            await asyncio.sleep(0.05)
            task.cancel()
            async with asyncio.timeout(10):
                await asyncio.wait({task})
            assert task.cancelled()
        # At most two run at once: these have made room.
        async with asyncio.timeout(10):
            assert (await latency(asking, Scope(0, 1000))).all.n == 0

    bench.run(scenario())


def test_those_who_ask_the_same_share_one_answer(bench: Bench) -> None:
    async def scenario() -> None:
        asking = Asking(bench.store, shared_s=0.3)
        count = 0

        def work(fails: bool) -> Callable[[], Awaitable[int]]:
            async def once() -> int:
                nonlocal count
                count += 1
                await asyncio.sleep(0.05)
                if fails:
                    raise StoreError("no", code="query_too_slow")
                return count

            return once

        assert await asyncio.gather(*(asking.shared("a", work(False)) for _ in range(10))) == [1] * 10
        assert await asking.shared("a", work(False)) == 1
        assert await asking.shared("b", work(False)) == 2
        failed = await asyncio.gather(*(asking.shared("c", work(True)) for _ in range(5)), return_exceptions=True)
        assert count == 3
        assert all(isinstance(one, StoreError) for one in failed)
        # One that goes away does not take the answer from the others.
        first = asyncio.create_task(asking.shared("d", work(False)))
        second = asyncio.create_task(asking.shared("d", work(False)))
        await asyncio.sleep(0.01)
        first.cancel()
        assert await second == 5
        await asyncio.sleep(0.35)
        assert await asking.shared("a", work(False)) == 6
        for number in range(200):
            await asking.shared(("many", number), lambda: asyncio.sleep(0))
        assert len(asking._answers) <= 64

    bench.run(scenario())
