"""A connection that is lost and comes back: what was missed, what was not heard, and who may take whose place."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from rejoinder.client import VoiceClient
from rejoinder.events import ReplyFinished, ReplyResumed, ServerEvent
from rejoinder.settings import Agent, Limits, TurnPolicy

if TYPE_CHECKING:
    from tests.adapters.conftest import Caller, LiveServer, Serve

WORD_MS = 20
WORDS = 200
AGENT = Agent(vad="scripted", stt="scripted", llm="scripted", tts="scripted", tools=())
SCRIPT = {"reply": "word " * WORDS, "ms_per_word": WORD_MS}
RATE = 24_000


def ms_of(caller: Caller) -> float:
    return len(caller.audio()) * 1000 / (2 * RATE)


async def lose_in_the_middle(caller: Caller) -> dict[str, Any]:
    """Ask, hear about half a second, and fall off the network; what the client knows then."""
    started = caller.events("session.started")[0]
    await caller.tell("text", text="go on")
    reply = await caller.until("reply.started")
    while ms_of(caller) < 700:
        await caller.receive()
    # This client has played all but 200 ms of what it got.
    played = ms_of(caller) - 200
    await caller.tell("playback", reply_id=reply["reply_id"], played_ms=played)
    caller.ws.transport.abort()
    return {
        "session_id": started["session_id"],
        "resume_token": started["resume_token"],
        "last_seq": max(item["seq"] for item in caller.log if isinstance(item, dict)),
        "played_ms": played,
    }


def back(lost: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    fields = {name: lost[name] for name in ("resume_token", "last_seq", "played_ms")}
    return f"/v1/sessions/{lost['session_id']}/ws", fields


async def gone(server: LiveServer, session_id: str) -> None:
    """Until the server has noticed that nobody is there."""
    session = server.runtime.sessions[session_id]
    async with asyncio.timeout(5):
        while session._audience.links:  # noqa: ASYNC110 - in another thread
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("noticed", [True, False], ids=["after the server noticed", "before"])
def test_who_comes_back_gets_what_was_missed_once_and_the_rest_from_the_word_that_was_cut(
    serve: Serve, noticed: bool
) -> None:
    server = serve(SCRIPT)

    async def main() -> None:
        async with server.caller() as first:
            lost = await lose_in_the_middle(first)
        if noticed:
            await gone(server, lost["session_id"])
        path, fields = back(lost)
        async with server.caller(path, fields) as second:
            started = second.events("session.started")[0]
            assert started["resumed"] is True
            assert started["resume_token"] != lost["resume_token"]
            resumed = await second.until("reply.resumed")
            assert lost["played_ms"] - WORD_MS <= resumed["from_ms"] <= lost["played_ms"]
            finished = await second.until("reply.finished")
            assert (finished["reason"], len(finished["heard_text"].split())) == ("completed", WORDS)
            assert ms_of(second) == pytest.approx(WORDS * WORD_MS - resumed["from_ms"], abs=1)
            seqs = [item["seq"] for item in first.log + second.log[1:] if isinstance(item, dict)]
            assert seqs == list(range(1, len(seqs) + 1)), "every event once, in order"
            cleared = second.log.index(second.events("clear_audio")[0])
            again = second.log.index(resumed)
            assert not [item for item in second.log[cleared:again] if isinstance(item, bytes)]

    asyncio.run(main())


def test_the_session_ends_when_the_one_it_was_made_for_hangs_up_after_coming_back(serve: Serve) -> None:
    server = serve(SCRIPT)

    async def main() -> None:
        async with server.caller() as first:
            lost = await lose_in_the_middle(first)
        session = server.runtime.sessions[lost["session_id"]]
        path, fields = back(lost)
        async with server.caller(path, fields) as second:
            await second.until("reply.resumed")
        await asyncio.to_thread(server.call, asyncio.wait_for(session.wait(), 5))
        assert session.ended_reason == "client_left"

    asyncio.run(main())


def test_an_agent_may_rather_begin_anew(serve: Serve) -> None:
    agent = AGENT.model_copy(update={"turns": TurnPolicy(pause_ms=40, on_resume="fresh")})
    server = serve(SCRIPT, agents={"scripted": agent})

    async def main() -> None:
        async with server.caller() as first:
            lost = await lose_in_the_middle(first)
        await gone(server, lost["session_id"])
        path, fields = back(lost)
        async with server.caller(path, fields) as second:
            finished = await second.until("reply.finished")
            assert finished["reason"] == "interrupted"
            assert len(finished["heard_text"].split()) == pytest.approx(lost["played_ms"] / WORD_MS, abs=1)
            assert not second.audio()
            await second.turn()

    asyncio.run(main())


def test_a_token_of_somebody_else_is_refused_and_says_what_to_do(serve: Serve) -> None:
    server = serve(SCRIPT)

    async def main() -> None:
        async with server.caller() as first:
            session_id = first.events("session.started")[0]["session_id"]
            path = f"/v1/sessions/{session_id}/ws"
            async with server.caller(path, False) as other:
                await other.tell("session.configure", resume_token="guessed")
                error = await other.until("error")
                assert error["code"] == "bad_resume_token"
                assert (await other.until_closed())[0] == 1008
            async with server.caller("/ws/audio", False) as other:
                await other.tell("session.configure", resume_token="guessed")
                assert (await other.until("error"))["code"] == "bad_resume_token"
            await first.turn()

    asyncio.run(main())


def test_after_the_grace_period_the_session_is_over(serve: Serve) -> None:
    server = serve(SCRIPT, limits=Limits(idle_s=0.1))

    async def main() -> None:
        async with server.caller() as first:
            lost = await lose_in_the_middle(first)
        session = server.runtime.sessions[lost["session_id"]]
        await asyncio.to_thread(server.call, asyncio.wait_for(session.wait(), 5))
        path, fields = back(lost)
        async with server.caller(path, False) as second:
            await second.tell("session.configure", **fields)
            assert (await second.until("error"))["code"] == "session_over"

    asyncio.run(main())


def test_an_old_socket_that_still_hangs_is_displaced(serve: Serve) -> None:
    server = serve(SCRIPT)

    async def main() -> None:
        async with server.caller() as first:
            started = first.events("session.started")[0]
            path = f"/v1/sessions/{started['session_id']}/ws"
            async with server.caller(path, {"resume_token": started["resume_token"], "last_seq": 1}) as second:
                assert await first.until_closed() == (1000, "resumed_elsewhere")
                await second.turn()
                assert server.runtime.sessions

    asyncio.run(main())


def test_the_python_client_comes_back_by_itself_and_hears_everything(serve: Serve) -> None:
    server = serve(SCRIPT)

    async def main() -> None:
        events: list[ServerEvent] = []
        async with VoiceClient.connect(server.ws, on_event=events.append) as client:

            async def cut() -> None:
                while client.player.played_ms() < 600:  # noqa: ASYNC110 - a playhead tells nobody
                    await asyncio.sleep(0.01)
                assert client._socket is not None
                client._socket.transport.abort()

            cutting = asyncio.create_task(cut())
            result = await client.say_text("go on")
            await cutting
            assert (client.resumes, client.stale_frames) == (1, 0)
            assert len(result.heard_text.split()) == WORDS
            (resumed,) = [event for event in events if isinstance(event, ReplyResumed)]
            whole = WORDS * WORD_MS
            repeated = len(result.audio) * 1000 / (2 * RATE) - whole
            assert -1 <= repeated <= WORD_MS + 1, "no word is missing, and one at most comes twice"
            assert 550 <= resumed.from_ms <= 1000
            (finished,) = [event for event in events if isinstance(event, ReplyFinished)]
            assert not finished.estimated
            again = await client.say_text("and now?")
            assert again.reason == "completed"
        seqs = [event.seq for event in events if not getattr(event, "resumed", False)]
        assert seqs == list(range(1, len(seqs) + 1))

    asyncio.run(main())


def test_a_client_that_wants_no_coming_back_is_told_that_the_line_is_dead(serve: Serve) -> None:
    from rejoinder.client import Unreachable

    server = serve(SCRIPT)

    async def main() -> None:
        async with VoiceClient.connect(server.ws, resume=False) as client:
            assert client._socket is not None
            asyncio.get_running_loop().call_later(0.3, client._socket.transport.abort)
            with pytest.raises(Unreachable):
                await client.say_text("go on")

    asyncio.run(main())
