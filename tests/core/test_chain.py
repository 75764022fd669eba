"""Chains of language models and recognisers: whatever one does, the next is asked in time and nothing stays behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rejoinder.breaker import Breaker
from rejoinder.errors import ProviderError, ProviderTimeout
from rejoinder.providers import LlmDelta, LlmProvider, LlmRequest, Message, SttProvider, SttStream, ToolCall
from rejoinder.settings import Deadlines
from rejoinder.stages.chain import KEPT_AUDIO, ChainedStt, LlmChain, SttChain
from rejoinder.testing.scripted import ScriptedLlm
from rejoinder.testing.virtual_time import run_virtual

REQUEST = LlmRequest((Message("user", "hi"),))
HANG = 1e6
LIMIT = 1.0

Item = LlmDelta | float | BaseException


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """In virtual time; nothing may be left running, and nothing may go wrong unseen."""
    complaints: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        await main()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        gc.collect(1)  # what was made in here is young
        await asyncio.sleep(0)

    run_virtual(watched())
    assert complaints == []


class Llm(ScriptedLlm):
    """Plays one list of items per request, the last one for ever."""

    def __init__(self, *answers: Sequence[Item]) -> None:
        self.answers = list(answers)
        self.began: list[float] = []
        self.ended: list[float] = []
        super().__init__(lambda request: self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])  # type: ignore[arg-type,return-value]

    async def stream(self, request: LlmRequest) -> AsyncGenerator[LlmDelta, None]:
        self.began.append(now())
        try:
            async with aclosing(super().stream(request)) as deltas:
                async for delta in deltas:
                    if isinstance(delta, BaseException):
                        raise delta
                    yield delta
        finally:
            self.ended.append(now())

    @property
    def running(self) -> int:
        return len(self.began) - len(self.ended)


def now() -> float:
    return asyncio.get_running_loop().time()


class Chain(LlmChain):
    """With names a, b, c and a list of what was told."""

    def __init__(self, *llms: LlmProvider, hedge: bool = False, breaker: Breaker | None = None) -> None:
        self.told: list[tuple[str, ...]] = []
        super().__init__(
            dict(zip("abc", llms, strict=False)),
            Deadlines(first_token_ms=1000, hedge=hedge),
            lambda *what: self.told.append(what),
            breaker,
        )

    async def answer(self, request: LlmRequest = REQUEST, into: list[LlmDelta] | None = None) -> list[LlmDelta]:
        got = [] if into is None else into
        async with aclosing(self.stream(request)) as deltas:
            async for delta in deltas:
                got.append(delta)
        return got


both = pytest.mark.parametrize("hedge", [False, True])


# --- language models ------------------------------------------------------------------------------------------


@both
def test_the_first_answers_and_nobody_else_is_asked(hedge: bool) -> None:
    async def main() -> None:
        a, b = Llm(["Hello", 0.9, " there."]), Llm(["no"])
        chain = Chain(a, b, hedge=hedge)
        assert await chain.answer() == ["Hello", " there."]
        assert (chain.used, chain.told, b.requests) == ("a", [], [])

    run(main)


@both
@pytest.mark.parametrize(
    ("answer", "cause", "at"),
    [
        ([HANG], "provider_timeout", 1.0),
        (["", 0.6, " ", "\n", HANG], "provider_timeout", 1.0),
        ([0.3, ProviderError("a", "no", code="provider_unauthorized")], "provider_unauthorized", 0.3),
        ([0.3, RuntimeError("a bug")], "provider_failed", 0.3),
        ([0.3, asyncio.CancelledError()], "provider_failed", 0.3),
        ([TimeoutError("its own")], "provider_failed", 0.0),
        ([0.3], "empty_reply", 0.3),
        (["", " \n"], "empty_reply", 0.0),
    ],
    ids=["hangs", "trickles", "refuses", "raises", "cancels itself", "its own timeout", "empty", "blank"],
)
def test_one_that_gives_nothing_is_replaced_in_time(hedge: bool, answer: list[Item], cause: str, at: float) -> None:
    async def main() -> None:
        a, b = Llm(answer), Llm([0.2, "Hello."])
        chain = Chain(a, b, hedge=hedge)
        assert await chain.answer() == ["Hello."]
        assert now() == pytest.approx(at + 0.2)
        assert chain.told == [("llm", "a", "b", cause)]
        assert chain.used == "b"
        assert a.running == b.running == 0

    run(main)


@both
def test_a_provider_that_cannot_even_make_a_stream_is_replaced(hedge: bool) -> None:
    class Unmade(Llm):
        def stream(self, request: LlmRequest) -> AsyncGenerator[LlmDelta, None]:
            raise ValueError("no key")

    async def main() -> None:
        chain = Chain(Unmade(["no"]), Llm(["Hello."]), hedge=hedge)
        assert await chain.answer() == ["Hello."]
        assert chain.told == [("llm", "a", "b", "provider_failed")]

    run(main)


@both
def test_one_that_fails_even_at_its_end_does_not_keep_the_next_from_answering(hedge: bool) -> None:
    class Sloppy(Llm):
        async def stream(self, request: LlmRequest) -> AsyncGenerator[LlmDelta, None]:
            yield " "
            try:
                await asyncio.sleep(HANG)
            finally:
                raise OSError("socket")

    class Slow(Llm):
        async def stream(self, request: LlmRequest) -> AsyncGenerator[LlmDelta, None]:
            try:
                yield ToolCall("1", "clock", "{}")
                yield "never read"
            finally:
                await asyncio.sleep(HANG)

    async def main() -> None:
        assert await Chain(Sloppy([]), Llm(["Hello."]), hedge=hedge).answer() == ["Hello."]
        began = now()
        async with aclosing(Chain(Slow([]), Llm(["no"]), hedge=hedge).stream(REQUEST)) as deltas:
            assert await anext(deltas) == ToolCall("1", "clock", "{}")
        assert now() - began < 1.5

    run(main)


@both
def test_white_space_comes_with_the_first_word_and_a_tool_call_is_an_answer(hedge: bool) -> None:
    async def main() -> None:
        call = ToolCall("1", "clock", "{}")
        assert await Chain(Llm([" ", "\n", "Hi", " "]), Llm(["no"]), hedge=hedge).answer() == [" \nHi", " "]
        assert await Chain(Llm([call, call]), Llm(["no"]), hedge=hedge).answer() == [call, call]

    run(main)


@both
@pytest.mark.parametrize(
    ("rest", "error", "cause", "lasts"),
    [
        ([HANG], ProviderTimeout, "provider_timeout", 1.9),
        ([ProviderError("a", "broke", code="provider_unreachable")], ProviderError, "provider_unreachable", 0.9),
        ([RuntimeError("a bug")], RuntimeError, "provider_failed", 0.9),
        ([asyncio.CancelledError()], ProviderError, "provider_failed", 0.9),
    ],
    ids=["hangs", "breaks", "raises", "cancels itself"],
)
def test_after_the_first_piece_there_is_no_switching(
    hedge: bool, rest: list[Item], error: type[Exception], cause: str, lasts: float
) -> None:
    async def main() -> None:
        a, b = Llm(["One", 0.9, " two", *rest]), Llm(["no"])
        chain = Chain(a, b, hedge=hedge)
        got: list[LlmDelta] = []
        with pytest.raises(error):
            await chain.answer(into=got)
        assert got == ["One", " two"]
        assert now() == pytest.approx(lasts)
        assert chain.told == [("llm", "a", "", cause)]
        assert b.requests == []
        assert a.running == 0

    run(main)


@both
def test_the_failure_of_the_last_is_raised(hedge: bool) -> None:
    async def main() -> None:
        chain = Chain(Llm([HANG]), Llm([ProviderError("b", "no", code="provider_rate_limited")]), hedge=hedge)
        with pytest.raises(ProviderError) as caught:
            await chain.answer()
        # With a hedge the late one might still have answered, so it was given the time.
        assert caught.value.code == "provider_rate_limited"
        assert now() == pytest.approx(2.0 if hedge else 1.0)
        last = ("llm", "b", "a" if hedge else "", "provider_rate_limited")
        assert chain.told == [("llm", "a", "b", "provider_timeout"), last]
        with pytest.raises(ProviderError, match="answered nothing"):
            await Chain(Llm([]), hedge=hedge).answer()
        with pytest.raises(ProviderTimeout):
            await Chain(Llm([HANG]), Llm([HANG]), hedge=hedge).answer()

    run(main)


@both
def test_after_tool_results_silence_can_be_an_answer(hedge: bool) -> None:
    def after(said: str) -> LlmRequest:
        call = ToolCall("1", "end_call", "{}")
        return LlmRequest((*REQUEST.messages, Message("assistant", said, (call,)), Message("tool", "ok", (), "1")))

    async def main() -> None:
        chain = Chain(Llm([]), Llm(["Well."]), hedge=hedge)
        assert await chain.answer(after("Goodbye!")) == []
        assert chain.told == []
        assert await chain.answer(after("")) == ["Well."]
        alone = Chain(Llm([]), hedge=hedge)
        assert await alone.answer(after("")) == []
        assert alone.told == []

    run(main)


def test_a_late_one_that_answers_first_wins_the_race() -> None:
    async def main() -> None:
        a, b = Llm([1.5, "A", " late"]), Llm([0.8, "B"])
        chain = Chain(a, b, hedge=True)
        async with aclosing(chain.stream(REQUEST)) as deltas:
            assert await anext(deltas) == "A"
            assert now() == pytest.approx(1.5)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert b.ended == [1.5], "the loser is closed at once, not when the winner is done"
            assert [delta async for delta in deltas] == [" late"]
        assert chain.used == "a"
        assert chain.told == [("llm", "a", "b", "provider_timeout")]

    run(main)


def test_the_one_asked_later_can_win_and_the_late_one_is_closed() -> None:
    async def main() -> None:
        a, b = Llm([1.5, "A"]), Llm([0.2, "B", 0.9, "2"])
        chain = Chain(a, b, hedge=True)
        assert await chain.answer() == ["B", "2"]
        assert chain.used == "b"
        assert a.ended + b.ended == pytest.approx([1.2, 2.1])

    run(main)


def test_the_one_asked_later_fails_and_the_late_one_still_answers() -> None:
    async def main() -> None:
        chain = Chain(Llm([1.5, "A"]), Llm([0.2, ProviderError("b", "no")]), hedge=True)
        assert await chain.answer() == ["A"]
        assert chain.told == [("llm", "a", "b", "provider_timeout"), ("llm", "b", "a", "provider_failed")]

    run(main)


def test_a_slow_reader_stops_a_hedged_provider() -> None:
    async def main() -> None:
        a = Llm([str(number) for number in range(100)])
        async with aclosing(Chain(a, Llm(["no"]), hedge=True).stream(REQUEST)) as deltas:
            assert await anext(deltas) == "0"
            await asyncio.sleep(10)
            assert a.pulled <= 4
            assert [delta async for delta in deltas] == [str(number) for number in range(1, 100)]

    run(main)


@both
@settings(max_examples=60, deadline=None)
@given(after=st.floats(0, 4), polite=st.booleans())
def test_a_reader_may_go_at_any_time(hedge: bool, after: float, polite: bool) -> None:
    async def main() -> None:
        llms = [Llm([0.7, " ", HANG]), Llm([HANG]), Llm([0.5, "C", 0.4, "c", 0.6, ProviderError("c", "broke")])]
        chain = Chain(*llms, hedge=hedge)
        stop = asyncio.Event()

        async def read() -> None:
            async with aclosing(chain.stream(REQUEST)) as deltas:
                async for _ in deltas:
                    if stop.is_set():
                        return

        reader = asyncio.create_task(read())
        await asyncio.sleep(after)
        stop.set()
        if not polite:
            reader.cancel()
        await asyncio.wait({reader})
        assert [llm.running for llm in llms] == [0, 0, 0]
        if not reader.cancelled():
            reader.exception()
        elif now() < 1:
            assert chain.told == [], "a reader that goes is no fault of the provider"

    run(main)


behaviours = st.one_of(
    st.tuples(st.just("answers"), st.integers(0, 25)),
    st.tuples(st.just("raises"), st.integers(0, 25)),
    st.tuples(st.just("ends"), st.integers(0, 25)),
    st.tuples(st.just("breaks"), st.integers(0, 25)),
)


@both
@settings(max_examples=150, deadline=None)
@given(st.lists(behaviours, min_size=1, max_size=3))
def test_whatever_they_do_somebody_answers_in_time_if_anybody_can(hedge: bool, plans: list[tuple[str, int]]) -> None:
    """The same, computed: who answers, when, and who was asked. No delay ends at a deadline or with another one."""
    delays = [(0.03, 0.04, 0.06)[index] + tenths / 10 for index, (_, tenths) in enumerate(plans)]
    starts, fates, at = [], [], 0.0
    for (what, _), delay in zip(plans, delays, strict=True):
        starts.append(at)
        useful = what in ("answers", "breaks")
        fates.append((at + delay, useful))
        if useful and delay < LIMIT:
            break
        at += min(delay, LIMIT)
    if hedge:
        # A late one answers all the same, if nobody was faster and the last one's time is not up.
        ends = starts[-1] + LIMIT
        useful_at = [(when, index) for index, (when, useful) in enumerate(fates) if useful and when < ends]
        expected = min(useful_at, default=None)
        if expected is not None:
            # Whoever would only have been asked after that was not.
            asked = sum(start <= expected[0] for start in starts)
            expected = min((when, index) for when, index in useful_at if index < asked)
    else:
        last = len(starts) - 1
        when, useful = fates[last]
        expected = (when, last) if useful and delays[last] < LIMIT else None

    async def main() -> None:
        llms = []
        for index, ((what, _), delay) in enumerate(zip(plans, delays, strict=True)):
            tail: dict[str, list[Item]] = {
                "answers": [str(index), "."],
                "raises": [ProviderError(str(index), "no")],
                "ends": [],
                "breaks": [str(index), ProviderError(str(index), "broke")],
            }
            llms.append(Llm([delay, *tail[what]]))
        chain = Chain(*llms, hedge=hedge)
        got: list[LlmDelta] = []
        first_at = None
        failed = False
        try:
            async with aclosing(chain.stream(REQUEST)) as deltas:
                async for delta in deltas:
                    first_at = now() if first_at is None else first_at
                    got.append(delta)
        except ProviderError:
            failed = True
        assert [llm.running for llm in llms] == [0] * len(llms)
        assert now() <= LIMIT * len(llms) + 0.001
        if expected is None:
            assert failed
            assert got == []
        else:
            when, index = expected
            assert got[0] == str(index)
            assert first_at == pytest.approx(when)
            assert chain.used == "abc"[index]
            assert failed == (plans[index][0] == "breaks")
        assert all(kind == "llm" and name in "abc" and cause for kind, name, _, cause in chain.told)

    run(main)


def test_prefill_goes_to_the_one_that_will_be_asked_and_never_raises() -> None:
    class Reader(Llm):
        prefilled = 0

        async def prefill(self, request: LlmRequest) -> None:
            self.prefilled += 1
            raise RuntimeError("no room")

    async def main() -> None:
        a, b = Reader([ProviderError("a", "no")]), Reader(["B"])
        chain = Chain(a, b)
        await chain.prefill(REQUEST)
        assert (a.prefilled, b.prefilled) == (1, 0)
        await chain.answer()
        await chain.answer()
        await chain.prefill(REQUEST)
        assert (a.prefilled, b.prefilled) == (1, 1)
        await Chain(Llm(["cannot prefill"])).prefill(REQUEST)

    run(main)


# --- the breaker ----------------------------------------------------------------------------------------------


@both
def test_one_that_hangs_again_and_again_is_not_waited_for_and_recovers(hedge: bool) -> None:
    async def main() -> None:
        a, b = Llm([HANG]), Llm(["B"])
        chain = Chain(a, b, hedge=hedge)

        async def lasts() -> float:
            began = now()
            await chain.answer()
            return now() - began

        assert [await lasts() for _ in range(4)] == [LIMIT, LIMIT, 0, 0]
        assert len(a.began) == 2
        await asyncio.sleep(5)
        assert [await lasts(), await lasts()] == [LIMIT, 0], "tried once more, and left for longer"
        await asyncio.sleep(5)
        assert await lasts() == 0
        await asyncio.sleep(5)
        a.answers = [["A"]]
        assert await chain.answer() == ["A"]
        assert await chain.answer() == ["A"]
        a.answers = [[HANG], ["A"]]
        assert [await chain.answer(), await chain.answer()] == [["B"], ["A"]], "one failure is forgiven"

    run(main)


def test_when_all_rest_all_are_asked() -> None:
    async def main() -> None:
        chain = Chain(Llm([ProviderError("a", "no")]), Llm([ProviderError("b", "no")]))
        for _ in range(3):
            with pytest.raises(ProviderError):
                await chain.answer()
        assert [name for _, name, _, _ in chain.told] == ["a", "b"] * 3

    run(main)


def test_a_shared_breaker_spares_other_sessions_the_wait() -> None:
    async def main() -> None:
        breaker = Breaker()
        a = Llm([HANG])
        for _ in range(2):
            await Chain(a, Llm(["B"]), breaker=breaker).answer()
        assert now() == pytest.approx(2)
        assert await Chain(a, Llm(["B"]), breaker=breaker).answer() == ["B"]
        assert now() == pytest.approx(2)
        await asyncio.sleep(5)
        trials = [asyncio.create_task(Chain(a, Llm(["B"]), breaker=breaker).answer()) for _ in range(5)]
        await asyncio.wait(trials)
        assert len(a.began) == 3, "one of them tries it, for all"

    run(main)


def test_a_breaker_rests_longer_every_time_and_forgets() -> None:
    time = 0.0
    breaker = Breaker(now=lambda: time)
    names = ("a", "b")
    rests = []
    breaker.failed("llm", "a")
    for _ in range(6):
        breaker.asked("llm", "a")
        breaker.failed("llm", "a")
        began = time
        assert breaker.order("llm", names) == ["b", "a"]
        assert breaker.order("stt", names) == ["a", "b"]
        while breaker.order("llm", names) == ["b", "a"]:
            time += 0.5
        rests.append(time - began)
    assert rests == [5, 10, 20, 40, 60, 60]
    time += 1000
    breaker.failed("llm", "a")
    assert breaker.order("llm", names) == ["a", "b"], "failures long ago do not count"
    breaker.failed("llm", "a")
    breaker.worked("llm", "a")
    assert breaker.order("llm", names) == ["a", "b"]


def test_breaking_off_in_the_middle_counts_too() -> None:
    async def main() -> None:
        a, b = Llm(["A", ProviderError("a", "broke")]), Llm(["B"])
        chain = Chain(a, b)
        for _ in range(2):
            with pytest.raises(ProviderError):
                await chain.answer()
        assert await chain.answer() == ["B"]

    run(main)


@both
def test_a_reader_that_has_enough_speaks_well_of_the_provider(hedge: bool) -> None:
    async def main() -> None:
        refusal = ProviderError("a", "no")
        a = Llm([refusal], ["A", HANG], [refusal], ["A"])
        chain = Chain(a, Llm(["B"]), hedge=hedge)
        assert await chain.answer() == ["B"]
        async with aclosing(chain.stream(REQUEST)) as deltas:
            assert await anext(deltas) == "A"
        assert await chain.answer() == ["B"]
        assert await chain.answer() == ["A"], "these were not two failures in a row"

    run(main)


# --- speech to text -------------------------------------------------------------------------------------------


class Stt:
    """An STT provider whose streams answer with what they were fed, after `delay`; `fails` names what raises."""

    def __init__(self, name: str, delay: float = 0.0, fails: str = "", empty: bool = False) -> None:
        self.name = name
        self.delay = delay
        self.fails = fails
        self.empty = empty
        self.streams: list[Ear] = []

    async def warm_up(self) -> None: ...

    async def close(self) -> None: ...

    def open(self, *, language: str, on_partial: Callable[[str], None]) -> SttStream:
        if self.fails == "open":
            raise RuntimeError("no room")
        self.streams.append(Ear(self, on_partial))
        return self.streams[-1]


class Ear:
    def __init__(self, provider: Stt, on_partial: Callable[[str], None]) -> None:
        self.provider = provider
        self.on_partial = on_partial
        self.audio = b""
        self.feeds = 0
        self.closed = False

    def feed(self, pcm: bytes) -> None:
        if self.provider.fails == "feed":
            raise ConnectionError("gone")
        self.audio += pcm
        self.feeds += 1
        self.on_partial(f"{self.provider.name}?")

    async def flush(self) -> str:
        await asyncio.sleep(self.provider.delay)
        if self.provider.fails == "flush":
            raise ProviderError(self.provider.name, "no", code="provider_rate_limited")
        return "" if self.provider.empty else f"{self.provider.name}:{self.audio.decode()}"

    def reset(self) -> None:
        if self.provider.fails == "reset":
            raise RuntimeError("cannot forget")
        self.audio = b""

    async def close(self) -> None:
        self.closed = True
        if self.provider.fails == "close":
            raise RuntimeError("cannot go")


class Hearing:
    """A session's stream over providers named after themselves, and what it tells."""

    def __init__(self, *providers: Stt) -> None:
        self.told: list[tuple[str, ...]] = []
        self.partials: list[str] = []
        named: dict[str, SttProvider] = {provider.name: provider for provider in providers}
        self.chain = SttChain(named, Deadlines(transcript_ms=1000), lambda *what: self.told.append(what))
        self.stream: ChainedStt = self.chain.open(language="en", on_partial=self.partials.append)

    def feed(self, text: str) -> None:
        for letter in text:
            self.stream.feed(letter.encode())

    async def hears(self, text: str) -> str:
        """A whole utterance."""
        self.stream.reset()
        self.feed(text)
        return await self.stream.flush()


