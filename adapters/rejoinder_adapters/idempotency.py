"""A middleware for `Idempotency-Key`: a POST that comes twice is done once, and answered twice."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec
from litestar import Request
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Send
from litestar.types import Scope as AsgiScope

from rejoinder.app import Runtime
from rejoinder.auth import Principal
from rejoinder.errors import ProtocolError, SessionError, StoreError
from rejoinder.store.idempotency import Answers, Kept, Taken
from rejoinder_adapters.security import CREDENTIALS, principal_of

log = logging.getLogger(__name__)
CLIENT_GONE = 499
"""The status of an answer that nobody will see, as nginx has it."""
LARGEST_REQUEST = 10 << 20
"""A request with a key is read as a whole before it is done."""
_LONG = 256 << 10
LARGEST_ANSWER = 256 << 10
"""A longer answer is not kept."""
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_HEADERS = ("content-type", "location", "etag")
"""Of an answer these are kept."""
SECRETS = re.compile(r"/v1/((keys|webhooks)(/[^/]+/rotate)?|users(/[^/]+/link)?|tickets)/?")
"""Their answers hold a secret, which must not lie about for a day."""
_KEPT = re.compile(
    r"/v1/("
    r"rooms(/[^/]+/tokens)?|documents(/search)?|sessions/[^/]+/(messages|say|whisper|interrupt|end|token)"
    r"|webhooks/[^/]+/(test|deliveries/[^/]+/redeliver)"
    r")/?"
)
"""Their answers do not hold what was said. Where a plugin hides some of that (`before_storage`), no others are kept:
not those of a chat, and not those of plugins' routes, of which nobody knows."""
_NOT_FINAL = frozenset({401, 403, 408, 425, 429, CLIENT_GONE})
"""Refusals that say nothing about the request itself."""
_SESSION = re.compile(rb'"session_id":"([a-z]+_[0-9a-z]+)"')
_BEAT_S = 20.0
_STREAMED = "rejoinder-streamed"
"""Marks, among the headers that are kept, an answer that was not; the value is the session's id, or empty."""


