"""Calls the hooks of conversations: measures whose they are, keeps slow and failing ones from hurting a call."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar, cast

import msgspec

from rejoinder import events
from rejoinder.breaker import Breaker
from rejoinder.errors import sentence
from rejoinder.events import ServerEvent
from rejoinder.manager import Impl, Plugins
from rejoinder.providers import LlmRequest

log = logging.getLogger(__name__)
T = TypeVar("T")

SLOW_S, BLOCK_S = 0.05, 0.15
"""A hook that holds up the event loop for this long has failed; from the second on it rests at once."""
_FAILURES = 3
"""In a row, then it rests."""
_REST_S, _LONGEST_REST_S = 30.0, 600.0
STARTUP_S, SHUTDOWN_S, HEALTH_S = 10.0, 5.0, 1.0
_ASYNC = ("before_llm",)
TO_A_THREAD = "Slow work belongs into a thread: asyncio.to_thread, or ProviderContext.executor."

_TEXTS: dict[type, tuple[str, ...]] = {
    events.Transcript: ("text",),
    events.TurnCommitted: ("text",),
    events.ReplyFinished: ("text", "heard_text"),
    events.ToolCalled: ("arguments",),
    events.ToolProgress: ("message",),
    events.ToolReturned: ("result",),
    events.Interruption: ("text",),
    events.Error: ("message", "fix"),
}
"""What is said in events, for redaction; that of `reply.text` comes in pieces."""


class Hooks:
    """The hooks of one process. `limit_s` is how long an `async` filter may take.

    One that fails three times in a row, or blocks the event loop for long, rests for half a minute, then longer. What
    was wrong is kept in `plugins`. `now` is a monotonic clock in seconds; None takes the running loop's.
    """

    def __init__(self, plugins: Plugins, limit_s: float = 0.5, now: Callable[[], float] | None = None) -> None:
        self.plugins = plugins
        self.limit_s = limit_s
        self.totals: dict[tuple[str, str], int] = {}
        """Nanoseconds that each plugin's implementation of each hook has taken."""
        self._blocked: dict[str, float] = {}
        self._breaker = Breaker(_FAILURES, _REST_S, _LONGEST_REST_S, now)

    def session(self, session_id: str, agent: str = "") -> SessionHooks:
        """The hooks of one conversation."""
        return SessionHooks(self, session_id, agent)

    def active(self, hook: str) -> Iterable[Impl]:
        """Who is to be called now."""
        impls = self.plugins.implementations(hook)
        return [impl for impl in impls if not self._breaker.rests(hook, impl.plugin)] if impls else ()

    def resting(self, hook: str) -> bool:
        """Whether somebody who implements `hook` is not to be called now."""
        return any(self._breaker.rests(hook, impl.plugin) for impl in self.plugins.implementations(hook))

    def count(self, impl: Impl, ns: int) -> None:
        """Add up the time of a call."""
        key = impl.plugin, impl.hook
        self.totals[key] = self.totals.get(key, 0) + ns

    def held(self, impl: Impl, ns: int) -> None:
        """A call held up the event loop for so long."""
        seconds = ns / 1e9
        if seconds < SLOW_S:
            return
        self._blocked[impl.plugin] = seconds
        text = f"{impl.hook} held up the event loop, and with it every call, for {seconds * 1000:.0f} ms"
        self.plugins.report(impl.plugin, "block", impl.hook, text, fix=TO_A_THREAD, details=_place(impl))
        self._failed(impl, at_once=seconds >= BLOCK_S)

    def blamed(self, plugin: str, seconds: float) -> bool:
        """Whether the newest time that the loop was held up, for `seconds`, is known to be a hook's of `plugin`."""
        known = self._blocked.pop(plugin, 0.0)
        return known > seconds / 2

    def raised(self, impl: Impl, error: BaseException | str) -> None:
        """A call failed."""
        self.plugins.report(impl.plugin, "hook", impl.hook, error)
        self._failed(impl)

    def worked(self, impl: Impl) -> None:
        """A call did what it is there for."""
        self._breaker.worked(impl.hook, impl.plugin)

    def _failed(self, impl: Impl, at_once: bool = False) -> None:
        if at_once:
            self._breaker.bench(impl.hook, impl.plugin, _REST_S)
        else:
            self._breaker.failed(impl.hook, impl.plugin)

    # -- a plugin's life

    async def startup(self, runtime: object) -> None:
        """Let every plugin get ready, one after the other; what fails is remembered."""
        for impl in self.plugins.implementations("startup"):
            await self._life(impl, "startup", STARTUP_S, runtime=runtime)

    async def shutdown(self, runtime: object) -> None:
        """Let every plugin free what it has, in reverse order."""
        for impl in reversed(self.plugins.implementations("shutdown")):
            await self._life(impl, "shutdown", SHUTDOWN_S, runtime=runtime)

    async def _life(self, impl: Impl, stage: Any, limit_s: float, runtime: object) -> None:
        try:
            await _settled(impl(runtime=runtime), limit_s)
        except Exception as error:  # noqa: BLE001 - a stranger may raise anything; the server goes on
            self.plugins.report(impl.plugin, stage, impl.hook, _late(error, impl, limit_s))

    async def health(self) -> dict[str, str]:
        """What plugins say is not well, by name; all are asked at once."""
        impls = self.plugins.implementations("health")

        async def ask(impl: Impl) -> str:
            try:
                return cast(str, await _settled(impl(), HEALTH_S)) or ""
            except Exception as error:  # noqa: BLE001 - as above
                late = _late(error, impl, HEALTH_S)
                return late if isinstance(late, str) else f"{type(late).__name__}: {late}"

        said = await asyncio.gather(*map(ask, impls))
        return {impl.plugin: text for impl, text in zip(impls, said, strict=True) if text}


