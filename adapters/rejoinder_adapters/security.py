"""Guards the routes: who asks (key, room token, ticket or login), whether they may, and how often."""

from __future__ import annotations

import math
import re
import time
from typing import Any
from urllib.parse import urlsplit

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from rejoinder.app import Runtime
from rejoinder.auth import LOOPBACK, Principal, Scope
from rejoinder.cookies import check_site, check_token, token_in
from rejoinder.errors import AuthError, ProtocolError
from rejoinder.ids import new_id

Connection = ASGIConnection[Any, Any, Any, Any]
_PRINCIPAL = "rejoinder.principal"
_RATE = "rejoinder.rate"
_REQUEST_ID = "rejoinder.request_id"
_SCHEME = "bearer "
CREDENTIALS = ("ticket", "access_token")
"""Where a credential may stand in a query."""
_MOST_CALLERS = 10_000
_FIT_TO_ECHO = re.compile(rb"[!-~]{1,128}")


class RateLimiter:
    """A token bucket per caller: `per_minute` requests, all at once if they like, then as they trickle in again."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._callers: dict[str, tuple[float, float]] = {}

    def has_left(self, caller: str) -> bool:
        """Whether the next request of `caller` would be let through."""
        left, at = self._callers.get(caller, (float(self.per_minute), 0.0))
        return left + (time.monotonic() - at) * self.per_minute / 60 >= 1

    def take(self, caller: str) -> tuple[bool, int, int]:
        """Count a request of `caller`: whether it is let through, how many are left, s until all of them are back."""
        now, rate = time.monotonic(), self.per_minute / 60
        left, at = self._callers.pop(caller, (float(self.per_minute), now))
        left = min(self.per_minute, left + (now - at) * rate)
        allowed = left >= 1
        if allowed:
            left -= 1
        while len(self._callers) >= _MOST_CALLERS:
            # The one that has been quiet for longest.
            del self._callers[next(iter(self._callers))]
        self._callers[caller] = (left, now)
        return allowed, int(left), math.ceil((self.per_minute - left) / rate)


class Needs:
    """A guard that lets those through who may do what `scope` covers, in the session that the path names.

    None: whoever is known here. `session_in_body`: the route itself looks which session it is. `proof`: somebody who is
    logged in must have typed the password lately. The OpenAPI document tells of it.
    """

    def __init__(self, scope: Scope | None, *, session_in_body: bool, proof: bool) -> None:
        self.scope = scope
        self.session_in_body = session_in_body
        self.proof = proof

    async def __call__(self, connection: Connection, handler: BaseRouteHandler) -> None:
        """Refuse the others."""
        principal = await principal_of(connection)
        if self.scope is not None:
            named = connection.path_params.get("session_id")
            principal.check(self.scope, principal.session_id if self.session_in_body else named)
        if self.proof:
            runtime: Runtime = connection.app.state.runtime
            await runtime.gate.check_proof(principal)


def needs(scope: Scope | None, *, session_in_body: bool = False, proof: bool = False) -> Guard:
    """A guard for a route; see `Needs`."""
    return Needs(scope, session_in_body=session_in_body, proof=proof)


def audit(connection: Connection, action: str, subject: str, **detail: Any) -> None:
    """Write down that whoever makes this request (which a guard has let through) did `action` to `subject`."""
    scope: Any = connection.scope
    runtime: Runtime = connection.app.state.runtime
    principal: Principal = scope[_PRINCIPAL]
    host = connection.client.host if connection.client else ""
    runtime.audit.add(principal.id, principal.name, action, subject, address=host, **detail)


async def principal_of(connection: Connection, *, resuming: bool = False) -> Principal:
    """Who asks; the first call also counts the request. `resuming`: an expired room token will do.

    The credential is the Bearer token of the header `Authorization`, or a `ticket` or (a room token only) an
    `access_token` in the query: browsers cannot give a WebSocket or an EventSource any headers. Without any of these
    it is the cookie of a login, for requests that the server's own pages make; it opens no WebSocket.

    Raises:
        AuthError: it is missing or wrong (`unauthorized`), or another site's page uses a login (`csrf`).
        ProtocolError: too many requests (`rate_limited`).
    """
    scope: Any = connection.scope
    if (known := scope.get(_PRINCIPAL)) is not None:
        principal: Principal = known
        return principal
    runtime: Runtime = connection.app.state.runtime
    try:
        principal = await _identify(connection, runtime, resuming)
    except AuthError:
        # Guessing is limited by where it comes from.
        _count(connection, _address(connection))
        raise
    scope[_PRINCIPAL] = principal
    _count(connection, principal.id if runtime.gate.closed else _address(connection))
    return principal


async def _identify(connection: Connection, runtime: Runtime, resuming: bool) -> Principal:
    gate = runtime.gate
    if not gate.closed:
        _check_local(connection, runtime)
    if (ticket := connection.query_params.get("ticket")) is not None:
        return await gate.redeem(ticket)
    header = connection.headers.get("authorization", "")
    if header and not header.lower().startswith(_SCHEME):
        raise AuthError("The header Authorization must be: Bearer KEY.")
    credential = header[len(_SCHEME) :].strip()
    if not credential and (token := connection.query_params.get("access_token")) is not None:
        principal = await gate.principal(token, resuming=resuming)
        if principal.role is None and gate.closed:
            raise AuthError(
                "An API key may not stand in a URL, where logs and histories keep it.",
                fix="Send it as Authorization: Bearer KEY, or make a room token or a ticket.",
            )
        return principal
    if not header and gate.closed and (token := _cookie(connection)) is not None:
        return await _of_login(connection, runtime, token)
    if not gate.knows(credential):
        _check_guesses(connection)
    return await gate.principal(credential or None, resuming=resuming)


def _cookie(connection: Connection) -> str | None:
    """The token of a login. A WebSocket has none: any page may open one, with the cookies of whoever reads it."""
    scope: Any = connection.scope
    if scope["type"] != "http":
        return None
    return token_in(scope["scheme"], connection.headers.get("cookie", ""))


async def _of_login(connection: Connection, runtime: Runtime, token: str) -> Principal:
    scope: Any = connection.scope
    if not runtime.gate.logins.knows(token):
        _check_guesses(connection)
    check_site(scope["method"], connection.headers)
    principal, login = await runtime.gate.by_login(token)
    check_token(scope["method"], connection.headers, login.csrf)
    return principal


def _check_local(connection: Connection, runtime: Runtime) -> None:
    """Where no key is asked for, a page of some website must not act through the browser of who runs the server.

    Such a page is known by its `Origin`, or (if its name was made to mean this machine) by the `Host`.
    """
    settings = runtime.settings
    hosts = {*LOOPBACK, settings.host}
    origin = connection.headers.get("origin")
    if origin is not None and origin not in settings.allowed_origins and host_of(origin) not in hosts:
        raise AuthError(
            f"The origin {origin[:100]!r} may not use this server.", code="bad_origin", fix="Add it to allowed_origins."
        )
    if host_of(f"http://{connection.headers.get('host', '')}") not in hosts:
        raise AuthError(
            "Without keys (auth.mode is 'none') the server answers to 127.0.0.1 and localhost only.",
            code="bad_host",
            fix="Use one of these names, or set auth.mode to 'keys'.",
        )


def host_of(url: str) -> str:
    """The name of the host in a URL; "" if there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _check_guesses(connection: Connection) -> None:
    """Whoever has guessed wrong too often is not even looked up."""
    limiter: RateLimiter = connection.app.state.rate_limiter
    if not limiter.has_left(_address(connection)):
        _count(connection, _address(connection))


