"""The login of the panel: who one is, in and out, links that are good once, the password, one's own logins."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, JSONBody

from rejoinder import __version__
from rejoinder.app import Runtime
from rejoinder.auth import LOOPBACK, OPEN, SCOPES, Principal, of_login
from rejoinder.cookies import check_site, check_token, set_cookie, token_in
from rejoinder.errors import AuthError, ProtocolError, SessionError
from rejoinder.logins import LONGEST, PROOF_MS
from rejoinder.store.users import LoginRecord

Connection = ASGIConnection[Any, Any, Any, State]
Asked = Request[Any, Any, State]
_LOGIN = "rejoinder.login"
Name = Annotated[str, msgspec.Meta(max_length=100)]
Password = Annotated[str, msgspec.Meta(max_length=LONGEST)]
Token = Annotated[str, msgspec.Meta(max_length=200)]
_LARGEST_BODY = 4_096


class Credentials(msgspec.Struct, forbid_unknown_fields=True):
    """Who logs in."""

    name: Name
    password: Password


class LinkUse(msgspec.Struct, forbid_unknown_fields=True):
    """The token of a link, and the password that is chosen; `name` is of the first account."""

    token: Token
    password: Password
    name: Name = ""


class Proof(msgspec.Struct, forbid_unknown_fields=True):
    """The password once more."""

    password: Password


class PasswordChange(msgspec.Struct, forbid_unknown_fields=True):
    """The password, and the one to come."""

    old: Password
    new: Password


class Who(msgspec.Struct):
    """An account, as far as a page shows it."""

    id: str
    name: str
    role: str


class Me(msgspec.Struct):
    """Who is logged in and what they may do; `csrf` goes into the header X-CSRF-Token of whatever is not GET.

    `proved`: the password was typed lately. `open`: the server asks nobody who they are.
    """

    user: Who
    scopes: list[str]
    csrf: str
    proved: bool
    open: bool
    version: str


class Login(msgspec.Struct):
    """A login of one's own; times are Unix ms."""

    id: str
    address: str
    client: str
    created_at: int
    seen_at: int
    current: bool


class LoginList(msgspec.Struct):
    """Logins, newest first."""

    items: list[Login]


