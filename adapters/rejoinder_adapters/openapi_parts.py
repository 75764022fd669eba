"""Parts of the OpenAPI document that many operations share: how to authenticate, headers, refusals, streams."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from rejoinder_adapters.problem_types import TYPES
from rejoinder_adapters.problems import MEDIA_TYPE, PAGE

Json = dict[str, Any]

DESCRIPTION = """\
Real-time agents: speech or text in, speech and text out.

**Authenticate** with `Authorization: Bearer rj_...`, an API key: `rejoinder keys create NAME --scope talk` makes one,
and `rejoinder serve` on loopback shows the developer's. People are let into one room by its token (`POST /v1/rooms`),
a JWT that goes into the same header. What cannot send headers (a browser's WebSocket or EventSource) puts a single-use
ticket (`POST /v1/tickets`) into `?ticket=`, or a room token into `?access_token=`; an API key may not stand in a URL.
A server with `auth.mode = "none"` asks for nothing. The panel's pages use the cookie of a login instead.

**Errors** are problem documents (RFC 9457) whose `code` never changes; [all of them](/docs/problems). **Times** are
Unix ms, durations say their unit in their name (`_ms`, `_us`, `_s`), rates are Hz. **Lists** come newest first, page
by page: give `next_cursor` as `before`. Whatever answers GET also answers HEAD.

**Speech** goes over the WebSocket `/v1/sessions/{session_id}/ws` (or `/ws/audio`, which makes a session of its own):
PCM16 in binary frames, the events of the schema `Event` in text frames. The same events come as server-sent events
from `/v1/sessions/{session_id}/events`.
"""

SECURITY_SCHEMES: Json = {
    "apiKey": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "rj_...",
        "description": "An API key with the scope.",
    },
    "roomToken": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A room's token: good for the one session, and for what its role covers.",
    },
    "ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "Stands for its maker's key or token once; from `POST /v1/tickets`.",
    },
    "accessToken": {
        "type": "apiKey",
        "in": "query",
        "name": "access_token",
        "description": "A room's token, for what cannot send headers.",
    },
}


def _header(description: str, kind: str, example: Any) -> Json:
    return {"description": description, "schema": {"type": kind}, "example": example}


HEADERS: Json = {
    "X-Request-Id": _header(
        "The request's own X-Request-Id, or one made here; the server's log has it.",
        "string",
        "req_01m86qc0qvec6tw50njfgmr316",
    ),
    "RateLimit-Policy": _header("Requests of one caller, in a window of so many s.", "string", "6000;w=60"),
    "RateLimit-Limit": _header("Requests in a minute, at most.", "integer", 6000),
    "RateLimit-Remaining": _header("Requests that are left now.", "integer", 5999),
    "RateLimit-Reset": _header("Until all of them are back, in s.", "integer", 1),
    "Retry-After": _header("When to come back, in s.", "integer", 5),
    "WWW-Authenticate": _header("What to authenticate with.", "string", "Bearer"),
    "ETag": _header("The version, for If-Match.", "string", '"3"'),
    "Allow": _header("The methods that are possible.", "string", "GET, POST"),
}

STREAM: Json = {
    "type": "object",
    "description": "One server-sent event; the stream is a row of them. `id` is its number, for `Last-Event-ID`; "
    "without one it is for this reader alone. Lines that begin with a colon keep the connection alive.",
    "required": ["data"],
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9]+$"},
        "data": {
            "type": "string",
            "description": "JSON: an `Event`.",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/Event"},
        },
    },
}

EVENT_PAGE: Json = {
    "type": "object",
    "description": "Events in their order; `next_cursor` is the `after` of the next page.",
    "required": ["items", "next_cursor"],
    "properties": {
        "items": {"type": "array", "items": {"$ref": "#/components/schemas/Event"}},
        "next_cursor": {"type": ["integer", "null"]},
    },
}
READINESS: Json = {
    "type": "object",
    "required": ["status", "draining", "sessions", "store"],
    "properties": {
        "status": {"type": "string", "enum": ["ok", "not ready"]},
        "draining": {"type": "boolean", "description": "It is about to stop and takes no new sessions."},
        "sessions": {"type": "integer", "description": "Live ones."},
        "store": {"type": "string", "enum": ["ok", "unavailable"], "description": "Why it is not, the log says."},
    },
}

OPENAI_ERROR: Json = {
    "type": "object",
    "description": "An error as OpenAI's API has it.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The field that is wrong."},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def refusals(codes: Iterable[str], *, guarded: bool) -> Json:
    """The responses of an operation that may refuse with these codes, by status.

    A code may have a status of its own before it: `404 unknown_agent`.
    """
    by_status: dict[int, list[str]] = defaultdict(list)
    for entry in dict.fromkeys(codes):
        status, _, code = entry.rpartition(" ")
        by_status[int(status) if status else TYPES[code].status].append(code)
    return {str(status): _refusal(status, by_status[status], guarded) for status in sorted(by_status)}


def _refusal(status: int, codes: list[str], guarded: bool) -> Json:
    names = ["X-Request-Id"]
    if guarded and status not in (401, 500):
        names += ["RateLimit-Policy", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"]
    names += {401: ["WWW-Authenticate"], 429: ["Retry-After"], 503: ["Retry-After"]}.get(status, [])
    return {
        "description": " ".join(f"`{code}`: {TYPES[code].meaning}" for code in codes),
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
        "content": {
            MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": {code: {"value": _example(code, status)} for code in codes},
            }
        },
    }


def _example(code: str, status: int) -> Json:
    kind = TYPES[code]
    return {
        "type": f"{PAGE}#{code}",
        "title": kind.title,
        "status": status,
        "detail": f"{kind.title}.",
        "instance": "/v1/...",
        "code": code,
        "fix": "",
        "retryable": status in (429, 503),
        "request_id": "req_01m86qc0qvec6tw50njfgmr316",
        "errors": [{"path": "limit", "message": "Expected `int` >= 1"}] if code == "bad_request" else [],
    }


_OPENAI = {
    400: ("invalid_value", "The request is wrong; `param` names the field."),
    401: ("invalid_api_key", "No good API key was given."),
    403: ("permission_denied", "The key lacks the scope."),
    404: ("model_not_found", "No agent and no provider has this name."),
    413: ("request_too_large", "The body is too large."),
    429: ("rate_limit_exceeded", "Too many requests; wait as Retry-After says."),
    500: ("internal", "The server failed; its log has the traceback."),
    502: ("provider_failed", "The provider behind the agent failed."),
    503: ("full", "The server cannot take it now."),
    504: ("provider_timeout", "The provider behind the agent was late."),
}


def openai_refusals() -> Json:
    """The responses of the OpenAI-compatible operations when they refuse, by status."""
    return {
        str(status): {
            "description": text,
            "headers": {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}},
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/OpenAIError"},
                    "example": {
                        "error": {
                            "message": text,
                            "type": "server_error" if status >= 500 else "invalid_request_error",
                            "param": None,
                            "code": code,
                        }
                    },
                }
            },
        }
        for status, (code, text) in _OPENAI.items()
    }
