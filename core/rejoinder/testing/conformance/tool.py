"""The rules for tools: a schema models understand, text as a result, and errors a model can act upon."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rejoinder.errors import RejoinderError, ToolError
from rejoinder.providers import Tool, ToolContext
from rejoinder.settings import load_settings
from rejoinder.testing.conformance.leaks import Leaks
from rejoinder.testing.conformance.measure import BLOCK_MS, LoopWatch, raised_at, timed_ms
from rejoinder.testing.conformance.plugin import PluginConformance
from rejoinder.testing.conformance.provider import AT_ONCE, CANCEL_MS, TRIES, USE_S
from rejoinder.testing.conformance.rules import NotChecked, Seen, Violation, bounded, rule
from rejoinder.testing.conformance.settings import check_settings
from rejoinder.toolbox import read_section
from rejoinder.tooling import NAME

_DESCRIPTION = 1_000
_TYPES = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}
_PARAMETER = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


class ToolConformance(PluginConformance):
    """What a tool must do; see `rejoinder.providers.Tool`. Set `plugin` and `tool` in a subclass."""

    tool = ""
    """Its name."""
    arguments: Mapping[str, Any] | None = None
    """Arguments it can be run with; None: the least its schema asks for. It is run often: they should cost nothing."""

    def wanted(self) -> str:
        """What the plugin must offer."""
        return f"tool:{self.tool}"

    def made(self) -> Tool:
        """The tool, with its settings.

        Raises:
            ConfigError: the plugin cannot be loaded, or its settings are wrong.
            NotChecked: it does not offer it; there is a rule of its own for that.
        """
        found = self.subject().tools().get(self.tool)
        if found is None:
            raise NotChecked(f"the plugin does not offer the tool {self.tool!r}")
        return found

    def context(self, tool: Tool) -> ToolContext:
        """What it is run with."""
        sections = load_settings().plugins
        given = {**sections, tool.name: {**sections.get(tool.name, {}), **self.settings}}
        return ToolContext("ses_test", call_id="call_1", settings=read_section(given, tool.name, tool.settings))

    def ready(self) -> Callable[[], Awaitable[str]]:
        """What runs it once; a ToolError is a result, too."""
        tool = self.made()
        context = self.context(tool)

        async def use() -> str:
            try:
                return await tool.run(self.sent(tool), context)
            except ToolError as error:
                return error.message

        return use

    def sent(self, tool: Tool) -> dict[str, Any]:
        """The arguments it is run with."""
        return minimal(tool.parameters) if self.arguments is None else dict(self.arguments)

    @rule
    def test_registers(self) -> Seen:
        """It has a name and a description that models can use."""
        subject = self.subject()
        tool = subject.tools().get(self.tool)
        if tool is None:
            known = ", ".join(subject.tools()) or "none"
            raise Violation(
                f"the plugin {subject.name!r} does not offer the tool {self.tool!r}, but {known}",
                subject.problem or "correct `tool`; write `@tool` above the function, or return it in `register_tools`",
            )
        if not NAME.fullmatch(tool.name):
            raise Violation(f"the name {tool.name!r} is refused by models", "use 1 to 64 letters, digits, _ or -")
        if not tool.description.strip() or len(tool.description) > _DESCRIPTION:
            raise Violation(
                f"the description has {len(tool.description)} characters",
                f"say in 1 to {_DESCRIPTION} characters what it does and when to use it: by that the model chooses",
            )
        if tool.max_result_chars < 1 or (tool.timeout_ms is not None and tool.timeout_ms < 1):
            raise Violation("`max_result_chars` or `timeout_ms` is below 1", "set it to what one call may need")
        return Seen(tool.name)

    @rule
    def test_settings(self) -> Seen:
        """Its settings all have defaults, refuse unknown keys, can come from the environment and hide secrets."""
        return Seen(check_settings(self.tool, self.made().settings))

    @rule
    def test_parameters(self) -> Seen:
        """Its parameters are a JSON Schema object, each with a known type, and the required ones are there."""
        parameters = self.made().parameters
        try:
            json.dumps(parameters)
        except (TypeError, ValueError) as error:
            raise Violation(f"the schema is no JSON: {error}", "use dicts, lists, strings and numbers only") from None
        properties = parameters.get("properties")
        if parameters.get("type") != "object" or not isinstance(properties, Mapping):
            raise Violation(
                f"the schema is {json.dumps(parameters)[:120]}",
                'make it {"type": "object", "properties": {...}, "required": [...]}, or use `@tool`',
            )
        for name, schema in properties.items():
            if not _PARAMETER.fullmatch(name) or not isinstance(schema, Mapping):
                raise Violation(
                    f"the parameter {name!r} has no schema or a bad name", "give it a schema: a JSON object"
                )
            kinds = schema.get("type", ())
            for kind in [kinds] if isinstance(kinds, str) else kinds:
                if kind not in _TYPES:
                    raise Violation(f"the parameter {name!r} has the type {kind!r}", f"use one of {', '.join(_TYPES)}")
        missing = [name for name in parameters.get("required", ()) if name not in properties]
        if missing:
            raise Violation(
                f"{', '.join(map(repr, missing))} is required but has no schema",
                "add it to `properties`, or leave it out",
            )
        return Seen(", ".join(properties) or "no parameters")

    @rule
    async def test_result(self) -> Seen:
        """It returns text, or raises ToolError for what the model should know."""
        tool = self.made()
        began = time.perf_counter()
        try:
            result = await bounded(tool.run(self.sent(tool), self.context(tool)), USE_S, "A call")
        except ToolError as error:
            if self.arguments is not None:
                raise Violation(
                    f"with the arguments of the test it raises ToolError: {error.message}", "correct `arguments`"
                ) from None
            return Seen(f"ToolError: {error.message[:80]}")
        except (Violation, RejoinderError):
            raise
        except Exception as error:
            raise Violation(
                f"it raised {type(error).__name__}: {error}{raised_at(error, self.roots())}",
                "catch what may fail and raise ToolError with a sentence the model can act upon",
            ) from error
        if not isinstance(result, str):
            raise Violation(f"`run` returns {type(result).__name__}", "return text: `str`, or JSON as text")
        return Seen(f"{len(result)} characters in {timed_ms(began):.0f} ms")

    @rule
    async def test_wrong_arguments(self) -> Seen:
        """Wrong arguments give a ToolError (or a result), never another exception."""
        tool = self.made()
        tried = 0
        for what, arguments in wrong(tool.parameters):
            tried += 1
            try:
                await bounded(tool.run(arguments, self.context(tool)), USE_S, f"The answer to {what}")
            except ToolError as error:
                if not error.message.strip():
                    raise Violation(f"{what} gives a ToolError without a word", "say what is wrong with them") from None
                continue
            except Violation:
                raise
            except Exception as error:
                raise Violation(
                    f"{what} make it raise {type(error).__name__}: {error}{raised_at(error, self.roots())}",
                    "raise ToolError and say what is wrong, so that the model can correct it; `@tool` checks arguments",
                ) from error
        return Seen(f"{tried} kinds of wrong arguments")

    @rule
    async def test_no_block(self) -> Seen:
        """It never blocks the event loop for more than 20 ms."""
        use = self.ready()
        with self._quiet():
            await bounded(use(), USE_S, "A call")
            blocks = []
            for _ in range(TRIES):
                async with LoopWatch(self.roots()) as watch:
                    await asyncio.ensure_future(use())
                blocks.append(watch.longest)
        block = min(blocks, key=lambda one: one.ms)
        if block.ms > BLOCK_MS:
            at = f" at {block.where}" if block.where else ""
            raise Violation(
                f"it blocks the event loop for {block.ms:.0f} ms{at}",
                "make the function a plain `def` (a `@tool` then runs in a thread), or await what takes time",
                longest_block_ms=block.ms,
            )
        return Seen(f"longest {block.ms:.1f} ms", longest_block_ms=block.ms)

    @rule
    async def test_cancellation(self) -> Seen:
        """A call that is cancelled ends within 50 ms, and the next one works."""
        use = self.ready()
        with self._quiet():
            began = time.perf_counter()
            await bounded(use(), USE_S, "A call")
            whole = timed_ms(began) / 1000
            worst = 0.0
            for share in (0.0, 0.5):
                worst = max(worst, min([await self._cut(use, whole * share) for _ in range(TRIES)]))
            await bounded(use(), USE_S, "The call after a cancelled one")
        if worst > CANCEL_MS:
            raise Violation(
                f"a cancelled call ends only after {worst:.0f} ms",
                "let CancelledError through at once: no waiting in `finally`, no `shield`",
                cancel_ms=worst,
            )
        return Seen(f"{worst:.0f} ms to the end", cancel_ms=worst)

    @rule
    async def test_no_leaks(self) -> Seen:
        """Many calls, half of them cut off in the middle, leave no tasks, threads or descriptors behind."""

        async def run(number: int) -> None:
            if number % 2:
                await self._cut(use, 0.002)
            else:
                await bounded(use(), USE_S, "A call")

        use = self.ready()
        with self._quiet():
            return await Leaks(self.roots(), self.runs, self.most_s).check(run)

    @rule
    async def test_concurrent_use(self) -> Seen:
        """Eight calls at once work as one alone does."""
        use = self.ready()
        with self._quiet():
            await bounded(use(), USE_S, "A call")
        calls = asyncio.gather(*(use() for _ in range(AT_ONCE)), return_exceptions=True)
        for one in await bounded(calls, USE_S, "Eight calls at once"):
            if isinstance(one, BaseException):
                raise Violation(
                    f"one of eight calls at once raised {type(one).__name__}: {one}{raised_at(one, self.roots())}",
                    "keep what belongs to one call in local variables, and let what cannot run twice wait for a lock",
                )
        return Seen(f"{AT_ONCE} at once")

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """What a plain call does wrong is told by the rule for results."""
        try:
            yield
        except (Violation, NotChecked, RejoinderError):
            raise
        except Exception as error:  # noqa: BLE001 - as above
            raise NotChecked(f"a plain call fails: {type(error).__name__}: {error}") from None

    async def _cut(self, use: Callable[[], Awaitable[str]], after_s: float) -> float:
        task = asyncio.ensure_future(use())
        await asyncio.sleep(after_s)
        if task.done():
            task.result()
            return 0.0
        task.cancel()
        began = time.perf_counter()
        await asyncio.wait({task}, timeout=2.0)
        if task.done() and not task.cancelled():
            task.result()
        return timed_ms(began)


# --- arguments made of a schema -------------------------------------------------------------------------------------


def minimal(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The least arguments that fit `parameters`: what is required, and of it the simplest."""
    properties = parameters.get("properties", {})
    return {name: _simplest(properties.get(name, {})) for name in parameters.get("required", ())}