def routes(runtime: Runtime) -> list[Any]:
    """`/admin/api`."""
    gate, logins = runtime.gate, runtime.gate.logins
    hidden: dict[str, Any] = {"include_in_schema": False, "public": True, "request_max_body_size": _LARGEST_BODY}

    async def be_known(connection: Connection, handler: BaseRouteHandler) -> None:
        """A guard: before anything else of the request is looked at."""
        scope: Any = connection.scope
        scope[_LOGIN] = await _authenticate(connection)

    known = {**hidden, "public": False, "guards": [be_known]}

    @get("/admin/api/me", **hidden)
    async def get_me(request: Asked) -> Response[Me]:
        """Who is logged in."""
        if not gate.closed:
            _check_local(request)
            return _answer(Me(Who(OPEN.id, OPEN.name, "admin"), sorted_scopes(OPEN), "", True, True, __version__))
        return _answer(_me(await _authenticate(request)))

    @post("/admin/api/login", status_code=200, **hidden)
    async def log_in(request: Asked, data: JSONBody[Credentials]) -> Response[Me]:
        """Log in: the answer sets the cookie, a new one each time."""
        _check_closed()
        check_site("POST", request.headers)
        _count(request, "")
        try:
            token, login = await logins.login(
                data.name, data.password, address=_address(request), client=_client(request), ending=_cookie(request)
            )
        except AuthError as error:
            _failed(request, data.name, error)
            raise
        _audit(request, login, "login.begin")
        return _answer(_me(login), set_cookie(_scheme(request), token))

    @post("/admin/api/logout", status_code=204, **known)
    async def log_out(request: Asked) -> Response[None]:
        """Log out."""
        login = _login(request)
        await logins.logout(login)
        _audit(request, login, "login.end")
        return _empty(set_cookie(_scheme(request), ""))

    @post("/admin/api/link", status_code=200, **hidden)
    async def use_link(request: Asked, data: JSONBody[LinkUse]) -> Response[Me]:
        """Use a link up: choose a password, be logged in; the first account is made so."""
        _check_closed()
        check_site("POST", request.headers)
        _count(request, "")
        try:
            token, login, made = await logins.use_link(
                data.token,
                data.name,
                data.password,
                address=_address(request),
                client=_client(request),
                ending=_cookie(request),
                first=gate.loopback,
            )
        except AuthError as error:
            _failed(request, data.name, error)
            raise
        _audit(request, login, "user.create" if made else "user.password", how="link")
        _audit(request, login, "login.begin")
        return _answer(_me(login), set_cookie(_scheme(request), token))

    @post("/admin/api/prove", status_code=204, **known)
    async def prove(request: Asked, data: JSONBody[Proof]) -> Response[None]:
        """Type the password again, before what is dangerous."""
        login = _login(request)
        await _tried(request, login, logins.prove(login, data.password, address=_address(request)))
        _audit(request, login, "login.prove")
        return _empty()

    @post("/admin/api/password", status_code=204, **known)
    async def change_password(request: Asked, data: JSONBody[PasswordChange]) -> Response[None]:
        """Choose another password; all other logins of the account end."""
        login = _login(request)
        change = logins.change_password(login, data.old, data.new, address=_address(request))
        await _tried(request, login, change)
        _audit(request, login, "user.password")
        return _empty()

    @get("/admin/api/logins", **known)
    async def list_logins(request: Asked) -> Response[LoginList]:
        """One's own logins."""
        login = _login(request)
        now = runtime.clock.wall_ms()
        found = [one for one in await logins.users.logins(login.user_id) if one.good_at(now)]
        return Response(
            LoginList(
                [Login(_id(o), o.address, o.client, o.created_at, o.seen_at, o.hash == login.hash) for o in found]
            ),
            headers=_PRIVATE,
        )

    @delete("/admin/api/logins/{login_id:str}", **known)
    async def end_login(request: Asked, login_id: FromPath[str]) -> None:
        """End one of them."""
        login = _login(request)
        for one in await logins.users.logins(login.user_id):
            if _id(one) == login_id:
                await logins.logout(one)
                _audit(request, login, "login.end", other=one.hash != login.hash)
                return
        raise SessionError(
            f"You have no login {login_id[:80]!r}.", code="unknown_login", fix="GET /admin/api/logins lists them."
        )

    async def _authenticate(request: Connection) -> LoginRecord:
        """The login that the request's cookie is of; what changes something comes from a page of ours."""
        _check_closed()
        scope: Any = request.scope
        scheme, method = _scheme(request), scope["method"]
        token = token_in(scheme, request.headers.get("cookie", ""))
        if token is None:
            _count(request, "")
            fix = "Log in at /admin/login."
            if not await logins.users.any():
                fix = "There are no accounts yet: rejoinder users link, or: rejoinder users create NAME --role admin"
            raise AuthError("Nobody is logged in.", fix=fix)
        check_site(method, request.headers)
        _, login = await gate.by_login(token)
        check_token(method, request.headers, login.csrf)
        _count(request, login.user_id)
        return login

    async def _tried(request: Asked, login: LoginRecord, attempt: Any) -> None:
        try:
            await attempt
        except AuthError as error:
            _failed(request, login.name, error)
            # A wrong password here does not mean that nobody is logged in.
            raise error if error.code != "bad_login" else _wrong() from None

    def _check_closed() -> None:
        if not gate.closed:
            raise SessionError(
                "There are no accounts on a server that asks for nothing (auth.mode is 'none').",
                code="forbidden",
                fix="Set auth.mode to 'keys'.",
            )

    def _check_local(request: Asked) -> None:
        """As for the rest of an open server: no page of some website asks through the browser of who runs it."""
        host = request.headers.get("host", "").rpartition("@")[2]
        name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
        if name not in (*LOOPBACK, runtime.settings.host):
            raise AuthError("Without keys the server answers to 127.0.0.1 and localhost only.", code="bad_host")
        check_site("GET", request.headers)

    def _me(login: LoginRecord) -> Me:
        who, principal = Who(login.user_id, login.name, login.role), of_login(login)
        proved = login.proved_at + PROOF_MS > runtime.clock.wall_ms()
        return Me(who, sorted_scopes(principal), login.csrf, proved, False, __version__)

    def _audit(request: Asked, login: LoginRecord, action: str, **detail: Any) -> None:
        runtime.audit.add(login.user_id, login.name, action, login.user_id, address=_address(request), **detail)

    def _failed(request: Asked, name: str, error: AuthError) -> None:
        # What was not even tried is not worth a row: whoever guesses cannot fill the table.
        if error.code != "login_delayed":
            name = name[:100].replace("\0", "")
            runtime.audit.add("", name, "login.failed", name, address=_address(request), why=error.code)

    return [get_me, log_in, log_out, use_link, prove, change_password, list_logins, end_login]


def _login(request: Asked) -> LoginRecord:
    scope: Any = request.scope
    login: LoginRecord = scope[_LOGIN]
    return login


_PRIVATE = {"cache-control": "no-store"}


def sorted_scopes(principal: Principal) -> list[str]:
    """The scopes of `principal`, always in the same order."""
    return [scope for scope in SCOPES if scope in principal.scopes]


def _answer(me: Me, cookie: str = "") -> Response[Me]:
    return Response(me, headers={**_PRIVATE, **({"set-cookie": cookie} if cookie else {})})


def _empty(cookie: str = "") -> Response[None]:
    return Response(None, status_code=204, headers={**_PRIVATE, **({"set-cookie": cookie} if cookie else {})})


def _id(login: LoginRecord) -> str:
    """What a login is called where it is listed; its token cannot be told from it, nor what is stored of that."""
    return hashlib.sha256(f"login:{login.hash}".encode()).hexdigest()[:20]


def _wrong() -> AuthError:
    return AuthError("The password is wrong.", code="wrong_password", fix="Type the password of this account.")


def _cookie(request: Asked) -> str | None:
    return token_in(_scheme(request), request.headers.get("cookie", ""))


def _scheme(request: Connection) -> str:
    return str(request.scope["scheme"])


def _address(request: Connection) -> str:
    return request.client.host if request.client else ""


def _client(request: Asked) -> str:
    return request.headers.get("user-agent", "")


def _count(request: Connection, user_id: str) -> None:
    """Count the request as those to the rest of the server are counted, by user or by address.

    Raises:
        ProtocolError: there were too many (`rate_limited`).
    """
    limiter = request.app.state.rate_limiter
    allowed, _, _ = limiter.take(user_id or f"address {_address(request)}")
    if not allowed:
        raise ProtocolError("Too many requests in a minute.", code="rate_limited", fix="Wait a moment.", retryable=True)
