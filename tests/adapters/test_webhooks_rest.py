"""Webhooks over REST beside live calls: secrets are shown once, deliveries listed, a slow receiver hurts nobody."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from standardwebhooks import Webhook
from tests.receivers import receiving

from rejoinder.settings import Auth, WebhookOptions

if TYPE_CHECKING:
    from tests.adapters.conftest import LiveServer, Serve

PRIVATE = WebhookOptions(allow_private=True)


async def until_delivered(http: httpx.AsyncClient, path: str, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(10):
        while True:
            items: list[dict[str, Any]] = (await http.get(f"{path}/deliveries")).json()["items"]
            if sum(item["state"] == "delivered" for item in items) >= count:
                return items
            await asyncio.sleep(0.02)


async def talk(server: LiveServer) -> str:
    async with server.caller(configure={"output": "text"}) as caller:
        await caller.turn()
        await caller.tell("end")
        await caller.until("session.ended")
        return str(caller.events("session.started")[0]["session_id"])


def test_a_webhook_is_made_tried_hears_of_a_session_and_is_deleted(serve: Serve) -> None:
    server = serve(webhooks=PRIVATE)

    async def main() -> None:
        async with receiving() as (receiver, url), httpx.AsyncClient(base_url=server.http) as http:
            made = await http.post("/v1/webhooks", json={"url": url, "description": "billing"})
            assert made.status_code == 201
            secret, hook = made.json()["secret"], made.json()["webhook"]
            assert (
                hook.items() >= {"url": url, "description": "billing", "enabled": True, "failing_since": None}.items()
            )
            assert hook["events"] == ["session.started", "session.ended"]
            path = f"/v1/webhooks/{hook['id']}"

            tried = await http.post(f"{path}/test")
            assert (tried.status_code, tried.json()["state"], tried.json()["type"]) == (202, "pending", "webhook.test")
            (item,) = await until_delivered(http, path, 1)
            assert item["payload"]["data"] == {"webhook_id": hook["id"]}
            assert (item["id"], item["status"], item["attempts"]) == (tried.json()["id"], 204, 1)

            session_id = await talk(server)
            items = await until_delivered(http, path, 3)
            assert [item["type"] for item in items] == ["session.ended", "session.started", "webhook.test"]
            log = (await http.get(f"/v1/sessions/{session_id}/events", headers={"accept": "application/json"})).json()
            stored = {event["type"]: event for event in log["items"]}
            for headers, body in receiver.got:
                told = Webhook(secret).verify(body, headers)
                if told["type"] != "webhook.test":
                    assert told["data"] == stored[told["type"]], "the event as it is in the log"
                    assert "resume_token" not in told["data"]

            page = (await http.get(f"{path}/deliveries?limit=2")).json()
            rest = (await http.get(f"{path}/deliveries?limit=2&before={page['next_cursor']}")).json()
            assert [*page["items"], *rest["items"]] == items
            assert rest["next_cursor"] is None

            again = await http.post(f"{path}/deliveries/{items[0]['id']}/redeliver")
            assert again.status_code == 202
            await receiver.until(4)
            assert receiver.ids[-1] == items[0]["id"]

            listed = await http.get("/v1/webhooks")
            assert [one["id"] for one in listed.json()["items"]] == [hook["id"]]
            assert "whsec_" not in listed.text + (await http.get(path)).text + str(items), "shown once"

            rotated = (await http.post(f"{path}/rotate", json={"overlap_s": 60})).json()
            await http.post(f"{path}/test")
            await receiver.until(5)
            for key in (secret, rotated["secret"]):
                Webhook(key).verify(receiver.got[-1][1], receiver.got[-1][0])

            changed = (await http.patch(path, json={"events": ["error"], "enabled": False})).json()
            assert (changed["events"], changed["enabled"]) == (["error"], False)
            assert changed["disabled_reason"] == "Disabled by an operator."
            assert (await http.post(f"{path}/test")).json()["code"] == "webhook_disabled"
            assert (await http.patch(path, json={"enabled": True})).json()["disabled_reason"] is None
            assert (await http.delete(path)).status_code == 204
            gone = await http.get(path)
            assert (gone.status_code, gone.json()["code"]) == (404, "unknown_webhook")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"url": "http://127.0.0.1:9/hook"}, 422, "address_refused"),
        ({"url": "http://localhost/"}, 422, "address_refused"),
        ({"url": "http://[::ffff:10.0.0.1]/"}, 422, "address_refused"),
        ({"url": "http://169.254.169.254/latest/meta-data"}, 422, "address_refused"),
        ({"url": "ftp://example.com/"}, 422, "bad_url"),
        ({"url": "http://8.8.8.8/", "events": ["reply.text"]}, 400, "unknown_event"),
        ({"url": "http://8.8.8.8/", "secret": "mine"}, 400, "bad_request"),
        ({}, 400, "bad_request"),
    ],
)
def test_what_is_wrong_with_a_webhook_is_said(server: LiveServer, body: Any, status: int, code: str) -> None:
    refused = httpx.post(f"{server.http}/v1/webhooks", json=body)
    assert (refused.status_code, refused.json()["code"]) == (status, code)


def test_only_an_admin_sees_webhooks(serve: Serve, tmp_path: Path) -> None:
    server = serve(auth=Auth(dev_key_file=tmp_path / "key"))
    _, key = server.call(server.runtime.gate.keys.create("all but admin", ["read", "talk", "control", "agents"]))
    for method, path in (("GET", ""), ("POST", ""), ("GET", "/whk_x/deliveries"), ("POST", "/whk_x/rotate")):
        refused = httpx.request(
            method,
            f"{server.http}/v1/webhooks{path}",
            headers={"authorization": f"Bearer {key}"},
            json={"url": "http://8.8.8.8"},
        )
        assert refused.status_code == 403, path


def test_a_receiver_that_never_answers_costs_a_call_nothing(serve: Serve) -> None:
    server = serve(webhooks=PRIVATE)

    async def main() -> None:
        async with receiving() as (receiver, url), httpx.AsyncClient(base_url=server.http) as http:
            receiver.answer = lambda number: None
            events = ["session.started", "turn.committed", "reply.started", "reply.finished", "turn.metrics"]
            for _ in range(5):
                assert (await http.post("/v1/webhooks", json={"url": url, "events": events})).status_code == 201
            async with server.caller() as caller:
                for _ in range(10):
                    # Each of these must arrive, although everything that is sent hangs.
                    await caller.turn()
                metrics = caller.events("turn.metrics")
                assert len(metrics) >= 9
                await receiver.until(5)
                await caller.tell("end")
                await caller.until("session.ended")
        started = time.monotonic()
        server.call(server.runtime.webhooks.close())
        assert time.monotonic() - started < 5, "what hangs is cut off"
        count = server.call(_waiting(server))
        assert count >= 5 * 40, "and nothing is lost"

    asyncio.run(main())


async def _waiting(server: LiveServer) -> int:
    from sqlalchemy import func, select

    from rejoinder.store import tables

    async with server.runtime.store.reading() as connection:
        query = select(func.count()).where(tables.webhook_deliveries.c.next_attempt_at.is_not(None))
        return int(await connection.scalar(query) or 0)


def test_a_session_that_ends_with_the_server_is_told_of(serve: Serve, tmp_path: Path) -> None:
    async def main() -> None:
        async with receiving() as (receiver, url):
            from tests.adapters.conftest import running

            def run() -> None:
                with running(tmp_path / "stop.db", {}, webhooks=PRIVATE) as server:
                    assert httpx.post(f"{server.http}/v1/webhooks", json={"url": url}).status_code == 201

                    async def call() -> None:
                        async with server.caller() as caller:
                            await caller.turn()
                            server.server.should_exit = True
                            await caller.until("session.ended")

                    asyncio.run(call())

            await asyncio.to_thread(run)
            assert sorted(receiver.types()) == ["session.ended", "session.started"]
            reasons = [json.loads(body)["data"].get("reason") for _, body in receiver.got]
            assert "server_stopped" in reasons

    asyncio.run(main())
