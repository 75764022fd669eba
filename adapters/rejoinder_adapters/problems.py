"""Errors as problem details (RFC 9457), for every route; GET /docs/problems explains each kind."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any, cast

import msgspec
from litestar import Request, Response
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException, ValidationException

from rejoinder.catalog import InvalidDefinition
from rejoinder.errors import MissingDependency, MissingModel, ProviderError, RejoinderError, StoreError
from rejoinder.logins import Delayed
from rejoinder.plugin_settings import InvalidSettings
from rejoinder_adapters.problem_types import TYPES
from rejoinder_adapters.security import request_id_of

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
PAGE = "/docs/problems"
"""Explains every kind of problem; the `type` of a problem document leads there."""
_OF_STATUS = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
    429: "rate_limited",
    500: "internal",
}
_RETRY_S = {429: "1", 503: "5"}
"""When to come back, where nothing says it better."""
_BODY = "data"
"""What Litestar calls a body as a whole."""


class FieldError(msgspec.Struct, frozen=True):
    """One field or parameter that is wrong; `path` has dots between names, and is "" for the body as a whole."""

    path: str
    message: str


class Problem(msgspec.Struct, kw_only=True):
    """What went wrong (RFC 9457), with members of our own from `code` on.

    `type` is a page about this kind of problem, `title` names the kind, `detail` says what happened this time, and
    `instance` is the path that was asked for. `code` never changes; `fix` says what to do ("" if nothing is known);
    `retryable` says whether the same request may succeed later. `errors` names the fields that are wrong, if any.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    fix: str = ""
    retryable: bool = False
    request_id: str
    errors: list[FieldError] = []


def status_of(error: RejoinderError) -> int:
    """The HTTP status that says the same as `error`."""
    if (known := TYPES.get(error.code)) is not None:
        return known.status
    return 503 if isinstance(error, (StoreError, ProviderError, MissingDependency, MissingModel)) else 400


def problem(
    connection: ASGIConnection[Any, Any, Any, Any],
    status: int,
    code: str,
    detail: str,
    fix: str = "",
    *,
    retryable: bool = False,
    errors: list[FieldError] | None = None,
) -> Problem:
    """The problem document for what `connection` asked."""
    known = TYPES.get(code)
    return Problem(
        type=f"{PAGE}#{code}" if known else "about:blank",
        title=known.title if known else HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        # Without the query, where a ticket or a token may stand.
        instance=connection.scope["path"],
        code=code,
        fix=fix,
        retryable=retryable,
        request_id=request_id_of(connection.scope),
        errors=errors or [],
    )


def of_error(connection: ASGIConnection[Any, Any, Any, Any], error: RejoinderError) -> Problem:
    """One of ours as a problem document: it knows what, why and what to do."""
    status = status_of(error)
    if error.code == "unknown_agent" and "name" in connection.path_params:
        # The path itself names it.
        status = 404
    fields = None
    if isinstance(error, InvalidDefinition | InvalidSettings):
        fields = [FieldError(*field) for field in error.problems.items()]
    return problem(
        connection,
        status,
        error.code,
        error.message,
        error.fix or "",
        retryable=error.retryable,
        errors=fields,
    )


def on_rejoinder_error(request: Request[Any, Any, Any], error: RejoinderError) -> Response[Problem]:
    """One of ours."""
    headers = {"retry-after": str(error.retry_after_s)} if isinstance(error, Delayed) else None
    return _response(of_error(request, error), headers)


def on_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    """One of Litestar's: no such route, a wrong body."""
    status = error.status_code
    code, detail, fields = _OF_STATUS.get(status, "http_error"), error.detail, _fields(error)
    fix = ""
    if isinstance(error, ValidationException):
        # Litestar's own text repeats the URL, in which a ticket may stand.
        detail = "; ".join(f"{field.path or 'body'}: {field.message}" for field in fields) or "The request is wrong."
        fix = "/docs describes what this route takes."
    elif status == 400:
        code, detail = "bad_json", _ended(f"The body is not JSON: {detail}")
        fix = "Send one JSON object in UTF-8."
    elif status == 404:
        detail, fix = f"There is nothing at {request.scope['path']!r}.", "GET /openapi.json lists what there is."
    elif status == 405:
        allowed = (error.headers or {}).get("allow", "")
        detail, fix = f"{request.method} is not possible here.", f"Possible: {allowed}." if allowed else ""
    elif status == 413:
        limit = request.route_handler.resolve_request_max_body_size()
        detail = f"The body is too large: at most {limit or 0} bytes are read."
    told = problem(request, status, code, detail, fix, errors=fields)
    return _response(told, error.headers)


def on_unknown_error(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """A defect: logged with its traceback, told without it."""
    if isinstance(error, RecursionError) and "deserializing" in str(error):
        return _response(problem(request, 400, "bad_json", "The body is not JSON: it is nested too deeply."))
    log.error("%s %s failed (%s)", request.method, request.url.path, request_id_of(request.scope), exc_info=error)
    return _response(problem(request, 500, "internal", "The server failed.", "Its log has the traceback."))


def _ended(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _fields(error: HTTPException) -> list[FieldError]:
    given = error.extra if isinstance(error.extra, list) else []
    found = []
    for item in given:
        if isinstance(item, dict):
            path, message = str(item.get("key", "")), str(item.get("message", ""))
            found.append(FieldError("" if path == _BODY and item.get("source", "body") == "body" else path, message))
    return found


def _response(told: Problem, headers: dict[str, str] | None = None) -> Response[Problem]:
    given = dict(headers or {})
    if told.status == 401:
        given["www-authenticate"] = "Bearer"
    # A limit on requests brings its own.
    if told.code != "rate_limited" and told.status in _RETRY_S and (told.status != 503 or told.retryable):
        given.setdefault("retry-after", _RETRY_S[told.status])
    return Response(told, status_code=told.status, media_type=cast(Any, MEDIA_TYPE), headers=given)
