"""The WebSocket wire: uvicorn's protocol with a short cut for whole frames: no queue and no task per audio frame.

Opening, closing, ping, pong, fragments and errors stay with the `websockets` library; only unfragmented text and binary
frames (RFC 6455, 5.2) are read and written here, in plain function calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.speedups import apply_mask

EXTENSION = "rejoinder.wire"
"""Key in the ASGI scope's `extensions` where the connection's `WireProtocol` is found."""
_TEXT, _BINARY = 0x81, 0x82
_MASKED = 0x80
_GOODBYES = (1000, 1001, 1005)
"""Close codes of a peer that leaves on purpose; a browser's plain `close()` sends none, which reads as 1005."""


class WireProtocol(WebSocketsSansIOProtocol):
    """A uvicorn WebSocket protocol class (`uvicorn --ws rejoinder_adapters.wire:WireProtocol`).

    After `open_wire` messages go to the given functions instead of to ASGI's `receive`, which then only ever gives
    the disconnect.
    """

    _on_binary: Callable[[bytes], None] | None = None
    _on_text: Callable[[bytes], None] | None = None

    def open_wire(self, on_binary: Callable[[bytes], None], on_text: Callable[[bytes], None]) -> None:
        """From now on call these for each message; they must not raise. Call right after accepting."""
        self._on_binary = on_binary
        self._on_text = on_text
        self._rest = bytearray()
        self._lost = asyncio.Event()

    def write_binary(self, data: bytes) -> None:
        """Send a binary message now; dropped if the connection is closing."""
        self._write(_BINARY, data)

    def write_text(self, data: bytes) -> None:
        """Send a text message (UTF-8) now; dropped if the connection is closing."""
        self._write(_TEXT, data)

    def buffered(self) -> int:
        """Bytes that the peer has not taken yet, beyond what the kernel holds; 0 once the connection is closing."""
        return 0 if self.transport.is_closing() else self.transport.get_write_buffer_size()

    def abort(self) -> None:
        """Cut the connection without a closing handshake: for a peer that does not read."""
        self.transport.abort()

    async def wait_lost(self) -> None:
        """Until the connection is gone."""
        await self._lost.wait()

    @property
    def hung_up(self) -> bool:
        """Whether the peer closed the connection on purpose, rather than that it broke."""
        received = self.conn.close_rcvd
        return received is not None and received.code in _GOODBYES

    def handle_connect(self, event: Any) -> None:
        """Let the application find this object."""
        super().handle_connect(event)
        if self.handshake_initiated and not self.handshake_complete:
            self.scope["extensions"][EXTENSION] = self  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        super().connection_lost(exc)
        if self._on_binary is not None:
            self._lost.set()

    def data_received(self, data: bytes | bytearray) -> None:
        """Bytes from the peer: whole masked data frames are handled here, everything else by the library."""
        on_binary, on_text = self._on_binary, self._on_text
        if on_binary is None or on_text is None:
            super().data_received(bytes(data))
            return
        rest = self._rest
        if rest:
            rest += data
            data = rest
        position, size = 0, len(data)
        while size - position >= 2:
            first, second = data[position], data[position + 1]
            if self.close_sent or not second & _MASKED:
                # All that follows is the library's: the peer's close frame, or its last words to a peer in the wrong.
                end = size
            else:
                length = second & 0x7F
                payload = position + 6
                if length == 126:
                    payload += 2
                    length = int.from_bytes(data[position + 2 : position + 4], "big")
                elif length == 127:
                    payload += 8
                    length = int.from_bytes(data[position + 2 : position + 10], "big")
                if size < payload:
                    break
                if length > self.config.ws_max_size:
                    end = size
                else:
                    end = payload + length
                    if size < end:
                        break
                    # Between the fragments of a message a whole one is an error, which the library answers.
                    if not self.frames and first in (_BINARY, _TEXT):
                        message = apply_mask(data[payload:end], data[payload - 4 : payload])
                        (on_binary if first == _BINARY else on_text)(message)
                        position = end
                        continue
            super().data_received(bytes(data[position:end]))
            position = end
        if data is rest:
            del rest[:position]
        elif position < size:
            rest += data[position:]

    def send_receive_event_to_app(self) -> None:
        """A message that came in fragments is complete."""
        if self._on_binary is None or self._on_text is None:
            super().send_receive_event_to_app()
            return
        data = b"".join(self.frames)
        self.frames = []
        if not self.close_sent:
            (self._on_text if self.curr_msg_data_type == "text" else self._on_binary)(data)

    def _write(self, opcode: int, data: bytes) -> None:
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        size = len(data)
        if size < 126:
            head = bytes((opcode, size))
        elif size < 65_536:
            head = bytes((opcode, 126, size >> 8, size & 0xFF))
        else:
            head = bytes((opcode, 127)) + size.to_bytes(8, "big")
        self.transport.write(head + data)
