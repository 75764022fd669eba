"""The hooks of conversations: what plugins may change, what their failures cost, and whose time it was."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import pytest

from rejoinder import events
from rejoinder.app import Runtime
from rejoinder.errors import ConfigError, ProviderError
from rejoinder.events import (
    ProviderSwitched,
    ReplyFinished,
    ReplyText,
    ServerEvent,
    Transcript,
    TurnCommitted,
    TurnMetrics,
)
from rejoinder.hooks import Hooks
from rejoinder.hookspecs import hookimpl
from rejoinder.manager import Plugins
from rejoinder.providers import LlmDelta, LlmRequest, Message, Tool, ToolCall, TtsDelta
from rejoinder.settings import Agent, Settings
from rejoinder.testing.pilot import pilot
from rejoinder.testing.scripted import ScriptedLlm, ScriptedStt, ScriptedTts
from rejoinder.testing.virtual_time import run_virtual


def plugins_of(*made: object) -> Plugins:
    plugins = Plugins()
    for number, plugin in enumerate(made):
        assert plugins.add(f"p{number}", partial(lambda made: made, plugin)), plugins.infos
    return plugins


def one_hook(hook: str, function: Callable[..., Any]) -> Any:
    """A plugin with one hook, which takes what `function` takes."""
    return type("Plugin", (), {hook: staticmethod(hookimpl(function))})()


def problems(plugins: Plugins, name: str = "p0") -> list[tuple[str, str]]:
    return [(one.stage, one.subject) for one in plugins.infos[name].problems]


# -- before the LLM


def add_fact(request: LlmRequest) -> LlmRequest:
    return replace(request, messages=(*request.messages[:1], Message("system", "It is noon."), *request.messages[1:]))


def test_a_filter_changes_what_the_llm_is_sent_and_nothing_else() -> None:
    seen = []

    def filtered(session_id: str, agent: str, request: LlmRequest) -> LlmRequest:
        seen.append((session_id, agent))
        return add_fact(request)

    async def main() -> None:
        async with pilot(plugins=plugins_of(one_hook("before_llm", filtered))) as client:
            await client.turn()
            await client.until(ReplyFinished)
            await client.turn()
            await client.until(ReplyFinished, 2)
            first, second = client.llm.requests
            assert [m.content for m in first.messages][1:] == ["It is noon.", "hello there"]
            assert [m.content for m in second.messages][1:] == [
                "It is noon.",
                "hello there",
                "Hello there.",
                "hello there",
            ]
            assert client.llm.requests[0].messages[1].role == "system"
            assert all("noon" not in m.content for m in client.session.journal.messages("", 40))

    run_virtual(main())
    assert set(seen) == {("ses_pilot", "pilot")}


def test_filters_are_chained_in_order_and_may_be_async() -> None:
    def shout(request: LlmRequest) -> LlmRequest:
        return replace(
            request, messages=(*request.messages[:-1], Message("user", request.messages[-1].content.upper()))
        )

    async def look_up(request: LlmRequest) -> LlmRequest:
        await asyncio.sleep(0.1)
        return replace(request, messages=(*request.messages[:-1], Message("user", request.messages[-1].content + "!")))

    async def main() -> None:
        plugins = plugins_of(one_hook("before_llm", shout), one_hook("before_llm", look_up))
        async with pilot(plugins=plugins) as client:
            await client.turn()
            metrics = await client.until(TurnMetrics)
            assert client.llm.requests[-1].messages[-1].content == "HELLO THERE!"
            assert metrics.response_us

    run_virtual(main())


def test_the_prompt_is_not_read_ahead_where_a_filter_may_hide_some_of_it() -> None:
    class Reader(ScriptedLlm):
        async def prefill(self, request: LlmRequest) -> None:
            read.append(request)

    read: list[LlmRequest] = []

    async def main(plugins: Plugins) -> None:
        async with pilot(plugins=plugins, llm=Reader()) as client:
            await client.turn()
            await client.until(ReplyFinished)

    run_virtual(main(Plugins()))
    assert read, "without a filter it is"
    read.clear()
    run_virtual(main(plugins_of(one_hook("before_llm", add_fact))))
    assert not read


@pytest.mark.parametrize("answer", ["late", "raise", "wrong", "wrong later", "cancel"])
def test_a_filter_that_fails_costs_at_most_its_time(answer: str) -> None:
    async def bad(request: LlmRequest) -> Any:
        if answer == "late":
            await asyncio.sleep(60)
        if answer == "raise":
            raise ValueError("broken")
        if answer == "cancel":
            raise TimeoutError
        return 42

    def wrong(request: LlmRequest) -> Any:
        return 42

    plugins = plugins_of(one_hook("before_llm", wrong if answer == "wrong" else bad))

    async def main() -> None:
        async with pilot(plugins=plugins) as client:
            for number in range(1, 6):
                started = client.now
                await client.turn()
                await client.until(ReplyFinished, number)
                assert client.now - started < 5
                assert client.llm.requests[-1].messages[-1].content == "hello there"
            finished = client.events(ReplyFinished)
            assert all(event.reason == "completed" for event in finished)

    run_virtual(main())
    assert problems(plugins) == [("hook", "before_llm")]
    problem = plugins.infos["p0"].problems[0]
    assert problem.count == 3, "it rests after the third failure in a row"
    if answer == "late":
        assert "longer than 0.5 s" in problem.what
    elif answer == "raise":
        assert "before_llm raised ValueError at" in problem.what
        assert "test_hooks.py" in problem.what
        assert "ValueError: broken" in problem.details, "its text, in which something said may stand, is for few"


def test_one_that_rests_comes_back() -> None:
    calls = []

    def flaky(request: LlmRequest) -> None:
        calls.append(now[0])
        if len(calls) <= 3:
            raise ValueError("not yet")

    now = [0.0]
    plugins = plugins_of(one_hook("before_llm", flaky))
    hooks = Hooks(plugins, now=lambda: now[0])
    session = hooks.session("ses_1")
    request = LlmRequest((Message("user", "hi"),))

    async def ask(at: float) -> None:
        now[0] = at
        await session.before_llm(request)

    async def main() -> None:
        for at in (0, 1, 2, 3, 31, 33, 34, 35):
            await ask(at)

    asyncio.run(main())
    assert calls == [0, 1, 2, 33, 34, 35], "it rests for half a minute, and then works"


# -- before TTS


def test_what_is_spoken_may_differ_from_what_is_written() -> None:
    def pronounce(text: str) -> str:
        return text.replace("SQL", "sequel")

    async def main() -> None:
        llm = ScriptedLlm(lambda request: ("We use SQL here. ", "It is good. "))
        async with pilot(plugins=plugins_of(one_hook("before_tts", pronounce)), llm=llm, reports=True) as client:
            await client.turn()
            finished = await client.until(ReplyFinished)
            assert " ".join(client.tts.spoken) == "We use sequel here. It is good."
            assert finished.text == finished.heard_text == "We use SQL here. It is good."

    run_virtual(main())


def test_what_is_left_out_was_not_heard() -> None:
    def gag(text: str) -> str:
        return "" if "secret" in text else text

    async def main() -> None:
        llm = ScriptedLlm(lambda request: ("This is open to all of you. ", "The secret is 42. ", "Goodbye to you. "))
        async with pilot(plugins=plugins_of(one_hook("before_tts", gag)), llm=llm) as client:
            await client.turn()
            finished = await client.until(ReplyFinished)
            assert (finished.reason, finished.heard_text) == (
                "completed",
                "This is open to all of you. Goodbye to you.",
            )

        silent = ScriptedLlm(lambda request: ("It is a secret. ",))
        async with pilot(plugins=plugins_of(one_hook("before_tts", gag)), llm=silent) as client:
            await client.turn()
            finished = await client.until(ReplyFinished)
            assert (finished.reason, finished.heard_text) == ("completed", ""), "to say nothing is no failure"
            await client.turn()
            await client.until(ReplyFinished, 2)

    run_virtual(main())


# -- before storage


def hide(text: str) -> str:
    return text.replace("4111", "****")


def test_what_is_stored_is_redacted_and_what_is_heard_is_not() -> None:
    stored: list[ServerEvent] = []

    async def main() -> None:
        llm = ScriptedLlm(lambda request: ("You said 41", "11, right? "))
        stt = ScriptedStt(("my card is 4111",))
        plugins = plugins_of(one_hook("before_storage", hide))
        async with pilot(
            plugins=plugins, llm=llm, stt=stt, observer=lambda event, data: stored.append(event)
        ) as client:
            await client.turn()
            finished = await client.until(ReplyFinished)
            assert finished.text == "You said 4111, right?"
            assert client.llm.requests[-1].messages[-1].content == "my card is 4111"

    run_virtual(main())
    assert [e.text for e in stored if isinstance(e, TurnCommitted)] == ["my card is ****"]
    assert {e.text for e in stored if isinstance(e, ReplyFinished)} == {"You said ****, right?"}
    assert {e.delta for e in stored if isinstance(e, ReplyText)} == {""}, "it lies across two pieces"
    assert {e.text for e in stored if isinstance(e, Transcript) and e.final} == {"my card is ****"}
    assert [e.seq for e in stored] == list(range(1, len(stored) + 1)), "no event is missing"


ALL_TEXTS: list[ServerEvent] = [
    events.Transcript(turn_id="t", text="4111", final=True),
    events.TurnCommitted(turn_id="t", text="4111"),
    events.ReplyText(reply_id="r", delta="4111"),
    events.ToolCalled(reply_id="r", call_id="c", name="pay", arguments='{"card": "4111"}'),
    events.ToolProgress(reply_id="r", call_id="c", message="charging 4111"),
    events.ToolReturned(reply_id="r", call_id="c", name="pay", status="ok", result="4111 charged"),
    events.ReplyFinished(
        reply_id="r", turn_id="t", reason="completed", text="4111", heard_text="4111", played_ms=1, estimated=False
    ),
    events.Interruption(turn_id="t", reply_id="r", accepted=True, cause="words", speech_ms=1, text="4111"),
    events.Error(code="tool_failed", message="4111 is wrong", fix="not 4111"),
]


@pytest.mark.parametrize("event", ALL_TEXTS, ids=lambda event: type(event).__name__)
def test_every_text_of_an_event_is_redacted(event: ServerEvent) -> None:
    hooks = Hooks(plugins_of(one_hook("before_storage", hide)), now=lambda: 0.0).session("ses_1")
    before = events.encode(event)
    stored, data = hooks.stored(event, before)
    assert b"4111" not in data
    assert events.encode(stored) == data
    assert events.encode(event) == before, "who listens gets it as it is"


def test_every_event_with_text_is_known() -> None:
    """A new event with a field that holds what was said must not be forgotten here."""
    words = {"text", "heard_text", "delta", "message", "fix", "arguments", "result"}
    known = {type(event) for event in ALL_TEXTS}
    for kind in events.ServerEvent.__args__:
        assert kind in known or not words & set(kind.__struct_fields__), kind


def test_what_cannot_be_redacted_is_not_stored() -> None:
    def broken(text: str) -> str:
        raise ValueError(text)

    now = [0.0]
    plugins = plugins_of(one_hook("before_storage", hide), one_hook("before_storage", broken))
    hooks = Hooks(plugins, now=lambda: now[0])
    session = hooks.session("ses_1")
    for _ in range(6):
        stored, data = session.stored(ALL_TEXTS[1], b"")
        assert isinstance(stored, TurnCommitted)
        assert stored.text == ""
        assert b"4111" not in data
    assert plugins.infos["p1"].problems[0].count == 3, "while it rests nothing is stored either"


def test_without_such_a_plugin_events_are_stored_as_they_are() -> None:
    hooks = Hooks(Plugins()).session("ses_1")
    assert hooks.stored(ALL_TEXTS[1], b"as it is") == (ALL_TEXTS[1], b"as it is")


# -- observers


def test_an_observer_that_raises_rests_and_the_others_see_everything() -> None:
    seen: list[ServerEvent] = []

    def broken(event: ServerEvent) -> None:
        raise ValueError("no")

    def watch(session_id: str, event: ServerEvent) -> None:
        seen.append(event)

    plugins = plugins_of(one_hook("on_event", broken), one_hook("on_event", watch))

    async def main() -> None:
        async with pilot(plugins=plugins) as client:
            await client.turn()
            await client.until(ReplyFinished)
            assert [e.seq for e in seen] == list(range(1, len(seen) + 1))
            assert any(isinstance(e, ReplyFinished) for e in seen)

    run_virtual(main())
    assert plugins.infos["p0"].problems[0].count == 3
    assert problems(plugins, "p1") == []


def test_who_blocks_the_loop_for_long_rests_at_once_and_is_told_what_to_do() -> None:
    calls = []

    def block(event: ServerEvent) -> None:
        calls.append(1)
        time.sleep(0.2)

    plugins = plugins_of(one_hook("on_event", block))
    hooks = Hooks(plugins, now=lambda: 0.0)
    session = hooks.session("ses_1")
    for _ in range(5):
        session.observe(ALL_TEXTS[1])
    assert len(calls) == 1
    problem = plugins.infos["p0"].problems[0]
    assert (problem.stage, problem.subject) == ("block", "on_event")
    assert "held up the event loop" in problem.what
    assert "to_thread" in problem.what
    assert "test_hooks.py" in problem.details
    assert hooks.blamed("p0", 0.2), "the watchdog need not say it again"
    assert not hooks.blamed("p0", 0.2), "but for the next time"


def test_an_async_observer_is_a_mistake() -> None:
    async def late() -> None: ...

    def careless(event: ServerEvent) -> Any:
        return late()

    plugins = plugins_of(one_hook("on_event", careless))
    Hooks(plugins, now=lambda: 0.0).session("ses_1").observe(ALL_TEXTS[1])
    assert "on_event must not be async" in plugins.infos["p0"].problems[0].what


# -- whose time it was


def test_the_time_of_hooks_is_counted_by_plugin_and_turn() -> None:
    async def slow(request: LlmRequest) -> None:
        time.sleep(0.005)  # noqa: ASYNC251 - that is the fault

    def quick(text: str) -> None:
        time.sleep(0.002)

    plugins = plugins_of(one_hook("before_llm", slow), one_hook("before_tts", quick))

    async def main() -> None:
        async with pilot(plugins=plugins, agent=Agent(greeting="Hello!")) as client:
            await client.until(ReplyFinished)
            await client.turn()
            first = await client.until(TurnMetrics)
            await client.turn()
            second = await client.until(TurnMetrics, 2)
            for metrics in (first, second):
                assert set(metrics.hooks) == {"p0", "p1"}
                assert metrics.hooks["p0"] >= 5000
                assert metrics.hooks["p1"] >= 2000

    run_virtual(main())


def test_without_plugins_nothing_is_counted() -> None:
    async def main() -> None:
        async with pilot() as client:
            await client.turn()
            assert (await client.until(TurnMetrics)).hooks == {}

    run_virtual(main())


# -- life and health


def test_startup_and_shutdown_in_order_and_what_fails_does_not_keep_the_others() -> None:
    log: list[str] = []

    class Good:
        def __init__(self, name: str) -> None:
            self.name = name

        @hookimpl
        async def startup(self, runtime: Any) -> None:
            log.append(f"{self.name} up {runtime}")

        @hookimpl
        def shutdown(self) -> None:
            log.append(f"{self.name} down")

    class Bad:
        @hookimpl
        def startup(self) -> None:
            raise ValueError("no")

        @hookimpl
        async def shutdown(self) -> None:
            await asyncio.sleep(3600)

    plugins = plugins_of(Good("a"), Bad(), Good("b"))

    async def main() -> None:
        hooks = Hooks(plugins)
        await hooks.startup("R")
        await hooks.shutdown("R")

    run_virtual(main())
    assert log == ["a up R", "b up R", "b down", "a down"]
    assert problems(plugins, "p1") == [("startup", "startup"), ("shutdown", "shutdown")]
    assert "longer than 5 s" in plugins.infos["p1"].problems[1].what


def test_health() -> None:
    async def hang() -> str:
        await asyncio.sleep(3600)
        return ""

    def broken() -> str:
        raise ValueError("no idea")

    said = [lambda: None, lambda: "", lambda: "no licence", hang, broken]
    plugins = plugins_of(*(one_hook("health", function) for function in said))
    found = run_virtual(Hooks(plugins).health())
    assert found == {"p2": "no licence", "p3": "health took longer than 1 s.", "p4": "ValueError: no idea"}


def test_a_call_of_the_agents_tool_is_one_more_request() -> None:
    """Each request passes the filter, also those that follow tool results."""
    asked = []

    def count(request: LlmRequest) -> None:
        asked.append(request.messages[-1].role)

    calls: Iterator[tuple[LlmDelta, ...]] = iter([(ToolCall("c1", "nothing", "{}"),), ("Done. ",)])

    async def main() -> None:
        llm = ScriptedLlm(lambda request: next(calls))
        async with pilot(plugins=plugins_of(one_hook("before_llm", count)), llm=llm) as client:
            await client.turn()
            await client.until(ReplyFinished)

    run_virtual(main())
    assert asked == ["user", "tool"]


# -- what a stranger's code may do


@pytest.mark.parametrize("error", [SystemExit("x"), asyncio.CancelledError()])
@pytest.mark.parametrize("hook", ["on_event", "before_llm", "before_tts", "before_storage"])
def test_whoever_wants_to_end_the_process_only_fails(hook: str, error: BaseException) -> None:
    def quits() -> None:
        raise error

    async def quits_later() -> None:
        raise error

    plugins = plugins_of(one_hook(hook, quits_later if hook == "before_llm" else quits))

    async def main() -> None:
        async with pilot(plugins=plugins) as client:
            await client.turn()
            assert (await client.until(ReplyFinished)).reason == "completed"

    run_virtual(main())
    assert plugins.infos["p0"].problems[0].stage == "hook"


class Quitting(ScriptedLlm):
    async def stream(self, request: LlmRequest) -> AsyncGenerator[LlmDelta, None]:
        sys.exit("no licence")
        yield ""


class QuittingTts(ScriptedTts):
    async def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[TtsDelta, None]:
        sys.exit("no licence")
        yield b""


class QuittingStream:
    def feed(self, pcm: bytes) -> None:
        sys.exit("no licence")

    async def flush(self) -> str:
        sys.exit("no licence")

    def reset(self) -> None:
        sys.exit("no licence")

    async def close(self) -> None:
        sys.exit("no licence")


class QuittingStt(ScriptedStt):
    def open(self, *, language: str, on_partial: Callable[[str], None]) -> Any:
        return QuittingStream()


class QuittingJudge:
    wants_text = True

    async def warm_up(self) -> None: ...

    async def close(self) -> None: ...

    async def judge(self, turn: Any) -> float | None:
        sys.exit("no licence")


def quitting_tool() -> Tool:
    async def run(arguments: dict[str, Any], context: Any) -> str:
        sys.exit("no licence")

    return Tool("leave", "Leaves.", run)


@pytest.mark.parametrize("who", ["llm", "tts", "stt", "turn", "tool"])
def test_a_provider_that_quits_in_a_conversation_only_fails(who: str) -> None:
    parts: dict[str, Any] = {
        "llm": {"llm": Quitting(), "fallback": ScriptedLlm()},
        "tts": {"tts": QuittingTts()},
        "stt": {"stt": QuittingStt()},
        "turn": {"turn": {"quitting": QuittingJudge()}},
        "tool": {
            "tools": [quitting_tool()],
            "llm": ScriptedLlm(
                lambda r: ("Done. ",) if r.messages[-1].role == "tool" else (ToolCall("c1", "leave", "{}"),)
            ),
        },
    }

    async def main() -> None:
        async with pilot(**parts[who]) as client:
            await client.turn()
            await client.pause(2000)
            client.write("are you there?")
            await client.pause(3000)
            assert client.session.ended_reason is None
            assert client.events(ReplyFinished) or who in ("stt", "tts")

    run_virtual(main())


def test_a_filter_that_ignores_its_cancellation_is_let_go() -> None:
    async def stubborn() -> None:
        for _ in range(100):
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue

    plugins = plugins_of(one_hook("before_llm", stubborn))

    async def main() -> None:
        hooks = Hooks(plugins, limit_s=0.2)
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(5):
            await hooks.session("ses_1").before_llm(LlmRequest((Message("user", "hi"),)))
        assert asyncio.get_running_loop().time() - began < 1
        assert "longer than 0.2 s" in plugins.infos["p0"].problems[0].what
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            for _ in range(101):
                task.cancel()
                await asyncio.sleep(0)

    run_virtual(main())


def rests(hooks: Hooks, now: list[float], at: float) -> list[float]:
    """How long the hook of `p0` rests after each time that it is called again as soon as it may, from `at` on."""
    session, found = hooks.session("ses_1"), []
    now[0] = at
    for _ in range(6):
        while not hooks.resting("on_event"):
            session.observe(ALL_TEXTS[1])
        began = now[0]
        while hooks.resting("on_event"):
            now[0] += 1
        found.append(now[0] - began)
    return found


def test_rests_get_longer_up_to_ten_minutes() -> None:
    def broken() -> None:
        raise ValueError

    now = [0.0]
    assert rests(Hooks(plugins_of(one_hook("on_event", broken)), now=lambda: now[0]), now, 100) == [
        *(30, 60, 120, 240, 480, 600)
    ]


def test_many_failures_at_once_are_one() -> None:
    async def late() -> None:
        await asyncio.sleep(60)

    plugins = plugins_of(one_hook("before_llm", late))

    async def main() -> None:
        hooks = Hooks(plugins)
        request = LlmRequest((Message("user", "hi"),))
        await asyncio.gather(*(hooks.session(f"ses_{n}").before_llm(request) for n in range(8)))
        assert plugins.infos["p0"].problems[0].count == 8
        assert hooks.resting("before_llm")
        await asyncio.sleep(31)
        assert not hooks.resting("before_llm")

    run_virtual(main())


def test_after_a_rest_one_call_is_the_trial() -> None:
    calls = []

    async def late() -> None:
        calls.append(1)
        await asyncio.sleep(60)

    async def main() -> None:
        hooks = Hooks(plugins_of(one_hook("before_llm", late)))
        request = LlmRequest((Message("user", "hi"),))
        for _ in range(3):
            await hooks.session("ses_1").before_llm(request)
        await asyncio.sleep(31)
        calls.clear()
        await asyncio.gather(*(hooks.session(f"ses_{n}").before_llm(request) for n in range(8)))
        assert len(calls) == 1

    run_virtual(main())


def test_who_blocks_while_it_is_awaited_rests() -> None:
    async def blocks() -> None:
        await asyncio.sleep(0.3)

    plugins = plugins_of(one_hook("before_llm", blocks))

    async def main() -> None:
        hooks = Hooks(plugins)
        asking = asyncio.create_task(hooks.session("ses_1").before_llm(LlmRequest((Message("user", "hi"),))))
        await asyncio.sleep(0.1)
        hooks.rest_awaited("nobody")
        assert not hooks.resting("before_llm")
        hooks.rest_awaited("p0")
        assert hooks.resting("before_llm")
        await asking
        assert hooks.resting("before_llm"), "that it worked in the end changes nothing"
        await asyncio.sleep(31)
        hooks.rest_awaited("p0")
        assert not hooks.resting("before_llm"), "nobody waits for it"

    run_virtual(main())


def card(text: str) -> str:
    return re.sub(r"\d{4} \d{4} \d{4} \d{4}", "[card]", text)


@pytest.mark.parametrize(
    ("heard", "stored"),
    [
        ("Your card is 4111 1111 1111 1111, right?", "Your card is [card], right?"),
        ("Your card is 4111 1111", "Your card is"),
        ("Your card", "Your card"),
        ("", ""),
    ],
)
def test_a_number_that_was_cut_off_is_hidden_as_far_as_the_whole_is_known(heard: str, stored: str) -> None:
    whole = "Your card is 4111 1111 1111 1111, right?"
    finished = events.ReplyFinished(
        reply_id="r", turn_id="t", reason="interrupted", text=whole, heard_text=heard, played_ms=1, estimated=False
    )
    hooks = Hooks(plugins_of(one_hook("before_storage", card)), now=lambda: 0.0).session("ses_1")
    event, _ = hooks.stored(finished, b"")
    assert isinstance(event, events.ReplyFinished)
    assert (event.text, event.heard_text) == ("Your card is [card], right?", stored)


@pytest.mark.parametrize(
    ("arguments", "stored"),
    [
        ('{"card":"\\u0034111 1111 1111 1111"}', '{"card":"[card]"}'),
        ('{"deep":[{"card":"4111 1111 1111 1111"},1,true,null]}', '{"deep":[{"card":"[card]"},1,true,null]}'),
        ('{"pin": 1234}', '{"pin": 1234}'),
        ("{broken 4111 1111 1111 1111", "{broken [card]"),
    ],
)
def test_arguments_stay_json(arguments: str, stored: str) -> None:
    called = events.ToolCalled(reply_id="r", call_id="c", name="pay", arguments=arguments)
    hooks = Hooks(plugins_of(one_hook("before_storage", card)), now=lambda: 0.0).session("ses_1")
    event, _ = hooks.stored(called, b"")
    assert isinstance(event, events.ToolCalled)
    assert event.arguments == stored


def test_the_time_of_a_turn_that_is_not_measured_is_not_the_next_ones() -> None:
    mended: list[bool] = []

    async def slow_at_first(request: LlmRequest) -> None:
        if not mended:
            time.sleep(0.04)  # noqa: ASYNC251 - that is what takes time

    def script(request: LlmRequest) -> Iterable[LlmDelta | Exception]:
        return ("Fine. ",) if mended else (ProviderError("scripted", "no"),)

    async def main() -> None:
        llm = ScriptedLlm(script)
        async with pilot(plugins=plugins_of(one_hook("before_llm", slow_at_first)), llm=llm) as client:
            await client.turn()
            await client.until(ReplyFinished)
            mended.append(True)
            await client.turn()
            metrics = await client.until(TurnMetrics)
            assert metrics.hooks.get("p0", 0) < 40_000

    run_virtual(main())


class WrongLlm(ScriptedLlm):
    async def stream(self, request: LlmRequest) -> AsyncGenerator[LlmDelta, None]:
        yield 5  # type: ignore[misc]


class WrongTts(ScriptedTts):
    async def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[TtsDelta, None]:
        yield "hello"  # type: ignore[misc]


class WrongStream(QuittingStream):
    def feed(self, pcm: bytes) -> None: ...

    def reset(self) -> None: ...

    async def close(self) -> None: ...

    async def flush(self) -> str:
        return 7  # type: ignore[return-value]


class WrongStt(ScriptedStt):
    def open(self, *, language: str, on_partial: Callable[[str], None]) -> Any:
        return WrongStream()


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("llm", {"llm": WrongLlm(), "fallback": ScriptedLlm()}),
        ("tts", {"tts": WrongTts()}),
        ("stt", {"stt": WrongStt()}),
    ],
)
def test_who_gives_a_wrong_type_is_named_and_the_next_is_asked(kind: str, parts: dict[str, Any]) -> None:
    async def main() -> None:
        async with pilot(**parts) as client:
            await client.turn()
            switched = await client.until(ProviderSwitched)
            assert (switched.kind, switched.provider, switched.cause) == (kind, "scripted", "wrong_type")
            if kind == "llm":
                assert (await client.until(ReplyFinished)).text == "Hello there."

    run_virtual(main())


def test_a_section_that_nobody_named_is_not_read() -> None:
    class Options(msgspec.Struct, forbid_unknown_fields=True):
        text: str = ""

    class Watcher:
        @hookimpl
        def register_settings(self) -> dict[str, type[msgspec.Struct]]:
            return {"weather": Options}

    runtime = Runtime(Settings(), plugins=plugins_of(Watcher()))
    assert runtime.section("weather", Options).text == ""
    with pytest.raises(ConfigError, match="wether"):
        runtime.section("wether", Options)


def test_a_mended_hook_is_forgiven() -> None:
    broken = [True]

    def watch() -> None:
        if broken:
            raise ValueError

    now = [0.0]
    plugins = plugins_of(one_hook("on_event", watch))
    hooks = Hooks(plugins, now=lambda: now[0])
    session = hooks.session("ses_1")
    for _ in range(3):
        session.observe(ALL_TEXTS[1])
    assert "It is not called for a while." in plugins.infos["p0"].problems[0].what
    now[0] = 31
    broken.clear()
    session.observe(ALL_TEXTS[1])
    assert plugins.infos["p0"].state == "ok"
    assert plugins.infos["p0"].counts["hook"] == 3, "how often it was is not forgotten"
