"""Settings with where they come from: each from its place, and whatever is secret in none of the answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import msgspec
import pytest

from rejoinder.manager import load_plugins, plugins_of
from rejoinder.origins import Setting, joint_schema, masked, may_hold_secret, origin_of, plain, settings_list, values_of
from rejoinder.providers import Secret
from rejoinder.settings import Agent, Auth, WebhookOptions, load_settings

if TYPE_CHECKING:
    from tests.adapters.conftest import Serve

FILE = """
port = 9001
database_url = "postgresql+asyncpg://rejoinder:canary-1@db.example/rejoinder"
allowed_origins = ["https://ada:canary-2@example.com"]

[limits]
sessions = 5

[agents.shop]
greeting = "Hello"

[agents."shop.of.ada"]
greeting = "Hi"

[talk]
agents = ["shop"]

[plugins.openai]
voice = "verse"
base_url = "https://ada:canary-3@example.com/v1"

[plugins.mcp.servers.files]
command = "files"
args = ["--token", "canary-4"]
env = { ACCESS = "canary-5" }

[plugins.mcp.servers.web]
url = "https://mcp.example/x?api_key=canary-6"
headers = { Authorization = "canary-7" }

[plugins.gone]
license = "canary-8"
nested = { key = "canary-9" }
"""


def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **flags: Any) -> dict[str, Setting]:
    path = tmp_path / "rejoinder.toml"
    path.write_text(FILE)
    monkeypatch.setenv("REJOINDER_PLUGINS__OPENAI__API_KEY", "canary-10")
    monkeypatch.setenv("REJOINDER_LIMITS__IDLE_S", "3")
    monkeypatch.setenv("REJOINDER_PLUGINS__HIBARI__SPEED", "1.5")
    monkeypatch.setenv("REJOINDER_AUTH", '{"token_ttl_s": 77}')
    settings = load_settings(path, **flags)
    listed = settings_list(settings, plugins_of(settings).schemas(), settings.plugins)
    assert len({one.key for one in listed}) == len(listed)
    return {one.key: one for one in listed}


def test_each_setting_says_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = found(tmp_path, monkeypatch, port=9002)

    def said(key: str) -> tuple[Any, str]:
        return settings[key].value, settings[key].origin

    assert said("port") == (9002, "flag"), "over the file"
    assert said("host") == ("127.0.0.1", "default")
    assert said("limits.sessions") == (5, "file")
    assert said("limits.idle_s") == (3.0, "env")
    assert said("auth.token_ttl_s") == (77, "env"), "in one piece, as JSON"
    assert said("auth.ticket_ttl_s") == (30, "default")
    assert said("agents.shop.greeting") == ("Hello", "file")
    assert said("agents.shop.turns.profile") == ("normal", "default")
    assert said("agents.shop.of.ada.greeting") == ("Hi", "file"), "whatever an agent is called"
    assert said("talk.agents") == (["shop"], "file"), "not only the agents are called agents"
    assert said("plugins.openai.voice") == ("verse", "file")
    assert said("plugins.hibari.speed") == (1.5, "env"), "as what it is read as"
    assert said("plugins.openai.llm_model") == ("gpt-4.1-mini", "default")
    assert said("plugins.openai.api_key") == (None, "env")
    assert settings["limits.sessions"].description == "Live sessions in this process."


def test_no_secret_is_among_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = found(tmp_path, monkeypatch)
    text = msgspec.json.encode(list(settings.values())).decode()
    assert "canary" not in text
    secret = {key for key, one in settings.items() if one.secret}
    assert {
        "database_url",
        "allowed_origins",
        "plugins.openai.api_key",
        "plugins.openai.base_url",
        "plugins.gone.license",
        "plugins.gone.nested",
    } <= secret
    assert all(settings[key].value is None for key in secret)
    servers = settings["plugins.mcp.servers"].value
    assert servers["files"]["command"] == "files", "what is no secret is shown"
    assert servers["files"]["args"] == [None, None]
    assert servers["web"]["url"] is None


def test_one_that_is_harmless_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "rejoinder.toml"
    path.write_text('database_url = "postgresql+asyncpg://db.example/rejoinder"\n')
    settings = load_settings(path)
    shown = {one.key: one for one in settings_list(settings, {}, {})}
    assert (shown["database_url"].value, shown["database_url"].secret) == (
        "postgresql+asyncpg://db.example/rejoinder",
        False,
    )
    assert not shown["auth.dev_key_file"].secret
    assert not shown["auth.token_ttl_s"].secret, "a number is none"


class Inner(msgspec.Struct):
    user: str = ""
    password: str = "canary"


class Odd(msgspec.Struct, forbid_unknown_fields=True):
    """What authors write."""

    api_key: str = "canary"
    note: str = ""
    tokens: int = 3
    login: Inner | None = None
    logins: dict[str, Inner] = {}
    list_of: tuple[Secret, ...] = ()
    either: Secret | int = 3
    anything: Any = None
    hook: Annotated[str, msgspec.Meta(description="Where to.")] = ""


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("api_key", "canary", None),
        ("note", "hello", "hello"),
        ("note", "Authorization: Bearer canary", None),
        ("tokens", 5, 5),
        ("login", {"user": "ada", "password": "canary"}, {"user": "ada", "password": None}),
        ("logins", {"a": {"user": "ada", "password": "canary"}}, {"a": {"user": "ada", "password": None}}),
        ("list_of", ["canary"], [None]),
        ("either", "canary", None),
        ("anything", {"x": "canary"}, {"x": None}),
        ("anything", 3, 3),
        ("hook", "https://x.example/a?token=canary", None),
        ("logins", "canary: what is of the wrong kind", None),
    ],
)
def test_what_may_be_secret_in_a_plugins_settings_is_not_shown(key: str, value: Any, shown: Any) -> None:
    schema = joint_schema([Odd])
    values = values_of([Odd], {key: value})
    assert masked(values[key], schema["properties"][key], schema, key)[0] == shown


def test_a_secret_that_was_not_marked_is_marked_in_the_schema() -> None:
    own = joint_schema([Odd])["properties"]["api_key"]
    assert own["writeOnly"] is True
    assert "default" not in own


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("sqlite+aiosqlite:///rejoinder.db", False),
        ("https://api.openai.com/v1", False),
        ("redis://:hunter2@cache/0", True),
        ("postgresql://u:p/w@h/d", True),
        ("https://h/?x=1&password=1", True),
        ("Basic dXNlcjpwdw==", True),
        ("a basic course", False),
    ],
)
def test_what_looks_like_a_secret(text: str, secret: bool) -> None:
    assert may_hold_secret(text) is secret


def test_origins_of_settings_that_a_program_made(tmp_path: Path) -> None:
    settings = load_settings(port=1).model_copy()
    assert origin_of(settings, ("port",)) == "flag"
    assert origin_of(settings, ("limits", "sessions")) == "default"


def test_no_answer_of_the_server_holds_a_secret(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REJOINDER_PLUGINS__OPENAI__API_KEY", "canary-env")
    server = serve(
        auth=Auth(mode="keys", dev_key_file=tmp_path / "key"),
        webhooks=WebhookOptions(allow_private=True),
        agents={"shop": Agent(vad="scripted", stt="scripted", llm="scripted", tts="scripted", tools=())},
        allowed_origins=("https://u:canary-origin@example.com",),
    )
    _, key = server.call(server.runtime.gate.keys.create("admin", ["admin"]))
    with httpx.Client(base_url=server.http, headers={"authorization": f"Bearer {key}"}) as admin:
        made = admin.post(
            "/v1/webhooks", json={"url": "https://127.0.0.1:1/x?token=canary-hook", "events": ["session.ended"]}
        ).json()
        admin.put("/v1/plugin_settings/openai", json={"values": {"voice": "verse"}})
        wrong = admin.put("/v1/plugin_settings/openai", json={"values": {"api_key": "canary-put"}})
        assert (wrong.status_code, wrong.json()["code"]) == (409, "setting_pinned")
        texts = [wrong.text]
        for path in ("/v1/settings", "/v1/plugin_settings", "/v1/plugins", "/v1/audit", "/v1/nodes", "/v1/live"):
            answer = admin.get(path)
            assert answer.status_code == 200, path
            texts.append(answer.text)
        text = "".join(texts)
        for secret in ("canary-env", "canary-put", "canary-origin", made["secret"], key):
            assert secret not in text
        assert "canary" not in admin.get("/v1/settings").text
        listed = {one["key"]: one for one in admin.get("/v1/settings").json()["items"]}
        assert listed["plugins.openai.voice"] == {
            "key": "plugins.openai.voice",
            "value": "verse",
            "origin": "panel",
            "secret": False,
            "description": "",
        }
        assert listed["agents.shop.tools"]["value"] == []
    _, reader = server.call(server.runtime.gate.keys.create("reader", ["read", "agents", "talk", "control", "listen"]))
    for path in ("/v1/settings", "/v1/plugin_settings"):
        refused = httpx.get(server.http + path, headers={"authorization": f"Bearer {reader}"})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


def test_every_setting_of_every_plugin_has_a_schema_that_a_form_can_be_made_of() -> None:
    for name, schemas in load_plugins().schemas().items():
        schema = plain(joint_schema(schemas))
        assert json.loads(json.dumps(schema)) == schema
        assert set(values_of(schemas, {})) == set(schema.get("properties", {})), name
