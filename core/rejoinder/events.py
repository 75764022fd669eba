"""Every event, once: what a server says and what a client may say, as tagged msgspec structs.

The same structs travel on the bus, over WebSocket text frames, in the SQL event log and to observers. Durations
are milliseconds, audio rates are Hz. The `type` field is the tag.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from rejoinder.errors import ProtocolError, RejoinderError


class Event(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="type", gc=False):
    """What every server event carries; the bus stamps these three when it publishes.

    `seq` counts from 1 within a session; `at` is Unix time in ms.
    """

    seq: int = 0
    at: int = 0
    session_id: str = ""


class SessionStarted(Event, tag="session.started"):
    """The session is ready: audio may be sent at `input_rate` and comes at `output_rate` (PCM16 mono, Hz).

    `agent_version` is 0 for an agent of the settings. `resume_token` lets this connection come back after it was lost;
    `resumed` says that it did. `recorded`: what is said is kept as sound, and whoever speaks should know. `operator`:
    who speaks instead of the agent, where somebody has taken over before this client came.
    """

    agent: str
    input_rate: int
    output_rate: int
    agent_version: int = 0
    resume_token: str = ""
    resumed: bool = False
    recorded: bool = False
    operator: str = ""


class AgentChanged(Event, tag="agent.changed"):
    """From now on `agent` answers, to whom the agent called `former` has transferred the conversation.

    `recorded`: from now on the sound is kept (or, if not, no longer).
    """

    agent: str
    former: str
    agent_version: int = 0
    recorded: bool = False


class OperatorTookOver(Event, tag="operator.took_over"):
    """A person, called `operator`, speaks instead of the agent until `operator.handed_back`."""

    operator: str


class OperatorHandedBack(Event, tag="operator.handed_back"):
    """The agent answers again. `reason` is `handed_back`, or `lost` where the operator was not heard of any more."""

    operator: str
    reason: Literal["handed_back", "lost"]


class SessionEnded(Event, tag="session.ended"):
    """The last event of a session."""

    reason: str


class SpeechStarted(Event, tag="user.speech_started"):
    """The user speaks (said again when they go on after a pause)."""

    turn_id: str


class SpeechPaused(Event, tag="user.speech_paused"):
    """The user fell silent; the turn may or may not be over."""

    turn_id: str


class SpeechStopped(Event, tag="user.speech_stopped"):
    """The user's turn is over: `silence_ms` after their last speech."""

    turn_id: str
    silence_ms: int


class Interruption(Event, tag="user.interruption"):
    """The user spoke over the agent for `speech_ms`: `accepted` stopped `reply_id`, else it goes on.

    `cause` says why: `stop_word`, `words`, `no_transcript`, `backchannel`, `echo`, `noise`, `gave_up` ...
    """

    turn_id: str
    reply_id: str
    accepted: bool
    cause: str
    speech_ms: int
    text: str = ""


class Transcript(Event, tag="user.transcript"):
    """What the user said so far (`final=False`) or in the whole utterance (`final=True`)."""

    turn_id: str
    text: str
    final: bool


class TurnCommitted(Event, tag="turn.committed"):
    """The user's turn is part of the conversation; an answer follows, unless an operator has taken over."""

    turn_id: str
    text: str


class ReplyStarted(Event, tag="reply.started"):
    """An answer begins; all following audio belongs to it until `clear_audio` or `reply.finished`."""

    reply_id: str
    turn_id: str


class ReplyText(Event, tag="reply.text"):
    """The next piece of the answer's text."""

    reply_id: str
    delta: str


class ReplyDucked(Event, tag="reply.ducked"):
    """The user may want to interrupt: play `reply_id` quieter until `reply.resumed` or `clear_audio`."""

    reply_id: str


class ReplyResumed(Event, tag="reply.resumed"):
    """It was no interruption: play `reply_id` as loud as before; its audio goes on from `from_ms`.

    After a `clear_audio` it goes on at the word that was cut, so some of it comes again.
    """

    reply_id: str
    from_ms: int


