"""The README's commands, as a stranger pastes them: into bash, against a server that was just started."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Start

README = (Path(__file__).parents[2] / "README.md").read_text()

pytestmark = pytest.mark.models


def block(language: str, contains: str) -> str:
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if contains in text]
    return str(found)


def test_the_curl_commands_work_as_pasted(start: Start, tmp_path: Path) -> None:
    server = start({}, DEFAULT_AGENT="guide", AUTH__MODE="keys")
    base = server.url.replace("ws://", "http://")
    script = block("bash", "/chat").replace("http://127.0.0.1:8080", base)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "REJOINDER_AUTH__DEV_KEY_FILE": str(tmp_path / "dev-key"),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail"],
        input=script,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("data: ")]
    agent = json.loads(done.stdout[: done.stdout.index("}{") + 1])
    turns: list[dict[str, Any]] = json.loads(done.stdout[done.stdout.rindex("\n[{") + 1 :])
    assert (agent["name"], agent["version"]) == ("host", 1)
    assert '"token":"' in done.stdout
    assert [event["text"] for event in events if event["type"] == "reply.finished"] == ["That makes 42."]
    (turn,) = [turn for turn in turns if turn["user_text"]]
    assert sum(span["us"] for span in turn["spans"]) == turn["response_us"] > 0

    page = json.loads(done.stdout[done.stdout.index("}{") + 1 : done.stdout.index("\n")])["join"]["page"]
    assert httpx.get(page.partition("#")[0]).status_code == 200, "the link for people leads somewhere"


def test_the_openai_client_works_as_pasted(start: Start, tmp_path: Path) -> None:
    server = start({}, DEFAULT_AGENT="guide", AUTH__MODE="keys")
    base = server.url.replace("ws://", "http://")
    key = (tmp_path / "dev-key").read_text().strip()
    program = block("python", "from openai").replace("http://127.0.0.1:8080", base).replace("rj_...", key)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert "It is" in done.stdout
    assert (tmp_path / "hello.mp3").stat().st_size > 1000


def test_the_text_chat_of_the_how_to_works(start: Start, tmp_path: Path) -> None:
    server = start({}, DEFAULT_AGENT="guide", AUTH__MODE="keys")
    base = server.url.replace("ws://", "http://")
    key = (tmp_path / "dev-key").read_text().strip()
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "text-chat.md").read_text()
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, names)
    room = names["new_room"](base, key)
    assert room["join"]["token"]
    answer, session_id = names["ask"](base, key, "what is twelve plus thirty?")
    assert answer == "That makes 42."
    assert names["ask"](base, key, "what is two plus two?", session_id) == ("That makes 4.", session_id)