class SessionHooks:
    """The hooks of one conversation with `agent`, which may change. None of its methods raises."""

    def __init__(self, hooks: Hooks, session_id: str, agent: str) -> None:
        self.agent = agent
        self._hooks = hooks
        self._session_id = session_id
        self._spent: dict[str, int] = {}

    def spent(self) -> dict[str, int]:
        """Microseconds that each plugin's hooks took in this conversation since this was asked last."""
        spent, self._spent = self._spent, {}
        return {plugin: us for plugin, ns in spent.items() if (us := round(ns / 1000))}

    def _took(self, impl: Impl, ns: int) -> None:
        self._hooks.count(impl, ns)
        self._spent[impl.plugin] = self._spent.get(impl.plugin, 0) + ns

    def _call(self, impl: Impl, kind: type[T] | tuple[type, ...], **arguments: Any) -> tuple[bool, T | None]:
        """What a synchronous `impl` returns, and whether it did what it is there for."""
        failure: Exception | None = None
        result = None
        started = time.perf_counter_ns()
        try:
            result = impl(session_id=self._session_id, agent=self.agent, **arguments)
            if inspect.iscoroutine(result) and impl.hook not in _ASYNC:
                result.close()
                raise TypeError(f"{impl.hook} must not be async: nobody would wait for it")
            if not (result is None or isinstance(result, kind)):
                raise TypeError(f"{impl.hook} must not return {type(result).__name__}")
        except Exception as error:  # noqa: BLE001 - a stranger may raise anything; the call goes on
            failure = error
        took = time.perf_counter_ns() - started
        self._took(impl, took)
        if failure is not None:
            self._hooks.raised(impl, failure)
        elif took < SLOW_S * 1e9 and not inspect.isawaitable(result):
            self._hooks.worked(impl)
        self._hooks.held(impl, took)
        return failure is None, None if failure else result

    def observe(self, event: ServerEvent) -> None:
        """Show `event` to whoever wants to see it."""
        for impl in self._hooks.active("on_event"):
            self._call(impl, object, event=event)

    @property
    def changes_prompts(self) -> bool:
        """Whether what the LLM will be sent is not known before it is asked."""
        return bool(self._hooks.plugins.implementations("before_llm"))

    async def before_llm(self, request: LlmRequest) -> LlmRequest:
        """`request` as plugins want the LLM to be sent."""
        for impl in self._hooks.active("before_llm"):
            worked, result = self._call(impl, (LlmRequest, Awaitable), request=request)
            if worked and inspect.isawaitable(result):
                result = await self._in_time(impl, result)
            if isinstance(result, LlmRequest):
                request = result
        return request

    async def _in_time(self, impl: Impl, work: Awaitable[Any]) -> LlmRequest | None:
        limit_s = self._hooks.limit_s
        started = time.perf_counter_ns()
        try:
            result = await _settled(work, limit_s)
            if not (result is None or isinstance(result, LlmRequest)):
                raise TypeError(f"{impl.hook} must return an LlmRequest or None, not {type(result).__name__}")
        except Exception as error:  # noqa: BLE001 - as in `_call`
            self._hooks.raised(impl, _late(error, impl, limit_s))
            return None
        finally:
            self._took(impl, time.perf_counter_ns() - started)
        self._hooks.worked(impl)
        return result

    def before_tts(self, text: str) -> str:
        """`text` as plugins want it to be spoken; "" for not at all."""
        for impl in self._hooks.active("before_tts"):
            _, result = self._call(impl, str, text=text)
            text = text if result is None else result
        return text

    def stored(self, event: ServerEvent, data: bytes) -> tuple[ServerEvent, bytes]:
        """`event` and its JSON as they may be stored."""
        if not self._hooks.plugins.implementations("before_storage"):
            return event, data
        if isinstance(event, events.ReplyText):
            changes = {"delta": ""}
        elif isinstance(event, events.Transcript) and not event.final:
            changes = {"text": ""}
        else:
            changes = {name: self._redacted(getattr(event, name)) for name in _TEXTS.get(type(event), ())}
        if not changes:
            return event, data
        event = msgspec.structs.replace(event, **changes)
        return event, events.encode(event)

    def _redacted(self, text: str) -> str:
        if not text:
            return text
        if self._hooks.resting("before_storage"):
            return ""
        for impl in self._hooks.active("before_storage"):
            worked, result = self._call(impl, str, text=text)
            if not worked:
                # Nobody knows what it would have hidden.
                return ""
            text = text if result is None else events.encodable(result)
        return text


async def _settled(result: Any, limit_s: float) -> Any:
    """`result`, waited for if it is to be waited for."""
    if not inspect.isawaitable(result):
        return result
    async with asyncio.timeout(limit_s):
        return await result


def _late(error: Exception, impl: Impl, limit_s: float) -> Exception | str:
    if isinstance(error, TimeoutError):
        return sentence(f"{impl.hook} took longer than {limit_s:g} s")
    return error


def _place(impl: Impl) -> str:
    code = getattr(impl.function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(impl.function)
