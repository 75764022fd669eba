"""Listening in: the sound of a live session, both sides, for people who may; nobody in the call notices."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
from litestar import WebSocket, websocket
from litestar.params import FromPath

from rejoinder.app import Runtime
from rejoinder.audio import ENGINE_RATE
from rejoinder.auth import Principal
from rejoinder.errors import RejoinderError, StoreError
from rejoinder.tape import CHANNELS
from rejoinder_adapters.problems import of_error
from rejoinder_adapters.security import audit, principal_of
from rejoinder_adapters.sessions import live_session
from rejoinder_adapters.websocket import SUBPROTOCOL, admitted, close, disconnected, refuse
from rejoinder_adapters.wire import WireProtocol

log = logging.getLogger(__name__)
_NORMAL, _POLICY = 1000, 1008
_CHECK_S = 3.0
"""So often it is looked whether the listener still may."""


class Listening(msgspec.Struct, tag="listening"):
    """The first message; then come binary ones of about 100 ms of PCM16: left the user, right the agent."""

    session_id: str
    rate: int = ENGINE_RATE
    channels: int = CHANNELS


class Listener:
    """One who listens: a taker of the session's tape."""

    def __init__(self, wire: WireProtocol, most_bytes: int) -> None:
        self._wire = wire
        self._most_bytes = most_bytes
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_block(self, position: int, pcm: bytes) -> None:
        """Send it on."""
        self._wire.write_binary(pcm)
        if self._wire.buffered() > self._most_bytes:
            log.warning(
                "a listener does not take what it is sent (%d bytes wait) and is cut off", self._wire.buffered()
            )
            self._wire.abort()

    def on_over(self, reason: str) -> None:
        """The session has ended."""
        if not self.over.done():
            self.over.set_result(reason)


async def serve_listener(runtime: Runtime, socket: WebSocket[Any, Any, Any], session_id: str) -> None:
    """The life of one listener's socket."""
    wire = await admitted(socket, runtime)
    if wire is None:
        return
    try:
        principal = await principal_of(socket)
        principal.check("listen", session_id)
        session = await live_session(runtime, session_id, start=False)
    except RejoinderError as refusal:
        await refuse(socket, of_error(socket, refusal))
        return
    offered = socket.scope.get("subprotocols", [])
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
    # What a listener sends is for nobody.
    wire.open_wire(lambda data: None, lambda data: None)
    if session.ended_reason is not None:
        await close(socket, wire, _NORMAL, session.ended_reason)
        return
    wire.write_text(msgspec.json.encode(Listening(session_id)))
    listener = Listener(wire, runtime.settings.limits.outbox_bytes)
    leave = session.deck.take(listener, listens=True)
    began = runtime.clock.monotonic()
    audit(socket, "session.listen", session_id, began=True)
    gone = asyncio.create_task(disconnected(socket), name="listener watcher")
    barred = asyncio.create_task(_barred(runtime, principal, session_id), name="listener's right")
    try:
        over: tuple[asyncio.Future[Any], ...] = (gone, barred, listener.over)
        await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
        if listener.over.done():
            await close(socket, wire, _NORMAL, listener.over.result())
        elif barred.done():
            leave()
            await close(socket, wire, _POLICY, "unauthorized")
    finally:
        leave()
        audit(socket, "session.listen", session_id, seconds=round(runtime.clock.monotonic() - began, 1))
        gone.cancel()
        barred.cancel()
        await asyncio.wait({gone, barred})


async def _barred(runtime: Runtime, principal: Principal, session_id: str) -> None:
    """Until who listens may not any more: logged out, disabled, with another role, with a key that was revoked."""
    while True:
        await asyncio.sleep(_CHECK_S)
        try:
            now = await runtime.gate.still(principal)
        except StoreError:
            # Whoever came while the database answered does not go because it does not.
            continue
        if now is None or not now.may("listen", session_id):
            return


def routes(runtime: Runtime) -> list[Any]:
    """`/v1/sessions/{session_id}/listen`."""

    @websocket("/v1/sessions/{session_id:str}/listen")
    async def listen(socket: WebSocket[Any, Any, Any], session_id: FromPath[str]) -> None:
        await serve_listener(runtime, socket, session_id)

    return [listen]
