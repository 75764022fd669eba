"""The WebSocket adapter: audio both ways and events; `/ws/audio` is a quick call, `/v1/sessions/{id}/ws` joins one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import msgspec
from litestar import WebSocket, websocket
from litestar.params import FromPath
from litestar.types import Send

from rejoinder.app import Runtime
from rejoinder.audio import Rates, check_rates
from rejoinder.errors import AuthError, ProtocolError, RejoinderError, SessionError
from rejoinder.events import Configure, Error, Ping, Playback, Pong, ServerEvent, decode_command, encode
from rejoinder.hookspecs import hookimpl
from rejoinder.link import SessionLink
from rejoinder.session import Session
from rejoinder_adapters.problems import MEDIA_TYPE, Problem, of_error, problem
from rejoinder_adapters.security import CREDENTIALS, principal_of
from rejoinder_adapters.sessions import live_session, origin_of
from rejoinder_adapters.wire import EXTENSION, WireProtocol

log = logging.getLogger(__name__)
SUBPROTOCOL = "rejoinder.v1"
_CONFIGURE_S = 10.0
"""A client has this long to say how it wants the session."""
_EARLY_FRAMES = 100
"""Audio frames kept while the session is being started."""
_CLOSE_S = 2.5
"""A client has this long to take what was sent and to answer the close; less than the server's own stop may take."""
_CLOSE_REASON_BYTES = 120
_NORMAL, _POLICY, _INTERNAL = 1000, 1008, 1011


class Connection:
    """One client socket: the `LinkReceiver` of its session, and the reader of its messages."""

    def __init__(self, runtime: Runtime, wire: WireProtocol) -> None:
        self._limits = runtime.settings.limits
        self._wire = wire
        self._link: SessionLink | None = None
        self._early: list[bytes] = []
        self._warned = False
        self.owner = False
        self.may_talk = True
        """Or else it only hears and reads."""
        self.configured: asyncio.Future[Configure] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    # -- the session speaks

    def on_event(self, event: ServerEvent, data: bytes) -> None:
        """Send an event."""
        self._wire.write_text(data)
        self._check_reader()

    def on_audio(self, pcm: bytes) -> None:
        """Send audio."""
        self._wire.write_binary(pcm)
        self._check_reader()

    def on_closed(self, reason: str) -> None:
        """The session is over."""
        if not self.closed.done():
            self.closed.set_result(reason)

    def fail(self, error: RejoinderError) -> None:
        """Tell this client alone of an error."""
        self._wire.write_text(encode(Error.of(error)))

    def _check_reader(self) -> None:
        if self._wire.buffered() > self._limits.outbox_bytes:
            log.warning("a client does not read what it is sent (%d bytes wait); it is cut off", self._wire.buffered())
            self._wire.abort()

    # -- the client speaks

    def on_binary(self, pcm: bytes) -> None:
        """Audio from the client."""
        if self.closed.done():
            # Of one that has been displaced above all: it may not be heard as if it were still there.
            return
        try:
            if len(pcm) > self._limits.message_bytes:
                raise ProtocolError(
                    f"An audio frame of {len(pcm)} bytes is too large; at most {self._limits.message_bytes} are taken.",
                    code="frame_too_large",
                    fix="Send 20 ms at a time (640 bytes at 16 kHz).",
                )
            if not self.may_talk:
                if not self._warned:
                    self._warned = True
                    raise _only_listens()
            elif self._link is not None:
                self._link.send_audio(pcm)
            elif self.configured.done():
                if len(self._early) < _EARLY_FRAMES:
                    self._early.append(pcm)
            elif not self._warned:
                self._warned = True
                raise ProtocolError(
                    "Audio came before the session was configured and is dropped.",
                    code="not_configured",
                    fix='First send {"type": "session.configure", "input_rate": 16000, "output_rate": 24000}.',
                )
        except Exception as error:  # noqa: BLE001 - the wire's readers must not raise
            self.fail(_known(error))

    def on_text(self, data: bytes) -> None:
        """A command from the client."""
        if self.closed.done():
            return
        try:
            if len(data) > self._limits.message_bytes:
                raise ProtocolError(
                    f"A message of {len(data)} bytes is too large; at most {self._limits.message_bytes} are taken.",
                    code="frame_too_large",
                )
            command = decode_command(data)
            if self._link is not None:
                if self.may_talk or isinstance(command, Ping | Configure):
                    self._link.send_command(command)
                elif not isinstance(command, Playback):
                    # What a bystander has played says nothing about what the user heard.
                    raise _only_listens()
            elif isinstance(command, Ping):
                self._wire.write_text(encode(Pong(t=command.t)))
            elif isinstance(command, Configure) and not self.configured.done():
                check_rates(command.input_rate, command.output_rate)
                self.configured.set_result(command)
            else:
                raise ProtocolError(
                    f"{type(command).__name__} came before the session was started.",
                    code="not_configured",
                    fix='First send {"type": "session.configure"} and wait for "session.started".',
                )
        except Exception as error:  # noqa: BLE001 - the wire's readers must not raise
            self.fail(_known(error))

    def join(self, session: Session, configure: Configure, *, owner: bool) -> None:
        """Become one of the session's connections; `owner`: the session was made for this one."""
        link = session.attach(
            self,
            Rates(configure.input_rate, configure.output_rate),
            audio=configure.output == "audio",
            owner=owner,
            guest=not self.may_talk,
            resume_token=configure.resume_token,
            last_seq=configure.last_seq,
            played_ms=configure.played_ms,
        )
        self._link, self.owner = link, link.owner
        early, self._early = self._early, []
        for pcm in early:
            self.on_binary(pcm)

    def leave(self) -> None:
        """Be none of them any more."""
        if self._link is not None:
            self._link.close()


