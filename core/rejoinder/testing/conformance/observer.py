"""The rules for observers and filters: they see every event, change none, and cost next to nothing."""

from __future__ import annotations

import asyncio
import inspect
import time
import tracemalloc
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

import msgspec

from rejoinder import events
from rejoinder.events import ServerEvent, SessionEnded, encode
from rejoinder.manager import Impl
from rejoinder.providers import LlmRequest, Message, ToolCall
from rejoinder.testing.conformance.leaks import Leaks
from rejoinder.testing.conformance.live import LiveConformance, texts
from rejoinder.testing.conformance.measure import BLOCK_MS, LoopWatch, raised_at, timed_ms
from rejoinder.testing.conformance.provider import AT_ONCE, TRIES
from rejoinder.testing.conformance.rules import NotChecked, Seen, Violation, bounded, rule
from rejoinder.testing.conformance.subject import OBSERVING

EVENT_MS = 1.0
FILTER_MS = 5.0
EVENTS_PER_RUN = 50
SLOW_MS = 5.0
"""Ten thousand events of a slower one would take minutes."""
BYTES_PER_EVENT = 64.0
"""What an observer may keep of each event in the long run; a list of them would be several hundred."""
_SESSION = 100
_TEXT = "Good morning, how can I help you?"
Filter = Literal["before_llm", "before_tts", "before_storage"]


