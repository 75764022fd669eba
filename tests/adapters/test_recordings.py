"""Recordings over REST: made by a real call, fetched in parts, as peaks, and deleted for good."""

from __future__ import annotations

import asyncio
import base64
import io
import wave
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from tests.adapters.conftest import AGENT, LiveServer, running

from rejoinder.audio import byte_count
from rejoinder.settings import Auth, Limits, Recording
from rejoinder.testing.scripted import noise, silence
from rejoinder_adapters.sound import asked_range

START_MS = 60
"""Of the scripted VAD in conftest."""
RECORDED = AGENT.model_copy(update={"recording": Recording(enabled=True)})


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, dict[str, httpx.Client]]]:
    """A server that records and asks for keys, and a client for each of some scopes."""
    folder = tmp_path_factory.mktemp("recordings")
    auth = Auth(mode="keys", dev_key_file=folder / "dev-key")
    options: dict[str, Any] = {"limits": Limits(idle_s=0.1), "recordings_dir": folder / "sound", "auth": auth}
    with running(folder / "test.db", {"ms_per_word": 300}, agents={"kept": RECORDED}, **options) as live:
        clients = {}
        for scope in ("read", "listen", "talk", "admin"):
            _, key = live.call(live.runtime.gate.keys.create(scope, [scope]))
            clients[scope] = httpx.Client(base_url=live.http, headers={"authorization": f"Bearer {key}"}, timeout=20)
        yield live, clients
        for client in clients.values():
            client.close()


async def _call(server: LiveServer, key: str, agent: str) -> tuple[str, list[dict[str, Any]]]:
    from websockets.asyncio.client import connect

    headers = {"authorization": f"Bearer {key}"}
    async with connect(
        server.ws + "/ws/audio", additional_headers=headers, compression=None, proxy=None, max_queue=None
    ) as ws:
        caller = server.caller_on(ws)
        await caller.tell("session.configure", agent=agent, output_rate=16_000)
        started = await caller.until("session.started")
        assert started.get("recorded", False) is (agent == "kept")

        async def speak(pcm: bytes) -> None:
            loop = asyncio.get_running_loop()
            began = loop.time()
            size = byte_count(20, 16_000)
            for number, at in enumerate(range(0, len(pcm), size), 1):
                await ws.send(pcm[at : at + size])
                await asyncio.sleep(max(0.0, began + number * 0.02 - loop.time()))

        await speak(silence(300) + noise(500) + silence(600))
        await caller.until("reply.started")
        await speak(silence(400) + noise(700) + silence(300))
        await caller.until("clear_audio")
        await speak(silence(600))
        await caller.tell("end")
        await caller.until_closed()
        return started["session_id"], [item for item in caller.log if isinstance(item, dict)]


@pytest.fixture(scope="module")
def call(kept: tuple[LiveServer, dict[str, httpx.Client]]) -> tuple[str, list[dict[str, Any]]]:
    """A call with an interruption that was recorded: its id and events."""
    server, clients = kept
    made = asyncio.run(_call(server, clients["talk"].headers["authorization"].split()[1], "kept"))
    server.call(server.runtime.recordings.settle())
    return made


def _sides(raw: bytes) -> np.ndarray[Any, Any]:
    with wave.open(io.BytesIO(raw)) as wav:
        assert (wav.getnchannels(), wav.getsampwidth(), wav.getframerate()) == (2, 2, 16_000)
        return np.frombuffer(wav.readframes(wav.getnframes()), "<i2").reshape(-1, 2)


def _sounds(side: np.ndarray[Any, Any]) -> list[tuple[float, float]]:
    loud = np.flatnonzero(np.abs(side) > 500)
    return [(part[0] / 16, part[-1] / 16) for part in np.split(loud, np.flatnonzero(np.diff(loud) > 3200) + 1)]


def test_the_sound_lies_where_the_events_say(kept: Any, call: Any) -> None:
    _, clients = kept
    session_id, events = call
    detail = clients["read"].get(f"/v1/sessions/{session_id}").json()
    recording = detail["recording"]
    assert recording["available"]
    assert recording["started_at"] == detail["session"]["started_at"]
    answer = clients["listen"].get(f"/v1/sessions/{session_id}/recording")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "audio/wav"
    assert len(answer.content) == recording["bytes"] == int(answer.headers["content-length"])
    sides = _sides(answer.content)
    assert abs(len(sides) / 16 - recording["duration_ms"]) <= 1
    assert abs(recording["duration_ms"] - (detail["session"]["ended_at"] - recording["started_at"])) <= 30

    def at(kind: str, index: int = 0) -> float:
        found = [event["at"] for event in events if event["type"] == kind]
        return float(found[index] - recording["started_at"])

    user, agent = _sounds(sides[:, 0]), _sounds(sides[:, 1])
    assert abs(user[0][0] - (at("user.speech_started") - START_MS)) <= 30
    assert abs(user[1][0] - (at("user.speech_started", 1) - START_MS)) <= 30
    assert abs(agent[0][0] - at("reply.started")) <= 30
    cleared = at("clear_audio")
    assert abs(agent[0][1] - cleared) <= 30, "what the user never heard is not there"


