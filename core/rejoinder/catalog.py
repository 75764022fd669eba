"""The agents of a process: those of the settings, and those that were defined over REST and lie in SQL."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rejoinder.errors import ConfigError, SessionError, UnknownName, listed
from rejoinder.manager import Plugins
from rejoinder.settings import AGENT_NAME, CONFIG_FILE, Agent, Settings, explain_validation
from rejoinder.store.agents import AgentRecord, Agents
from rejoinder.store.store import Store

log = logging.getLogger(__name__)


class InvalidDefinition(ConfigError):
    """An agent's definition is wrong; `problems` maps the path of each wrong field to what is wrong."""

    code = "invalid_agent"

    def __init__(self, name: str, problems: Mapping[str, str]) -> None:
        found = listed(f"{path}: {what}" if path else what for path, what in problems.items())
        super().__init__(f"The definition of the agent {name!r} is wrong: {found}", fix="Correct the fields named.")
        self.problems = problems


class UnknownVersion(UnknownName):
    """An agent that has not got the version asked for; `versions` are those it has."""

    def __init__(self, name: str, version: int, versions: list[int]) -> None:
        there = ", ".join(map(str, sorted(versions)))
        what = f"there {'is' if len(versions) == 1 else 'are'} {there}" if there else "the server's settings define it"
        ConfigError.__init__(
            self, f"The agent {name!r} has no version {version}; {what}.", code="unknown_agent", fix="Leave it out."
        )


@dataclass(frozen=True, slots=True)
class NamedAgent:
    """An agent as a session uses it; `version` is None for one of the settings."""

    name: str
    definition: Agent
    version: int | None = None
    created_at: int | None = None
    """Unix ms; None for one of the settings."""


def fixed_agents(settings: Settings, plugins: Plugins) -> dict[str, Agent]:
    """The agents of plugins and of the settings by name; those of the settings win."""
    return {**plugins.agents(), **settings.agents}


def fixed_agent(settings: Settings, plugins: Plugins, name: str | None) -> Agent:
    """The agent called `name` (None: the default one) of those that are not in SQL.

    Raises:
        UnknownName: there is none (`unknown_agent`).
    """
    wanted = name or settings.default_agent
    agents = fixed_agents(settings, plugins)
    if wanted not in agents:
        raise UnknownName("agent", wanted, agents, fix=f"Define [agents.{wanted}] in {CONFIG_FILE}.")
    return agents[wanted]


class Catalog:
    """The agents of `settings` and of `plugins`, which cannot be changed here, and those of `store`.

    `check(definition)` says what a definition names that nobody registered: what is wrong by the field's name.
    """

    def __init__(
        self, settings: Settings, plugins: Plugins, store: Store, check: Callable[[Agent], Mapping[str, str]]
    ) -> None:
        self.stored = Agents(store)
        self._settings = settings
        self._plugins = plugins
        self._check = check

    async def get(self, name: str | None = None, version: int | None = None) -> NamedAgent:
        """The agent called `name` (None: the default one), in that `version` or the newest.

        Raises:
            UnknownName: there is none (`unknown_agent`).
            InvalidDefinition: it was stored by another release and does not fit this one.
        """
        wanted = name or self._settings.default_agent
        if wanted in self._fixed and version is None:
            return NamedAgent(wanted, self._fixed[wanted])
        record = await self.stored.get(wanted, version)
        if record is None:
            there = await self.stored.versions(wanted) if version is not None else []
            # Of one that was deleted, the version that says so is none to be had.
            versions = [one.version for one in there if one.definition is not None]
            if version is not None and (versions or wanted in self._fixed):
                raise UnknownVersion(wanted, version, versions)
            known = [*self._fixed, *(one.name for one in await self.stored.all())]
            fix = f"Define it: PUT /v1/agents/{wanted}, or [agents.{wanted}] in {CONFIG_FILE}."
            raise UnknownName("agent", wanted, known, fix=fix)
        return named(record)

    async def all(self) -> list[NamedAgent]:
        """All agents by name; one that does not fit this release is left out."""
        found = [NamedAgent(name, definition) for name, definition in self._fixed.items()]
        for record in await self.stored.all():
            if record.name not in self._fixed:
                try:
                    found.append(named(record))
                except InvalidDefinition:
                    continue
        return sorted(found, key=lambda agent: agent.name)

    async def put(
        self, name: str, definition: dict[str, Any], *, by: str, expect: int | None = None
    ) -> NamedAgent | None:
        """Define the agent called `name`, as a new version; `by` is who does it.

        `expect` is the version it must have now (0: none yet); None is returned if it has another.

        Raises:
            InvalidDefinition: a field is wrong, or names what nobody registered.
            ConfigError: the name is no name (`bad_agent_name`).
            SessionError: the agent is one of the settings (`agent_fixed`).
        """
        if not AGENT_NAME.match(name):
            raise ConfigError(
                f"{name[:80]!r} is no name for an agent.",
                code="bad_agent_name",
                fix="Use 1 to 64 lower-case letters, digits, - and _.",
            )
        self._changeable(name)
        await self._warn_of_transfers(name, self.checked(name, definition))
        record = await self.stored.put(name, definition, by=by, expect=expect)
        return named(record) if record else None

    def checked(self, name: str, definition: dict[str, Any]) -> Agent:
        """The agent that `definition` describes, if it could be put.

        Raises:
            InvalidDefinition: a field is wrong, or names what nobody registered.
        """
        agent = parse(name, definition)
        if problems := self._check(agent):
            raise InvalidDefinition(name, problems)
        return agent

    async def delete(self, name: str, *, by: str, expect: int | None = None) -> bool:
        """Delete the agent called `name`; its versions stay readable. False: it has another version than `expect`.

        Raises:
            UnknownName: there is none.
            SessionError: it is one of the settings (`agent_fixed`).
        """
        self._changeable(name)
        current = await self.get(name)
        if expect is None:
            expect = current.version
        return await self.stored.put(name, None, by=by, expect=expect) is not None

    async def _warn_of_transfers(self, name: str, definition: Agent) -> None:
        """Write down which agents there are not yet; they may be defined later."""
        if unknown := set(definition.transfers) - {name, *self._fixed}:
            unknown -= {one.name for one in await self.stored.all()}
        for other in sorted(unknown):
            log.warning("the agent %s may transfer to %s, which is not defined (yet)", name, other)

    @property
    def _fixed(self) -> dict[str, Agent]:
        return fixed_agents(self._settings, self._plugins)

    def _changeable(self, name: str) -> None:
        if name in self._fixed:
            raise SessionError(
                f"The agent {name!r} is defined by the server's settings.",
                code="agent_fixed",
                fix=f"Change it in {CONFIG_FILE} and restart, or use another name.",
            )


def named(record: AgentRecord) -> NamedAgent:
    """The agent in `record`, which has a definition.

    Raises:
        InvalidDefinition: it does not fit this release.
    """
    return NamedAgent(record.name, parse(record.name, record.definition or {}), record.version, record.created_at)


def parse(name: str, definition: dict[str, Any]) -> Agent:
    """The agent that `definition` describes.

    Raises:
        InvalidDefinition: fields are wrong or unknown; all of them are named at once.
    """
    try:
        return Agent.model_validate(definition)
    except ValidationError as error:
        raise InvalidDefinition(name, dict(explain_validation(error, Agent, "field"))) from None
