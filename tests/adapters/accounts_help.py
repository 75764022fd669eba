"""People who are logged in, for tests: as a browser would be, with a cookie and what its pages send along."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from tests.adapters.conftest import LiveServer

    from rejoinder.store.users import AccountRole

PASSWORD = "correct horse"


def browser(server: LiveServer) -> httpx.Client:
    """Nobody yet, on a page of the server."""
    return httpx.Client(base_url=server.http, headers={"origin": server.http, "sec-fetch-site": "same-origin"})


def invite(server: LiveServer, name: str, role: AccountRole) -> str:
    """The token of a link for a new account."""
    users = server.runtime.gate.logins.users
    user = server.call(users.create(name, role, by="test"))
    return server.call(users.link(user.id, by="test", ttl_s=600))[0]


@contextmanager
def person(server: LiveServer, name: str, role: AccountRole) -> Iterator[httpx.Client]:
    """Somebody with a new account, logged in."""
    token = invite(server, name, role)
    with browser(server) as client:
        answer = client.post("/admin/api/link", json={"token": token, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        client.headers["x-csrf-token"] = answer.json()["csrf"]
        yield client