def test_a_part_can_be_fetched(kept: Any, call: Any) -> None:
    listener, path = kept[1]["listen"], f"/v1/sessions/{call[0]}/recording"
    whole = listener.get(path)
    size, tag = len(whole.content), whole.headers["etag"]
    assert whole.headers["accept-ranges"] == "bytes"
    assert "content-disposition" not in whole.headers
    for asked, start, stop in (
        ("bytes=0-43", 0, 44),
        ("bytes=100-", 100, size),
        ("bytes=-10", size - 10, size),
        (f"bytes=10-{size * 2}", 10, size),
    ):
        part = listener.get(path, headers={"range": asked})
        assert part.status_code == 206, asked
        assert part.content == whole.content[start:stop]
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
    for asked in ("bytes=5-2", "bytes=-", "lines=1-2", "bytes=0-1,5-6", "nonsense"):
        assert listener.get(path, headers={"range": asked}).status_code == 200, asked
    for asked in (f"bytes={size}-", "bytes=-0"):
        beyond = listener.get(path, headers={"range": asked})
        assert beyond.status_code == 416
        assert beyond.headers["content-range"] == f"bytes */{size}"
        assert beyond.json()["code"] == "bad_byte_range"
    assert listener.get(path, headers={"range": "bytes=0-9", "if-range": tag}).status_code == 206
    assert listener.get(path, headers={"range": "bytes=0-9", "if-range": '"other"'}).status_code == 200
    assert listener.get(path, headers={"if-none-match": tag}).status_code == 304
    head = listener.head(path, headers={"range": "bytes=0-43"})
    assert (head.status_code, head.headers["content-length"], head.content) == (206, "44", b"")
    saved = listener.get(path, params={"download": 1})
    assert saved.headers["content-disposition"] == f'attachment; filename="{call[0]}.wav"'


def test_peaks_show_both_sides(kept: Any, call: Any) -> None:
    listener, path = kept[1]["listen"], f"/v1/sessions/{call[0]}/recording"
    found = [listener.get(f"{path}/peaks").json() for _ in range(2)]
    assert found[0] == found[1], "the second time from the file beside it"
    assert found[0]["per_second"] == 100
    sides = _sides(listener.get(path).content)
    for channel, name in enumerate(("user", "agent")):
        peaks = np.frombuffer(base64.b64decode(found[0][name]), np.uint8)
        assert len(peaks) == -(-len(sides) // 160)
        assert np.array_equal(peaks > 1, np.abs(_blocks(sides[:, channel])).max(axis=1) >> 8 > 1)


def _blocks(side: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.pad(side.astype(np.int32), (0, -len(side) % 160)).reshape(-1, 160)


def test_who_may_hear_is_asked_and_written_down(kept: Any, call: Any) -> None:
    server, clients = kept
    path = f"/v1/sessions/{call[0]}/recording"
    for name in ("", "/peaks"):
        refused = clients["read"].get(path + name)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    for _ in range(3):
        assert clients["admin"].get(path, headers={"range": "bytes=0-1"}).status_code == 206
    rows = server.call(server.runtime.audit.rows(action="recording.fetch", subject=call[0]))
    assert sorted(row.actor_name for row in rows) == sorted({row.actor_name for row in rows})
    assert "admin" in [row.actor_name for row in rows]


def test_deletion_is_real(kept: Any) -> None:
    server, clients = kept
    session_id, _ = asyncio.run(_call(server, clients["talk"].headers["authorization"].split()[1], "kept"))
    server.call(server.runtime.recordings.settle())
    file = server.runtime.recordings.folder / f"{session_id}.wav"
    path = f"/v1/sessions/{session_id}"
    assert clients["listen"].get(f"{path}/recording/peaks").status_code == 200
    assert file.exists()
    assert clients["listen"].delete(f"{path}/recording").status_code == 403
    assert clients["admin"].delete(f"{path}/recording").status_code == 204
    assert not list(server.runtime.recordings.folder.glob(f"{session_id}*"))
    gone = clients["admin"].get(f"{path}/recording")
    assert (gone.status_code, gone.json()["code"]) == (410, "recording_deleted")
    told = clients["read"].get(path).json()["recording"]
    assert told["deleted_at"]
    assert not told["available"]
    assert clients["admin"].delete(path).status_code == 204
    assert clients["read"].get(path).status_code == 404
    assert clients["admin"].delete(path).status_code == 404
    for action in ("recording.delete", "session.delete"):
        (row,) = server.call(server.runtime.audit.rows(action=action, subject=session_id))
        assert row.actor_name == "admin"


def test_a_session_that_goes_on_is_not_deleted_and_not_fetched(kept: Any) -> None:
    server, clients = kept
    session = server.call(server.runtime.start_session("kept"))
    path = f"/v1/sessions/{session.id}"
    answer = clients["admin"].delete(path)
    assert (answer.status_code, answer.json()["code"]) == (409, "session_live")
    answer = clients["admin"].get(f"{path}/recording")
    assert (answer.status_code, answer.json()["code"]) == (409, "recording_unfinished")
    server.call(session.close("done"))
    server.call(server.runtime.recordings.settle())
    assert clients["admin"].delete(path).status_code == 204
    assert not list(server.runtime.recordings.folder.glob(f"{session.id}*"))


def test_without_a_recording_there_is_none(kept: Any) -> None:
    server, clients = kept
    session_id, _ = asyncio.run(_call(server, clients["talk"].headers["authorization"].split()[1], "scripted"))
    answer = clients["listen"].get(f"/v1/sessions/{session_id}/recording")
    assert (answer.status_code, answer.json()["code"]) == (404, "no_recording")
    assert clients["read"].get(f"/v1/sessions/{session_id}").json()["recording"] is None


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", None),
        ("bytes=0-0", range(1)),
        ("BYTES = 2 - 3", range(2, 4)),
        ("bytes=-200", range(100)),
        ("bytes=100-", range(0)),
        ("bytes=-0", range(100, 100)),
        ("bytes=9999999999999999999999-", None),
    ],
)
def test_ranges(header: str, expected: range | None) -> None:
    assert asked_range(header, 100) == expected
