"""`rejoinder bench --turns`: a scorecard of an agent's turn-taking over a scripted corpus, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any, cast

from rejoinder.audio import FRAME_MS
from rejoinder.catalog import fixed_agent
from rejoinder.commands.report import Distribution, figure, table
from rejoinder.events import (
    Error,
    Interruption,
    ProviderSwitched,
    ReplyFinished,
    ReplyStarted,
    SessionMetrics,
    SpeechStopped,
    TurnCommitted,
)
from rejoinder.manager import Plugins
from rejoinder.providers import InterruptionJudge, Kind, LlmDelta, LlmRequest, ProviderContext, TurnDetector
from rejoinder.settings import Agent, Deadlines, Settings
from rejoinder.testing.corpus import Case, Pause, Say, Sound, corpus
from rejoinder.testing.pilot import SessionPilot, pilot
from rejoinder.testing.scripted import ScriptedLlm, ScriptedStt, ScriptedSttStream, ScriptedTts
from rejoinder.testing.virtual_time import run_virtual

STT_S, TOKEN_S, TTS_S = 0.06, 0.02, 0.03
"""What the scripted providers take: about as long as the embedded ones."""
REPLY = tuple(f"This is part {n} of a long answer. " for n in range(40))
BEFORE_MS = 1500
"""The agent has been speaking this long when the user begins."""
_JUDGING: tuple[Kind, ...] = ("turn", "interruption")
FAULT_DEADLINES = Deadlines(transcript_ms=1000, first_token_ms=1000, first_audio_ms=1000)


class _SpokenStt(ScriptedStt):
    """Knows the words that were spoken so far."""

    def __init__(self) -> None:
        super().__init__(delay_s=STT_S)
        self.spoken: list[str] = []

    def open(self, *, language: str, on_partial: Callable[[str], None]) -> ScriptedSttStream:
        return _SpokenStream(self, on_partial)


class _SpokenStream(ScriptedSttStream):
    async def flush(self) -> str:
        await asyncio.sleep(STT_S)
        return " ".join(cast(_SpokenStt, self._provider).spoken)

    def reset(self) -> None:
        super().reset()
        cast(_SpokenStt, self._provider).spoken.clear()


@dataclass(slots=True)
class Card:
    """What came of the corpus. Times in ms."""

    kinds: Counter[str] = field(default_factory=Counter)
    cut_off: Counter[str] = field(default_factory=Counter)
    waits: dict[str, list[float]] = field(default_factory=dict)
    responses: list[float] = field(default_factory=list)
    stopped: Counter[str] = field(default_factory=Counter)
    ducked: Counter[str] = field(default_factory=Counter)
    silence: dict[str, list[float]] = field(default_factory=dict)
    kept: int = 0
    discarded: int = 0
    saved_ms: int = 0
    faults: list[Fault] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "turns": {
                kind: {"n": self.kinds[kind], "cut_off": self.cut_off[kind], "wait_ms": Distribution.of(waits).json()}
                for kind, waits in self.waits.items()
            },
            "response_ms": Distribution.of(self.responses).json(),
            "speculations": {"kept": self.kept, "discarded": self.discarded, "saved_ms": self.saved_ms},
            "over_the_agent": {
                kind: {
                    "n": self.kinds[kind],
                    "stopped": self.stopped[kind],
                    "silent_after_ms": Distribution.of(times).json(),
                }
                for kind, times in self.silence.items()
            },
            "faults": [{name: getattr(fault, name) for name in fault.__slots__} for fault in self.faults],
        }


@dataclass(frozen=True, slots=True)
class Fault:
    """What the user hears when a provider fails: after how long (ms), and what the metrics call it."""

    name: str
    heard_after_ms: float | None
    heard: str
    cause: str
    goes_on: bool


def run_corpus(settings: Settings, agent_name: str | None, plugins: Plugins) -> Card:
    """Play the corpus to the agent's turn-taking; its VAD, STT, LLM and TTS are scripted, its rules are its own.

    Raises:
        UnknownName, ConfigError, ProviderError: the agent, or what it names, is unknown or cannot be loaded.
    """
    agent = fixed_agent(settings, plugins, agent_name).model_copy(update={"greeting": ""})
    card = Card()
    judging = {kind: {name: _make(plugins, settings, kind, name) for name in agent.names(kind)} for kind in _JUDGING}

    async def warm_up() -> None:
        for provider in (*judging["turn"].values(), *judging["interruption"].values()):
            await provider.warm_up()

    asyncio.run(warm_up())
    detectors = cast(Mapping[str, TurnDetector], judging["turn"])
    judges = cast(Mapping[str, InterruptionJudge], judging["interruption"])
    for case in corpus():
        run_virtual(_play(case, agent, detectors, judges, card))
    for fault in _faults():
        run_virtual(fault(card))
    return card


def _make(plugins: Plugins, settings: Settings, kind: Kind, name: str) -> Any:
    import msgspec

    from rejoinder.models import ModelCache

    offer = plugins.provider(kind, name)
    context = ProviderContext(
        settings=msgspec.convert(settings.plugins.get(name, {}), offer.settings, strict=False),
        models=ModelCache(settings.models_dir, plugins.models()),
        executor=lambda name, workers: InlineExecutor(),
        llm=lambda name: cast(Any, None),
    )
    return offer.create(context)


class InlineExecutor(Executor):
    """Runs at once what it is given: in virtual time a thread would take for ever or no time at all."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run it now."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - handed on to whoever waits
            future.set_exception(error)
        return future


