from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rejoinder.errors import ToolError
from rejoinder.manager import Plugins
from rejoinder.providers import Tool, ToolContext
from rejoinder_plugins.tools import builtin
from rejoinder_plugins.tools.arithmetic import calculate


def tools() -> dict[str, Tool]:
    plugins = Plugins()
    assert plugins.add("tools", lambda: builtin)
    return plugins.tools()


def call(name: str, arguments: dict[str, Any], metrics: Mapping[str, Any] | None = None) -> tuple[str, list[str]]:
    ended: list[str] = []
    context = ToolContext("ses_1", lambda: metrics, ended.append)

    async def run() -> str:
        return await tools()[name].run(arguments, context)

    return asyncio.run(run()), ended


def test_the_tools_are_registered_and_only_ending_the_call_has_side_effects() -> None:
    assert {name: tool.side_effects for name, tool in tools().items()} == {
        "clock": False,
        "calculator": False,
        "last_latency": False,
        "end_call": True,
        "http_get": False,
    }
    assert all(tool.schema().parameters["type"] == "object" for tool in tools().values())


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("12 + 30", "42"),
        ("23 * 4.5", "103.5"),
        ("(15 / 100) * 80", "12"),
        ("sqrt(81)", "9"),
        ("√2", "1.41421356237"),
        ("0.1 + 0.2", "0.3"),
        ("2 + 3 * 4", "14"),
        ("(2 + 3) * 4", "20"),
        ("-2 ** 2", "-4"),
        ("2 ** 3 ** 2", "512"),
        ("2 ** -1", "0.5"),
        ("2^10", "1024"),
        ("7 - - 9", "16"),
        ("10 % 3", "1"),
        ("-7 % 3", "2"),
        ("1,000,000 / 8", "125000"),
        ("10 ÷ 4 × 2", "5"),
        ("10 / 3", "3.33333333333"),
        ("0 ** 0", "1"),
        (".5 + 5.", "5.5"),
        ("12 + 30 =", "42"),
        ("-0.0", "0"),
        ("10 ** 25", "10000000000000000000000000"),
    ],
)
def test_calculates(expression: str, value: str) -> None:
    assert call("calculator", {"expression": expression})[0] == value


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "expression"),
        ("1 / 0", "Division by zero"),
        ("1 % 0", "Division by zero"),
        ("0 / 0", "Division by zero"),
        ("0 ** -1", "Division by zero"),
        ("sqrt(-1)", "no real result"),
        ("(-8) ** 0.5", "no real result"),
        ("2 +", "ends too early"),
        ("(2 + 3", "missing"),
        ("2 3", "Unexpected '3'"),
        ("2 + + * 3", "number is missing before '*'"),
        ("__import__('os')", "Unexpected '_'"),
        ("abs(3)", "Unknown word 'abs'"),
        ("9 ** 9 ** 9", "exponent"),
        ("99 ** 999", "too large"),
        ("10 ** 30 * 10", "too large"),
        ("1" * 150, "too large"),
        ("1 + " * 60 + "1", "characters"),
        ("(" * 60 + "1" + ")" * 60, "nested too deeply"),
        ("-" * 150 + "1", "nested too deeply"),
        ("sqrt " * 30 + "2", "nested too deeply"),
    ],
)
def test_says_why_it_cannot_calculate(expression: str, reason: str) -> None:
    with pytest.raises(ToolError, match=reason.replace("*", r"\*")):
        call("calculator", {"expression": expression})


@settings(deadline=None)
@given(st.text(alphabet="0123456789.+-*/%^() sqrt,", max_size=60))
def test_any_expression_has_a_bounded_value_or_a_reason(expression: str) -> None:
    try:
        value = calculate(expression)
    except ToolError:
        return
    assert abs(Decimal(value)) <= Decimal(10) ** 30


@settings(deadline=None)
@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9), st.sampled_from("+-*%"))
def test_agrees_with_python_on_whole_numbers(left: int, right: int, operator: str) -> None:
    if operator == "%" and right == 0:
        return
    expected = {"+": left + right, "-": left - right, "*": left * right, "%": right and left % right}[operator]
    if abs(expected) < 10**12:
        assert calculate(f"{left} {operator} {right}") == str(expected)


@pytest.mark.parametrize("arguments", [{}, {"expression": 12}, {"expression": None}, {"expression": ["1"]}])
def test_calculator_explains_bad_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ToolError, match="expression"):
        call("calculator", arguments)


def test_clock_tells_the_time_of_a_zone() -> None:
    before = datetime.now(UTC)
    now = json.loads(call("clock", {"time_zone": "UTC"})[0])
    after = datetime.now(UTC)
    assert now["time_zone"] == "UTC"
    assert any(
        now["time"] == f"{t.hour % 12 or 12}:{t:%M} {t:%p}" and now["date"] == f"{t:%A}, {t:%B} {t.day}, {t.year}"
        for t in (before, after)
    )


@pytest.mark.parametrize("arguments", [{}, {"time_zone": ""}, {"time_zone": None}])
def test_clock_without_a_zone_is_local(arguments: dict[str, Any]) -> None:
    assert json.loads(call("clock", arguments)[0]).keys() == {"time", "date", "time_zone"}


@pytest.mark.parametrize(
    ("zone", "hint"),
    [
        ("tokyo", "Asia/Tokyo"),
        ("New York", "America/New_York"),
        ("Europe/Pariss", "Europe/Paris"),
        ("../x", "Europe/Paris"),
    ],
)
def test_clock_suggests_a_zone_it_knows(zone: str, hint: str) -> None:
    with pytest.raises(ToolError, match=hint):
        call("clock", {"time_zone": zone})


def test_last_latency_names_the_biggest_parts() -> None:
    spans = {"endpointing": 300.4, "stt": 40.0, "llm": 0.2, "tts": 120.0, "send": 1.0}
    text, _ = call("last_latency", {}, {"response_ms": 461.6, "spans": spans})
    assert text == (
        "The last answer took 462 milliseconds. The biggest parts: 300 for waiting for the end of your turn, "
        "120 for speech synthesis and 40 for speech recognition."
    )


def test_last_latency_before_the_first_turn_and_without_spans() -> None:
    assert "first turn" in call("last_latency", {}, None)[0]
    assert call("last_latency", {}, {"response_ms": 5, "spans": {}})[0] == "The last answer took 5 milliseconds."
    assert call("last_latency", {}, {"response_ms": 1.2, "spans": {}})[0] == "The last answer took 1 millisecond."


def test_end_call_ends_the_session() -> None:
    assert call("end_call", {})[1] == ["agent_ended"]