def test_the_first_recogniser_hears_as_it_comes_and_the_others_are_not_opened() -> None:
    async def main() -> None:
        a, b = Stt("a"), Stt("b")
        hearing = Hearing(a, b)
        assert await hearing.hears("hello") == "a:hello"
        assert (a.streams[0].feeds, b.streams) == (5, [])
        assert hearing.partials == ["a?"] * 5
        assert (hearing.chain.used, hearing.told) == ("a", [])
        hearing.feed(" you")
        assert await hearing.stream.flush() == "a:hello you"
        await hearing.stream.close()
        await hearing.stream.close()
        assert a.streams[0].closed

    run(main)


@pytest.mark.parametrize(
    ("first", "cause", "lasts"),
    [
        (Stt("a", delay=HANG), "provider_timeout", 1.0),
        (Stt("a", delay=0.4, fails="flush"), "provider_rate_limited", 0.4),
        (Stt("a", fails="feed"), "provider_failed", 0.0),
        (Stt("a", fails="open"), "provider_failed", 0.0),
    ],
    ids=["hangs", "fails", "cannot be fed", "cannot be opened"],
)
def test_the_next_recogniser_gets_all_of_the_utterance(first: Stt, cause: str, lasts: float) -> None:
    async def main() -> None:
        first.streams.clear()
        b = Stt("b")
        hearing = Hearing(first, b)
        assert await hearing.hears("hello") == "b:hello"
        assert now() == pytest.approx(lasts)
        assert hearing.told == [("stt", "a", "b", cause)]
        assert hearing.chain.used == "b"
        # For the rest of the utterance it leads; the first is not waited for again.
        hearing.feed(" you")
        assert await hearing.stream.flush() == "b:hello you"
        assert now() == pytest.approx(lasts)
        assert len(hearing.told) == 1
        assert await hearing.hears("again") == "b:again"
        assert hearing.told == [("stt", "a", "b", cause)] * 2, "it was given another chance"
        assert await hearing.hears("third") == "b:third"
        assert len(hearing.told) == 2, "two failures in a row, so it rests"
        first.delay, first.fails = 0.0, ""
        await asyncio.sleep(5)
        assert await hearing.hears("back") == "a:back"
        await hearing.stream.close()
        assert all(stream.closed for stream in [*first.streams, *b.streams])

    fails, delay = first.fails, first.delay
    try:
        run(main)
    finally:
        first.fails, first.delay = fails, delay


