"""Other sites act through nobody's browser: what a login's cookie counts for, on REST and on `/admin/api`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.adapters.accounts_help import PASSWORD, browser, invite, person

from rejoinder.settings import Auth

if TYPE_CHECKING:
    from tests.adapters.conftest import LiveServer, Serve

CHANGES = [
    ("POST", "/v1/rooms"),
    ("POST", "/v1/tickets"),
    ("PUT", "/v1/agents/mine"),
    ("DELETE", "/v1/agents/mine"),
    ("PATCH", "/v1/users/user_x"),
    ("POST", "/admin/api/logout"),
    ("POST", "/admin/api/prove"),
    ("POST", "/admin/api/password"),
    ("DELETE", "/admin/api/logins/x"),
]
READS = ["/v1/sessions", "/v1/users", "/admin/api/me", "/admin/api/logins"]


@pytest.fixture
def server(serve: Serve) -> LiveServer:
    return serve(auth=Auth(mode="keys"), allowed_origins=("https://shop.example",))


@pytest.fixture
def ann(server: LiveServer) -> Iterator[httpx.Client]:
    with person(server, "ann", "admin") as client:
        yield client


def refused(answer: httpx.Response) -> bool:
    is_csrf = answer.status_code == 403 and answer.json()["code"] == "csrf"
    assert is_csrf or answer.status_code != 403, answer.text
    return is_csrf


def without(client: httpx.Client, *names: str, **more: str) -> dict[str, str]:
    """The headers of `client` without some, and with others."""
    return {name: value for name, value in {**client.headers, **more}.items() if name not in names}


def send(server: LiveServer, client: httpx.Client, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    cookie = f"rejoinder={client.cookies['rejoinder']}"
    return httpx.request(method, server.http + path, headers={**headers, "cookie": cookie})


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_a_change_needs_the_token_and_our_own_page(
    server: LiveServer, ann: httpx.Client, method: str, path: str
) -> None:
    with person(server, "bob", "admin") as bob:
        others = bob.headers["x-csrf-token"]
    wrong = [
        without(ann, "x-csrf-token"),
        without(ann, **{"x-csrf-token": ""}),
        without(ann, **{"x-csrf-token": others}),
        without(ann, "origin", "sec-fetch-site"),
        without(ann, "sec-fetch-site", origin="https://evil.example"),
        without(ann, "sec-fetch-site", origin="https://shop.example"),
        without(ann, "sec-fetch-site", origin="null"),
        without(ann, **{"sec-fetch-site": "cross-site"}),
        without(ann, **{"sec-fetch-site": "same-site"}),
        without(ann, **{"sec-fetch-site": "none"}),
    ]
    for headers in wrong:
        assert refused(send(server, ann, method, path, headers)), headers
    for good in (without(ann), without(ann, "sec-fetch-site"), without(ann, "origin")):
        answer = send(server, ann, method, path, good)
        assert not refused(answer)
        assert answer.status_code != 401 or "logout" in path


@pytest.mark.parametrize("path", READS)
def test_another_site_does_not_even_read(server: LiveServer, ann: httpx.Client, path: str) -> None:
    for headers in (
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
    ):
        for method in ("GET", "HEAD"):
            answer = send(server, ann, method, path, headers)
            assert answer.status_code == 403, (headers, method)
            assert "access-control-allow-credentials" not in answer.headers
    for headers in ({}, {"sec-fetch-site": "none"}, {"sec-fetch-site": "same-origin"}):
        assert send(server, ann, "GET", path, headers).status_code == 200


def test_another_site_logs_nobody_in(server: LiveServer, ann: httpx.Client) -> None:
    token = invite(server, "eve", "viewer")
    bodies = {
        "/admin/api/login": {"name": "ann", "password": PASSWORD},
        "/admin/api/link": {"token": token, "password": PASSWORD},
    }
    for path, body in bodies.items():
        for headers in (
            {},
            {"origin": "https://evil.example"},
            {"sec-fetch-site": "cross-site", "origin": server.http},
        ):
            answer = httpx.post(server.http + path, json=body, headers=headers)
            assert refused(answer)
            assert "set-cookie" not in answer.headers
    with browser(server) as client:
        assert client.post("/admin/api/link", json=bodies["/admin/api/link"]).status_code == 200, "it was not used up"


def test_a_key_needs_no_token_and_comes_before_a_cookie(server: LiveServer, ann: httpx.Client) -> None:
    _, key = server.call(server.runtime.gate.keys.create("test", ["talk"]))
    headers = {"authorization": f"Bearer {key}", "origin": "https://shop.example"}
    assert send(server, ann, "POST", "/v1/rooms", headers).status_code == 201
    assert send(server, ann, "GET", "/v1/users", headers).status_code == 403, "it is the key that asks"
    assert send(server, ann, "GET", "/v1/users", {"authorization": "Bearer rj_wrong"}).status_code == 401
    assert send(server, ann, "GET", "/v1/users?ticket=wrong", {}).status_code == 401
    assert httpx.get(f"{server.http}/admin/api/me", headers=headers).status_code == 401, "keys do not log in"


def test_behind_tls_only_the_cookie_of_this_host_counts(server: LiveServer, ann: httpx.Client) -> None:
    secure = {"x-forwarded-proto": "https"}
    answer = httpx.post(
        f"{server.http}/admin/api/login",
        json={"name": "ann", "password": PASSWORD},
        headers={**secure, "origin": server.http.replace("http:", "https:")},
    )
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-rejoinder=")
    assert {"Secure", "HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    token = cookie.partition("=")[2].partition(";")[0]

    def status(name: str, headers: dict[str, str]) -> int:
        sent = {**headers, "cookie": f"{name}={token}"}
        return httpx.get(f"{server.http}/v1/sessions", headers=sent).status_code

    assert status("__Host-rejoinder", secure) == 200
    assert status("rejoinder", secure) == 401, "one that a neighbour without TLS may have set"
    assert status("__Host-rejoinder", {}) == 401


def test_an_open_server_heeds_no_cookie(serve: Serve) -> None:
    server = serve()
    answer = httpx.post(f"{server.http}/v1/rooms", json={}, headers={"cookie": "rejoinder=whatever"})
    assert answer.status_code == 201
