"""LLM provider `guide`: a small, openly rule-based brain for the first minute, in front of another LLM."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing

import msgspec

from rejoinder.errors import ConfigError, MissingDependency, MissingModel, RejoinderError
from rejoinder.hookspecs import hookimpl
from rejoinder.ids import new_id
from rejoinder.providers import (
    Capabilities,
    LlmDelta,
    LlmProvider,
    LlmRequest,
    Message,
    Prefilling,
    Provider,
    ProviderContext,
    ToolCall,
)
from rejoinder.settings import Agent, TurnPolicy
from rejoinder_plugins.llm.guide.rules import Reply, reply_to

log = logging.getLogger(__name__)

NO_ANSWER = (
    "Sorry, I can not answer that. I am a small demo made of rules, without a language model behind me. "
    "To plug in a real one, set the agent's llm to openai or llamacpp in the settings."
)
GREETING = "I am here. What can I do for you?"
_WORDS_PER_DELTA = 3


class GuideSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`fallback` is the LLM provider that gets what no rule matches; None: nobody does."""

    fallback: str | None = "llamacpp"


AGENT = Agent(
    instructions=(
        "You are the voice of Rejoinder, a platform for real-time voice agents. You speak aloud: answer in one short, "
        "plain sentence, without lists or markup."
    ),
    turns=TurnPolicy(nudge_after_ms=30_000),
)


@hookimpl
def register_agents() -> Mapping[str, Agent]:
    """The agent that there is before any is defined; its providers are the defaults."""
    return {"guide": AGENT}


@hookimpl
def register_providers() -> list[Provider]:
    """The guide."""
    capabilities = Capabilities(streaming=True, languages=("en",))
    return [Provider("llm", "guide", "rule-based demo, hands over to another LLM", Guide, GuideSettings, capabilities)]


class Guide:
    """Answers by rules (see `rules.RULES`) as a stream of a few words at a time, with tools like any LLM.

    Raises:
        ConfigError: its fallback is the guide itself.
    """

    def __init__(self, context: ProviderContext) -> None:
        if context.settings.fallback == "guide":
            raise ConfigError(
                "The guide can not be its own fallback.",
                fix="set fallback in [plugins.guide] to another LLM provider, e.g. llamacpp, or to none at all.",
            )
        self._context = context
        self._fallback_name: str | None = context.settings.fallback
        self._fallback: LlmProvider | None = None

    async def warm_up(self) -> None:
        """Warm the fallback; one that is not installed or whose model was never fetched is done without.

        Raises:
            ConfigError: it is wrongly configured.
        """
        if self._fallback_name is None:
            return
        try:
            fallback = self._context.llm(self._fallback_name)
            await fallback.warm_up()
        except (MissingModel, MissingDependency) as error:
            log.warning("the guide does without its fallback %r: %s", self._fallback_name, error.explain())
            self._fallback_name = None
        else:
            self._fallback = fallback

    async def stream(self, request: LlmRequest) -> AsyncGenerator[LlmDelta, None]:
        """The answer of the first rule that matches what the user said last, else the fallback's."""
        messages = request.messages
        if messages and messages[-1].role == "tool":
            for piece in _pieces(_after_tool(messages)):
                yield piece
            return
        if not messages or messages[-1].role != "user":
            for piece in _pieces(GREETING):
                yield piece
            return
        reply = _reply(messages)
        if reply is None:
            async with aclosing(self._hand_over(request)) as deltas:
                async for delta in deltas:
                    yield delta
            return
        offered = not reply.tool or reply.tool in {tool.name for tool in request.tools}
        for piece in _pieces(reply.say if offered else reply.without):
            yield piece
        if reply.tool and offered:
            yield ToolCall(new_id("call"), reply.tool, json.dumps(reply.arguments))

    async def prefill(self, request: LlmRequest) -> None:
        """Let the fallback read the prompt ahead, if it can and no rule answers what was said so far."""
        messages = request.messages
        if not messages or messages[-1].role != "user" or not isinstance(self._fallback, Prefilling):
            return
        if not messages[-1].content.strip() or _reply(messages) is None:
            await self._fallback.prefill(_without_tools(request))

    async def close(self) -> None:
        """Let go of the fallback; the process that made it closes it."""
        self._fallback = None

    async def _hand_over(self, request: LlmRequest) -> AsyncGenerator[str, None]:
        spoke = False
        try:
            if self._fallback is None and self._fallback_name is not None:
                self._fallback = self._context.llm(self._fallback_name)
            if self._fallback is not None:
                plain = _without_tools(request)
                async with aclosing(self._fallback.stream(plain)) as deltas:
                    async for delta in deltas:
                        if isinstance(delta, str) and delta:
                            spoke = True
                            yield delta
        except RejoinderError as error:
            if spoke:
                raise
            log.warning("the guide's fallback %r failed: %s", self._fallback_name, error.explain())
        if not spoke:
            for piece in _pieces(NO_ANSWER):
                yield piece


def _reply(messages: tuple[Message, ...]) -> Reply | None:
    """The reply to the user messages that end `messages`.

    Several in a row mean that the user went on after an interruption: the last one is read alone first (it may be a
    new wish), then all of them as one sentence.
    """
    first = len(messages)
    while first and messages[first - 1].role == "user":
        first -= 1
    last = len(messages) - 1
    reply = reply_to(messages[last].content, messages[:last])
    if reply is None and first < last:
        together = " ".join(message.content.strip() for message in messages[first:])
        reply = reply_to(together, messages[:first])
    return reply


def _after_tool(messages: tuple[Message, ...]) -> str | tuple[str, ...]:
    """What is said once a tool has returned; the rule that called it is found again from what the user had said."""
    result = messages[-1]
    name = next(
        (call.name for message in messages for call in message.tool_calls if call.id == result.tool_call_id), ""
    )
    last = max((at for at, message in enumerate(messages) if message.role == "user"), default=-1)
    reply = _reply(messages[: last + 1]) if last >= 0 else None
    if name == "end_call":
        return ""
    if reply is not None and reply.tool == name:
        return reply.then(result.content)
    return result.content


def _without_tools(request: LlmRequest) -> LlmRequest:
    messages = tuple(
        Message(message.role, message.content)
        for message in request.messages
        if message.role != "tool" and (message.content or message.role != "assistant")
    )
    return LlmRequest(messages, (), request.max_tokens, request.temperature)


def _pieces(text: str | tuple[str, ...]) -> Iterator[str]:
    """`text` a few words at a time, as an LLM streams; the pieces join to the text."""
    if isinstance(text, tuple):
        yield from text
        return
    words = re.findall(r"\s*\S+\s*", text)
    for start in range(0, len(words), _WORDS_PER_DELTA):
        yield "".join(words[start : start + _WORDS_PER_DELTA])
