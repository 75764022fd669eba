"""Operators over REST on a real server: who may steer, two at once, what the user's client sees, what is audited."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.asyncio.client import connect

from rejoinder.client import VoiceClient
from rejoinder.settings import Auth
from rejoinder.turns.machine import LEASE_S

if TYPE_CHECKING:
    from tests.adapters.conftest import Caller, LiveServer, Serve

SECRET = "The caller owes us nothing."
SLOW = {"reply": "word " * 60, "ms_per_word": 100}


class Office:
    """A server with operators, each with a key, and a room."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        self.keys = {
            name: self.make_key(name, scopes)
            for name, scopes in {
                "Grace": ["read", "talk", "control"],
                "Ada": ["read", "talk", "control"],
                "Root": ["admin"],
                "Vera": ["read"],
                "Tom": ["read", "talk"],
            }.items()
        }
        self.room = self.ask("Tom", "POST", "/v1/rooms").json()
        self.session_id: str = self.room["session_id"]
        self.path = f"/v1/sessions/{self.session_id}"

    def make_key(self, name: str, scopes: list[str]) -> str:
        return self.server.call(self.server.runtime.gate.keys.create(name, scopes))[1]

    def token(self, role: str) -> str:
        answer = self.ask("Grace", "POST", f"/v1/rooms/{self.room['id']}/tokens", role=role)
        return str(answer.json()["token"])

    def ask(self, who: str, method: str, path: str, **body: Any) -> httpx.Response:
        """`who` is an operator's name, or a token."""
        headers = {"authorization": f"Bearer {self.keys.get(who, who)}", "accept": "application/json"}
        return httpx.request(method, self.server.http + path, json=body or None, headers=headers, timeout=20)

    async def steer(self, who: str, method: str, what: str, **body: Any) -> httpx.Response:
        return await asyncio.to_thread(self.ask, who, method, f"{self.path}/{what}", **body)

    def call(self, token: str) -> Any:
        bearer = {"authorization": f"Bearer {token}"}
        return connect(f"{self.server.ws}{self.path}/ws", additional_headers=bearer, proxy=None)

    async def begin(self, ws: Any) -> Caller:
        caller = self.server.caller_on(ws)
        await caller.tell("session.configure")
        await caller.until("session.started")
        return caller

    def audited(self) -> list[tuple[str, str, dict[str, Any]]]:
        async def rows() -> list[Any]:
            await self.server.runtime.store.writer.flush()
            return await self.server.runtime.audit.rows(subject=self.session_id)

        found = self.server.call(rows())
        assert {row.address for row in found} <= {"127.0.0.1"}
        return [(row.actor_name, row.action, row.detail) for row in reversed(found)]


def test_an_operator_takes_over_speaks_and_hands_back(serve: Serve) -> None:
    office = Office(serve(auth=Auth()))
    token = office.token("speaker")

    async def main() -> None:
        async with office.call(token) as ws:
            voice = await office.begin(ws)
            taken = await office.steer("Grace", "PUT", "takeover")
            assert taken.status_code == 200
            assert taken.json().keys() == {"session_id", "operator", "expires_at"}
            assert taken.json()["operator"] == "Grace"
            session = office.server.runtime.sessions[office.session_id]
            left_s = (taken.json()["expires_at"] - session._clock.wall_ms()) / 1000
            assert left_s == pytest.approx(LEASE_S, abs=5)
            assert session.operator == "Grace"
            assert (await voice.until("operator.took_over"))["operator"] == "Grace"
            await voice.tell("text", text="is anybody there?")
            committed = await voice.until("turn.committed")
            assert (await office.steer("Grace", "PUT", "takeover")).status_code == 200
            said = await office.steer("Grace", "POST", "say", text="I am Grace.")
            assert said.status_code == 202
            spoken = await voice.until("reply.finished")
            assert (spoken["turn_id"], spoken["heard_text"]) == (said.json()["turn_id"], "I am Grace.")
            await voice.tell("text", text="good")
            second = await voice.until("turn.committed")
            assert (await office.steer("Grace", "DELETE", "takeover")).status_code == 204
            assert (await voice.until("operator.handed_back"))["reason"] == "handed_back"
            answered = await voice.until("reply.finished")
            assert answered["turn_id"] == second["turn_id"], "nobody had answered that"
            assert (await office.steer("Grace", "DELETE", "takeover")).status_code == 204, "there is nothing to do"
            assert committed["turn_id"] not in {event["turn_id"] for event in voice.events("reply.started")}

    asyncio.run(asyncio.wait_for(main(), 30))
    audited = office.audited()
    assert [row[:2] for row in audited] == [
        ("Grace", "session.takeover"), ("Grace", "session.say"), ("Grace", "session.handback"),
    ]  # fmt: skip
    assert audited[1][2]["turn_id"].startswith("turn_")
    detail = office.ask("Vera", "GET", office.path).json()
    assert [(message["role"], message["content"]) for message in detail["messages"]][:3] == [
        ("user", "is anybody there?"),
        ("assistant", "I am Grace."),
        ("user", "good"),
    ]
    items = office.ask("Vera", "GET", f"{office.path}/events").json()["items"]
    assert [event["type"] for event in items if event["type"].startswith("operator.")] == [
        "operator.took_over",
        "operator.handed_back",
    ]