class ToolCalled(Event, tag="tool.called"):
    """The model called a tool; `arguments` is JSON text as the model wrote it."""

    reply_id: str
    call_id: str
    name: str
    arguments: str


class ToolProgress(Event, tag="tool.progress"):
    """How far a tool call is that still runs: what it says, and the `fraction` (0 to 1) if it knows."""

    reply_id: str
    call_id: str
    message: str
    fraction: float | None = None


class ToolReturned(Event, tag="tool.returned"):
    """A tool call ended: `status` says how, `result` is what the model is told."""

    reply_id: str
    call_id: str
    name: str
    status: Literal["ok", "failed", "cancelled"]
    result: str


class ClearAudio(Event, tag="clear_audio"):
    """Stop playing at once and drop what is buffered: the rest of `reply_id` is void unless `reply.resumed` follows."""

    reply_id: str
    played_ms: int


class ReplyFinished(Event, tag="reply.finished"):
    """An answer is over. `text` is what was generated, `heard_text` what the user heard of it.

    `estimated` is true where the client reports no playback and the clock was used instead.
    """

    reply_id: str
    turn_id: str
    reason: Literal["completed", "interrupted", "failed", "ended"]
    text: str
    heard_text: str
    played_ms: int = 0
    estimated: bool = False


class Span(msgspec.Struct, frozen=True, gc=False):
    """One contiguous piece of a turn's latency; `hidden` marks a stage that ran while the turn was undecided."""

    name: str
    us: int
    hidden: bool = False


class TurnMetrics(Event, tag="turn.metrics"):
    """A turn's latency: `spans` are contiguous and sum exactly to `response_us` (microseconds).

    `jitter_us` is the interarrival jitter of outgoing audio (RFC 3550, 6.4.1); `providers` maps kind to name.
    """

    turn_id: str
    reply_id: str
    response_us: int
    spans: list[Span]
    jitter_us: int = 0
    speculated: bool = False
    saved_us: int = 0
    """How much later the answer would have come without speculation."""
    discarded: int = 0
    """Prepared replies to this turn that were thrown away."""
    providers: dict[str, str] = {}
    hooks: dict[str, int] = {}
    """Microseconds that each plugin's hooks took since the turn before."""


class ProviderSwitched(Event, tag="provider.switched"):
    """A provider failed or was late (`cause` is the error's code), so the next one of its chain was asked.

    `kind` is `stt`, `llm` or `tts`; `to` is "" where there was no other.
    """

    kind: str
    provider: str
    to: str
    cause: str


class SessionMetrics(Event, tag="session.metrics"):
    """What happened in the whole session; the last event but one.

    `interruptions` were meant and stopped the agent, `false_interruptions` only ducked it (by cause); `timeouts`
    counts what was waited for in vain, `failures` what failed, each by what (`llm:openai`, `first_output` ...).
    """

    turns: int
    speculations_kept: int = 0
    speculations_discarded: int = 0
    saved_ms: int = 0
    interruptions: int = 0
    false_interruptions: dict[str, int] = {}
    nudges: int = 0
    resumes: int = 0
    timeouts: dict[str, int] = {}
    failures: dict[str, int] = {}


class Pong(Event, tag="pong"):
    """Answer to `ping`, with its `t` (any number the client likes); not numbered and not logged."""

    t: float


class Error(Event, tag="error"):
    """Something went wrong; the session goes on unless `session.ended` follows."""

    code: str
    message: str
    fix: str = ""
    retryable: bool = False

    @classmethod
    def of(cls, error: RejoinderError) -> Error:
        """The event that tells a client of `error`."""
        return cls(code=error.code, message=error.message, fix=error.fix or "", retryable=error.retryable)


ServerEvent = (
    SessionStarted
    | AgentChanged
    | OperatorTookOver
    | OperatorHandedBack
    | SessionEnded
    | SpeechStarted
    | SpeechPaused
    | SpeechStopped
    | Interruption
    | Transcript
    | TurnCommitted
    | ReplyStarted
    | ReplyText
    | ReplyDucked
    | ReplyResumed
    | ToolCalled
    | ToolProgress
    | ToolReturned
    | ClearAudio
    | ReplyFinished
    | TurnMetrics
    | ProviderSwitched
    | SessionMetrics
    | Pong
    | Error
)


