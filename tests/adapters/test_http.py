"""What holds for every route: HEAD, methods, bodies that are none, too large or too deep, ids, and what is told."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from tests.adapters.conftest import LiveServer

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("path", ["/livez", "/v1/rooms", "/v1/rooms/room_none", "/docs", "/openapi.json", "/nothing"])
def test_head_tells_what_get_does_without_the_content(server: LiveServer, path: str) -> None:
    with httpx.Client(base_url=server.http) as client:
        got, headed = client.get(path), client.head(path)
        assert (headed.status_code, headed.content) == (got.status_code, b"")
        assert headed.headers["content-type"] == got.headers["content-type"]
        if "problem" not in got.headers["content-type"]:
            assert headed.headers["content-length"] == str(len(got.content))
        assert client.get("/livez").status_code == 200, "the connection can be used again"


def test_head_of_a_stream_leaves_nobody_behind(server: LiveServer) -> None:
    async def main() -> None:
        async with server.caller() as caller, httpx.AsyncClient(base_url=server.http) as http:
            session_id = str(caller.events("session.started")[0]["session_id"])
            headed = await http.head(f"/v1/sessions/{session_id}/events")
            assert headed.status_code == 200
            assert headed.headers["content-type"].startswith("text/event-stream")
            session = server.runtime.sessions[session_id]
            deadline = time.monotonic() + 10
            while session._audience.readers:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)

    asyncio.run(main())


def test_head_of_a_rooms_stream_starts_nothing(server: LiveServer) -> None:
    with httpx.Client(base_url=server.http) as client:
        session_id = client.post("/v1/rooms").json()["session_id"]
        headed = client.head(f"/v1/sessions/{session_id}/events")
        # As GET says it to somebody who does not take part.
        assert headed.status_code == client.get(f"/v1/sessions/{session_id}/events?observe=true").status_code == 404
        assert session_id not in server.runtime.sessions


def test_a_method_that_is_not_there_is_told_with_those_that_are(server: LiveServer) -> None:
    answer = httpx.delete(f"{server.http}/v1/rooms")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    allowed = {method.strip() for method in answer.headers["allow"].split(",")}
    assert allowed == {"GET", "HEAD", "OPTIONS", "POST"}
    assert "POST" in answer.json()["fix"]


def test_a_slash_at_the_end_does_no_harm(server: LiveServer) -> None:
    assert httpx.get(f"{server.http}/v1/rooms/").status_code == 200


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b'{"agent": ', "bad_json", "truncated"),
        (b'{"agent": "scripted"} {}', "bad_json", "trailing"),
        (b"\xff\xfe", "bad_json", "invalid"),
        (b'{"a":' * 50_000, "bad_json", "nested too deeply"),
        (b"[1]", "bad_request", "array"),
        (b'"agent"', "bad_request", "str"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused_with_what_is_wrong(
    server: LiveServer, body: bytes, code: str, words: str
) -> None:
    answer = httpx.post(f"{server.http}/v1/rooms", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert words in answer.json()["detail"]


def test_a_huge_body_is_refused(server: LiveServer) -> None:
    def parts() -> Any:
        yield b'{"agent": "'
        for _ in range(200):
            yield b"x" * 65_536

    for content in (b"x" * 10_000_001, parts()):
        answer = httpx.post(f"{server.http}/v1/rooms", content=content, headers=JSON, timeout=20)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert "10000000 bytes" in answer.json()["detail"]


def test_wrong_fields_are_named_one_by_one(server: LiveServer) -> None:
    answer = httpx.get(f"{server.http}/v1/sessions?limit=0&since=then&x=secret")
    problem = answer.json()
    assert problem["code"] == "bad_request"
    assert {error["path"] for error in problem["errors"]} == {"limit", "since"}
    assert "secret" not in answer.text, "a URL may hold a token"

    definition = {"turns": {"pause_ms": "long"}, "colour": "red"}
    answer = httpx.put(f"{server.http}/v1/agents/mine", json=definition)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid_agent")
    assert {error["path"] for error in problem["errors"]} == {"turns.pause_ms", "colour"}
    assert all(error["message"] for error in problem["errors"])


def test_an_agent_in_the_path_is_not_found_one_in_the_body_cannot_be_used(server: LiveServer) -> None:
    for method, path, body, status in (
        ("GET", "/v1/agents/nobody", None, 404),
        ("DELETE", "/v1/agents/nobody", None, 404),
        ("POST", "/v1/rooms", {"agent": "nobody"}, 422),
    ):
        answer = httpx.request(method, server.http + path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (status, "unknown_agent"), path


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é"])
def test_a_request_id_that_is_of_no_use_is_replaced(server: LiveServer, given: str) -> None:
    headers = [(b"x-request-id", given.encode())]
    assert httpx.get(f"{server.http}/livez", headers=headers).headers["x-request-id"].startswith("req_")


def test_a_request_id_comes_back(server: LiveServer) -> None:
    answer = httpx.get(f"{server.http}/v1/nothing", headers={"x-request-id": "mine-1"})
    assert answer.headers.get_list("x-request-id") == ["mine-1"]
    assert answer.json()["request_id"] == "mine-1"


def test_who_is_refused_for_now_is_told_when_to_come_back(server: LiveServer) -> None:
    server.runtime.draining = True
    try:
        answer = httpx.post(f"{server.http}/v1/chat", json={"text": "hello"})
    finally:
        server.runtime.draining = False
    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (503, "draining", True)
    assert int(answer.headers["retry-after"]) > 0
