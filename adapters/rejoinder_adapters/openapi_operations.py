"""What the OpenAPI document says of each operation beyond its code: refusals, examples, headers, media types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rejoinder_adapters import openapi_examples as examples

Json = dict[str, Any]

TAGS: dict[str, tuple[str, str]] = {
    "/v1/agents": ("Agents", "Who answers: instructions, providers, tools, manners; in versions."),
    "/v1/agent_schema": ("Agents", "Who answers: instructions, providers, tools, manners; in versions."),
    "/v1/documents": ("Documents", "What agents may look up."),
    "/v1/rooms": ("Rooms", "Places to meet an agent, and tokens that let people in."),
    "/talk/room": ("Rooms", "Places to meet an agent, and tokens that let people in."),
    "/v1/tickets": ("Rooms", "Places to meet an agent, and tokens that let people in."),
    "/v1/sessions": ("Sessions", "Conversations: read back, followed live, written to, steered."),
    "/v1/live": ("Live", "What goes on in this process now."),
    "/v1/stream": ("Live", "What goes on in this process now."),
    "/v1/latency": ("Figures", "How it went, over many sessions."),
    "/v1/overview": ("Figures", "How it went, over many sessions."),
    "/v1/transcripts": ("Figures", "How it went, over many sessions."),
    "/v1/chat": ("Sessions", "Conversations: read back, followed live, written to, steered."),
    "/v1/keys": ("Keys", "API keys."),
    "/v1/users": ("Accounts", "People who may log in, and what was done."),
    "/v1/audit": ("Accounts", "People who may log in, and what was done."),
    "/v1/webhooks": ("Webhooks", "Events that are sent to addresses of yours."),
    "/v1/nodes": ("Server", "What runs here, and how it is."),
    "/v1/settings": ("Server", "What runs here, and how it is."),
    "/v1/plugin_settings": ("Server", "What runs here, and how it is."),
    "/v1/plugins": ("Server", "What runs here, and how it is."),
    "/livez": ("Server", "What runs here, and how it is."),
    "/readyz": ("Server", "What runs here, and how it is."),
    "/version": ("Server", "What runs here, and how it is."),
    "/metrics": ("Server", "What runs here, and how it is."),
    "/v1/models": ("OpenAI", "Endpoints that clients of OpenAI's API can use; models are agents."),
    "/v1/chat/completions": ("OpenAI", "Endpoints that clients of OpenAI's API can use; models are agents."),
    "/v1/audio": ("OpenAI", "Endpoints that clients of OpenAI's API can use; models are agents."),
}
"""Under which heading a path comes, and what that is about."""


class Operation(NamedTuple):
    """`errors` are codes beyond those that all operations have; `request` and `answer` are examples of JSON bodies.

    `responses` come instead of (or beside) those that Litestar knows, `parameters` too; `body` where it knows of none.
    """

    errors: tuple[str, ...] = ()
    request: Any = None
    answer: Any = None
    responses: Mapping[str, Json] = {}
    parameters: tuple[Json, ...] = ()
    body: Json | None = None


def _parameter(name: str, where: str, description: str, schema: Json, **more: Any) -> Json:
    return {"name": name, "in": where, "description": description, "schema": schema, "required": False, **more}


def _json(schema: Json, example: Any, description: str = "Here it is.") -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema, "example": example}}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _list_of(name: str, example: Any) -> Json:
    return _json({"type": "array", "items": _ref(name)}, example)


PARAMETERS: dict[str, Json] = {
    "session_id": {"description": "The session's id.", "example": examples.SESSION},
    "room_id": {"description": "The room's id.", "example": examples.ROOM},
    "key_id": {"description": "The key's id (not the key).", "example": examples.KEY},
    "user_id": {"description": "The account's id.", "example": examples.USER},
    "actor": {"description": "Only what this user or API key did: its id."},
    "action": {"description": "Only this, as `key.create`."},
    "subject": {"description": "Only what was done to this: the id of a session, a user, a key, or an agent's name."},
    "document_id": {"description": "The document's id.", "example": examples.DOCUMENT},
    "webhook_id": {"description": "The webhook's id.", "example": examples.WEBHOOK},
    "delivery_id": {"description": "The message's id.", "example": examples.DELIVERY},
    "name": {"description": "The agent's name.", "example": "reception"},
    "model": {"description": "An agent's name, or that of a TTS or STT provider.", "example": "guide"},
    "version": {"description": "A version's number; without it the newest."},
    "download": {"description": "True: to be saved as a file (`Content-Disposition`)."},
    "limit": {"description": "How many there are on a page, at most."},
    "before": {"description": "The `next_cursor` of the page before; without it the newest come."},
    "collection": {"description": "Only of this collection."},
    "agent": {"description": "Only with this agent."},
    "end_reason": {"description": "Only those that ended so."},
    "live": {"description": "Only those that go on (true), or are over (false)."},
    "since": {"description": "Only those that started at this time or later, in Unix ms."},
    "until": {"description": "Only those that started before this time, in Unix ms."},
    "agent_version": {"description": "Only with this version of the agent."},
    "channel": {"description": "Only those whose first client came so: `websocket`, `sse`, `rest`, `chat`."},
    "bad": {
        "description": "True: only those that went badly: they ended in an error, a reply failed, an error was told, a "
        "turn took over 1.5 s, or the user interrupted three times."
    },
    "min_ms": {"description": "Only those with a turn that took at least so long."},
    "provider": {"description": "Only where this one answered, by kind and name: `llm:guide`."},
    "sort": {"description": "In which order: the newest first, the slowest turn first, or the most turns."},
    "facets": {"description": "True: count what values there are, too."},
    "group": {"description": "By what turns are counted apart, too: the agent, a provider, or the agent's version."},
    "q": {"description": "The words: at least two characters, as they stand there, in any case."},
    "reply_id": {"description": "Only for this reply."},
    "topics": {
        "description": "What to hear of: `live`, `overview` and `session:ID`, with commas between them.",
        "example": "live,overview",
    },
    "observe": {
        "description": "True: the reader only watches. Otherwise one who may talk takes part: a room's session begins, "
        "and goes on while the stream is read."
    },
}
"""Parameters by name."""

IDEMPOTENCY_KEY = _parameter(
    "Idempotency-Key",
    "header",
    "The same request with the same key is done once, and answered each time, for a day.",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
)
_ETAG = {"ETag": {"$ref": "#/components/headers/ETag"}}
_CONDITIONS = (
    _parameter(
        "If-Match",
        "header",
        "Only if the agent has this version: the ETag that GET gave.",
        {"type": "string", "pattern": '^(W/)?"[0-9]{1,9}"$'},
    ),
    _parameter(
        "If-None-Match", "header", "`*`: only if there is no such agent yet.", {"type": "string", "enum": ["*"]}
    ),
)
_SESSION_ERRORS = ("unknown_session", "session_not_started", "room_expired", "draft_gone")
_RECORDING_ERRORS = ("no_recording", "recording_unfinished", "recording_deleted")
_LIVE_ERRORS = (*_SESSION_ERRORS, "session_over", "too_fast", "bad_message")
_START_ERRORS = (
    "full",
    "draining",
    "unknown_agent",
    "missing_dependency",
    "missing_model",
    "provider_failed",
    "bad_config",
)
_TEXT_ERRORS = ("empty_text", "text_too_long")
_STREAM = {"text/event-stream": {"schema": _ref("EventStream"), "example": examples.STREAM}}
_URL_ERRORS = ("bad_url", "unknown_host", "address_refused", "unknown_event")
_PLAIN = {"schema": {"type": "string"}}
_EVENTS: Json = {"schema": {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}}
_AUDIO = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
_WAV = {"schema": {"type": "string", "contentMediaType": "audio/wav"}, "example": "RIFF..."}
_UPLOAD: Json = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {"type": "string", "contentMediaType": "audio/wav", "description": "The recording."},
                    "model": {"type": "string", "description": "An agent or an STT provider."},
                    "language": {"type": "string", "description": "ISO 639-1; without it the agent's."},
                    "response_format": {"type": "string", "enum": ["json", "text", "verbose_json", "srt", "vtt"]},
                    "stream": {"type": "boolean"},
                },
            },
            "example": {"file": "...", "model": "guide"},
        }
    },
}
_OBJECT: Json = {"type": "object"}

_RANGE = (
    {"name": "since", "description": "From this time on, in Unix ms; without it 24 hours (a search: all) before."},
    {"name": "until", "description": "Before this time, in Unix ms; without it up to now."},
)

OPERATIONS: dict[str, Operation] = {
    "list_agents": Operation(answer={"items": [examples.AGENT]}),
    "get_agent_schema": Operation(answer=examples.AGENT_SCHEMA),
    "get_agent": Operation(
        ("404 unknown_agent", "invalid_agent"),
        responses={"200": {**_json(_ref("AgentView"), examples.AGENT), "headers": _ETAG}},
    ),
    "list_agent_versions": Operation(
        ("404 unknown_agent", "invalid_agent"), answer={"items": [examples.AGENT_VERSION]}
    ),
    "put_agent": Operation(
        ("bad_agent_name", "invalid_agent", "agent_fixed", "version_mismatch", "bad_message"),
        request=examples.DEFINITION,
        responses={
            "200": {**_json(_ref("AgentView"), examples.AGENT, "It has a new version."), "headers": _ETAG},
            "201": {**_json(_ref("AgentView"), examples.AGENT, "It was made."), "headers": _ETAG},
        },
        parameters=_CONDITIONS,
    ),
    "delete_agent": Operation(
        ("404 unknown_agent", "invalid_agent", "agent_fixed", "version_mismatch", "bad_message"), parameters=_CONDITIONS
    ),
    "list_documents": Operation(answer={"items": [examples.STORED_DOCUMENT], "next_cursor": None}),
    "add_document": Operation(
        ("bad_document",),
        request={"title": "Opening hours", "text": "We are open from nine to five.", "collection": "shop"},
        answer=examples.STORED_DOCUMENT,
    ),
    "get_document": Operation(("unknown_document",), answer=examples.STORED_DOCUMENT),
    "remove_document": Operation(("unknown_document",)),
    "search_documents": Operation(
        ("bad_document",),
        request={"query": "When do you open?", "collections": ["shop"], "limit": 3},
        answer={"items": [examples.FOUND]},
    ),
    "create_room": Operation(
        ("unknown_agent", "invalid_agent", "draining"),
        request={"agent": "guide", "identity": "ada"},
        answer={**examples.A_ROOM, "join": examples.JOIN},
    ),
    "create_talk_room": Operation(
        ("talk_closed", "too_many_rooms", "unauthorized", "forbidden", "csrf", "unknown_agent", "invalid_agent"),
        request={"agent": "guide"},
        answer={**examples.A_ROOM, "join": examples.JOIN},
    ),
    "list_rooms": Operation(answer={"items": [examples.A_ROOM], "next_cursor": None}),
    "get_room": Operation(("unknown_room",), answer=examples.A_ROOM),
    "create_room_token": Operation(
        ("unknown_room", "session_over", "room_expired"),
        request={"role": "listener", "ttl_s": 600},
        answer=examples.JOIN,
    ),
    "renew_token": Operation(
        ("session_over", "room_expired"),
        answer={"token": examples.JOIN["token"], "expires_at": examples.JOIN["expires_at"]},
    ),
    "create_ticket": Operation(
        ("too_many_tickets", "forbidden"),
        answer={"ticket": "Zq3v0x1K9mJrT5yWb7uPcQ8hLsNdFgAe", "expires_at": examples.AT + 30_000},
    ),
    "list_sessions": Operation(
        ("bad_cursor", "bad_provider", "query_too_slow"),
        answer={"items": [examples.A_SESSION], "next_cursor": None, "facets": examples.FACETS},
    ),
    "get_latency": Operation(
        ("bad_range", "bad_provider", "query_too_slow"), answer=examples.LATENCY, parameters=_RANGE
    ),
    "get_overview": Operation(("bad_range", "query_too_slow"), answer=examples.OVERVIEW, parameters=_RANGE),
    "search_transcripts": Operation(
        ("bad_cursor", "query_too_slow"), answer={"items": [examples.SAID], "next_cursor": None}, parameters=_RANGE
    ),
    "list_llm_requests": Operation((*_SESSION_ERRORS, "query_too_slow"), answer=[examples.LLM_REQUEST]),
    "get_session": Operation(
        _SESSION_ERRORS,
        answer={
            "session": examples.A_SESSION,
            "live": False,
            "turns": [examples.TURN],
            "messages": examples.MESSAGES,
            "interruptions": [],
            "recording": examples.RECORDING,
        },
    ),
    "get_recording": Operation(
        (*_SESSION_ERRORS, *_RECORDING_ERRORS, "bad_byte_range"),
        responses={
            "200": {"description": "All of it.", "content": {"audio/wav": _WAV}, "headers": _ETAG},
            "206": {
                "description": "The part that `Range` asks for.",
                "content": {"audio/wav": _WAV},
                "headers": {**_ETAG, "Content-Range": {"description": "Which part.", "schema": {"type": "string"}}},
            },
            "304": {"description": "Nothing has changed since `If-None-Match`.", "headers": _ETAG},
        },
        parameters=(
            _parameter("Range", "header", "Which bytes: `bytes=0-65535`.", {"type": "string"}),
            _parameter(
                "If-Range", "header", "An ETag: `Range` counts only if this is still the file.", {"type": "string"}
            ),
        ),
    ),
    "get_recording_peaks": Operation((*_SESSION_ERRORS, *_RECORDING_ERRORS), answer=examples.PEAKS),
    "delete_recording": Operation((*_SESSION_ERRORS, *_RECORDING_ERRORS, "prove_password")),
    "delete_session": Operation((*_SESSION_ERRORS, "session_live", "prove_password")),
    "list_turns": Operation(_SESSION_ERRORS, answer=[examples.TURN]),
    "get_transcript": Operation(
        _SESSION_ERRORS,
        responses={
            "200": {
                "description": "As JSON, or line by line if text/plain is asked for.",
                "content": {
                    **_list_of("MessageRecord", examples.MESSAGES)["content"],
                    "text/plain": {**_PLAIN, "example": "user: what time is it\nagent: It is noon.\n"},
                },
            }
        },
    ),
    "get_events": Operation(
        (*_SESSION_ERRORS, *_START_ERRORS, "bad_event_id"),
        responses={
            "200": {
                "description": "A stream that ends with the session, or (JSON asked for) a page.",
                "content": {
                    **_STREAM,
                    "application/json": {"schema": _ref("EventPage"), "example": examples.EVENT_PAGE},
                },
            },
            "204": {"description": "The session is over, and the reader has all of it: do not come back."},
        },
        parameters=(
            _parameter(
                "after",
                "query",
                "Only events after this number; `Last-Event-ID` comes first.",
                {"type": "string", "pattern": "^[0-9]{1,15}$"},
            ),
            _parameter(
                "Last-Event-ID",
                "header",
                "The number of the last event that arrived.",
                {"type": "string", "pattern": "^[0-9]{1,15}$"},
            ),
        ),
    ),
    "list_live": Operation(answer={"items": [examples.A_LIVE_SESSION]}),
    "get_stream": Operation(
        ("bad_topics",),
        responses={
            "200": {
                "description": "A stream without an end. Each message has its `topic`: `live` (what has changed on the "
                "board, at most four times a second; `reset`: `changed` is all there is), `overview` (each second), "
                "or `session:ID` with an `event`, with `lagging` (fetch the log) or `over` (it is not live).",
                "content": {"text/event-stream": {**_EVENTS, "example": examples.LIVE_STREAM}},
            },
        },
        parameters=(
            _parameter(
                "after", "query", "As `Last-Event-ID`, which comes first.", {"type": "string", "maxLength": 100}
            ),
            _parameter(
                "Last-Event-ID",
                "header",
                "The id of the last message that arrived: only what has changed since is sent, if that is known.",
                {"type": "string", "maxLength": 100},
            ),
        ),
    ),
    "send_message": Operation(
        (*_LIVE_ERRORS, *_START_ERRORS, *_TEXT_ERRORS), request={"text": "What time is it?"}, answer=examples.ACCEPTED
    ),
    "say": Operation(
        (*_LIVE_ERRORS, *_TEXT_ERRORS, "taken_over"), request={"text": "Your taxi is here."}, answer=examples.ACCEPTED
    ),
    "whisper": Operation(
        (*_LIVE_ERRORS, *_TEXT_ERRORS),
        request={"text": "The taxi is ten minutes late; offer a voucher."},
        answer={"session_id": examples.SESSION},
    ),
    "take_over": Operation((*_LIVE_ERRORS, "taken_over"), request={"force": False}, answer=examples.TAKEOVER),
    "hand_back": Operation((*_LIVE_ERRORS, "taken_over")),
    "interrupt_session": Operation(_LIVE_ERRORS),
    "end_session": Operation(_LIVE_ERRORS, request={"reason": "done"}),
    "chat": Operation(
        (*_LIVE_ERRORS, *_START_ERRORS, *_TEXT_ERRORS),
        request={"text": "What time is it?", "agent": "guide"},
        responses={
            "200": {
                "description": "The events of the turn as a stream, or (JSON asked for) the answer as a whole.",
                "content": {
                    **_STREAM,
                    "application/json": {"schema": _ref("ChatAnswer"), "example": examples.CHAT_ANSWER},
                },
            }
        },
    ),
    "list_keys": Operation(answer={"items": [examples.A_KEY]}),
    "create_key": Operation(
        ("unknown_scope", "prove_password"),
        request={"name": "website", "scopes": ["talk"], "ttl_s": 7_776_000},
        answer=examples.MADE_KEY,
    ),
    "rotate_key": Operation(("unknown_key", "prove_password"), request={"overlap_s": 3600}, answer=examples.MADE_KEY),
    "revoke_key": Operation(("unknown_key", "prove_password")),
    "list_users": Operation(answer={"items": [examples.A_USER]}),
    "create_user": Operation(
        ("bad_user_name", "user_exists", "prove_password"),
        request={"name": "ada", "role": "operator"},
        answer=examples.MADE_USER,
    ),
    "change_user": Operation(
        ("unknown_user", "last_admin", "prove_password"),
        request={"role": "analyst"},
        answer={**examples.A_USER, "role": "analyst"},
    ),
    "create_user_link": Operation(("unknown_user", "user_disabled", "prove_password"), answer=examples.MADE_USER),
    "delete_user": Operation(("unknown_user", "last_admin", "prove_password")),
    "list_audit": Operation(answer={"items": [examples.AN_AUDIT_ROW], "next_cursor": None}),
    "create_webhook": Operation(
        (*_URL_ERRORS, "too_many_webhooks"),
        request={"url": "https://example.com/hooks", "events": ["session.ended"]},
        answer={"secret": examples.SECRET, "webhook": examples.A_WEBHOOK},
    ),
    "list_webhooks": Operation(answer={"items": [examples.A_WEBHOOK]}),
    "get_webhook": Operation(("unknown_webhook",), answer=examples.A_WEBHOOK),
    "change_webhook": Operation(
        ("unknown_webhook", *_URL_ERRORS), request={"enabled": True}, answer=examples.A_WEBHOOK
    ),
    "delete_webhook": Operation(("unknown_webhook",)),
    "rotate_webhook_secret": Operation(
        ("unknown_webhook",),
        request={"overlap_s": 3600},
        answer={"secret": examples.SECRET, "webhook": examples.A_WEBHOOK},
    ),
    "test_webhook": Operation(("unknown_webhook", "webhook_disabled"), answer=examples.A_DELIVERY),
    "list_deliveries": Operation(("unknown_webhook",), answer={"items": [examples.A_DELIVERY], "next_cursor": None}),
    "redeliver": Operation(("unknown_webhook", "unknown_delivery", "webhook_disabled"), answer=examples.A_DELIVERY),
    "list_nodes": Operation(answer={"items": [examples.A_NODE]}),
    "list_settings": Operation(answer={"items": [examples.A_SETTING]}),
    "list_plugin_settings": Operation(answer={"items": [examples.A_SECTION]}),
    "put_plugin_settings": Operation(
        ("unknown_section", "invalid_settings", "setting_pinned", "prove_password"),
        request={"values": {"voice": "alloy", "api_key": "sk-example"}},
        answer=examples.A_SECTION,
        parameters=(
            _parameter("name", "path", "The section's name.", {"type": "string"}, required=True, example="openai"),
        ),
    ),
    "list_plugins": Operation(answer=examples.OFFER),
    "livez": Operation(answer={"status": "ok"}),
    "readyz": Operation(
        responses={
            "200": _json(_ref("Readiness"), examples.READY),
            "503": _json(_ref("Readiness"), examples.NOT_READY, "Not now: it stops, or cannot store what is said."),
        }
    ),
    "version": Operation(answer={"name": "rejoinder", "version": "0.1.0"}),
    "get_metrics": Operation(
        responses={
            "200": {
                "description": "The metrics.",
                "content": {
                    "text/plain": {
                        **_PLAIN,
                        "example": "# HELP rejoinder_sessions Live sessions.\nrejoinder_sessions 3.0\n",
                    },
                    "application/openmetrics-text": _PLAIN,
                },
            }
        }
    ),
    "list_models": Operation(answer={"object": "list", "data": [examples.MODEL]}),
    "retrieve_model": Operation(answer=examples.MODEL),
    "create_chat_completion": Operation(
        request={"model": "guide", "messages": [{"role": "user", "content": "What time is it?"}]},
        responses={
            "200": {
                "description": "The answer, or (with `stream`) its pieces.",
                "content": {
                    "application/json": {"schema": _OBJECT, "example": examples.COMPLETION},
                    "text/event-stream": _EVENTS,
                },
            }
        },
    ),
    "create_speech": Operation(
        request={"model": "guide", "input": "Good morning.", "response_format": "wav"},
        responses={
            "200": {
                "description": "The speech, in the format that was asked for; with `stream_format: sse` as events.",
                "content": {
                    **dict.fromkeys(
                        ("audio/mpeg", "audio/wav", "audio/pcm", "audio/opus", "audio/aac", "audio/flac"), _AUDIO
                    ),
                    "text/event-stream": _EVENTS,
                },
            }
        },
    ),
    "create_transcription": Operation(
        responses={
            "200": {
                "description": "What was said, in the `response_format` that was asked for.",
                "content": {
                    "application/json": {"schema": _OBJECT, "example": {"text": "Good morning."}},
                    "text/plain": _PLAIN,
                    "text/vtt": _PLAIN,
                    "text/event-stream": _EVENTS,
                },
            }
        },
        body=_UPLOAD,
    ),
    "create_translation": Operation(body=_UPLOAD),
}
"""By `operationId`."""