def _reply(request: LlmRequest) -> Iterable[LlmDelta | float]:
    for sentence in REPLY:
        for word in sentence.split():
            yield TOKEN_S
            yield word + " "


async def _play(
    case: Case,
    agent: Agent,
    detectors: Mapping[str, TurnDetector],
    judges: Mapping[str, InterruptionJudge],
    card: Card,
) -> None:
    stt = _SpokenStt()
    async with pilot(
        agent=agent,
        stt=stt,
        llm=ScriptedLlm(_reply),
        tts=ScriptedTts(delay_s=TTS_S),
        turn=detectors,
        interruption=judges,
        reports=True,
    ) as user:
        card.kinds[case.kind] += 1
        if case.over:
            user.write("Tell me everything.")
            await user.until(ReplyStarted)
            await user.pause(BEFORE_MS)
        began = user.now
        for step in case.steps:
            await _do(user, stt, step)
        ended = user.now
        await user.pause(3000)
        if case.over:
            _note_overlap(case, user, began, card)
        else:
            _note_turn(case, user, ended, card)
        await user.session.close("over")
        for counts in user.events(SessionMetrics):
            card.kept += counts.speculations_kept
            card.discarded += counts.speculations_discarded
            card.saved_ms += counts.saved_ms


async def _do(user: SessionPilot, stt: _SpokenStt, step: Say | Sound | Pause) -> None:
    if isinstance(step, Pause):
        await user.pause(step.ms)
    elif isinstance(step, Sound):
        await user.speak(step.ms)
    else:
        words = step.text.split()
        done = 0.0
        for position, word in enumerate(words, 1):
            until = step.length_ms * position / len(words)
            # A recogniser knows a word a little before it ends.
            await user.speak(max(FRAME_MS, until - done - FRAME_MS))
            stt.spoken.append(word)
            await user.speak(FRAME_MS)
            done = until


def _note_turn(case: Case, user: SessionPilot, ended: float, card: Card) -> None:
    stops = [at for at, event in user.log if isinstance(event, SpeechStopped)]
    early = [event for at, event in user.log if isinstance(event, TurnCommitted) and at < ended]
    card.cut_off[case.kind] += bool(early)
    # What is waited for is silence, whatever the transcript takes.
    waits = card.waits.setdefault(case.kind, [])
    waits += [(at - ended) * 1000 for at in stops if at >= ended][:1]
    first = [at for at, item in user.log if isinstance(item, bytes) and at >= ended]
    if first and not early:
        card.responses.append((first[0] - ended) * 1000)