class ObserverConformance(LiveConformance):
    """What a plugin with `on_event` or filters must do. Set `plugin` in a subclass."""

    hook_ms = 500.0
    """How long an `async` filter may take; `limits.hook_ms` of the server."""

    def wanted(self) -> str:
        """What the plugin must offer."""
        return "observer"

    def hook(self, name: str) -> Impl:
        """The plugin's implementation of the hook.

        Raises:
            NotChecked: it has none.
        """
        found = self.subject().plugins.implementations(name)
        if not found:
            raise NotChecked(f"it does not implement `{name}`")
        return found[0]

    @rule
    def test_observes(self) -> Seen:
        """It implements `on_event` or a filter."""
        found = [name for name in OBSERVING if self.subject().plugins.implementations(name)]
        if not found:
            raise Violation(
                "it implements no hook of an observer", f"write one of {', '.join(OBSERVING)}, with `@hookimpl` above"
            )
        if "on_event" in found and inspect.iscoroutinefunction(self.hook("on_event").function):
            raise Violation(
                "`on_event` is `async`, but nobody awaits it", "write `def on_event`; put events in a queue"
            )
        return Seen(", ".join(found))

    @rule
    async def test_every_event(self) -> Seen:
        """It takes every type of event without raising, and does not change it."""
        hook = self.hook("on_event")
        async with self.running():
            made = every_event()
            for event in made:
                before = encode(event)
                try:
                    hook(session_id="ses_test", event=event)
                except Exception as error:
                    kind = type(event).__struct_config__.tag
                    raise Violation(
                        f"the event {kind} makes it raise {type(error).__name__}: {error}"
                        f"{raised_at(error, self.roots())}",
                        "look at the type of the event first (`isinstance(event, ...)`), and let others pass",
                    ) from error
                if encode(event) != before:
                    raise Violation(
                        f"it changes the event {type(event).__struct_config__.tag}",
                        "copy it (`msgspec.structs.replace`): the same object goes to the clients and the database",
                    )
                await asyncio.sleep(0)
        return Seen(f"{len(made)} events of {len({type(event) for event in made})} types")

    @rule
    async def test_event_is_quick(self) -> Seen:
        """An event takes at most 1 ms."""
        hook = self.hook("on_event")
        async with self.running():
            best = float("inf")
            for _ in range(TRIES):
                took = []
                for event in [*every_event()] * 4:
                    began = time.perf_counter()
                    _quietly(hook, session_id="ses_test", event=event)
                    took.append(timed_ms(began))
                    await asyncio.sleep(0)
                best = min(best, sorted(took)[len(took) // 2])
        if best > EVENT_MS:
            raise Violation(
                f"an event takes {best:.1f} ms (the median)",
                "put it in a queue (`put_nowait`) and write in a task that `startup` makes, or in a thread",
                event_ms=best,
            )
        return Seen(f"{best:.3f} ms", event_ms=best)

    @rule
    async def test_no_leaks(self) -> Seen:
        """Ten thousand events, and filtered requests, leave nothing behind: no tasks, threads, descriptors, memory."""
        found = {name: impls[0] for name in OBSERVING if (impls := self.subject().plugins.implementations(name))}
        hook = found.get("on_event")
        made = every_event()

        async def run(number: int) -> None:
            session = f"ses_{number * EVENTS_PER_RUN // _SESSION}"
            if "before_llm" in found:
                await self._filtered(found["before_llm"], "a question", LlmRequest((Message("user", "hello"),)))
            for name in ("before_tts", "before_storage"):
                if name in found:
                    _quietly(found[name], session_id=session, agent="acme", text="Hello, how are you?")
            for at in range(EVENTS_PER_RUN if hook is not None else 0):
                assert hook is not None
                count = number * EVENTS_PER_RUN + at
                session = f"ses_{count // _SESSION}"
                # A fresh one each time, as in a server: what is kept of it counts.
                last = count % _SESSION == _SESSION - 1
                event = SessionEnded(reason="over") if last else made[count % len(made)]
                event = msgspec.structs.replace(event, seq=count % _SESSION + 1, session_id=session)
                _quietly(hook, session_id=session, event=event)
            await asyncio.sleep(0)

        async with self.running():
            began = time.perf_counter()
            await run(0)
            if (slow := timed_ms(began) / EVENTS_PER_RUN) > SLOW_MS:
                raise NotChecked(f"it takes {slow * EVENTS_PER_RUN:.0f} ms each time, too long to be tried often")
            seen = await Leaks(self.roots(), self.runs, self.most_s).check(run)
            grown = await self._growth(run)
        if grown > BYTES_PER_EVENT:
            raise Violation(
                f"each event leaves {grown:.0f} bytes of memory behind",
                "forget what is of a session at its `session.ended`, and bound what you keep (`deque(maxlen=...)`)",
                bytes_per_event=grown,
            )
        return Seen(f"{seen.what}; {grown:.0f} bytes an event", bytes_per_event=grown, **seen.figures)

    async def _growth(self, run: Any) -> float:
        """Bytes that stay of each event."""
        count = max(20, min(self.runs, 100))
        tracemalloc.start()
        try:
            for number in range(count // 2):
                await run(number)
            await asyncio.sleep(0.05)
            before, _ = tracemalloc.get_traced_memory()
            for number in range(count // 2, count + count // 2):
                await run(number)
            await asyncio.sleep(0.05)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        return max(0.0, (after - before) / (count * EVENTS_PER_RUN))

    @rule
    async def test_before_llm(self) -> Seen:
        """`before_llm` returns an `LlmRequest` or None for whatever is asked, in time."""
        hook = self.hook("before_llm")
        async with self.running():
            for what, request in _requests().items():
                began = time.perf_counter()
                result = await bounded(self._filtered(hook, what, request), 10.0, f"The answer to {what}")
                if result is not None and not isinstance(result, LlmRequest):
                    raise Violation(
                        f"`before_llm` returns {type(result).__name__}",
                        "return the changed request (`dataclasses.replace(request, messages=...)`) or None",
                    )
                took = timed_ms(began)
                if took > self.hook_ms:
                    raise Violation(
                        f"`before_llm` takes {took:.0f} ms",
                        f"answer within {self.hook_ms:g} ms: every answer waits for it",
                    )
        return Seen(f"{len(_requests())} requests")

    async def _filtered(self, hook: Impl, what: str, request: LlmRequest) -> Any:
        try:
            result = hook(session_id="ses_test", agent="acme", request=request)
            return await result if inspect.isawaitable(result) else result
        except Exception as error:
            raise Violation(
                f"{what} makes `before_llm` raise {type(error).__name__}: {error}{raised_at(error, self.roots())}",
                "expect any text, and conversations without messages",
            ) from error

    @rule
    async def test_before_tts(self) -> Seen:
        """`before_tts` returns text or None for whatever is said."""
        return await self._check_texts("before_tts", {"agent": "acme"})

    @rule
    async def test_before_storage(self) -> Seen:
        """`before_storage` returns text or None for whatever is stored; what it has filtered it leaves as it is."""
        return await self._check_texts("before_storage", {})

    async def _check_texts(self, name: Filter, more: dict[str, str]) -> Seen:
        hook = self.hook(name)
        arguments = {"session_id": "ses_test", **more}
        async with self.running():
            for what, text in {**texts(), "a plain text": _TEXT}.items():
                try:
                    result = hook(**arguments, text=text)
                except Exception as error:
                    raise Violation(
                        f"{what} makes `{name}` raise {type(error).__name__}: {error}{raised_at(error, self.roots())}",
                        "expect any text; return None to leave it as it is",
                    ) from error
                if result is not None and not isinstance(result, str):
                    if inspect.iscoroutine(result):
                        result.close()
                    raise Violation(
                        f"`{name}` returns {type(result).__name__}", "return `str` or None; this hook cannot be `async`"
                    )
        return Seen(f"{len(texts()) + 1} texts")

    @rule
    async def test_filters_are_quick(self) -> Seen:
        """A filter does not hold up the event loop: at most 5 ms for a plain text."""
        found: list[tuple[str, Any]] = []
        for name in ("before_llm", "before_tts", "before_storage"):
            for impl in self.subject().plugins.implementations(name)[:1]:
                given: Any = {"request": _requests()["a plain question"]} if name == "before_llm" else {"text": _TEXT}
                found.append((name, lambda impl=impl, given=given: impl(session_id="ses_test", agent="acme", **given)))
        if not found:
            raise NotChecked("it implements no filter")
        worst = 0.0
        async with self.running():
            for name, call in found:
                best, block = float("inf"), float("inf")
                for _ in range(TRIES):
                    took = []
                    async with LoopWatch(self.roots()) as watch:
                        for _ in range(10):
                            began = time.perf_counter()
                            result = call()
                            took.append(timed_ms(began))
                            if inspect.isawaitable(result):
                                await asyncio.ensure_future(_awaited(result))
                            await asyncio.sleep(0)
                    best, block = min(best, sorted(took)[len(took) // 2]), min(block, watch.longest.ms)
                if best > FILTER_MS or block > BLOCK_MS:
                    raise Violation(
                        f"`{name}` holds the event loop up for {max(best, block):.0f} ms",
                        "compile patterns and load models in `startup`; in `before_llm` (`async`) let a thread work",
                        filter_ms=best,
                    )
                worst = max(worst, best)
        return Seen(f"{worst:.2f} ms", filter_ms=worst)

    @rule
    async def test_sessions_are_apart(self) -> Seen:
        """Eight sessions at once get from `before_llm` what each gets alone."""
        hook = self.hook("before_llm")
        asked = [_request(f"Question number {number}") for number in range(AT_ONCE)]

        async def filtered(number: int, prefix: str) -> Any:
            result = hook(session_id=f"{prefix}_{number}", agent="acme", request=asked[number])
            return await result if inspect.isawaitable(result) else result

        async with self.running():
            alone = [await bounded(filtered(n, "ses_a"), 10.0, "A filter") for n in range(AT_ONCE)]
            together = await bounded(
                asyncio.gather(*(filtered(n, "ses_b") for n in range(AT_ONCE))), 10.0, "Eight filters at once"
            )
        if alone != together:
            raise Violation(
                "eight sessions at once get other requests than one after the other",
                "keep what belongs to a session under its `session_id`",
            )
        return Seen(f"{AT_ONCE} at once")


async def _awaited(result: Any) -> Any:
    return await result


def _quietly(hook: Impl, **arguments: Any) -> None:
    """What it raises is told by the rule for every event."""
    try:
        hook(**arguments)
    except Exception:  # noqa: BLE001 - as above
        pass


def _request(text: str) -> LlmRequest:
    return LlmRequest((Message("system", "Be brief."), Message("user", text)))


def _requests() -> dict[str, LlmRequest]:
    call = ToolCall("call_1", "clock", "{oops")
    return {
        "a plain question": _request(_TEXT),
        "no messages": LlmRequest(()),
        "a system message alone": LlmRequest((Message("system", "Be brief."),)),
        "a tool call": LlmRequest(
            (
                Message("user", _TEXT),
                Message("assistant", "", (call,)),
                Message("tool", "noon", tool_call_id="call_1"),
            )
        ),
        **{f"a message with {what}": _request(text) for what, text in texts().items()},
    }


# --- events -----------------------------------------------------------------------------------------------------------


def every_event() -> Sequence[Any]:
    """Every type of event: with the least, with all fields, and with odd texts."""
    made = []
    for kind in get_args(ServerEvent):
        for text in ("hello", "", "\u202e👩‍👩‍👧\x00"):
            made.append(_made(kind, text, required=True))
            made.append(_made(kind, text, required=False))
    return made


def _made(kind: type[msgspec.Struct], text: str, *, required: bool) -> Any:
    hints = typing.get_type_hints(kind, vars(events))
    fields = msgspec.structs.fields(kind)
    return kind(**{one.name: _value(hints[one.name], text) for one in fields if one.required or not required})


def _value(hint: Any, text: str) -> Any:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return parts[0]
    if origin in (typing.Union, types.UnionType):
        return _value(parts[0], text)
    if origin is list:
        return [_value(parts[0], text)]
    if origin is dict:
        return {text: _value(parts[1], text)}
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _made(hint, text, required=False)
    if hint is Any:
        return text
    plain: dict[Any, Any] = {str: text, int: 1, float: 0.5, bool: True}
    return plain[hint]
