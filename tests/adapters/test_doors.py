"""One session through all its doors at once: a voice caller, a text chat, a listener and an operator."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import httpx
from websockets.asyncio.client import connect

from rejoinder.settings import Agent, Auth
from rejoinder.testing.scripted import silence, tone

if TYPE_CHECKING:
    from tests.adapters.conftest import LiveServer, Serve

SLOW = {"reply": "word " * 60, "ms_per_word": 100}


class People:
    """A room, and who comes to it by which door."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        self.key = server.call(server.runtime.gate.keys.create("backend", ["read", "talk", "control"]))[1]
        self.room = httpx.post(server.http + "/v1/rooms", headers=self.bearer(self.key)).json()
        self.session_id: str = self.room["session_id"]
        self.path = f"/v1/sessions/{self.session_id}"

    @staticmethod
    def bearer(credential: str) -> dict[str, str]:
        return {"authorization": f"Bearer {credential}"}

    def token(self, role: str) -> str:
        url = f"{self.server.http}/v1/rooms/{self.room['id']}/tokens"
        token: str = httpx.post(url, json={"role": role}, headers=self.bearer(self.key)).json()["token"]
        return token

    async def post(self, credential: str, what: str, **body: Any) -> httpx.Response:
        async with httpx.AsyncClient() as http:
            url = f"{self.server.http}{self.path}/{what}"
            return await http.post(url, json=body or None, headers=self.bearer(credential))

    async def events(self, credential: str) -> list[dict[str, Any]]:
        """All events over SSE, to the end of the session."""
        import json

        headers = {**self.bearer(credential), "accept": "text/event-stream"}
        async with (
            httpx.AsyncClient(timeout=20) as http,
            http.stream("GET", f"{self.server.http}{self.path}/events", headers=headers) as response,
        ):
            assert response.status_code == 200
            return [json.loads(line[6:]) async for line in response.aiter_lines() if line.startswith("data: ")]


def test_all_doors_lead_into_one_session(serve: Serve) -> None:
    server = serve(SLOW, auth=Auth())
    people = People(server)

    async def main() -> None:
        speaker, chatter, listener = people.token("speaker"), people.token("speaker"), people.token("listener")
        async with AsyncExitStack() as stack:
            ws = await stack.enter_async_context(
                connect(f"{server.ws}{people.path}/ws", additional_headers=people.bearer(speaker), proxy=None)
            )
            voice = server.caller_on(ws)
            await voice.tell("session.configure", input_rate=16_000, output_rate=16_000)
            await voice.until("session.started")
            reading = [asyncio.create_task(people.events(who)) for who in (chatter, listener, people.key)]

            # What is written is answered aloud.
            written = await people.post(chatter, "messages", text="hello from the keyboard")
            committed = await voice.until("turn.committed")
            assert committed["turn_id"] == written.json()["turn_id"]
            await voice.until("reply.started")
            while len(voice.audio()) < 16_000:
                await voice.receive()

            # A listener can stop nothing; who writes can, and the voice falls silent.
            assert (await people.post(listener, "interrupt")).status_code == 403
            assert (await people.post(listener, "messages", text="me too")).status_code == 403
            assert (await people.post(chatter, "say", text="I am the agent.")).status_code == 403
            assert (await people.post(chatter, "interrupt")).status_code == 204
            await voice.until("clear_audio")
            assert (await voice.until("reply.finished"))["reason"] == "interrupted"

            # Who speaks is answered, in writing too; and interrupts.
            await ws.send(tone(200) + silence(300))
            spoken = await voice.until("turn.committed", text="tell me")
            started = await voice.until("reply.started", turn_id=spoken["turn_id"])
            await voice.tell("interrupt")
            finished = await voice.until("reply.finished", reply_id=started["reply_id"])
            assert finished["reason"] == "interrupted"

            # The operator has it say something, and ends the call for all.
            said = await people.post(people.key, "say", text="This call ends now.")
            announced = await voice.until("reply.finished", turn_id=said.json()["turn_id"])
            assert announced["heard_text"] == "This call ends now."
            assert (await people.post(people.key, "end", reason="closing_time")).status_code == 202
            assert (await voice.until("session.ended"))["reason"] == "closing_time"

            streams = await asyncio.gather(*reading)
            assert streams[0] == streams[1] == streams[2]
            assert [event["seq"] for event in streams[0]] == list(range(1, len(streams[0]) + 1))
            # The caller's copy of the first event has their resume token; all others are the same, in the same order.
            heard = [item for item in voice.log if isinstance(item, dict) and item["type"] != "session.started"]
            assert heard == streams[0][1:]
            assert "resume_token" not in str(streams)

    asyncio.run(asyncio.wait_for(main(), 30))
    record = httpx.get(server.http + people.path, headers=people.bearer(people.key)).json()
    assert [message["content"] for message in record["messages"] if message["role"] == "user"] == [
        "hello from the keyboard",
        "tell me",
    ]
    transcript = httpx.get(
        f"{server.http}{people.path}/transcript", headers={**people.bearer(people.key), "accept": "text/plain"}
    )
    assert transcript.text.splitlines()[0] == "user: hello from the keyboard"
    assert transcript.text.splitlines()[-1] == "agent: This call ends now."


