"""`@tool`: the schema a model is shown, the checking of what it sends, threads, and what is refused at once."""

from __future__ import annotations

import asyncio
import enum
import json
import subprocess
import sys
import threading
import types
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

import msgspec
import pytest

from rejoinder import hookimpl, tool
from rejoinder.errors import ToolError
from rejoinder.manager import Plugins
from rejoinder.providers import Tool, ToolCall, ToolContext
from rejoinder.tooling import THREADS, FunctionTool
from rejoinder.tools import ToolResult, run_tool

CONTEXT = ToolContext("ses_1")


class Seat(enum.Enum):
    INSIDE = "inside"
    TERRACE = "terrace"


@dataclass
class Guest:
    name: str
    age: int | None = None


class Wine(msgspec.Struct, tag="wine"):
    year: int


class Beer(msgspec.Struct, tag="beer"):
    litres: float = 0.5


class Branch(msgspec.Struct):
    name: str
    children: list[Branch] = []


@tool
def book_table(
    day: Annotated[date, "The day, as 2026-05-31."],
    party: Annotated[int, msgspec.Meta(ge=1, le=12, description="How many people.")],
    context: ToolContext,
    seat: Seat = Seat.INSIDE,
    mood: Literal["quiet", "lively"] | None = None,
    guests: list[Guest] = [],  # noqa: B006 - what a model leaves out
    drink: Wine | Beer | None = None,
) -> dict[str, Any]:
    """Books a table
    for the evening.

    Only the first paragraph is for the model.
    """
    guests.append(Guest("the host"))
    return {"day": day, "party": party, "seat": seat, "guests": guests, "by": context.session_id, "mood": mood}


@tool(name="grow", side_effects=False, timeout_ms=50, max_result_chars=9)
async def grow_branch(root: Branch) -> str:
    """Grows."""
    return root.name * 20


@tool
def nothing() -> None:
    """Does nothing."""


def call(tool: Tool, arguments: object, context: ToolContext = CONTEXT) -> ToolResult:
    async def main() -> ToolResult:
        return await run_tool({tool.name: tool}, ToolCall("c1", tool.name, json.dumps(arguments)), context, 5.0)

    return asyncio.run(main())


def test_a_typed_function_says_all_that_a_model_must_know() -> None:
    assert (book_table.name, book_table.description) == ("book_table", "Books a table for the evening.")
    assert (book_table.side_effects, book_table.timeout_ms, book_table.max_result_chars) == (True, None, 8_000)
    guest = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        },
        "required": ["name"],
    }
    schema = json.loads(json.dumps(book_table.parameters))
    drink = schema["properties"].pop("drink")
    assert schema == {
        "type": "object",
        "properties": {
            "day": {"type": "string", "format": "date", "description": "The day, as 2026-05-31."},
            "party": {"type": "integer", "minimum": 1, "maximum": 12, "description": "How many people."},
            "seat": {"type": "string", "enum": ["inside", "terrace"], "default": "inside"},
            "mood": {"anyOf": [{"type": "string", "enum": ["lively", "quiet"]}, {"type": "null"}], "default": None},
            "guests": {"type": "array", "items": guest, "default": []},
        },
        "required": ["day", "party"],
        "additionalProperties": False,
    }
    assert [part["properties"]["type"]["enum"] for part in drink["anyOf"][0]["anyOf"]] == [["wine"], ["beer"]]


def test_a_type_that_holds_itself_is_referred_to() -> None:
    assert grow_branch.parameters["properties"] == {"root": {"$ref": "#/$defs/Branch"}}
    children = grow_branch.parameters["$defs"]["Branch"]["properties"]["children"]
    assert children == {"type": "array", "items": {"$ref": "#/$defs/Branch"}, "default": []}


def test_the_function_gets_what_it_is_annotated_with() -> None:
    arguments = {"day": "2026-05-31", "party": 2, "seat": "terrace", "guests": [{"name": "Ada", "age": 36}]}
    result = call(book_table, arguments)
    assert result.status == "ok"
    assert json.loads(result.text) == {
        "day": "2026-05-31",
        "party": 2,
        "seat": "terrace",
        "guests": [{"name": "Ada", "age": 36}, {"name": "the host", "age": None}],
        "by": "ses_1",
        "mood": None,
    }


def test_a_default_is_made_anew_for_each_call() -> None:
    for _ in range(2):
        result = call(book_table, {"day": "2026-05-31", "party": 2})
        assert len(json.loads(result.text)["guests"]) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"party": 2}, ("missing required field `day`", "day (required), party (required), seat")),
        ({"day": "2026-05-31", "party": "two"}, ("party: Expected `int`, got `str`", '"maximum":12')),
        ({"day": "2026-05-31", "party": 99}, ("party: Expected `int` <= 12", '"maximum":12')),
        ({"day": "tomorrow", "party": 2}, ("day: Invalid RFC3339", "The day, as 2026-05-31.")),
        ({"day": "2026-05-31", "party": 2, "seat": "roof"}, ("seat: Invalid enum value 'roof'", '"terrace"')),
        ({"day": "2026-05-31", "party": 2, "guests": [{"age": 3}]}, ("guests[0]: ", "required field `name`")),
        ({"day": "2026-05-31", "party": 2, "where": "x"}, ("unknown field `where`", "Its parameters are: day")),
        ([], ("must be one JSON object",)),
    ],
)
def test_a_wrong_call_is_answered_with_what_is_wrong_and_what_is_right(
    arguments: object, told: tuple[str, ...]
) -> None:
    result = call(book_table, arguments)
    assert result.status == "failed"
    for text in told:
        assert text in result.text


