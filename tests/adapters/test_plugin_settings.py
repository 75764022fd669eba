"""Settings of plugins over REST: for admins who have proved who they are, audited without values, in effect at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.adapters.accounts_help import PASSWORD, person

from rejoinder import auth as auth_module
from rejoinder.settings import Auth

if TYPE_CHECKING:
    from pathlib import Path

    from tests.adapters.conftest import LiveServer, Serve


def put(client: httpx.Client, name: str, **values: Any) -> httpx.Response:
    return client.put(f"/v1/plugin_settings/{name}", json={"values": values})


def test_an_admin_who_is_logged_in(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(auth=Auth(mode="keys", dev_key_file=tmp_path / "key"))
    with person(server, "ada", "admin") as ada:
        answer = put(ada, "openai", api_key="canary", voice="verse")
        assert answer.status_code == 200, answer.text
        section = answer.json()
        assert (section["values"]["voice"], section["values"]["api_key"]) == ("verse", True)
        assert (section["origins"]["voice"], section["updated_by"], section["restart"]) == ("panel", "ada", False)
        (row,) = ada.get("/v1/audit", params={"action": "plugin_settings.put"}).json()["items"]
        assert (row["actor_name"], row["subject"], row["detail"]) == ("ada", "openai", {"keys": ["api_key", "voice"]})
        assert put(ada, "openai", voice="verse").status_code == 200
        assert len(ada.get("/v1/audit", params={"action": "plugin_settings.put"}).json()["items"]) == 1, "no change"
        monkeypatch.setattr(auth_module, "PROOF_MS", -1)
        refused = put(ada, "openai", voice="alloy")
        assert (refused.status_code, refused.json()["code"]) == (403, "prove_password")
        monkeypatch.undo()
        assert ada.post("/admin/api/prove", json={"password": PASSWORD}).status_code < 300
        assert put(ada, "openai", voice="alloy").status_code == 200
        del ada.headers["x-csrf-token"]
        assert put(ada, "openai", voice="verse").json()["code"] == "csrf"
    with person(server, "ben", "developer") as ben:
        assert put(ben, "openai", voice="verse").json()["code"] == "forbidden"
        assert ben.get("/v1/plugin_settings").status_code == 403


def test_errors_have_the_keys(server: LiveServer) -> None:
    with httpx.Client(base_url=server.http) as client:
        wrong = put(client, "openai", tts_rate="x", max_retries=9, voise="a")
        assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_settings")
        assert {error["path"] for error in wrong.json()["errors"]} == {"tts_rate", "max_retries", "voise"}
        pinned = put(client, "scripted", transcript="another")
        assert (pinned.status_code, pinned.json()["code"]) == (409, "setting_pinned")
        assert "transcript" in pinned.json()["detail"]
        unknown = put(client, "opnai")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_section")
        assert "'openai'" in unknown.json()["fix"]
        assert client.put("/v1/plugin_settings/openai", json={"voice": "x"}).status_code == 400


def test_the_next_session_has_it(serve: Serve) -> None:
    server = serve()
    with httpx.Client(base_url=server.http) as client:

        def said() -> str:
            answer = client.post("/v1/chat", json={"text": "hello"}, headers={"accept": "application/json"})
            text: str = answer.json()["text"]
            return text

        assert said() == "Certainly, here it is."
        section = put(client, "scripted", repeat=2).json()
        assert not section["restart"]
        assert said() == "Certainly, here it is. Certainly, here it is."
        names = {one["name"] for one in client.get("/v1/plugin_settings").json()["items"]}
        assert {"openai", "scripted", "mcp"} <= names
        assert "calculator" not in names, "there is nothing to set"