def test_silence_is_an_answer() -> None:
    async def main() -> None:
        b = Stt("b")
        hearing = Hearing(Stt("a", empty=True), b)
        assert await hearing.hears("hm") == ""
        assert (hearing.told, b.streams) == ([], [])

    run(main)


def test_only_the_leading_recogniser_is_overheard() -> None:
    async def main() -> None:
        a, b = Stt("a", fails="flush"), Stt("b")
        hearing = Hearing(a, b)
        await hearing.hears("hi")
        assert hearing.partials == ["a?", "a?"]
        hearing.feed("!")
        assert hearing.partials == ["a?", "a?", "b?"]
        a.streams[0].on_partial("late")
        assert hearing.partials[-1] == "b?"

    run(main)


def test_all_fail_then_all_are_tried_again() -> None:
    async def main() -> None:
        a, b = Stt("a", fails="feed"), Stt("b", fails="flush")
        hearing = Hearing(a, b)
        with pytest.raises(ProviderError, match="b: no"):
            await hearing.hears("hi")
        assert hearing.told[-1] == ("stt", "b", "", "provider_rate_limited")
        hearing.feed("!")
        a.fails = ""
        assert await hearing.stream.flush() == "a:hi!"
        await hearing.stream.close()

    run(main)


@pytest.mark.parametrize("fails", ["flush", "feed", "open", "hang"])
def test_a_single_recogniser_has_a_deadline_and_another_chance(fails: str) -> None:
    async def main() -> None:
        a = Stt("a", delay=HANG if fails == "hang" else 0, fails=fails)
        hearing = Hearing(a)
        cause = {"flush": "provider_rate_limited", "hang": "provider_timeout"}.get(fails, "provider_failed")
        for _ in range(3):
            with pytest.raises((ProviderError, OSError, RuntimeError)):
                await hearing.hears("hello")
        assert hearing.told == [("stt", "a", "", cause)] * 3
        a.fails, a.delay = "", 0
        hearing.feed("?")
        if fails in ("feed", "open"):
            # What it lost does not come back, and half a sentence is not what was said.
            with pytest.raises((ProviderError, OSError, RuntimeError)):
                await hearing.stream.flush()
        else:
            assert await hearing.stream.flush() == "a:hello?"
        assert await hearing.hears("again") == "a:again"
        await hearing.stream.close()
        assert all(stream.closed for stream in a.streams)

    run(main)


