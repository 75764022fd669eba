"""Tools of MCP servers: `[plugins.mcp.servers.NAME]`, each connected as long as the process runs."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import msgspec

from rejoinder.errors import MissingDependency
from rejoinder.hookspecs import hookimpl
from rejoinder.providers import Secret, Tool, ToolSource

if TYPE_CHECKING:
    from rejoinder_plugins.tools.mcp_server import McpServer

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,32}")


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[plugins.mcp.servers.NAME]`: a program to start (`command`) or an address (`url`)."""

    command: str = ""
    args: tuple[Secret, ...] = ()
    env: dict[str, Secret] = {}
    """Beside what every program gets: PATH, HOME and the like."""
    cwd: str | None = None
    url: str = ""
    """Of a server that speaks streamable HTTP."""
    headers: dict[str, Secret] = {}
    connect_timeout_s: float = 10.0
    """The start of the process waits for it this long."""
    timeout_ms: int | None = None
    """A call that takes longer has failed; None: the agent's `tool_timeout_ms`."""

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.url):
            raise ValueError("give either command (a program to start) or url (a server that runs)")


class McpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[plugins.mcp]`."""

    servers: Annotated[dict[str, ServerSettings], msgspec.Meta(extra_json_schema={"readOnly": True})] = {}
    """They start programs: whoever may write the file or the environment sets them, nobody else."""

    def __post_init__(self) -> None:
        for name in self.servers:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name for a server: use 1 to 32 letters, digits, _ and -")


class McpTools:
    """The tools of all servers in the settings, called `NAME_tool`.

    Raises (when made):
        MissingDependency: there are servers, but the package `mcp` is not installed.
    """

    def __init__(self, settings: McpSettings) -> None:
        if settings.servers and importlib.util.find_spec("mcp") is None:
            raise MissingDependency("mcp", "mcp", "mcp")
        self._settings = settings
        self._servers: list[McpServer] = []

    async def start(self) -> None:
        """Connect to all at once; waits for each as long as its `connect_timeout_s` says."""
        if not self._settings.servers:
            return
        # The package takes the better part of a second to load.
        await asyncio.to_thread(importlib.import_module, "rejoinder_plugins.tools.mcp_server")
        from rejoinder_plugins.tools.mcp_server import McpServer

        self._servers = [McpServer(name, settings) for name, settings in self._settings.servers.items()]
        await asyncio.gather(*(server.start() for server in self._servers))

    def tools(self) -> Mapping[str, Tool]:
        """What the servers offer, or offered when they were last connected."""
        return {name: tool for server in self._servers for name, tool in server.tools.items()}

    def expects(self, name: str) -> bool:
        """Whether `name` begins like the tools of a server in the settings."""
        return any(name.startswith(f"{server}_") for server in self._settings.servers)

    async def close(self) -> None:
        """Disconnect from all; programs that were started are ended."""
        await asyncio.gather(*(server.close() for server in self._servers))


@hookimpl
def register_tool_sources() -> list[ToolSource]:
    """One source for all MCP servers."""
    return [ToolSource("mcp", "Tools of MCP servers.", McpTools, McpSettings)]