def _address(connection: Connection) -> str:
    return f"address {connection.client.host if connection.client else ''}"


def _count(connection: Connection, caller: str) -> None:
    limiter: RateLimiter = connection.app.state.rate_limiter
    allowed, left, reset_s = limiter.take(caller)
    scope: Any = connection.scope
    scope[_RATE] = [
        (b"ratelimit-policy", b"%d;w=60" % limiter.per_minute),
        (b"ratelimit-limit", b"%d" % limiter.per_minute),
        (b"ratelimit-remaining", b"%d" % left),
        (b"ratelimit-reset", b"%d" % reset_s),
    ]
    if not allowed:
        scope[_RATE].append((b"retry-after", b"%d" % max(1, math.ceil(60 / limiter.per_minute))))
        raise ProtocolError(
            f"More than {limiter.per_minute} requests in a minute.",
            code="rate_limited",
            fix="Wait as Retry-After says, or raise limits.requests_per_minute.",
            retryable=True,
        )


def request_id_of(scope: Any) -> str:
    """The id of the request in `scope`: its header `X-Request-Id` if that is of use, else one made here."""
    if (known := scope.get(_REQUEST_ID)) is None:
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        known = given.decode() if _FIT_TO_ECHO.fullmatch(given) else new_id("req")
        scope[_REQUEST_ID] = known
    return str(known)


async def add_headers(message: Any, scope: Any) -> None:
    """A `before_send` hook: the headers that every answer has."""
    if message["type"] != "http.response.start":
        return
    headers = [(b"x-content-type-options", b"nosniff"), *scope.get(_RATE, ())]
    headers.append((b"x-request-id", request_id_of(scope).encode()))
    message["headers"] = [*message.get("headers", ()), *headers]
