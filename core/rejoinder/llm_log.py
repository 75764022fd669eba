"""The log of what LLMs were sent: each request of a reply that has been given, as plugins let it be stored."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from rejoinder.events import encodable
from rejoinder.hooks import SessionHooks
from rejoinder.journal import Entry, Sent, without_note
from rejoinder.providers import Message
from rejoinder.store.recorder import Recorder
from rejoinder.store.records import LlmSent

log = logging.getLogger(__name__)
_SENTENCE_ENDS = (". ", "! ", "? ", "。", "！", "？")

_Hide = Callable[[str, bool], str]
"""`hide(text, is_json)`: the text as it may be stored."""


class LlmLog:
    """Hands what was sent for a reply over to `recorder()`; nothing of it can hurt the conversation."""

    def __init__(self, recorder: Callable[[], Recorder]) -> None:
        self._recorder = recorder
        self._hidden: WeakKeyDictionary[SessionHooks, dict[str, str]] = WeakKeyDictionary()

    def keep(self, session_id: str, hooks: SessionHooks, entry: Entry) -> None:
        """Record what the LLM was sent for the reply of `entry`, which has just finished."""
        try:
            hide = self._hider(hooks)
            rows = [as_stored(one, hide) for one in entry.sent]
        except Exception:
            # A plugin may have put anything at all into a request.
            log.exception("what the LLM was sent for %s cannot be stored", entry.reply_id)
            return
        self._recorder().llm_requests(session_id, entry.turn_id, entry.reply_id, rows)

    def _hider(self, hooks: SessionHooks) -> _Hide:
        if not hooks.changes_storage:
            return lambda text, is_json: encodable(text)
        # A history grows by a few texts with each reply: those of the last one are not filtered again.
        before = self._hidden.get(hooks, {})
        known = self._hidden[hooks] = {}

        def hide(text: str, is_json: bool) -> str:
            found = known.get(text) or before.get(text) or _hidden(hooks, encodable(text), is_json)
            known[text] = found
            return found

        return hide


def _hidden(hooks: SessionHooks, text: str, is_json: bool) -> str:
    said = without_note(text)
    if said == text:
        return hooks.stored_text(text, is_json=is_json)
    # It was cut off, maybe in the middle of what is to be hidden: only whole sentences are sure not to be.
    whole = said[: max((said.rfind(end) + 1 for end in _SENTENCE_ENDS), default=0)]
    return hooks.stored_text(whole) + text[len(said) :]


def as_stored(sent: Sent, hide: _Hide) -> LlmSent:
    """`sent` as it is stored, each of its texts as `hide` gives it."""
    request = sent.request
    tools = hide(msgspec.json.encode(request.tools).decode(), True) or "[]"
    messages = msgspec.json.encode([_message(message, hide) for message in request.messages]).decode()
    return LlmSent(sent.at, sent.provider, messages, tools, request.max_tokens, request.temperature)


def _message(message: Message, hide: _Hide) -> dict[str, Any]:
    # What tools answer is JSON in most cases.
    plain: dict[str, Any] = {"role": message.role, "content": hide(message.content, message.role == "tool")}
    if message.tool_calls:
        plain["tool_calls"] = [
            {"id": encodable(call.id), "name": hide(call.name, False), "arguments": hide(call.arguments, True)}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        plain["tool_call_id"] = encodable(message.tool_call_id)
    return plain