async def admitted(socket: WebSocket[Any, Any, Any], runtime: Runtime) -> WireProtocol | None:
    """The wire of a socket whose page may connect; None: it has been refused."""
    if (origin := socket.headers.get("origin")) and not _is_allowed(origin, socket.headers.get("host", ""), runtime):
        message = f"The origin {origin!r} may not connect."
        await refuse(socket, problem(socket, 403, "bad_origin", message, "Add it to allowed_origins."))
        return None
    wire = socket.scope.get("extensions", {}).get(EXTENSION)  # type: ignore[union-attr]
    if not isinstance(wire, WireProtocol):
        message = "This server does not speak the voice wire."
        fix = "Start it with `rejoinder serve` or `uvicorn --ws rejoinder_adapters.wire:WireProtocol`."
        await refuse(socket, problem(socket, 501, "wrong_server", message, fix))
        return None
    return wire


async def serve_connection(runtime: Runtime, socket: WebSocket[Any, Any, Any], session_id: str | None) -> None:
    """The life of one client socket; `session_id` None gives it a session of its own."""
    wire = await admitted(socket, runtime)
    if wire is None:
        return
    try:
        principal = await principal_of(socket, resuming=True)
        may_talk = principal.may("talk", session_id)
        if not may_talk:
            principal.check("talk" if session_id is None else "read", session_id)
    except RejoinderError as refusal:
        await refuse(socket, of_error(socket, refusal))
        return
    offered = socket.scope.get("subprotocols", [])
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
    connection = Connection(runtime, wire)
    connection.may_talk = may_talk
    wire.open_wire(connection.on_binary, connection.on_text)
    gone = asyncio.create_task(disconnected(socket), name="disconnect watcher")
    session: Session | None = None
    try:
        configure = await _configuration(connection, socket, gone)
        if configure is None:
            return
        if principal.expired and not configure.resume_token:
            raise AuthError(
                "The room token has expired.", fix="POST /v1/rooms/{room_id}/tokens gives a new one to join with."
            )
        rates = check_rates(configure.input_rate, configure.output_rate)
        if session_id is None and configure.resume_token:
            raise ProtocolError(
                "/ws/audio makes a new session; there is nothing to resume.",
                code="bad_resume_token",
                fix="Connect to /v1/sessions/{session_id}/ws of the session that was lost.",
            )
        if configure.resume_token and session_id not in runtime.sessions:
            raise SessionError(f"The session {session_id!r} is over.", code="session_over", fix="Start a new one.")
        if session_id is None:
            session = await runtime.start_session(configure.agent, rates, origin=origin_of(socket, "websocket"))
        elif not may_talk:
            # A conversation does not begin with one who may only listen.
            session = await live_session(runtime, session_id, start=False)
        else:
            session = await runtime.join(session_id, rates, origin=origin_of(socket, "websocket"))
        connection.join(session, configure, owner=session_id is None)
        over: tuple[asyncio.Future[Any], ...] = (gone, connection.closed)
        await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
        if connection.closed.done():
            await close(socket, wire, _NORMAL, connection.closed.result())
        elif connection.owner and wire.hung_up:
            # A socket that merely broke leaves the session its grace period.
            session.end("client_left")
    except Exception as caught:  # noqa: BLE001 - the client is to hear of it, whatever it is
        error = _known(caught)
        connection.fail(error)
        await close(socket, wire, _POLICY if error is caught else _INTERNAL, error.code)
    finally:
        connection.leave()
        gone.cancel()
        await asyncio.wait({gone})


