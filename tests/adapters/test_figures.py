"""Figures, lists of sessions, words in transcripts and what LLMs were sent, over REST of a real server."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from rejoinder.settings import Auth

if TYPE_CHECKING:
    from tests.adapters.conftest import LiveServer, Serve

NASTY = "<img src=x onerror=alert(1)>\"';--\u2028 %_"


def get(server: LiveServer, path: str, status: int = 200, **query: Any) -> Any:
    answer = httpx.get(server.http + path, params=query, timeout=20)
    assert answer.status_code == status, answer.text
    return answer.json()


def chat(server: LiveServer, text: str, agent: str | None = None, user_agent: str = "test/1") -> str:
    headers = {"accept": "application/json", "user-agent": user_agent}
    body = {"text": text} | ({"agent": agent} if agent else {})
    answer = httpx.post(f"{server.http}/v1/chat", json=body, headers=headers, timeout=20)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["session_id"]
    return found


def test_what_the_llm_was_sent_comes_as_it_was(server: LiveServer) -> None:
    session = chat(server, NASTY)
    (sent,) = get(server, f"/v1/sessions/{session}/llm")
    assert set(sent) == {
        "reply_id",
        "turn_id",
        "position",
        "at",
        "provider",
        "messages",
        "tools",
        "max_tokens",
        "temperature",
    }
    assert sent["messages"][-1] == {"role": "user", "content": NASTY}
    assert sent["messages"][0]["role"] == "system"
    assert (sent["provider"], sent["position"], sent["tools"]) == ("scripted", 0, [])
    assert abs(sent["at"] - time.time() * 1000) < 60_000
    (turn,) = get(server, f"/v1/sessions/{session}")["turns"]
    assert (turn["reply_id"], turn["id"]) == (sent["reply_id"], sent["turn_id"])
    assert get(server, f"/v1/sessions/{session}/llm", reply_id="rep_x") == []
    assert get(server, "/v1/sessions/ses_none/llm", 404)["code"] == "unknown_session"


def test_it_is_not_kept_where_that_is_not_wanted(serve: Serve) -> None:
    live = serve(store_llm_requests=False)
    assert get(live, f"/v1/sessions/{chat(live, 'Hello')}/llm") == []


def test_a_list_of_sessions_has_their_figures(server: LiveServer) -> None:
    session = chat(server, NASTY, user_agent="<script>" * 100)
    row = get(server, "/v1/sessions", limit=1)["items"][0]
    assert row["id"] == session
    assert (row["channel"], row["client"]) == ("chat", ("<script>" * 100)[:300])
    assert (row["turns"], row["interruptions"], row["errors"], row["recorded"]) == (1, 0, 0, False)
    assert row["first_text"] == NASTY.strip()
    assert row["live"] is True
    assert 0 < row["p50_us"] == row["max_us"]
    detail = get(server, f"/v1/sessions/{session}")["session"]
    assert {name: detail[name] for name in row if name != "metrics"} == {n: row[n] for n in row if n != "metrics"}
    found = get(server, "/v1/sessions", facets=True, sort="slowest", min_ms=0, provider="llm:scripted")
    assert {"value": "chat", "count": found["facets"]["channel"][0]["count"]} in found["facets"]["channel"]
    slowest = [one["max_us"] for one in found["items"]]
    assert slowest == sorted(slowest, reverse=True)
    assert get(server, "/v1/sessions")["facets"] is None
    for query, code in (
        ({"provider": "guide"}, "bad_provider"),
        ({"provider": "$[0]:x"}, "bad_provider"),
        ({"sort": "slowest", "before": "x"}, "bad_cursor"),
        ({"sort": "loudest"}, "bad_request"),
    ):
        assert get(server, "/v1/sessions", 400, **query)["code"] == code


def test_how_sessions_came(server: LiveServer) -> None:
    async def scenario() -> str:
        async with server.caller() as caller:
            await caller.turn()
            found: str = caller.events("session.started")[0]["session_id"]
            return found

    called = asyncio.run(scenario())
    assert get(server, f"/v1/sessions/{called}")["session"]["channel"] == "websocket"
    assert "websockets" in get(server, f"/v1/sessions/{called}")["session"]["client"]
    room = httpx.post(f"{server.http}/v1/rooms", json={}).json()
    session = room["session_id"]
    httpx.post(f"{server.http}/v1/sessions/{session}/messages", json={"text": "Hi"}, headers={"user-agent": "me"})
    found = get(server, f"/v1/sessions/{session}")["session"]
    assert (found["channel"], found["client"]) == ("rest", "me")
    room = httpx.post(f"{server.http}/v1/rooms", json={}).json()
    with httpx.stream("GET", f"{server.http}/v1/sessions/{room['session_id']}/events", timeout=10) as stream:
        next(stream.iter_lines())
        found = get(server, f"/v1/sessions/{room['session_id']}")["session"]
    assert found["channel"] == "sse"


def test_latency_and_overview(serve: Serve) -> None:
    live = serve({"first_token_ms": 120})
    sessions = [chat(live, f"Hello {number}") for number in range(3)]
    found = get(live, "/v1/latency", group="llm", provider="llm:scripted")
    turns = [turn for session in sessions for turn in get(live, f"/v1/sessions/{session}")["turns"]]
    times = sorted(turn["response_us"] for turn in turns)
    assert found["all"] == {"n": 3, "p50_us": times[1], "p95_us": None, "p99_us": None}
    assert found["groups"] == [{"value": "scripted", **found["all"]}]
    assert sum(n for _, _, n in found["heatmap"]["cells"]) == 3
    assert [stage["name"] for stage in found["stages"]] == ["llm", "send"]
    assert found["stages"][0]["p50_us"] >= 100_000
    slots = [slot for slot in found["slots"] if slot["n"]]
    assert sum(slot["n"] for slot in slots) == 3
    assert len(found["slots"]) <= 120
    assert found["until"] - found["since"] == 86_400_000
    slowest = found["slowest"]
    assert [one["response_us"] for one in slowest] == times[::-1]
    assert sum(span["us"] for span in slowest[0]["spans"]) == times[-1]
    whole = get(live, "/v1/overview")
    assert (whole["now"]["sessions"], whole["now"]["turns"], whole["now"]["response"]) == (3, 3, found["all"])
    assert whole["before"]["response"]["n"] == 0
    assert whole["bad"] == []
    # Two who look at the same moment get the same; an empty or endless range is none.
    for query in ({"since": 5, "until": 5}, {"since": 0}, {"since": 10, "until": 5}):
        assert get(live, "/v1/latency", 400, **query)["code"] == "bad_range"
        assert get(live, "/v1/overview", 400, **query)["code"] == "bad_range"
    assert get(live, "/v1/latency", 400, provider="nobody")["code"] == "bad_provider"
    assert get(live, "/v1/latency", agent="nobody")["all"]["n"] == 0


def test_a_session_that_went_badly_says_why(serve: Serve) -> None:
    live = serve({"first_token_ms": 1700})
    session = chat(live, "Hello")
    (bad,) = get(live, "/v1/overview")["bad"]
    assert bad["id"] == session
    assert bad["why"].startswith("A turn took 1.")
    assert bad["why"].endswith("% of it llm")
    assert [one["id"] for one in get(live, "/v1/sessions", bad=True)["items"]] == [session]


def test_words_are_found(server: LiveServer) -> None:
    session = chat(server, f"Where is {NASTY}")
    found = get(server, "/v1/transcripts", q="WHERE IS <IMG")["items"]
    assert [(one["session_id"], one["role"], one["content"]) for one in found] == [
        (session, "user", f"Where is {NASTY}")
    ]
    assert set(found[0]) == {"session_id", "agent", "turn_id", "role", "content", "at"}
    answers = get(server, "/v1/transcripts", q="certainly", limit=2)
    assert {one["role"] for one in answers["items"]} == {"assistant"}
    assert answers["next_cursor"]
    again = get(server, "/v1/transcripts", q="certainly", limit=2, before=answers["next_cursor"])
    assert not {str(one) for one in again["items"]} & {str(one) for one in answers["items"]}
    assert get(server, "/v1/transcripts", 400, q="x")["errors"]
    assert get(server, "/v1/transcripts", 400, q="hello", before="x")["code"] == "bad_cursor"


@pytest.mark.parametrize("path", ["latency", "overview", "transcripts?q=hello", "sessions", "sessions/ses_1/llm"])
def test_who_may_not_read_gets_nothing(serve: Serve, path: str, tmp_path: Path) -> None:
    live = serve(auth=Auth(mode="keys", dev_key_file=tmp_path / "key"))
    assert httpx.get(f"{live.http}/v1/{path}").status_code == 401
    _, made = live.call(live.runtime.gate.keys.create("talks", ["talk"]))
    answer = httpx.get(f"{live.http}/v1/{path}", headers={"authorization": f"Bearer {made}"})
    assert answer.status_code == 403, answer.text
