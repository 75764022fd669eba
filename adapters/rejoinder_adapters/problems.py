"""Errors as problem details (RFC 9457), for every route."""

from __future__ import annotations

import logging
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException

from rejoinder.errors import RejoinderError, StoreError

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"

_STATUS = {
    "unauthorized": 401,
    "forbidden": 403,
    "too_many_tickets": 429,
    "rate_limited": 429,
    "unknown_agent": 422,
    "invalid_agent": 422,
    "agent_fixed": 409,
    "version_mismatch": 412,
    "unknown_document": 404,
    "bad_document": 422,
    "unknown_key": 404,
    "unknown_webhook": 404,
    "unknown_session": 404,
    "unknown_room": 404,
    "session_not_started": 404,
    "session_over": 409,
    "room_expired": 410,
    "too_fast": 429,
    "full": 503,
    "draining": 503,
}


def status_of(error: RejoinderError) -> int:
    """The HTTP status that says the same as `error`."""
    if error.code in _STATUS:
        return _STATUS[error.code]
    return 503 if isinstance(error, StoreError) else 400


def problem(status: int, code: str, title: str, fix: str = "", *, retryable: bool = False) -> Response[dict[str, Any]]:
    """A problem document."""
    body = {"type": "about:blank", "title": title, "status": status, "code": code, "fix": fix, "retryable": retryable}
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return Response(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def on_rejoinder_error(request: Request[Any, Any, Any], error: RejoinderError) -> Response[dict[str, Any]]:
    """One of ours: it knows what, why and what to do."""
    return problem(status_of(error), error.code, error.message, error.fix or "", retryable=error.retryable)


def on_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[dict[str, Any]]:
    """One of Litestar's: no such route, a wrong body."""
    details = error.extra if isinstance(error.extra, list) else []
    fields = "; ".join(
        f"{item.get('key', '')}: {item.get('message', '')}" for item in details if isinstance(item, dict)
    )
    title = f"{error.detail}{f' ({fields})' if fields else ''}"
    code = {404: "not_found", 405: "method_not_allowed", 400: "bad_request"}.get(error.status_code, "http_error")
    return problem(error.status_code, code, title)


def on_unknown_error(request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, Any]]:
    """A defect: logged with its traceback, told without it."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(500, "internal", "The server failed.", "Its log has the traceback.")