@pytest.mark.parametrize("fails", ["reset", "close"])
def test_a_recogniser_that_cannot_be_reset_or_closed_hurts_nobody(fails: str) -> None:
    async def main() -> None:
        a = Stt("a", fails=fails)
        hearing = Hearing(a, Stt("b"))
        assert await hearing.hears("one") == "a:one"
        assert await hearing.hears("two") == "a:two"
        await hearing.stream.close()
        hearing.feed("late")
        assert all(stream.closed for stream in a.streams)

    run(main)


def test_the_newest_minute_is_kept() -> None:
    async def main() -> None:
        b = Stt("b")
        hearing = Hearing(Stt("a", fails="flush"), b)
        frame = b"x" * 640
        for _ in range(KEPT_AUDIO // 640 + 100):
            hearing.stream.feed(frame)
        hearing.feed("end")
        assert len(await hearing.stream.flush()) == len("b:") + KEPT_AUDIO
        hearing.feed("!")
        assert (await hearing.stream.flush())[-4:] == "end!"
        assert hearing.stream._kept is not None
        assert Hearing(Stt("a")).stream._kept is None, "nobody to keep it for"

    run(main)


def test_one_that_missed_more_than_was_kept_begins_anew() -> None:
    async def main() -> None:
        a, b = Stt("a", fails="flush"), Stt("b", fails="flush")
        hearing = Hearing(a, b)
        with pytest.raises(ProviderError):
            await hearing.hears("old")
        frame = b"x" * 6400
        for _ in range(KEPT_AUDIO // len(frame) + 1):
            hearing.stream.feed(frame)
        b.fails = ""
        assert await hearing.stream.flush() == "b:" + "x" * KEPT_AUDIO
        await hearing.stream.close()

    run(main)


def test_a_recogniser_that_may_be_tried_again_waits_for_the_next_utterance() -> None:
    async def main() -> None:
        a, b = Stt("a", fails="flush"), Stt("b")
        hearing = Hearing(a, b)
        for _ in range(2):
            await hearing.hears("one")
        hearing.stream.reset()
        hearing.feed("two")
        a.fails = ""
        await asyncio.sleep(5)
        assert await hearing.stream.flush() == "b:two", "it has heard it as it came"
        assert await hearing.hears("three") == "a:three"
        await hearing.stream.close()

    run(main)


@pytest.mark.parametrize("after", [0.5, 1.5])
def test_a_transcript_may_be_given_up_at_any_time(after: float) -> None:
    async def main() -> None:
        hearing = Hearing(Stt("a", delay=HANG), Stt("b", delay=0.9))
        hearing.feed("hello")
        flush = asyncio.create_task(hearing.stream.flush())
        await asyncio.sleep(after)
        flush.cancel()
        await asyncio.wait({flush})
        assert flush.cancelled()
        assert len(hearing.told) == (after > 1)
        hearing.feed("!")
        assert await hearing.stream.flush() == "b:hello!"
        await hearing.stream.close()

    run(main)


def test_a_reset_in_the_middle_of_a_transcript_mixes_no_utterances() -> None:
    async def main() -> None:
        a, b = Stt("a", delay=HANG), Stt("b")
        hearing = Hearing(a, b)
        hearing.feed("old")
        flush = asyncio.create_task(hearing.stream.flush())
        await asyncio.sleep(0.5)
        hearing.stream.reset()
        hearing.feed("new")
        with pytest.raises(ProviderTimeout):
            await flush
        assert b.streams == []
        a.delay = 0
        assert await hearing.stream.flush() == "a:new"
        await hearing.stream.close()

    run(main)
