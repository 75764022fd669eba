"""Calls the hooks of conversations: measures whose they are, keeps slow and failing ones from hurting a call."""

from __future__ import annotations

import asyncio
import inspect
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import msgspec

from rejoinder import events
from rejoinder.breaker import Breaker
from rejoinder.events import ServerEvent
from rejoinder.guard import FAULTS, Late, Quit, bounded
from rejoinder.manager import MAY_BE_ASYNC, Impl, Plugins, Stage
from rejoinder.providers import LlmRequest

T = TypeVar("T")

SLOW_S, BLOCK_S = 0.05, 0.15
"""A hook that holds up the event loop for this long has failed; from the second on it rests at once."""
_FAILURES = 3
"""In a row, then it rests."""
_REST_S, _LONGEST_REST_S = 30.0, 600.0
STARTUP_S, SHUTDOWN_S, HEALTH_S = 10.0, 5.0, 1.0
_LONGEST_HEALTH = 500
_BLAMED_S = 1.0
"""So long it is known that a block was a hook's."""
TO_A_THREAD = "Slow work belongs into a thread: asyncio.to_thread, or ProviderContext.executor."

_TEXTS: dict[type, tuple[str, ...]] = {
    events.Transcript: ("text",),
    events.TurnCommitted: ("text",),
    events.ReplyFinished: ("text",),
    events.ToolCalled: ("name", "arguments"),
    events.ToolProgress: ("message",),
    events.ToolReturned: ("name", "result"),
    events.Error: ("message", "fix"),
    events.SessionEnded: ("reason",),
}
"""What is said in events, for redaction."""
_PIECES: dict[type, str] = {events.ReplyText: "delta", events.Interruption: "text"}
"""Texts that may end in the middle of what is to be hidden."""


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
        self.now = now or _now
        self._awaited: Counter[tuple[str, str]] = Counter()
        self._blocked: dict[str, tuple[float, float]] = {}
        self._breaker = Breaker(_FAILURES, _REST_S, _LONGEST_REST_S, self.now, self._mended)

    def _mended(self, hook: str, plugin: str, error: Exception | None) -> None:
        if error is None:
            self.plugins.mended(plugin, "hook", hook)
            self.plugins.mended(plugin, "block", hook)

    def session(self, session_id: str, agent: str = "") -> SessionHooks:
        """The hooks of one conversation."""
        return SessionHooks(self, session_id, agent)

    def active(self, hook: str) -> Iterable[Impl]:
        """Who is to be called now; of those that have rested one call is a trial."""
        impls = self.plugins.implementations(hook)
        if not impls:
            return ()
        found = [impl for impl in impls if not self._breaker.rests(hook, impl.plugin)]
        for impl in found:
            self._breaker.asked(hook, impl.plugin)
        return found

    def resting(self, hook: str) -> bool:
        """Whether somebody who implements `hook` is not to be called now."""
        return any(self._breaker.rests(hook, impl.plugin) for impl in self.plugins.implementations(hook))

    def count(self, impl: Impl, ns: int) -> None:
        """Add up the time of a call."""
        key = impl.plugin, impl.hook
        self.totals[key] = self.totals.get(key, 0) + ns

    def ended(self, impl: Impl, since: float, failure: BaseException | str | None, held_s: float) -> None:
        """A call is over that began at `since`: it failed or not, and held up the event loop for `held_s`."""
        if held_s >= BLOCK_S:
            self._breaker.bench(impl.hook, impl.plugin, _REST_S)
        elif failure is not None or held_s >= SLOW_S:
            self._breaker.failed(impl.hook, impl.plugin, since=since)
        else:
            self._breaker.worked(impl.hook, impl.plugin, since)
            return
        rest = " It is not called for a while." if self._breaker.rests(impl.hook, impl.plugin) else ""
        if failure is not None:
            # What was said may stand in the text of an exception, so that is for the details only.
            what, details = failure if isinstance(failure, str) else f"{impl.hook} raised {type(failure).__name__}", ""
            if isinstance(failure, BaseException):
                what += f"{_raised_at(failure)}."
                details = "".join(traceback.format_exception(failure))
            self.plugins.report(impl.plugin, "hook", impl.hook, what + rest, details=details)
        if held_s >= SLOW_S:
            self._blocked[impl.plugin] = (time.monotonic(), held_s)
            text = f"{impl.hook} held up the event loop, and with it every call, for {held_s * 1000:.0f} ms.{rest}"
            self.plugins.report(impl.plugin, "block", impl.hook, text, fix=TO_A_THREAD, details=_place(impl))

    def blamed(self, plugin: str, seconds: float) -> bool:
        """Whether it is known that a hook of `plugin` has just held up the loop, for about `seconds`."""
        at, known = self._blocked.pop(plugin, (0.0, 0.0))
        return known > seconds / 2 and time.monotonic() - at < _BLAMED_S

    def awaiting(self, impl: Impl, more: int) -> None:
        """So many `more` (or fewer) calls of `impl` are waited for."""
        self._awaited[impl.plugin, impl.hook] += more

    def rest_awaited(self, plugin: str) -> None:
        """`plugin` has held up the loop: let those of its hooks rest that somebody waits for."""
        for (owner, hook), count in self._awaited.items():
            if owner == plugin and count:
                self._breaker.bench(hook, owner, _REST_S)

    # -- a plugin's life

    async def startup(self, runtime: object) -> None:
        """Let every plugin get ready, one after the other; what fails is remembered."""
        for impl in self.plugins.implementations("startup"):
            await self._life(impl, "startup", STARTUP_S, runtime)

    async def shutdown(self, runtime: object) -> None:
        """Let every plugin free what it has, in reverse order."""
        for impl in reversed(self.plugins.implementations("shutdown")):
            await self._life(impl, "shutdown", SHUTDOWN_S, runtime)

    async def _life(self, impl: Impl, stage: Stage, limit_s: float, runtime: object) -> None:
        try:
            await _settled(impl, limit_s, runtime=runtime)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger may raise anything; the server goes on
            self.plugins.report(impl.plugin, stage, impl.hook, _late(error, impl))

    async def health(self) -> dict[str, str]:
        """What plugins say is not well, by name; all are asked at once."""
        impls = self.plugins.implementations("health")

        async def ask(impl: Impl) -> str:
            try:
                said = await _settled(impl, HEALTH_S)
                return str(said)[:_LONGEST_HEALTH] if said else ""
            except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
                late = _late(error, impl)
                return late if isinstance(late, str) else f"{type(late).__name__}: {late}"[:_LONGEST_HEALTH]

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
        """What `impl` returns, and whether that is what it is there for; it may still have to be awaited."""
        failure: BaseException | str | None = None
        result = None
        since = self._hooks.now()
        started = time.perf_counter_ns()
        try:
            result = impl(session_id=self._session_id, agent=self.agent, **arguments)
            if inspect.iscoroutine(result) and impl.hook not in MAY_BE_ASYNC:
                result.close()
                failure = f"{impl.hook} must not be async: nobody would wait for it."
            elif not (result is None or isinstance(result, kind)):
                failure = f"{impl.hook} must not return {type(result).__name__}."
        except FAULTS as error:
            failure = error
        took = time.perf_counter_ns() - started
        self._took(impl, took)
        awaited = failure is None and impl.hook in MAY_BE_ASYNC and inspect.isawaitable(result)
        if not awaited or took >= SLOW_S * 1e9:
            self._hooks.ended(impl, since, failure, took / 1e9)
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
        since, started = self._hooks.now(), time.perf_counter_ns()
        failure: BaseException | str | None = None
        result = None
        self._hooks.awaiting(impl, 1)
        try:
            result = await bounded(work, self._hooks.limit_s, f"{impl.hook} of {impl.plugin}")
            if not (result is None or isinstance(result, LlmRequest)):
                failure = f"{impl.hook} must return an LlmRequest or None, not {type(result).__name__}."
        except Exception as error:  # noqa: BLE001 - as in `_call`
            failure = _late(error, impl)
        finally:
            self._hooks.awaiting(impl, -1)
            self._took(impl, time.perf_counter_ns() - started)
        self._hooks.ended(impl, since, failure, 0.0)
        return result if failure is None else None

    def before_tts(self, text: str) -> str:
        """`text` as plugins want it to be spoken; "" for not at all."""
        for impl in self._hooks.active("before_tts"):
            _, result = self._call(impl, str, text=text)
            text = text if result is None else result
        return text

    def stored(self, event: ServerEvent, data: bytes) -> tuple[ServerEvent, bytes]:
        """`event` and its JSON as they may be stored."""
        if not self.changes_storage:
            return event, data
        kind = type(event)
        changes: dict[str, str] = {}
        if kind in _PIECES:
            changes[_PIECES[kind]] = ""
        elif isinstance(event, events.Transcript) and not event.final:
            changes["text"] = ""
        else:
            for name in _TEXTS.get(kind, ()):
                redact = self._redacted_json if name in ("arguments", "result") else self._redacted
                changes[name] = redact(getattr(event, name))
        if isinstance(event, events.ReplyFinished):
            changes["heard_text"] = self._redacted_beginning(event.heard_text, changes["text"])
        if not changes:
            return event, data
        event = msgspec.structs.replace(event, **changes)
        return event, events.encode(event)

    @property
    def changes_storage(self) -> bool:
        """Whether plugins hide some of what is stored."""
        return bool(self._hooks.plugins.implementations("before_storage"))

    def stored_text(self, text: str, *, is_json: bool = False) -> str:
        """`text` as it may be stored; `is_json`: it is JSON in most cases, and then stays so. "": not at all."""
        return self._redacted_json(text) if is_json else self._redacted(text)

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

    def _redacted_beginning(self, heard: str, whole: str) -> str:
        """What was `heard` of a text that is stored as `whole`: it may end in the middle of what is hidden there."""
        heard = self._redacted(heard)
        if whole.startswith(heard):
            return heard
        same = next((at for at, (a, b) in enumerate(zip(whole, heard, strict=False)) if a != b), len(whole))
        return heard[:same].rpartition(" ")[0]

    def _redacted_json(self, text: str) -> str:
        """`text`, which is JSON in most cases: then it stays JSON."""
        if text[:1] not in ("{", "["):
            return self._redacted(text)
        try:
            value = msgspec.json.decode(text)
        except msgspec.DecodeError:
            return self._redacted(text)
        changed = self._redacted_value(value)
        return text if changed == value else msgspec.json.encode(changed).decode()

    def _redacted_value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._redacted(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            text = str(value)
            redacted = self._redacted(text)
            return value if redacted == text else redacted
        if isinstance(value, list):
            return [self._redacted_value(item) for item in value]
        if isinstance(value, dict):
            return {self._redacted(key): self._redacted_value(item) for key, item in value.items()}
        return value


def _now() -> float:
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        # Plain tests of filters have none.
        return time.monotonic()


async def _settled(impl: Impl, limit_s: float, **arguments: Any) -> Any:
    """What `impl` returns, waited for if it is to be waited for.

    Raises:
        Late: it took too long.
        Quit: it cancelled itself.
    """
    try:
        result = impl(**arguments)
    except asyncio.CancelledError:
        raise Quit("it cancelled itself") from None
    return await bounded(result, limit_s, f"{impl.hook} of {impl.plugin}") if inspect.isawaitable(result) else result


def _late(error: BaseException, impl: Impl) -> BaseException | str:
    if isinstance(error, Late):
        return f"{impl.hook} took longer than {error.limit_s:g} s."
    return error


def _raised_at(error: BaseException) -> str:
    """The innermost place in its traceback, with ` at ` before it."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" at {frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""


def _place(impl: Impl) -> str:
    code = getattr(impl.function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(impl.function)
