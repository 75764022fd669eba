"""Idempotency keys over real HTTP: done once, answered as often as asked; what is not kept, and what is refused."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from sqlalchemy import func, select, update

from rejoinder.errors import StoreError
from rejoinder.settings import Auth
from rejoinder.store import tables
from rejoinder.store.idempotency import KEPT_MS, STALE_MS, Answers, Kept, Taken
from rejoinder.store.store import Store
from rejoinder_adapters.idempotency import CLIENT_GONE
from rejoinder_adapters.openai_api.chat import Answer
from rejoinder_adapters.openai_api.errors import ApiError

if TYPE_CHECKING:
    from tests.adapters.conftest import LiveServer, Serve

REPLAYED = "idempotency-replayed"
HIDE = """
from typing import Any

from litestar import asgi, post
from litestar.params import JSONBody
from rejoinder import hookimpl

@post("/v1/hide/echo")
async def echo(data: JSONBody[dict[str, str]]) -> dict[str, str]:
    return data

@asgi("/hide", is_mount=True, copy_scope=True)
async def mounted(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})

@hookimpl
def register_routes(runtime):
    return [echo, mounted]

@hookimpl
def before_storage(text):
    return text.replace("4111", "####")
"""
KEY = {"idempotency-key": "k", "content-type": "application/json"}


def post(server: LiveServer, path: str, key: str, body: Any = None, **headers: str) -> httpx.Response:
    return httpx.post(server.http + path, json=body, headers={"idempotency-key": key, **headers}, timeout=20)


async def connections(server: LiveServer) -> int:
    return len(server.server.server_state.connections)


def rooms(server: LiveServer) -> int:
    async def count() -> int:
        async with server.runtime.store.reading() as connection:
            return int(await connection.scalar(select(func.count()).select_from(tables.rooms)) or 0)

    return server.call(count())


def test_two_equal_requests_at_once_make_one_room(serve: Serve) -> None:
    server = serve()

    async def main() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.http) as http:
            return await asyncio.gather(
                *(http.post("/v1/rooms", json={}, headers={"idempotency-key": "one"}) for _ in range(8))
            )

    answers = asyncio.run(main())
    assert rooms(server) == 1
    assert {answer.status_code for answer in answers} <= {201, 409}
    first = [a for a in answers if a.status_code == 201 and REPLAYED not in a.headers]
    assert len(first) == 1
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["code"] == "idempotency_in_progress"
            assert answer.json()["retryable"]
        else:
            assert answer.content == first[0].content
    again = post(server, "/v1/rooms", "one", {})
    assert (again.status_code, again.content, again.headers[REPLAYED]) == (201, first[0].content, "true")
    assert again.headers["content-type"] == first[0].headers["content-type"]
    assert again.headers["x-request-id"] != first[0].headers["x-request-id"], "each request has its own"
    assert rooms(server) == 1
    assert post(server, "/v1/rooms", "two", {}).json()["id"] != again.json()["id"]


def test_a_key_goes_with_one_request(serve: Serve) -> None:
    server = serve()
    made = post(server, "/v1/rooms", "k", {"agent": "scripted"})
    assert made.status_code == 201
    for path, body in (
        ("/v1/rooms", {"agent": "guide"}),
        ("/v1/rooms?a=b", {"agent": "scripted"}),
        (f"/v1/rooms/{made.json()['id']}/tokens", {}),
    ):
        other = post(server, path, "k", body)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
        assert other.headers["content-type"] == "application/problem+json"
    assert rooms(server) == 1


def test_a_refusal_is_replayed_unless_trying_again_may_help(serve: Serve) -> None:
    server = serve()
    for number in range(2):
        wrong = post(server, "/v1/rooms", "wrong", {"agent": "nobody"})
        assert (wrong.status_code, wrong.json()["code"]) == (422, "unknown_agent")
        assert (REPLAYED in wrong.headers) == (number == 1)
        assert wrong.headers["content-type"] == "application/problem+json"
    session_id = httpx.post(f"{server.http}/v1/rooms").json()["session_id"]
    for _ in range(2):
        early = post(server, f"/v1/sessions/{session_id}/interrupt", "early")
        assert (early.status_code, early.json()["code"]) == (404, "session_not_started")
        assert REPLAYED not in early.headers


def test_where_a_plugin_hides_what_was_said_only_answers_without_it_are_kept(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "hide.py").write_text(HIDE)
    server = serve(plugins_dir=folder)
    for number in range(2):
        for path, body in (
            ("/v1/chat", {"text": "hello", "agent": "nobody"}),
            ("/v1/chat/completions", {"model": "nobody", "messages": [{"role": "user", "content": "hello"}]}),
        ):
            refused = post(server, path, path, body)
            assert refused.status_code in (404, 422), "nothing was done"
            assert (REPLAYED in refused.headers) == (number == 1)
        assert post(server, "/v1/rooms", "room", {}).status_code == 201
        mounted = post(server, "/hide/v1/rooms", "room", {"text": "4111"})
        assert (mounted.status_code, REPLAYED in mounted.headers) == (201, False)
    assert rooms(server) == 1
    echoed = post(server, "/v1/hide/echo", "echo", {"text": "4111"})
    assert echoed.json() == {"text": "4111"}
    again = post(server, "/v1/hide/echo", "echo", {"text": "4111"})
    assert (again.status_code, again.json()["code"]) == (409, "idempotency_streamed")

    async def kept() -> list[str]:
        async with server.runtime.store.reading() as connection:
            return [row.body or "" for row in await connection.execute(select(tables.idempotency))]

    bodies = server.call(kept())
    assert len(bodies) == 4
    assert "4111" not in "".join(bodies)


def test_a_message_is_said_once_and_an_answer_without_a_body_is_replayed(serve: Serve) -> None:
    server = serve()

    async def main() -> None:
        async with server.caller(configure={"output": "text"}) as caller:
            path = f"/v1/sessions/{caller.events('session.started')[0]['session_id']}"
            first, second = [
                await asyncio.to_thread(post, server, f"{path}/messages", "m", {"text": "hello"}) for _ in range(2)
            ]
            assert first.status_code == second.status_code == 202
            assert first.json() == second.json()
            await caller.until("reply.finished")
            stopped = [await asyncio.to_thread(post, server, f"{path}/interrupt", "i") for _ in range(2)]
            assert [(s.status_code, s.content) for s in stopped] == [(204, b"")] * 2
            assert [REPLAYED in s.headers for s in stopped] == [False, True]
            await caller.turn("and once more")
            assert [event["text"] for event in caller.events("turn.committed")] == ["hello", "and once more"]

    asyncio.run(main())


def test_what_the_server_could_not_do_is_not_kept(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    create = server.runtime.create_room

    async def fail(agent: str | None) -> Any:
        raise RuntimeError("out of order")

    async def refuse(agent: str | None) -> Any:
        raise StoreError("The database is away.")

    for broken, status in ((fail, 500), (refuse, 503)):
        monkeypatch.setattr(server.runtime, "create_room", broken)
        assert post(server, "/v1/rooms", "k", {}).status_code == status
    monkeypatch.setattr(server.runtime, "create_room", create)
    assert post(server, "/v1/rooms", "k", {}).status_code == 201, "the key was let go"
    assert rooms(server) == 1


def test_who_goes_away_before_the_answer_gets_it_later(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    create, going_on = server.runtime.create_room, threading.Event()

    async def slow(agent: str | None) -> Any:
        await asyncio.to_thread(going_on.wait)
        return await create(agent)

    monkeypatch.setattr(server.runtime, "create_room", slow)
    try:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.http}/v1/rooms", json={}, headers={"idempotency-key": "k"}, timeout=0.3)
        running = post(server, "/v1/rooms", "k", {})
    finally:
        going_on.set()
    assert (running.status_code, running.json()["code"]) == (409, "idempotency_in_progress")
    assert running.json()["retryable"]
    while (again := post(server, "/v1/rooms", "k", {})).status_code == 409:
        pass
    assert (again.status_code, again.headers[REPLAYED]) == (201, "true")
    assert rooms(server) == 1


CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}]}


def test_who_goes_away_from_a_chat_completion_gets_it_later(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    going_on, begun = asyncio.Event(), threading.Event()
    pieces = Answer.pieces

    async def slow(answer: Answer) -> Any:
        begun.set()
        await going_on.wait()
        async for piece in pieces(answer):
            yield piece

    monkeypatch.setattr(Answer, "pieces", slow)
    body = json.dumps(CHAT).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(head + b"idempotency-key: k\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        assert begun.wait(10)
    while server.call(connections(server)):
        pass
    again = httpx.post(f"{server.http}/v1/chat/completions", content=body, headers=KEY)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "idempotency_in_progress")
    server.loop.call_soon_threadsafe(going_on.set)
    while (again := httpx.post(f"{server.http}/v1/chat/completions", content=body, headers=KEY)).status_code == 409:
        pass
    assert (again.status_code, again.headers[REPLAYED]) == (200, "true")
    assert again.json()["choices"][0]["message"]["content"].strip() == "Certainly, here it is."


def test_that_a_client_went_away_is_no_answer_to_be_kept(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()

    async def gone(answer: Answer) -> Any:
        raise ApiError(CLIENT_GONE, "The client went away.", code="client_gone")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(Answer, "pieces", gone)
        assert httpx.post(f"{server.http}/v1/chat/completions", json=CHAT, headers=KEY).status_code == CLIENT_GONE
    assert httpx.post(f"{server.http}/v1/chat/completions", json=CHAT, headers=KEY).status_code == 200


def test_a_stream_with_a_key_ends_when_its_reader_goes_away(serve: Serve) -> None:
    server = serve({"repeat": 4000})
    with httpx.stream(
        "POST", f"{server.http}/v1/chat/completions", json={**CHAT, "stream": True}, headers=KEY
    ) as response:
        next(response.iter_lines())
    while server.server.server_state.tasks:
        pass


def test_who_goes_away_before_the_end_of_the_request_takes_no_key(server: LiveServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"POST /v1/rooms HTTP/1.1\r\nhost: x\r\nidempotency-key: half\r\ncontent-length: 100\r\n\r\n{")
    assert post(server, "/v1/rooms", "half", {}).status_code == 201


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "schön".encode().decode("latin-1")])
def test_a_key_is_short_and_visible(server: LiveServer, key: str) -> None:
    answer = httpx.post(f"{server.http}/v1/rooms", headers={b"idempotency-key": key.encode("latin-1")})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_idempotency_key")
    assert post(server, "/v1/rooms", "x" * 255).status_code == 201


def test_secrets_are_not_kept(server: LiveServer) -> None:
    for path, body in (
        ("/v1/keys", {"name": "n", "scopes": ["read"]}),
        ("/v1/keys/key_x/rotate", {}),
        ("/v1/webhooks", {"url": "https://example.com"}),
        ("/v1/webhooks/whk_x/rotate", {}),
        ("/v1/tickets", {}),
    ):
        refused = post(server, path, "secret", body)
        assert (refused.status_code, refused.json()["code"]) == (400, "idempotency_unsupported"), path
    assert post(server, "/v1/webhooks/whk_x/test", "fine").json()["code"] == "unknown_webhook"


def test_a_stream_is_not_replayed_and_its_session_is_named(serve: Serve) -> None:
    server = serve()
    first = post(server, "/v1/chat", "c", {"text": "hello"}, accept="text/event-stream")
    assert first.headers["content-type"].startswith("text/event-stream")
    assert "reply.finished" in first.text
    session_id = first.text.split('"session_id":"')[1].split('"')[0]
    again = post(server, "/v1/chat", "c", {"text": "hello"}, accept="text/event-stream")
    assert (again.status_code, again.json()["code"]) == (409, "idempotency_streamed")
    assert session_id in again.json()["detail"]
    assert session_id in again.json()["fix"]
    whole = [post(server, "/v1/chat", "j", {"text": "hello"}, accept="application/json") for _ in range(2)]
    assert whole[0].json() == whole[1].json()
    assert whole[1].headers[REPLAYED] == "true"


def test_a_reader_that_goes_away_in_the_middle_of_a_stream_finds_where_it_was(serve: Serve) -> None:
    server = serve({"repeat": 40})
    with httpx.stream(
        "POST", f"{server.http}/v1/chat", json={"text": "go on"}, headers={"idempotency-key": "cut"}, timeout=20
    ) as answer:
        assert next(text for text in answer.iter_text() if "session_id" in text)
    again = post(server, "/v1/chat", "cut", {"text": "go on"})
    assert (again.status_code, again.json()["code"]) == (409, "idempotency_streamed")


def test_what_is_too_large_is_refused_or_not_kept(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    from rejoinder_adapters import idempotency

    server = serve()
    long = b"{}" + b" " * (1 << 20)
    made = [httpx.post(f"{server.http}/v1/rooms", content=long, headers={"idempotency-key": "long"}) for _ in range(2)]
    assert made[0].json() == made[1].json()
    big = httpx.post(f"{server.http}/v1/rooms", content=b" " * ((10 << 20) + 1), headers={"idempotency-key": "big"})
    assert (big.status_code, big.json()["code"]) == (413, "idempotency_too_large")
    monkeypatch.setattr(idempotency, "LARGEST_ANSWER", 100)
    first = post(server, "/v1/rooms", "wide", {})
    assert first.status_code == 201
    assert first.json()["session_id"], "it comes whole"
    again = post(server, "/v1/rooms", "wide", {})
    assert (again.status_code, again.json()["code"]) == (409, "idempotency_streamed")


def test_answers_belong_to_who_asked_and_nobody_comes_in_by_a_key(serve: Serve, tmp_path: Path) -> None:
    server = serve(auth=Auth(dev_key_file=tmp_path / "key"))
    keys = server.runtime.gate.keys
    one, two = [server.call(keys.create(name, ["talk"]))[1] for name in ("one", "two")]
    made = [post(server, "/v1/rooms", "k", {}, authorization=f"Bearer {key}") for key in (one, two, one)]
    assert [answer.status_code for answer in made] == [201] * 3
    assert made[0].json()["id"] == made[2].json()["id"] != made[1].json()["id"]
    for headers in ({}, {"authorization": "Bearer rj_wrong"}):
        refused = post(server, "/v1/rooms", "k", {}, **headers)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        assert int(refused.headers["ratelimit-remaining"]) > 0

    # A room token names its bearer as it likes, also as a key is called.
    principal = server.call(server.runtime.gate.principal(one))
    asked = {"identity": principal.id}
    token = httpx.post(f"{server.http}/v1/rooms", json=asked, headers={"authorization": f"Bearer {two}"}).json()
    refused = post(server, "/v1/rooms", "k", {}, authorization=f"Bearer {token['join']['token']}")
    assert refused.status_code == 403

    async def stored() -> int:
        async with server.runtime.store.reading() as connection:
            return int(await connection.scalar(select(func.count()).select_from(tables.idempotency)) or 0)

    assert server.call(stored()) == 2, "a refusal of who asks is not kept"


def test_a_ticket_may_be_another_one_each_time(serve: Serve, tmp_path: Path) -> None:
    server = serve(auth=Auth(dev_key_file=tmp_path / "key"))
    _, key = server.call(server.runtime.gate.keys.create("one", ["talk"]))
    bearer = {"authorization": f"Bearer {key}"}
    tickets = [httpx.post(f"{server.http}/v1/tickets", headers=bearer).json()["ticket"] for _ in range(2)]
    first, second = [post(server, f"/v1/rooms?ticket={ticket}", "k", {}) for ticket in tickets]
    assert first.json()["id"] == second.json()["id"]


def test_answers_outlive_a_restart(tmp_path: Path) -> None:
    from tests.adapters.conftest import running

    seen = []
    for _ in range(2):
        with running(tmp_path / "again.db", {}) as server:
            seen.append(post(server, "/v1/rooms", "k", {}))
    assert seen[0].json() == seen[1].json()
    assert seen[1].headers[REPLAYED] == "true"


class Time:
    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def monotonic(self) -> float:
        return self.ms / 1000

    def wall_ms(self) -> int:
        return self.ms


def test_a_key_is_free_again_when_its_request_was_cut_off_and_after_a_day(database_url: str) -> None:
    from rejoinder.store.schema import parse_url, upgrade

    async def main() -> None:
        clock = Time()
        await upgrade(parse_url(database_url))
        store = Store(database_url, clock=clock)
        await store.open()
        answers = Answers(store)
        try:
            first = await answers.take("me", "k", "f")
            assert isinstance(first, Taken)
            clock.ms += STALE_MS - 1
            found = await answers.take("me", "k", "f")
            assert isinstance(found, Kept)
            assert found.status is None
            await answers.beat(first)
            clock.ms += STALE_MS - 1
            assert isinstance(await answers.take("me", "k", "f"), Kept), "it still runs"
            clock.ms += 1
            second = await answers.take("me", "k", "f")
            assert isinstance(second, Taken), "nothing was heard of it for a minute"

            # The first one was only slow: what it does from here on is not the second one's.
            await answers.release(first)
            await answers.keep(first, 500, {}, "too late")
            clock.ms += STALE_MS - 1
            await answers.beat(first)
            assert isinstance(await answers.take("me", "k", "f"), Kept), "the second one runs"
            clock.ms += 1
            third = await answers.take("me", "k", "f")
            assert isinstance(third, Taken), "whose time went by without a beat"
            await answers.release(third)
            both = await asyncio.gather(*(answers.take("me", "k", "f") for _ in range(5)))
            (only,) = [taken for taken in both if isinstance(taken, Taken)]  # one of those who come at once

            await answers.keep(only, 201, {"content-type": "text/plain"}, "done")
            await answers.keep(third, 500, {}, "too late")
            await answers.release(only)
            clock.ms += KEPT_MS - 1
            kept = await answers.take("me", "k", "other")
            assert isinstance(kept, Kept)
            assert (kept.status, kept.headers, kept.body, kept.fingerprint) == (
                201, {"content-type": "text/plain"}, "done", "f",
            )  # fmt: skip
            clock.ms += 2
            assert isinstance(await answers.take("me", "k", "other"), Taken)

            for number in range(300):
                await answers.take("me", f"old {number}", "f")
            clock.ms += KEPT_MS + 1
            await answers.take("me", "new", "f")
            await answers.take("me", "newer", "f")
            async with store.reading() as connection:
                left = await connection.scalar(select(func.count()).select_from(tables.idempotency))
            assert left == 2, "the old ones are gone, two hundred at a time"
        finally:
            await store.close()

    asyncio.run(main())


def test_a_crash_frees_the_key_in_the_end(serve: Serve) -> None:
    server = serve()
    post(server, "/v1/rooms", "k", {})

    async def crash() -> None:
        async with server.runtime.store.transaction() as connection:
            change = update(tables.idempotency)
            old = server.runtime.clock.wall_ms() - STALE_MS - 1
            await connection.execute(change.values(status=None, created_at=old))

    server.call(crash())
    again = post(server, "/v1/rooms", "k", {})
    assert (again.status_code, REPLAYED in again.headers) == (201, False)