class Command(msgspec.Struct, kw_only=True, tag_field="type", forbid_unknown_fields=True, gc=False):
    """Base of what a client may send."""


class Configure(Command, tag="session.configure"):
    """Set up this connection; must come before audio unless the URL already said it.

    Rates are Hz; `output="text"` asks for no audio. `agent` is only read where the connection makes the session.
    """

    agent: str | None = None
    input_rate: int = 16_000
    output_rate: int = 24_000
    output: Literal["audio", "text"] = "audio"
    resume_token: str = ""
    """Of a connection that was lost: its place is taken again."""
    last_seq: int = 0
    """With `resume_token`: the number of the last event that arrived; those after it are sent again."""
    played_ms: float | None = None
    """With `resume_token`: as in `playback`, for the reply that was playing."""


class Text(Command, tag="text"):
    """The user says this in writing."""

    text: str


class Interrupt(Command, tag="interrupt"):
    """Stop the answer now."""


class Playback(Command, tag="playback"):
    """The client has played `played_ms` of the audio of `reply_id` so far."""

    reply_id: str
    played_ms: float


class Dtmf(Command, tag="dtmf"):
    """Keys pressed on a phone: digits, `*`, `#`, A-D."""

    digits: str


class Ping(Command, tag="ping"):
    """Asks for a `pong` with the same `t`."""

    t: float = 0.0


class End(Command, tag="end"):
    """The client ends the session."""

    reason: str = "client_ended"


ClientCommand = Configure | Text | Interrupt | Playback | Dtmf | Ping | End

COMMAND_TYPES = ("session.configure", "text", "interrupt", "playback", "dtmf", "ping", "end")

encode = msgspec.json.Encoder().encode
"""JSON bytes of an event or a command."""

_decode_event: Callable[[bytes | str], ServerEvent] = msgspec.json.Decoder(ServerEvent).decode
_decode_command: Callable[[bytes | str], ClientCommand] = msgspec.json.Decoder(ClientCommand).decode
_MAX_QUOTED = 200


def encodable(text: str) -> str:
    """`text` with a replacement character for each lone surrogate, which UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode()


def decode_event(data: bytes | str) -> ServerEvent:
    """The event in `data` (JSON)."""
    return _decode_event(data)


def decode_command(data: bytes | str) -> ClientCommand:
    """The command in `data` (JSON).

    Raises:
        ProtocolError: not JSON (`bad_json`), an unknown `type` (`unknown_event`) or wrong fields (`bad_message`).
    """
    try:
        return _decode_command(data)
    except msgspec.ValidationError as error:
        problem = error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise _not_json(data, error) from None
    try:
        # A validation error may come before a syntax error further on, so only now it is known to be JSON.
        message = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _not_json(data, error) from None
    raise _explain(message, problem)


def _not_json(data: bytes | str, error: Exception) -> ProtocolError:
    shown = data[:_MAX_QUOTED] if isinstance(data, str) else data[:_MAX_QUOTED].decode(errors="replace")
    return ProtocolError(
        f"Text frames must be one JSON object each; this is not JSON ({error}): {shown!r}.",
        code="bad_json",
        fix='Send e.g. {"type": "text", "text": "hello"}; audio goes in binary frames.',
    )


def _explain(message: Any, error: msgspec.ValidationError) -> ProtocolError:
    if not isinstance(message, dict) or "type" not in message:
        return ProtocolError(
            'A message must be a JSON object with a field "type".', fix=f"Known types: {', '.join(COMMAND_TYPES)}."
        )
    if message["type"] not in COMMAND_TYPES:
        return ProtocolError(
            f"Unknown event type {str(message['type'])[:_MAX_QUOTED]!r}.",
            code="unknown_event",
            fix=f"Known types: {', '.join(COMMAND_TYPES)}.",
        )
    return ProtocolError(
        f"The fields of {message['type']!r} are wrong: {error}.", fix="See docs/reference/protocol.md for its fields."
    )
