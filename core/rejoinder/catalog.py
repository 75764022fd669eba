"""The agents of a process: those of the settings, and those that were defined over REST and lie in SQL."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rejoinder.errors import ConfigError, RejoinderError, SessionError, UnknownName
from rejoinder.settings import CONFIG_FILE, Agent, Settings
from rejoinder.store.agents import AgentRecord, Agents
from rejoinder.store.store import Store

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")


class InvalidDefinition(ConfigError):
    """An agent's definition is wrong; `problems` maps the path of each wrong field to what is wrong."""

    code = "invalid_agent"

    def __init__(self, name: str, problems: dict[str, str]) -> None:
        listed = "; ".join(f"{path}: {what}" if path else what for path, what in problems.items())
        super().__init__(f"The definition of the agent {name!r} is wrong: {listed}.", fix="Correct the fields named.")
        self.problems = problems


@dataclass(frozen=True, slots=True)
class NamedAgent:
    """An agent as a session uses it; `version` is None for one of the settings."""

    name: str
    definition: Agent
    version: int | None = None
    created_at: int | None = None
    """Unix ms; None for one of the settings."""


class Catalog:
    """The agents of `settings` and of `store`; those of the settings cannot be changed here.

    `check(definition)` raises where a definition names what nobody registered.
    """

    def __init__(self, settings: Settings, store: Store, check: Callable[[Agent], None]) -> None:
        self.stored = Agents(store)
        self._settings = settings
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
            if version is not None and wanted not in self._fixed and (there := await self.stored.versions(wanted)):
                known = [str(one.version) for one in there]
                raise UnknownName("agent", f"{wanted} version {version}", known)
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
        if not _NAME.match(name):
            raise ConfigError(
                f"{name[:80]!r} is no name for an agent.",
                code="bad_agent_name",
                fix="Use 1 to 64 lower-case letters, digits, - and _.",
            )
        self._changeable(name)
        self._check_names(name, parse(name, definition))
        record = await self.stored.put(name, definition, by=by, expect=expect)
        return named(record) if record else None

    async def delete(self, name: str, *, by: str, expect: int | None = None) -> bool:
        """Delete the agent called `name`; its versions stay readable. False: it has another version than `expect`.

        Raises:
            UnknownName: there is none.
            SessionError: it is one of the settings (`agent_fixed`).
        """
        self._changeable(name)
        current = await self.get(name)
        return await self.stored.put(name, None, by=by, expect=expect or current.version) is not None

    @property
    def _fixed(self) -> dict[str, Agent]:
        return self._settings.all_agents

    def _changeable(self, name: str) -> None:
        if name in self._fixed:
            raise SessionError(
                f"The agent {name!r} is defined by the server's settings.",
                code="agent_fixed",
                fix=f"Change it in {CONFIG_FILE} and restart, or use another name.",
            )

    def _check_names(self, name: str, definition: Agent) -> None:
        try:
            self._check(definition)
        except RejoinderError as error:
            raise InvalidDefinition(name, {"": error.message.rstrip(".")}) from None


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
        problems = {".".join(map(str, one["loc"])): one["msg"] for one in error.errors()}
        raise InvalidDefinition(name, problems) from None
