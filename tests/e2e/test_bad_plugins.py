"""Plugins that misbehave in a real server: each is named with what to do, and a call in progress does not notice."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from rejoinder.client import VoiceClient
from rejoinder.hookspecs import API_VERSION
from rejoinder.manager import hook_names
from rejoinder.playhead import Playhead

PROVIDER = """
from rejoinder import hookimpl
from rejoinder.providers import Provider
from rejoinder.testing.scripted import ScriptedTts
"""
FILES = {
    # Holds up everybody for 200 ms, in the middle of a call.
    "blocker": """
import time
from rejoinder import hookimpl

@hookimpl
def on_event(event):
    if getattr(event, "text", "") == "block":
        time.sleep(0.2)
""",
    "raiser": "from rejoinder import hookimpl\n"
    + "".join(f"@hookimpl\ndef {hook}():\n    raise ValueError('{hook} is broken')\n" for hook in hook_names()),
    "leaker": """
import asyncio
from rejoinder import hookimpl

kept = []

async def pump():
    await asyncio.sleep(3600)

@hookimpl
def on_event():
    kept.extend(asyncio.create_task(pump()) for _ in range(10))
""",
    # Its audio is that of 16 kHz.
    "squeaky": PROVIDER
    + """
class Squeaky(ScriptedTts):
    async def stream(self, text, *, voice, language):
        self.sample_rate = 16_000
        pieces = [piece async for piece in super().stream(text, voice=voice, language=language)]
        self.sample_rate = 96_000
        for piece in pieces:
            yield piece

@hookimpl
def register_providers():
    return [Provider("tts", "squeaky", "a wrong rate", lambda context: Squeaky(sample_rate=96_000, ms_per_word=250))]
""",
    "needy": "import acme_engine_that_is_nowhere\n",
    # In the chain of the call before the one that works.
    "heavy": PROVIDER
    + """
class Heavy(ScriptedTts):
    async def warm_up(self):
        raise OSError("the model file is damaged")

@hookimpl
def register_providers():
    return [Provider("tts", "heavy", "cannot be loaded", lambda context: Heavy())]
""",
    "tomorrow": "REJOINDER_API = '9.0'\n",
}
REPLY = "This is a sentence of the long answer that nobody may notice anything in. "


JITTER_MS = 60
"""Every loudspeaker of a real client has a buffer of at least this; audio comes 200 ms ahead of the clock."""


class Ear(Playhead):
    """Notes how long a reply was silent in its middle."""

    def __init__(self) -> None:
        super().__init__(24_000)
        self.gaps_ms: list[float] = []
        self._fresh = True

    def begin(self) -> None:
        super().begin()
        self._fresh = True

    def advance(self, ms: float) -> None:
        late = time.monotonic() - self._ends_at
        if not self._fresh and late > 0 and math.isfinite(late):
            self.gaps_ms.append(late * 1000)
        if self._fresh:
            self._ends_at = max(self._ends_at, time.monotonic() + JITTER_MS / 1000)
        self._fresh = False
        super().advance(ms)


def test_they_are_named_and_the_call_does_not_notice(tmp_path: Path, start: Callable[..., Any]) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    for name, source in FILES.items():
        (folder / f"{name}.py").write_text(source)
    scripted = dict.fromkeys(("vad", "stt", "llm"), "scripted")
    agents = {
        "scripted": {**scripted, "tts": ["heavy", "scripted"], "tools": []},
        "squeaky": {**scripted, "tts": ["squeaky"], "tools": []},
    }
    server = start({"reply": REPLY * 4, "ms_per_word": 100}, AGENTS=json.dumps(agents))
    http = server.url.replace("ws://", "http://")

    async def call() -> Ear:
        ear = Ear()
        async with VoiceClient.connect(server.url, player=ear) as client:
            speaking = asyncio.create_task(client.say_text("tell me more"))
            await asyncio.sleep(1.5)
            async with VoiceClient.connect(server.url, agent="squeaky") as other:
                result = await other.say_text("block")
                assert result.reply_text.strip() == (REPLY * 4).strip()
            result = await speaking
            assert result.reply_text.strip() == (REPLY * 4).strip()
            # What is broken rests by now, and is out of everybody's way.
            await client.say_text("again")
        return ear

    ear = asyncio.run(call())
    assert ear.gaps_ms == []

    found = {one["name"]: one for one in httpx.get(f"{http}/v1/plugins").json()["plugins"]}
    problems = {name: {(p["stage"], p["subject"]): p for p in found[name]["problems"]} for name in FILES}

    def said(name: str, stage: str, subject: str = "") -> str:
        problem = problems[name][stage, subject]
        # What is only suspected has no place.
        assert problem["details"] or (stage, name) in (("leak", "leaker"), ("answer", "squeaky"))
        return str(problem["what"])

    assert "held up the event loop" in said("blocker", "block", "on_event")
    assert "to_thread" in said("blocker", "block", "on_event")
    for hook in ("register_tools", "register_providers", "register_agents", "register_routes", "register_models"):
        assert f"{hook} is broken" in said("raiser", "register", hook)
    assert "startup is broken" in said("raiser", "startup", "startup")
    for hook in ("on_event", "before_llm", "before_tts", "before_storage"):
        assert f"{hook} raised ValueError" in said("raiser", "hook", hook)
        assert "raiser.py" in said("raiser", "hook", hook)
    assert "health is broken" in found["raiser"]["health"]
    assert "pump" in said("leaker", "leak")
    assert "Await or cancel" in said("leaker", "leak")
    assert "is its sample_rate right (96000 Hz)" in said("squeaky", "answer", "tts:squeaky")
    assert "acme_engine_that_is_nowhere" in said("needy", "import")
    assert "the model file is damaged" in said("heavy", "warm_up", "tts:heavy")
    assert f"made for plugin API 9.0; this Rejoinder has {API_VERSION}" in said("tomorrow", "register")
    states = {name: found[name]["state"] for name in FILES}
    assert states == dict.fromkeys(FILES, "degraded") | {"needy": "failed", "tomorrow": "failed"}
    assert found["scripted"]["problems"] == []

    command = [sys.executable, "-m", "rejoinder", "plugins", "list", "--url", http]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert listed.returncode == 1
    rows = {line.split()[0]: line for line in listed.stdout.splitlines() if line}
    assert "held up the event loop" in rows["blocker"]
    assert "degraded" in rows["heavy"]
    assert "the model file is damaged" in rows["heavy"]
    assert " ok " in rows["silero"]

    # Whoever starts the server reads of what is out of order from the start.
    assert "needy" in server.said
    assert "tomorrow" in server.said
    server.process.terminate()
    assert server.wait(15) < 10
    assert server.process.returncode == 0
    assert "shutdown is broken" in server.said
