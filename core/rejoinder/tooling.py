"""`@tool` makes a tool of a typed Python function: name, description, JSON Schema, checked arguments, a thread."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, ParamSpec, TypeVar, get_args, get_origin, get_type_hints, overload

import msgspec

from rejoinder.errors import ToolError, sentence
from rejoinder.providers import NoSettings, Tool, ToolContext

P = ParamSpec("P")
R = TypeVar("R")

THREADS = 8
"""Synchronous tools that run at the same time, in the whole process; more wait, within their time limit."""
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""What models' servers take for the name of a tool."""
_PLACE = re.compile(r"(?P<problem>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?", re.DOTALL)
_MAX_HINT = 400


@dataclass(frozen=True, slots=True)
class FunctionTool(Tool, Generic[P, R]):
    """A tool made by `@tool`; can still be called as the function it was."""

    function: Callable[P, R] = field(kw_only=True)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function itself: nothing is checked, converted or moved to a thread."""
        return self.function(*args, **kwargs)


@overload
def tool(function: Callable[P, R], /) -> FunctionTool[P, R]: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    timeout_ms: int | None = None,
    side_effects: bool = True,
    max_result_chars: int = 8_000,
    settings: type[msgspec.Struct] = NoSettings,
) -> Callable[[Callable[P, R]], FunctionTool[P, R]]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout_ms: int | None = None,
    side_effects: bool = True,
    max_result_chars: int = 8_000,
    settings: type[msgspec.Struct] = NoSettings,
) -> Any:
    """Make a tool of a function, `async` or not; use as `@tool` or `@tool(side_effects=False)`.

    The model is told the function's name, the first paragraph of its docstring and a JSON Schema of its parameters;
    `Annotated[str, "What it is for."]` describes one. What the model sends is checked against the types; a wrong call
    never reaches the function. A parameter annotated `ToolContext` gets the context and is not shown to the model.
    The function returns text, or anything that msgspec can encode as JSON. It raises `ToolError` to tell the model what
    went wrong. One that is not `async` runs in a thread, which cannot be stopped when its time (ms) is over.

    Raises:
        TypeError: the function cannot be a tool; the message says why.
    """

    def decorate(function: Callable[..., Any]) -> FunctionTool[..., Any]:
        title = name or str(getattr(function, "__name__", ""))
        call = _Call(function, title)
        text = description or _first_paragraph(inspect.getdoc(function))
        if not text:
            raise _refuse(title, "give it a docstring: by its first paragraph the model chooses tools")
        return FunctionTool(
            name=title,
            description=text,
            run=call.run,
            parameters=call.parameters,
            side_effects=side_effects,
            timeout_ms=timeout_ms,
            max_result_chars=max_result_chars,
            settings=settings,
            function=function,
        )

    return decorate if function is None else decorate(function)


class _Call:
    """How a function is called with the arguments of a model."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        if not (inspect.isfunction(function) or inspect.ismethod(function)):
            raise _refuse(name or repr(function), "@tool goes on a function")
        if not NAME.fullmatch(name):
            raise _refuse(name, "its name must be 1 to 64 letters, digits, _ or -")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise _refuse(name, "it must return its result, not yield it")
        self._function = function
        self._name = name
        self._context = ""
        self._arguments = self._make_struct()
        self.parameters = self._make_schema()

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> str:
        """Check `arguments`, call the function and give its result as text.

        Raises:
            ToolError: the arguments are wrong, or the function raised it.
        """
        try:
            checked = msgspec.convert(arguments, self._arguments)
        except msgspec.ValidationError as error:
            raise self._explain(error) from None
        except UnicodeEncodeError:
            raise ToolError(f"The arguments of {self._name} hold half of a character. Call again without it.") from None
        values = {name: getattr(checked, name) for name in self._arguments.__struct_fields__}
        if self._context:
            values[self._context] = context
        if inspect.iscoroutinefunction(self._function):
            return _as_text(await self._function(**values))
        work = functools.partial(contextvars.copy_context().run, self._function, **values)
        result = await asyncio.get_running_loop().run_in_executor(_threads(), work)
        # Of a wrapper that is not async itself.
        return _as_text(await result if inspect.isawaitable(result) else result)

    def _make_struct(self) -> type[msgspec.Struct]:
        """A struct with a field for each parameter."""
        try:
            hints = get_type_hints(self._function, include_extras=True)
        except NameError as error:
            raise _refuse(self._name, f"{error}; its types must be known at the top level of its module") from None
        fields: list[Any] = []
        for parameter in inspect.signature(self._function).parameters.values():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                shown = str(parameter.replace(annotation=parameter.empty, default=parameter.empty))
                raise _refuse(self._name, f"a model could not name the parameter {shown}")
            if parameter.name not in hints:
                raise _refuse(self._name, f"the parameter {parameter.name!r} has no type hint")
            hint = hints[parameter.name]
            if _bare(hint) is ToolContext:
                self._context = parameter.name
            elif parameter.default is parameter.empty:
                fields.append((parameter.name, _described(hint)))
            else:
                fields.append((parameter.name, _described(hint), self._default(parameter, hint)))
        return msgspec.defstruct(f"{self._name}_arguments", fields, kw_only=True, forbid_unknown_fields=True)

    def _default(self, parameter: inspect.Parameter, hint: Any) -> Any:
        default = parameter.default
        try:
            msgspec.convert(msgspec.to_builtins(default), hint)
        except (msgspec.ValidationError, TypeError) as error:
            fix = f"; annotate it as {_shown(hint)} | None" if default is None else ""
            raise _refuse(
                self._name, f"the default {default!r} of {parameter.name!r} does not fit its type ({error}){fix}"
            ) from None
        if default is None or isinstance(default, str | int | float):
            return default
        return msgspec.field(default_factory=functools.partial(copy.deepcopy, default))

    def _make_schema(self) -> dict[str, Any]:
        try:
            (top,), parts = msgspec.json.schema_components((self._arguments,), ref_template="{name}")
        except (TypeError, msgspec.ValidationError) as error:
            raise _refuse(self._name, f"a parameter has a type that no model can send ({error})") from None
        schema = _whole(parts, top["$ref"])
        for parameter in inspect.signature(self._function).parameters.values():
            # msgspec leaves out what a factory makes.
            if parameter.default is not parameter.empty and parameter.name != self._context:
                schema["properties"][parameter.name].setdefault("default", msgspec.to_builtins(parameter.default))
        return schema

    def _explain(self, error: msgspec.ValidationError) -> ToolError:
        found = _PLACE.fullmatch(str(error))
        problem, path = (found["problem"], found["path"] or "") if found else (str(error), "")
        properties: Mapping[str, Any] = self.parameters.get("properties", {})
        field_name = re.split(r"[.\[]", path, maxsplit=1)[0]
        if field_name in properties:
            hint = f"It must match {msgspec.json.encode(properties[field_name]).decode()[:_MAX_HINT]}"
        else:
            required = set(self.parameters.get("required", ()))
            known = [f"{name} (required)" if name in required else name for name in properties]
            hint = f"Its parameters are: {', '.join(known) or 'none'}"
        where = f"{path}: " if path else ""
        return ToolError(
            f"The arguments of {self._name} are wrong: {where}{sentence(problem)} {hint}. Correct it and call again."
        )


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="tool")


