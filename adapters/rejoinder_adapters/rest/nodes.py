"""The processes on this server's database, and how each does."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import get

from rejoinder.app import Runtime
from rejoinder.nodes import Node
from rejoinder_adapters.security import needs


class NodeList(msgspec.Struct):
    """Processes, the one that started first first."""

    items: list[Node]


def routes(runtime: Runtime) -> list[Any]:
    """`/v1/nodes`."""

    @get("/v1/nodes", guards=[needs("read")])
    async def list_nodes() -> NodeList:
        """The processes on this database, as each of them last said within ten seconds."""
        return NodeList(await runtime.nodes.all())

    return [list_nodes]
