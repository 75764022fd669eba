"""What a session needs of the process it runs in: providers and tools, and what all sessions share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rejoinder.breaker import Breaker
from rejoinder.bus import Observer
from rejoinder.catalog import NamedAgent
from rejoinder.clock import Clock
from rejoinder.hooks import Hooks, SessionHooks
from rejoinder.journal import Entry
from rejoinder.providers import (
    InterruptionJudge,
    LlmProvider,
    SttProvider,
    Tool,
    TtsProvider,
    TurnDetector,
    VadProvider,
)
from rejoinder.settings import Limits
from rejoinder.stages.playout import Pacer
from rejoinder.stages.voice import PhraseCache


class Origin(NamedTuple):
    """How the first client of a session came (`websocket`, `sse`, `rest`, `chat` ...), and what it calls itself."""

    channel: str = ""
    client: str = ""


@dataclass(frozen=True, slots=True)
class Services:
    """The process's providers and tools, as one agent uses them."""

    vad: VadProvider
    stt: Mapping[str, SttProvider]
    turn: Mapping[str, TurnDetector]
    interruption: Mapping[str, InterruptionJudge]
    llm: Mapping[str, LlmProvider]
    tts: Mapping[str, TtsProvider]
    tools: Mapping[str, Tool]


@dataclass(frozen=True, slots=True)
class Host:
    """What a session needs of the process it runs in."""

    limits: Limits
    clock: Clock
    pacer: Pacer
    hooks: Hooks
    observer: Callable[[str, SessionHooks], Observer]
    """`observer(session_id, hooks)` sees every event of that session (store, plugins)."""
    straggler: Callable[[asyncio.Task[Any]], None]
    on_ended: Callable[[Any], None]
    """Told of the session that has ended."""
    choose: Callable[[str], Awaitable[tuple[NamedAgent, Services]]]
    """The agent of that name and what it works with, ready to use; raises RejoinderError."""
    sent: Callable[[str, SessionHooks, Entry], None] = lambda session_id, hooks, entry: None
    """Told of each reply that the LLM was asked for and that is over, with what it was sent."""
    breaker: Breaker | None = None
    """Which providers fail at the moment, for all sessions."""
    odd: Callable[[str, str], None] = lambda provider, what: None
    """Told of a TTS provider whose speech can hardly be right."""
    phrases: PhraseCache | None = None
    """What is said when something fails, spoken ahead; None: nothing is."""
