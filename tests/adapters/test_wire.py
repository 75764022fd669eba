"""The WebSocket wire against the `websockets` library's own client, byte by byte, without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState
from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.uri import parse_uri

from rejoinder_adapters.wire import EXTENSION, WireProtocol

LARGEST = 1 << 17
SIZES = st.one_of(st.sampled_from([0, 1, 125, 126, 127, 65_535, 65_536, 70_000]), st.integers(0, 70_000))
PATTERN = "añ€😀 ".encode()


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closing = False
        self.reading = True

    def write(self, data: Any) -> None:
        assert not self.closing, "written after the end"
        self.written += data

    def take(self) -> bytes:
        written, self.written = self.written, b""
        return written

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return len(self.written)


class Wire:
    """A connected pair: the protocol under test with its application, and the library's client."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        self.disconnect: dict[str, Any] = {}
        self.on_text: Callable[[bytes], None] = lambda data: self.got.append(("text", data))
        self.close: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        config = uvicorn.Config(
            cast(Any, self._app), interface="asgi3", lifespan="off", log_config=None, ws_max_size=LARGEST
        )
        config.load()
        self.state = ServerState()
        self.protocol = WireProtocol(config, self.state, {})
        self.transport = Transport()
        self.protocol.connection_made(self.transport)
        self.client = ClientProtocol(parse_uri("ws://test/"), max_size=None)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        wire = scope["extensions"][EXTENSION]
        wire.open_wire(lambda data: self.got.append(("binary", data)), lambda data: self.on_text(data))
        gone = asyncio.create_task(receive())
        over: tuple[asyncio.Future[Any], ...] = (gone, self.close)
        await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
        if self.close.done():
            await send({"type": "websocket.close", "code": self.close.result()[0], "reason": self.close.result()[1]})
        self.disconnect = await gone

    async def open(self) -> Wire:
        self.client.send_request(self.client.connect())
        self.feed(b"".join(self.client.data_to_send()))
        await self.settle()
        self.client.receive_data(self.transport.take())
        self.client.events_received()
        return self

    def feed(self, data: bytes) -> None:
        if not self.transport.closing:
            self.protocol.data_received(data)

    async def settle(self) -> None:
        for _ in range(6):
            await asyncio.sleep(0)

    def answers(self) -> list[Frame]:
        """What the client gets, as frames."""
        self.client.receive_data(self.transport.take())
        return [frame for frame in self.client.events_received() if isinstance(frame, Frame)]

    async def lose(self) -> None:
        self.transport.close()
        self.protocol.connection_lost(None)
        await self.settle()
        assert not self.state.tasks


@st.composite
def messages(draw: st.DrawFn) -> tuple[str, bytes, list[int], bool]:
    """Kind, content, where it is cut into fragments, and whether pings come between them."""
    kind = draw(st.sampled_from(["text", "binary"]))
    size = draw(SIZES)
    cuts = sorted(draw(st.lists(st.integers(0, size), max_size=3)))
    return kind, (PATTERN * (size // len(PATTERN) + 1))[:size], cuts, draw(st.booleans())


def play(client: ClientProtocol, script: list[tuple[str, bytes, list[int], bool]]) -> tuple[bytes, list[int], int]:
    """The bytes of all messages, where each frame begins, and the number of pings among them."""
    stream = b""
    starts: list[int] = []
    pings = 0

    def note() -> None:
        nonlocal stream
        starts.append(len(stream))
        stream += b"".join(client.data_to_send())

    for kind, content, cuts, pinging in script:
        edges = [0, *cuts, len(content)]
        for number, (start, end) in enumerate(pairwise(edges)):
            fin = number == len(edges) - 2
            if number:
                client.send_continuation(content[start:end], fin)
            elif kind == "text":
                client.send_text(content[start:end], fin)
            else:
                client.send_binary(content[start:end], fin)
            note()
            if pinging:
                client.send_ping(f"{pings}".encode())
                pings += 1
                note()
    return stream, starts, pings


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow])
@given(script=st.lists(messages(), max_size=5), data=st.data())
def test_messages_arrive_as_they_were_sent_however_tcp_cuts_them(
    script: list[tuple[str, bytes, list[int], bool]], data: st.DataObject
) -> None:
    async def main() -> None:
        wire = await Wire().open()
        stream, starts, pings = play(wire.client, script)
        # Anywhere, and where it hurts: inside a frame's head.
        cuts = data.draw(st.sets(st.integers(0, len(stream)), max_size=8))
        if starts:
            cuts |= data.draw(st.sets(st.builds(int.__add__, st.sampled_from(starts), st.integers(0, 15)), max_size=12))
        edges = [0, *sorted(cuts), len(stream)]
        for start, end in pairwise(edges):
            wire.feed(stream[start:end])
        assert wire.got == [(kind, content) for kind, content, _, _ in script]
        assert wire.transport.reading, "the kernel's buffer is the only queue"
        answers = wire.answers()
        assert [(frame.opcode, frame.data) for frame in answers] == [
            (Opcode.PONG, f"{number}".encode()) for number in range(pings)
        ]
        wire.client.send_close(1000, "bye")
        wire.feed(b"".join(wire.client.data_to_send()))
        await wire.settle()
        assert [frame.opcode for frame in wire.answers()] == [Opcode.CLOSE]
        assert wire.transport.closing
        assert wire.protocol.hung_up
        assert wire.disconnect["code"] == 1000
        await wire.lose()

    asyncio.run(main())


