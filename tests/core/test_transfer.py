"""A conversation is transferred to another agent: who answers, with which history, and what the user hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from rejoinder.events import AgentChanged, ReplyFinished, ReplyStarted, ToolReturned
from rejoinder.providers import LlmDelta, LlmRequest, ToolCall
from rejoinder.settings import Agent
from rejoinder.testing.pilot import pilot
from rejoinder.testing.scripted import ScriptedLlm
from rejoinder.testing.virtual_time import run_virtual
from rejoinder_plugins.tools.transfer import TRANSFER, fit

DESK = Agent(instructions="You are the desk.", transfers=("billing",))
BILLING = Agent(instructions="You are billing.", greeting="Billing here.")


def transferring(name: str) -> ScriptedLlm:
    def script(request: LlmRequest) -> Iterable[LlmDelta]:
        if request.messages[-1].role == "tool":
            yield "I put you through. "
        else:
            yield ToolCall("c1", "transfer", f'{{"agent": "{name}"}}')

    return ScriptedLlm(script)


def test_the_other_agent_greets_and_answers_with_the_whole_history() -> None:
    async def main() -> None:
        billing = ScriptedLlm(lambda request: ("Your bill is paid.",))
        desk = transferring("billing")
        async with pilot(agent=DESK, llm=desk, tools=[TRANSFER], others={"billing": (BILLING, billing)}) as user:
            user.write("my bill, please")
            await user.until(AgentChanged)
            (changed,) = user.events(AgentChanged)
            assert (changed.agent, changed.former) == ("billing", "pilot")
            heard = [event.heard_text for event in user.events(ReplyFinished)]
            assert heard == ["I put you through."], "first the old one ends what it says"
            await user.until(ReplyFinished, 2)
            assert user.events(ReplyFinished)[1].heard_text == "Billing here."
            user.write("is it paid?")
            await user.until(ReplyFinished, 3)
            asked = billing.requests[-1].messages
            assert asked[0].content.startswith("You are billing.")
            assert [message.content for message in asked if message.role == "user"] == [
                "my bill, please",
                "is it paid?",
            ]
            assert "I put you through." in [message.content for message in asked if message.role == "assistant"]
            assert len(desk.requests) == 2

    run_virtual(main())


def test_an_interrupted_transfer_takes_place_without_a_greeting() -> None:
    async def main() -> None:
        billing = ScriptedLlm(lambda request: ("Here I am.",))
        async with pilot(
            agent=DESK, llm=transferring("billing"), tools=[TRANSFER], others={"billing": (BILLING, billing)}
        ) as user:
            user.write("my bill, please")
            await user.until(ToolReturned)
            user.write("quick!")
            await user.until(ReplyFinished, 2)
            assert user.events(ReplyFinished)[1].heard_text == "Here I am."
            texts = [event.text for event in user.events(ReplyFinished)]
            assert "Billing here." not in texts

    run_virtual(main())


def test_only_those_named_can_take_over() -> None:
    async def main() -> None:
        for name, why in (("boss", "You can to: billing"), ("billing", "cannot take over now")):
            async with pilot(agent=DESK, llm=transferring(name), tools=[TRANSFER]) as user:
                user.write("the boss, please")
                await user.until(ReplyFinished)
                (returned,) = user.events(ToolReturned)
                assert returned.status == "failed"
                assert why in returned.result
                assert not user.events(AgentChanged)

    run_virtual(main())


def test_the_model_is_told_whom_it_can_transfer_to() -> None:
    assert fit(DESK).parameters["properties"]["agent"]["enum"] == ["billing"]


def test_the_other_agent_does_not_greet_over_the_users_words() -> None:
    async def main() -> None:
        billing = ScriptedLlm(lambda request: ("Here I am.",))
        async with pilot(
            agent=DESK, llm=transferring("billing"), tools=[TRANSFER], others={"billing": (BILLING, billing)}
        ) as user:
            user.write("my bill, please")
            await user.until(ReplyStarted)
            await user.pause(200)
            await user.turn(speech_ms=2000)
            await user.until(ReplyFinished, 2)
            finished = user.events(ReplyFinished)
            assert [event.reason for event in finished] == ["interrupted", "completed"]
            assert finished[1].heard_text == "Here I am."

    run_virtual(main())


def test_of_two_transfers_the_last_counts() -> None:
    async def main() -> None:
        def script(request: LlmRequest) -> Iterable[LlmDelta]:
            if request.messages[-1].role == "tool":
                yield "I put you through. "
            else:
                yield ToolCall("c1", "transfer", '{"agent": "slow"}')
                yield ToolCall("c2", "transfer", '{"agent": "billing"}')

        desk = Agent(transfers=("slow", "billing"))
        answers = ScriptedLlm(lambda request: ("Yes.",))
        others = {"slow": (Agent(), answers), "billing": (BILLING, answers)}
        async with pilot(agent=desk, llm=ScriptedLlm(script), tools=[TRANSFER], others=others) as user:
            choose = user.session._host.choose

            async def slowly(name: str) -> object:
                await asyncio.sleep(0.5 if name == "slow" else 0)
                return await choose(name)

            object.__setattr__(user.session._host, "choose", slowly)
            user.write("both")
            await user.until(AgentChanged)
            assert [event.agent for event in user.events(AgentChanged)] == ["billing"]

    run_virtual(main())
