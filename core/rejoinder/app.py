"""The runtime of one process: settings, plugins, providers, store and live sessions; starts, drains and stops them."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
from collections.abc import Callable, Collection
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, cast

from rejoinder import preflight
from rejoinder.audio import Rates
from rejoinder.auth import LOOPBACK, Gate
from rejoinder.bus import Observer
from rejoinder.catalog import Catalog, NamedAgent
from rejoinder.clock import Clock, SystemClock
from rejoinder.errors import RejoinderError, SessionError, UnknownName
from rejoinder.events import ServerEvent
from rejoinder.host import Host, Services
from rejoinder.ids import new_id
from rejoinder.manager import Plugins, load_plugins
from rejoinder.models import ModelCache
from rejoinder.providers import (
    KINDS,
    AnyProvider,
    Kind,
    LlmProvider,
    ProviderContext,
)
from rejoinder.session import Session
from rejoinder.settings import Agent, Settings
from rejoinder.stages.chain import Breaker
from rejoinder.stages.playout import Pacer
from rejoinder.stages.voice import PhraseCache
from rejoinder.store.records import RoomRecord
from rejoinder.store.store import Store
from rejoinder.telemetry import Telemetry
from rejoinder.toolbox import Toolbox, read_section
from rejoinder.webhooks import Webhooks

log = logging.getLogger(__name__)
TEXT_RATES = Rates(16_000, 24_000)
"""Of a session that begins in writing; whoever comes to speak gets their own."""


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
        self.plugins = plugins or load_plugins(settings.disabled_plugins, settings.plugins_dir)
        self.clock = clock or SystemClock()
        self._findings = preflight.examine(settings, self.plugins, os.environ)
        self.toolbox = Toolbox(self.plugins, settings.plugins, self, broken=self._findings.broken if listens else ())
        self.models = ModelCache(settings.models_dir, self.plugins.models())
        self.store = Store(settings.database_url, limits=settings.limits)
        self.gate = Gate(self.store, settings.auth, self.clock, loopback=settings.host in LOOPBACK)
        self.catalog = Catalog(settings, self.store, self._check_agent)
        self.telemetry = Telemetry(
            self.store, self.clock, sessions=lambda: len(self.sessions), tools=lambda: self.toolbox.tools().keys()
        )
        self.webhooks = Webhooks(
            self.store, self.clock, private=settings.webhooks.allow_private, counted=self.telemetry.webhook
        )
        self.sessions: dict[str, Session] = {}
        self.stragglers: set[asyncio.Task[Any]] = set()
        self.draining = False
        self._progress = progress
        self._listens = listens
        self.breaker = Breaker(now=self.clock.monotonic)
        self._pacer = Pacer()
        self._executors: dict[str, Executor] = {}
        self._providers: dict[tuple[Kind, str], AnyProvider] = {}
        self._ready: dict[tuple[Kind, str], asyncio.Lock] = {}
        self._warm: set[tuple[Kind, str]] = set()
        self._exit = AsyncExitStack()
        self._host = Host(
            limits=settings.limits,
            clock=self.clock,
            pacer=self._pacer,
            observer=self._observer,
            straggler=self._adopt,
            on_ended=self._forget,
            choose=self._choose,
            breaker=self.breaker,
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
            await found.settle(self.catalog.stored, self.settings.all_agents)
            if self._listens and found.problems:
                raise found.error()
            for warning in (*found.problems, *found.warnings):
                log.warning("%s", warning)
            await self.webhooks.open()
            self._exit.push_async_callback(self.webhooks.close)
            self.telemetry.start()
            self._exit.push_async_callback(self.telemetry.close)
            self._exit.push_async_callback(self.end_sessions)
            await self.gate.open()
            if self._listens:
                await self.gate.prepare()
            agent = (await self.catalog.get()).definition
            for kind in KINDS:
                await self._named(kind, agent)
            await self.toolbox.start()
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

    # -- providers

    async def provider(self, kind: Kind, name: str) -> AnyProvider:
        """The provider called `name`, made and warmed up on first use; all sessions share it.

        Raises:
            UnknownName, ConfigError, ProviderError: it is unknown, wrongly configured or cannot be loaded.
        """
        key = (kind, name)
        async with self._ready.setdefault(key, asyncio.Lock()):
            provider = self._make(kind, name)
            if key not in self._warm:
                self._progress(f"{kind} {name}")
                started = self.clock.monotonic()
                await provider.warm_up()
                self._warm.add(key)
                log.info("%s %s ready in %.1f s", kind, name, self.clock.monotonic() - started)
            return provider

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
        fixed = self.settings.all_agents
        return preflight.by_field(preflight.bad_names(agent, self.plugins, self.toolbox, self._voices, fixed))

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

        Raises:
            UnknownName: nobody registered one of them.
            ConfigError, ProviderError: none of them can be loaded.
        """
        found: dict[str, AnyProvider] = {}
        failure: RejoinderError | None = None
        for name in agent.names(kind):
            try:
                found[name] = await self.provider(kind, name)
            except UnknownName:
                raise
            except RejoinderError as error:
                log.warning("the %s provider %s is left out: %s", kind, name, error.explain())
                failure = error
        if failure is not None and not found:
            raise failure
        return found

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

    def _observer(self, session_id: str) -> Observer:
        recorder, webhooks, telemetry, plugins = self.store.recorder, self.webhooks, self.telemetry, self.plugins

        def observe(event: ServerEvent, data: bytes) -> None:
            recorder.on_event(session_id, event, data)
            webhooks.on_event(event, data)
            telemetry.on_event(session_id, event)
            plugins.observe(session_id, event)

        return observe

    def _adopt(self, task: asyncio.Task[Any]) -> None:
        """A task that ignores its cancellation: kept, so that it is not lost, until it ends."""
        self.stragglers.add(task)
        task.add_done_callback(self.stragglers.discard)

    def _forget(self, session: Session) -> None:
        self.sessions.pop(session.id, None)
