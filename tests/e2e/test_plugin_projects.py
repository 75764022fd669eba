"""From an empty folder to a published-like plugin, as a stranger goes: new, test, install, talk, uninstall.

In a virtual environment of its own, where pip installs and uninstalls; what Rejoinder needs is borrowed from ours.
"""

from __future__ import annotations

import json
import os
import site
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from rejoinder.audio import duration_ms, read_wav
from rejoinder.commands.plugin_new import KINDS

if TYPE_CHECKING:
    from tests.e2e.conftest import Start

AGENT = {
    "vad": "my_vad",
    "stt": "my_stt",
    "turn": ["my_turn"],
    "interruption": ["my_interruption"],
    "llm": "my_llm",
    "tts": "my_tts",
    "tools": ["my_tool_price", "my_tool_order"],
}
CARD = "4111 1111 1111 1111"


class Stranger:
    """Somebody with a shell, in a folder, with an environment of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self.bin = folder / "venv" / "bin"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        (own,) = (folder / "venv").glob("lib/python*/site-packages")
        # With the .pth files in it: of an editable Rejoinder, say.
        borrowed = "; ".join(f"site.addsitedir({path!r})" for path in site.getsitepackages())
        (own / "borrowed.pth").write_text(f"import site; {borrowed}\n")
        program = self.bin / "rejoinder"
        program.write_text(f"#!{self.bin / 'python'}\nfrom rejoinder.cli import main\n\nmain()\n")
        program.chmod(0o755)

    def shell(self, script: str, *, fails: bool = False) -> str:
        """Run a script of bash; what it printed."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("REJOINDER_")}
        # Ours, for ruff and mypy.
        path = f"{self.bin}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            env={**environment, "PATH": path, "MYPY_CACHE_DIR": str(self.folder / "mypy")},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert (done.returncode != 0) == fails, done.stdout
        return done.stdout

    def plugins(self) -> dict[str, Any]:
        """What `rejoinder plugins list` says, by name."""
        return {plugin["name"]: plugin for plugin in json.loads(self.shell("rejoinder plugins list --json"))}


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    return Stranger(tmp_path_factory.mktemp("stranger"))


@pytest.mark.parametrize("kind", KINDS)
def test_three_commands_lead_to_a_green_run(stranger: Stranger, kind: str) -> None:
    said = stranger.shell(
        f"rejoinder plugins new my-{kind} --kind {kind} >&2; cd rejoinder-my-{kind}; rejoinder plugins test ."
    )
    assert " 0 failed" in said
    assert "not checked" not in said or kind in ("observer", "adapter") or "0 not checked" in said, said
    assert int(said.split(" ok, 0 failed")[0].rpartition("\n")[2]) >= 8, said

    own = stranger.shell(
        f"cd rejoinder-my-{kind}; ruff check .; ruff format --check .; mypy;"
        f" python -m pytest -q -W error --deselect tests/test_conformance.py"
    )
    assert "Success: no issues found" in own
    assert " passed" in own


def test_pytest_finds_the_rules_and_names_the_broken_one(stranger: Stranger) -> None:
    said = stranger.shell(
        "rejoinder plugins new broken --kind tts; cd rejoinder-broken; python -m pytest -q -k 'rate or format'"
    )
    assert "2 passed" in said
    voice = stranger.folder / "rejoinder-broken" / "src" / "rejoinder_broken" / "voice.py"
    voice.write_text(voice.read_text().replace("sample_rate = RATE", "sample_rate = 8_000"))
    said = stranger.shell("cd rejoinder-broken; rejoinder plugins test . --only tts:broken --runs 4", fails=True)
    assert "FAIL" in said
    assert "sample-rate" in said
    said = stranger.shell("cd rejoinder-broken; python -m pytest -q -k sample_rate", fails=True)
    assert "Fix: " in said


def test_installed_they_are_found_take_part_in_a_conversation_and_leave_without_a_trace(
    stranger: Stranger, start: Start, tmp_path: Path
) -> None:
    for kind in KINDS:
        if not (stranger.folder / f"rejoinder-my-{kind}").exists():
            stranger.shell(f"rejoinder plugins new my-{kind} --kind {kind}")
    before = stranger.plugins()
    projects = " ".join(f"-e ./rejoinder-my-{kind}" for kind in KINDS)
    stranger.shell(f"python -m pip install -q --no-deps --no-build-isolation --no-index {projects}")
    listed = stranger.plugins()
    for kind in ("vad", "stt", "turn", "interruption", "llm", "tts"):
        assert listed[f"my_{kind}"]["offers"] == [f"{kind}:my_{kind}"]
        assert listed[f"my_{kind}"]["distribution"] == f"rejoinder-my-{kind}"
    assert listed["my_tool"]["offers"] == ["tool:my_tool_price", "tool:my_tool_order"]
    assert "my_adapter" in listed
    assert "my_observer" in listed
    assert not [plugin["error"] for name, plugin in listed.items() if name.startswith("my_") and plugin["error"]]

    server = start(
        {},
        python=stranger.bin / "python",
        AGENTS=json.dumps({"mine": AGENT}),
        DEFAULT_AGENT="mine",
        PLUGINS=json.dumps({"my_llm": {"opening": "So"}, "my_tool_price": {"currency": "crowns"}}),
    )
    talk = f"rejoinder talk --url {server.url}"
    spoken = stranger.shell(f"{talk} --wav rejoinder-my-stt/tests/two-words.wav --out {tmp_path / 'reply.wav'}")
    assert "you: I heard two words." in spoken
    assert "agent: So I heard two words." in spoken
    pcm, rate = read_wav(tmp_path / "reply.wav")
    assert duration_ms(pcm, rate) > 1000
    assert max(memoryview(pcm).cast("h")) > 3000

    written = stranger.shell(f"{talk} --text 'What is the price of Bread?' --text 'My card is {CARD}.'")
    assert "The tool says: One Bread costs 3.20 crowns." in written
    assert f"agent: So My card is {CARD}." in written, "the conversation is not changed"

    door = server.url.replace("ws://", "http://") + "/my-adapter/mine"
    assert httpx.post(door, content=b"good morning").text == "So good morning"

    server.stop()
    with closing(sqlite3.connect(server.database)) as db:
        stored = "\n".join(db.iterdump())
    assert CARD not in stored
    assert "My card is [card number]." in stored

    names = " ".join(f"rejoinder-my-{kind}" for kind in KINDS)
    stranger.shell(f"python -m pip uninstall -q -y {names}")
    assert stranger.plugins().keys() == before.keys()
