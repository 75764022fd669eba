"""The runtime of one process: settings, plugins, providers, store and live sessions; starts, drains and stops them."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar, cast

import msgspec

from rejoinder import preflight
from rejoinder.audio import Rates
from rejoinder.auth import LOOPBACK, Gate
from rejoinder.breaker import Breaker
from rejoinder.bus import Observer
from rejoinder.catalog import Catalog, NamedAgent, fixed_agents
from rejoinder.clock import Clock, SystemClock
from rejoinder.errors import ProviderError, ProviderTimeout, RejoinderError, SessionError, UnknownName
from rejoinder.events import ServerEvent
from rejoinder.hooks import BLOCK_S, TO_A_THREAD, Hooks, SessionHooks
from rejoinder.host import Host, Services
from rejoinder.ids import new_id
from rejoinder.manager import Plugins, Stage, absent, plugins_of
from rejoinder.models import ModelCache
from rejoinder.providers import (
    KINDS,
    AnyProvider,
    Kind,
    LlmProvider,
    Provider,
    ProviderContext,
    VadAdvice,
)
from rejoinder.session import Session
from rejoinder.settings import Agent, Settings
from rejoinder.stages.playout import Pacer
from rejoinder.stages.voice import PhraseCache
from rejoinder.store.records import RoomRecord
from rejoinder.store.store import Store
from rejoinder.telemetry import Telemetry
from rejoinder.toolbox import Toolbox, read_section
from rejoinder.watchdog import Block, Owners, Watchdog, tasks_of_plugins
from rejoinder.webhooks import Webhooks

log = logging.getLogger(__name__)
TEXT_RATES = Rates(16_000, 24_000)
"""Of a session that begins in writing; whoever comes to speak gets their own."""


S = TypeVar("S", bound=msgspec.Struct)
_RETRY_S, _LONGEST_RETRY_S = 5.0, 300.0
"""A provider that could not be made or loaded is tried again after this, then after twice as long."""
_BENCH_S = 60.0
"""Providers of a plugin that held up the event loop are asked last for so long."""
_LONG_BLOCK_S = 0.25
"""What nobody's plugin does is told from here on: audio is 200 ms ahead."""
_TASKS, _TASKS_PER_SESSION = 50, 10
"""A plugin that has more tasks than these has forgotten some."""
_HEALTH_S = 5.0


@dataclass(slots=True)
class _Failure:
    """Why a provider is not to be had, and when it is tried again."""

    error: RejoinderError
    pause_s: float
    retry_at: float