def test_of_two_operators_one_speaks_unless_an_admin_takes_it(serve: Serve) -> None:
    office = Office(serve(auth=Auth()))
    token = office.token("speaker")

    async def main() -> None:
        async with office.call(token) as ws:
            voice = await office.begin(ws)
            # Both at once: one gets it, the other is told who has.
            asked = await asyncio.gather(*(office.steer(who, "PUT", "takeover") for who in ("Grace", "Ada")))
            assert sorted(answer.status_code for answer in asked) == [200, 409]
            (taken,) = [answer.json() for answer in asked if answer.status_code == 200]
            (refused,) = [answer.json() for answer in asked if answer.status_code == 409]
            winner = taken["operator"]
            loser = "Ada" if winner == "Grace" else "Grace"
            assert refused["code"] == "taken_over"
            assert refused["detail"].startswith(f"{winner} has taken over this session, until 20")
            assert (refused["type"], refused["retryable"]) == ("/docs/problems#taken_over", True)
            for method, what, body in (("POST", "say", {"text": "Hello."}), ("DELETE", "takeover", {})):
                answer = await office.steer(loser, method, what, **body)
                assert (answer.status_code, answer.json()["code"]) == (409, "taken_over")
            by_force = await office.steer(loser, "PUT", "takeover", force=True)
            assert (by_force.status_code, by_force.json()["code"]) == (403, "forbidden")
            assert (await office.steer("Root", "PUT", "takeover")).status_code == 409
            assert (await office.steer("Root", "PUT", "takeover", force=True)).json()["operator"] == "Root"
            assert (await office.steer(winner, "PUT", "takeover")).status_code == 409
            assert (await office.steer(winner, "POST", "say", text="Hello.")).status_code == 409
            # To interrupt, to whisper and to end is everybody's who may.
            assert (await office.steer(loser, "POST", "whisper", text=SECRET)).status_code == 202
            assert (await office.steer(loser, "POST", "interrupt")).status_code == 204
            assert (await office.steer(loser, "POST", "end", reason="closing_time")).status_code == 202
            assert (await voice.until("session.ended"))["reason"] == "closing_time"
            names = [event["operator"] for event in voice.events("operator.took_over")]
            assert names == [winner, "Root"]
            assert not voice.events("operator.handed_back")
            late = await office.steer("Root", "PUT", "takeover", force=True)
            assert (late.status_code, late.json()["code"]) == (409, "session_over")
            audited = office.audited()
            assert [row[:2] for row in audited] == [
                (winner, "session.takeover"),
                ("Root", "session.takeover"),
                (loser, "session.whisper"),
                (loser, "session.interrupt"),
                (loser, "session.end"),
            ]
            assert audited[1][2] == {"former": winner}
            assert audited[4][2] == {"reason": "closing_time"}

    asyncio.run(asyncio.wait_for(main(), 30))


def test_nobody_in_the_call_hears_of_a_whisper(serve: Serve) -> None:
    office = Office(serve(auth=Auth()))
    token = office.token("speaker")

    async def main() -> None:
        async with office.call(token) as ws:
            voice = await office.begin(ws)
            answer = await office.steer("Grace", "POST", "whisper", text=SECRET)
            assert (answer.status_code, answer.json()) == (202, {"session_id": office.session_id})
            await voice.turn()
            assert SECRET not in json.dumps([item for item in voice.log if isinstance(item, dict)])
            history = office.server.runtime.sessions[office.session_id].journal.messages("", 10)
            assert [message.content for message in history if message.role == "system"] == [SECRET]
            empty = await office.steer("Grace", "POST", "whisper", text=" ")
            assert (empty.status_code, empty.json()["code"]) == (400, "empty_text")

    asyncio.run(asyncio.wait_for(main(), 30))
    assert office.audited() == [("Grace", "session.whisper", {"text": SECRET})]
    everything = office.ask("Root", "GET", f"{office.path}/events?limit=1000").text
    assert SECRET not in everything
    assert SECRET not in office.ask("Root", "GET", office.path).text


