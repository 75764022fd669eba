"""The tools that come with Rejoinder: clock, calculator, last_latency, end_call and http_get."""

from __future__ import annotations

import asyncio
import difflib
import json
import zoneinfo
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rejoinder.errors import ToolError
from rejoinder.hookspecs import hookimpl
from rejoinder.providers import Tool, ToolContext
from rejoinder_plugins.tools.http_get import http_get

STAGES = {
    "endpointing": "waiting for the end of your turn",
    "stt": "speech recognition",
    "llm": "the language model",
    "chunk": "the first words",
    "tts": "speech synthesis",
    "send": "sending",
    "play": "playback",
}
"""What the spans of a turn are called when spoken."""


@hookimpl
def register_tools() -> list[Tool]:
    """The five tools."""
    return [
        Tool(
            name="clock",
            description="Tells the current date and time, here or in another time zone.",
            run=clock,
            parameters={
                "type": "object",
                "properties": {
                    "time_zone": {
                        "type": "string",
                        "description": "An IANA time zone such as Europe/Paris; leave it out for the local time.",
                    }
                },
                "additionalProperties": False,
            },
            side_effects=False,
        ),
        Tool(
            name="calculator",
            description="Evaluates arithmetic exactly: + - * / % ** parentheses, decimals and sqrt(x).",
            run=calculator,
            parameters={
                "type": "object",
                "properties": {
                    "expression": {"type": "string", "description": "For example: (12 + 30) * 1.5"},
                },
                "required": ["expression"],
                "additionalProperties": False,
            },
            side_effects=False,
        ),
        Tool(
            name="last_latency",
            description="Tells how long the last answer took to begin, and where the time went.",
            run=last_latency,
            parameters={"type": "object", "properties": {}, "additionalProperties": False},
            side_effects=False,
        ),
        Tool(
            name="end_call",
            description="Ends the conversation once the current answer has been heard. Say goodbye first.",
            run=end_call,
            parameters={"type": "object", "properties": {}, "additionalProperties": False},
            side_effects=True,
        ),
        http_get,
    ]


async def clock(arguments: dict[str, Any], context: ToolContext) -> str:
    """The date and time as JSON with `time`, `date` and `time_zone`.

    Raises:
        ToolError: there is no such time zone.
    """
    name = _text(arguments, "time_zone")
    now = datetime.now(await _zone(name)) if name else datetime.now().astimezone()
    return json.dumps(
        {
            "time": f"{now.hour % 12 or 12}:{now:%M} {'AM' if now.hour < 12 else 'PM'}",
            "date": f"{now:%A}, {now:%B} {now.day}, {now.year}",
            "time_zone": name or now.tzname() or "local",
        }
    )


async def calculator(arguments: dict[str, Any], context: ToolContext) -> str:
    """The value of `expression`, in digits.

    Raises:
        ToolError: it is missing or no arithmetic.
    """
    from rejoinder_plugins.tools.arithmetic import calculate

    expression = _text(arguments, "expression")
    if not expression:
        raise ToolError('Give the arithmetic as "expression", for example {"expression": "12 + 30"}.')
    return calculate(expression)


async def last_latency(arguments: dict[str, Any], context: ToolContext) -> str:
    """How long the last answer took and its three biggest parts, as sentences."""
    metrics = context.last_metrics()
    if not metrics:
        return "Nothing has been measured yet: this is the first turn."
    spans: Mapping[str, float] = metrics.get("spans") or {}
    biggest = [(name, ms) for name, ms in sorted(spans.items(), key=lambda span: -span[1]) if round(ms) > 0][:3]
    parts = [f"{round(ms)} for {STAGES.get(name, name)}" for name, ms in biggest]
    took = round(metrics["response_ms"])
    total = f"The last answer took {took} millisecond{'' if took == 1 else 's'}."
    if not parts:
        return total
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{total} The biggest parts: {listed}."


async def end_call(arguments: dict[str, Any], context: ToolContext) -> str:
    """Ends the session with the reason `agent_ended`."""
    context.end_session("agent_ended")
    return "The call ends after this answer."


def _text(arguments: Mapping[str, Any], name: str) -> str:
    value = arguments.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ToolError(f'"{name}" must be a string, not {json.dumps(value, default=str)[:50]}.')
    return value.strip()


async def _zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        known = await asyncio.to_thread(zoneinfo.available_timezones)  # reads hundreds of files
    if not known:
        raise ToolError("This machine has no time zone data; only the local time can be told: leave out time_zone.")
    place = name.replace(" ", "_").casefold()
    near = sorted(zone for zone in known if zone.casefold().rpartition("/")[2] == place)
    near = near or difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {' or '.join(near[:3])}?" if near else " Use a name such as Europe/Paris."
    raise ToolError(f"There is no time zone {name[:50]!r}.{hint}")