def _only_listens() -> AuthError:
    return AuthError(
        "You may listen and read here, not talk.", code="forbidden", fix="Ask for a token with the role speaker."
    )


def _known(error: Exception) -> RejoinderError:
    """`error` if it is one of ours; anything else is a defect: logged with its traceback, told without it."""
    if isinstance(error, RejoinderError):
        return error
    log.error("a connection failed", exc_info=error)
    return RejoinderError("The server failed.", fix="Its log has the traceback.")


async def _configuration(
    connection: Connection, socket: WebSocket[Any, Any, Any], gone: asyncio.Task[None]
) -> Configure | None:
    """What the client wants, from the query string or its first message; None if it left."""
    if query := {name: value for name, value in socket.query_params.items() if name not in CREDENTIALS}:
        try:
            configure = msgspec.convert({"type": "session.configure", **query}, Configure, strict=False)
        except msgspec.ValidationError as error:
            raise ProtocolError(f"The query string is wrong: {error}.", code="bad_message") from None
        connection.configured.set_result(configure)
    news: tuple[asyncio.Future[Any], ...] = (gone, connection.configured)
    await asyncio.wait(news, timeout=_CONFIGURE_S, return_when=asyncio.FIRST_COMPLETED)
    if connection.configured.done():
        return connection.configured.result()
    if gone.done():
        return None
    raise ProtocolError(
        f"No session.configure came within {_CONFIGURE_S:g} seconds.",
        code="not_configured",
        fix='First send {"type": "session.configure"}.',
    )


async def disconnected(socket: WebSocket[Any, Any, Any]) -> None:
    """Until the client is gone."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


async def close(socket: WebSocket[Any, Any, Any], wire: WireProtocol, code: int, reason: str) -> None:
    """Close in the proper way, or after a while in the other."""
    try:
        async with asyncio.timeout(_CLOSE_S):
            await socket.close(code, reason.encode()[:_CLOSE_REASON_BYTES].decode(errors="ignore"))
            await wire.wait_lost()
    except TimeoutError:
        wire.abort()
    except Exception as error:  # noqa: BLE001 - it may have been closed from the other side at this moment
        log.debug("closing: %r", error)


def _is_allowed(origin: str, host: str, runtime: Runtime) -> bool:
    """Whether a page of that `origin` may connect to this server, which it knows as `host`."""
    if origin in runtime.settings.allowed_origins:
        return True
    try:
        return urlsplit(origin).netloc == host != ""
    except ValueError:
        return False


async def refuse(socket: WebSocket[Any, Any, Any], told: Problem) -> None:
    """Answer the upgrade with a plain HTTP error and a problem document (RFC 9457)."""
    send: Send = socket.send
    await socket.receive()
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"x-request-id", told.request_id.encode())]
    if told.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "websocket.http.response.start", "status": told.status, "headers": headers})
    body = msgspec.json.encode(told)
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})
    wire = socket.scope.get("extensions", {}).get(EXTENSION)  # type: ignore[union-attr]
    if isinstance(wire, WireProtocol):
        # uvicorn forgets that an answer is a completed handshake, and would log each refusal as an error.
        wire.handshake_complete = True


@hookimpl
def register_routes(runtime: Runtime) -> Iterable[Any]:
    """`/ws/audio` and `/v1/sessions/{session_id}/ws`."""

    @websocket("/ws/audio")
    async def call(socket: WebSocket[Any, Any, Any]) -> None:
        await serve_connection(runtime, socket, None)

    @websocket("/v1/sessions/{session_id:str}/ws")
    async def join(socket: WebSocket[Any, Any, Any], session_id: FromPath[str]) -> None:
        await serve_connection(runtime, socket, session_id)

    return [call, join]
