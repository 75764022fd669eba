"""The body of `POST /v1/chat/completions`, and what of it a language model is asked."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from rejoinder.providers import Message, ToolCall, ToolSchema
from rejoinder_adapters.openai_api.errors import bad

_ROLES: dict[str, Literal["system", "user", "assistant", "tool"]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_MOST_STOPS = 16
_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


class FunctionCall(msgspec.Struct):
    """A function and its arguments as JSON text."""

    name: str
    arguments: str = "{}"


class CallParam(msgspec.Struct):
    """A tool call of an earlier answer."""

    id: str
    function: FunctionCall


class MessageParam(msgspec.Struct):
    """A message; `content` is text or a list of parts, of which only text is understood."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[CallParam] | None = None
    tool_call_id: str | None = None


class Function(msgspec.Struct):
    """A function on offer; `parameters` is a JSON Schema object."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ToolParam(msgspec.Struct):
    """A tool on offer."""

    function: Function
    type: str = "function"


class StreamOptions(msgspec.Struct):
    """How a stream is to be."""

    include_usage: bool | None = None


class ChatRequest(msgspec.Struct):
    """What of the request counts here; everything else is accepted and ignored."""

    model: str
    messages: list[MessageParam]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    tools: list[ToolParam] | None = None
    tool_choice: str | dict[str, Any] | None = None

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises:
            ApiError: 400, naming the field.
        """
        if self.n not in (None, 1):
            raise bad("n", f"n must be 1, not {self.n}: there is one answer to a request.")
        if not self.messages:
            raise bad("messages", "messages must hold at least one message.")
        if (limit := self.limit()) is not None and limit < 1:
            raise bad("max_tokens" if self.max_completion_tokens is None else "max_completion_tokens", "At least 1.")
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise bad("temperature", "temperature must be from 0 to 2.")
        if len(self.stops()) > _MOST_STOPS:
            raise bad("stop", f"At most {_MOST_STOPS} stop sequences are taken.")

    def limit(self) -> int | None:
        """Tokens of the answer, at most."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def stops(self) -> list[str]:
        """The stop sequences."""
        return [stop for stop in ([self.stop] if isinstance(self.stop, str) else self.stop or []) if stop]

    def schemas(self) -> tuple[ToolSchema, ...]:
        """The client's own tools, as far as `tool_choice` lets the model use them."""
        wanted = _named(self.tool_choice)
        return tuple(
            ToolSchema(tool.function.name, tool.function.description or "", tool.function.parameters or _NO_PARAMETERS)
            for tool in self.tools or ()
            if wanted is None or tool.function.name == wanted
        )

    def conversation(self, instructions: str) -> tuple[Message, ...]:
        """The messages for the model: the agent's instructions come before the client's own.

        The system messages that lead are made one: many models know only one, and only at the beginning.

        Raises:
            ApiError: 400, for a message that makes no sense here.
        """
        messages = [_message(message, at) for at, message in enumerate(self.messages)]
        leading = 0
        while leading < len(messages) and messages[leading].role == "system":
            leading += 1
        system = "\n\n".join(_filled([instructions, *(message.content for message in messages[:leading])]))
        return ((Message("system", system),) if system else ()) + tuple(messages[leading:])


def _filled(texts: Iterable[str]) -> list[str]:
    return [text for text in texts if text.strip()]


def _named(choice: str | dict[str, Any] | None) -> str | None:
    """The one function that `tool_choice` names, if it does."""
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def _message(message: MessageParam, at: int) -> Message:
    param = f"messages[{at}]"
    role = _ROLES.get(message.role)
    if role is None:
        raise bad(f"{param}.role", f"{message.role!r} is no role; use one of {', '.join(_ROLES)}.")
    if role == "tool" and not message.tool_call_id:
        raise bad(f"{param}.tool_call_id", "A tool message must say which call it answers.")
    calls = tuple(
        ToolCall(call.id, call.function.name, call.function.arguments or "{}") for call in message.tool_calls or ()
    )
    text = _text(message.content, f"{param}.content")
    return Message(role, text, calls if role == "assistant" else (), message.tool_call_id or "")


def _text(content: str | list[dict[str, Any]] | None, param: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts: list[str] = []
    for at, part in enumerate(content):
        kind = part.get("type")
        text = part.get("text") if kind == "text" else part.get("refusal") if kind == "refusal" else None
        if not isinstance(text, str):
            raise bad(f"{param}[{at}]", f"Parts of type {json.dumps(kind)} are not understood, only text is.")
        texts.append(text)
    return "\n".join(texts)
