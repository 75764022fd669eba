"""The tool `transfer`: another agent takes over the conversation, one of those that the agent's `transfers` names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rejoinder.errors import ToolError
from rejoinder.hookspecs import hookimpl
from rejoinder.providers import Tool, ToolContext
from rejoinder.settings import Agent


async def transfer(arguments: dict[str, Any], context: ToolContext) -> str:
    """Let the agent called `agent` answer from the end of this reply on.

    Raises:
        ToolError: no agent is named, or one that this agent may not transfer to.
    """
    name = arguments.get("agent")
    if not isinstance(name, str):
        raise ToolError('Name the agent, for example {"agent": "billing"}.')
    return await context.transfer(name)


def fit(agent: Agent) -> Tool:
    """The tool with the names of those that `agent` may transfer to."""
    return replace(TRANSFER, parameters=_parameters({"type": "string", "enum": list(agent.transfers)}))


def _parameters(agent: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"agent": agent}, "required": ["agent"], "additionalProperties": False}


TRANSFER = Tool(
    name="transfer",
    description="Transfers the conversation to another agent once the current answer has been heard.",
    run=transfer,
    parameters=_parameters({"type": "string"}),
    fit=fit,
)


@hookimpl
def register_tools() -> list[Tool]:
    """The tool."""
    return [TRANSFER]
