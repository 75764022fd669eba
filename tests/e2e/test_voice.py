"""The main job, as a user does it: a real server, embedded models, human recordings in real time, speech back."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from rejoinder.audio import read_wav
from rejoinder.client import VoiceClient
from rejoinder.commands.ownserver import OwnServer, own_server
from rejoinder.events import ReplyFinished, Text
from rejoinder.manager import load_plugins
from rejoinder.models import ModelCache
from rejoinder.providers import ProviderContext, SttProvider
from rejoinder.settings import load_settings

pytestmark = pytest.mark.models

SPEECH = Path(__file__).parents[2] / ".speech"
RECORDINGS = ("conf-locked.wav", "agent-alreadyon.wav", "conf-enteringno.wav")


@pytest.fixture(scope="module")
def recordings() -> dict[Path, str]:
    """Recordings of a human voice and what is said in them."""
    transcripts = SPEECH / "transcripts.tsv"
    if not transcripts.exists():
        message = "recorded speech is missing: run `python tests/fetch_speech.py .speech` (needs Debian's apt-get)"
        assert "CI" not in os.environ, message
        pytest.skip(message)
    lines = (line.split("\t") for line in transcripts.read_text(encoding="utf-8").splitlines())
    texts = {SPEECH / name: text for name, text in lines}
    return dict(sorted(texts.items(), key=lambda item: (item[0].name not in RECORDINGS, len(item[1])))[:3])


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("voice") / "voice.db"


@pytest.fixture(scope="module")
def server(database: Path) -> Iterator[OwnServer]:
    environment = {"REJOINDER_DATABASE_URL": f"sqlite+aiosqlite:///{database}"}
    with own_server(environment, inherit=False, core=None, realtime=False, ready_s=120) as running:
        yield running


def words(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9 ]", " ", text.lower()).split()


def likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, words(one), words(other)).ratio()


def transcribe(pcm: bytes) -> str:
    """What the embedded STT makes of PCM16 at 16 kHz, outside of any server."""
    settings = load_settings()
    plugins = load_plugins()

    async def main() -> str:
        with ThreadPoolExecutor(2) as pool:
            offer = plugins.provider("stt", "moonshine")
            context = ProviderContext(
                settings=offer.settings(),
                models=ModelCache(settings.models_dir, plugins.models()),
                executor=lambda name, workers: pool,
                llm=lambda name: pytest.fail("no LLM is needed"),
            )
            stt = cast(SttProvider, offer.create(context))
            await stt.warm_up()
            stream = stt.open(language="en", on_partial=lambda text: None)
            stream.feed(pcm)
            text = await stream.flush()
            await stream.close()
            await stt.close()
            return text

    return asyncio.run(main())


def test_a_human_question_is_answered_in_speech(
    server: OwnServer, recordings: dict[Path, str], database: Path, tmp_path: Path
) -> None:
    recording, spoken = next(iter(recordings.items()))
    reply_wav = tmp_path / "reply.wav"
    run = subprocess.run(
        [sys.executable, "-m", "rejoinder", "talk", "--url", server.url, "--wav", recording, "--out", reply_wav],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    heard = re.search(r"^you: (.*)$", run.stdout, re.MULTILINE)
    answered = re.search(r"^agent: (.*?)^  endpointing", run.stdout, re.MULTILINE | re.DOTALL)
    assert heard
    assert answered, run.stdout
    assert likeness(heard.group(1), spoken) > 0.85, run.stdout
    assert re.search(r"endpointing \d+ · stt \d+.* ─ \d+ ms \(heard after \d+ ms\)", run.stdout)

    pcm, _ = read_wav(reply_wav, 16_000)
    assert likeness(transcribe(pcm), answered.group(1)) > 0.8, "the reply's audio says the reply's text"

    with contextlib.closing(sqlite3.connect(database)) as db:
        db.row_factory = sqlite3.Row
        query = "select * from turns where user_text is not null order by committed_at desc limit 1"
        turn = db.execute(query).fetchone()
        assert likeness(turn["user_text"], spoken) > 0.85
        assert turn["reply_reason"] == "completed"
        assert words(turn["heard_text"]) == words(answered.group(1))
        spans = db.execute("select name, us from spans where turn_id = ? order by position", (turn["id"],)).fetchall()
        assert {"endpointing", "stt", "llm", "chunk", "tts", "send", "play"} == {span["name"] for span in spans}
        assert sum(span["us"] for span in spans) == turn["response_us"]
        assert turn["jitter_us"] is not None
        assert json.loads(turn["providers"]) == {
            "vad": "silero",
            "stt": "moonshine",
            "llm": "guide",
            "tts": "hibari",
        }


def test_several_turns_in_one_call(server: OwnServer, recordings: dict[Path, str]) -> None:
    async def main() -> None:
        async with VoiceClient.connect(server.url) as client:
            for recording, spoken in recordings.items():
                result = await client.say_wav(recording, timeout=60)
                assert likeness(result.transcript, spoken) > 0.7, (result.transcript, spoken)
                assert result.audio
                assert result.first_audio_ms is not None
                assert result.metrics is not None
            assert client.stale_frames == 0

    asyncio.run(main())


def test_the_guide_counts_and_is_interrupted_by_a_human_voice(server: OwnServer, recordings: dict[Path, str]) -> None:
    async def main() -> None:
        async with VoiceClient.connect(server.url) as client:
            await client.send(Text(text="count to thirty"))
            await asyncio.sleep(4)
            result = await client.say_wav(next(iter(recordings)), timeout=60)
            interrupted = next(event for event in result.events if isinstance(event, ReplyFinished))
            assert interrupted.reason == "interrupted"
            assert "one, two, three" in interrupted.heard_text.lower()
            assert len(words(interrupted.heard_text)) < 25
            assert result.transcript
            assert client.stale_frames == 0, "audio of the old reply after clear_audio"

    asyncio.run(main())


def test_the_guide_knows_how_fast_it_was_and_says_goodbye(server: OwnServer) -> None:
    async def main() -> None:
        async with VoiceClient.connect(server.url) as client:
            assert "42" in (await client.say_text("what is twelve plus thirty?")).reply_text
            assert "millisecond" in (await client.say_text("how fast was that?")).reply_text
            assert "goodbye" in (await client.say_text("goodbye")).reply_text.lower()
            async with asyncio.timeout(10):
                async for _ in client.events():
                    pass
            assert client.ended is not None
            assert client.ended.reason == "agent_ended"

    asyncio.run(main())
