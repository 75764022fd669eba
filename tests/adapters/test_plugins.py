"""Plugins in a running server: what REST says of them, their doors, and redaction of all that is stored or sent on."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from rejoinder.settings import Auth

if TYPE_CHECKING:
    from tests.adapters.conftest import Serve

HIDE = """
from rejoinder import hookimpl

@hookimpl
def before_storage(text):
    return text.replace("4111", "####")
"""
DOOR = """
import msgspec
from litestar import get
from rejoinder import hookimpl

class DoorSettings(msgspec.Struct, forbid_unknown_fields=True):
    sign: str = "Knock"

@hookimpl
def register_settings():
    return {"door": DoorSettings}

@hookimpl
def register_routes(runtime):
    settings = runtime.section("door", DoorSettings)

    @get("/door")
    async def door() -> str:
        return settings.sign

    return [door]

@hookimpl
def health():
    return "nobody is at home"
"""
WRONG_DOOR = """
from litestar import get
from rejoinder import hookimpl

@hookimpl
def register_routes(runtime):
    @get("/v1/plugins")
    async def mine() -> str:
        return "mine"

    return [mine]
"""
BUSY = """
from rejoinder import hookimpl

@hookimpl
def startup(runtime):
    log.append("up")

@hookimpl
async def shutdown(runtime):
    log.append(f"down, {len(runtime.sessions)} sessions")

log = []
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "plugins"
    made.mkdir()
    return made


def offered(url: str, **headers: str) -> dict[str, Any]:
    return {one["name"]: one for one in httpx.get(f"{url}/v1/plugins", headers=headers).json()["plugins"]}


def test_what_was_said_is_redacted_wherever_it_is_kept(serve: Serve, folder: Path, tmp_path: Path) -> None:
    (folder / "hide.py").write_text(HIDE)
    server = serve({"reply": "Your card 4111 is fine."}, plugins_dir=folder)
    with httpx.Client(base_url=server.http, timeout=20) as http:
        asked = {"text": "my card is 4111", "agent": "scripted"}
        chat = http.post("/v1/chat", json=asked, headers={"accept": "application/json", "idempotency-key": "one"})
        assert chat.json()["text"] == "Your card 4111 is fine.", "the user gets the answer as it is"
        session = chat.json()["session_id"]
        again = http.post("/v1/chat", json=asked, headers={"accept": "application/json", "idempotency-key": "one"})
        assert (again.status_code, again.json()["code"]) == (409, "idempotency_streamed")
        assert session in again.json()["detail"]
        completion = {"model": "scripted", "messages": [{"role": "user", "content": "4111"}]}
        answer = http.post("/v1/chat/completions", json=completion, headers={"idempotency-key": "two"})
        assert "4111" in answer.text
        http.post(f"/v1/sessions/{session}/end")
        server.call(server.runtime.store.writer.flush())
        kept = http.get(f"/v1/sessions/{session}/events", headers={"accept": "application/json"}).text
        turns = http.get(f"/v1/sessions/{session}/turns").json()
        transcript = http.get(f"/v1/sessions/{session}/transcript").text
    assert "####" in kept
    assert "4111" not in kept
    assert turns[0]["user_text"] == "my card is ####"
    assert turns[0]["heard_text"] == "Your card #### is fine."
    assert set(turns[0]["hooks"]) <= {"hide"}
    assert "4111" not in transcript
    (database,) = tmp_path.glob("*.db")
    with sqlite3.connect(database) as connection:
        everything = "\n".join(connection.iterdump())
    assert "4111" not in everything
    assert "####" in everything