def _refuse(name: str, why: str) -> TypeError:
    return TypeError(sentence(f"{name} cannot be a tool: {why}"))


def _first_paragraph(text: str | None) -> str:
    return " ".join((text or "").strip().partition("\n\n")[0].split())


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _shown(hint: Any) -> str:
    return getattr(_bare(hint), "__name__", str(_bare(hint)))


def _described(hint: Any) -> Any:
    """`hint`, with a text in its `Annotated` as msgspec's description."""
    if get_origin(hint) is not Annotated:
        return hint
    kind, *notes = get_args(hint)
    texts = " ".join(note for note in notes if isinstance(note, str))
    metas = [note for note in notes if not isinstance(note, str)]
    if texts:
        metas.append(msgspec.Meta(description=texts))
    return Annotated[(kind, *metas)] if metas else kind


def _as_text(result: object) -> str:
    if isinstance(result, str):
        return result
    return "Done." if result is None else msgspec.json.encode(result).decode()


def _whole(parts: Mapping[str, Any], top: str) -> dict[str, Any]:
    """The schema called `top` with the other `parts` put in where they are used: small models do not look them up.

    Types that hold themselves stay apart, as `$defs`.
    """
    try:
        return _inline(parts[top], parts, (top,))
    except _Recursive:
        schema = _referring(parts[top])
        return {**schema, "$defs": {name: _referring(part) for name, part in parts.items() if name != top}}


class _Recursive(Exception):
    """A type holds itself."""


def _inline(node: Mapping[str, Any], parts: Mapping[str, Any], within: tuple[str, ...]) -> dict[str, Any]:
    if (name := node.get("$ref")) is not None:
        if name in within:
            raise _Recursive
        rest = {key: value for key, value in node.items() if key != "$ref"}
        return {**_inline(parts[name], parts, (*within, name)), **rest}
    return _walk(node, lambda child: _inline(child, parts, within))


def _referring(node: Mapping[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        return {**node, "$ref": f"#/$defs/{node['$ref']}"}
    return _walk(node, _referring)


def _walk(node: Mapping[str, Any], change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """A copy of a schema with its sub-schemas changed, less what only repeats the names of Python types."""
    # Some servers want a type beside every enum.
    texts = "enum" in node and all(isinstance(value, str) for value in node["enum"])
    out: dict[str, Any] = {"type": "string"} if texts else {}
    for key, value in node.items():
        if key == "properties":
            out[key] = {name: change(child) for name, child in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            out[key] = change(value)
        elif key in ("anyOf", "prefixItems"):
            out[key] = [change(child) for child in value]
        elif key in ("title", "discriminator") or (key == "description" and value.startswith(f"{node.get('title')}(")):
            continue  # the second: what dataclasses have for a docstring
        else:
            out[key] = value
    return out
