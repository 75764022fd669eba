"""The example plugins as users have them: installed into a fresh environment, found, tested, talked with, removed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rejoinder.audio import duration_ms, read_wav
from rejoinder.client import VoiceClient
from rejoinder.events import ProviderSwitched

pytestmark = pytest.mark.models

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs/examples/plugins"
OFFERS = {
    "espeak": ["tts:espeak"],
    "pocketsphinx": ["stt:pocketsphinx"],
    "wyoming": ["stt:wyoming", "tts:wyoming"],
}
RECORDING = "conf-enteringno.wav"
SAID = "You are entering conference number"
REPLY = "Six times seven is forty-two."
AGENTS = {
    "own": {"stt": "pocketsphinx", "llm": "scripted", "tts": "espeak"},
    "bridged": {"stt": ["wyoming", "pocketsphinx"], "llm": "scripted", "tts": ["wyoming", "espeak"]},
}


class Home:
    """A folder with an environment of its own in which the plugins are installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "venv/bin"
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("REJOINDER_", "PYTHON"))},
            "PYTHONDONTWRITEBYTECODE": "1",
            "VIRTUAL_ENV": str(folder / "venv"),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
        }

    def run(self, *command: str | Path, cwd: Path | None = None, **environment: str) -> str:
        """What a program of the environment prints; it must end well."""
        run = self.done(*command, cwd=cwd, **environment)
        assert run.returncode == 0, f"{command}:\n{run.stdout[-6000:]}\n{run.stderr[-6000:]}"
        return run.stdout

    def done(
        self, *command: str | Path, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """A program of the environment that has ended."""
        return subprocess.run(
            [self.bin / command[0], *command[1:]],
            cwd=cwd or self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def pip(self, *arguments: str | Path) -> None:
        self.run("python", "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)

    def plugins(self) -> dict[str, dict[str, Any]]:
        """`rejoinder plugins list`, by name."""
        return {plugin["name"]: plugin for plugin in json.loads(self.run("rejoinder", "plugins", "list", "--json"))}

    @contextlib.contextmanager
    def process(self, ready: str, *command: str | Path, **environment: str) -> Iterator[tuple[Any, str]]:
        """A process that has printed a line which matches `ready`, and what the group in that is."""
        process = subprocess.Popen(
            [self.bin / command[0], *command[1:]],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said: list[str] = []
        found: list[str] = []
        known = threading.Event()

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                if not found and (match := re.search(ready, line)):
                    found.append(match.group(1))
                    known.set()
            known.set()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            assert known.wait(60), said
            assert found, "".join(said)
            yield process, found[0]
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            reader.join(5)
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    assert shutil.which("espeak-ng"), "espeak-ng is missing: apt install espeak-ng"
    home = Home(tmp_path_factory.mktemp("examples"))
    subprocess.run([sys.executable, "-m", "venv", home.folder / "venv"], check=True)
    pins = ("--constraint", ROOT / "constraints.txt")
    home.pip("install", *pins, f"{ROOT}[local]", "pytest", "psutil")
    assert not set(OFFERS) & set(home.plugins())
    home.pip("install", *pins, *(EXAMPLES / f"rejoinder-{name}" for name in OFFERS))
    yield home
    # Half a gigabyte.
    shutil.rmtree(home.folder / "venv")


def talk_to(home: Home, url: str, agent: str, question: Path) -> dict[str, Any]:
    """What `rejoinder talk` says of a turn that was asked by a human voice."""
    reply = home.folder / f"{agent}.wav"
    printed = home.run(
        "rejoinder", "talk", "--url", url, "--agent", agent, "--wav", question, "--out", reply, "--timeout", "60"
    )
    heard = re.search(r"^you: (.*)$", printed, re.MULTILINE)
    assert heard, printed
    pcm, rate = read_wav(reply)
    return {
        "heard": heard.group(1),
        "seconds": duration_ms(pcm, rate) / 1000,
        "loudest": loudest(pcm),
        "printed": printed,
    }


def loudest(pcm: bytes) -> int:
    """The largest sample."""
    return int(np.frombuffer(pcm, "<i2").max(initial=0))


@pytest.fixture(scope="module")
def question() -> Path:
    recording = ROOT / ".speech" / RECORDING
    if not recording.exists():
        message = "recorded speech is missing: run `python tests/fetch_speech.py .speech` (needs Debian's apt-get)"
        assert "CI" not in os.environ, message
        pytest.skip(message)
    return recording


@contextlib.contextmanager
def wyoming_server(home: Home) -> Iterator[tuple[Any, str]]:
    """The Wyoming server of the plugin's own tests: its process and its address."""
    server = EXAMPLES / "rejoinder-wyoming/tests/wyoming_server.py"
    with home.process(r"^ready (\d+)", "python", server) as (process, port):
        yield process, f"tcp://127.0.0.1:{port}"


@contextlib.contextmanager
def serve(home: Home, wyoming: str) -> Iterator[str]:
    """`rejoinder serve` with the agents above; its address."""
    settings = {
        "REJOINDER_PORT": "0",
        "REJOINDER_AUTH__MODE": "none",
        "REJOINDER_DATABASE_URL": f"sqlite+aiosqlite:///{home.folder / 'calls.db'}",
        "REJOINDER_AGENTS": json.dumps(AGENTS),
        "REJOINDER_DEFAULT_AGENT": "own",
        "REJOINDER_PLUGINS__SCRIPTED__REPLY": REPLY,
        "REJOINDER_PLUGINS__WYOMING__STT_URI": wyoming,
        "REJOINDER_PLUGINS__WYOMING__TTS_URI": wyoming,
    }
    with home.process(r"(ws://[^/\s]+)", "rejoinder", "serve", **settings) as (_, url):
        yield url


def likeness(one: str, other: str) -> float:
    """The share of the words of `other` that are in `one`."""
    said = other.lower().split()
    return sum(word in one.lower().split() for word in said) / len(said)


def test_they_are_found(home: Home) -> None:
    found = home.plugins()
    for name, offers in OFFERS.items():
        plugin = found[name]
        assert plugin["distribution"] == f"rejoinder-{name}"
        assert plugin["version"] == "0.1.0"
        assert plugin["state"] == "ok", plugin
        assert plugin["offers"] == offers
        assert f"plugins.{name}" in home.run("rejoinder", "plugins", "info", name).lower()


@pytest.mark.parametrize("name", OFFERS)
def test_they_keep_the_rules(home: Home, name: str) -> None:
    command = ("rejoinder", "plugins", "test", EXAMPLES / f"rejoinder-{name}", "--runs", "4", "--json")
    for left in (2, 1, 0):
        # Programs and servers beside the rest of the suite: what was late on a busy machine is not late each time.
        done = home.done(*command)
        tested = json.loads(done.stdout)
        rules = [rule for offer in tested["tested"] for rule in offer["rules"]]
        if all(rule["state"] == "ok" for rule in rules) or not left:
            break
    assert {offer["offer"] for offer in tested["tested"]} == set(OFFERS[name])
    assert len(rules) > 18
    assert [rule for rule in rules if rule["state"] != "ok"] == []
    assert done.returncode == 0


@pytest.mark.parametrize("name", OFFERS)
def test_their_own_tests_pass_with_what_was_installed(home: Home, name: str) -> None:
    project = EXAMPLES / f"rejoinder-{name}"
    printed = home.run(
        "python",
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "pythonpath=",
        f"tests/test_{name}.py",
        cwd=project,
    )
    assert re.search(r"\d+ passed", printed)
    assert "skipped" not in printed


def providers_of_turn(home: Home, number: int) -> dict[str, str]:
    """Who worked on the turn of that number (from 1), as the database knows."""
    with contextlib.closing(sqlite3.connect(home.folder / "calls.db")) as database:
        deadline = time.monotonic() + 20
        while True:
            rows = database.execute("select providers from turns where reply_reason is not null order by committed_at")
            if len(found := rows.fetchall()) >= number:
                return {kind: name for kind, name in json.loads(found[number - 1][0]).items() if kind in ("stt", "tts")}
            assert time.monotonic() < deadline, found
            time.sleep(0.05)


def test_conversations(home: Home, question: Path) -> None:
    with wyoming_server(home) as (wyoming, uri), serve(home, uri) as url:
        turn = talk_to(home, url, "own", question)
        assert likeness(turn["heard"], SAID) >= 0.6, turn
        assert 1 < turn["seconds"] < 6, turn
        assert turn["loudest"] > 2_000
        assert providers_of_turn(home, 1) == {"stt": "pocketsphinx", "tts": "espeak"}

        async def call() -> None:
            async with VoiceClient.connect(url, agent="bridged") as client:
                before = await client.say_wav(question, timeout=60)
                assert likeness(before.transcript, SAID) >= 0.6, before
                assert loudest(before.audio) > 2_000
                assert await asyncio.to_thread(providers_of_turn, home, 2) == {"stt": "wyoming", "tts": "wyoming"}
                wyoming.kill()
                wyoming.wait()
                after = await client.say_wav(question, timeout=60)
                # A voice that has failed at a phrase before is left without a word.
                switches = {
                    event.kind: (event.provider, event.to)
                    for event in [*before.events, *after.events]
                    if isinstance(event, ProviderSwitched)
                }
                assert switches["stt"] == ("wyoming", "pocketsphinx")
                assert likeness(after.transcript, SAID) >= 0.6, after
                assert loudest(after.audio) > 2_000
                assert after.reason == "completed"
                assert await asyncio.to_thread(providers_of_turn, home, 3) == {"stt": "pocketsphinx", "tts": "espeak"}

        asyncio.run(call())


def test_uninstalled_they_are_gone(home: Home) -> None:
    home.pip("uninstall", "--yes", *(f"rejoinder-{name}" for name in OFFERS))
    assert not set(OFFERS) & set(home.plugins())
    refused = subprocess.run(
        [home.bin / "rejoinder", "serve"],
        cwd=home.folder,
        env={**home.environment, "REJOINDER_AGENTS": json.dumps(AGENTS), "REJOINDER_PORT": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert refused.returncode == 3
    assert "espeak" in refused.stderr