def test_rest_says_how_plugins_are(serve: Serve, folder: Path) -> None:
    (folder / "door.py").write_text(DOOR)
    (folder / "wrong_door.py").write_text(WRONG_DOOR)
    (folder / "needy.py").write_text("import acme_engine_that_is_nowhere")
    server = serve(plugins_dir=folder)
    assert httpx.get(f"{server.http}/door").text == "Knock"
    found = offered(server.http)
    assert (found["door"]["state"], found["door"]["health"]) == ("degraded", "nobody is at home")
    assert found["door"]["hooks"] == ["register_settings", "register_routes", "health"]
    assert found["needy"]["state"] == "failed"
    assert "acme_engine_that_is_nowhere" in found["needy"]["error"]
    assert "Traceback" in found["needy"]["problems"][0]["details"]
    problem = found["wrong_door"]["problems"][0]
    assert (problem["stage"], problem["subject"]) == ("register", "register_routes")
    assert "/v1/plugins" in problem["what"]
    assert found["guide"] | {"state": "ok", "error": None, "problems": []} == found["guide"]

    body = httpx.get(f"{server.http}/v1/plugins").json()
    hibari = next(one for one in body["providers"] if one["name"] == "hibari")
    assert hibari["plugin"] == "hibari"
    assert hibari["capabilities"] == {
        "streaming": True,
        "languages": ["en"],
        "sample_rates": [24_000],
        "word_times": False,
    }
    assert hibari["settings"]["properties"]["speed"]["default"] == 1.0
    openai = next(one for one in body["providers"] if one["name"] == "openai")
    assert openai["settings"]["properties"]["api_key"]["writeOnly"] is True
    assert {one["name"]: one["plugin"] for one in body["tools"]}["clock"] == "tools"


def test_tracebacks_are_for_admins(serve: Serve, folder: Path, tmp_path: Path) -> None:
    (folder / "needy.py").write_text("import acme_engine_that_is_nowhere")
    server = serve(plugins_dir=folder, auth=Auth(dev_key_file=tmp_path / "dev-key"))
    keys = {}
    for scope in ("read", "admin"):
        secret = server.call(server.runtime.gate.keys.create(scope, [scope]))[1]
        keys[scope] = offered(server.http, authorization=f"Bearer {secret}")["needy"]
    assert keys["read"]["problems"][0]["details"] == ""
    assert keys["read"]["error"] == keys["admin"]["error"]
    assert "Traceback" in keys["admin"]["problems"][0]["details"]


def test_plugins_get_ready_and_free_what_they_have(serve: Serve, folder: Path) -> None:
    (folder / "busy.py").write_text(BUSY)
    server = serve(plugins_dir=folder)
    module: Any = server.runtime.plugins.module("busy")
    assert module.log == ["up"]

    async def main() -> None:
        async with server.caller() as caller:
            await caller.turn()
            assert len(server.runtime.sessions) == 1
            server.server.should_exit = True
            await caller.until_closed()

    asyncio.run(main())
    deadline = time.monotonic() + 10
    while len(module.log) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert module.log == ["up", "down, 0 sessions"]


def test_the_time_of_hooks_is_in_the_metrics(serve: Serve, folder: Path) -> None:
    (folder / "slow.py").write_text(
        "import time\nfrom rejoinder import hookimpl\n@hookimpl\ndef before_llm():\n    time.sleep(0.01)\n"
    )
    server = serve(plugins_dir=folder)

    async def main() -> dict[str, Any]:
        async with server.caller() as caller:
            await caller.turn()
            return await caller.until("turn.metrics")

    metrics = asyncio.run(main())
    assert metrics["hooks"]["slow"] >= 10_000
    text = httpx.get(f"{server.http}/metrics").text
    line = next(line for line in text.splitlines() if "plugin_hook_seconds_total{" in line and "before_llm" in line)
    assert 'plugin="slow"' in line
    assert float(line.split()[-1]) >= 0.01


def test_filters_see_what_openai_clients_ask(serve: Serve, folder: Path) -> None:
    (folder / "spy.py").write_text(
        "from rejoinder import hookimpl\n"
        "asked = []\n"
        "@hookimpl\n"
        "async def before_llm(session_id, agent, request):\n"
        "    asked.append((session_id, agent, request.messages[-1].content))\n"
    )
    server = serve(plugins_dir=folder)
    completion = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}]}
    assert httpx.post(f"{server.http}/v1/chat/completions", json=completion).status_code == 200
    spy: Any = server.runtime.plugins.module("spy")
    assert spy.asked == [("", "scripted", "hello")]