def test_text_is_the_result_and_nothing_is_done() -> None:
    assert call(nothing, {}) == ToolResult("ok", "Done.")
    assert call(grow_branch, {"root": {"name": "ab"}}) == ToolResult("ok", "ababababa [cut]")
    assert (grow_branch.name, grow_branch.timeout_ms, grow_branch.side_effects) == ("grow", 50, False)


def test_the_function_is_still_one() -> None:
    assert nothing() is None
    assert asyncio.run(grow_branch(Branch("a"))) == "a" * 20
    assert isinstance(grow_branch, FunctionTool)


def test_a_function_that_is_not_async_runs_in_one_of_a_few_threads() -> None:
    running, most, lock, enough = 0, 0, threading.Lock(), threading.Event()
    names: set[str] = set()

    @tool
    def work() -> str:
        """Works."""
        nonlocal running, most
        names.add(threading.current_thread().name)
        with lock:
            running += 1
            most = max(most, running)
            if running == THREADS:
                enough.set()
        assert enough.wait(30)
        with lock:
            running -= 1
        return "done"

    async def main() -> None:
        calls = [run_tool({"work": work}, ToolCall(f"c{n}", "work", ""), CONTEXT, 30) for n in range(3 * THREADS)]
        results = await asyncio.gather(*calls)
        assert set(results) == {ToolResult("ok", "done")}

    asyncio.run(main())
    assert most == THREADS
    assert len(names) == THREADS
    assert threading.current_thread().name not in names


def test_what_the_function_raises_is_told_or_logged() -> None:
    @tool
    def fail(how: Literal["told", "broken"]) -> str:
        """Fails."""
        raise ToolError("We are closed.") if how == "told" else RuntimeError("secret")

    assert call(fail, {"how": "told"}) == ToolResult("failed", "We are closed.")
    assert call(fail, {"how": "broken"}) == ToolResult("failed", "fail failed with an internal error.")


def test_progress_comes_from_a_thread() -> None:
    told: list[tuple[str, float | None]] = []

    @tool
    def work(context: ToolContext) -> str:
        """Works."""
        context.progress("half of it", 0.5)
        return "done"

    async def main() -> None:
        context = ToolContext("ses_1", told=lambda text, part: told.append((text, part)))
        await run_tool({"work": work}, ToolCall("c", "work", ""), context, 30)

    asyncio.run(main())
    assert told == [("half of it", 0.5)]


def no_hint(day) -> str:  # type: ignore[no-untyped-def]
    """Books."""
    return str(day)


def starred(*days: str) -> str:
    """Books."""
    return str(days)


def keywords(**days: str) -> str:
    """Books."""
    return str(days)


def positional(day: str, /) -> str:
    """Books."""
    return day


def odd_type(day: Callable[[], str]) -> str:
    """Books."""
    return day()


def odd_union(day: date | str) -> str:
    """Books."""
    return str(day)


def odd_default(day: int = "one") -> str:  # type: ignore[assignment]
    """Books."""
    return str(day)


def none_default(day: str = None) -> str:  # type: ignore[assignment]  # noqa: RUF013
    """Books."""
    return day


def unknown_type(day: Nowhere) -> str:  # type: ignore[name-defined]  # noqa: F821
    """Books."""
    return str(day)


def undocumented(day: str) -> str:
    return day


def yields(day: str) -> Iterator[str]:
    """Books."""
    yield day


async def yields_later(day: str) -> AsyncIterator[str]:
    """Books."""
    yield day


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (no_hint, "no_hint cannot be a tool: the parameter 'day' has no type hint"),
        (starred, r"could not name the parameter \*days"),
        (keywords, r"could not name the parameter \*\*days"),
        (positional, "could not name the parameter day"),
        (odd_type, "a type that no model can send"),
        (odd_union, "odd_union cannot be a tool"),
        (odd_default, "the default 'one' of 'day' does not fit its type"),
        (none_default, r"annotate it as str \| None"),
        (unknown_type, "must be known at the top level"),
        (undocumented, "give it a docstring"),
        (yields, "not yield it"),
        (yields_later, "not yield it"),
        (print, "@tool goes on a function"),
    ],
)
def test_what_cannot_be_a_tool_is_refused_with_the_reason(function: Callable[..., Any], why: str) -> None:
    with pytest.raises(TypeError, match=why):
        tool(function)


def test_a_name_that_servers_refuse_is_refused() -> None:
    with pytest.raises(TypeError, match="1 to 64 letters"):
        tool(name="book a table")(nothing.function)


def plugin(name: str, **items: object) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(items)
    return module


def test_a_plugin_offers_its_tools_with_or_without_a_hook() -> None:
    own, other = plugin(__name__, book=book_table, nothing=nothing, plain=nothing.function), plugin("other", n=nothing)

    @hookimpl
    def register_tools() -> list[Tool]:
        return [grow_branch]

    explicit = plugin(__name__, register_tools=register_tools, book=book_table)
    for modules, names in (
        ([own, other], {"book_table", "nothing"}),
        ([other], set()),
        ([explicit], {"grow"}),
    ):
        plugins = Plugins()
        for number, module in enumerate(modules):
            assert plugins.add(f"p{number}", lambda module=module: module)  # type: ignore[misc]
        assert set(plugins.tools()) == names


def test_rejoinder_is_imported_without_what_tools_need() -> None:
    code = "import sys, rejoinder; sys.exit('msgspec' in sys.modules or 'asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_half_of_a_character_is_refused_as_wrong_arguments() -> None:
    @tool
    def count(number: int) -> int:
        """Count."""
        return number

    async def main() -> None:
        await count.run({"number": "\ud800"}, ToolContext("ses_test"))

    with pytest.raises(ToolError, match="half of a character"):
        asyncio.run(main())