class Runtime:
    """Everything one process shares. Use as `async with Runtime(settings) as runtime`.

    `progress(text)` is told what is being loaded. `listens`: it serves the address in its settings, and is not to be
    open to a network; what is misspelt keeps it from starting (else it is only logged).
    """

    def __init__(
        self,
        settings: Settings,
        *,
        plugins: Plugins | None = None,
        clock: Clock | None = None,
        progress: Callable[[str], None] = lambda text: None,
        listens: bool = False,
    ) -> None:
        self.settings = settings
        self.plugins = plugins or plugins_of(settings)
        self.clock = clock or SystemClock()
        self.hooks = Hooks(self.plugins, settings.limits.hook_ms / 1000, now=self.clock.monotonic)
        self._findings = preflight.examine(settings, self.plugins, os.environ)
        self.toolbox = Toolbox(self.plugins, settings.plugins, self, broken=self._findings.broken if listens else ())
        self.models = ModelCache(settings.models_dir, self.plugins.models())
        self.store = Store(settings.database_url, limits=settings.limits)
        self.gate = Gate(self.store, settings.auth, self.clock, loopback=settings.host in LOOPBACK)
        self.catalog = Catalog(settings, self.plugins, self.store, self._check_agent)
        self.telemetry = Telemetry(
            self.store,
            self.clock,
            sessions=lambda: len(self.sessions),
            tools=lambda: self.toolbox.tools().keys(),
            hooks=self.hooks,
        )
        self.webhooks = Webhooks(
            self.store, self.clock, private=settings.webhooks.allow_private, counted=self.telemetry.webhook
        )
        self.sessions: dict[str, Session] = {}
        self.stragglers: set[asyncio.Task[Any]] = set()
        self.draining = False
        self._progress = progress
        self._listens = listens
        self.breaker = Breaker(now=self.clock.monotonic, told=self._answered)
        self._watchdog = Watchdog(self._blocked, self._audit)
        self._owners: Owners | None = None
        self._health: tuple[float, dict[str, str]] = (float("-inf"), {})
        self._background: set[asyncio.Task[None]] = set()
        self._pacer = Pacer()
        self._executors: dict[str, Executor] = {}
        self._providers: dict[tuple[Kind, str], AnyProvider] = {}
        self._ready: dict[tuple[Kind, str], asyncio.Lock] = {}
        self._warm: set[tuple[Kind, str]] = set()
        self._failures: dict[tuple[Kind, str], _Failure] = {}
        self._exit = AsyncExitStack()
        self._host = Host(
            limits=settings.limits,
            clock=self.clock,
            pacer=self._pacer,
            hooks=self.hooks,
            observer=self._observer,
            straggler=self._adopt,
            on_ended=self._forget,
            choose=self._choose,
            breaker=self.breaker,
            odd=lambda name, what: self._report("tts", name, "answer", f"{name}: {what}?"),
            phrases=PhraseCache(),
        )

    # -- start and stop

    async def __aenter__(self) -> Runtime:
        try:
            self._exit.callback(self._close_executors)
            self._exit.callback(self._pacer.close)
            self._exit.push_async_callback(self._close_providers)
            self._exit.push_async_callback(self.toolbox.close)
            self._progress("database")
            found = self.examine()
            if self._listens and found.problems and not found.transfers:
                # Where all is known without the database, none is made.
                raise found.error()
            await self.store.open()
            self._exit.push_async_callback(self.store.close)
            await found.settle(self.catalog.stored, self.fixed_agents)
            if self._listens and found.problems:
                raise found.error()
            for warning in (*found.problems, *found.warnings):
                log.warning("%s", warning)
            await self.webhooks.open()
            self._exit.push_async_callback(self.webhooks.close)
            self.telemetry.start()
            self._exit.push_async_callback(self.telemetry.close)
            self._watchdog.start()
            self._exit.callback(self._watchdog.close)
            self._exit.push_async_callback(self._cancel_background)
            await self.gate.open()
            if self._listens:
                await self.gate.prepare()
            agent = (await self.catalog.get()).definition
            for kind in KINDS:
                await self._named(kind, agent)
            await self.toolbox.start()
            self._exit.push_async_callback(self.hooks.shutdown, self)
            await self.hooks.startup(self)
            self._exit.push_async_callback(self.end_sessions)
        except BaseException:
            await self._exit.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all sessions, write what is pending, free the models. Idempotent."""
        self.draining = True
        await self._exit.aclose()

    async def end_sessions(self) -> None:
        """Take no more sessions and end the live ones. Idempotent."""
        self.draining = True
        await asyncio.gather(*(session.close("server_stopped") for session in tuple(self.sessions.values())))
        for task in tuple(self.stragglers):
            task.cancel()

    async def _close_providers(self) -> None:
        for (kind, name), provider in reversed(self._providers.items()):
            try:
                await provider.close()
            except Exception:
                log.exception("the %s provider %s did not close", kind, name)
        self._providers.clear()

    def _close_executors(self) -> None:
        for executor in self._executors.values():
            executor.shutdown(wait=True, cancel_futures=True)
        self._executors.clear()

    async def _cancel_background(self) -> None:
        for task in tuple(self._background):
            task.cancel()
        if self._background:
            await asyncio.wait(tuple(self._background))

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- providers

    async def provider(self, kind: Kind, name: str) -> AnyProvider:
        """The provider called `name`, made and warmed up on first use; all sessions share it.

        Raises:
            UnknownName, ConfigError, ProviderError: it is unknown, wrongly configured or cannot be loaded.
        """
        key = (kind, name)
        async with self._ready.setdefault(key, asyncio.Lock()):
            if key in self._warm:
                return self._providers[key]
            failure = self._failures.get(key)
            if failure is not None and self.clock.monotonic() < failure.retry_at:
                raise failure.error
            self._progress(f"{kind} {name}")
            started = self.clock.monotonic()
            stage: Stage = "configure"
            try:
                provider = self._make(kind, name)
                stage = "warm_up"
                await self._warm_up(kind, name, provider)
            except UnknownName:
                raise
            except Exception as error:
                raise self._failed(key, stage, error) from error
            self._warm.add(key)
            if self._failures.pop(key, None):
                for mended in ("configure", "warm_up"):
                    self.plugins.mended(self.plugins.owner(kind, name), mended, f"{kind}:{name}")
            log.info("%s %s ready in %.1f s", kind, name, self.clock.monotonic() - started)
            return provider

    async def _warm_up(self, kind: Kind, name: str, provider: AnyProvider) -> None:
        """Load it, and look whether it is one.

        Raises:
            ProviderError: it takes too long, or cannot be used.
        """
        limit_s = self.settings.limits.warm_up_s
        try:
            async with asyncio.timeout(limit_s) as limit:
                await provider.warm_up()
        except TimeoutError:
            if not limit.expired():
                raise
            raise ProviderTimeout(name, f"was not ready within {limit_s:g} s", fix="See limits.warm_up_s.") from None
        check_provider(kind, name, provider, self.plugins.provider(kind, name))

    def _failed(self, key: tuple[Kind, str], stage: Stage, error: Exception) -> RejoinderError:
        """Remember that a provider cannot be made or loaded; the error to raise now, and until it is tried again."""
        kind, name = key
        self._report(kind, name, stage, error)
        known = error
        if not isinstance(known, RejoinderError):
            known = ProviderError(name, f"{type(error).__name__}: {error}", fix="`rejoinder plugins list` says more.")
        old = self._failures.get(key)
        pause_s = min(_LONGEST_RETRY_S, 2 * old.pause_s) if old else _RETRY_S
        self._failures[key] = _Failure(known, pause_s, self.clock.monotonic() + pause_s)
        return known

    def _report(self, kind: str, name: str, stage: Stage, error: BaseException | str) -> None:
        if owner := self.plugins.owner(kind, name):
            self.plugins.report(owner, stage, f"{kind}:{name}", error)

    def _answered(self, kind: str, name: str, error: Exception | None) -> None:
        """A provider that works in a conversation failed, or works again."""
        if error is not None:
            self._report(kind, name, "answer", error)
        elif owner := self.plugins.owner(kind, name):
            self.plugins.mended(owner, "answer", f"{kind}:{name}")

    def _make(self, kind: Kind, name: str) -> AnyProvider:
        key = (kind, name)
        if key not in self._providers:
            offer = self.plugins.provider(kind, name)
            context = ProviderContext(
                settings=read_section(self.settings.plugins, name, offer.settings),
                models=self.models,
                executor=self._executor,
                llm=lambda other: cast(LlmProvider, self._make("llm", other)),
            )
            self._providers[key] = offer.create(context)
        return self._providers[key]

    def _executor(self, name: str, workers: int) -> Executor:
        if name not in self._executors:
            self._executors[name] = ThreadPoolExecutor(workers, thread_name_prefix=name)
        return self._executors[name]

    async def services(self, agent: Agent) -> Services:
        """The providers and tools of `agent`, ready to use.

        Raises:
            UnknownName: it names a tool or provider nobody registered.
        """
        found = {kind: cast(Any, await self._named(kind, agent)) for kind in KINDS}
        return Services(
            vad=found["vad"][agent.vad],
            stt=found["stt"],
            turn=found["turn"],
            interruption=found["interruption"],
            llm=found["llm"],
            tts=found["tts"],
            tools={
                name: tool.fit(agent) if tool.fit else tool for name, tool in self.toolbox.choose(agent.tools).items()
            },
        )

    async def _choose(self, name: str) -> tuple[NamedAgent, Services]:
        chosen = await self.catalog.get(name)
        return chosen, await self.services(chosen.definition)

    def examine(self) -> preflight.Findings:
        """What is wrong with the settings, as far as it is known without the database and without loading anything."""
        found = copy.deepcopy(self._findings)
        preflight.examine_agents(found, self.settings, self.plugins, self.toolbox, self._voices)
        return found

    def _check_agent(self, agent: Agent) -> dict[str, str]:
        """What `agent` names that nobody registered: what is wrong by the field's name."""
        fixed = self.fixed_agents
        return preflight.by_field(preflight.bad_names(agent, self.plugins, self.toolbox, self._voices, fixed))

    @property
    def fixed_agents(self) -> dict[str, Agent]:
        """The agents of plugins and of the settings by name."""
        return fixed_agents(self.settings, self.plugins)

    def _voices(self, name: str) -> Collection[str] | None:
        try:
            # Made, not loaded.
            voices: Collection[str] | None = getattr(self._make("tts", name), "voices", None)
        except Exception as error:  # noqa: BLE001 - whoever uses it will hear of it
            log.debug("the voices of %s are not known: %r", name, error)
            return None
        return voices

    async def _named(self, kind: Kind, agent: Agent) -> dict[str, AnyProvider]:
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
                    if self.clock.monotonic() >= known.retry_at:
                        self._spawn(self._try_again(kind, name), f"{kind} {name} once more")
                    raise known.error
                found[name] = await self.provider(kind, name)
            except RejoinderError as error:
                if isinstance(error, UnknownName) and not absent(self.settings, self.plugins.infos.values()):
                    raise
                log.warning("the %s provider %s is left out: %s", kind, name, error.explain())
                failure = error
        if failure is not None and not found and kind not in ("turn", "interruption"):
            raise failure
        return found

    async def _try_again(self, kind: Kind, name: str) -> None:
        try:
            await self.provider(kind, name)
        except RejoinderError as error:
            log.info("the %s provider %s still fails: %s", kind, name, error.explain())

    def section(self, name: str, schema: type[S]) -> S:
        """The settings `[plugins.NAME]`, for the hooks of plugins; see `register_settings`.

        Raises:
            ConfigError: they do not fit `schema`; a server that listens has refused to start then.
        """
        return read_section(self.settings.plugins, name, schema)

    # -- plugins that misbehave

    async def health(self) -> dict[str, str]:
        """What plugins say is not well, by name; asked at most every 5 s."""
        at, found = self._health
        self._audit()
        if self.clock.monotonic() - at >= _HEALTH_S:
            found = await self.hooks.health()
            self._health = (self.clock.monotonic(), found)
        return found

    def _blocked(self, block: Block) -> None:
        """The event loop was held up: say by whom, if it was a plugin, and ask others where there are others."""
        self._owners = self._owners or Owners(self.plugins)
        for frame in reversed(block.frames):
            if owner := self._owners.of(frame.filename):
                break
        else:
            frame, owner = block.frames[-1], ""
        place = f"{frame.name} ({frame.filename}:{frame.lineno})"
        if not owner:
            level = logging.WARNING if block.seconds >= _LONG_BLOCK_S else logging.INFO
            log.log(level, "the event loop was held up for %d ms in %s", block.seconds * 1000, place)
            return
        if self.hooks.blamed(owner, block.seconds):
            return
        text = f"{place} held up the event loop, and with it every call, for {block.seconds * 1000:.0f} ms"
        details = "".join(block.frames.format())
        self.plugins.report(owner, "block", "", text, fix=TO_A_THREAD, details=details)
        if block.seconds >= BLOCK_S:
            for offer in self.plugins.offers(owner):
                self.breaker.bench(offer.kind, offer.name, _BENCH_S)

    def _audit(self) -> None:
        """Look for plugins that forget tasks."""
        self._owners = self._owners or Owners(self.plugins)
        most = _TASKS + _TASKS_PER_SESSION * len(self.sessions)
        for plugin, places in tasks_of_plugins(self._owners).items():
            if (count := places.total()) > most:
                place, often = places.most_common(1)[0]
                text = f"{count} tasks of it are alive with {len(self.sessions)} sessions, {often} of them in {place}"
                fix = "Await or cancel every task where its stream or session is closed."
                self.plugins.report(plugin, "leak", "", text, fix=fix)

    # -- rooms and sessions

    async def create_room(self, agent: str | None) -> RoomRecord:
        """A room for the agent called `agent` (None: the default one); its session starts when somebody joins.

        Raises:
            UnknownName: there is no such agent.
        """
        name = (await self.catalog.get(agent)).name
        return await self.store.create_room(name, new_id("ses"))

    async def join(self, session_id: str, rates: Rates = TEXT_RATES, *, written: bool = False) -> Session:
        """The session `session_id` of a room; started if this is the first to join (`written`: as in `start_session`).

        Raises:
            SessionError: there is none, it is over or the room has expired.
        """
        if session := self.sessions.get(session_id):
            return session
        room = await self.store.room_of_session(session_id)
        stored = await self.store.session(session_id)
        if session := self.sessions.get(session_id):
            # Somebody else joined while the database was asked.
            return session
        if room is None or stored is not None:
            over = room is not None
            raise SessionError(
                f"The session {session_id!r} {'is over' if over else 'does not exist'}.",
                code="session_over" if over else "unknown_session",
                fix="POST /v1/rooms makes a new one.",
            )
        if room.expires_at < self.clock.wall_ms():
            raise SessionError(
                f"The room {room.id} has expired.", code="room_expired", fix="POST /v1/rooms makes a new one."
            )
        session = await self.start_session(room.agent, rates, session_id, written=written)
        # In time: its first event comes from its own task, which has not run yet.
        if not session.bus.seq:
            self.store.recorder.join(session_id, room.id)
        return session

    async def start_session(
        self,
        agent: str | None,
        rates: Rates = TEXT_RATES,
        session_id: str | None = None,
        *,
        written: bool = False,
        version: int | None = None,
    ) -> Session:
        """A new session with the agent called `agent` (in that `version`, else the newest).

        `written`: it begins with a message of the user, so that the agent does not greet them first.

        Raises:
            UnknownName: there is no such agent, or it names what nobody registered.
            SessionError: the process is full or about to stop.
        """
        self._admit()
        chosen = await self.catalog.get(agent, version)
        services = await self.services(chosen.definition)
        session_id = session_id or new_id("ses")
        if session := self.sessions.get(session_id):
            # Somebody else joined while the providers were loading.
            return session
        self._admit()
        session = Session(session_id, chosen, services, self._host, rates, greet=not written)
        self.sessions[session.id] = session
        session.start()
        return session

    def _admit(self) -> None:
        if self.draining:
            raise SessionError("The server is stopping.", code="draining", fix="Try again in a moment.", retryable=True)
        if len(self.sessions) >= self.settings.limits.sessions:
            raise SessionError(
                f"The server is full ({self.settings.limits.sessions} sessions).",
                code="full",
                fix="Try again later, or raise limits.sessions.",
                retryable=True,
            )

    def _observer(self, session_id: str, hooks: SessionHooks) -> Observer:
        recorder, webhooks, telemetry = self.store.recorder, self.webhooks, self.telemetry

        def observe(event: ServerEvent, data: bytes) -> None:
            stored, stored_data = hooks.stored(event, data)
            recorder.on_event(session_id, stored, stored_data)
            webhooks.on_event(stored, stored_data)
            telemetry.on_event(session_id, event)
            hooks.observe(event)

        return observe

    def _adopt(self, task: asyncio.Task[Any]) -> None:
        """A task that ignores its cancellation: kept, so that it is not lost, until it ends."""
        self.stragglers.add(task)
        task.add_done_callback(self.stragglers.discard)

    def _forget(self, session: Session) -> None:
        self.sessions.pop(session.id, None)


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


def check_provider(kind: Kind, name: str, provider: object, offer: Provider) -> None:
    """Look whether `provider`, which is warm, has what its kind must have.

    Raises:
        ProviderError: it has not (`bad_provider`).
    """
    missing = [method for method in (*_METHODS[kind], "close") if not callable(getattr(provider, method, None))]
    if kind == "turn" and not isinstance(getattr(provider, "wants_text", None), bool):
        missing.append("wants_text")
    if kind == "vad" and not isinstance(getattr(provider, "advice", None), VadAdvice):
        missing.append("advice")
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
