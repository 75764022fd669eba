"""What the tests of the OpenAI-compatible endpoints share."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import httpx

from .conftest import LiveServer


def eventually(true: Callable[[], bool]) -> None:
    """Wait until it is; the test fails if it never is."""
    ends = time.monotonic() + 10
    while not true():
        assert time.monotonic() < ends, "it never happened"
        time.sleep(0.01)


def sent(live: LiveServer, path: str, **content: Any) -> socket.socket:
    """A socket on which a POST was sent, as httpx would send it: what is read comes after it."""
    request = httpx.Request("POST", live.http + path, **content)
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers.items())]
    sock = socket.create_connection(("127.0.0.1", live.port), timeout=10)
    sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + request.read())
    return sock
