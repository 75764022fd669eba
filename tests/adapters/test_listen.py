"""Listening in: what listeners hear, who may be one, and that the call knows nothing of them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from tests.adapters.conftest import LiveServer, running
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from rejoinder.settings import Auth, Limits
from rejoinder.testing.scripted import noise


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, dict[str, str]]]:
    """A server that asks for keys, and one for each of some scopes."""
    folder = tmp_path_factory.mktemp("listen")
    auth = Auth(mode="keys", dev_key_file=folder / "dev-key")
    limits = Limits(idle_s=5, outbox_bytes=65_536)
    with running(folder / "test.db", {"ms_per_word": 200}, auth=auth, limits=limits) as live:
        yield (
            live,
            {
                scope: live.call(live.runtime.gate.keys.create(scope, [scope]))[1]
                for scope in ("read", "listen", "talk")
            },
        )


def opened(server: LiveServer, path: str, key: str = "", **headers: str) -> Any:
    """A WebSocket to `path`."""
    given = {**headers, **({"authorization": f"Bearer {key}"} if key else {})}
    return connect(server.ws + path, additional_headers=given, compression=None, proxy=None, max_queue=None)


async def heard(ws: ClientConnection) -> tuple[dict[str, Any], bytes, int, str]:
    """All until the end: the first message, the sound, close code and reason."""
    first = json.loads(await ws.recv())
    sound = bytearray()
    try:
        while True:
            message = await ws.recv()
            assert isinstance(message, bytes)
            sound += message
    except ConnectionClosed as closed:
        code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
    return first, bytes(sound), code, reason


async def until(what: Any, seconds: float = 10.0) -> None:
    """Wait for something of the server that no message tells."""
    async with asyncio.timeout(seconds):
        while not what():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_two_listeners_hear_both_sides_until_the_end_and_nobody_notices(keyed: Any) -> None:
    server, keys = keyed

    async def main() -> None:
        async with opened(server, "/ws/audio?output_rate=16000", keys["talk"]) as call:
            caller = server.caller_on(call)
            started = await caller.until("session.started")
            session = server.runtime.sessions[started["session_id"]]
            async with httpx.AsyncClient(headers={"authorization": f"Bearer {keys['listen']}"}) as client:
                ticket = await client.post(f"{server.http}/v1/tickets")
            path = f"/v1/sessions/{session.id}/listen"
            began = time.monotonic()
            one = opened(server, path, keys["listen"])
            two = opened(server, f"{path}?ticket={ticket.json()['ticket']}")
            async with one as first, two as second:
                hearing = [asyncio.create_task(heard(ws)) for ws in (first, second)]
                await until(lambda: session.listeners == 2)
                before = len(caller.log)
                await call.send(noise(200))
                await caller.turn("hello")
                kinds = {item["type"] for item in caller.log[before:] if isinstance(item, dict)}
                assert not any("listen" in kind for kind in kinds)
                await caller.tell("end", reason="enough")
                results = await asyncio.gather(*hearing)
                took = time.monotonic() - began
            for told, sound, code, reason in results:
                assert told == {
                    "type": "listening",
                    "session_id": session.id,
                    "rate": 16_000,
                    "channels": 2,
                }
                assert (code, reason) == (1000, "enough")
                sides = np.frombuffer(sound, "<i2").reshape(-1, 2)
                assert np.any(sides[:, 0])
                assert np.any(sides[:, 1])
                assert len(sides) / 16_000 <= took
            assert session.listeners == 0
            rows = await asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(
                    server.runtime.audit.rows(action="session.listen", subject=session.id), server.loop
                )
            )
            assert len(rows) == 4
            assert {row.actor_name for row in rows} == {"listen"}
            assert sum("seconds" in row.detail for row in rows) == 2

    asyncio.run(main())


def test_a_listener_may_leave_and_the_tape_stops(keyed: Any) -> None:
    server, keys = keyed

    async def main() -> None:
        async with opened(server, "/ws/audio?output_rate=16000", keys["talk"]) as call:
            caller = server.caller_on(call)
            started = await caller.until("session.started")
            session = server.runtime.sessions[started["session_id"]]
            async with opened(server, f"/v1/sessions/{session.id}/listen", keys["listen"]) as ws:
                await ws.recv()
                # Whatever a listener says is for nobody.
                await ws.send("hello")
                await ws.send(noise(500))
                assert isinstance(await ws.recv(), bytes)
            await until(lambda: session.deck.tape is None)
            assert not caller.events("user.speech_started")
            await caller.turn()

    asyncio.run(main())


def test_a_slow_listener_is_cut_off_and_the_call_goes_on(keyed: Any) -> None:
    server, keys = keyed

    async def main() -> None:
        async with opened(server, "/ws/audio?output_rate=16000", keys["talk"]) as call:
            caller = server.caller_on(call)
            started = await caller.until("session.started")
            session = server.runtime.sessions[started["session_id"]]
            path = f"/v1/sessions/{session.id}/listen"
            slow = server.raw(path, f"Authorization: Bearer {keys['listen']}", receive_buffer=4096)
            try:
                await until(lambda: session.listeners == 1)
                # It takes nothing: what the kernel holds fills up, then what the server holds for it.
                blocks = 0
                while session.listeners and blocks < 20_000:
                    server.loop.call_soon_threadsafe(_give, session, blocks)
                    blocks += 100
                    await asyncio.sleep(0.005)
                await until(lambda: session.listeners == 0)
            finally:
                slow.close()
            await caller.turn()

    asyncio.run(main())


def _give(session: Any, number: int) -> None:
    """More than a call could say in the time."""
    session.deck._give((number + index, bytes(6400)) for index in range(100))


@pytest.mark.parametrize(
    ("scope", "path", "status", "code"),
    [
        ("read", "", 403, "forbidden"),
        ("talk", "", 403, "forbidden"),
        ("", "", 401, "unauthorized"),
        ("listen", "absent", 404, "unknown_session"),
    ],
)
def test_who_may_not_listen_is_told_why(keyed: Any, scope: str, path: str, status: int, code: str) -> None:
    server, keys = keyed
    session = server.call(server.runtime.start_session(None))

    async def main() -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with opened(server, f"/v1/sessions/{path or session.id}/listen", keys.get(scope, "")):
                pass
        assert refused.value.response.status_code == status
        assert json.loads(refused.value.response.body or b"")["code"] == code

    asyncio.run(main())
    server.call(session.close("done"))


def test_a_page_of_another_site_may_not_listen(keyed: Any) -> None:
    server, keys = keyed
    session = server.call(server.runtime.start_session(None))

    async def main() -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with opened(
                server, f"/v1/sessions/{session.id}/listen", keys["listen"], origin="https://evil.example"
            ):
                pass
        assert refused.value.response.status_code == 403

    asyncio.run(main())
    server.call(session.close("done"))


def test_who_loses_the_right_hears_no_more(keyed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server, keys = keyed
    monkeypatch.setattr("rejoinder_adapters.listen._CHECK_S", 0.05)

    async def scenario() -> None:
        async with opened(server, "/ws/audio?output=text", keys["talk"]) as call:
            session_id = json.loads(await call.recv())["session_id"]
            made = server.runtime.gate.keys.create("for a while", ["listen"])
            record, key = await asyncio.to_thread(server.call, made)
            async with opened(server, f"/v1/sessions/{session_id}/listen", key) as listener:
                await asyncio.to_thread(server.call, server.runtime.gate.keys.revoke(record.id))
                async with asyncio.timeout(10):
                    *_, code, reason = await heard(listener)
                assert (code, reason) == (1008, "unauthorized")
            assert server.runtime.sessions[session_id].listeners == 0

    asyncio.run(scenario())


def test_a_session_that_is_over_cannot_be_heard(keyed: Any) -> None:
    server, keys = keyed
    session = server.call(server.runtime.start_session(None))
    server.call(session.close("done"))

    async def main() -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with opened(server, f"/v1/sessions/{session.id}/listen", keys["listen"]):
                pass
        assert refused.value.response.status_code == 409

    asyncio.run(main())
