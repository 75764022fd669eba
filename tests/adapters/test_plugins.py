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
ROUTES = """
from pathlib import Path
from typing import Annotated

from litestar import Controller, Router, asgi, get, post
from litestar.params import Body, FromPath
from rejoinder import hookimpl

async def answer(scope, receive, send) -> None:
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b"mine " + scope["path"].encode()}})

answer.__annotations__ = {{"scope": dict, "receive": object, "send": object, "return": None}}

{routes}

@get("/{name}/fine")
async def fine() -> str:
    return "fine"

@hookimpl
def register_routes(runtime):
    return [mine, fine]
"""
"""One that brings `mine`, and a route that nobody could mind."""
GET = "@get({path!r})\nasync def mine({arguments}) -> str:\n    return 'mine'\n"
MOUNT = "mine = asgi({path!r}, is_mount=True, copy_scope=True)(answer)\n"
TAKING = {
    "other_name": (
        "/v1/sessions/{session_id:str}",
        GET.format(path="/v1/sessions/{x:str}", arguments="x: FromPath[str]"),
    ),
    "other_type": (
        "/v1/sessions/{session_id:str}",
        GET.format(path="/v1/sessions/{x:int}", arguments="x: FromPath[int]"),
    ),
    "one_of_them": ("/v1/sessions/{session_id:str}", GET.format(path="/v1/sessions/abc", arguments="")),
    "under_one": (
        "/v1/sessions/{session_id:str}",
        GET.format(path="/v1/sessions/abc/mine/{x:str}", arguments="x: FromPath[str]"),
    ),
    "all_below": (
        "/v1/sessions/{session_id:str}",
        GET.format(path="/v1/sessions/{x:path}", arguments="x: FromPath[Path]"),
    ),
    "everything": ("/", GET.format(path="/{x:path}", arguments="x: FromPath[Path]")),
    "same": ("/livez", GET.format(path="/livez", arguments="")),
    "site": ("/", MOUNT.format(path="/")),
    "mount": ("/v1/", MOUNT.format(path="/v1")),
    "mount_of_one": ("/v1/sessions/{session_id:str}", MOUNT.format(path="/v1/sessions/abc")),
    "half_a_name": ("/metrics", MOUNT.format(path="/met")),
    "pattern": ("digits", MOUNT.format(path="/acme.*")),
    "messages": (
        "/v1/sessions/{session_id:str}/messages",
        "@post('/v1/sessions/{sid:str}/messages')\nasync def mine(sid: FromPath[str]) -> str:\n    return 'mine'\n",
    ),
    "router": (
        "/v1/agents/{name:str}",
        GET.format(path="/{x:str}", arguments="x: FromPath[str]")
        + "mine = Router('/v1', route_handlers=[Router('/agents', route_handlers=[mine])])\n",
    ),
    "controller": (
        "/v1/rooms/{room_id:str}",
        "class Rooms(Controller):\n    path = '/v1/rooms'\n    @get('/{x:str}')\n"
        "    async def one(self, x: FromPath[str]) -> str:\n        return 'mine'\n\n"
        "mine = Router('/', route_handlers=[Rooms])\n",
    ),
    "twice": (
        "list_turns",
        "@get('/twice', operation_id='list_turns')\nasync def mine() -> str:\n    return 'mine'\n",
    ),
}
"""Plugins whose `mine` takes what is ours, each with what its problem names."""
HARMLESS = {
    "acme": MOUNT.format(path="/acme"),
    "more": GET.format(path="/v1/sessions/{session_id:str}/acme", arguments="session_id: FromPath[str]"),
    "named": "@get('/named')\nasync def list_turns() -> str:\n    return 'mine'\n\nmine = list_turns\n",
    "named_too": "@get('/named_too')\nasync def list_turns() -> str:\n    return 'mine'\n\nmine = list_turns\n",
    "form": (
        "Form = Annotated[dict[str, str], Body(media_type='application/x-www-form-urlencoded')]\n"
        "@post('/form')\nasync def mine(data: Form) -> str:\n    return data['said']\n"
    ),
    "files": (
        "from litestar.static_files import create_static_files_router\n"
        "mine = create_static_files_router('/files', [Path(__file__).parent / 'site'])\n"
    ),
}
ODD = """
import msgspec
from rejoinder import hookimpl
from rejoinder.providers import Capabilities, Provider, Tool

class Odd(msgspec.Struct):
    field: object = msgspec.field(default_factory=object)
    other: complex = 1j

async def run(arguments, context):
    return ""

parameters = {"type": "object"}

@hookimpl
def register_providers():
    return [Provider("tts", "odd", "x", lambda context: None, Odd, Capabilities(languages=(object(),)))]

@hookimpl
def register_tools():
    return [Tool("odd", "x", run, parameters=parameters)]
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


def test_no_plugin_takes_a_route_that_is_ours(serve: Serve, folder: Path, tmp_path: Path) -> None:
    for name, (_, routes) in TAKING.items():
        (folder / f"{name}.py").write_text(ROUTES.format(name=name, routes=routes))
    server = serve(plugins_dir=folder, auth=Auth(dev_key_file=tmp_path / "dev-key"))
    secret = server.call(server.runtime.gate.keys.create("read", ["read"]))[1]
    with httpx.Client(base_url=server.http, headers={"accept": "application/json"}) as http:
        for path in ("/v1/sessions/abc", "/v1/sessions/12", "/v1/agents/scripted", "/v1/rooms/abc", "/v1/plugins"):
            assert http.get(path).status_code == 401, path
        assert http.post("/v1/sessions/abc/messages", json={"text": "hello"}).status_code == 401
        assert http.get("/livez").json() == {"status": "ok"}
        assert http.get("/metrics").text != "mine"
        assert http.get("/nowhere").status_code == 404
        assert http.get("/openapi.json").status_code == 200
        for name in TAKING:
            assert http.get(f"/{name}/fine").status_code == 404, "none of its routes is there"
    found = offered(server.http, authorization=f"Bearer {secret}")
    for name, (named, _) in TAKING.items():
        (problem,) = found[name]["problems"]
        assert (problem["stage"], problem["subject"]) == ("register", "register_routes"), name
        assert named in problem["what"], (name, problem["what"])
        assert ("operation_id" if name == "twice" else f"a name of your own: /{name}/") in problem["what"], name


def test_routes_under_names_of_their_own_work(serve: Serve, folder: Path) -> None:
    for name, routes in HARMLESS.items():
        # A path below a mount is the mount's.
        own = "beside" if name == "acme" else name
        (folder / f"{name}.py").write_text(ROUTES.format(name=own, routes=routes))
    (folder / "site").mkdir()
    (folder / "site" / "a.txt").write_text("a file")
    server = serve(plugins_dir=folder)
    found = offered(server.http)
    assert {name: found[name]["problems"] for name in HARMLESS} == {name: [] for name in HARMLESS}
    with httpx.Client(base_url=server.http) as http:
        assert http.get("/acme/style.css").text == "mine /style.css/"
        assert http.get("/v1/sessions/abc/acme").text == "mine"
        assert http.get("/v1/sessions/abc/turns").json()["code"] == "unknown_session"
        assert http.get("/named").text == http.get("/named_too").text == "mine"
        assert http.post("/form", data={"said": "hello"}).text == "hello"
        assert http.get("/files/a.txt").text == "a file"
        document = http.get("/openapi.json").json()
    names = {one["operationId"] for item in document["paths"].values() for one in item.values()}
    assert names >= {"list_turns", "get_named", "get_named_too", "post_form", "get_v1_sessions_session_id_acme"}


def test_of_two_plugins_with_one_route_the_first_has_it(serve: Serve, folder: Path) -> None:
    for name, routes in {
        "a": GET.format(path="/shared/{x:str}", arguments="x: FromPath[str]"),
        "b": "@post('/shared/{y:int}')\nasync def mine(y: FromPath[int]) -> str:\n    return 'mine'\n",
        "c": MOUNT.format(path="/shop"),
        "d": MOUNT.format(path="/shop-two"),
    }.items():
        (folder / f"{name}.py").write_text(ROUTES.format(name=name, routes=routes))
    server = serve(plugins_dir=folder)
    found = offered(server.http)
    assert [found[name]["problems"] for name in "ac"] == [[], []]
    assert "/shared/{x:str}, which belongs to the plugin 'a'" in found["b"]["error"]
    assert "/shop, which belongs to the plugin 'c'" in found["d"]["error"]
    assert httpx.get(f"{server.http}/shared/abc").text == "mine"
    assert [httpx.get(f"{server.http}/{name}/fine").status_code for name in "abcd"] == [200, 404, 200, 404]


def test_what_has_no_json_form_hides_nothing_else(serve: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "odd.py").write_text(ODD)
    server = serve(plugins_dir=folder)

    class Mute:
        def __str__(self) -> str:
            raise RuntimeError("not a word")

    said: dict[str, Any] = {"odd": Mute(), "guide": ["not", "well"], "tools": "x" * 600, "hibari": ""}

    async def health() -> dict[str, Any]:
        return said

    monkeypatch.setattr(server.runtime, "health", health)
    # When it was asked for them they were fine.
    odd: Any = server.runtime.plugins.module("odd")
    odd.parameters["default"] = object()
    answer = httpx.get(f"{server.http}/v1/plugins")
    assert answer.status_code == 200
    found = answer.json()
    health_of = {one["name"]: one["health"] for one in found["plugins"]}
    assert (health_of["odd"], health_of["guide"]) == ("Mute", "['not', 'well']")
    assert health_of["tools"] == "x" * 500
    states = {one["name"]: one["state"] for one in found["plugins"]}
    assert (states["guide"], states["hibari"]) == ("degraded", "ok")
    provider = next(one for one in found["providers"] if one["name"] == "odd")
    assert provider["settings"] == provider["capabilities"] == {}
    tools = {one["name"]: one["parameters"] for one in found["tools"]}
    assert tools["odd"] == {}
    assert tools["clock"] != {}


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
