"""The rules for providers of every kind: registration, settings, loading, leaks, concurrent use, bad input, shutdown.

The suite of a kind says what using it is (`use`); those that work asynchronously also have the rules of `Asynchronous`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from rejoinder.errors import ConfigError, RejoinderError
from rejoinder.providers import KINDS, Capabilities, Kind, Provider
from rejoinder.supply import missing_parts
from rejoinder.testing.conformance.leaks import Leaks, check_cycles
from rejoinder.testing.conformance.measure import BLOCK_MS, Block, LoopWatch, raised_at, timed_ms
from rejoinder.testing.conformance.plugin import PluginConformance
from rejoinder.testing.conformance.rules import NotChecked, Seen, Violation, bounded, rule
from rejoinder.testing.conformance.settings import check_settings
from rejoinder.testing.conformance.subject import (
    Subject,
    Workshop,
    first_block,
    warm,
    watched_warm_up,
)

AT_ONCE = 8
CANCEL_MS = 50.0
CREATE_MS = 20.0
WARM_UP_BLOCK_MS = 100.0
FIRST_BLOCK_MS = 500.0
"""In the first `warm_up` of a process: what is imported there blocks in parts even from a thread."""
USE_S = 60.0
_ENDS_S = 10.0
BAD_INPUT_S = 20.0
TRIES = 3
_NAME = re.compile(r"[a-z0-9]+([_-][a-z0-9]+)*")
_SUMMARY = 120
_CYCLES = 3

Bad = tuple[str, Callable[[Any], Awaitable[object]]]
"""What is wrong with an input, and what gives it to a provider."""


class ProviderConformance(PluginConformance):
    """The rules for a provider. Set `plugin` and `provider` in a subclass."""

    kind: Kind
    provider = ""
    """Its name as registered."""
    close_ms = 2000.0
    """`close` must be done by then."""

    def wanted(self) -> str:
        """What it must offer."""
        return f"{self.kind}:{self.provider}"

    def offer(self) -> tuple[Subject, Provider]:
        """The plugin and the provider it offers.

        Raises:
            ConfigError: the plugin cannot be loaded.
            NotChecked: it does not offer it; there is a rule of its own for that.
        """
        subject = self.subject()
        found = self._found(subject)
        if found is None:
            raise NotChecked(f"the plugin {subject.name!r} does not offer {self.wanted()!r}")
        return subject, found

    def _found(self, subject: Subject) -> Provider | None:
        return next((one for one in subject.providers() if (one.kind, one.name) == (self.kind, self.provider)), None)

    def ready(self) -> AbstractAsyncContextManager[Any]:
        """The provider, made, warmed up and closed in the end."""
        subject, offer = self.offer()
        return warm(subject, offer, self.settings)

    async def use(self, provider: Any, number: int = 0) -> Any:
        """Use `provider` once, for the input of that number; returns what it gave."""
        raise NotImplementedError

    def differs(self, alone: Any, together: Any) -> str:
        """What is different about the results of the same input alone and together with others; "" if nothing is."""
        return "" if alone == together else f"{alone!r} alone, {together!r} together with others"

    def bad_inputs(self) -> Sequence[Bad]:
        """Inputs that are not what a provider expects, but that users and clients send all the same."""
        return ()

    @rule
    def test_registers(self) -> Seen:
        """It is registered under a proper name, with a line of summary and capabilities."""
        subject = self.subject()
        offer = self._found(subject)
        if offer is None:
            known = ", ".join(f"{one.kind}:{one.name}" for one in subject.providers()) or "nothing"
            raise Violation(
                f"the plugin {subject.name!r} does not offer {self.wanted()!r}, but {known}",
                subject.problem or "correct `provider`, or return it from `register_providers`",
            )
        if not _NAME.fullmatch(offer.name) or len(offer.name) > 64:
            raise Violation(
                f"the name {offer.name!r} cannot stand in settings and environment variables",
                "use lower-case letters and digits, words joined by one _ or -",
            )
        if offer.kind not in KINDS:
            raise Violation(f"there is no kind {offer.kind!r}", f"use one of {', '.join(KINDS)}")
        if not offer.summary.strip() or "\n" in offer.summary or len(offer.summary) > _SUMMARY:
            raise Violation(
                f"the summary {offer.summary!r} is not one line of 1 to {_SUMMARY} characters",
                "say in a few words what people get: it is shown in `rejoinder plugins list`",
            )
        if not isinstance(offer.capabilities, Capabilities):
            raise Violation("its capabilities are no `Capabilities`", "pass `Capabilities(...)`, or leave them out")
        for tag in offer.capabilities.languages or ():
            if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*", tag):
                raise Violation(f"the language {tag!r} is no language tag", "use BCP 47 tags: `en`, `de`, `pt-BR`")
        return Seen(f"{offer.kind}:{offer.name}")

    @rule
    def test_settings(self) -> Seen:
        """Its settings all have defaults, refuse unknown keys, can come from the environment and hide secrets."""
        _, offer = self.offer()
        return Seen(check_settings(offer.name, offer.settings))

    @rule
    async def test_create_is_quick(self) -> Seen:
        """`create` is quick and loads nothing."""
        subject, offer = self.offer()
        took = []
        for _ in range(TRIES):
            workshop = Workshop(subject, offer, self.settings)
            try:
                context = workshop.context()
            except ConfigError as error:
                raise NotChecked(f"its settings cannot be read: {error.explain()}") from None
            began = time.perf_counter()
            try:
                provider: Any = offer.create(context)
            except RejoinderError as error:
                raise Violation(
                    f"`create` raised {error.explain()}",
                    "check what may be wrong or missing in `warm_up`: `create` is also called only to list voices",
                ) from None
            except Exception as error:
                at = raised_at(error, subject.roots)
                raise Violation(f"`create` raised {type(error).__name__}: {error}{at}", "correct it") from error
            took.append(timed_ms(began))
            await _close_quietly(provider)
            await workshop.close()
        if min(took) > CREATE_MS:
            raise Violation(
                f"`create` takes {min(took):.0f} ms",
                "only keep what it is given; load in `warm_up`",
                create_ms=min(took),
            )
        return Seen(f"{min(took):.1f} ms", create_ms=min(took))

    @rule
    async def test_warm_up(self) -> Seen:
        """`warm_up` loads off the event loop, may be called twice, and fails with a RejoinderError that helps."""
        subject, offer = self.offer()
        blocks, took = [], []
        for _ in range(TRIES):
            workshop = Workshop(subject, offer, self.settings)
            try:
                # If `create` raises, the rule for that says so.
                provider: Any = _made(workshop)
                began = time.perf_counter()
                blocks.append(await _warmed(subject, offer, provider))
                took.append(timed_ms(began))
                await _warmed(subject, offer, provider)
                await _close_quietly(provider)
            finally:
                await workshop.close()
        first, block = first_block(subject, offer), min(blocks, key=lambda one: one.ms)
        if block.ms > WARM_UP_BLOCK_MS or first.ms > FIRST_BLOCK_MS:
            worst = first if first.ms > FIRST_BLOCK_MS else block
            raise Violation(
                f"`warm_up` blocks the event loop for {worst.ms:.0f} ms{_at(worst)}; it also runs while calls are live",
                "load and import in a thread: `await asyncio.to_thread(self._load)`",
                longest_block_ms=worst.ms,
            )
        return Seen(f"{min(took):.0f} ms", warm_up_ms=min(took), longest_block_ms=block.ms)

    @rule
    async def test_no_leaks(self) -> Seen:
        """Many runs, half of them cut off in the middle, leave no tasks, threads or descriptors behind."""
        async with self.ready() as provider:
            leaks = Leaks(self.roots(), self.runs, self.most_s)
            return await leaks.check(self.spend(provider))

    def spend(self, provider: Any) -> Callable[[int], Awaitable[None]]:
        """What is done in one run of the search for leaks."""

        async def run(number: int) -> None:
            await _known(self.use(provider, number % AT_ONCE))

        return run

    @rule
    async def test_concurrent_use(self) -> Seen:
        """Eight uses at once give what each gives alone."""
        async with self.ready() as provider:
            alone = [await bounded(self.use(provider, n), USE_S, "One use") for n in range(AT_ONCE)]
            uses = asyncio.gather(*(self.use(provider, n) for n in range(AT_ONCE)), return_exceptions=True)
            together = await bounded(uses, USE_S, "Eight uses at once")
            for number, (one, other) in enumerate(zip(alone, together, strict=True)):
                if isinstance(other, BaseException):
                    at = raised_at(other, self.roots())
                    problem = f"{type(other).__name__}: {other}{at}"
                else:
                    problem = self.differs(one, other)
                if problem:
                    raise Violation(
                        f"of eight uses at once, number {number + 1} went wrong: {problem}",
                        "keep what belongs to one stream in an object of its own; let what cannot run twice at once "
                        "wait in a pool (`context.executor(name, 1)`)",
                    )
        return Seen(f"{AT_ONCE} at once")

    @rule
    async def test_bad_input(self) -> Seen:
        """Bad input gives a RejoinderError or a plain result within a bounded time, and the next use works."""
        inputs = self.bad_inputs()
        if not inputs:
            raise NotChecked("there is no bad input for this kind")
        async with self.ready() as provider:
            for what, give in inputs:
                try:
                    await bounded(give(provider), BAD_INPUT_S, f"The answer to {what}")
                except (Violation, NotChecked):
                    raise
                except RejoinderError:
                    pass
                except Exception as error:
                    raise Violation(
                        f"{what} makes it raise {type(error).__name__}: {error}{raised_at(error, self.roots())}",
                        "catch it and raise a ProviderError (ProviderRejected where trying again would not help), or "
                        "give an empty result",
                    ) from error
            try:
                await bounded(self.use(provider, 0), USE_S, "The use after bad input")
            except RejoinderError as error:
                raise Violation(
                    f"after bad input it does not work any more: {error.explain()}", "start each use afresh"
                ) from None
        return Seen(f"{len(inputs)} kinds of bad input")

    @rule
    async def test_shutdown(self) -> Seen:
        """`close` is done within 2 s, also in the middle of a use, frees what is held, and may be called twice."""
        subject, offer = self.offer()
        async with self.ready():
            pass  # once for what a process keeps: libraries, their thread pools

        took = []

        async def cycle(number: int) -> None:
            workshop = Workshop(subject, offer, self.settings)
            provider: Any = workshop.make()
            await provider.warm_up()
            interrupted = asyncio.ensure_future(self.open_use(provider)) if number == _CYCLES - 1 else None
            if interrupted is None:
                await _known(self.use(provider, 0))
            else:
                await asyncio.sleep(0.02)
            began = time.perf_counter()
            try:
                await bounded(provider.close(), 2 * self.close_ms / 1000, "`close`")
                took.append(timed_ms(began))
                if interrupted is not None:
                    await _ended(interrupted, self.roots())
                await bounded(provider.close(), 2 * self.close_ms / 1000, "A second `close`")
            except Violation:
                raise
            except Exception as error:
                raise Violation(
                    f"`close` raised {type(error).__name__}: {error}{raised_at(error, self.roots())}",
                    "let `close` free what there is, and do nothing where there is nothing (left)",
                ) from error
            finally:
                await workshop.close()

        await check_cycles(cycle, _CYCLES)
        if min(took) > self.close_ms:
            raise Violation(
                f"`close` takes {min(took):.0f} ms",
                "do not wait for work that nobody wants any more",
                close_ms=min(took),
            )
        return Seen(f"{min(took):.0f} ms", close_ms=min(took))

    async def open_use(self, provider: Any) -> object:
        """A use that is in its middle when the provider is closed."""
        return await self.use(provider, 0)


class Asynchronous(ProviderConformance):
    """The rules for providers whose work is awaited: the deadline, cancellation, and a loop that never stands still."""

    first_output_ms = 3000.0
    """The first output must be there by then."""

    async def first_output(self, provider: Any) -> float:
        """How long the first output takes, in ms."""
        began = time.perf_counter()
        await self.use(provider, 0)
        return timed_ms(began)

    @rule
    async def test_first_output(self) -> Seen:
        """The first output comes before the deadline."""
        async with self.ready() as provider:
            took = min([await bounded(self.first_output(provider), USE_S, "The first output") for _ in range(TRIES)])
        if took > self.first_output_ms:
            raise Violation(
                f"the first output takes {took:.0f} ms, the deadline is {self.first_output_ms:.0f} ms",
                "give out the first piece as soon as it is there, and load everything in `warm_up`",
                first_output_ms=took,
            )
        return Seen(f"{took:.0f} ms to the first output", first_output_ms=took)

    @rule
    async def test_no_block(self) -> Seen:
        """It never blocks the event loop for more than 20 ms."""
        async with self.ready() as provider:
            await _known(self.use(provider, 0))
            blocks = []
            for _ in range(TRIES):
                async with LoopWatch(self.roots()) as watch:
                    for number in range(2):
                        await asyncio.ensure_future(_known(self.use(provider, number)))
                blocks.append(watch.longest)
        block = min(blocks, key=lambda one: one.ms)
        if block.ms > BLOCK_MS:
            raise Violation(
                f"it blocks the event loop for {block.ms:.0f} ms{_at(block)}: everybody else's sound stops meanwhile",
                "do that in a thread: `await loop.run_in_executor(context.executor(name, workers), function)`, or "
                "`await asyncio.to_thread(function)`; wait with `await asyncio.sleep`, not `time.sleep`",
                longest_block_ms=block.ms,
            )
        return Seen(f"longest {block.ms:.1f} ms", longest_block_ms=block.ms)

    @rule
    async def test_cancellation(self) -> Seen:
        """A use that is cancelled ends within 50 ms, and the next one works."""
        async with self.ready() as provider:
            began = time.perf_counter()
            await bounded(self.use(provider, 0), USE_S, "One use")
            whole = timed_ms(began) / 1000
            worst = 0.0
            for share in self.cut_shares():
                took = min([await self._cut(provider, whole * share) for _ in range(TRIES)])
                worst = max(worst, took)
            took = min([await self.cut_stream(provider) for _ in range(TRIES)])
            worst = max(worst, took)
            await bounded(self.use(provider, 0), USE_S, "The use after a cancelled one")
        if worst > CANCEL_MS:
            raise Violation(
                f"a cancelled use ends only after {worst:.0f} ms",
                "let CancelledError (and GeneratorExit) through at once: no waiting in `finally`, no `shield`; tell "
                "the thread to stop and do not wait for it",
                cancel_ms=worst,
            )
        return Seen(f"{worst:.0f} ms to the end", cancel_ms=worst)

    def cut_shares(self) -> Iterable[float]:
        """When a use is cancelled, in shares of how long it takes."""
        return (0.0, 0.3, 0.7)

    async def cut_stream(self, provider: Any) -> float:
        """How long it takes (ms) to close a stream after its first output; 0 for what does not stream."""
        return 0.0

    async def _cut(self, provider: Any, after_s: float) -> float:
        """Cancel a use after that long; returns how long it took to end, in ms."""
        task = asyncio.ensure_future(self.use(provider, 0))
        await asyncio.sleep(after_s)
        if task.done():
            await _known(task)
            return 0.0
        task.cancel()
        began = time.perf_counter()
        done, _ = await asyncio.wait({task}, timeout=2.0)
        took = timed_ms(began)
        if not done:
            raise Violation(
                "a cancelled use goes on for more than 2 s",
                "do not catch CancelledError (`except BaseException`, a bare `except`), or raise it again",
                cancel_ms=took,
            )
        if not task.cancelled():
            await _known(task)
        return took

    def spend(self, provider: Any) -> Callable[[int], Awaitable[None]]:
        """Every second use is cut off, each time at another place."""
        typical = [0.01]
        shares = (0.0, 0.2, 0.5, 0.8)

        async def run(number: int) -> None:
            if number % 2 == 0:
                began = time.perf_counter()
                await _known(self.use(provider, number // 2 % AT_ONCE))
                typical[0] = timed_ms(began) / 1000
                return
            task = asyncio.ensure_future(self.use(provider, number // 2 % AT_ONCE))
            await asyncio.sleep(typical[0] * shares[number // 2 % len(shares)])
            task.cancel()
            # If it goes on for long, the rule for cancellation says so.
            await asyncio.wait({task}, timeout=2.0)
            if task.done() and not task.cancelled():
                task.exception()

        return run


# --- helpers ------------------------------------------------------------------------------------------------------


def _at(block: Block) -> str:
    return f" at {block.where}" if block.where else ""


def _made(workshop: Workshop) -> Any:
    try:
        return workshop.make()
    except ConfigError as error:
        raise Violation(f"it cannot be made: {error.message}", error.fix or "correct its settings") from None
    except Exception as error:  # noqa: BLE001 - a stranger may raise anything
        raise NotChecked(f"it cannot be made: {type(error).__name__}: {error}") from None


async def _warmed(subject: Subject, offer: Provider, provider: Any) -> Block:
    try:
        block = await bounded(watched_warm_up(subject, offer, provider), 10 * USE_S, "`warm_up`")
        if missing := missing_parts(offer.kind, provider):
            raise Violation(
                f"a {offer.kind} provider has {' and '.join(missing)}; this one has not",
                f"see docs/plugins/kinds/{offer.kind}.md",
            )
        return block
    except Violation:
        raise
    except RejoinderError as error:
        raise Violation(
            f"`warm_up` fails: {error.explain()}", error.fix or "set up what it needs, and test again"
        ) from None
    except Exception as error:
        raise Violation(
            f"`warm_up` raised {type(error).__name__}: {error}{raised_at(error, subject.roots)}",
            "raise MissingDependency, MissingModel, ConfigError or ProviderError, with a `fix` that says what to do",
        ) from error


async def _known(work: Awaitable[Any]) -> None:
    """Wait for `work`; its failures are told by other rules."""
    try:
        await bounded(work, USE_S, "One use")
    except Violation:
        raise
    except Exception:  # noqa: BLE001 - as above
        pass


async def closed_ms(stream: Any) -> float:
    """How long it takes to close an asynchronous generator, in ms; nothing comes of it afterwards."""
    began = time.perf_counter()
    await bounded(stream.aclose(), 2.0, "Closing the stream")
    took = timed_ms(began)
    async for _ in stream:
        raise Violation("after `aclose` there comes more", "make `stream` an async generator function")
    return took


def check_streaming(offer: Provider, count: int, what: str) -> None:
    """Whether a long `what` came in as many pieces as the capabilities say.

    Raises:
        Violation: it did not.
    """
    if offer.capabilities.streaming and count < 2:
        raise Violation(
            f"its capabilities say `streaming=True`, but a long {what} comes as one piece",
            "yield each piece as soon as it is there, or say `streaming=False`",
        )
    if offer.capabilities.streaming is False and count > 1:
        raise Violation(
            f"its capabilities say `streaming=False`, but a long {what} comes in {count} pieces",
            "say `Capabilities(streaming=True)`",
        )


async def _ended(task: asyncio.Future[Any], roots: tuple[Any, ...]) -> None:
    """Wait for the use that was open when the provider was closed."""
    done, _ = await asyncio.wait({task}, timeout=_ENDS_S)
    if not done:
        task.cancel()
        raise Violation(
            "a use that was open when `close` was called never ends",
            "let it end, or raise a ProviderError, once the provider is closed",
        )
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, RejoinderError):
        raise Violation(
            f"a use that was open when `close` was called raised {type(error).__name__}: {error}"
            f"{raised_at(error, roots)}",
            "raise a ProviderError, or just end",
        )


async def _close_quietly(provider: Any) -> None:
    """What `close` does wrong is told by the rule for shutdown."""
    try:
        await asyncio.wait_for(provider.close(), _ENDS_S)
    except Exception:  # noqa: BLE001 - as above
        pass


def pieces(pcm: bytes, size: int) -> Iterator[bytes]:
    """`pcm` in pieces of `size` bytes; the last one may be shorter."""
    return (pcm[at : at + size] for at in range(0, len(pcm), size))