def test_what_a_plugin_hides_is_hidden_in_the_audit_log(serve: Serve) -> None:
    office = Office(serve(auth=Auth()))
    token = office.token("speaker")

    async def main() -> None:
        async with office.call(token) as ws:
            voice = await office.begin(ws)
            session = office.server.runtime.sessions[office.session_id]
            session._hooks.stored_text = lambda text, **more: text.replace("4111", "****")  # type: ignore[method-assign]
            assert (await office.steer("Grace", "POST", "whisper", text="The card is 4111.")).status_code == 202
            await voice.turn()
            history = session.journal.messages("", 10)
            assert history[0].content == "The card is 4111.", "the agent knows it all"

    asyncio.run(asyncio.wait_for(main(), 30))
    assert office.audited() == [("Grace", "session.whisper", {"text": "The card is ****."})]


@pytest.mark.parametrize(
    ("who", "allowed"),
    [
        ("Vera", ""),
        ("Tom", "interrupt end"),
        ("Grace", "say whisper takeover interrupt end"),
        ("Root", "say whisper takeover interrupt end"),
        ("listener", ""),
        ("speaker", "interrupt end"),
        ("operator", "say whisper takeover interrupt end"),
    ],
)
def test_who_may_do_what(serve: Serve, who: str, allowed: str) -> None:
    office = Office(serve(auth=Auth()))
    token = office.token("speaker")
    by_token = who not in office.keys
    credential = office.token(who) if by_token else who

    async def main() -> None:
        async with office.call(token) as ws:
            await office.begin(ws)
            for method, what, body in (
                ("POST", "say", {"text": "Hello."}),
                ("POST", "whisper", {"text": "psst"}),
                ("PUT", "takeover", {}),
                ("DELETE", "takeover", {}),
                ("POST", "interrupt", {}),
                ("POST", "end", {}),
            ):
                answer = await office.steer(credential, method, what, **body)
                assert (answer.status_code != 403) == (what in allowed.split()), (what, answer.text)
                assert answer.status_code in (200, 202, 204, 403)

    asyncio.run(asyncio.wait_for(main(), 30))
    done = [action.removeprefix("session.") for _, action, _ in office.audited()]
    expected = ["say", "whisper", "takeover", "handback"] if "say" in allowed else []
    if not by_token and allowed:
        # What is done in the room itself is the conversation.
        expected += ["interrupt", "end"]
    assert done == expected


def test_a_session_that_has_not_begun_cannot_be_taken_over(serve: Serve) -> None:
    office = Office(serve(auth=Auth()))
    answer = office.ask("Grace", "PUT", f"{office.path}/takeover")
    assert (answer.status_code, answer.json()["code"]) == (404, "session_not_started")


def test_who_asks_in_writing_is_told_that_an_operator_has_it(serve: Serve) -> None:
    office = Office(serve(auth=Auth()))
    first = office.ask("Tom", "POST", "/v1/chat", text="hello").json()
    path = f"/v1/sessions/{first['session_id']}/takeover"
    assert office.ask("Grace", "PUT", path).status_code == 200
    kept = office.ask("Tom", "POST", "/v1/chat", text="hello?", session_id=first["session_id"]).json()
    assert (kept["reason"], kept["text"], kept["reply_id"]) == ("taken_over", "", "")
    assert office.ask("Grace", "DELETE", path).status_code == 204
    again = office.ask("Tom", "POST", "/v1/chat", text="and now?", session_id=first["session_id"]).json()
    assert again["reason"] == "completed"


def test_a_python_client_waits_for_no_answer_that_an_operator_has_to_give(serve: Serve) -> None:
    office = Office(serve(auth=Auth(mode="none")))

    async def main() -> None:
        url = f"{office.server.ws}{office.path}/ws"
        async with VoiceClient.connect(url) as client:
            await client.say_text("hello")
            assert (await office.steer("Grace", "PUT", "takeover")).status_code == 200
            await client._wait(lambda: client.operator is not None, 5, "Nobody has taken over")
            assert client.operator == "anybody"
            result = await client.say_text("hello?", timeout=8)
            assert (result.reason, result.reply_text, result.transcript) == ("taken_over", "", "hello?")
            assert (await office.steer("Grace", "DELETE", "takeover")).status_code == 204
            await client._wait(lambda: client.operator is None, 5, "Nobody has handed back")
            assert (await client.say_text("and now?")).reason == "completed"

    asyncio.run(asyncio.wait_for(main(), 30))


def test_taking_over_cuts_the_agent_short(serve: Serve) -> None:
    office = Office(serve(SLOW, auth=Auth()))
    token = office.token("speaker")

    async def main() -> None:
        async with office.call(token) as ws:
            voice = await office.begin(ws)
            await voice.tell("text", text="tell me all")
            await voice.until("reply.started")
            while len(voice.audio()) < 16_000:
                await voice.receive()
            await office.steer("Grace", "PUT", "takeover")
            await voice.until("operator.took_over")
            await voice.until("clear_audio")
            assert (await voice.until("reply.finished"))["reason"] == "interrupted"

    asyncio.run(asyncio.wait_for(main(), 30))