def test_a_room_token_chats_in_its_own_session(serve: Serve) -> None:
    people = People(serve(auth=Auth()))

    def chat(role: str, **body: Any) -> httpx.Response:
        headers = {**people.bearer(people.token(role)), "accept": "application/json"}
        return httpx.post(f"{people.server.http}/v1/chat", json={"text": "hello", **body}, headers=headers)

    assert chat("speaker").json()["session_id"] == people.session_id
    assert chat("operator", session_id=people.session_id).json()["reason"] == "completed"
    assert chat("speaker", session_id="ses_other").status_code == 403
    assert chat("listener").status_code == 403
    httpx.post(f"{people.server.http}{people.path}/end", headers=people.bearer(people.key))
    session = people.server.runtime.sessions.get(people.session_id)
    if session is not None:
        people.server.call(session.wait())
    late = httpx.post(f"{people.server.http}/v1/rooms/{people.room['id']}/tokens", headers=people.bearer(people.key))
    assert late.json()["code"] == "session_over"


def test_who_comes_is_greeted_and_who_writes_first_is_answered(serve: Serve) -> None:
    names = dict.fromkeys(("vad", "stt", "llm", "tts"), "scripted")
    server = serve(agents={"host": Agent.model_validate({**names, "greeting": "Welcome!"})})

    def said(session_id: str) -> list[str]:
        turns = httpx.get(f"{server.http}/v1/sessions/{session_id}/turns").json()
        return [turn["heard_text"] for turn in turns]

    rooms = [httpx.post(f"{server.http}/v1/rooms", json={"agent": "host"}).json()["session_id"] for _ in range(2)]
    with httpx.stream("GET", f"{server.http}/v1/sessions/{rooms[0]}/events") as stream:
        for line in stream.iter_lines():
            if '"reply.finished"' in line:
                break
    assert said(rooms[0]) == ["Welcome!"]
    httpx.post(f"{server.http}/v1/chat", json={"text": "hi", "session_id": rooms[1]}).raise_for_status()
    assert said(rooms[1]) == ["Certainly, here it is."]


def test_a_listener_does_not_keep_a_session_alive(serve: Serve) -> None:
    from rejoinder.settings import Limits

    server = serve(auth=Auth(), limits=Limits(idle_s=0.2))
    people = People(server)
    speaker, listener = people.token("speaker"), people.token("listener")

    async def main() -> None:
        async with AsyncExitStack() as stack:

            async def come(token: str) -> Any:
                url = f"{server.ws}{people.path}/ws?output=text"
                ws = await stack.enter_async_context(connect(url, additional_headers=people.bearer(token), proxy=None))
                caller = server.caller_on(ws)
                await caller.until("session.started")
                return caller

            talking, listening = await come(speaker), await come(listener)
            await talking.ws.close()
            assert (await listening.until("session.ended"))["reason"] == "idle"

    asyncio.run(main())
