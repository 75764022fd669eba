"""The Wyoming server of the tests as a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVER = Path(__file__).with_name("wyoming_server.py")


class Running:
    """A server process."""

    def __init__(self, *options: str) -> None:
        self._options = options
        self._process = self._start()

    def _start(self, port: int = 0) -> subprocess.Popen[str]:
        command = [sys.executable, str(SERVER), "--port", str(port), *self._options]
        # Its errors are tracebacks of clients that go away; that is what the tests do.
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        word, _, number = process.stdout.readline().partition(" ")
        assert word == "ready"
        self.port = int(number)
        return process

    @property
    def uri(self) -> str:
        """Its address."""
        return f"tcp://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """At once, in the middle of whatever it does."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def again(self) -> None:
        """At the same address."""
        self._process = self._start(self.port)


@contextmanager
def running(*options: str) -> Iterator[Running]:
    """A server, ended at the end."""
    server = Running(*options)
    try:
        yield server
    finally:
        if server._process.poll() is None:
            server.kill()
