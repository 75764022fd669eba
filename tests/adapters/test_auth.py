"""Who may do what: keys with scopes, rotated and revoked; room tokens by role; tickets; what an open server refuses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from rejoinder.app import Runtime
from rejoinder.auth import LOOPBACK, SCOPES
from rejoinder.client import VoiceClient
from rejoinder.clock import SystemClock
from rejoinder.errors import AuthError, ConfigError, RejoinderError
from rejoinder.settings import Agent, Auth, Limits, Settings
from rejoinder.store.keys import KeyRecord

if TYPE_CHECKING:
    from tests.adapters.conftest import Caller, LiveServer, Serve

KEYS = Auth(mode="keys")


def bearer(credential: str) -> dict[str, str]:
    return {"authorization": f"Bearer {credential}"}


def make_key(server: LiveServer, *scopes: str, ttl_s: float | None = None) -> str:
    return server.call(server.runtime.gate.keys.create("test", scopes, ttl_s=ttl_s))[1]


@pytest.fixture
def server(serve: Serve) -> LiveServer:
    return serve(auth=KEYS)


@pytest.fixture
def admin(server: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.http, headers=bearer(make_key(server, "admin"))) as client:
        yield client


def test_nobody_comes_in_without_a_key(server: LiveServer) -> None:
    for path in ("/v1/sessions", "/v1/agents", "/v1/plugins", "/v1/keys", "/v1/rooms", "/v1/sessions/ses_x/events"):
        for headers in ({}, bearer("rj_wrong"), bearer("a.b.c"), {"authorization": "Basic eDp5"}, bearer("é")):
            answer = httpx.get(server.http + path, headers=[(k.encode(), v.encode()) for k, v in headers.items()])
            assert answer.status_code == 401, (path, headers)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["code"] == "unauthorized"
    for path in ("/livez", "/readyz", "/version"):
        assert httpx.get(server.http + path).status_code == 200
    with pytest.raises(RejoinderError, match="asks for an API key"):
        asyncio.run(talk(server.ws, "rj_wrong"))


async def talk(url: str, credential: str) -> str:
    async with VoiceClient.connect(url, api_key=credential, text_only=True) as client:
        return (await client.say_text("hello")).reply_text


def test_a_key_does_what_its_scopes_say(server: LiveServer) -> None:
    routes: list[tuple[str, str, Any, str, int]] = [
        ("GET", "/v1/sessions", None, "read", 200),
        ("GET", "/v1/agents", None, "read", 200),
        ("POST", "/v1/rooms", {}, "talk", 201),
        ("POST", "/v1/chat", {"text": "hello"}, "talk", 200),
        ("POST", "/v1/rooms", {"role": "operator"}, "control", 403),
        ("PUT", "/v1/agents/mine", {}, "agents", 201),
        ("GET", "/v1/keys", None, "admin", 200),
        ("POST", "/v1/keys", {"name": "new", "scopes": ["read"]}, "admin", 201),
    ]
    for scope in SCOPES:
        with httpx.Client(base_url=server.http, headers=bearer(make_key(server, scope))) as client:
            for method, path, body, needed, status in routes:
                answer = client.request(method, path, json=body)
                allowed = scope in (needed, "admin")
                if path == "/v1/agents/mine" and scope == "admin":
                    status = 200
                if (needed, scope) == ("control", "admin"):
                    status = 201
                assert answer.status_code == (status if allowed else 403), (scope, method, path, answer.text)


def test_a_key_is_rotated_with_an_overlap_and_revoked_at_once(server: LiveServer, admin: httpx.Client) -> None:
    made = admin.post("/v1/keys", json={"name": "shop", "scopes": ["read"]}).json()
    old, old_id = made["key"], made["record"]["id"]
    assert old not in str(admin.get("/v1/keys").json()), "shown once"

    def works(key: str) -> bool:
        return httpx.get(server.http + "/v1/sessions", headers=bearer(key)).status_code == 200

    assert works(old)
    turned = admin.post(f"/v1/keys/{old_id}/rotate", json={"overlap_s": 3600}).json()
    assert (turned["record"]["name"], turned["record"]["scopes"]) == ("shop", ["read"])
    assert works(old)
    assert works(turned["key"])
    again = admin.post(f"/v1/keys/{turned['record']['id']}/rotate", json={"overlap_s": 0}).json()
    assert not works(turned["key"])
    assert works(again["key"])
    assert admin.delete(f"/v1/keys/{again['record']['id']}").status_code == 204
    assert not works(again["key"])
    assert admin.delete("/v1/keys/key_none").status_code == 404
    assert admin.post(f"/v1/keys/{again['record']['id']}/rotate").status_code == 404
    listed = {record["id"]: record for record in admin.get("/v1/keys").json()["items"]}
    assert listed[old_id]["last_used_at"] is not None
    assert admin.post("/v1/keys", json={"name": "x", "scopes": ["fly"]}).status_code == 400
    assert admin.post("/v1/keys", json={"name": "x", "scopes": []}).status_code == 400


def test_a_key_expires(server: LiveServer) -> None:
    key = make_key(server, "read", ttl_s=-1)
    answer = httpx.get(server.http + "/v1/sessions", headers=bearer(key))
    assert (answer.status_code, "expired" in answer.text) == (401, True)


def room_with(admin: httpx.Client, *roles: str) -> tuple[str, dict[str, str]]:
    room = admin.post("/v1/rooms", json={"agent": "scripted"}).json()
    tokens = {
        role: admin.post(f"/v1/rooms/{room['id']}/tokens", json={"role": role, "identity": role}).json()["token"]
        for role in roles
    }
    return room["session_id"], tokens


def test_room_tokens_by_role(server: LiveServer, admin: httpx.Client) -> None:
    session_id, tokens = room_with(admin, "listener", "speaker", "operator")
    other, _ = room_with(admin)
    path = f"/v1/sessions/{session_id}"
    waiting = httpx.get(f"{server.http}{path}/events", headers=bearer(tokens["listener"]))
    assert (waiting.status_code, waiting.json()["code"]) == (404, "session_not_started"), "a listener begins nothing"
    actions: list[tuple[str, str, Any, set[str]]] = [
        ("POST", "/messages", {"text": "hello"}, {"speaker", "operator"}),
        ("POST", "/interrupt", None, {"speaker", "operator"}),
        ("POST", "/say", {"text": "Attention."}, {"operator"}),
        ("GET", "", None, {"listener", "speaker", "operator"}),
        ("GET", "/turns", None, {"listener", "speaker", "operator"}),
        ("GET", "/transcript", None, {"listener", "speaker", "operator"}),
    ]
    for role in ("speaker", "listener", "operator"):
        with httpx.Client(base_url=server.http, headers=bearer(tokens[role])) as client:
            for method, what, body, allowed in actions:
                status = client.request(method, path + what, json=body).status_code
                assert (status < 300) == (role in allowed), (role, what, status)
                assert status < 300 or status == 403
            for elsewhere in ("/v1/sessions", "/v1/agents", "/v1/keys", f"/v1/sessions/{other}", "/v1/rooms"):
                assert client.get(elsewhere).status_code == 403
            assert client.post("/v1/rooms", json={}).status_code == 403
            assert client.post("/v1/chat", json={"text": "x", "session_id": other}).status_code == 403


def test_a_listener_hears_and_cannot_talk(server: LiveServer, admin: httpx.Client) -> None:
    session_id, tokens = room_with(admin, "listener", "speaker")
    url = f"{server.ws}/v1/sessions/{session_id}/ws?output_rate=16000"

    async def main() -> None:
        async with AsyncExitStack() as stack:

            async def come(role: str) -> tuple[ClientConnection, Caller]:
                ws = await stack.enter_async_context(connect(url, additional_headers=bearer(tokens[role]), proxy=None))
                caller = server.caller_on(ws)
                await caller.until("session.started")
                return ws, caller

            _, speaker = await come("speaker")
            listening, listener = await come("listener")
            for kind, fields in (
                ("text", {"text": "me too"}),
                ("interrupt", {}),
                ("end", {}),
                ("dtmf", {"digits": "1"}),
            ):
                await listener.tell(kind, **fields)
                assert (await listener.until("error"))["code"] == "forbidden"
            await listening.send(bytes(640))
            assert (await listener.until("error"))["code"] == "forbidden"
            await speaker.tell("text", text="hello")
            finished = await speaker.until("reply.finished")
            assert await listener.until("reply.finished") == finished
            assert listener.audio() == speaker.audio() != b""
            await listener.tell("ping", t=1)
            await listener.until("pong")
            assert not speaker.events("error")

    asyncio.run(main())


def test_a_room_token_is_only_what_it_says(server: LiveServer, admin: httpx.Client) -> None:
    session_id, tokens = room_with(admin, "listener")
    url = f"{server.http}/v1/sessions/{session_id}"
    claims = jwt.decode(tokens["listener"], options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 600
    forged = [
        jwt.encode({**claims, "role": "operator"}, "guess" * 10, "HS256"),
        jwt.encode({**claims, "role": "operator"}, "", "none"),
        tokens["listener"][:-2] + "xx",
    ]
    signing = server.runtime.gate._signing
    forged += [
        jwt.encode({**claims, "role": "king"}, signing, "HS256"),
        jwt.encode({**claims, "aud": "other"}, signing, "HS256"),
        jwt.encode({name: value for name, value in claims.items() if name != "exp"}, signing, "HS256"),
        jwt.encode({**claims, "exp": int(time.time()) - 1}, signing, "HS256"),
    ]
    for token in forged:
        assert httpx.get(url, headers=bearer(token)).status_code == 401
    made = admin.post("/v1/rooms", json={"ttl_s": 60, "identity": "ann"}).json()["join"]
    assert jwt.decode(made["token"], options={"verify_signature": False})["sub"] == "ann"
    assert made["token"] in made["page"].partition("#")[2], "in a part of the URL that no server sees"


def test_a_call_that_outlives_its_token_can_be_taken_up_again(server: LiveServer, admin: httpx.Client) -> None:
    session_id, tokens = room_with(admin, "speaker")
    claims = jwt.decode(tokens["speaker"], options={"verify_signature": False})
    old = jwt.encode({**claims, "exp": int(time.time()) - 60}, server.runtime.gate._signing, "HS256")
    url = f"{server.ws}/v1/sessions/{session_id}/ws"

    async def come(token: str, **configure: Any) -> dict[str, Any]:
        async with connect(url, additional_headers=bearer(token), proxy=None) as ws:
            caller = server.caller_on(ws)
            await caller.tell("session.configure", **configure)
            answer = await caller.receive()
            assert isinstance(answer, dict)
            if answer["type"] == "session.started":
                ws.transport.abort()
            return answer

    async def main() -> None:
        started = await come(tokens["speaker"])
        assert (await come(old))["code"] == "unauthorized", "it lets nobody in"
        assert (await come(old, resume_token="guess"))["code"] == "bad_resume_token"
        again = await come(old, resume_token=started["resume_token"], last_seq=1)
        assert (again["type"], again["resumed"]) == ("session.started", True)

    asyncio.run(main())


def test_a_ticket_opens_one_connection(server: LiveServer, admin: httpx.Client) -> None:
    session_id, tokens = room_with(admin, "speaker")
    url = f"{server.ws}/v1/sessions/{session_id}/ws"

    async def come(ticket: str) -> None:
        async with connect(f"{url}?output=text&ticket={ticket}", proxy=None) as ws:
            await server.caller_on(ws).until("session.started")

    answer = httpx.post(f"{server.http}/v1/tickets", headers=bearer(tokens["speaker"])).json()
    assert 0 < answer["expires_at"] - time.time() * 1000 < 31_000
    asyncio.run(come(answer["ticket"]))
    for used in (answer["ticket"], "never-was", ""):
        with pytest.raises(InvalidStatus) as refused:
            asyncio.run(come(used))
        assert refused.value.response.status_code == 401
    fresh = httpx.post(f"{server.http}/v1/tickets", headers=bearer(tokens["speaker"])).json()["ticket"]
    query = f"{server.http}/v1/sessions?ticket={fresh}"
    assert httpx.get(query).status_code == 403, "it does what its maker may do, no more"


def test_a_ticket_is_no_better_than_what_it_was_made_with(server: LiveServer, admin: httpx.Client) -> None:
    def ticket_of(credential: str) -> str:
        answer = httpx.post(f"{server.http}/v1/tickets", headers=bearer(credential))
        assert answer.status_code == 201
        return str(answer.json()["ticket"])

    def status(ticket: str, method: str = "GET", path: str = "/v1/agents") -> int:
        return httpx.request(method, f"{server.http}{path}?ticket={ticket}").status_code

    made = admin.post("/v1/keys", json={"name": "leaked", "scopes": ["read"]}).json()
    assert status(ticket_of(made["key"])) == 200
    assert status(ticket_of(made["key"]), "POST", "/v1/tickets") == 403, "it does not live on in another one"
    kept = ticket_of(made["key"])
    admin.delete(f"/v1/keys/{made['record']['id']}")
    assert status(kept) == 401, "its maker was revoked"

    session_id, tokens = room_with(admin, "speaker")
    ticket = ticket_of(tokens["speaker"])
    gate = server.runtime.gate
    until, principal = gate._tickets[ticket]
    gate._tickets[ticket] = (until, replace(principal, expires_at=int(time.time() * 1000) - 1))
    assert status(ticket, path=f"/v1/sessions/{session_id}") == 401, "its maker has expired"

    for _ in range(100):
        ticket_of(tokens["speaker"])
    full = httpx.post(f"{server.http}/v1/tickets", headers=bearer(tokens["speaker"]))
    assert (full.status_code, full.json()["code"]) == (429, "too_many_tickets")
    assert ticket_of(make_key(server, "read")), "nobody else has fewer for that"


def test_a_token_is_renewed_while_its_session_goes_on(server: LiveServer, admin: httpx.Client) -> None:
    session_id, tokens = room_with(admin, "listener", "speaker")
    path = f"/v1/sessions/{session_id}"

    def renew(credential: str) -> httpx.Response:
        return httpx.post(f"{server.http}{path}/token", headers=bearer(credential))

    for role in ("listener", "speaker"):
        fresh = renew(tokens[role])
        assert fresh.status_code == 201
        claims = [jwt.decode(t, options={"verify_signature": False}) for t in (tokens[role], fresh.json()["token"])]
        same = ("sub", "ses", "role", "aud")
        assert [claims[0][name] for name in same] == [claims[1][name] for name in same]
    assert renew(make_key(server, "admin")).status_code == 403, "a key needs none"
    speaker = renew(tokens["speaker"]).json()["token"]
    assert admin.post(f"{path}/messages", json={"text": "hi"}).status_code == 202
    assert renew(speaker).status_code == 201
    admin.post(f"{path}/end")
    with httpx.stream("GET", f"{server.http}{path}/events", headers=bearer(speaker)) as stream:
        stream.read()
    assert renew(speaker).json()["code"] == "session_over"


def test_what_ends_ends_also_when_it_is_rotated(server: LiveServer, admin: httpx.Client) -> None:
    made = admin.post("/v1/keys", json={"name": "brief", "scopes": ["read"], "ttl_s": 60}).json()["record"]
    turned = admin.post(f"/v1/keys/{made['id']}/rotate", json={"overlap_s": 0}).json()["record"]
    assert turned["expires_at"] == made["expires_at"]


def test_a_key_never_stands_in_a_url(server: LiveServer, admin: httpx.Client) -> None:
    key = make_key(server, "read")
    answer = httpx.get(f"{server.http}/v1/sessions?access_token={key}")
    assert (answer.status_code, "URL" in answer.text) == (401, True)
    session_id, tokens = room_with(admin, "speaker")
    admin.post(f"/v1/sessions/{session_id}/messages", json={"text": "hi"})
    assert httpx.get(f"{server.http}/v1/sessions/{session_id}?access_token={tokens['speaker']}").status_code == 200


def test_without_keys_no_website_acts_through_the_browser_of_who_runs_the_server(serve: Serve) -> None:
    server = serve(allowed_origins=("https://mine.example",))

    def status(**headers: str) -> int:
        body = b'{"text": "do it"}'
        return httpx.post(
            f"{server.http}/v1/chat", content=body, headers={"accept": "application/json", **headers}
        ).status_code

    assert status() == 200
    assert status(origin=f"http://127.0.0.1:{server.port}") == 200
    assert status(origin="http://localhost:5173") == 200, "a developer's own page"
    assert status(origin="https://mine.example") == 200
    for headers in (
        {"origin": "https://evil.example", "content-type": "text/plain"},
        {"origin": "null"},
        # The page's own name was made to mean this machine.
        {"host": f"evil.example:{server.port}"},
        {"host": "evil.example", "origin": "http://evil.example"},
    ):
        assert status(**headers) == 403, headers
    with pytest.raises(InvalidStatus) as refused:
        asyncio.run(come_with_host(server, "evil.example"))
    assert refused.value.response.status_code == 403


async def come_with_host(server: LiveServer, host: str) -> None:
    origin = f"http://{host}"
    async with connect(f"{server.ws}/ws/audio", additional_headers={"host": host}, origin=Origin(origin), proxy=None):
        pass


def test_too_many_requests_are_told_when_to_come_again(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(auth=KEYS, limits=Limits(requests_per_minute=3))
    key, other = make_key(server, "read"), make_key(server, "read")
    answers = [httpx.get(server.http + "/v1/agents", headers=bearer(key)) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0"]
    assert int(answers[-1].headers["retry-after"]) == 20
    assert answers[-1].json()["code"] == "rate_limited"
    assert httpx.get(server.http + "/v1/agents", headers=bearer(other)).status_code == 200, "each key has its own"
    guesses = [httpx.get(server.http + "/v1/agents", headers=bearer("rj_guess")).status_code for _ in range(4)]
    assert guesses == [401, 401, 401, 429]
    looked_up: list[str] = []
    find = server.runtime.gate.keys.find

    async def finding(key: str) -> KeyRecord | None:
        looked_up.append(key)
        return await find(key)

    monkeypatch.setattr(server.runtime.gate.keys, "find", finding)
    assert httpx.get(server.http + "/v1/agents", headers=bearer("rj_more")).status_code == 429
    assert not looked_up, "who has guessed too often is not even looked up"
    assert httpx.get(server.http + "/v1/plugins", headers=bearer(other)).status_code == 200, "who is known, is"
    assert httpx.get(server.http + "/livez").status_code == 200


def test_requests_can_be_told_apart(server: LiveServer) -> None:
    one, two = (httpx.get(server.http + "/version").headers["x-request-id"] for _ in range(2))
    assert one != two
    assert httpx.get(server.http + "/version", headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"


# -- the developer's key, and servers that would be open


def runtime(tmp_path: Path, **changes: Any) -> Runtime:
    auth = Auth(**{"dev_key_file": tmp_path / "conf" / "dev-key", **changes.pop("auth", {})})
    names = dict.fromkeys(("vad", "stt", "llm", "tts"), "scripted")
    return Runtime(
        Settings(
            database_url=f"sqlite+aiosqlite:///{tmp_path / 'x.db'}",
            default_agent="mine",
            agents={"mine": Agent.model_validate({**names, "turn": [], "interruption": []})},
            auth=auth,
            **changes,
        )
    )


def test_on_loopback_a_key_is_made_once(tmp_path: Path) -> None:
    async def start() -> str:
        async with runtime(tmp_path) as running:
            key = await running.gate.prepare()
            assert key is not None
            assert (await running.gate.principal(key)).may("admin")
            (record,) = await running.gate.keys.all()
            assert record.dev
        return key

    assert asyncio.run(start()) == asyncio.run(start())
    path = tmp_path / "conf" / "dev-key"
    assert path.stat().st_mode & 0o077 == 0, "for its owner alone"
    path.write_text("nonsense")
    with pytest.raises(ConfigError, match="holds no API key"):
        asyncio.run(start())


def test_a_revoked_developers_key_does_not_come_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with runtime(tmp_path) as running:
            key = await running.gate.prepare()
            (record,) = await running.gate.keys.all()
            await running.gate.keys.revoke(record.id)
            running.gate.forget()
            assert await running.gate.prepare() is None
            with pytest.raises(AuthError):
                await running.gate.principal(key)

    asyncio.run(main())


def test_beyond_loopback_no_server_is_open(tmp_path: Path) -> None:
    async def prepare(**changes: Any) -> None:
        async with runtime(tmp_path, host="0.0.0.0", **changes) as running:
            assert await running.gate.prepare() is None

    for auth in ({"mode": "none"}, {"mode": "keys"}):
        with pytest.raises(ConfigError) as caught:
            asyncio.run(prepare(auth=auth))
        assert caught.value.code == "server_open"

    async def with_key() -> None:
        async with runtime(tmp_path) as running:
            dev = await running.gate.prepare()
            assert dev is not None
            await running.gate.keys.create("weak", ["read"])
        with pytest.raises(ConfigError, match="scope 'admin'"):
            await prepare()
        async with runtime(tmp_path) as running:
            await running.gate.keys.create("ops", ["admin"])
        async with runtime(tmp_path, host="0.0.0.0") as reachable:
            assert await reachable.gate.prepare() is None
            with pytest.raises(AuthError):
                await reachable.gate.principal(dev)

    asyncio.run(with_key())
    assert "0.0.0.0" not in LOOPBACK


def test_a_revocation_elsewhere_is_known_within_seconds(tmp_path: Path) -> None:
    class Later(SystemClock):
        ahead = 0.0

        def monotonic(self) -> float:
            return time.monotonic() + self.ahead

    async def main() -> None:
        async with runtime(tmp_path) as one, runtime(tmp_path) as two:
            one.gate._clock = clock = Later()
            record, key = await two.gate.keys.create("shared", ["read"])
            await one.gate.principal(key)
            await two.gate.keys.revoke(record.id)
            clock.ahead = 6.0
            with pytest.raises(AuthError, match="revoked"):
                await one.gate.principal(key)
            room = await one.create_room(None)
            token = two.gate.token(room, "speaker").token
            assert (await one.gate.principal(token)).role == "speaker", "they sign with the same secret"

    asyncio.run(main())
