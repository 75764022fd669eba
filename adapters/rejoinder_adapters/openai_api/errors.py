"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, for every route of this package."""

from __future__ import annotations

import logging
import math
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from rejoinder.errors import ConfigError, ProviderError, ProviderTimeout, RejoinderError, StoreError

log = logging.getLogger(__name__)

_STATUS = {
    "unauthorized": 401,
    "forbidden": 403,
    "rate_limited": 429,
    "unknown_agent": 404,
    "context_too_long": 400,
    "provider_rate_limited": 429,
    "too_fast": 429,
    "full": 503,
    "draining": 503,
    "provider_timeout": 504,
    # As all other routes have them; clients send a 409 again.
    "idempotency_in_progress": 409,
    "idempotency_streamed": 409,
    "idempotency_mismatch": 422,
    "idempotency_too_large": 413,
}
_CODES = {401: "invalid_api_key", 403: "permission_denied", 413: "request_too_large", 429: "rate_limit_exceeded"}


class ApiError(Exception):
    """What a client of these routes is told. `param` names the field that is wrong, `headers` go with the response."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The error document."""
        error = {"message": self.message, "type": _type(self.status), "param": self.param, "code": self.code}
        return {"error": error}


def bad(param: str | None, message: str, code: str = "invalid_value") -> ApiError:
    """A 400 that names the field."""
    return ApiError(400, message, param=param, code=code)


def as_api_error(error: Exception) -> ApiError:
    """`error` as these routes tell it. A defect is logged with its traceback and told without it."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RejoinderError):
        return _of_rejoinder(error)
    if isinstance(error, HTTPException):
        return _of_http(error)
    log.error("a request failed", exc_info=error)
    return ApiError(500, "The server failed. Its log has the traceback.", code="internal")


def _of_rejoinder(error: RejoinderError) -> ApiError:
    message = f"{error.message} {error.fix}" if error.fix else error.message
    if error.code == "unknown_agent":
        return ApiError(404, message, param="model", code="model_not_found")
    status = _STATUS.get(error.code)
    if status is None:
        if isinstance(error, ProviderError):
            status = 504 if isinstance(error, ProviderTimeout) else 502
        else:
            status = 503 if isinstance(error, (StoreError, ConfigError)) else 400
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if (after_s := getattr(error, "retry_after_s", None)) is not None:
        headers["Retry-After"] = str(math.ceil(after_s))
    if status >= 500 and not error.retryable:
        # OpenAI's SDK repeats every 5xx twice unless it is told not to.
        headers["x-should-retry"] = "false"
    code = _CODES[status] if status in (401, 403) else error.code
    return ApiError(status, message, code=code, headers=headers)


def _of_http(error: HTTPException) -> ApiError:
    details = [item for item in error.extra if isinstance(item, dict)] if isinstance(error.extra, list) else []
    fields = "; ".join(f"{item.get('key', '')}: {item.get('message', '')}" for item in details)
    param = str(details[0]["key"]) if details and details[0].get("key") else None
    code = _CODES.get(error.status_code, "invalid_request")
    return ApiError(error.status_code, fields or error.detail, param=param, code=code, headers=error.headers)


def _type(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def _respond(request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, Any]]:
    told = as_api_error(error)
    if told.code == "request_too_large":
        limit = request.route_handler.resolve_request_max_body_size()
        told.message = f"The request is too large: at most {limit or 0} bytes are taken."
    return Response(told.body(), status_code=told.status, media_type="application/json", headers=told.headers)


HANDLERS: ExceptionHandlersMap = {
    ApiError: _respond,
    RejoinderError: _respond,
    HTTPException: _respond,
    Exception: _respond,
}
"""For the router's `exception_handlers`."""