def _note_overlap(case: Case, user: SessionPilot, began: float, card: Card) -> None:
    stopped = any(event.accepted for event in user.events(Interruption))
    card.stopped[case.kind] += stopped
    times = card.silence.setdefault(case.kind, [])
    if stopped:
        at = next(at for at, event in user.log if isinstance(event, Interruption) and event.accepted)
        last = max((t for t, item in user.log if isinstance(item, bytes) and t <= at), default=began)
        times.append((last - began) * 1000)


# --- what is heard when a provider fails ---------------------------------------------------------------------------


@dataclass
class _SilentTts(ScriptedTts):
    async def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[bytes, None]:
        self.spoken.append(text)
        return
        yield b""


def _faults() -> list[Callable[[Card], Any]]:
    from rejoinder.errors import ProviderError

    def llm(*items: LlmDelta | float | Exception) -> ScriptedLlm:
        return ScriptedLlm(lambda request: items)

    dead = ProviderError("scripted", "the connection was lost")
    cases: list[tuple[str, dict[str, Any]]] = [
        ("LLM killed in mid-sentence", {"llm": llm("This is what I ", "know. ", "And then", 0.2, dead)}),
        ("LLM hangs before its first token", {"llm": llm(3600.0)}),
        ("LLM answers nothing", {"llm": llm()}),
        ("TTS returns nothing", {"tts": _SilentTts()}),
        ("STT returns nothing", {"stt": ScriptedStt(("",))}),
        ("STT fails", {"stt": ScriptedStt((ScriptedStt.FAIL,))}),
        ("STT hangs", {"stt": ScriptedStt(delay_s=3600)}),
    ]

    def one(name: str, things: dict[str, Any]) -> Callable[[Card], Any]:
        async def play(card: Card) -> None:
            agent = Agent(deadlines=FAULT_DEADLINES)
            async with pilot(agent=agent, **things) as user:
                await user.turn(800, 0)
                ended = user.now
                await user.pause(8000)
                heard_at = next((at for at, item in user.log if isinstance(item, bytes) and at >= ended), None)
                heard = " / ".join(event.heard_text for event in user.events(ReplyFinished) if event.heard_text)
                causes = [f"{e.kind}:{e.provider} {e.cause}" for e in user.events(ProviderSwitched)]
                causes += [event.code for event in user.events(Error)]
                alive = user.closed_reason is None
                after = None if heard_at is None else (heard_at - ended) * 1000
                card.faults.append(Fault(name, after, heard, causes[0] if causes else "", alive))

        return play

    return [one(name, things) for name, things in cases]


# --- for people ----------------------------------------------------------------------------------------------------


def report(card: Card) -> str:
    """The scorecard as text."""
    turns = [
        (
            kind,
            str(card.kinds[kind]),
            f"{card.cut_off[kind]} ({card.cut_off[kind] / card.kinds[kind]:.0%})",
            figure(Distribution.of(waits).p50),
            figure(Distribution.of(waits).max),
        )
        for kind, waits in card.waits.items()
    ]
    over = [
        (
            kind,
            str(card.kinds[kind]),
            f"{card.stopped[kind]} ({card.stopped[kind] / card.kinds[kind]:.0%})",
            figure(Distribution.of(times).p50),
            figure(Distribution.of(times).max),
        )
        for kind, times in card.silence.items()
    ]
    response = Distribution.of(card.responses)
    faults = [
        (
            fault.name,
            figure(fault.heard_after_ms) + " ms",
            fault.cause or "-",
            "yes" if fault.goes_on else "no",
            fault.heard or ("(a tone)" if fault.heard_after_ms is not None else "-"),
        )
        for fault in card.faults
    ]
    return "\n\n".join(
        (
            table(("end of turn", "n", "cut off early", "wait p50, ms", "max"), turns),
            f"response p50 {figure(response.p50)} / p95 {figure(response.p95)} ms (n={response.n}); "
            f"prepared replies: {card.kept} kept, {card.discarded} thrown away, {card.saved_ms} ms saved in all",
            table(("over the agent", "n", "stopped it", "last audio after p50, ms", "max"), over),
            table(("fault", "heard after", "named", "goes on", "what is heard"), faults),
        )
    )
