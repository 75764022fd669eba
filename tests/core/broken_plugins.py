"""Small providers that keep every rule of the conformance kit, and for each rule one that breaks it and no other."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Annotated, Any

import msgspec
import numpy as np

from rejoinder import audio
from rejoinder.errors import ProviderError, ProviderRejected, ToolError
from rejoinder.hookspecs import hookimpl
from rejoinder.providers import (
    Capabilities,
    Judgement,
    Kind,
    LlmRequest,
    Overlap,
    Provider,
    ProviderContext,
    Secret,
    Tool,
    ToolCall,
    ToolContext,
    TtsDelta,
    TurnSoFar,
    VadAdvice,
    WordTime,
)

RATE = 16_000
LETTER_MS = 62
WORD_MS = 200


class Plugin:
    """Offers what it is given."""

    def __init__(self, *offers: Provider | Tool) -> None:
        self.offers = offers

    @hookimpl
    def register_providers(self) -> Iterable[Provider]:
        return [offer for offer in self.offers if isinstance(offer, Provider)]

    @hookimpl
    def register_tools(self) -> Iterable[Tool]:
        return [offer for offer in self.offers if isinstance(offer, Tool)]


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    speed: float = 1.0
    loud: bool = True
    workers: Annotated[int, msgspec.Meta(ge=1)] = 2
    api_key: Secret | None = None


CAPABILITIES: dict[Kind, Capabilities] = {
    "tts": Capabilities(streaming=True, languages=("en",), sample_rates=(RATE,), word_times=True),
    "stt": Capabilities(streaming=True, languages=("en",)),
    "llm": Capabilities(streaming=True),
    "vad": Capabilities(),
    "turn": Capabilities(),
    "interruption": Capabilities(),
}


def offering(kind: Kind, made: Callable[[ProviderContext], Any], **other: Any) -> Plugin:
    """A plugin with the provider `acme` that `made` makes."""
    given = {"name": "acme", "summary": "For tests", "settings": Settings, "capabilities": CAPABILITIES[kind], **other}
    return Plugin(Provider(kind, create=made, **given))


class Base:
    def __init__(self, context: ProviderContext) -> None:
        self.context = context

    async def warm_up(self) -> None:
        pass

    async def close(self) -> None:
        pass


def block() -> None:
    time.sleep(0.05)


# --- TTS ------------------------------------------------------------------------------------------------------


def buzz(ms: float, rate: int = RATE) -> bytes:
    """Something like a vowel: a low tone with many overtones."""
    at = np.arange(int(ms * rate / 1000)) / rate
    wave = sum(np.sin(2 * np.pi * 130 * n * at) / n for n in range(1, 12))
    return audio.from_float((0.25 * wave * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * at))).astype(np.float32))


class Tts(Base):
    sample_rate = RATE

    async def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[TtsDelta, None]:
        if language != "en":
            raise ProviderRejected("acme", "speaks English only")
        if not any(character.isascii() and character.isalnum() for character in text):
            return
        await asyncio.sleep(0.002)
        for item in self.speech(text):
            yield item
            await asyncio.sleep(0.001)

    def speech(self, text: str) -> Iterable[TtsDelta]:
        text = text[:300]
        length = len(text) * LETTER_MS
        words = text.split()
        for number, word in enumerate(words):
            yield WordTime(word, number * length / len(words), (number + 1) * length / len(words))
        yield from self.cut(self.sound(length))

    def sound(self, ms: float) -> bytes:
        return buzz(ms)

    def cut(self, pcm: bytes) -> Iterable[bytes]:
        return (pcm[at : at + 16_000] for at in range(0, len(pcm), 16_000))


class WavTts(Tts):
    def sound(self, ms: float) -> bytes:
        return b"RIFF\x00\x00\x00\x00WAVEfmt " + bytes(28) + buzz(ms)[44:]


class FloatTts(Tts):
    def sound(self, ms: float) -> bytes:
        return audio.to_float(buzz(ms)).tobytes()


class MuLawTts(Tts):
    def sound(self, ms: float) -> bytes:
        samples = audio.to_float(buzz(ms))
        level = np.sign(samples) * np.log1p(255 * np.abs(samples)) / np.log(256)
        coded: bytes = (~((samples < 0).astype(np.uint8) * 128 + (np.abs(level) * 127).astype(np.uint8))).tobytes()
        return coded[: len(coded) // 2 * 2]

    def speech(self, text: str) -> Iterable[TtsDelta]:
        return (item for item in super().speech(text) if isinstance(item, bytes))


class BigEndianTts(Tts):
    def sound(self, ms: float) -> bytes:
        return np.frombuffer(buzz(ms), "<i2").astype(">i2").tobytes()


class HalfSampleTts(Tts):
    def cut(self, pcm: bytes) -> Iterable[bytes]:
        return (pcm[:9_001], pcm[9_001:])


class QuietTts(Tts):
    def sound(self, ms: float) -> bytes:
        return (np.frombuffer(buzz(ms), "<i2") // 2000).astype("<i2").tobytes()


class ClippingTts(Tts):
    def sound(self, ms: float) -> bytes:
        return audio.from_float(audio.to_float(buzz(ms)) * 20)


class FastTts(Tts):
    """Says 16 kHz, but its audio has 8 kHz."""

    def speech(self, text: str) -> Iterable[TtsDelta]:
        return self.cut(buzz(len(text) * LETTER_MS, RATE // 2))


class SlowTts(Tts):
    """Says 16 kHz, but its audio has 32 kHz."""

    def sound(self, ms: float) -> bytes:
        return buzz(ms, 2 * RATE)


class OtherRateTts(Tts):
    sample_rate = 24_000

    def sound(self, ms: float) -> bytes:
        return buzz(ms, 24_000)


class LateTts(Tts):
    def sound(self, ms: float) -> bytes:
        return bytes(2 * RATE) + buzz(ms)


class WholeTts(Tts):
    def cut(self, pcm: bytes) -> Iterable[bytes]:
        return (pcm,)


class SecondsTts(Tts):
    """Gives word times in samples."""

    def speech(self, text: str) -> Iterable[TtsDelta]:
        for item in super().speech(text):
            yield item if isinstance(item, bytes) else WordTime(item.text, item.start_ms * 16, item.end_ms * 16)


class DisorderedTts(Tts):
    def speech(self, text: str) -> Iterable[TtsDelta]:
        items = list(super().speech(text))
        times = [item for item in items if isinstance(item, WordTime)]
        return [*reversed(times), *(item for item in items if isinstance(item, bytes))]


class ChattyTts(Tts):
    async def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[TtsDelta, None]:
        async for item in super().stream(text, voice=voice, language=language):
            yield item
        if not text.strip():
            yield buzz(300)


class AnyLanguageTts(Tts):
    async def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[TtsDelta, None]:
        voices = {"en": "anna"}
        assert voices[language]
        async for item in super().stream(text, voice=voice, language=language):
            yield item


class AsciiTts(Tts):
    def speech(self, text: str) -> Iterable[TtsDelta]:
        text.encode("ascii")
        return super().speech(text)


class TryAgainTts(Tts):
    async def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[TtsDelta, None]:
        if voice is not None:
            raise ProviderError("acme", "failed")
        async for item in super().stream(text, voice=voice, language=language):
            yield item


class SharedTts(Tts):
    """Keeps the text of the newest stream for all of them."""

    async def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[TtsDelta, None]:
        self.text = text
        await asyncio.sleep(0)
        async for item in super().stream(self.text, voice=voice, language=language):
            yield item


class BlockingTts(Tts):
    def speech(self, text: str) -> Iterable[TtsDelta]:
        block()
        return super().speech(text)


class TardyTts(Tts):
    async def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[TtsDelta, None]:
        await asyncio.sleep(0.15)
        async for item in super().stream(text, voice=voice, language=language):
            yield item


class LingeringTts(Tts):
    async def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[TtsDelta, None]:
        try:
            async for item in super().stream(text, voice=voice, language=language):
                yield item
        finally:
            await asyncio.sleep(0.1)


class LeakyTts(Tts):
    """Leaves something behind with each stream that is cut off."""

    def leak(self) -> None:
        raise NotImplementedError

    async def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[TtsDelta, None]:
        done = False
        try:
            async for item in super().stream(text, voice=voice, language=language):
                yield item
            done = True
        finally:
            if not done:
                self.leak()


class TaskLeak(LeakyTts):
    def leak(self) -> None:
        self.tasks = [*getattr(self, "tasks", ()), asyncio.ensure_future(forever())]

    async def close(self) -> None:
        for task in getattr(self, "tasks", ()):
            task.cancel()


async def forever() -> None:
    await asyncio.Event().wait()


class ThreadLeak(LeakyTts):
    def leak(self) -> None:
        self.stop = getattr(self, "stop", None) or threading.Event()
        threading.Thread(target=self.stop.wait, name="acme", daemon=True).start()

    async def close(self) -> None:
        if hasattr(self, "stop"):
            self.stop.set()


class FileLeak(LeakyTts):
    def leak(self) -> None:
        self.files = [*getattr(self, "files", ()), open(os.devnull, "rb")]  # noqa: SIM115 - that is what it does wrong

    async def close(self) -> None:
        for file in getattr(self, "files", ()):
            file.close()


class SlowToClose(Tts):
    async def close(self) -> None:
        await asyncio.sleep(0.5)


class ClosesOnce(Tts):
    async def warm_up(self) -> None:
        self.voice = "anna"

    async def close(self) -> None:
        del self.voice


class KeepsThread(Tts):
    async def warm_up(self) -> None:
        threading.Thread(target=time.sleep, args=(30,), name="acme", daemon=True).start()


class BlocksWarmingUp(Tts):
    async def warm_up(self) -> None:
        time.sleep(0.15)  # noqa: ASYNC251 - that is what it does wrong


class FailsWarmingUp(Tts):
    async def warm_up(self) -> None:
        raise FileNotFoundError("voice.onnx")


class SlowToMake(Tts):
    def __init__(self, context: ProviderContext) -> None:
        super().__init__(context)
        time.sleep(0.05)


# --- settings --------------------------------------------------------------------------------------------------


class NoDefault(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    model: str


class TakesAnything(msgspec.Struct):
    speed: float = 1.0


class PlainSecret(msgspec.Struct, forbid_unknown_fields=True):
    api_key: str | None = None


class UpperCase(msgspec.Struct, forbid_unknown_fields=True):
    Speed: float = 1.0


class Misfit(msgspec.Struct, forbid_unknown_fields=True):
    port: int = "eighty"  # type: ignore[assignment]


# --- STT ------------------------------------------------------------------------------------------------------


def loud_ms(pcm: bytes) -> float:
    """How much of it is loud."""
    samples = np.frombuffer(pcm[: len(pcm) // 2 * 2], "<i2").astype(np.float32)
    blocks = samples[: len(samples) // 160 * 160].reshape(-1, 160)
    return 10.0 * float((np.abs(blocks).mean(axis=1) > 1000).sum()) if len(blocks) else 0.0


def transcript(pcm: bytes) -> str:
    """A word for each 200 ms of loud sound."""
    return " ".join(["la"] * round(loud_ms(pcm) / WORD_MS))


class SttStream:
    def __init__(self, on_partial: Callable[[str], None]) -> None:
        self.on_partial = on_partial
        self.pcm = bytearray()
        self.closed = False
        self.told = 0

    def feed(self, pcm: bytes) -> None:
        self.pcm += pcm
        if not self.closed and len(self.pcm) - self.told >= 3_200:
            self.told = len(self.pcm)
            self.tell(self.text())

    def tell(self, text: str) -> None:
        if text:
            asyncio.get_running_loop().call_soon(self.say, text)

    def say(self, text: str) -> None:
        if not self.closed:
            self.on_partial(text)

    def text(self) -> str:
        return transcript(bytes(self.pcm[: 30 * 32_000]))

    async def flush(self) -> str:
        await asyncio.sleep(0.002)
        return self.text()

    def reset(self) -> None:
        self.pcm.clear()
        self.told = 0

    async def close(self) -> None:
        self.closed = True


class Stt(Base):
    stream: type[SttStream] = SttStream

    def open(self, *, language: str, on_partial: Callable[[str], None]) -> SttStream:
        return self.stream(on_partial)


def hearing(stream: type[SttStream], **other: Any) -> Plugin:
    return offering("stt", type("BrokenStt", (Stt,), {"stream": stream, "__module__": __name__}), **other)


class DeafStream(SttStream):
    def text(self) -> str:
        return " ".join("lo" for _ in super().text().split())


class DreamingStream(SttStream):
    def text(self) -> str:
        return super().text() or "thank you"

    def reset(self) -> None:
        super().reset()
        # Of nothing at all it makes nothing.
        self.pcm.clear()

    async def flush(self) -> str:
        return (await super().flush()) if self.pcm else ""


class WholeSamplesStream(SttStream):
    """Drops half samples, so that what follows is shifted by a byte."""

    def feed(self, pcm: bytes) -> None:
        super().feed(b"\x00" * len(pcm) if len(pcm) % 2 else pcm)


class SlowStream(SttStream):
    def feed(self, pcm: bytes) -> None:
        super().feed(pcm)
        time.sleep(0.004)


class ForgetfulStream(SttStream):
    async def flush(self) -> str:
        text = await super().flush()
        if self.pcm:
            self.last = text
        self.pcm.clear()
        return text


class DisturbedStream(SttStream):
    """Gives up a request when something new comes."""

    async def flush(self) -> str:
        known = len(self.pcm)
        await asyncio.sleep(0.05)
        return self.text() if len(self.pcm) == known else ""


class RememberingStream(SttStream):
    def reset(self) -> None:
        self.told = 0


_thread = ThreadPoolExecutor(1, thread_name_prefix="recogniser")


class ThreadedStream(SttStream):
    def tell(self, text: str) -> None:
        if text:
            # Not waited for: `feed` must be quick.
            _thread.submit(self.say, text)


class TalkativeStream(SttStream):
    def say(self, text: str) -> None:
        self.on_partial(text)

    async def close(self) -> None:
        await super().close()
        if self.pcm:
            asyncio.get_running_loop().call_later(0.05, self.say, "la")


class SilentStream(SttStream):
    def say(self, text: str) -> None:
        pass


# --- LLM ------------------------------------------------------------------------------------------------------


class Llm(Base):
    async def stream(self, request: LlmRequest) -> AsyncGenerator[Any, None]:
        await asyncio.sleep(0.002)
        asked = request.messages[-1].content if request.messages else ""
        if request.tools and "weather" in asked:
            yield self.call()
            return
        for piece in self.answer(asked):
            yield piece
            await asyncio.sleep(0.001)

    def answer(self, asked: str) -> Iterable[Any]:
        return (f"{word} " for word in f"You said: {asked}".split())

    def call(self) -> ToolCall:
        return ToolCall("call_1", "get_weather", '{"city": "Paris"}')


class EmptyPieces(Llm):
    def answer(self, asked: str) -> Iterable[Any]:
        return ["", *super().answer(asked)]


class BytesLlm(Llm):
    def answer(self, asked: str) -> Iterable[Any]:
        return (piece.encode("utf-8", "replace") for piece in super().answer(asked))


class AtOnce(Llm):
    def answer(self, asked: str) -> Iterable[Any]:
        return ["".join(super().answer(asked))]


class HalfCall(Llm):
    def call(self) -> ToolCall:
        return ToolCall("call_1", "get_weather", '{"city": "Par')


class NoId(Llm):
    def call(self) -> ToolCall:
        return ToolCall("", "get_weather", "{}")


class GoesOn(Llm):
    """One model, which goes on with an answer when nobody listens any more."""

    def __init__(self, context: ProviderContext) -> None:
        super().__init__(context)
        self.busy_until = 0.0

    async def stream(self, request: LlmRequest) -> AsyncGenerator[Any, None]:
        loop = asyncio.get_running_loop()
        long = request.max_tokens >= 200 and not request.tools
        await asyncio.sleep(self.busy_until - loop.time())
        done = False
        try:
            async for piece in super().stream(request):
                yield piece
            done = True
        finally:
            if long and not done:
                self.busy_until = loop.time() + 0.9


class RaisingPrefill(Llm):
    async def prefill(self, request: LlmRequest) -> None:
        raise ConnectionError("no server")


# --- VAD ------------------------------------------------------------------------------------------------------


class Detector:
    frame_samples = 320

    def __init__(self) -> None:
        self.level = 0.0

    def process(self, frame: bytes) -> float:
        loud = float(np.abs(np.frombuffer(frame, "<i2").astype(np.float32)).mean()) if frame else 0.0
        self.level = 0.5 * self.level + 0.5 * min(1.0, loud / 2000)
        return self.level

    def reset(self) -> None:
        self.level = 0.0


class Vad(Base):
    advice = VadAdvice()
    detector: type[Detector] = Detector

    def open(self) -> Detector:
        return self.detector()


def detecting(detector: type[Detector], **other: Any) -> Plugin:
    return offering("vad", type("BrokenVad", (Vad,), {"detector": detector, "__module__": __name__, **other}))


class TinyFrames(Detector):
    frame_samples = 40


class Percent(Detector):
    def process(self, frame: bytes) -> float:
        return 100 * super().process(frame)


class NumpyFloat(Detector):
    def process(self, frame: bytes) -> Any:
        return np.float32(super().process(frame))


class SlowDetector(Detector):
    def process(self, frame: bytes) -> float:
        time.sleep(0.002)
        return super().process(frame)


class Restless(Detector):
    def process(self, frame: bytes) -> float:
        return 0.4 + 0.6 * super().process(frame)


class Deaf(Detector):
    def process(self, frame: bytes) -> float:
        return 0.1 * super().process(frame)


class NeverResets(Detector):
    def reset(self) -> None:
        pass


class Shared(Detector):
    """All streams have one state, which a new one sets back."""

    state: dict[str, float] = {}  # noqa: RUF012 - that is what it does wrong

    def __init__(self) -> None:
        self.reset()

    @property
    def level(self) -> float:
        return self.state["level"]

    @level.setter
    def level(self, value: float) -> None:
        self.state["level"] = value


# --- turn and interruption --------------------------------------------------------------------------------------


class Turn(Base):
    wants_text = True

    async def judge(self, turn: TurnSoFar) -> float | None:
        await asyncio.sleep(0.002)
        return self.opinion(turn)

    def opinion(self, turn: TurnSoFar) -> float | None:
        return 0.9 if turn.text.endswith(("?", ".")) else None


class Overconfident(Turn):
    def opinion(self, turn: TurnSoFar) -> float | None:
        return 90.0


class SecondThoughts(Turn):
    """Asked for the same twice in a row, it changes its mind."""

    last = ""

    def opinion(self, turn: TurnSoFar) -> float | None:
        again, self.last = turn.text == self.last, turn.text
        return 0.1 if again else super().opinion(turn)


class TardyTurn(Turn):
    async def judge(self, turn: TurnSoFar) -> float | None:
        await asyncio.sleep(0.15)
        return self.opinion(turn)


class Interruption(Base):
    def judge(self, overlap: Overlap) -> Judgement | None:
        if (overlap.text or "").lower().startswith("stop"):
            return Judgement(True, "stop_word")
        return None


class Shouting(Interruption):
    def judge(self, overlap: Overlap) -> Judgement | None:
        return Judgement(True, "Stop word!") if overlap.text else None


class AsyncJudge(Interruption):
    def judge(self, overlap: Overlap) -> Any:
        return {"stop": True}


class SlowJudge(Interruption):
    def judge(self, overlap: Overlap) -> Judgement | None:
        time.sleep(0.006)
        return super().judge(overlap)


class Fickle(Interruption):
    last: Overlap | None = None

    def judge(self, overlap: Overlap) -> Judgement | None:
        again, self.last = overlap == self.last, overlap
        return Judgement(True, "impatient") if again else None


# --- tools ------------------------------------------------------------------------------------------------------


async def shout(arguments: dict[str, Any], context: ToolContext) -> str:
    await asyncio.sleep(0.002)
    if not isinstance(text := arguments.get("text"), str):
        raise ToolError('Give "text", a string.')
    return text.upper()


PARAMETERS = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
    "additionalProperties": False,
}
SHOUT = Tool("shout", "Says it loudly.", shout, PARAMETERS, settings=Settings)


def tool(run: Any = shout, **other: Any) -> Plugin:
    return Plugin(replace(SHOUT, run=run, **other))


async def careless(arguments: dict[str, Any], context: ToolContext) -> str:
    return str(arguments["text"].upper())


async def as_dict(arguments: dict[str, Any], context: ToolContext) -> Any:
    return {"text": await shout(arguments, context)}


async def blocking(arguments: dict[str, Any], context: ToolContext) -> str:
    block()
    return await shout(arguments, context)


async def lingering(arguments: dict[str, Any], context: ToolContext) -> str:
    try:
        await asyncio.sleep(0.01)
        return await shout(arguments, context)
    finally:
        await asyncio.sleep(0.1)


async def leaking(arguments: dict[str, Any], context: ToolContext) -> str:
    background.add(asyncio.ensure_future(forever()))
    return await shout(arguments, context)


background: set[Any] = set()
busy: set[str] = set()


async def one_at_a_time(arguments: dict[str, Any], context: ToolContext) -> str:
    if busy:
        raise RuntimeError("busy")
    busy.add("")
    try:
        return await shout(arguments, context)
    finally:
        busy.clear()
