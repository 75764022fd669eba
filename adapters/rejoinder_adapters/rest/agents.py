"""Agents: read with their versions, defined and changed with validation, deleted; those of the settings are fixed."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, put
from litestar.datastructures import State
from litestar.params import FromPath, JSONBody, QueryParameter

from rejoinder.app import Runtime
from rejoinder.catalog import NamedAgent
from rejoinder.errors import ProtocolError, SessionError
from rejoinder.settings import PROFILES, Agent
from rejoinder_adapters.security import audit, needs, principal_of

Asked = Request[Any, Any, State]
Number = Annotated[int | None, QueryParameter(ge=1, le=2**31 - 1)]


class AgentView(msgspec.Struct):
    """An agent; `definition` has all fields, defaults included.

    `version` is None for one of the settings (`source`), which cannot be changed here. `created_at` is Unix ms.
    """

    name: str
    version: int | None
    source: str
    created_at: int | None
    definition: dict[str, Any]


class AgentList(msgspec.Struct):
    """Agents by name."""

    items: list[AgentView]


class Version(msgspec.Struct):
    """One version of an agent, as it was given; without a `definition` it was deleted then."""

    version: int
    created_at: int
    created_by: str
    definition: dict[str, Any] | None


class VersionList(msgspec.Struct):
    """Versions, newest first."""

    items: list[Version]


class AgentSchema(msgspec.Struct):
    """What a definition may hold, as a JSON Schema with defaults, and what each profile of `turns` sets."""

    schema: dict[str, Any]
    profiles: dict[str, dict[str, Any]]


def routes(runtime: Runtime) -> list[Any]:
    """`/v1/agents`, and what a definition is made of."""
    catalog = runtime.catalog
    reading, writing = [needs("read")], [needs("agents")]

    @get("/v1/agents", guards=reading)
    async def list_agents() -> AgentList:
        """All agents."""
        return AgentList([_view(agent) for agent in await catalog.all()])

    @get("/v1/agent_schema", guards=reading)
    async def get_agent_schema() -> AgentSchema:
        """What an agent's definition may hold: for editors and checks."""
        return AgentSchema(_SCHEMA, {str(name): numbers for name, numbers in PROFILES.items()})

    @get("/v1/agents/{name:str}", guards=reading)
    async def get_agent(name: FromPath[str], version: Number = None) -> Response[AgentView]:
        """An agent, in its newest version or an older one."""
        return _answer(await catalog.get(name, version), 200)

    @get("/v1/agents/{name:str}/versions", guards=reading, operation_id="list_agent_versions")
    async def list_versions(name: FromPath[str]) -> VersionList:
        """All versions of an agent; sessions name the one that they had."""
        records = await catalog.stored.versions(name)
        if not records:
            await catalog.get(name)
        return VersionList([Version(r.version, r.created_at, r.created_by, r.definition) for r in records])

    @put("/v1/agents/{name:str}", guards=writing)
    async def put_agent(name: FromPath[str], data: JSONBody[dict[str, Any]], request: Asked) -> Response[AgentView]:
        """Define an agent, or change it: the definition as a whole becomes its next version, for sessions to come."""
        principal = await principal_of(request)
        expect = _expected(request)
        made = await catalog.put(name, data, by=principal.id, expect=expect)
        if made is None:
            raise _refused(name, expect)
        audit(request, "agent.put", name, version=made.version)
        return _answer(made, 201 if made.version == 1 else 200)

    @delete("/v1/agents/{name:str}", guards=writing)
    async def delete_agent(name: FromPath[str], request: Asked) -> None:
        """Delete an agent. Its versions can still be read, and sessions that have it go on."""
        principal = await principal_of(request)
        expect = _expected(request)
        if not await catalog.delete(name, by=principal.id, expect=expect):
            raise _refused(name, expect)
        audit(request, "agent.delete", name)

    return [list_agents, get_agent_schema, get_agent, list_versions, put_agent, delete_agent]


_SCHEMA = Agent.model_json_schema()


def _view(agent: NamedAgent) -> AgentView:
    source = "settings" if agent.version is None else "api"
    definition = agent.definition.model_dump(mode="json")
    return AgentView(agent.name, agent.version, source, agent.created_at, definition)


def _answer(agent: NamedAgent, status: int) -> Response[AgentView]:
    return Response(_view(agent), status_code=status, headers={"etag": f'"{agent.version or 0}"'})


def _expected(request: Asked) -> int | None:
    """The version that the agent must have now: of `If-Match`, or 0 for `If-None-Match: *`; None: any."""
    if request.headers.get("if-none-match") == "*":
        return 0
    given = request.headers.get("if-match")
    if given is None:
        return None
    number = given.strip().removeprefix("W/").strip('"')
    if not (number.isascii() and number.isdigit() and len(number) <= 9):
        raise ProtocolError(f"If-Match {given[:40]!r} is no ETag of an agent.", fix="Send the ETag that GET gave.")
    return int(number)


def _refused(name: str, expect: int | None) -> SessionError:
    if expect == 0:
        return SessionError(
            f"The agent {name!r} exists already.",
            code="version_mismatch",
            fix="Leave If-None-Match out to change it, or use another name.",
        )
    return SessionError(
        f"The agent {name!r} was changed meanwhile.", code="version_mismatch", fix="GET it again and apply your change."
    )
