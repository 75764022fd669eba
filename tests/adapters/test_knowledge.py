"""Documents over REST: added, replaced, listed, searched, removed; who may do it, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from rejoinder.settings import Auth

if TYPE_CHECKING:
    from tests.adapters.conftest import LiveServer, Serve


def add(server: LiveServer, **fields: Any) -> httpx.Response:
    return httpx.post(f"{server.http}/v1/documents", json=fields)


def search(server: LiveServer, **fields: Any) -> list[str]:
    answer = httpx.post(f"{server.http}/v1/documents/search", json=fields)
    assert answer.status_code == 200, answer.text
    return [item["title"] for item in answer.json()["items"]]


def test_a_document_from_adding_to_removing(serve: Serve) -> None:
    server = serve()
    made = add(server, title="Menu", text="Soup costs five euros.", collection="shop", source="menu.md")
    assert made.status_code == 201
    document = made.json()
    url = f"{server.http}/v1/documents/{document['id']}"
    assert httpx.get(url).json() == document
    assert search(server, query="what does soup cost?") == ["Menu"]
    assert search(server, query="soup", collections=["other"]) == []

    again = add(server, title="New menu", text="Cake costs two euros.", collection="shop", source="menu.md").json()
    assert again["id"] == document["id"]
    assert search(server, query="soup") == []
    add(server, title="Hours", text="Open from nine to six.")
    listed = httpx.get(f"{server.http}/v1/documents", params={"limit": 1}).json()
    assert [item["title"] for item in listed["items"]] == ["Hours"]
    rest = httpx.get(f"{server.http}/v1/documents", params={"before": listed["next_cursor"]}).json()
    assert [item["title"] for item in rest["items"]] == ["New menu"]
    shop = httpx.get(f"{server.http}/v1/documents", params={"collection": "shop"}).json()
    assert [item["title"] for item in shop["items"]] == ["New menu"]

    assert httpx.delete(url).status_code == 204
    for gone in (httpx.delete(url), httpx.get(url)):
        assert (gone.status_code, gone.json()["code"]) == (404, "unknown_document")
    assert search(server, query="cake") == []


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"title": "T", "text": " "}, 422),
        ({"title": "T", "text": "x" * 2_000_001}, 422),
        ({"title": " ", "text": "x"}, 422),
        ({"title": "", "text": "x"}, 400),
        ({"title": "T"}, 400),
        ({"title": "T", "text": "x", "colection": "c"}, 400),
    ],
)
def test_what_is_no_document_is_refused(server: LiveServer, fields: dict[str, Any], status: int) -> None:
    answer = add(server, **fields)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("query", ["", "\x00", '" OR *', "'; DROP TABLE documents; --", "🎉", "NEAR("])
def test_any_text_may_be_asked(server: LiveServer, query: str) -> None:
    assert search(server, query=query) == []


def test_a_key_that_only_reads_may_search_but_not_add(serve: Serve) -> None:
    server = serve(auth=Auth(mode="keys"))

    def client(*scopes: Any) -> httpx.Client:
        _, key = server.call(server.runtime.gate.keys.create("test", scopes, ttl_s=None))
        return httpx.Client(base_url=server.http, headers={"authorization": f"Bearer {key}"})

    document = {"title": "Menu", "text": "Soup."}
    with client("read") as reader, client("agents") as writer:
        assert httpx.post(f"{server.http}/v1/documents", json=document).status_code == 401
        assert reader.post("/v1/documents", json=document).status_code == 403
        made = writer.post("/v1/documents", json=document)
        assert made.status_code == 201
        assert len(reader.post("/v1/documents/search", json={"query": "soup"}).json()["items"]) == 1
        assert reader.delete(f"/v1/documents/{made.json()['id']}").status_code == 403
        assert writer.delete(f"/v1/documents/{made.json()['id']}").status_code == 204
