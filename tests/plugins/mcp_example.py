"""An MCP server to test against: `python mcp_example.py FOLDER [http]`; notes what happens in files of FOLDER."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

FOLDER = Path(sys.argv[1])
server = MCPServer("example")


def note(name: str, text: str) -> None:
    with (FOLDER / name).open("a") as file:
        file.write(text + "\n")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int = 1) -> int:
    """Adds two numbers."""
    return a + b


@server.tool(name="book.table")
async def book(name: str) -> str:
    """Books a table."""
    note("booked", name)
    return f"booked for {name}"


@server.tool()
async def count(to: int, ctx: Context) -> str:
    """Counts."""
    for number in range(1, to + 1):
        await ctx.report_progress(number, to, f"at {number}")
    return "counted"


@server.tool()
async def wait() -> str:
    """Waits for ever."""
    note("waiting", "yes")
    try:
        await asyncio.sleep(3600)
    except BaseException:
        note("cancelled", "yes")
        raise
    return "never"


@server.tool()
def fail() -> str:
    """Fails."""
    raise ToolError("the oven is cold")


@server.tool()
def die() -> str:
    """Ends the server."""
    os._exit(3)


@server.tool()
def environment(name: str) -> str:
    """Tells a variable."""
    return os.environ.get(name, "none")


@server.tool()
async def learn(ctx: Context) -> str:
    """Offers one tool more."""

    def learned() -> str:
        """Was learned."""
        return "yes"

    server.add_tool(learned)
    await ctx.notify_tools_changed()
    return "learned"


async def main() -> None:
    note("started", str(os.getpid()))
    if len(sys.argv) < 3:
        await server.run_stdio_async()
        return
    listening = socket.create_server(("127.0.0.1", int(sys.argv[2])))
    (FOLDER / "port").write_text(str(listening.getsockname()[1]))
    app = server.streamable_http_app()
    config = uvicorn.Config(app, log_level="warning")
    await uvicorn.Server(config).serve(sockets=[listening])


if __name__ == "__main__":
    asyncio.run(main())
