"""Rooms for the talk page: to whom `talk.access` gives them, and to nobody else; and agents that are only tried."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.adapters.accounts_help import person
from tests.adapters.conftest import AGENT

from rejoinder import app as app_module
from rejoinder.settings import Auth, Talk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.adapters.conftest import LiveServer, Serve

SCRIPTED: dict[str, Any] = {**dict.fromkeys(("vad", "stt", "llm", "tts"), "scripted"), "tools": []}


@pytest.fixture
def keyed(serve: Serve, tmp_path: Path) -> LiveServer:
    return serve(auth=Auth(mode="keys", dev_key_file=tmp_path / "key"))


def ask(server: LiveServer, body: Any = None, **headers: str) -> httpx.Response:
    return httpx.post(
        server.http + "/talk/room", json=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def own(server: LiveServer) -> dict[str, str]:
    return {"origin": server.http, "sec_fetch_site": "same-origin"}


def key(server: LiveServer, *scopes: Any) -> dict[str, str]:
    _, made = server.call(server.runtime.gate.keys.create("k", list(scopes)))
    return {"authorization": f"Bearer {made}"}


def closed(answer: httpx.Response) -> str:
    assert (answer.status_code, answer.json()["code"]) == (403, "talk_closed"), answer.text
    assert answer.json()["fix"]
    detail: str = answer.json()["detail"]
    return detail


def test_whoever_sits_at_the_machine_gets_a_room_and_talks(keyed: LiveServer) -> None:
    answer = ask(keyed, **own(keyed))
    assert answer.status_code == 201, answer.text
    room = answer.json()
    assert (room["agent"], room["join"]["role"]) == ("scripted", "speaker")

    async def main() -> None:
        from websockets.asyncio.client import connect
        from websockets.typing import Subprotocol

        url = f"{room['join']['ws']}?access_token={room['join']['token']}"
        async with connect(url, subprotocols=[Subprotocol("rejoinder.v1")], proxy=None) as ws:
            caller = keyed.caller_on(ws)
            await caller.tell("session.configure")
            await caller.until("session.started")
            assert (await caller.turn())["heard_text"]

    asyncio.run(main())
    assert ask(keyed, {"agent": "guide"}, **own(keyed)).json()["agent"] == "guide"
    assert ask(keyed, {"agent": "gide"}, **own(keyed)).json()["code"] == "unknown_agent"
    assert ask(
        keyed, **{**own(keyed), "origin": f"http://localhost:{keyed.port}", "host": f"localhost:{keyed.port}"}
    ).is_success


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "https://evil.example", "sec_fetch_site": "cross-site"},
        {"origin": "https://evil.example"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "none"},
        {"origin": "null"},
        {"host": "evil.example", "origin": "http://evil.example", "sec_fetch_site": "same-origin"},
        {"host": "127.0.0.1.evil.example", "origin": "http://127.0.0.1.evil.example"},
        {"x_forwarded_for": "203.0.113.5", "sec_fetch_site": "same-origin"},
        {"forwarded": "for=203.0.113.5", "sec_fetch_site": "same-origin"},
    ],
    ids=str,
)
def test_another_sites_page_a_name_that_means_this_machine_and_a_proxy_get_none(
    keyed: LiveServer, headers: dict[str, str]
) -> None:
    detail = closed(ask(keyed, **headers))
    assert "another site's page" in detail
    assert keyed.call(keyed.runtime.store.rooms()) == []


def test_a_server_that_others_reach_is_not_local(keyed: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed.runtime.gate, "_loopback", False)
    closed(ask(keyed, **own(keyed)))
    with person(keyed, "ada", "developer") as ada:
        assert ada.post("/talk/room", json={}).status_code == 201, "who is logged in may"
        (row,) = keyed.call(keyed.runtime.audit.rows(action="room.create"))
        assert row.actor_name == "ada"
    with person(keyed, "vic", "viewer") as vic:
        assert vic.post("/talk/room", json={}).json()["code"] == "forbidden"
    assert ask(keyed, **key(keyed, "talk")).status_code == 201
    assert ask(keyed, **key(keyed, "read")).json()["code"] == "forbidden"


def test_only_for_accounts(serve: Serve, tmp_path: Path) -> None:
    server = serve(auth=Auth(mode="keys", dev_key_file=tmp_path / "key"), talk=Talk(access="login"))
    refused = ask(server, **own(server))
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
    with person(server, "ada", "operator") as ada:
        assert ada.post("/talk/room", json={"agent": "guide"}).json()["agent"] == "guide"
        del ada.headers["x-csrf-token"]
        assert ada.post("/talk/room", json={}).json()["code"] == "csrf"


def test_a_demo_for_everybody(serve: Serve, tmp_path: Path) -> None:
    server = serve(
        auth=Auth(mode="keys", dev_key_file=tmp_path / "key"),
        talk=Talk(access="anybody", agents=("shop",), rooms_per_minute=3),
        agents={"shop": AGENT, "inside": AGENT},
        allowed_origins=("https://embeds.example",),
    )
    assert ask(server, **own(server)).json()["agent"] == "scripted"
    assert ask(server, {"agent": "shop"}, origin="https://embeds.example").json()["agent"] == "shop"
    assert ask(server, {"agent": "inside"}, **key(server, "talk")).status_code == 201, "who may talk may with all"
    for agent in ("inside", "none-of-that-name"):
        assert "not for everybody" in closed(ask(server, {"agent": agent}, **own(server)))
    assert ask(server, origin="https://evil.example").json()["code"] == "csrf"
    assert ask(server, **own(server)).status_code == 201
    late = ask(server, **own(server))
    assert (late.status_code, late.json()["code"]) == (429, "too_many_rooms")
    assert int(late.headers["retry-after"]) > 0
    assert httpx.get(server.http + "/v1/rooms").status_code == 401, "nothing else is open"


# -- drafts


@pytest.fixture
def developer(keyed: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=keyed.http, headers=key(keyed, "agents", "talk", "read")) as client:
        yield client


def test_an_agent_is_tried_before_it_is_stored(keyed: LiveServer, developer: httpx.Client) -> None:
    draft = {**SCRIPTED, "greeting": "Good day."}
    room = developer.post("/v1/rooms", json={"agent": "reception", "draft": draft}).json()
    assert room["agent"] == "reception (draft)"
    path = f"/v1/sessions/{room['session_id']}"
    assert developer.post(f"{path}/messages", json={"text": "hello"}).status_code == 202
    session = keyed.runtime.sessions[room["session_id"]]
    assert session.agent.greeting == "Good day."
    assert session.chosen.version is None
    assert developer.post(f"{path}/end", json={}).is_success
    keyed.call(session.wait())
    assert keyed.runtime._drafts == {}
    stored = developer.get(path).json()["session"]
    assert (stored["agent"], stored["agent_version"]) == ("reception (draft)", None)
    assert "reception" not in {one["name"] for one in developer.get("/v1/agents").json()["items"]}
    assert developer.post(f"{path}/messages", json={"text": "hello"}).json()["code"] == "session_over"


def test_a_draft_is_checked_like_an_agent_and_is_for_those_who_may_define_some(
    keyed: LiveServer, developer: httpx.Client
) -> None:
    wrong = developer.post("/v1/rooms", json={"draft": {"instructionz": "x", "llm": "nobodys", "max_tokens": 0}})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_agent")
    assert {error["path"] for error in wrong.json()["errors"]} == {"instructionz", "max_tokens"}
    unknown = developer.post("/v1/rooms", json={"draft": {"llm": "nobodys"}}).json()
    assert [error["path"] for error in unknown["errors"]] == ["llm"]
    large = developer.post("/v1/rooms", json={"draft": {"instructions": "x" * 300_000}}).json()
    assert "larger than" in large["detail"]
    talker = httpx.post(keyed.http + "/v1/rooms", json={"draft": SCRIPTED}, headers=key(keyed, "talk"))
    assert (talker.status_code, talker.json()["code"]) == (403, "forbidden")
    assert keyed.call(keyed.runtime.store.rooms()) == []


def test_only_so_many_are_kept_and_one_that_is_gone_says_so(
    keyed: LiveServer, developer: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "_DRAFTS", 3)
    used, *unused = [developer.post("/v1/rooms", json={"draft": SCRIPTED}).json()["session_id"] for _ in range(2)]
    assert developer.post(f"/v1/sessions/{used}/messages", json={"text": "hello"}).status_code == 202
    for _ in range(3):
        developer.post("/v1/rooms", json={"draft": SCRIPTED})
    assert len(keyed.runtime._drafts) == 3
    assert used in keyed.runtime._drafts, "those that nobody talks to go first"
    gone = developer.post(f"/v1/sessions/{unused[0]}/messages", json={"text": "hello"})
    assert (gone.status_code, gone.json()["code"]) == (410, "draft_gone")
