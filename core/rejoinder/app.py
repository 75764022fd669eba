"""The runtime of one process: settings, plugins, providers, store and live sessions; starts, drains and stops them."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, TypeVar, cast

import msgspec

from rejoinder import preflight
from rejoinder.audio import Rates
from rejoinder.auth import LOOPBACK, Gate
from rejoinder.board import Board
from rejoinder.bus import Observer
from rejoinder.catalog import Catalog, InvalidDefinition, NamedAgent, fixed_agents
from rejoinder.clock import Clock, SystemClock
from rejoinder.errors import ConfigError, SessionError
from rejoinder.events import ServerEvent
from rejoinder.guard import FAULTS
from rejoinder.hooks import BLOCK_S, TO_A_THREAD, Hooks, SessionHooks
from rejoinder.host import Host, Origin, Services
from rejoinder.ids import new_id
from rejoinder.llm_log import LlmLog
from rejoinder.manager import Plugins, plugins_of
from rejoinder.models import ModelCache
from rejoinder.nodes import Nodes, Vitals
from rejoinder.plugin_settings import PluginSettings
from rejoinder.providers import KINDS, AnyProvider, Kind, Tool
from rejoinder.recording import Recordings
from rejoinder.session import Session
from rejoinder.settings import Agent, Settings
from rejoinder.stages.playout import Pacer
from rejoinder.stages.voice import PhraseCache
from rejoinder.store.asking import Asking
from rejoinder.store.audit import Audit
from rejoinder.store.records import RoomRecord
from rejoinder.store.store import Store
from rejoinder.supply import Supply
from rejoinder.telemetry import Telemetry
from rejoinder.toolbox import Toolbox, read_section
from rejoinder.watchdog import Block, Owners, Watchdog, tasks_of_plugins
from rejoinder.webhooks import Webhooks

log = logging.getLogger(__name__)
TEXT_RATES = Rates(16_000, 24_000)
"""Of a session that begins in writing; whoever comes to speak gets their own."""


S = TypeVar("S", bound=msgspec.Struct)
_LONG_BLOCK_S = 0.25
"""What nobody's plugin does is told from here on: audio is 200 ms ahead."""
_TASKS, _TASKS_PER_SESSION = 50, 10
"""A plugin that has more tasks than these has forgotten some."""
_HEALTH_S = 5.0
_DRAFT = " (draft)"
_DRAFTS, _DRAFT_NAME, _DRAFT_BYTES = 100, 64, 262_144


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
        self.store = Store(settings.database_url, limits=settings.limits)
        self.plugin_settings = PluginSettings(self.store, settings, self.plugins)
        self._sections = self.plugin_settings.sections
        broken = self._findings.broken if listens else ()
        self.toolbox = Toolbox(self.plugins, self._sections, self, broken=broken)
        self.models = ModelCache(settings.models_dir, self.plugins.models())
        self.supply = Supply(settings, self.plugins, self.models, self.clock, progress, sections=self._sections)
        self.breaker = self.supply.breaker
        self.audit = Audit(self.store)
        self.asking = Asking(self.store)
        self.recordings = Recordings(self.store, settings.recordings_dir, self.clock)
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
        self.node = new_id("node")
        """The id of this process, among those on its database."""
        self.board = Board(self.node, self.clock)
        self.sessions: dict[str, Session] = {}
        self._drafts: dict[str, NamedAgent] = {}
        """Agents that were never stored, each for one session."""
        self.stragglers: set[asyncio.Task[Any]] = set()
        self.draining = False
        self.vitals = Vitals(
            self.store,
            self.telemetry,
            self.board,
            self.clock,
            sessions=lambda: len(self.sessions),
            capacity=settings.limits.sessions,
            draining=lambda: self.draining,
            loaded=self.supply.loaded,
        )
        self.nodes = Nodes(self.node, self.store, self.vitals, self.clock)
        self._progress = progress
        self._listens = listens
        self._watchdog = Watchdog(self._blocked, self._audit)
        self._owners: Owners | None = None
        self._health: tuple[float, dict[str, str]] = (float("-inf"), {})
        self._pacer = Pacer()
        self._exit = AsyncExitStack()
        self._llm_log = LlmLog(lambda: self.store.recorder) if settings.store_llm_requests else None
        self._host = Host(
            limits=settings.limits,
            clock=self.clock,
            pacer=self._pacer,
            hooks=self.hooks,
            observer=self._observer,
            straggler=self._adopt,
            on_ended=self._forget,
            sent=self._llm_log.keep if self._llm_log else lambda session_id, hooks, entry: None,
            choose=self._choose,
            breaker=self.breaker,
            odd=lambda name, what: self.supply.report("tts", name, "answer", f"{name}: {what}?"),
            phrases=PhraseCache(),
        )

    # -- start and stop

    async def __aenter__(self) -> Runtime:
        try:
            self._exit.callback(self._pacer.close)
            self._exit.push_async_callback(self.supply.close)
            self._exit.push_async_callback(self._close_tools)
            self._progress("database")
            found = self.examine()
            if self._listens and found.problems and not found.transfers:
                # Where all is known without the database, none is made.
                raise found.error()
            await self.store.open()
            self._exit.push_async_callback(self.store.close)
            await self._take_up(await self.plugin_settings.load())
            await found.settle(self.catalog.stored, self.fixed_agents)
            if self._listens and found.problems:
                raise found.error()
            for warning in (*found.problems, *found.warnings):
                log.warning("%s", warning)
            await self.webhooks.open()
            self._exit.push_async_callback(self.webhooks.close)
            await self.recordings.open()
            self._exit.push_async_callback(self.recordings.close)
            self.telemetry.start()
            self._exit.push_async_callback(self.telemetry.close)
            self._watchdog.start()
            self._exit.callback(self._watchdog.close)
            self._exit.callback(self.gate.close)
            await self.gate.open()
            if self._listens:
                await self.gate.prepare()
            agent = (await self.catalog.get()).definition
            for kind in KINDS:
                await self.supply.named(kind, agent)
            await self.toolbox.start()
            self._exit.push_async_callback(self.hooks.shutdown, self)
            await self.hooks.startup(self)
            self._check_required()
            await self.nodes.open()
            self._exit.push_async_callback(self.nodes.close)
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
        self.board.close()
        for task in tuple(self.stragglers):
            task.cancel()

    # -- providers

    async def provider(self, kind: Kind, name: str) -> AnyProvider:
        """The provider called `name`; see `Supply.provider`."""
        return await self.supply.provider(kind, name)

    async def services(self, agent: Agent) -> Services:
        """The providers and tools of `agent`, ready to use.

        Raises:
            UnknownName: it names a tool or provider nobody registered.
        """
        found = {kind: cast(Any, await self.supply.named(kind, agent)) for kind in KINDS}
        return Services(
            vad=found["vad"][agent.vad],
            stt=found["stt"],
            turn=found["turn"],
            interruption=found["interruption"],
            llm=found["llm"],
            tts=found["tts"],
            tools=self._fitted(agent),
        )

    def _fitted(self, agent: Agent) -> dict[str, Tool]:
        """The tools of `agent` as they are for it; one that does not fit is left out."""
        fitted = {}
        for name, tool in self.toolbox.choose(agent.tools).items():
            try:
                fitted[name] = tool.fit(agent) if tool.fit else tool
            except FAULTS as error:
                self.plugins.report(self.plugins.owner("tool", tool.name), "configure", f"tool:{tool.name}", error)
        return fitted

    async def _choose(self, name: str) -> tuple[NamedAgent, Services]:
        chosen = await self.catalog.get(name)
        return chosen, await self.services(chosen.definition)

    def examine(self) -> preflight.Findings:
        """What is wrong with the settings, as far as it is known without the database and without loading anything."""
        found = copy.deepcopy(self._findings)
        preflight.examine_agents(found, self.settings, self.plugins, self.toolbox, self.supply.voices)
        return found

    def _check_agent(self, agent: Agent) -> dict[str, str]:
        """What `agent` names that nobody registered: what is wrong by the field's name."""
        fixed = self.fixed_agents
        return preflight.by_field(preflight.bad_names(agent, self.plugins, self.toolbox, self.supply.voices, fixed))

    @property
    def fixed_agents(self) -> dict[str, Agent]:
        """The agents of plugins and of the settings by name."""
        return fixed_agents(self.settings, self.plugins)

    def section(self, name: str, schema: type[S]) -> S:
        """The settings `[plugins.NAME]`, for the hooks of plugins; see `register_settings`.

        Raises:
            ConfigError: no plugin names such a section in `register_settings`, or they do not fit `schema`; a server
                that listens has refused to start then.
        """
        schemas = self.plugins.schemas()
        if name not in schemas:
            known = ", ".join(sorted(self.plugins.settings())) or "none"
            raise ConfigError(f"[plugins.{name}] is no plugin's section.", fix=f"register_settings names: {known}.")
        return read_section(self._sections, name, schema, schemas[name])

    async def _take_up(self, names: Collection[str]) -> None:
        """Before anything is loaded: the sections called so are other than when what needs them was made."""
        if any(self.toolbox.has_source(name) for name in names):
            old, self.toolbox = self.toolbox, Toolbox(self.plugins, self._sections, self)
            await old.close()
        for name in names:
            await self.supply.renew(name, lambda: True)

    async def apply_settings(self, name: str) -> bool:
        """Let the plugins take up the section called `name`; False: a part of it waits for the next start."""
        before = set(self.sessions)
        renewed = await self.supply.renew(name, lambda: not before & self.sessions.keys())
        # Hooks have read theirs when the server started, and sources of tools are connected.
        return renewed and not self.toolbox.has_source(name) and name not in self.plugins.settings()

    async def _close_tools(self) -> None:
        await self.toolbox.close()

    # -- plugins that misbehave

    def _check_required(self) -> None:
        """Whether the plugins that must not be missing have got ready; that they are there is known already.

        Raises:
            ConfigError: one has not.
        """
        for name in self.settings.required_plugins:
            for problem in self.plugins.infos[name].problems if name in self.plugins.infos else ():
                if problem.stage in ("startup", "register"):
                    raise ConfigError(f"required_plugins: {name}: {problem.what}", fix="Mend it, or do without it.")

    async def health(self) -> dict[str, str]:
        """What plugins say is not well, by name; asked at most every 5 s."""
        at, found = self._health
        if self.clock.monotonic() - at >= _HEALTH_S:
            self._audit()
            found = await self.hooks.health()
            self._health = (self.clock.monotonic(), found)
        return found

    def _blocked(self, block: Block) -> None:
        """The event loop was held up: say by whom, if it was a plugin, and ask others where there are others."""
        self._owners = self._owners or Owners(self.plugins)
        seen = [self._owners.innermost(stack) for stack in block.stacks]
        owner, place = seen[-1]
        if len(seen) < 2 or len({plugin for plugin, _ in seen}) > 1:
            # Seen once, or here and there: many small things together, and nobody's fault alone.
            owner = ""
        if not owner:
            level = logging.WARNING if block.seconds >= _LONG_BLOCK_S else logging.INFO
            log.log(level, "the event loop was held up for %d ms in %s", block.seconds * 1000, place)
            return
        if not self.hooks.blamed(owner, block.seconds):
            text = f"{place} held up the event loop, and with it every call, for {block.seconds * 1000:.0f} ms"
            details = "".join(block.stacks[-1].format())
            self.plugins.report(owner, "block", "", text, fix=TO_A_THREAD, details=details)
        if block.seconds >= BLOCK_S:
            self.supply.bench(owner)
            self.hooks.rest_awaited(owner)

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

    async def create_draft_room(self, agent: str | None, definition: dict[str, Any]) -> RoomRecord:
        """A room for an agent that is not stored: `definition` is kept by this process, for this room's session alone.

        Raises:
            InvalidDefinition: a field is wrong, or names what nobody registered.
        """
        name = f"{(agent or 'agent')[:_DRAFT_NAME]}{_DRAFT}"
        if len(msgspec.json.encode(definition)) > _DRAFT_BYTES:
            raise InvalidDefinition(name, {"": f"it is larger than {_DRAFT_BYTES} bytes"})
        draft = NamedAgent(name, self.catalog.checked(name, definition))
        room = await self.store.create_room(name, new_id("ses"))
        while len(self._drafts) >= _DRAFTS:
            # The oldest that nobody talks to.
            old = next((one for one in self._drafts if one not in self.sessions), next(iter(self._drafts)))
            del self._drafts[old]
        self._drafts[room.session_id] = draft
        return room

    async def join(
        self, session_id: str, rates: Rates = TEXT_RATES, *, written: bool = False, origin: Origin | None = None
    ) -> Session:
        """The session `session_id` of a room; started if this is the first to join (the rest: as in `start_session`).

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
        draft = self._drafts.get(session_id)
        if draft is None and room.agent.endswith(_DRAFT) and room.agent not in self.fixed_agents:
            raise SessionError(
                f"The draft of {room.agent} is not there any more.",
                code="draft_gone",
                fix="Try it again: POST /v1/rooms with the draft, at the same process.",
            )
        session = await self.start_session(room.agent, rates, session_id, written=written, origin=origin, draft=draft)
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
        origin: Origin | None = None,
        draft: NamedAgent | None = None,
    ) -> Session:
        """A new session with the agent called `agent` (in that `version`, else the newest).

        `written`: it begins with a message of the user, so that the agent does not greet them first. `origin`: how its
        first client came. `draft`: with this agent, which is not stored, instead.

        Raises:
            UnknownName: there is no such agent, or it names what nobody registered.
            SessionError: the process is full or about to stop.
        """
        self._admit()
        chosen = draft or await self.catalog.get(agent, version)
        services = await self.services(chosen.definition)
        session_id = session_id or new_id("ses")
        if session := self.sessions.get(session_id):
            # Somebody else joined while the providers were loading.
            return session
        self._admit()
        origin = origin or Origin()
        session = Session(session_id, chosen, services, self._host, rates, greet=not written, origin=origin)
        self.store.recorder.came(session.id, *origin)
        self.recordings.watch(session)
        self.sessions[session.id] = session
        self.board.add(session.id, chosen.name, origin.channel or None, origin.client or None)
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
        recorder, webhooks, telemetry, board = self.store.recorder, self.webhooks, self.telemetry, self.board

        def observe(event: ServerEvent, data: bytes) -> None:
            stored, stored_data = hooks.stored(event, data)
            recorder.on_event(session_id, stored, stored_data)
            webhooks.on_event(stored, stored_data)
            telemetry.on_event(session_id, event)
            board.on_event(session_id, event)
            hooks.observe(event)

        return observe

    def _adopt(self, task: asyncio.Task[Any]) -> None:
        """A task that ignores its cancellation: kept, so that it is not lost, until it ends."""
        self.stragglers.add(task)
        task.add_done_callback(self.stragglers.discard)

    def _forget(self, session: Session) -> None:
        self.sessions.pop(session.id, None)
        self._drafts.pop(session.id, None)
        self.board.remove(session.id)
