"""Recordings: what lies in the file and when, what becomes of it on a bad disk, after a crash and in time."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
import time
import wave
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from rejoinder import wavfile
from rejoinder.app import Runtime
from rejoinder.clock import LoopClock, SystemClock
from rejoinder.events import AgentChanged, ClearAudio, Error, ReplyStarted, ServerEvent, SpeechStarted
from rejoinder.providers import LlmDelta, LlmRequest, ToolCall
from rejoinder.recording import Disk, Recordings
from rejoinder.settings import Agent, Auth, Recording, Settings
from rejoinder.store.statements import Write
from rejoinder.store.store import Store
from rejoinder.testing.pilot import SessionPilot, pilot
from rejoinder.testing.scripted import ScriptedLlm, ScriptedStt
from rejoinder.testing.virtual_time import run_virtual
from rejoinder_plugins.tools.transfer import TRANSFER

RECORDED = Agent(recording=Recording(enabled=True), tools=())
QUIET = Agent(tools=())
EPOCH_MS = 1_700_000_000_000
VAD_MS = 100
Sides = NDArray[np.int16]


def sides_of(path: Path) -> Sides:
    with wave.open(str(path), "rb") as wav:
        assert (wav.getnchannels(), wav.getsampwidth(), wav.getframerate()) == (2, 2, 16_000)
        return np.frombuffer(wav.readframes(wav.getnframes()), "<i2").reshape(-1, 2)


def onsets(side: NDArray[np.int16], gap_ms: int = 200) -> list[tuple[float, float]]:
    """From when to when there is sound, in ms; shorter silences are part of it."""
    loud = np.flatnonzero(np.abs(side) > 500)
    parts = np.split(loud, np.flatnonzero(np.diff(loud) > gap_ms * 16) + 1) if len(loud) else []
    return [(part[0] / 16, part[-1] / 16) for part in parts]


class Rows:
    """A store that keeps what it is given to write."""

    def __init__(self) -> None:
        self.put: list[tuple[Write, tuple[Any, ...]]] = []
        self.writer = SimpleNamespace(put=lambda write, row: self.put.append((write, row)))


@asynccontextmanager
async def recorded(folder: Path, disk: Disk | None = None, **options: Any) -> AsyncIterator[tuple[SessionPilot, Rows]]:
    """A session that is recorded; after it the file is closed."""
    rows = Rows()
    recordings = Recordings(cast(Store, rows), folder, LoopClock(EPOCH_MS), disk=disk)
    async with pilot(**{"agent": RECORDED, **options}) as client:
        recordings.watch(client.session)
        yield client, rows
    # In real time: a virtual clock would run away while the thread works.
    while recordings.busy("ses_pilot"):
        time.sleep(0.001)  # noqa: ASYNC251
        await asyncio.sleep(0)
    if (thread := recordings._disk._thread) is not None:
        recordings._disk._jobs.put(None)
        thread.join(10)
        assert not thread.is_alive()


def at_ms(events: list[ServerEvent]) -> list[int]:
    return [event.at - EPOCH_MS for event in events]


@pytest.mark.parametrize("reports", [False, True])
def test_both_sides_lie_where_the_events_say_also_after_a_barge_in(tmp_path: Path, reports: bool) -> None:
    seen: dict[str, Any] = {}

    async def main() -> None:
        llm = ScriptedLlm(lambda request: ("Here is a long answer with a good many words in it. " * 3,))
        stt = ScriptedStt(("tell me", "stop it now please"))
        async with recorded(tmp_path, llm=llm, stt=stt, reports=reports) as (client, rows):
            await client.pause(500)
            await client.turn(1000, 1500)
            seen["first"] = client.now * 1000
            await client.speak(1200)
            cleared = await client.until(ClearAudio)
            await client.until(SpeechStarted, 2)
            await client.pause(3000)
            seen["speech"] = at_ms(list(client.events(SpeechStarted)))
            seen["cleared"] = cleared.at - EPOCH_MS
            seen["replies"] = at_ms(list(client.events(ReplyStarted)))
            seen["rows"] = rows
        seen["end"] = client.now * 1000

    run_virtual(main())
    sides = sides_of(tmp_path / "ses_pilot.wav")
    assert abs(len(sides) / 16 - seen["end"]) <= 20
    user, agent = onsets(sides[:, 0]), onsets(sides[:, 1])
    assert len(user) == 2
    for (start, _), told in zip(user, seen["speech"], strict=True):
        assert abs(start - (told - VAD_MS)) <= 30
    # Its answer was ready; nothing of it is there once it was to be silent; then comes the next one.
    assert abs(agent[0][0] - seen["replies"][0]) <= 30
    assert abs(agent[0][1] - seen["cleared"]) <= 30
    assert abs(agent[1][0] - seen["replies"][1]) <= 30
    (begun, row), (finished, end) = seen["rows"].put
    assert (begun, finished) == (Write.RECORDING, Write.RECORDING_FINISHED)
    assert row == ("ses_pilot", "ses_pilot.wav", 16_000, EPOCH_MS, EPOCH_MS + 30 * 86_400_000)
    assert end == (round(len(sides) / 16), (tmp_path / "ses_pilot.wav").stat().st_size, "ses_pilot")


def test_files_are_for_the_server_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with recorded(tmp_path / "new" / "folder") as (client, _):
            await client.turn()

    run_virtual(main())
    folder = tmp_path / "new" / "folder"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "ses_pilot.wav").stat().st_mode) == 0o600


def test_nothing_is_kept_of_an_agent_that_does_not_want_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with recorded(tmp_path / "none", agent=QUIET) as (client, rows):
            await client.turn()
            assert client.session.deck.tape is None
        assert not rows.put

    run_virtual(main())
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("first", [True, False])
def test_a_transfer_stops_it_and_starts_it(tmp_path: Path, first: bool) -> None:
    seen: dict[str, float] = {}

    async def main() -> None:
        desk, other = (RECORDED, QUIET) if first else (QUIET, RECORDED)
        desk = desk.model_copy(update={"transfers": ("other",)})

        def script(request: LlmRequest) -> Iterable[LlmDelta]:
            if request.messages[-1].role == "user":
                yield ToolCall("c1", "transfer", '{"agent": "other"}')
            yield "One moment."

        others = {"other": (other, ScriptedLlm())}
        llm = ScriptedLlm(script)
        async with recorded(tmp_path, agent=desk, llm=llm, others=others, tools=[TRANSFER]) as (client, _):
            await client.speak(600)
            changed = await client.until(AgentChanged)
            assert changed.recorded is not first
            seen["changed"] = client.now * 1000
            await client.speak(600)
            await client.pause(1500)
        seen["end"] = client.now * 1000

    run_virtual(main())
    sides = sides_of(tmp_path / "ses_pilot.wav")
    assert abs(len(sides) / 16 - seen["end"]) <= 20
    sound = onsets(sides[:, 0])
    assert len(sound) == 1
    assert (sound[0][1] <= seen["changed"] + 20) if first else (sound[0][0] >= seen["changed"] - 40)
    kept = sides[: int(seen["changed"] * 16)] if first else sides[int(seen["changed"] * 16) :]
    assert np.any(kept[:, 0])


class BadDisk:
    """Writes until it is full."""

    def __init__(self, good: Callable[[int], bool]) -> None:
        self.calls = 0
        self.good = good

    def __call__(self, path: Path, offset: int, pcm: bytes, rate: int, channels: int) -> None:
        self.calls += 1
        if not self.good(self.calls):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        wavfile.write_at(path, offset, pcm, rate, channels)


def test_a_full_disk_is_told_once_and_costs_the_sound_alone(tmp_path: Path) -> None:
    async def main() -> None:
        bad = BadDisk(lambda call: call not in (3, 4))
        disk = Disk(bad)
        async with recorded(tmp_path, disk) as (client, _):
            for _ in range(80):
                await client.speak(100)
                while disk.waiting:
                    time.sleep(0.001)  # noqa: ASYNC251
            await client.pause(1000)
            errors = [event for event in client.events(Error) if event.code == "recording_failed"]
            assert len(errors) == 1
            assert client.closed_reason is None

    run_virtual(main())
    sides = sides_of(tmp_path / "ses_pilot.wav")
    # The beginning is there, what came while it was full is silence, and then it goes on in its place.
    assert np.any(sides[: 16 * 900, 0])
    assert not np.any(sides[16 * 1000 : 16 * 3000])
    assert np.any(sides[16 * 3000 : 16 * 3100, 0])


def test_a_disk_that_cannot_keep_up_loses_sound_and_bounds_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rejoinder.recording._WAITING_BYTES", 200_000)
    gate = threading.Event()

    def slow(*args: Any) -> None:
        gate.wait(10)
        wavfile.write_at(*args)

    async def main() -> None:
        disk = Disk(slow)
        async with recorded(tmp_path, disk) as (client, _):
            await client.speak(8000)
            assert disk.waiting <= 200_000
            assert [event.code for event in client.events(Error)].count("recording_failed") == 1
            gate.set()

    run_virtual(main())
    assert abs(len(sides_of(tmp_path / "ses_pilot.wav")) / 16_000 - 8) < 1.5


def test_a_file_is_valid_after_each_write(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    wavfile.write_at(path, 0, b"", 16_000, 2)
    assert len(sides_of(path)) == 0
    wavfile.write_at(path, 64_000, bytes(range(4)) * 16_000, 16_000, 2)
    assert len(sides_of(path)) == 32_000
    assert not np.any(sides_of(path)[:16_000])
    with path.open("ab") as file:
        # A write that was cut short.
        file.write(b"\1\2\3")
    assert len(sides_of(path)) == 32_000
    assert wavfile.finish(path, None, 16_000, 2) == 128_000
    assert wavfile.finish(path, 192_000, 16_000, 2) == 192_000
    assert len(sides_of(path)) == 48_000


def test_peaks_are_the_loudest_of_each_ten_ms(tmp_path: Path) -> None:
    sound = np.zeros((16_000 * 25 + 80, 2), "<i2")
    sound[160 * 3, 0], sound[160 * 2400 + 5, 1], sound[-1, 1] = -32768, 25_600, 300
    path = tmp_path / "a.wav"
    wavfile.write_at(path, 0, sound.tobytes(), 16_000, 2)
    user, agent = wavfile.peaks(path, 16_000, 2)
    assert len(user) == len(agent) == 2501
    assert {at: peak for at, peak in enumerate(user) if peak} == {3: 127}
    assert {at: peak for at, peak in enumerate(agent) if peak} == {2400: 100, 2500: 1}


@asynccontextmanager
async def stored(tmp_path: Path) -> AsyncIterator[tuple[Runtime, Recordings]]:
    """A process with sessions of scripted providers, all of which are recorded."""
    names = {"vad": "scripted", "stt": ("scripted",), "llm": ("scripted",), "tts": ("scripted",)}
    settings = Settings(
        database_url=f"sqlite+aiosqlite:///{tmp_path / 'test.db'}",
        default_agent="kept",
        agents={"kept": RECORDED.model_copy(update=names)},
        auth=Auth(mode="none"),
        recordings_dir=tmp_path / "sound",
    )
    async with Runtime(settings) as runtime:
        yield runtime, runtime.recordings


async def a_session(runtime: Runtime) -> str:
    session = await runtime.start_session(None)
    await session.close("done")
    await runtime.recordings.settle()
    assert not runtime.recordings.busy(session.id)
    return session.id


def test_fifty_sessions_leave_no_file_and_no_thread(tmp_path: Path) -> None:
    def threads() -> set[str]:
        return {thread.name for thread in threading.enumerate() if thread.name == "recordings"}

    async def main() -> None:
        async with stored(tmp_path) as (runtime, recordings):
            await a_session(runtime)
            before = len(os.listdir("/proc/self/fd"))
            sessions = [await runtime.start_session(None) for _ in range(50)]
            await asyncio.gather(*(session.close("done") for session in sessions))
            await recordings.settle()
            assert len(os.listdir("/proc/self/fd")) <= before + 1
            assert len(list((tmp_path / "sound").glob("*.wav"))) == 51
            assert threads()
            for session in sessions:
                record = await recordings.rows.get(session.id)
                assert record is not None
                assert record.duration_ms is not None
        assert not threads()

    asyncio.run(main())


def test_what_has_expired_is_deleted_and_the_row_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with stored(tmp_path) as (runtime, recordings):
            session_id = await a_session(runtime)
            path = tmp_path / "sound" / f"{session_id}.wav"
            await recordings.peaks(path)
            assert path.exists()
            await recordings.sweep()
            assert path.exists()

            class Later(SystemClock):
                def wall_ms(self) -> int:
                    return super().wall_ms() + 31 * 86_400_000

            recordings._clock = Later()
            await recordings.sweep()
            assert not list((tmp_path / "sound").iterdir())
            record = await recordings.rows.get(session_id)
            assert record is not None
            assert record.file is None
            assert record.deleted_by == "retention"
            assert record.deleted_at is not None
            assert not await recordings.delete(session_id, "again")

    asyncio.run(main())


def test_what_a_dead_process_left_is_closed(tmp_path: Path) -> None:
    async def main() -> None:
        async with stored(tmp_path) as (runtime, recordings):
            session = await runtime.start_session(None)
            await session.close("done")
            await recordings.settle()
            assert await recordings.rows.get(session.id)
            # As if it had died: a row without an end, a second of sound, half a frame, and a header of before.
            async with runtime.store.transaction() as connection:
                await connection.exec_driver_sql("UPDATE recordings SET duration_ms = NULL, bytes = NULL")
            path = tmp_path / "sound" / f"{session.id}.wav"
            path.write_bytes(wavfile.header(0, 16_000, 2) + bytes(64_003))
            await recordings.sweep()
            record = await recordings.rows.get(session.id)
            assert record is not None
            assert record.duration_ms is None, "somebody may still write to it"
            os.utime(path, (1, 1))
            await recordings.sweep()
            record = await recordings.rows.get(session.id)
            assert record is not None
            assert (record.duration_ms, record.bytes) == (1000, 64_044)
            assert len(sides_of(path)) == 16_000

    asyncio.run(main())


def test_all_of_a_session_is_deleted(tmp_path: Path) -> None:
    async def main() -> None:
        async with stored(tmp_path) as (runtime, recordings):
            one, other = await a_session(runtime), await a_session(runtime)
            assert await recordings.rows.forget_session(one)
            assert not await recordings.rows.forget_session(one)
            assert await runtime.store.session(one) is None
            assert not await runtime.store.events(one)
            assert await recordings.rows.get(one) is None
            assert await runtime.store.events(other)

    asyncio.run(main())
