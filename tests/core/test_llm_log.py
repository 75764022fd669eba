"""What LLMs were sent is kept exactly, for replies that were given; plugins hide it, and it is bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from rejoinder.errors import ProviderError
from rejoinder.events import Event, Interruption, ReplyFinished, SessionStarted, TurnCommitted, encode
from rejoinder.hooks import Hooks, SessionHooks
from rejoinder.hookspecs import hookimpl
from rejoinder.journal import Entry, Sent
from rejoinder.llm_log import LlmLog
from rejoinder.manager import Plugins
from rejoinder.providers import LlmDelta, LlmRequest, Message, Tool, ToolCall, ToolContext, ToolSchema
from rejoinder.settings import Agent, TurnPolicy
from rejoinder.store.recorder import Recorder
from rejoinder.store.statements import Row, Write
from rejoinder.testing.pilot import pilot
from rejoinder.testing.scripted import ScriptedLlm
from rejoinder.testing.virtual_time import run_virtual


class Kept:
    """A log whose rows can be looked at."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.entries: list[Entry] = []
        self.recorder = Recorder(lambda write, row: self.rows.append(row) if write is Write.LLM_REQUEST else None)
        self.log = LlmLog(lambda: self.recorder)

    def see(self, event: Event, data: bytes) -> None:
        self.recorder.on_event("ses_pilot", event, data)

    def sent(self, session_id: str, hooks: SessionHooks, entry: Entry) -> None:
        self.entries.append(entry)
        self.log.keep(session_id, hooks, entry)

    def messages(self, row: int = -1) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.rows[row][6])
        return found


def plain(request: LlmRequest) -> list[dict[str, Any]]:
    """The messages of `request` as JSON has them."""
    found = []
    for message in request.messages:
        one: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            one["tool_calls"] = [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in message.tool_calls]
        if message.tool_call_id:
            one["tool_call_id"] = message.tool_call_id
        found.append(one)
    return found


async def look(arguments: dict[str, Any], context: ToolContext) -> str:
    return '{"free": "<b>7 pm</b>"}'


def answer(request: LlmRequest) -> Iterable[LlmDelta | float | Exception]:
    if request.messages[-1].role == "tool":
        return ("At seven.",)
    return ("Let me see. ", ToolCall("c1", "look", '{"day": "monday"}'))


def test_each_round_is_kept_exactly_as_the_provider_got_it() -> None:
    kept = Kept()
    llm = ScriptedLlm(answer)
    tool = Tool("look", "Looks it up.", look, {"type": "object", "properties": {"day": {"type": "string"}}})

    async def scenario() -> None:
        agent = Agent(instructions="Be <kind>.", temperature=0.7, max_tokens=99)
        async with pilot(agent=agent, llm=llm, tools=[tool], audio=False, observer=kept.see, sent=kept.sent) as client:
            client.write("Monday?")
            done = await client.until(ReplyFinished)
            first, second = kept.rows
            assert first[0] == second[0] == done.reply_id
            assert (first[1], second[1]) == (0, 1)
            assert first[2:4] == ("ses_pilot", done.turn_id)
            assert (first[5], first[8], first[9]) == ("scripted", 99, 0.7)
            assert first[4] > 1_600_000_000_000
            assert kept.messages(0) == plain(llm.requests[0])
            assert kept.messages(1) == plain(llm.requests[1])
            assert kept.messages(1)[-1] == {
                "role": "tool",
                "content": '{"free": "<b>7 pm</b>"}',
                "tool_call_id": "c1",
            }
            (schema,) = json.loads(first[7])
            assert (schema["name"], schema["description"]) == ("look", "Looks it up.")
            assert schema["parameters"]["properties"] == {"day": {"type": "string"}}
            # They are not kept twice: what was handed over is let go.
            assert kept.entries[0].sent == []

    run_virtual(scenario())


def test_what_was_prepared_and_thrown_away_leaves_no_trace() -> None:
    kept = Kept()
    llm = ScriptedLlm(lambda request: ("Yes, ", "of course."))

    async def scenario() -> None:
        agent = Agent(turns=TurnPolicy(pause_ms=100, min_silence_ms=600, max_silence_ms=900))
        async with pilot(agent=agent, llm=llm, observer=kept.see, sent=kept.sent) as client:
            await client.speak(600)
            await client.pause(300)
            assert len(llm.requests) == 1
            await client.turn(600, 1500)
            done = await client.until(ReplyFinished)
            assert len(llm.requests) > 1
            assert [row[0] for row in kept.rows] == [done.reply_id]
            assert client.events(TurnCommitted)[0].turn_id == kept.rows[0][3]

    run_virtual(scenario())


def test_of_an_llm_that_failed_it_is_kept_without_who_answered_and_the_next_is_named() -> None:
    kept = Kept()

    async def scenario(fallback: ScriptedLlm | None) -> None:
        broken = ScriptedLlm(lambda request: (ProviderError("scripted", "broke"),))
        async with pilot(llm=broken, fallback=fallback, audio=False, observer=kept.see, sent=kept.sent) as client:
            client.write("Hello?")
            await client.until(ReplyFinished)

    run_virtual(scenario(None))
    assert [row[5] for row in kept.rows] == [""]
    run_virtual(scenario(ScriptedLlm()))
    assert kept.rows[-1][5] == "fallback"


