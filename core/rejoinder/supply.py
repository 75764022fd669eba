"""The providers of one process: made, warmed up and shared; what fails is left out, remembered and tried again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import msgspec

from rejoinder.breaker import Breaker
from rejoinder.clock import Clock
from rejoinder.errors import ProviderError, ProviderTimeout, RejoinderError, UnknownName
from rejoinder.guard import FAULTS, Late, Quit, bounded
from rejoinder.manager import Plugins, Stage, absent
from rejoinder.providers import AnyProvider, Kind, LlmProvider, ModelPaths, Provider, ProviderContext, VadAdvice
from rejoinder.settings import Agent, Settings
from rejoinder.toolbox import Sections, read_section

log = logging.getLogger(__name__)
_RETRY_S, _LONGEST_RETRY_S = 5.0, 300.0
"""A provider that could not be made or loaded is tried again after this, then after twice as long."""
CLOSE_S = 5.0
"""A provider that takes longer to close is not waited for."""
_RETIRED_S = 60.0
"""A provider that was replaced is kept at least this long."""
_MOST_RETIRED = 2
"""So many of a name are kept that were replaced: a model may need much memory."""
_BENCH_S = 60.0
"""Providers of a plugin that held up the event loop are asked last for so long."""


@dataclass(slots=True)
class _Failure:
    """Why a provider is not to be had, and when it is tried again."""

    error: RejoinderError
    pause_s: float
    retry_at: float
    trying: bool = False

    def again(self) -> RejoinderError:
        """The error once more; each time that it is raised it would otherwise remember more frames."""
        return self.error.with_traceback(None)


class Supply:
    """All providers by kind and name; `close()` it. `progress(text)` is told what is being loaded.

    `sections` are those of plugins; they may change, see `renew`.
    """

    def __init__(
        self,
        settings: Settings,
        plugins: Plugins,
        models: ModelPaths,
        clock: Clock,
        progress: Callable[[str], None] = lambda text: None,
        *,
        sections: Sections | None = None,
    ) -> None:
        self._settings = settings
        self._sections = settings.plugins if sections is None else sections
        self._plugins = plugins
        self._models = models
        self._clock = clock
        self._progress = progress
        self.breaker = Breaker(now=clock.monotonic, told=self._answered)
        """Which of them fail in conversations."""
        self.trials: set[asyncio.Task[None]] = set()
        """Those that failed and are being tried again."""
        self.loaded: dict[str, float] = {}
        """How many seconds each (`stt:moonshine`) took to get ready."""
        self._closed = False
        self._schemas: dict[str, list[type[msgspec.Struct]]] | None = None
        self._executors: dict[str, Executor] = {}
        self._providers: dict[tuple[Kind, str], AnyProvider] = {}
        self._ready: dict[tuple[Kind, str], asyncio.Lock] = {}
        self._warm: set[tuple[Kind, str]] = set()
        self._failures: dict[tuple[Kind, str], _Failure] = {}
        self._lent: set[tuple[Kind, str]] = set()
        """Other providers hold them."""
        self._retired: list[tuple[Kind, str, AnyProvider]] = []
        self._renewing = asyncio.Lock()

    async def close(self) -> None:
        """Free them all, in reverse order, and their threads. Idempotent."""
        self._closed = True
        for trial in tuple(self.trials):
            trial.cancel()
        if self.trials:
            await asyncio.wait(tuple(self.trials), timeout=CLOSE_S)
        providers, self._providers = self._providers, {}
        for (kind, name), provider in reversed(providers.items()):
            await self._close_one(kind, name, provider)
        retired, self._retired = self._retired, []
        for kind, name, provider in retired:
            await self._close_one(kind, name, provider)
        executors, self._executors = self._executors, {}
        for name, executor in executors.items():
            shutdown = asyncio.to_thread(executor.shutdown, wait=True, cancel_futures=True)
            try:
                await bounded(shutdown, CLOSE_S, f"end of the threads {name}")
            except Late:
                log.warning("a thread of %s does not end", name)

    async def _close_one(self, kind: Kind, name: str, provider: AnyProvider) -> None:
        try:
            await bounded(provider.close(), CLOSE_S, f"closing of {kind} {name}")
        except Exception:
            log.exception("the %s provider %s did not close", kind, name)

    async def provider(self, kind: Kind, name: str) -> AnyProvider:
        """The provider called `name`, made and warmed up on first use; all sessions share it.

        Raises:
            UnknownName, ConfigError, ProviderError: it is unknown, wrongly configured or cannot be loaded.
        """
        key = (kind, name)
        async with self._ready.setdefault(key, asyncio.Lock()):
            if self._closed:
                raise _stopping(name)
            if key in self._warm:
                return self._providers[key]
            failure = self._failures.get(key)
            if failure is not None and self._clock.monotonic() < failure.retry_at:
                raise failure.again()
            self._progress(f"{kind} {name}")
            started = self._clock.monotonic()
            stage: Stage = "configure"
            try:
                provider = self.make(kind, name)
                stage = "warm_up"
                await self._warm_up(kind, name, provider)
            except UnknownName:
                raise
            except FAULTS as error:
                if self._closed or _cancelled():
                    raise
                raise self._failed(key, stage, error) from error
            self._warm.add(key)
            if self._failures.pop(key, None):
                for mended in ("configure", "warm_up"):
                    self._plugins.mended(self._plugins.owner(kind, name), mended, f"{kind}:{name}")
            took = self._clock.monotonic() - started
            self.loaded[f"{kind}:{name}"] = round(took, 2)
            log.info("%s %s ready in %.1f s", kind, name, took)
            return provider

    async def _warm_up(self, kind: Kind, name: str, provider: AnyProvider) -> None:
        """Load it, and look whether it is one.

        Raises:
            ProviderError: it takes too long, or cannot be used.
        """
        limit_s = self._settings.limits.warm_up_s
        try:
            await bounded(provider.warm_up(), limit_s, f"warm-up of {kind} {name}")
        except Late:
            raise ProviderTimeout(name, f"was not ready within {limit_s:g} s", fix="See limits.warm_up_s.") from None
        except Quit as error:
            raise ProviderError(name, str(error)) from error
        if self._closed:
            await self._close_one(kind, name, provider)
            raise _stopping(name)
        check_provider(kind, name, provider, self._plugins.provider(kind, name))

    def _failed(self, key: tuple[Kind, str], stage: Stage, error: BaseException) -> RejoinderError:
        """Remember that a provider cannot be made or loaded; the error to raise now, and until it is tried again."""
        kind, name = key
        self.report(kind, name, stage, error)
        known = error
        if not isinstance(known, RejoinderError):
            known = ProviderError(
                name, f"{type(error).__name__}: {error}", fix="`rejoinder plugins list --url ...` says more."
            )
        old = self._failures.get(key)
        pause_s = min(_LONGEST_RETRY_S, 2 * old.pause_s) if old else _RETRY_S
        self._failures[key] = _Failure(known, pause_s, self._clock.monotonic() + pause_s)
        return known

    def report(self, kind: str, name: str, stage: Stage, error: BaseException | str) -> None:
        """Remember what went wrong with the provider called `name`, for the plugin that offers it."""
        if owner := self._plugins.owner(kind, name):
            self._plugins.report(owner, stage, f"{kind}:{name}", error)

    def _answered(self, kind: str, name: str, error: Exception | None) -> None:
        """A provider that works in a conversation failed, or works again."""
        if error is not None:
            self.report(kind, name, "answer", error)
        elif owner := self._plugins.owner(kind, name):
            self._plugins.mended(owner, "answer", f"{kind}:{name}")

    def make(self, kind: Kind, name: str) -> AnyProvider:
        """The provider called `name`, which may not be loaded yet.

        Raises:
            UnknownName, ConfigError: it is unknown or wrongly configured; or what its `create` raises.
        """
        key = (kind, name)
        if key not in self._providers:
            self._providers[key] = self._create(kind, name)
        return self._providers[key]

    def _create(self, kind: Kind, name: str) -> AnyProvider:
        offer = self._plugins.provider(kind, name)
        if self._schemas is None:
            self._schemas = self._plugins.schemas()
        others = self._schemas.get(name, ())
        context = ProviderContext(
            settings=read_section(self._sections, name, offer.settings, others),
            models=self._models,
            executor=self._executor,
            llm=self._lend,
        )
        return offer.create(context)

    def _lend(self, name: str) -> LlmProvider:
        provider = self.make("llm", name)
        self._lent.add(("llm", name))
        return cast(LlmProvider, provider)

    async def renew(self, name: str, over: Callable[[], bool]) -> bool:
        """Take up new settings `[plugins.NAME]`; False: something of that name can only do so at the next start.

        What is not loaded will be made with them, and what failed is tried again beside. What is loaded is made a
        second time; the first one serves those who have it, until `over()` says that they are gone.
        """
        done = True
        async with self._renewing:
            for offer in self._plugins.providers():
                if offer.name == name:
                    done = await self._renew_one((offer.kind, name), over) and done
        return done

    async def _renew_one(self, key: tuple[Kind, str], over: Callable[[], bool]) -> bool:
        kind, name = key
        if key in self._lent or sum((kind, name) == one[:2] for one in self._retired) >= _MOST_RETIRED:
            return False
        if key not in self._warm:
            async with self._ready.setdefault(key, asyncio.Lock()):
                if key not in self._warm:
                    if (made := self._providers.pop(key, None)) is not None:
                        await self._close_one(kind, name, made)
                    if (failure := self._failures.get(key)) is not None:
                        failure.retry_at = self._clock.monotonic()
                        self._try_again(kind, name, failure)
                    return True
        provider: AnyProvider | None = None
        try:
            provider = self._create(kind, name)
            await self._warm_up(kind, name, provider)
        except FAULTS as error:
            if self._closed or _cancelled():
                raise
            self.report(kind, name, "configure", error)
            if provider is not None:
                await self._close_one(kind, name, provider)
            return False
        self._plugins.mended(self._plugins.owner(kind, name), "configure", f"{kind}:{name}")
        old = self._providers[key]
        self._providers[key] = provider
        self._retired.append((kind, name, old))
        task = asyncio.create_task(self._retire((kind, name, old), over), name=f"{kind} {name} before")
        self.trials.add(task)
        task.add_done_callback(self.trials.discard)
        log.info("%s %s was made anew, with other settings", kind, name)
        return True

    async def _retire(self, old: tuple[Kind, str, AnyProvider], over: Callable[[], bool]) -> None:
        """Close what another one has replaced, once nobody can still be using it."""
        while True:
            # Also those may have it who came for one request.
            await asyncio.sleep(_RETIRED_S)
            if over():
                break
        if old in self._retired:
            self._retired.remove(old)
            await self._close_one(*old)

    def _executor(self, name: str, workers: int) -> Executor:
        if name not in self._executors:
            self._executors[name] = ThreadPoolExecutor(workers, thread_name_prefix=name)
        return self._executors[name]

    async def named(self, kind: Kind, agent: Agent) -> dict[str, AnyProvider]:
        """The agent's providers of `kind`, ready to use. Of a chain one is enough; the others are logged and left out.

        Where there are others, one that could not be loaded is tried again beside, not while somebody waits. Turn
        detectors and judges may all be missing: then the silence alone decides.

        Raises:
            UnknownName: nobody registered one of them, and no plugin is missing.
            ConfigError, ProviderError: none of them can be loaded.
        """
        found: dict[str, AnyProvider] = {}
        failure: RejoinderError | None = None
        names = agent.names(kind)
        for name in names:
            try:
                known = self._failures.get((kind, name))
                if known is not None and len(names) > 1:
                    self._try_again(kind, name, known)
                    raise known.again()
                found[name] = await self.provider(kind, name)
            except RejoinderError as error:
                if isinstance(error, UnknownName) and not absent(self._plugins):
                    raise
                # That it failed is told; this comes with every session.
                log.info("the %s provider %s is left out: %s", kind, name, error.explain())
                failure = error
        if failure is not None and not found and kind not in ("turn", "interruption"):
            raise failure
        return found

    def _try_again(self, kind: Kind, name: str, failure: _Failure) -> None:
        """Once its pause is over, beside: nobody waits for what failed before."""
        if failure.trying or self._clock.monotonic() < failure.retry_at:
            return
        failure.trying = True

        async def trial() -> None:
            try:
                await self.provider(kind, name)
            except RejoinderError as error:
                log.info("the %s provider %s still fails: %s", kind, name, error.explain())
            finally:
                failure.trying = False

        task = asyncio.create_task(trial(), name=f"{kind} {name} once more")
        self.trials.add(task)
        task.add_done_callback(self.trials.discard)

    def voices(self, name: str) -> Collection[str] | None:
        """The voices of the TTS provider called `name`; None where they are not known."""
        try:
            # Made, not loaded.
            voices: Collection[str] | None = getattr(self.make("tts", name), "voices", None)
        except FAULTS as error:
            # Whoever uses it will hear of it.
            log.debug("the voices of %s are not known: %r", name, error)
            return None
        return voices

    def bench(self, plugin: str) -> None:
        """Ask what `plugin` offers last for a while: it held up everybody."""
        for offer in self._plugins.offers(plugin):
            self.breaker.bench(offer.kind, offer.name, _BENCH_S)


def _stopping(name: str) -> ProviderError:
    return ProviderError(name, "the server is stopping", code="draining")


def _cancelled() -> bool:
    """Whether the current task is to stop."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