def _simplest(schema: Mapping[str, Any]) -> Any:
    if "default" in schema:
        return schema["default"]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return _simplest(schema[key][0])
    kind = schema.get("type", "string")
    kind = kind if isinstance(kind, str) else kind[0]
    makers: dict[str, Callable[[], Any]] = {
        "string": lambda: "a" * max(1, schema.get("minLength", 1)),
        "integer": lambda: int(schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)),
        "number": lambda: float(schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)),
        "boolean": lambda: False,
        "array": lambda: [_simplest(schema.get("items", {})) for _ in range(schema.get("minItems", 0))],
        "object": lambda: minimal(schema),
        "null": lambda: None,
    }
    return makers.get(kind, lambda: "a")()


def wrong(parameters: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Arguments as models write them at times: what is wrong with them, and they themselves."""
    usual = minimal(parameters)
    yield "unknown arguments", {**usual, "no_such_parameter": 1}
    for name in parameters.get("required", ()):
        yield f"arguments without {name!r}", {key: value for key, value in usual.items() if key != name}
    for name in parameters.get("properties", {}):
        yield f"arguments where {name!r} is null", {**usual, name: None}
        yield f"arguments where {name!r} is an object", {**usual, name: {"a": [1, None]}}
        yield f"arguments where {name!r} is a number", {**usual, name: -1e308}
        yield f"arguments where {name!r} is a long text", {**usual, name: "\ud800\x00 '\"; " * 500}
