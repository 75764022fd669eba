"""Observers, filters and adapters that keep every rule of the conformance kit, and for each rule one that breaks it."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace
from typing import Any

import msgspec
from litestar import get, post
from litestar.params import FromPath, JSONBody

from rejoinder.errors import ProtocolError
from rejoinder.events import SessionEnded, TurnCommitted
from rejoinder.hookspecs import hookimpl
from rejoinder.providers import LlmRequest, Message


class Observer:
    def __init__(self) -> None:
        self.turns: dict[str, int] = {}

    @hookimpl
    def on_event(self, session_id: str, event: Any) -> None:
        self.see(session_id, event)

    def see(self, session_id: str, event: Any) -> None:
        if isinstance(event, TurnCommitted):
            self.turns[session_id] = self.turns.get(session_id, 0) + 1
        elif isinstance(event, SessionEnded):
            self.turns.pop(session_id, None)

    @hookimpl
    async def before_llm(self, session_id: str, request: LlmRequest) -> Any:
        return await self.changed(session_id, request)

    async def changed(self, session_id: str, request: LlmRequest) -> Any:
        await asyncio.sleep(0.001)
        return replace(request, messages=(*request.messages, Message("system", "Be kind.")))

    @hookimpl
    def before_tts(self, text: str) -> Any:
        return self.spoken(text)

    def spoken(self, text: str) -> Any:
        return text.replace("&", " and ")

    @hookimpl
    def before_storage(self, text: str) -> Any:
        return self.stored(text)

    def stored(self, text: str) -> Any:
        return re.sub(r"\d", "#", text)


class FailsToStart(Observer):
    @hookimpl
    def startup(self) -> None:
        raise ConnectionError("no server")


class Nothing:
    @hookimpl
    def health(self) -> None:
        return None


class Unaware(Observer):
    def see(self, session_id: str, event: Any) -> None:
        self.reply = event.reply_id


class Meddling(Observer):
    def see(self, session_id: str, event: Any) -> None:
        if isinstance(event, TurnCommitted):
            event.text = "***"


class SlowObserver(Observer):
    def see(self, session_id: str, event: Any) -> None:
        time.sleep(0.0015)


class TaskObserver(Observer):
    def see(self, session_id: str, event: Any) -> None:
        if isinstance(event, TurnCommitted):
            tasks.add(asyncio.ensure_future(asyncio.Event().wait()))


class Hoarder(Observer):
    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []

    def see(self, session_id: str, event: Any) -> None:
        self.events.append(event)


class Anything(msgspec.Struct):
    most: int = 3


class Plain(msgspec.Struct, forbid_unknown_fields=True):
    api_key: str = ""


class OpenSection(Observer):
    @hookimpl
    def register_settings(self) -> Any:
        return {"acme": Anything}


class PlainSecret(Observer):
    @hookimpl
    def register_settings(self) -> Any:
        return {"acme": Plain}


class TextForRequest(Observer):
    async def changed(self, session_id: str, request: LlmRequest) -> Any:
        return request.messages


class NeedsMessages(Observer):
    async def changed(self, session_id: str, request: LlmRequest) -> Any:
        assert request.messages
        return request


class BytesForText(Observer):
    def spoken(self, text: str) -> Any:
        return [text]


class AsciiOnly(Observer):
    def stored(self, text: str) -> Any:
        return text.encode("ascii").decode()


class SlowFilter(Observer):
    def spoken(self, text: str) -> Any:
        time.sleep(0.03)
        return text


class Mixed(Observer):
    """Keeps the newest request for all sessions."""

    async def changed(self, session_id: str, request: LlmRequest) -> Any:
        self.request = request
        await asyncio.sleep(0.001)
        return self.request


# --- adapters ---------------------------------------------------------------------------------------------------


@get("/acme/greeting", operation_id="acme_greeting", public=True)
async def greeting() -> dict[str, str]:
    return {"text": "hello"}


@post("/acme/numbers/{number:int}", operation_id="acme_number", public=True)
async def number(number: FromPath[int], data: JSONBody[dict[str, int]]) -> dict[str, int]:
    if number == 0:
        raise ProtocolError("0 has no inverse.")
    return {**data, "number": number}


@post("/acme/numbers/{number:int}", operation_id="acme_divide", public=True)
async def divide(number: FromPath[int]) -> dict[str, float]:
    return {"number": 1 / number}


@get("/acme/unguarded", operation_id="acme_unguarded")
async def unguarded() -> str:
    return "come in"


@get("/v1/agents", operation_id="acme_agents", public=True)
async def agents() -> list[str]:
    return []


@get("/acme/slow", operation_id="acme_slow", public=True)
async def slow() -> str:
    time.sleep(0.05)  # noqa: ASYNC251 - that is what it does wrong
    return "done"


@get("/acme/leak", operation_id="acme_leak", public=True)
async def leak() -> str:
    tasks.add(asyncio.ensure_future(asyncio.Event().wait()))
    return "done"


tasks: set[Any] = set()


class Adapter:
    def __init__(self, *routes: Any) -> None:
        self.routes = routes

    @hookimpl
    def register_routes(self) -> Any:
        return list(self.routes)


class FailsToStop(Adapter):
    @hookimpl
    async def shutdown(self) -> None:
        raise ConnectionError("no server")
