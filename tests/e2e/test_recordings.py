"""A server that is killed while it records leaves a WAV file that can be played, and the next start closes it."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
import wave
from pathlib import Path

import httpx
import numpy as np
from tests.e2e.conftest import AGENT, ServerProcess, Start
from websockets.asyncio.client import connect

from rejoinder.testing.scripted import noise

RECORDED = {"scripted": {**AGENT, "recording": {"enabled": True}}}


async def _talk(server: ServerProcess, file: Path, seconds: float) -> str:
    """Speak until that much is in the file, which can be played all the while; then the server is killed."""
    async with connect(f"{server.url}/ws/audio", compression=None, proxy=None, max_queue=None) as ws:
        session_id = ""
        await ws.send(json.dumps({"type": "session.configure"}))
        started = json.loads(await ws.recv())
        session_id = started["session_id"]
        assert started["recorded"]
        path, length = file / f"{session_id}.wav", 0.0
        limit = time.monotonic() + 30
        while length < seconds and time.monotonic() < limit:
            await ws.send(noise(20))
            await asyncio.sleep(0.02)
            if path.exists():
                with wave.open(str(path), "rb") as wav:
                    length = wav.getnframes() / wav.getframerate()
        assert length >= seconds
        server.process.kill()
    return str(session_id)


def test_a_server_that_is_killed_leaves_a_recording(start: Start, tmp_path: Path) -> None:
    agents = json.dumps(RECORDED)
    server = start({}, AGENTS=agents)
    session_id = asyncio.run(_talk(server, tmp_path / "recordings", 2.0))
    server.wait(10)
    path = tmp_path / "recordings" / f"{session_id}.wav"
    with wave.open(str(path), "rb") as wav:
        assert wav.getnframes() >= 32_000
    # As if it had been a while ago.
    os.utime(path, (time.time() - 60,) * 2)
    server = start({}, AGENTS=agents)
    http = server.url.replace("ws://", "http://")
    limit = time.monotonic() + 20
    while (answer := httpx.get(f"{http}/v1/sessions/{session_id}/recording")).status_code == 409:
        assert time.monotonic() < limit, answer.text
        time.sleep(0.1)
    assert answer.status_code == 200, answer.text
    path.with_suffix(".copy").write_bytes(answer.content)
    with wave.open(str(path.with_suffix(".copy")), "rb") as wav:
        sides = np.frombuffer(wav.readframes(wav.getnframes()), "<i2").reshape(-1, 2)
    assert len(sides) >= 32_000
    assert np.any(sides[:, 0])
    with sqlite3.connect(server.database) as database:
        ((duration, size),) = database.execute("SELECT duration_ms, bytes FROM recordings").fetchall()
    assert size == path.stat().st_size
    assert duration == round(len(sides) / 16)
