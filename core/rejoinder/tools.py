"""Runs tool calls: decodes arguments, keeps time and size limits, and turns every ending into a text for the model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from rejoinder.errors import ToolError
from rejoinder.events import encodable
from rejoinder.providers import Tool, ToolCall, ToolContext

log = logging.getLogger(__name__)
_MAX_RESULT = 8_000


class ToolResult(NamedTuple):
    """How a call ended and what the model is told."""

    status: Literal["ok", "failed"]
    text: str


async def run_tool(tools: Mapping[str, Tool], call: ToolCall, context: ToolContext, timeout_s: float) -> ToolResult:
    """Run `call`; never raises but for its own cancellation. Results are cut at 8000 characters."""
    tool = tools.get(call.name)
    if tool is None:
        return ToolResult("failed", f"There is no tool {call.name!r}. Tools: {', '.join(sorted(tools)) or 'none'}.")
    try:
        arguments = _arguments(call)
        async with asyncio.timeout(timeout_s):
            text = await tool.run(arguments, context)
        if not isinstance(text, str):
            raise TypeError(f"a tool must return text, this one returned {type(text).__name__}")
    except ToolError as error:
        return ToolResult("failed", error.message)
    except TimeoutError:
        return ToolResult("failed", f"{call.name} did not answer within {timeout_s:g} seconds.")
    except Exception:
        log.exception("the tool %s failed", call.name)
        return ToolResult("failed", f"{call.name} failed with an internal error.")
    text = encodable(text)
    return ToolResult("ok", text if len(text) <= _MAX_RESULT else text[:_MAX_RESULT] + " [cut]")


def _arguments(call: ToolCall) -> dict[str, Any]:
    try:
        return msgspec.json.decode(call.arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ToolError(f"The arguments of {call.name} must be one JSON object ({error}).") from None
