"""`rejoinder serve` as people run it: a process of its own, on a free port, with scripted providers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

AGENT = {
    "vad": "scripted",
    "stt": "scripted",
    "llm": "scripted",
    "tts": "scripted",
    "tools": [],
    "turns": {"pause_ms": 40},
}


class ServerProcess:
    """The process; `said` is its standard error so far."""

    def __init__(self, process: subprocess.Popen[str], database: Path) -> None:
        self.process = process
        self.database = database
        self.url = ""
        self._said: list[str] = []
        self._ready = threading.Event()
        assert process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(process.stderr,))
        self._reader.start()
        assert self._ready.wait(30), self.said
        assert self.url, self.said

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._said.append(line)
            if found := re.search(r"ws://[^/\s)]+", line):
                self.url = found.group()
                self._ready.set()
        self._ready.set()

    @property
    def said(self) -> str:
        return "".join(self._said)

    @property
    def rss_mb(self) -> float:
        """Memory of the process."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6

    def wait(self, timeout: float) -> float:
        """Wait for its end; the seconds that took."""
        started = time.monotonic()
        self.process.wait(timeout)
        self._reader.join(5)
        return time.monotonic() - started

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(5)
        assert self.process.stderr is not None
        self.process.stderr.close()


Start = Callable[..., ServerProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start({"repeat": 3}, LIMITS__IDLE_S="2")`: a server with that script and those settings; `python` runs it."""
    servers: list[ServerProcess] = []

    def begin(script: dict[str, Any], *, python: str | Path = sys.executable, **settings: str) -> ServerProcess:
        database = tmp_path / "rejoinder.db"
        scripted = {"start_ms": 60, "end_silence_ms": 100, **script}
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("REJOINDER_")},
            "REJOINDER_PORT": "0",
            "REJOINDER_AUTH__MODE": "none",
            "REJOINDER_AUTH__DEV_KEY_FILE": str(tmp_path / "dev-key"),
            "REJOINDER_DATABASE_URL": f"sqlite+aiosqlite:///{database}",
            "REJOINDER_DEFAULT_AGENT": "scripted",
            "REJOINDER_AGENTS": json.dumps({"scripted": AGENT}),
            "REJOINDER_PLUGINS": json.dumps({"scripted": scripted}),
            **{f"REJOINDER_{key}": value for key, value in settings.items()},
        }
        process = subprocess.Popen(
            [python, "-m", "rejoinder", "serve"],
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        server = ServerProcess(process, database)
        servers.append(server)
        return server

    try:
        yield begin
    finally:
        for server in servers:
            server.stop()