_METHODS: dict[Kind, tuple[str, ...]] = {
    "vad": ("open",),
    "stt": ("open",),
    "turn": ("judge",),
    "interruption": ("judge",),
    "llm": ("stream",),
    "tts": ("stream",),
}
_RATES = range(8_000, 192_001)
"""Hz of audio that people can understand and machines can make."""


def missing_parts(kind: Kind, provider: object) -> list[str]:
    """What a provider of its kind must have, and this one has not."""
    missing = [method for method in (*_METHODS[kind], "close") if not callable(getattr(provider, method, None))]
    if kind == "turn" and not isinstance(getattr(provider, "wants_text", None), bool):
        missing.append("wants_text")
    if kind == "vad" and not isinstance(getattr(provider, "advice", None), VadAdvice):
        missing.append("advice")
    if kind == "tts" and not hasattr(provider, "sample_rate"):
        missing.append("sample_rate")
    return missing


def check_provider(kind: Kind, name: str, provider: object, offer: Provider) -> None:
    """Look whether `provider`, which is warm, has what its kind must have.

    Raises:
        ProviderError: it has not (`bad_provider`).
    """
    missing = missing_parts(kind, provider)
    rate = getattr(provider, "sample_rate", None)
    stated = offer.capabilities.sample_rates
    what = ""
    if missing:
        what = f"a {kind} provider has {' and '.join(missing)}; this one has not"
    elif kind == "tts" and rate not in _RATES:
        what = f"its sample_rate is {rate!r}, and no number of Hz from 8000 to 192000"
    elif kind == "tts" and stated and rate not in stated:
        what = f"its sample_rate is {rate} Hz, its capabilities name {', '.join(map(str, stated))}"
    if what:
        fix = f"See docs/plugins/kinds/{kind}.md."
        raise ProviderError(name, what, code="bad_provider", retryable=False, fix=fix)
