"""What the store gives back: one struct per table, times in Unix ms, spans in microseconds."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from rejoinder.events import Event, SessionMetrics

Counts = dict[str, int | dict[str, int]]
"""What happened in a session: the fields of `session.metrics`."""


class RoomRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A place made ahead of a conversation; `session_id` is the id of the session that starts when somebody joins."""

    id: str
    agent: str
    created_at: int
    expires_at: int
    session_id: str


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One conversation; rates are Hz, `ended_at` is None while it lasts (or where its process died).

    `agent_version` is None for an agent of the settings. `channel` is how its first client came (`websocket`, `sse`,
    `rest`, `chat`), `client` what that called itself (User-Agent); None: nobody knows. `metrics` is what happened in
    it, known once it has ended; the fields of `session.metrics`.
    """

    id: str
    room_id: str | None
    agent: str
    agent_version: int | None
    started_at: int
    ended_at: int | None
    end_reason: str | None
    input_rate: int
    output_rate: int
    metrics: Counts | None
    channel: str | None = None
    client: str | None = None


class SpanRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One contiguous piece of a turn's latency."""

    name: str
    us: int
    hidden: bool


class ToolCallRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One tool call; `status` is None while it runs. `arguments` is JSON text as the model wrote it."""

    id: str
    reply_id: str
    turn_id: str | None
    name: str
    arguments: str
    status: str | None
    result: str | None
    called_at: int
    returned_at: int | None


class TurnRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One turn: what was said, what was answered, what of it was heard, and how long it took.

    `number` counts from 1 within the session; `user_text` is None where the agent spoke first. `spans` sum to
    `response_us`; both are missing until the first audio of the reply was played.
    """

    id: str
    session_id: str
    number: int
    user_text: str | None
    committed_at: int
    reply_id: str | None
    reply_text: str | None
    heard_text: str | None
    reply_reason: str | None
    played_ms: int | None
    estimated: bool | None
    response_us: int | None
    jitter_us: int | None
    speculated: bool | None
    saved_us: int | None
    discarded: int | None
    providers: dict[str, str] | None
    hooks: dict[str, int] | None
    """Microseconds by plugin."""
    spans: list[SpanRecord]
    tool_calls: list[ToolCallRecord]


class InterruptionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The user spoke over the agent, which stopped (`accepted`) or went on; `seq` is the number of the event.

    Where it went on, there need not be a turn called `turn_id`.
    """

    session_id: str
    seq: int
    turn_id: str
    reply_id: str
    accepted: bool
    cause: str
    speech_ms: int
    text: str
    at: int


class LlmSent(NamedTuple):
    """What an LLM was sent; `messages` and `tools` are JSON text, `provider` who answered ("": nobody did)."""

    at: int
    provider: str
    messages: str
    tools: str
    max_tokens: int
    temperature: float


class LlmRequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What an LLM was sent for a reply, exactly; `position` counts its rounds from 0, `provider` is who answered.

    `messages` and `tools` are JSON as it was stored. Where plugins hide what is stored, they are as those left them.
    """

    reply_id: str
    turn_id: str | None
    position: int
    at: int
    provider: str
    messages: msgspec.Raw
    tools: msgspec.Raw
    max_tokens: int
    temperature: float


class MessageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the conversation as both sides know it: what the user said, what they heard of the answer."""

    id: int
    session_id: str
    turn_id: str | None
    role: str
    content: str
    at: int
    seq: int


class EventRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One event as it was published; `data` is its JSON text (`events.decode_event` reads it)."""

    session_id: str
    seq: int
    at: int
    type: str
    data: str


def counts_of(event: SessionMetrics) -> Counts:
    """What `event` counts, zeros included."""
    return {name: getattr(event, name) for name in event.__struct_fields__ if name not in Event.__struct_fields__}
