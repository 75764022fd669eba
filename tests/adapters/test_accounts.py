"""People log in: links, cookies, roles; what each role may do on every route there is; what no answer ever holds."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from litestar import Litestar
from litestar.routes import HTTPRoute, WebSocketRoute
from sqlalchemy import select, update
from tests.adapters.accounts_help import PASSWORD, browser, invite, person
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from rejoinder.auth import OF_ACCOUNT
from rejoinder.settings import Auth, Limits
from rejoinder.store import tables
from rejoinder.store.users import ROLES
from rejoinder_adapters.security import Needs
from rejoinder_adapters.server import create_app

if TYPE_CHECKING:
    from tests.adapters.conftest import LiveServer, Serve

    from rejoinder.store.users import AccountRole

KEYS = Auth(mode="keys")
PUBLIC = re.compile(
    r"/livez|/readyz|/version|/openapi\.json|/docs.*|/talk.*|/client.*\.js|/ui/.*|/admin|/admin/\{path\}|/?"
    r"|/admin/api/(login|link)"
)
"""Routes that anybody may use: pages without data, and the doors themselves."""
RENEWAL = "/v1/sessions/{session_id}/token"
"""Refuses whoever comes without a room token."""
ADMIN_ONLY = ("/v1/users", "/v1/audit", "/v1/keys", "/v1/webhooks", "/v1/plugin_settings", "/v1/settings")


@pytest.fixture
def server(serve: Serve) -> LiveServer:
    return serve(auth=KEYS)


@pytest.fixture
def admin(server: LiveServer) -> Iterator[httpx.Client]:
    with person(server, "root", "admin") as client:
        yield client


def me(client: httpx.Client) -> httpx.Response:
    return client.get("/admin/api/me")


def log_in(client: httpx.Client, name: str, password: str = PASSWORD) -> httpx.Response:
    answer = client.post("/admin/api/login", json={"name": name, "password": password})
    if answer.status_code == 200:
        client.headers["x-csrf-token"] = answer.json()["csrf"]
    return answer


def audit_of(server: LiveServer, action: str) -> list[dict[str, Any]]:
    rows = server.call(server.runtime.audit.rows(200, action=action))
    return [{"actor_name": row.actor_name, "subject": row.subject, **row.detail} for row in rows]


# -- in and out


def test_the_first_account_comes_from_a_link(server: LiveServer) -> None:
    with browser(server) as ann:
        nobody = me(ann)
        assert (nobody.status_code, nobody.json()["code"]) == (401, "unauthorized")
        assert "rejoinder users" in nobody.json()["fix"]
        token, _ = server.call(server.runtime.gate.logins.users.link(None, by="serve", ttl_s=600))
        use = {"token": token, "name": "Ann", "password": "short"}
        weak = ann.post("/admin/api/link", json=use)
        assert (weak.status_code, weak.json()["code"]) == (422, "weak_password")
        made = ann.post("/admin/api/link", json={**use, "password": PASSWORD})
        assert made.status_code == 200, "a password that was refused does not use it up"
        assert made.json()["user"] == {**made.json()["user"], "name": "ann", "role": "admin"}
        assert made.json()["proved"] is True
        assert made.headers["cache-control"] == "no-store"
        cookie = made.headers["set-cookie"]
        assert cookie.startswith("rejoinder=")
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
        assert me(ann).json() == made.json()
        with browser(server) as eve:
            again = eve.post("/admin/api/link", json={**use, "name": "eve", "password": PASSWORD})
            assert (again.status_code, again.json()["code"]) == (410, "bad_link")
            assert me(eve).status_code == 401
            assert eve.get(f"/admin/api/link?token={token}").status_code == 405, "a token never stands in a URL"


def test_a_login_is_another_one_each_time_and_ends(server: LiveServer, admin: httpx.Client) -> None:
    with browser(server) as client:
        client.cookies.set("rejoinder", "fixed-by-somebody-else", domain="127.0.0.1", path="/")
        assert log_in(client, "root").status_code == 200
        first = client.cookies["rejoinder"]
        assert first != "fixed-by-somebody-else"
        csrf = client.headers["x-csrf-token"]
        assert log_in(client, "root").status_code == 200
        second = client.cookies["rejoinder"]
        assert second != first
        assert client.headers["x-csrf-token"] != csrf
        assert _status_with(server, first) == 401, "the one that was replaced has ended"
        assert _status_with(server, second) == 200
        assert client.post("/admin/api/logout").status_code == 204
        assert "rejoinder" not in client.cookies
        assert _status_with(server, second) == 401
    assert me(admin).status_code == 200, "others go on"
    assert _status_with(server, "fixed-by-somebody-else") == 401
    assert len(audit_of(server, "login.end")) == 1


def _status_with(server: LiveServer, token: str) -> int:
    return httpx.get(f"{server.http}/v1/sessions", headers={"cookie": f"rejoinder={token}"}).status_code


def test_a_wrong_password_tells_nothing_and_costs_time(server: LiveServer, admin: httpx.Client) -> None:
    with browser(server) as client:
        known, unknown = log_in(client, "root", "wrong"), log_in(client, "nobody", "wrong")
        assert known.status_code == unknown.status_code == 401
        assert known.json()["code"] == "bad_login"
        same = ("type", "title", "detail", "code", "fix")
        assert [known.json()[name] for name in same] == [unknown.json()[name] for name in same]
        for _ in range(2):
            log_in(client, "root", "wrong")
        late = log_in(client, "root")
        assert (late.status_code, late.json()["code"]) == (429, "login_delayed")
        assert int(late.headers["retry-after"]) >= 1
        assert "rejoinder" not in client.cookies
    failed = audit_of(server, "login.failed")
    assert [row["actor_name"] for row in failed] == ["root", "root", "nobody", "root"]
    assert "wrong" not in json.dumps(failed)


def test_the_password_is_asked_for_again_before_what_is_dangerous(server: LiveServer, admin: httpx.Client) -> None:
    dangerous: list[tuple[str, str, Any]] = [
        ("POST", "/v1/keys", {"name": "x", "scopes": ["read"]}),
        ("POST", "/v1/keys/key_x/rotate", {}),
        ("DELETE", "/v1/keys/key_x", None),
        ("POST", "/v1/users", {"name": "x"}),
        ("PATCH", "/v1/users/user_x", {"role": "viewer"}),
        ("POST", "/v1/users/user_x/link", None),
        ("DELETE", "/v1/users/user_x", None),
        ("DELETE", "/v1/sessions/ses_x", None),
        ("DELETE", "/v1/sessions/ses_x/recording", None),
    ]
    _age_the_proof(server)
    assert me(admin).json()["proved"] is False
    for method, path, body in dangerous:
        answer = admin.request(method, path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (403, "prove_password"), path
    assert admin.get("/v1/keys").status_code == 200, "to look is not dangerous"
    wrong = admin.post("/admin/api/prove", json={"password": "wrong"})
    assert (wrong.status_code, wrong.json()["code"]) == (403, "wrong_password"), "not 401: one is logged in"
    assert admin.post("/admin/api/prove", json={"password": PASSWORD}).status_code == 204
    assert me(admin).json()["proved"] is True
    for method, path, body in dangerous:
        assert admin.request(method, path, json=body).status_code in (201, 404), path
    _, key = server.call(server.runtime.gate.keys.create("ops", ["admin"]))
    made = httpx.post(f"{server.http}/v1/users", headers={"authorization": f"Bearer {key}"}, json={"name": "y"})
    assert made.status_code == 201, "a key has no password"


def _age_the_proof(server: LiveServer) -> None:
    async def age() -> None:
        async with server.runtime.store.transaction() as connection:
            await connection.execute(update(tables.logins).values(proved_at=0))
        server.runtime.gate.logins.forget()

    server.call(age())


def test_ones_own_logins_are_seen_and_ended(server: LiveServer, admin: httpx.Client) -> None:
    with browser(server) as other, person(server, "bob", "viewer") as bob:
        other.headers["user-agent"] = "Other browser"
        log_in(other, "root")
        listed = admin.get("/admin/api/logins").json()["items"]
        assert [row["current"] for row in listed] == [False, True]
        assert (listed[0]["client"], listed[0]["address"]) == ("Other browser", "127.0.0.1")
        stranger = bob.delete(f"/admin/api/logins/{listed[0]['id']}")
        assert (stranger.status_code, stranger.json()["code"]) == (404, "unknown_login")
        assert admin.delete(f"/admin/api/logins/{listed[0]['id']}").status_code == 204
        assert me(other).status_code == 401
        assert me(admin).status_code == 200


def test_another_password_ends_all_other_logins(server: LiveServer, admin: httpx.Client) -> None:
    with browser(server) as other:
        log_in(other, "root")
        change = {"old": PASSWORD, "new": "battery staple"}
        wrong = admin.post("/admin/api/password", json={**change, "old": "wrong"})
        assert (wrong.status_code, wrong.json()["code"]) == (403, "wrong_password")
        assert admin.post("/admin/api/password", json=change).status_code == 204
        assert me(other).status_code == 401
        assert me(admin).status_code == 200
        assert log_in(other, "root").status_code == 401
        assert log_in(other, "root", "battery staple").status_code == 200


def test_where_nobody_is_asked_there_are_no_accounts(serve: Serve) -> None:
    server = serve()
    answer = httpx.get(f"{server.http}/admin/api/me").json()
    assert (answer["open"], answer["csrf"], answer["proved"], answer["user"]["role"]) == (True, "", True, "admin")
    assert answer["scopes"] == ["read", "listen", "talk", "control", "agents", "admin"]
    origin = {"origin": server.http}
    login = httpx.post(f"{server.http}/admin/api/login", json={"name": "x", "password": "y"}, headers=origin)
    assert login.status_code == 403
    assert httpx.get(f"{server.http}/admin/api/me", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert httpx.get(f"{server.http}/admin/api/me", headers={"host": "evil.example"}).status_code == 403


# -- accounts over REST


def test_an_admin_invites_changes_and_removes(server: LiveServer, admin: httpx.Client) -> None:
    made = admin.post("/v1/users", json={"name": "Bob", "role": "operator"})
    assert made.status_code == 201
    user, link = made.json()["user"], made.json()["link"]
    assert link.startswith(f"{server.http}/admin/login#token=")
    assert 86_000 < made.json()["expires_at"] / 1000 - time.time() < 86_401
    taken = admin.post("/v1/users", json={"name": "bob"})
    assert (taken.status_code, taken.json()["code"]) == (409, "user_exists")
    assert admin.post("/v1/users", json={"name": "b o b"}).json()["code"] == "bad_user_name"
    assert admin.post("/v1/users", json={"name": "x", "role": "king"}).status_code == 400
    with browser(server) as bob:
        token = link.partition("#token=")[2]
        bob.headers["x-csrf-token"] = bob.post("/admin/api/link", json={"token": token, "password": PASSWORD}).json()[
            "csrf"
        ]
        assert bob.post("/v1/rooms", json={}).status_code == 201
        changed = admin.patch(f"/v1/users/{user['id']}", json={"role": "viewer"})
        assert changed.json() == {**changed.json(), "role": "viewer", "has_password": True}
        assert bob.post("/v1/rooms", json={}).status_code == 403, "at once"
        assert me(bob).json()["scopes"] == ["read"]
        admin.patch(f"/v1/users/{user['id']}", json={"disabled": True})
        assert me(bob).status_code == 401, "at once"
        assert log_in(bob, "bob").status_code == 401
        refused = admin.post(f"/v1/users/{user['id']}/link")
        assert (refused.status_code, refused.json()["code"]) == (409, "user_disabled")
        admin.patch(f"/v1/users/{user['id']}", json={"disabled": False})
        reset = admin.post(f"/v1/users/{user['id']}/link").json()["link"].partition("#token=")[2]
        assert log_in(bob, "bob").status_code == 200
        with browser(server) as phone:
            phone.post("/admin/api/link", json={"token": reset, "password": "battery staple"})
            assert me(phone).status_code == 200
        assert me(bob).status_code == 401, "a reset ends all logins"
        assert log_in(bob, "bob", "battery staple").status_code == 200
        assert admin.delete(f"/v1/users/{user['id']}").status_code == 204
        assert me(bob).status_code == 401
    for call in (admin.delete, lambda path: admin.patch(path, json={}), lambda path: admin.post(f"{path}/link")):
        assert call(f"/v1/users/{user['id']}").json()["code"] == "unknown_user"
    done = {row["action"] for row in admin.get("/v1/audit").json()["items"]}
    assert done >= {"user.create", "user.change", "user.link", "user.delete", "user.password", "login.begin"}


def test_the_last_admin_stays(server: LiveServer, admin: httpx.Client) -> None:
    mine = f"/v1/users/{me(admin).json()['user']['id']}"
    for answer in (
        admin.patch(mine, json={"role": "developer"}),
        admin.patch(mine, json={"disabled": True}),
        admin.delete(mine),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "last_admin")
    with person(server, "second", "admin"):
        assert admin.patch(mine, json={"role": "developer"}).status_code == 200
    assert admin.patch(mine, json={"role": "admin"}).status_code == 403, "nobody gives themselves more"
    assert me(admin).json()["user"]["role"] == "developer"


def test_the_audit_log_is_read_back_page_by_page(server: LiveServer, admin: httpx.Client) -> None:
    key = admin.post("/v1/keys", json={"name": "shop", "scopes": ["read"]}).json()
    admin.delete(f"/v1/keys/{key['record']['id']}")
    admin.put("/v1/agents/mine", json={"instructions": "Be brief."})
    hook = admin.post("/v1/webhooks", json={"url": "https://127.0.0.1:1/x"})
    room = admin.post("/v1/rooms", json={}).json()
    admin.delete("/v1/agents/mine")
    rows = admin.get("/v1/audit").json()["items"]
    found = {row["action"]: row for row in rows}
    assert found["key.create"]["subject"] == found["key.revoke"]["subject"] == key["record"]["id"]
    assert found["key.create"]["detail"] == {"name": "shop", "scopes": ["read"]}
    assert found["agent.put"]["subject"] == "mine"
    assert found["agent.delete"]["actor"] == me(admin).json()["user"]["id"]
    assert found["room.create"]["subject"] == room["id"]
    assert ("webhook.create" in found) == (hook.status_code == 201)
    assert all((row["actor_name"], row["address"]) == ("root", "127.0.0.1") for row in rows)
    first = admin.get("/v1/audit?limit=2").json()
    rest = admin.get(f"/v1/audit?limit=200&before={first['next_cursor']}").json()
    assert first["items"] + rest["items"] == rows
    assert rest["next_cursor"] is None
    assert [row["action"] for row in admin.get("/v1/audit?action=key.revoke").json()["items"]] == ["key.revoke"]
    assert len(admin.get("/v1/audit?subject=mine").json()["items"]) == 2
    assert admin.get("/v1/audit?actor=nobody").json()["items"] == []


# -- every route there is


def routes_of(app: Litestar) -> list[tuple[str, str, Needs | None]]:
    found: list[tuple[str, str, Needs | None]] = []
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for method, (handler, _) in route.route_handler_map.items():
                if method not in ("OPTIONS", "HEAD"):
                    guard = next((one for one in handler.resolve_guards() if isinstance(one, Needs)), None)
                    found.append((method, route.path_format or "/", guard))
    assert len(found) > 50
    return found


def fetch(client: httpx.Client, method: str, path: str) -> tuple[int, str]:
    """Status and code; a stream is not read."""
    filled = re.sub(r"\{[^}]*\}", "x", path)
    with client.stream(method, filled, headers={"accept": "application/json"}) as answer:
        if answer.status_code < 400:
            return answer.status_code, ""
        answer.read()
        try:
            return answer.status_code, answer.json().get("code", "")
        except ValueError:
            return answer.status_code, ""


def test_each_route_is_public_or_asks_who_it_is(server: LiveServer) -> None:
    with browser(server) as nobody:
        for method, path, guard in routes_of(create_app(server.runtime)):
            status, _ = fetch(nobody, method, path)
            if PUBLIC.fullmatch(path):
                assert status != 401 or path == "/admin/api/login", (method, path)
                assert guard is None, (method, path)
            else:
                assert status == 401, (method, path, status)


def test_no_role_can_do_more_than_it_says(serve: Serve) -> None:
    server = serve(auth=KEYS, limits=Limits(requests_per_minute=100_000, idle_s=1, chat_idle_s=1))
    app = create_app(server.runtime)
    seen = set()
    for role in ROLES:
        with person(server, f"a-{role}", role) as client:
            for method, path, guard in routes_of(app):
                if guard is None or guard.scope is None or path == RENEWAL:
                    continue
                status, code = fetch(client, method, path)
                allowed = guard.scope in OF_ACCOUNT[role]
                assert (status == 403) != allowed, (role, method, path, status, code)
                if path.startswith(ADMIN_ONLY):
                    assert allowed == (role == "admin"), (role, path)
                seen.add(guard.scope)
            assert me(client).json()["user"]["role"] == role
    assert seen >= {"read", "talk", "control", "agents", "admin"}


def test_a_role_has_the_scopes_that_are_documented() -> None:
    documented: dict[AccountRole, set[str]] = {
        "viewer": {"read"},
        "analyst": {"read", "listen"},
        "operator": {"read", "listen", "talk", "control"},
        "developer": {"read", "listen", "talk", "agents"},
        "admin": {"read", "listen", "talk", "control", "agents", "admin"},
    }
    assert documented == OF_ACCOUNT


def test_no_cookie_opens_a_websocket(server: LiveServer, admin: httpx.Client) -> None:
    cookie = f"rejoinder={admin.cookies['rejoinder']}"
    paths = [route.path_format for route in create_app(server.runtime).routes if isinstance(route, WebSocketRoute)]
    assert "/ws/audio" in paths

    async def status_of(path: str, **headers: str) -> int:
        try:
            async with connect(server.ws + path, additional_headers=headers, proxy=None):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    for path in paths:
        filled = re.sub(r"\{[^}]*\}", "x", path)
        for headers in ({"cookie": cookie}, {"cookie": cookie, "origin": server.http}):
            assert asyncio.run(status_of(filled, **headers)) == 401, path
        evil = {"cookie": cookie, "origin": "https://evil.example"}
        assert asyncio.run(status_of(filled, **evil)) == 403, path

    ticket = admin.post("/v1/tickets").json()["ticket"]
    assert asyncio.run(status_of(f"/ws/audio?ticket={ticket}", origin=server.http)) == 101
    assert asyncio.run(status_of(f"/ws/audio?ticket={ticket}", origin=server.http)) == 401, "it does once"


def test_a_ticket_dies_with_its_login(server: LiveServer, admin: httpx.Client) -> None:
    def status(ticket: str) -> int:
        return httpx.get(f"{server.http}/v1/rooms?ticket={ticket}").status_code

    with person(server, "bob", "viewer") as bob:
        assert status(bob.post("/v1/tickets").json()["ticket"]) == 200
        kept = bob.post("/v1/tickets").json()["ticket"]
        secret = bob.post("/v1/tickets").json()["ticket"]
        assert httpx.get(f"{server.http}/v1/users?ticket={secret}").status_code == 403
        bob.post("/admin/api/logout")
        assert status(kept) == 401
    with person(server, "eve", "admin") as eve:
        kept = eve.post("/v1/tickets").json()["ticket"]
        user_id = me(eve).json()["user"]["id"]
        admin.patch(f"/v1/users/{user_id}", json={"role": "viewer"})
        refused = httpx.post(f"{server.http}/v1/keys?ticket={kept}", json={"name": "x", "scopes": ["admin"]})
        assert refused.status_code == 403, "it is what its maker is now"


def test_an_idempotency_key_works_for_somebody_who_is_logged_in(server: LiveServer, admin: httpx.Client) -> None:
    key = {"idempotency-key": "mine"}
    first, second = (admin.post("/v1/rooms", json={}, headers=key) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    assert second.headers["idempotency-replayed"] == "true"
    with person(server, "bob", "operator") as bob:
        assert bob.post("/v1/rooms", json={}, headers=key).json()["id"] != first.json()["id"], "each has their own"
        blind = bob.post("/v1/rooms", json={}, headers={**key, "x-csrf-token": "wrong"})
        assert (blind.status_code, blind.json()["code"]) == (403, "csrf"), "nor is a kept answer given away"
    for path in ("/v1/users", "/v1/users/user_x/link"):
        refused = admin.post(path, json={"name": "carl"}, headers=key)
        assert refused.json()["code"] == "idempotency_unsupported", "its answer holds a secret"


def test_requests_of_a_user_are_limited_like_those_of_a_key(serve: Serve) -> None:
    server = serve(auth=KEYS, limits=Limits(requests_per_minute=5))
    with person(server, "ann", "viewer") as ann, person(server, "bob", "viewer") as bob:
        statuses = [ann.get("/v1/agents").status_code for _ in range(6)]
        assert statuses == [200] * 5 + [429]
        assert bob.get("/v1/agents").status_code == 200


# -- what no answer ever holds


def test_no_answer_holds_a_secret(server: LiveServer, admin: httpx.Client) -> None:
    token = invite(server, "carl", "viewer")
    made = admin.post("/v1/keys", json={"name": "shop", "scopes": ["read"]}).json()
    hook = admin.post("/v1/webhooks", json={"url": "https://example.com/x"})
    secrets = {token, made["key"], admin.cookies["rejoinder"], PASSWORD}
    if hook.status_code == 201:
        secrets.add(hook.json()["secret"])
    with person(server, "bob", "viewer") as bob:
        secrets |= {bob.cookies["rejoinder"], bob.headers["x-csrf-token"]}

        async def stored() -> set[str]:
            columns = (
                tables.users.c.password,
                tables.logins.c.hash,
                tables.login_links.c.hash,
                tables.api_keys.c.hash,
                tables.secrets.c.value,
            )
            found = set()
            async with server.runtime.store.reading() as connection:
                for column in columns:
                    found |= {value for value in (await connection.execute(select(column))).scalars() if value}
            return found

        secrets |= server.call(stored())
        assert len(secrets) >= 11
        ids = {
            "user_id": me(bob).json()["user"]["id"],
            "key_id": made["record"]["id"],
            "webhook_id": hook.json()["webhook"]["id"] if hook.status_code == 201 else "x",
        }
        asked = 0
        for method, path, guard in routes_of(create_app(server.runtime)):
            if method != "GET" or (guard is None and not path.startswith("/admin/api")) or path == "/v1/stream":
                continue
            filled = re.sub(r"\{([^}]*)\}", lambda found: ids.get(found[1], "x"), path)
            answer = admin.get(filled, headers={"accept": "application/json"})
            shown = answer.text + str(answer.headers)
            leaked = [secret for secret in secrets if secret in shown]
            assert not leaked, (path, leaked)
            asked += 1
        assert asked > 15
        audited = admin.get("/v1/audit?limit=200").text
        assert not [secret for secret in secrets if secret in audited]
