"""A server of one's own for a benchmark: a subprocess on a free loopback port, with a database that is thrown away."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rejoinder.commands.doctor import serves_rejoinder
from rejoinder.errors import RejoinderError

HOST = "127.0.0.1"
POLL_S = 0.1
STOP_S = 10.0
LOG_TAIL = 2000
REALTIME_PRIORITY = 10


@dataclass(frozen=True, slots=True)
class OwnServer:
    """Where it listens and which process it is."""

    url: str
    pid: int


@contextlib.contextmanager
def own_server(
    environment: Mapping[str, str], *, inherit: bool, core: int | None, realtime: bool, ready_s: float
) -> Iterator[OwnServer]:
    """Run `rejoinder serve` until the block is left; `environment` is added to its own.

    With `inherit` it uses the settings of this directory and environment, without it only defaults. `core` is the one
    CPU it may use; `realtime` asks for the SCHED_FIFO scheduler, which needs the right to.

    Raises:
        RejoinderError: it ended, or was not ready within `ready_s` s (`server_failed`); the message has its last words.
    """
    with tempfile.TemporaryDirectory(prefix="rejoinder-bench-") as name:
        folder = Path(name)
        port = _free_port()
        kept = {key: value for key, value in os.environ.items() if inherit or not key.startswith("REJOINDER_")}
        own = {
            "REJOINDER_HOST": HOST,
            "REJOINDER_PORT": str(port),
            "REJOINDER_DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'bench.db'}",
            "REJOINDER_AUTH__MODE": "none",
        }
        log = folder / "log.txt"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "rejoinder", "serve"],
                env={**kept, **own, **environment},
                cwd=None if inherit else folder,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                preexec_fn=_place(core, realtime),
            )
        try:
            _wait_ready(process, port, ready_s, log)
            yield OwnServer(f"ws://{HOST}:{port}", process.pid)
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def place_client(core: int | None, realtime: bool) -> None:
    """Put this process on one core, as `own_server` does with the server."""
    place = _place(core, realtime)
    if place:
        place()


def cores() -> tuple[int | None, int | None]:
    """A core for the server and another for its clients; none where they would have to share one."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 else (None, None)


def _place(core: int | None, realtime: bool) -> Callable[[], None] | None:
    if core is None and not realtime:
        return None

    def place() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})
        if realtime:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(REALTIME_PRIORITY))

    return place


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_ready(process: subprocess.Popen[bytes], port: int, ready_s: float, log: Path) -> None:
    deadline = time.monotonic() + ready_s
    while not serves_rejoinder(HOST, port):
        if process.poll() is not None:
            what = f"The benchmark's server ended with exit code {process.returncode}"
        elif time.monotonic() > deadline:
            what = f"The benchmark's server was not ready within {ready_s:g} s"
        else:
            time.sleep(POLL_S)
            continue
        words = log.read_text(errors="replace")[-LOG_TAIL:].strip()
        raise RejoinderError(f"{what}. It said:\n{words}\n", code="server_failed", fix="rejoinder doctor")
