"""Drives one session in virtual time: speak, be silent, write, and look at what came when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from rejoinder.audio import FRAME_MS, Rates, byte_count
from rejoinder.bus import Observer
from rejoinder.catalog import NamedAgent
from rejoinder.clock import LoopClock
from rejoinder.errors import UnknownName
from rejoinder.events import ClearAudio, ClientCommand, Event, Playback, ReplyStarted, ServerEvent, Text
from rejoinder.hooks import Hooks, SessionHooks
from rejoinder.host import Host, Services
from rejoinder.journal import Entry
from rejoinder.local import LocalLink
from rejoinder.manager import Plugins
from rejoinder.playhead import Playhead
from rejoinder.providers import InterruptionJudge, Tool, TurnDetector
from rejoinder.session import Session
from rejoinder.settings import Agent, Limits
from rejoinder.stages.playout import Pacer
from rejoinder.testing.scripted import ScriptedLlm, ScriptedStt, ScriptedTts, ScriptedVad, noise, silence

E = TypeVar("E", bound=Event)
_REPORT_S = 0.2
_VOICE = noise(FRAME_MS)


class SessionPilot:
    """A client of one session: everything it receives is kept in `log` as (time in s, event or audio bytes).

    It plays what it gets in real time and keeps what it really played of each reply. With `reports` it tells the
    session how far it is, each 200 ms and when it was told to stop.
    """

    def __init__(self, *, rate: int = 24_000, reports: bool = False) -> None:
        self.log: list[tuple[float, ServerEvent | bytes]] = []
        self.closed_reason: str | None = None
        self.session: Session
        self.llm: ScriptedLlm
        self.tts: ScriptedTts
        self.stt: ScriptedStt
        self._link: LocalLink
        self._rate = rate
        self._reports = reports
        self._playhead: Playhead | None = None
        self._playing = ""
        self._reported_at = 0.0
        self._received: dict[str, bytearray] = {}

    # -- LinkReceiver

    def on_event(self, event: ServerEvent, data: bytes) -> None:
        """Keep it, and obey."""
        self.log.append((self.now, event))
        if isinstance(event, ReplyStarted):
            self._begin(event.reply_id)
        elif isinstance(event, ClearAudio) and self._playhead is not None:
            self._playhead.clear()
            del self._received[self._playing][self._bytes(self._playhead.played_ms()) :]
            if self._reports:
                self._report()

    def on_audio(self, pcm: bytes) -> None:
        """Keep it, and play it."""
        self.log.append((self.now, pcm))
        if self._playhead is not None:
            self._playhead.feed(pcm)
            self._received[self._playing] += pcm

    def _begin(self, reply_id: str) -> None:
        if self._playhead is None:
            self._playhead = Playhead(self._rate, lambda: self.now)
        self._playhead.begin()
        self._playing = reply_id
        self._received[reply_id] = bytearray()
        self._reported_at = self.now

    def _bytes(self, ms: float) -> int:
        return byte_count(ms, self._rate)

    def played(self, reply_id: str) -> bytes:
        """What was played of a reply that is over or stopped, what was repeated included."""
        return bytes(self._received[reply_id])

    def on_closed(self, reason: str) -> None:
        """Keep it."""
        self.closed_reason = reason

    # -- what a test does

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return asyncio.get_running_loop().time()

    async def speak(self, ms: float) -> None:
        """Send `ms` of loud audio in real time."""
        await self._send(_VOICE, ms)

    async def pause(self, ms: float) -> None:
        """Send `ms` of silence in real time."""
        await self._send(silence(FRAME_MS), ms)

    async def turn(self, speech_ms: float = 1000, silence_ms: float = 1000) -> None:
        """Speak, then be silent."""
        await self.speak(speech_ms)
        await self.pause(silence_ms)

    def write(self, text: str) -> None:
        """Send a text message."""
        self.command(Text(text=text))

    def command(self, command: ClientCommand) -> None:
        """Send any command."""
        self._link.send_command(command)

    async def reconnect(self) -> None:
        """Lose the connection and come back with the token: what was missed is sent again."""
        token = self._link.resume_token
        last_seq = max((item.seq for _, item in self.log if isinstance(item, Event)), default=0)
        played_ms = 0.0
        self._link.close()
        if self._playhead is not None:
            self._playhead.clear()
            played_ms = self._playhead.played_ms()
            del self._received[self._playing][self._bytes(played_ms) :]
        self._link = self.session.attach(
            self, self.session.rates, audio=True, resume_token=token, last_seq=last_seq, played_ms=played_ms
        )

    async def until(self, kind: type[E], count: int = 1, limit_s: float = 60) -> E:
        """Wait, sending silence, for the `count`-th event of `kind`."""
        async with asyncio.timeout(limit_s):
            while len(found := self.events(kind)) < count:
                await self.pause(FRAME_MS)
        return found[count - 1]

    # -- what a test looks at

    def events(self, kind: type[E]) -> list[E]:
        """All events of `kind` so far."""
        return [item for _, item in self.log if isinstance(item, kind)]

    def at(self, kind: type[Event], index: int = 0) -> float:
        """When an event of `kind` came, in s."""
        return [at for at, item in self.log if isinstance(item, kind)][index]

    def audio(self, start: float = 0.0, end: float = float("inf")) -> bytes:
        """All audio received in a span of time."""
        return b"".join(item for at, item in self.log if isinstance(item, bytes) and start <= at < end)

    def audio_after(self, kind: type[Event]) -> bytes:
        """All audio received after the first event of `kind`, in the order of arrival."""
        first = next(index for index, (_, item) in enumerate(self.log) if isinstance(item, kind))
        return b"".join(item for _, item in self.log[first:] if isinstance(item, bytes))

    async def _send(self, frame: bytes, ms: float) -> None:
        for _ in range(round(ms / FRAME_MS)):
            self._link.send_audio(frame)
            if self._reports and self._playing and self.now - self._reported_at >= _REPORT_S:
                self._report()
            await asyncio.sleep(FRAME_MS / 1000)

    def _report(self) -> None:
        assert self._playhead is not None
        self._reported_at = self.now
        self.command(Playback(reply_id=self._playing, played_ms=self._playhead.played_ms()))


@asynccontextmanager
async def pilot(
    *,
    agent: Agent | None = None,
    limits: Limits | None = None,
    stt: ScriptedStt | None = None,
    llm: ScriptedLlm | None = None,
    fallback: ScriptedLlm | None = None,
    tts: ScriptedTts | None = None,
    turn: Mapping[str, TurnDetector] | None = None,
    interruption: Mapping[str, InterruptionJudge] | None = None,
    tools: Sequence[Tool] = (),
    audio: bool = True,
    reports: bool = False,
    observer: Callable[[ServerEvent, bytes], None] = lambda event, data: None,
    others: Mapping[str, tuple[Agent, ScriptedLlm]] | None = None,
    plugins: Plugins | None = None,
    sent: Callable[[str, SessionHooks, Entry], None] = lambda session_id, hooks, entry: None,
) -> AsyncIterator[SessionPilot]:
    """A running session on scripted providers and its pilot; closed at the end, with nothing left behind.

    `fallback` is the LLM that is asked when `llm` fails or is late. `others` are agents, with their LLMs, to whom the
    session may be transferred. The hooks of `plugins` are called; `observer` sees events as they are stored,
    `sent` is told of each reply that the LLM was asked for when it is over.
    """
    tts = tts or ScriptedTts()
    client = SessionPilot(rate=tts.sample_rate, reports=reports)
    client.stt, client.llm, client.tts = stt or ScriptedStt(), llm or ScriptedLlm(), tts
    services = Services(
        vad=ScriptedVad(),
        stt={"scripted": client.stt},
        turn=turn or {},
        interruption=interruption or {},
        llm={"scripted": client.llm} | ({"fallback": fallback} if fallback is not None else {}),
        tts={"scripted": client.tts},
        tools={tool.name: tool for tool in tools},
    )

    async def choose(name: str) -> tuple[NamedAgent, Services]:
        if name not in (others or {}):
            raise UnknownName("agent", name, others or {})
        other, brain = (others or {})[name]
        return NamedAgent(name, other.model_copy(update=names)), replace(services, llm={"scripted": brain})

    hooks = Hooks(plugins or Plugins())

    def watch(session_id: str, own: SessionHooks) -> Observer:
        def observe(event: ServerEvent, data: bytes) -> None:
            observer(*own.stored(event, data))
            own.observe(event)

        return observe

    pacer = Pacer()
    stragglers: list[asyncio.Task[Any]] = []
    host = Host(
        limits=limits or Limits(),
        clock=LoopClock(),
        pacer=pacer,
        hooks=hooks,
        observer=watch,
        straggler=stragglers.append,
        on_ended=lambda session: None,
        sent=sent,
        choose=choose,
    )
    before = asyncio.all_tasks()
    names = {
        "vad": "scripted",
        "stt": ("scripted",),
        "turn": tuple(turn or ()),
        "interruption": tuple(interruption or ()),
        "llm": ("scripted",) if fallback is None else ("scripted", "fallback"),
        "tts": ("scripted",),
    }
    definition = (agent or Agent()).model_copy(update=names)
    rates = Rates(16_000, client.tts.sample_rate)
    client.session = Session("ses_pilot", NamedAgent("pilot", definition), services, host, rates)
    client.session.start()
    client._link = client.session.attach(client, rates, audio=audio)
    try:
        yield client
    finally:
        await client.session.close("test_over")
        pacer.close()
        left = asyncio.all_tasks() - before - set(stragglers)
        assert not left, f"tasks left behind: {left}"
