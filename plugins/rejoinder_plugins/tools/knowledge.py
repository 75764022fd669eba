"""The tool `knowledge`: answers from documents that an operator added (`rejoinder knowledge add`)."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from rejoinder.errors import StoreError, ToolError
from rejoinder.hookspecs import hookimpl
from rejoinder.providers import Tool, ToolContext, ToolSource

if TYPE_CHECKING:
    from rejoinder.app import Runtime
    from rejoinder.store.knowledge import Found

NAME = "knowledge"
NOTHING = "Nothing about this was found in the documents."
_SENTENCE = re.compile(r"(?<=[.!?…])\s+|\n")
_LEAST = 200
"""Characters that each passage gets."""
_STEM = 5
"""Letters by which two forms of a word are taken for the same one, to find the best sentences of a passage."""
log = logging.getLogger(__name__)


class KnowledgeSettings(msgspec.Struct, forbid_unknown_fields=True):
    """What is searched, and how much of it the model is told.

    `about` completes "Looks up what the documents say about ...". `collections` are those that agents may search
    (None: all), `agents` has those of single agents, by their names.
    """

    about: str = "the questions of the user"
    collections: list[str] | None = None
    agents: dict[str, list[str]] = {}
    passages: Annotated[int, msgspec.Meta(ge=1, le=20)] = 3
    characters: Annotated[int, msgspec.Meta(ge=200, le=8000)] = 1500


class KnowledgeTools:
    """One tool, always there."""

    def __init__(self, settings: KnowledgeSettings, runtime: Runtime | None) -> None:
        self._settings = settings
        self._runtime = runtime
        properties: dict[str, Any] = {
            "query": {"type": "string", "description": "What to look for: a question, or the words that matter."}
        }
        # The model is only asked to choose where there is a choice; it cannot know names that nobody wrote down.
        named = sorted({name for names in (settings.collections or (), *settings.agents.values()) for name in names})
        if len(named) > 1:
            properties["collection"] = {
                "type": "string",
                "enum": named,
                "description": "Where to look; leave it out to look everywhere.",
            }
        self._tools = {
            NAME: Tool(
                name=NAME,
                description=f"Looks up what the documents say about {settings.about}.",
                run=self.run,
                parameters={
                    "type": "object",
                    "properties": properties,
                    "required": ["query"],
                    "additionalProperties": False,
                },
                side_effects=False,
            )
        }

    async def start(self) -> None:
        """Nothing to look for."""

    def tools(self) -> Mapping[str, Tool]:
        """The tool."""
        return self._tools

    def expects(self, name: str) -> bool:
        """Whether `name` is the tool's."""
        return name == NAME

    async def close(self) -> None:
        """Nothing to free."""

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> str:
        """The passages that fit best, numbered, each with its title; or that there are none.

        Raises:
            ToolError: the arguments are wrong, the collection is none of the agent's, or the database fails.
        """
        from rejoinder.store.knowledge import Knowledge

        query, collection = arguments.get("query"), arguments.get("collection")
        if not isinstance(query, str) or not query.strip():
            raise ToolError('Give what to look for as "query", for example {"query": "opening hours"}.')
        if self._runtime is None:
            raise ToolError("The documents cannot be searched here.")
        allowed = self._allowed(context.session_id)
        if collection:
            if not isinstance(collection, str) or (allowed is not None and collection not in allowed):
                names = ", ".join(allowed or ()) or "none"
                raise ToolError(f"There is no such collection; there are: {names}. It may be left out.")
            allowed = [collection]
        try:
            found = await Knowledge(self._runtime.store).search(
                query, collections=allowed, limit=self._settings.passages
            )
        except StoreError as error:
            log.warning("the documents cannot be searched: %s", error.explain())
            raise ToolError("The documents cannot be searched at the moment.") from error
        return told(found, query, self._settings.characters) if found else NOTHING

    def _allowed(self, session_id: str) -> Sequence[str] | None:
        """The collections that the session's agent may search; None: all."""
        session = self._runtime.sessions.get(session_id) if self._runtime is not None else None
        if session is not None and session.chosen.name in self._settings.agents:
            return self._settings.agents[session.chosen.name]
        return self._settings.collections


@hookimpl
def register_tool_sources(runtime: Any) -> list[ToolSource]:
    """The tool as a source, because it searches the running server's database."""
    summary = "what the documents say that were added with `rejoinder knowledge add`"
    return [ToolSource(NAME, summary, lambda settings: KnowledgeTools(settings, runtime), KnowledgeSettings)]


def told(found: Sequence[Found], query: str, characters: int) -> str:
    """What the model is told of `found`, at most `characters` long: the best first, of each what fits `query` best."""
    lines: list[str] = []
    left = characters
    # Fewer that say something are better than many that are cut to their titles.
    found = found[: max(1, characters // _LEAST)]
    for number, passage in enumerate(found, 1):
        under = f" / {passage.heading}" if passage.heading not in ("", passage.title) else ""
        head = f"{number}. {passage.title}{under}"[: _LEAST // 2] + ": "
        # What a short one leaves, those after it may use.
        room = left // (len(found) - number + 1) - len(head) - 1
        line = head + excerpt(passage.text, query, room)
        lines.append(line)
        left -= len(line) + 1
    return "\n".join(lines)


def excerpt(text: str, query: str, size: int) -> str:
    """The sentences of `text`, in a row, that have most of the words of `query`, in at most `size` characters."""
    from rejoinder.store.passages import query_words, words_of

    if len(text) <= size:
        return text
    wanted = {word[:_STEM] for word in query_words(query)}
    sentences = [sentence for sentence in _SENTENCE.split(text) if sentence]
    has = [wanted & {word[:_STEM] for word in words_of(sentence)} for sentence in sentences]
    best, most = "", -1
    for first in range(len(sentences)):
        piece, words = "", set[str]()
        for sentence, its in zip(sentences[first:], has[first:], strict=True):
            if piece and len(piece) + 1 + len(sentence) > size:
                break
            piece, words = f"{piece} {sentence}".strip(), words | its
        if len(words) > most:
            best, most = piece, len(words)
    return best if len(best) <= size else best[: size - 1] + "…"