def idempotency(runtime: Runtime) -> Any:
    """The middleware for `runtime`'s routes."""
    answers = Answers(runtime.store)

    def middleware(app: ASGIApp) -> ASGIApp:
        async def call(scope: AsgiScope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP or scope["method"] != "POST" or not _is_api(scope):
                await app(scope, receive, send)
                return
            request = Request[Any, Any, Any](scope, receive)
            if (given := request.headers.get("idempotency-key")) is None:
                await app(scope, receive, send)
                return
            # Whoever is not known is refused here as they would be anywhere.
            owner = _owner(await principal_of(request))
            key = _checked(given, scope["path"])
            body = await _body(receive)
            # A long one takes some ten milliseconds, which calls must not wait for.
            long = len(body) > _LONG
            fingerprint = await asyncio.to_thread(_fingerprint, scope, body) if long else _fingerprint(scope, body)
            known = await answers.take(owner, key, fingerprint)
            if isinstance(known, Kept):
                await _replay(known, fingerprint, send)
                return
            hides = bool(runtime.plugins.implementations("before_storage")) and not _KEPT.fullmatch(scope["path"])
            await _Attempt(answers, known, send, hides).run(app, scope, body, receive)

        return call

    return middleware


class _Attempt:
    """A request that is done for the first time: what is sent in answer is kept before it is sent.

    Of one that `hides` what it says only that it was done is kept; a refusal is kept whole, as it says nothing.
    """

    def __init__(self, answers: Answers, taken: Taken, send: Send, hides: bool = False) -> None:
        self._hides = hides
        self._answers = answers
        self._taken = taken
        self._send = send
        self._start: Message | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._passing = asyncio.Event()
        self._settled = False

    async def run(self, app: ASGIApp, scope: AsgiScope, body: bytes, receive: Receive) -> None:
        """Do it."""
        try:
            async with self._beating():
                await app(scope, self._again(body, receive), self._take)
        finally:
            if not self._settled:
                # Nothing was answered, or not to the end.
                await asyncio.shield(self._forget())

    async def _take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            if _header(message, b"content-type").startswith(b"text/event-stream"):
                await self._pass_on(message)
            return
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        if self._passing.is_set():
            await self._passed(message)
            return
        self._chunks.append(message.get("body", b""))
        self._size += len(self._chunks[-1])
        if self._size > LARGEST_ANSWER:
            await self._pass_on(self._start)
            await self._passed({**message, "body": b"".join(self._chunks)})
            self._chunks = []
        elif not message.get("more_body", False):
            await self._keep(b"".join(self._chunks))
            await self._send(self._start)  # type: ignore[arg-type]
            await self._send({**message, "body": b"".join(self._chunks)})

    async def _pass_on(self, start: Any) -> None:
        self._passing.set()
        await self._send(start)

    async def _passed(self, message: Any) -> None:
        # From the first session that is named on, it is known that something has happened, and where.
        if not self._settled:
            named = _SESSION.search(message.get("body", b""))
            if named or not message.get("more_body", False):
                await self._store(200, {_STREAMED: named[1].decode() if named else ""}, "")
        await self._send(message)

    async def _keep(self, body: bytes) -> None:
        start: Any = self._start
        status = int(start["status"])
        headers = {name: value for name in _HEADERS if (value := _header(start, name.encode()).decode("latin-1"))}
        if status >= 500 or status in _NOT_FINAL or _is_retryable(headers.get("content-type", ""), body):
            # Before it is sent, so that whoever tries again at once may.
            await self._forget()
            return
        try:
            text = body.decode()
            # PostgreSQL has no NUL in text.
            whole = "\0" not in text and not (self._hides and status < 400)
        except UnicodeDecodeError:
            whole = False
        if whole:
            await self._store(status, headers, text)
        else:
            named = _SESSION.search(body)
            await self._store(status, {_STREAMED: named[1].decode() if named else ""}, "")

    async def _store(self, status: int, headers: dict[str, str], body: str) -> None:
        self._settled = True
        try:
            await self._answers.keep(self._taken, status, headers, body)
        except StoreError as error:
            # It was done, and must be answered; until it is stale the key says that it is being done.
            log.warning("an answer was not kept for its Idempotency-Key: %s", error.explain())

    async def _forget(self) -> None:
        self._settled = True
        try:
            if self._passing.is_set():
                await self._answers.keep(self._taken, 200, {_STREAMED: ""}, "")
            else:
                await self._answers.release(self._taken)
        except StoreError as error:
            log.warning("an Idempotency-Key was not let go: %s", error.explain())

    def _again(self, body: bytes, receive: Receive) -> Receive:
        """A `receive` that gives `body`. That the client goes away is told where its answer is not kept anyway."""
        given = False

        async def call() -> Any:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            message = await receive()
            if message["type"] == "http.disconnect":
                await self._passing.wait()
            return message

        return call

    @contextlib.asynccontextmanager
    async def _beating(self) -> AsyncIterator[None]:
        """Say now and then that it is still being done, so that it does not become stale."""

        async def beat() -> None:
            while True:
                await asyncio.sleep(_BEAT_S)
                try:
                    await self._answers.beat(self._taken)
                except StoreError as error:
                    log.debug("no beat: %s", error)

        task = asyncio.get_running_loop().create_task(beat(), name="idempotency-beat")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


async def _replay(kept: Kept, fingerprint: str, send: Send) -> None:
    if kept.fingerprint != fingerprint:
        raise ProtocolError(
            "This Idempotency-Key was sent with another request.",
            code="idempotency_mismatch",
            fix="Choose a new key for each request, and send it again only with the same one.",
        )
    if kept.status is None:
        raise SessionError(
            "The request with this Idempotency-Key is still being done.",
            code="idempotency_in_progress",
            fix="Wait a moment and send it again.",
            retryable=True,
        )
    headers = dict(kept.headers or {})
    if (session_id := headers.get(_STREAMED)) is not None:
        where = f" It went into the session {session_id}." if session_id else ""
        raise SessionError(
            "The request with this Idempotency-Key was done; its answer was not kept: a stream, too large or private."
            + where,
            code="idempotency_streamed",
            fix=f"GET /v1/sessions/{session_id} has what was said." if session_id else "Look at what it has changed.",
        )
    body = (kept.body or "").encode()
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    raw += [(b"content-length", b"%d" % len(body)), (b"idempotency-replayed", b"true")]
    await send({"type": "http.response.start", "status": kept.status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _is_api(scope: Any) -> bool:
    # What is mounted sees the rest of its path only, which may look like one of ours.
    mounted = getattr(scope["route_handler"], "is_mount", False)
    return not mounted and bool(scope["path"].startswith("/v1/"))


def _owner(principal: Principal) -> str:
    # Room tokens name their bearers as they like; they must not get at the answers of a key.
    return principal.id if principal.session_id is None else f"{principal.session_id}:{principal.id}"


def _checked(key: str, path: str) -> str:
    if not _KEY.fullmatch(key):
        raise ProtocolError(
            "An Idempotency-Key has 1 to 255 visible ASCII characters.", code="bad_idempotency_key", fix="Send a UUID."
        )
    if SECRETS.fullmatch(path):
        raise ProtocolError(
            "The answer holds a secret and is not kept, so this cannot be sent with an Idempotency-Key.",
            code="idempotency_unsupported",
            fix="Send it without; if the answer is lost, revoke or rotate what was made.",
        )
    return key


def _fingerprint(scope: Any, body: bytes) -> str:
    # A ticket does only once: a request that comes again has another one.
    query = urlencode(
        [pair for pair in parse_qsl(scope["query_string"].decode("latin-1"), True) if pair[0] not in CREDENTIALS]
    )
    parts: Sequence[bytes] = (scope["method"].encode(), scope["path"].encode(), query.encode(), body)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise ProtocolError("The client went away before it had sent its request.")
        body += message.get("body", b"")
        if len(body) > LARGEST_REQUEST:
            raise ProtocolError(
                f"With an Idempotency-Key a request has at most {LARGEST_REQUEST >> 20} MiB.",
                code="idempotency_too_large",
                fix="Send it without the key.",
            )
        if not message.get("more_body", False):
            return bytes(body)


def _header(message: Any, name: bytes) -> bytes:
    return next((bytes(value) for key, value in message.get("headers", ()) if key.lower() == name), b"")


def _is_retryable(content_type: str, body: bytes) -> bool:
    """Whether it is a problem that says of itself that the same request may succeed later."""
    if not content_type.startswith("application/problem+json"):
        return False
    try:
        return bool(msgspec.json.decode(body).get("retryable"))
    except (msgspec.DecodeError, AttributeError):
        return False
