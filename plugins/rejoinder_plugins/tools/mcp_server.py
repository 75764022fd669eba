"""One MCP server: a task that connects, stays connected and comes back; its tools, and how they are called."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import re
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self

import anyio
import mcp_types as types
import msgspec
from mcp import MCPError, StdioServerParameters
from mcp.client import Client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
from mcp.shared._httpx_utils import create_mcp_http_client

from rejoinder.errors import ToolError
from rejoinder.providers import Tool, ToolContext
from rejoinder_plugins.tools.mcp import ServerSettings

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 60.0
"""A server that is away is tried again after 0.5 s, then after twice as long each time, at most a minute."""
WAIT_S = 3.0
"""A call waits this long for a server that is away."""
_SETTLED_S = 60.0
"""After this long, a connection counts as one that works."""
_MAX_TOOLS = 500
_UNFIT = re.compile(r"[^a-zA-Z0-9_-]")
_MAX_NAME = 64
_MAX_DESCRIPTION = 1024
_RELISTEN_S = 30.0
_FORGOTTEN = "Session terminated"
"""How the package says that a server does not know its HTTP session any more: it was started anew."""
_CUT_OFF = ("Connection closed", "SSE stream")
"""How the package says that there will be no answer; servers use the same code for errors of their own."""


class McpServer:
    """A connection to one server; `tools` are those it offers, or offered when it was last there."""

    def __init__(self, name: str, settings: ServerSettings) -> None:
        self.name = name
        self.tools: dict[str, Tool] = {}
        self._settings = settings
        self._client: Client | None = None
        self._task: asyncio.Task[None] | None = None
        self._scope: anyio.CancelScope | None = None
        self._closing = asyncio.Event()
        self._tried = asyncio.Event()
        self._ready = asyncio.Event()
        self._news = asyncio.Event()
        self._lost = False
        self._stale = False

    async def start(self) -> None:
        """Connect; returns when it worked or failed for the first time, at the latest after `connect_timeout_s`."""
        self._task = asyncio.create_task(self._own(), name=f"mcp server {self.name}")
        await self._tried.wait()

    async def close(self) -> None:
        """Disconnect, end the program if one was started, and return when that is done."""
        self._closing.set()
        if self._scope is not None:
            self._scope.cancel()
        if self._task is not None:
            await asyncio.wait({self._task})

    # -- the one task that enters and leaves the connection

    async def _own(self) -> None:
        try:
            retry_s = FIRST_RETRY_S
            while not self._closing.is_set():
                retry_s = await self._once(retry_s)
        finally:
            self._tried.set()

    async def _once(self, retry_s: float) -> float:
        """Be connected as long as it lasts, then wait `retry_s`; how long to wait the next time."""
        clock = asyncio.get_running_loop()
        began = clock.time()
        try:
            await self._connect()
            problem = "the connection was lost"
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the process, and may pass
            problem = _first_line(error)
        finally:
            self._client = None
            self._ready.clear()
        self._tried.set()
        if self._closing.is_set():
            return retry_s
        if clock.time() - began > _SETTLED_S:
            retry_s = FIRST_RETRY_S
        log.warning("MCP server %s: %s; tried again in %.1f s. %s", self.name, problem, retry_s, self._advice())
        try:
            async with asyncio.timeout(retry_s * random.uniform(0.8, 1.2)):
                await self._closing.wait()
        except TimeoutError:
            pass
        return min(2 * retry_s, LAST_RETRY_S)

    async def _connect(self) -> None:
        """Connect and stay so until the connection is lost.

        Raises:
            TimeoutError: it took longer than `connect_timeout_s`.
            Exception: it cannot be reached, or speaks something else.
        """
        self._lost = self._stale = False
        # anyio's own scopes, not asyncio's: the package lets nothing else wait for its program to end.
        with anyio.CancelScope(deadline=anyio.current_time() + self._settings.connect_timeout_s) as self._scope:
            if self._closing.is_set():
                return
            async with self._transport() as transport, Client(transport, message_handler=self._hear) as client:
                await self._list(client)
                self._scope.deadline = math.inf
                self._client = client
                self._ready.set()
                self._tried.set()
                log.info("MCP server %s is connected: %d tools", self.name, len(self.tools))
                async with anyio.create_task_group() as group:
                    group.start_soon(self._listen, client)
                    await self._until_lost(client)
                    group.cancel_scope.cancel()
        if self._scope.cancelled_caught and not self._closing.is_set():
            raise TimeoutError(f"no answer within {self._settings.connect_timeout_s:g} s")

    async def _until_lost(self, client: Client) -> None:
        while not self._lost:
            await self._news.wait()
            self._news.clear()
            if self._stale and not self._lost:
                self._stale = False
                await self._list(client)

    async def _listen(self, client: Client) -> None:
        """Hear of changes of the tools where the server tells them only to those who ask; older ones tell `_hear`."""
        while True:
            try:
                async with client.listen(tools_list_changed=True) as changes:
                    async for _ in changes:
                        self._change()
            except SubscriptionLost as error:
                log.debug("MCP server %s: %s", self.name, error)
            except (ListenNotSupportedError, MCPError, TimeoutError) as error:
                log.debug("MCP server %s tells of no changes: %s", self.name, error)
                return
            await asyncio.sleep(_RELISTEN_S)
            # What was missed is not known.
            self._change()

    @asynccontextmanager
    async def _transport(self) -> AsyncGenerator[Any]:
        settings = self._settings
        if settings.command:
            program = StdioServerParameters(
                command=settings.command, args=list(settings.args), env=settings.env, cwd=settings.cwd
            )
            yield _watched(stdio_client(program, errlog=sys.__stderr__ or sys.stderr), self._end)
        else:
            async with create_mcp_http_client(headers=settings.headers) as http:
                yield _watched(streamable_http_client(settings.url, http_client=http), self._end)

    def _end(self) -> None:
        self._lost = True
        self._ready.clear()
        self._news.set()

    async def _hear(self, message: object) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self._change()

    def _change(self) -> None:
        self._stale = True
        self._news.set()

    def _advice(self) -> str:
        where = f"[plugins.mcp.servers.{self.name}]"
        if self._settings.command:
            return f"Does {self._settings.command!r} run by itself? See command, args, env of {where}."
        return f"Does it run at {self._settings.url}? See url and headers of {where}."

    # -- tools

    async def _list(self, client: Client) -> None:
        offered: list[types.Tool] = []
        cursor: str | None = None
        while len(offered) < _MAX_TOOLS:
            page = await client.list_tools(cursor=cursor, cache_mode="refresh")
            offered += page.tools
            if not (cursor := page.next_cursor):
                break
        self.tools = {}
        for tool in offered[:_MAX_TOOLS]:
            name = _UNFIT.sub("_", f"{self.name}_{tool.name}")[:_MAX_NAME]
            if name in self.tools:
                log.warning("MCP server %s offers two tools that would be called %s; one is left out", self.name, name)
                continue
            hints = tool.annotations
            self.tools[name] = Tool(
                name=name,
                description=(tool.description or tool.title or tool.name).strip()[:_MAX_DESCRIPTION],
                run=partial(self._call, tool.name),
                parameters=tool.input_schema,
                side_effects=not (hints and hints.read_only_hint),
                timeout_ms=self._settings.timeout_ms,
            )

    async def _call(self, tool: str, arguments: dict[str, Any], context: ToolContext) -> str:
        try:
            result = await self._ask(tool, arguments, context)
        except MCPError as error:
            if error.message != _FORGOTTEN:
                raise self._explain(error) from None
            # It was refused, so nothing was done yet.
            self._end()
            try:
                result = await self._ask(tool, arguments, context)
            except MCPError as again:
                raise self._explain(again) from None
        text = _text(result)
        if result.is_error:
            raise ToolError(text or f"{tool} failed.")
        return text or "Done."

    async def _ask(self, tool: str, arguments: dict[str, Any], context: ToolContext) -> types.CallToolResult:
        """Cancelled, it tells the server to stop."""
        client = await self._connected()
        return await client.call_tool(tool, arguments, progress_callback=partial(_report, context))

    def _explain(self, error: MCPError) -> ToolError:
        if error.code == types.CONNECTION_CLOSED and error.message.startswith(_CUT_OFF):
            return ToolError(f"The server {self.name} was lost during the call; it may or may not have taken effect.")
        return ToolError(error.message or f"{self.name} refused the call.")

    async def _connected(self) -> Client:
        try:
            async with asyncio.timeout(WAIT_S):
                await self._ready.wait()
        except TimeoutError:
            pass
        if self._client is None or self._lost:
            raise ToolError(f"The server {self.name} cannot be reached now. Nothing was done.")
        return self._client


async def _report(context: ToolContext, progress: float, total: float | None, message: str | None) -> None:
    context.progress(message or "", progress / total if total else None)


def _text(result: types.CallToolResult) -> str:
    """What a model is told of a result: its texts, and what else there is by name."""
    parts: list[str] = []
    for block in result.content:
        match block:
            case types.TextContent():
                parts.append(block.text)
            case types.EmbeddedResource(resource=types.TextResourceContents() as resource):
                parts.append(resource.text)
            case types.EmbeddedResource() | types.ResourceLink():
                resource_of = block.resource if isinstance(block, types.EmbeddedResource) else block
                parts.append(f"[{resource_of.uri}]")
            case types.ImageContent() | types.AudioContent():
                parts.append(f"[{block.mime_type}]")
    if not parts and result.structured_content is not None:
        return msgspec.json.encode(result.structured_content).decode()
    return "\n".join(parts)


def _first_line(error: BaseException) -> str:
    """What went wrong, without the groups that it is wrapped in."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text[:200]


@asynccontextmanager
async def _watched(transport: AbstractAsyncContextManager[Any], ended: Callable[[], None]) -> AsyncGenerator[Any]:
    """`transport`, and `ended()` when nothing more comes from it: the package tells nobody but those who wait."""
    async with transport as (reading, writing):
        yield _Watched(reading, ended), writing


class _Watched:
    """A stream of messages that tells of its end."""

    def __init__(self, stream: Any, ended: Callable[[], None]) -> None:
        self._stream = stream
        self._ended = ended

    @property
    def last_context(self) -> Any:
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:
        return await self._until_end(self._stream.receive)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return await self._until_end(self._stream.__anext__)

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        ended: bool | None = await self._stream.__aexit__(kind, error, trace)
        return ended

    async def _until_end(self, read: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await read()
        except (StopAsyncIteration, anyio.EndOfStream, anyio.ClosedResourceError):
            self._ended()
            raise
