"""What comes before a request over real sockets: heads that are too large, never end or come too slowly, and others."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from rejoinder_adapters import protocol
from rejoinder_adapters.protocol import LARGEST_HEADERS, LONGEST_URL

if TYPE_CHECKING:
    from tests.adapters.conftest import LiveServer, Serve

HEAD = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n"
POST = b"POST /v1/rooms HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"


def connected(server: LiveServer) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", server.port))
    sock.settimeout(10)
    return sock


def answer(sock: socket.socket) -> bytes:
    """All that comes until the server closes."""
    parts = []
    while part := sock.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def asked(server: LiveServer, request: bytes) -> bytes:
    with connected(server) as sock:
        sock.sendall(request)
        return answer(sock)


@pytest.mark.parametrize(
    "headers",
    [
        b"a: " + b"b" * LARGEST_HEADERS + b"\r\n",
        b"a: %s\r\n" % (b"b" * 8000) * 10,
        b"a:\r\n" * (LARGEST_HEADERS // 32),
        b"a" * LARGEST_HEADERS + b": b\r\n",
        b"upgrade: websocket\r\nconnection: upgrade\r\na: " + b"b" * LARGEST_HEADERS + b"\r\n",
    ],
    ids=["one", "ten", "empty ones", "a name", "of an upgrade"],
)
def test_too_many_headers_are_refused(server: LiveServer, headers: bytes) -> None:
    said = asked(server, HEAD + headers + b"\r\n")
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert b"connection: close" in head.lower()
    assert body == b"Request Header Fields Too Large."


def test_a_long_url_is_refused(server: LiveServer) -> None:
    said = asked(server, b"GET /livez?" + b"a" * LONGEST_URL + b" HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 414 ")


def test_what_fits_is_taken(server: LiveServer) -> None:
    url = b"GET /livez?" + b"a" * (LONGEST_URL - 100) + b" HTTP/1.1\r\nhost: localhost\r\n"
    headers = b"a: %s\r\n" % (b"b" * 30_000) * 2 + b"connection: close\r\n\r\n"
    assert asked(server, url + headers).startswith(b"HTTP/1.1 200 ")
    # Each request has as much: what came before does not count.
    again = url + b"a: %s\r\n" % (b"b" * 60_000) + b"\r\n"
    assert asked(server, again * 3 + url + headers).count(b"HTTP/1.1 200 ") == 4
    # A byte at a time, too.
    with connected(server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in HEAD + b"connection: close\r\n\r\n":
            sock.sendall(bytes((byte,)))
        assert answer(sock).startswith(b"HTTP/1.1 200 ")


def test_what_is_no_http_is_refused_as_before(server: LiveServer) -> None:
    said = asked(server, b"nonsense\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert said.endswith(b"\r\n\r\nInvalid HTTP request received.")


@pytest.mark.parametrize(
    ("before", "piece"),
    [
        (HEAD, b"a: " + b"b" * 60_000 + b"\r\n"),
        (HEAD + b"a: ", b"b" * 60_000),
        (HEAD, b"a" * 60_000),
        (b"GET /ws/audio?", b"a" * 60_000),
        (POST + b"2\r\n{}\r\n0\r\n", b"a: " + b"b" * 60_000 + b"\r\n"),
        (POST + b"2\r\n{}\r\n0\r\na: ", b"b" * 60_000),
        (POST + b"2;a=", b"b" * 60_000),
    ],
    ids=["headers", "one header", "a name", "url", "trailers", "one trailer", "chunk extension"],
)
def test_a_head_without_end_is_refused_before_it_ends(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, before: bytes, piece: bytes
) -> None:
    # So that it is its size that ends it.
    monkeypatch.setattr(protocol, "HEAD_S", 1000)
    with connected(server) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(before)
        for _ in range(20):
            sock.sendall(piece)
        said = answer(sock)
        # Of a request that is being answered the connection is just closed.
        assert before.startswith(POST) or said.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 414 "))


@pytest.mark.parametrize("begun", [b"", b"GET /li", HEAD, b"\r\n"])
def test_who_does_not_come_to_the_end_of_the_head_is_let_go(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.2)
    server = serve()
    assert asked(server, begun) == b""
    # The same for a request after another one.
    with connected(server) as sock:
        sock.sendall(HEAD + b"\r\n" + begun)
        said = answer(sock)
        assert said.startswith(b"HTTP/1.1 200 ")
        assert said.count(b"HTTP/1.1") == 1


def test_who_is_answered_slowly_is_not_let_go(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.05)
    server = serve({"first_token_ms": 600})
    body = b'{"model": "scripted", "messages": [{"role": "user", "content": "hello"}]}'
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n" % len(body) + body
    )
    # The next one has begun already.
    said = asked(server, request + b"GET /livez HTTP/1.1\r\n")
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"Certainly" in said


def test_a_call_outlives_the_time_for_its_head(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.1)
    server = serve()
    with server.raw() as sock:
        assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
        sock.settimeout(0.4)
        with pytest.raises(TimeoutError):
            sock.recv(4096)
