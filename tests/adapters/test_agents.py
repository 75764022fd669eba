"""Agents over REST: versioned, validated, changed only by who knows the current one; sessions keep theirs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from rejoinder.settings import Agent

if TYPE_CHECKING:
    from tests.adapters.conftest import LiveServer

SCRIPTED = {**dict.fromkeys(("vad", "stt", "llm", "tts"), "scripted"), "turn": [], "interruption": []}


@pytest.fixture
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.http, headers={"accept": "application/json"}) as client:
        yield client


def put(http: httpx.Client, name: str, headers: dict[str, str] | None = None, **definition: Any) -> httpx.Response:
    return http.put(f"/v1/agents/{name}", json={**SCRIPTED, **definition}, headers=headers)


def test_an_agent_is_defined_changed_and_deleted(http: httpx.Client) -> None:
    made = put(http, "host", instructions="Be kind.", tools=["clock"])
    assert (made.status_code, made.headers["etag"]) == (201, '"1"')
    agent = made.json()
    assert (agent["name"], agent["version"], agent["source"]) == ("host", 1, "api")
    assert agent["definition"]["instructions"] == "Be kind."
    assert set(agent["definition"]) == set(Agent.model_fields), "with all defaults"
    assert http.get("/v1/agents/host").json() == agent

    changed = put(http, "host", instructions="Be brief.")
    assert (changed.status_code, changed.json()["version"]) == (200, 2)
    assert http.get("/v1/agents/host?version=1").json() == agent
    versions = http.get("/v1/agents/host/versions").json()["items"]
    assert [one["version"] for one in versions] == [2, 1]
    assert versions[1]["definition"] == {**SCRIPTED, "instructions": "Be kind.", "tools": ["clock"]}, "as it was given"

    listed = {one["name"]: one for one in http.get("/v1/agents").json()["items"]}
    assert listed["host"]["version"] == 2
    assert (listed["scripted"]["source"], listed["scripted"]["version"]) == ("settings", None)

    assert http.delete("/v1/agents/host").status_code == 204
    gone = http.get("/v1/agents/host")
    assert (gone.status_code, gone.json()["code"]) == (404, "unknown_agent")
    assert "host" not in {one["name"] for one in http.get("/v1/agents").json()["items"]}
    assert http.get("/v1/agents/host?version=2").status_code == 200, "sessions had it"
    assert put(http, "host").json()["version"] == 4, "numbers are not used again"


def test_what_a_definition_may_hold_can_be_asked(http: httpx.Client) -> None:
    asked = http.get("/v1/agent_schema").json()
    assert set(asked["schema"]["properties"]) == set(Agent.model_fields)
    assert asked["schema"]["$defs"]["TurnPolicy"]["properties"]["interrupt_ms"]["default"] == 300
    assert asked["profiles"]["patient"]["min_words"] == 2


def test_only_who_knows_the_current_version_changes_it(http: httpx.Client) -> None:
    assert put(http, "etag", {"if-none-match": "*"}).status_code == 201
    for there in (
        put(http, "etag", {"if-none-match": "*"}),
        http.delete("/v1/agents/etag", headers={"if-none-match": "*"}),
    ):
        assert (there.status_code, there.json()["code"]) == (412, "version_mismatch")
        assert there.json()["detail"] == "The agent 'etag' exists already."
    assert put(http, "etag", {"if-match": '"1"'}).status_code == 200
    late = put(http, "etag", {"if-match": '"1"'})
    assert (late.status_code, late.json()["detail"]) == (412, "The agent 'etag' was changed meanwhile.")
    assert http.delete("/v1/agents/etag", headers={"if-match": '"1"'}).status_code == 412
    assert put(http, "etag", {"if-match": "first"}).status_code == 400
    assert http.get("/v1/agents/etag").headers["etag"] == '"2"'


def test_a_wrong_definition_is_refused_with_all_that_is_wrong(http: httpx.Client) -> None:
    for definition, what in (
        ({"llm": "scriptd"}, "did you mean 'scripted'"),
        ({"tools": ["clok"]}, "did you mean 'clock'"),
        ({"temprature": 1}, "temprature"),
        ({"max_tokens": 0, "turns": {"pause_ms": "long"}}, "turns.pause_ms"),
    ):
        answer = put(http, "wrong", **definition)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_agent"), answer.text
        assert what in answer.text
    both = put(http, "wrong", max_tokens=0, turns={"pause_ms": "long"}).text
    assert "max_tokens" in both
    assert http.get("/v1/agents/wrong").status_code == 404
    for name in ("Wrong", "a b", "-x", "x" * 65):
        assert put(http, name).json()["code"] == "bad_agent_name"


def test_each_wrong_name_is_told_by_its_field(http: httpx.Client) -> None:
    names: dict[str, Any] = dict.fromkeys(("vad", "stt", "llm", "tts"), "scriptd")
    lists: dict[str, Any] = {"turn": ["rule"], "interruption": ["word"], "transfers": ["No!"]}
    lists["tools"] = ["clok", "clock", "nonsense"]
    answer = put(http, "wrong", **names, **lists)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_agent")
    errors = {one["path"]: one["message"] for one in answer.json()["errors"]}
    assert set(errors) == {*names, *lists}
    assert errors["llm"] == "There is no llm provider 'scriptd'; did you mean 'scripted'?"
    assert errors["tools"].startswith(
        "There is no tool 'clok'; did you mean 'clock'? There is no tool 'nonsense'; known"
    )
    for doubled in ("?.", "?;", ".."):
        assert doubled not in answer.json()["detail"]
    assert put(http, "first", transfers=["second", "first"]).status_code == 201, "it may be defined later"


def test_an_unknown_field_is_answered_with_the_nearest(http: httpx.Client) -> None:
    errors = put(http, "wrong", temprature=1, turns={"pause": 50}, temperature=2.1).json()["errors"]
    assert {one["path"]: one["message"] for one in errors} == {
        "temprature": "unknown field, did you mean 'temperature'?",
        "turns.pause": "unknown field, did you mean 'pause_ms'?",
        "temperature": "Input should be less than or equal to 2",
    }


def test_a_voice_must_be_one_of_the_first_tts_that_knows_its_voices(http: httpx.Client) -> None:
    answer = put(http, "mute", tts=["hibari", "scripted"], voice="alloy")
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"path": "voice", "message": "hibari has no voice 'alloy'; known: heart"}]
    for fine in ({"tts": "hibari", "voice": "heart"}, {"tts": ["scripted", "hibari"], "voice": "alloy"}):
        assert put(http, "speaks", **fine).status_code in (200, 201)


def test_a_version_that_is_not_there_is_told_with_those_that_are(http: httpx.Client) -> None:
    for _ in range(2):
        put(http, "versioned")
    http.delete("/v1/agents/versioned")
    put(http, "versioned")
    for version in (3, 77):
        answer = http.get(f"/v1/agents/versioned?version={version}")
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_agent")
        assert answer.json()["detail"] == f"The agent 'versioned' has no version {version}; there are 1, 2, 4."
    fixed = http.get("/v1/agents/scripted?version=1")
    assert fixed.status_code == 404
    assert fixed.json()["detail"] == "The agent 'scripted' has no version 1; the server's settings define it."


def test_an_agent_of_the_settings_is_fixed(http: httpx.Client) -> None:
    for answer in (put(http, "scripted"), http.delete("/v1/agents/scripted"), put(http, "guide")):
        assert (answer.status_code, answer.json()["code"]) == (409, "agent_fixed")


def test_a_session_keeps_the_version_it_began_with(http: httpx.Client) -> None:
    def chat(**body: Any) -> dict[str, Any]:
        answer: dict[str, Any] = http.post("/v1/chat", json={"text": "hello", **body}).json()
        return answer

    put(http, "kept", instructions="One.")
    first = chat(agent="kept")
    put(http, "kept", instructions="Two.")
    assert chat(session_id=first["session_id"])["reason"] == "completed"
    second = chat(agent="kept")
    http.delete("/v1/agents/kept")
    assert chat(session_id=second["session_id"])["reason"] == "completed", "it lives on"
    assert http.post("/v1/chat", json={"text": "hello", "agent": "kept"}).status_code == 422
    records = [http.get(f"/v1/sessions/{one['session_id']}").json()["session"] for one in (first, second)]
    assert [(record["agent"], record["agent_version"]) for record in records] == [("kept", 1), ("kept", 2)]
    found = http.get("/v1/sessions?agent=kept").json()["items"]
    assert {record["id"] for record in found} == {first["session_id"], second["session_id"]}


def test_sessions_are_filtered(http: httpx.Client) -> None:
    put(http, "filtered")
    room = http.post("/v1/rooms", json={"agent": "filtered"}).json()
    http.post("/v1/chat", json={"text": "hi", "session_id": room["session_id"]})
    other = http.post("/v1/chat", json={"text": "hi", "agent": "filtered"}).json()["session_id"]

    def found(**query: Any) -> list[str]:
        items = http.get("/v1/sessions", params={"agent": "filtered", **query}).json()["items"]
        return [item["id"] for item in items]

    assert found() == [other, room["session_id"]]
    assert found(room_id=room["id"]) == [room["session_id"]]
    assert found(live=True) == [other, room["session_id"]]
    http.post(f"/v1/sessions/{other}/end", json={"reason": "over"})
    with http.stream("GET", f"/v1/sessions/{other}/events", headers={"accept": "text/event-stream"}) as stream:
        stream.read()
    assert found(live=False) == found(end_reason="over") == [other]
    started = http.get(f"/v1/sessions/{other}").json()["session"]["started_at"]
    assert found(since=started) == [other]
    assert found(until=started) == [room["session_id"]]
    rooms = http.get("/v1/rooms?limit=1").json()
    assert [one["id"] for one in rooms["items"]] == [room["id"]]
    assert "token" not in rooms["items"][0]["join"]