def test_one_byte_at_a_time() -> None:
    async def main() -> None:
        wire = await Wire().open()
        script = [("text", b"hello", [], True), ("binary", bytes(300), [100], True), ("binary", b"", [], False)]
        stream, _, _ = play(wire.client, script)
        for at in range(len(stream)):
            wire.feed(stream[at : at + 1])
        assert wire.got == [("text", b"hello"), ("binary", bytes(300)), ("binary", b"")]
        await wire.lose()

    asyncio.run(main())


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 200_000])
def test_what_is_written_are_frames_as_others_read_them(size: int) -> None:
    async def main() -> None:
        wire = await Wire().open()
        content = (PATTERN * (size // len(PATTERN) + 1))[:size]
        wire.protocol.write_binary(content)
        wire.protocol.write_text(content)
        assert wire.answers() == [Frame(Opcode.BINARY, content), Frame(Opcode.TEXT, content)]
        await wire.lose()

    asyncio.run(main())


def masked_head(first: int, length: int) -> bytes:
    return bytes((first, 0x80 | 127)) + length.to_bytes(8, "big") + b"\0\0\0\0"


@pytest.mark.parametrize("after_fragment", [False, True])
@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x81\x05hello", 1002),
        (b"\x82\x00", 1002),
        (masked_head(0x82, LARGEST + 1), 1009),
        (masked_head(0x82, 1 << 60), 1009),
        (masked_head(0x82, (1 << 63) - 1), 1009),
        (b"\xc2\x80\0\0\0\0", 1002),
        (b"\x83\x80\0\0\0\0", 1002),
        (b"\x89\xfe\x00\xff\0\0\0\0" + bytes(255), 1002),
    ],
    ids=[
        "unmasked",
        "unmasked and empty",
        "too large",
        "far too large",
        "endless",
        "reserved bit",
        "unknown opcode",
        "long ping",
    ],
)
def test_what_breaks_the_protocol_closes_the_connection_and_says_why(
    sent: bytes, code: int, after_fragment: bool
) -> None:
    async def main() -> None:
        for piece in (1, len(sent)):
            wire = await Wire().open()
            before = b"\x02\x81\0\0\0\0x" if after_fragment else b"\x82\x81\0\0\0\0x"
            wire.feed(before)
            for at in range(0, len(sent), piece):
                wire.feed(sent[at : at + piece])
            await wire.settle()
            assert Close.parse(bytes(wire.answers()[-1].data)).code == code
            assert wire.transport.closing
            assert not wire.protocol.hung_up
            assert wire.got == ([] if after_fragment else [("binary", b"x")])
            assert wire.disconnect["code"] == code
            wire.protocol.write_text(b"not sent any more")
            await wire.lose()

    asyncio.run(main())


def test_a_whole_message_between_the_fragments_of_another_is_an_error() -> None:
    async def main() -> None:
        wire = await Wire().open()
        wire.feed(b"\x01\x81\0\0\0\0a" + b"\x81\x81\0\0\0\0b")
        assert Close.parse(bytes(wire.answers()[0].data)).code == 1002
        assert wire.got == []
        await wire.lose()

    asyncio.run(main())


def test_fragments_that_are_too_large_together_are_refused() -> None:
    async def main() -> None:
        wire = await Wire().open()
        wire.client.send_binary(bytes(LARGEST), fin=False)
        wire.client.send_continuation(b"x", fin=True)
        wire.feed(b"".join(wire.client.data_to_send()))
        assert Close.parse(bytes(wire.answers()[0].data)).code == 1009
        assert wire.got == []
        await wire.lose()

    asyncio.run(main())


def test_the_server_closes_and_the_clients_answer_ends_the_connection_at_once() -> None:
    async def main() -> None:
        wire = await Wire().open()
        wire.feed(b"\x82\x85\0\0")  # The head of a message, the rest of which comes after the close.
        wire.close.set_result((1000, "done"))
        await wire.settle()
        wire.protocol.write_text(b"not sent any more")
        closing = wire.answers()
        assert [frame.opcode for frame in closing] == [Opcode.CLOSE]
        assert not wire.transport.closing, "the client's answer is awaited"
        wire.feed(b"\0\0hello" + b"\x81\x81\0\0\0\0x")
        assert wire.got == [], "nobody listens any more"
        wire.feed(b"".join(wire.client.data_to_send()))
        assert wire.transport.closing
        await wire.lose()

    asyncio.run(main())


@pytest.mark.parametrize(("code", "hung_up"), [(1000, True), (1001, True), (None, True), (1011, False), (4000, False)])
def test_hanging_up_is_told_from_breaking(code: int | None, hung_up: bool) -> None:
    async def main() -> None:
        wire = await Wire().open()
        assert not wire.protocol.hung_up
        wire.client.send_close(code)
        wire.feed(b"".join(wire.client.data_to_send()))
        assert wire.protocol.hung_up is hung_up
        await wire.lose()

    asyncio.run(main())
