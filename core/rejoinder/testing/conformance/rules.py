"""What a rule is, and how it is run: in an event loop of its own, within a limit, with a result for people."""

from __future__ import annotations

import asyncio
import inspect
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar
from unittest import SkipTest

from rejoinder import guard
from rejoinder.errors import ConfigError, RejoinderError, sentence
from rejoinder.testing.conformance.measure import raised_at

T = TypeVar("T")
State = Literal["ok", "failed", "not checked"]
RULE_S = 600.0
"""Longer than this no rule runs."""
_LEAVE_S = 2.0


class Violation(AssertionError):
    """A rule is broken: what was seen, and what its author can do."""

    def __init__(self, what: str, fix: str, **figures: float) -> None:
        super().__init__(f"{sentence(what)} Fix: {sentence(fix)}")
        self.what = sentence(what)
        self.fix = sentence(fix)
        self.figures = figures


class NotChecked(SkipTest):
    """A rule could not be applied here; the text says why. To pytest it is a skipped test."""


class Seen:
    """What a rule that holds has seen, with its measured numbers (the unit is in the name: `longest_block_ms`)."""

    def __init__(self, what: str = "", **figures: float) -> None:
        self.what = what
        self.figures = figures


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its name in kebab-case, what it demands, and the method that checks it."""

    id: str
    demand: str
    check: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one rule. `fix` is "" unless it is broken; `took_s` is how long checking it took."""

    rule: str
    demand: str
    state: State
    what: str
    fix: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    took_s: float = 0.0

    def json(self) -> dict[str, object]:
        """As a JSON object, its numbers rounded."""
        return {
            "rule": self.rule,
            "demand": self.demand,
            "state": self.state,
            "seen": self.what,
            "fix": self.fix,
            "figures": {name: round(value, 2) for name, value in self.figures.items()},
            "took_s": round(self.took_s, 2),
        }


Check = Callable[[Any], "Awaitable[Seen | None] | Seen | None"]


def rule(check: Check) -> Callable[[Any], None]:
    """Make a rule of the method `test_...`, `async` or not; its docstring says what it demands.

    It returns what it has seen, or raises a `Violation`. The rule's name is the method's: `test_first_output` is the
    rule `first-output`.
    """
    name, demand = str(getattr(check, "__name__", "")), inspect.cleandoc(check.__doc__ or "")
    made = Rule(name.removeprefix("test_").replace("_", "-"), demand, check)

    def test(self: Any) -> None:
        __tracebackhide__ = True
        _run(made, self)

    # Not `functools.wraps`: what pytest sees must not be a coroutine function.
    test.__name__, test.__qualname__, test.__doc__ = name, check.__qualname__, demand
    test.__module__ = check.__module__
    test.__rule__ = made  # type: ignore[attr-defined]
    return test


class Suite:
    """A class whose `test_*` methods are rules."""

    @classmethod
    def rules(cls) -> list[Rule]:
        """Its rules, the general ones first."""
        names = {name: None for part in reversed(cls.__mro__) for name in vars(part) if name.startswith("test_")}
        made = (getattr(getattr(cls, name), "__rule__", None) for name in names)
        return [one for one in made if isinstance(one, Rule)]

    def outcomes(self) -> Iterator[Outcome]:
        """Check its rules, one after the other."""
        for one in self.rules():
            yield self.outcome(one)

    def outcome(self, one: Rule) -> Outcome:
        """Check one of its rules."""
        began = time.monotonic()

        def ended(state: State, what: str, fix: str = "", figures: dict[str, float] | None = None) -> Outcome:
            return Outcome(one.id, one.demand, state, what, fix, figures or {}, time.monotonic() - began)

        try:
            seen = _run(one, self)
        except Violation as broken:
            return ended("failed", broken.what, broken.fix, broken.figures)
        except NotChecked as why:
            return ended("not checked", str(why))
        return ended("ok", seen.what, figures=seen.figures)

    def roots(self) -> tuple[Path, ...]:
        """Where the author's code is."""
        return ()


def _run(one: Rule, suite: Any) -> Seen:
    try:
        result = one.check(suite)
        if inspect.iscoroutine(result):
            result = run_in_loop(result)
    except (Violation, NotChecked, ConfigError):
        raise
    except RejoinderError as error:
        raise Violation(
            f"it fails where it should not: {error.explain()}", error.fix or "correct it, or set up what it needs"
        ) from error
    except Exception as error:
        at = raised_at(error, suite.roots())
        raise Violation(f"it raised {type(error).__name__}: {error}{at}", "correct it") from error
    return result if isinstance(result, Seen) else Seen()


def run_in_loop(work: Coroutine[Any, Any, T], limit_s: float = RULE_S) -> T:
    """Run `work` in an event loop of its own; whatever it leaves behind cannot keep this from returning.

    Raises:
        Violation: it was not done within `limit_s`.
    """
    loop: asyncio.AbstractEventLoop
    if sys.platform == "win32":
        loop = asyncio.ProactorEventLoop()
    else:
        loop = asyncio.SelectorEventLoop()
    threads = ThreadPoolExecutor(thread_name_prefix="asyncio")
    loop.set_default_executor(threads)
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(bounded(work, limit_s, "The whole rule"))
    finally:
        try:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left, timeout=_LEAVE_S))
            for task in left:
                if task.done() and not task.cancelled():
                    task.exception()  # it has been looked at
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            threads.shutdown(wait=False, cancel_futures=True)
            loop.close()


async def bounded(work: Awaitable[T], limit_s: float, what: str) -> T:
    """The result of `work`; `what` is called so in the violation if it takes longer.

    Unlike `asyncio.timeout` it does not wait for one that ignores its cancellation.

    Raises:
        Violation: it takes longer than `limit_s`.
    """
    try:
        return await guard.bounded(work, limit_s, what)
    except guard.Late:
        pass
    raise Violation(
        f"{what} was not done within {limit_s:g} s",
        "set a limit to everything you wait for (`asyncio.timeout`), and raise ProviderTimeout when it is over",
    )