# -- what plugins hide


def hooked(hide: Callable[[str], str | None]) -> SessionHooks:
    class Plugin:
        @hookimpl
        def before_storage(self, text: str) -> str | None:
            return hide(text)

    plugins = Plugins()
    assert plugins.add("hides", Plugin)
    return Hooks(plugins, now=lambda: 0.0).session("ses_1")


def entry_of(*messages: Message, tools: tuple[ToolSchema, ...] = (), reply_id: str = "r1") -> Entry:
    entry = Entry("t1", reply_id, "Hi.")
    entry.sent.append(Sent(LlmRequest(messages, tools), 5, "guide"))
    return entry


def begun() -> Kept:
    kept = Kept()
    started = SessionStarted(agent="guide", input_rate=1, output_rate=1, seq=1, at=1, session_id="ses_1")
    kept.recorder.on_event("ses_1", started, encode(started))
    return kept


CALL = ToolCall("c1", "book", '{"card": "1234", "n": 1234}')
TALK = (
    Message("system", "Never say 1234."),
    Message("user", "My number is 1234."),
    Message("assistant", "", tool_calls=(CALL,)),
    Message("tool", '{"paid": "with 1234"}', tool_call_id="c1"),
)


def test_every_text_passes_the_filter() -> None:
    kept = begun()
    tools = (ToolSchema("book", "Books with 1234.", {"type": "object"}),)
    kept.log.keep("ses_1", hooked(lambda text: text.replace("1234", "[number]")), entry_of(*TALK, tools=tools))
    (row,) = kept.rows
    assert "1234" not in row[6] + row[7]
    assert kept.messages() == [
        {"role": "system", "content": "Never say [number]."},
        {"role": "user", "content": "My number is [number]."},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "name": "book", "arguments": '{"card":"[number]","n":"[number]"}'}],
        },
        {"role": "tool", "content": '{"paid":"with [number]"}', "tool_call_id": "c1"},
    ]
    assert json.loads(row[7])[0]["description"] == "Books with [number]."


def test_what_the_filter_fails_on_is_not_stored() -> None:
    def broken(text: str) -> str:
        raise ValueError(text)

    kept = begun()
    kept.log.keep("ses_1", hooked(broken), entry_of(*TALK, tools=(ToolSchema("book", "Books.", {}),)))
    assert "1234" not in kept.rows[0][6]
    assert "book" not in kept.rows[0][7].lower()
    assert [message["content"] for message in kept.messages()] == ["", "", "", '{"":""}']


def test_of_what_was_cut_off_only_whole_sentences_are_stored() -> None:
    kept = begun()
    cut = Message("assistant", "It is paid. Your number is 12... [interrupted by the user]")
    kept.log.keep("ses_1", hooked(lambda text: text.replace("1234", "[number]")), entry_of(cut))
    assert kept.messages() == [{"role": "assistant", "content": "It is paid.... [interrupted by the user]"}]


def test_a_history_is_not_filtered_again_for_each_reply() -> None:
    asked: list[str] = []
    hooks = hooked(lambda text: asked.append(text))
    kept = begun()
    for number in range(20):
        history = [Message("user", f"text {n}") for n in range(number + 1)]
        kept.log.keep("ses_1", hooks, entry_of(*history, reply_id=f"r{number}"))
    assert sorted(text for text in asked if text != "[]") == sorted(f"text {n}" for n in range(20))
    assert [message["content"] for message in kept.messages()] == [f"text {n}" for n in range(20)]


@pytest.mark.parametrize("text", ["a\ud800b", "\0", "<script>alert(1)</script>", "x" * 1000])
def test_any_text_is_stored(text: str) -> None:
    kept = begun()
    kept.log.keep("ses_1", Hooks(Plugins()).session("ses_1"), entry_of(Message("user", text)))
    assert kept.messages()[0]["content"] == text.replace("\ud800", "?")


def test_what_is_no_json_or_too_large_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    kept = begun()
    hooks = Hooks(Plugins()).session("ses_1")
    kept.log.keep("ses_1", hooks, entry_of(tools=(ToolSchema("odd", "", {"type": object()}),)))
    kept.log.keep("ses_1", hooks, entry_of(Message("user", "x" * 2_000_000)))
    assert kept.rows == []
    assert "cannot be stored" in caplog.text
    assert "too large" in caplog.text


def test_after_the_end_of_a_session_nothing_is_kept() -> None:
    kept = Kept()
    kept.log.keep("ses_gone", Hooks(Plugins()).session("ses_gone"), entry_of(Message("user", "Hi.")))
    assert kept.rows == []


def test_an_interrupted_reply_is_kept_too() -> None:
    kept = Kept()
    llm = ScriptedLlm(lambda request: tuple(f"This is sentence {n}. " for n in range(30)))

    async def scenario() -> None:
        async with pilot(llm=llm, reports=True, observer=kept.see, sent=kept.sent) as client:
            client.write("Go on.")
            await asyncio.sleep(2)
            await client.turn(1200, 2000)
            assert client.events(Interruption)
            assert client.events(ReplyFinished)[0].reason == "interrupted"
            assert kept.rows[0][0] == client.events(ReplyFinished)[0].reply_id

    run_virtual(scenario())
