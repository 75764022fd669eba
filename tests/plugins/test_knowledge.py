"""The tool `knowledge`: what the model is told, of which collections, and in a whole session."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rejoinder.app import Runtime
from rejoinder.errors import StoreError, ToolError
from rejoinder.events import ReplyFinished, ServerEvent, ToolCalled, ToolReturned
from rejoinder.providers import LlmDelta, LlmRequest, ToolCall, ToolContext
from rejoinder.settings import Agent, Settings
from rejoinder.store import schema
from rejoinder.store.knowledge import Found, Knowledge
from rejoinder.store.store import Store
from rejoinder.testing.scripted import ScriptedLlm
from rejoinder_plugins.tools.knowledge import NOTHING, KnowledgeSettings, KnowledgeTools, excerpt, told

RETURNS = "Shoes can be returned within 30 days. Bring the receipt."


def found(text: str, *, title: str = "Returns", heading: str = "") -> Found:
    return Found(
        document_id="doc_1",
        collection="default",
        title=title,
        source=None,
        position=0,
        heading=heading,
        text=text,
        score=1.0,
    )


def test_passages_are_numbered_with_their_titles() -> None:
    passages = [found("One."), found("Two.", heading="Refunds"), found("Three.", heading="Returns")]
    assert told(passages, "x", 1500) == "1. Returns: One.\n2. Returns / Refunds: Two.\n3. Returns: Three."


def test_of_a_long_passage_the_sentences_that_fit_are_told() -> None:
    sentences = [f"Sentence number {number} is here to fill the page." for number in range(20)]
    sentences[12] = "Returning shoes is free."
    text = " ".join(sentences)
    assert excerpt(text, "returned shoes", 60) == "Returning shoes is free."
    assert "Returning shoes is free." in excerpt(text, "returned shoes", 200)
    assert excerpt(text, "nothing of it", 100) == " ".join(sentences[:2])
    assert excerpt("x" * 100, "x", 50) == "x" * 49 + "…"
    assert excerpt("Short.", "x", 50) == "Short."


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=900), min_size=1, max_size=20), st.text(max_size=300), st.integers(200, 2000))
def test_it_never_says_more_than_it_may(texts: list[str], query: str, characters: int) -> None:
    said = told([found(text, title=query) for text in texts], query, characters)
    assert len(said) <= characters
    assert said.startswith("1. ")


def test_its_settings_are_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    section = page.split("### knowledge\n")[1].split("###")[0]
    for field in msgspec.structs.fields(KnowledgeSettings):
        assert f"| `{field.name}` |" in section


def test_the_model_may_only_choose_where_there_is_a_choice() -> None:
    def properties(**options: Any) -> dict[str, Any]:
        settings = msgspec.convert(options, KnowledgeSettings)
        (tool,) = KnowledgeTools(settings, None).tools().values()
        assert not tool.side_effects
        return dict(tool.parameters["properties"])

    assert set(properties()) == {"query"}
    assert set(properties(collections=["menu"])) == {"query"}
    both = properties(collections=["menu"], agents={"host": ["shop", "menu"]})
    assert both["collection"]["enum"] == ["menu", "shop"]


@asynccontextmanager
async def filled(path: Path) -> AsyncIterator[Store]:
    url = f"sqlite+aiosqlite:///{path}/test.db"
    await schema.upgrade(schema.parse_url(url))
    store = Store(url)
    await store.open()
    try:
        knowledge = Knowledge(store)
        await knowledge.add("Returns", RETURNS, collection="shop")
        await knowledge.add("Menu", "Shoe pastry costs five euros.", collection="menu")
        yield store
    finally:
        await store.close()


def test_an_agent_gets_its_own_collections_and_no_others(tmp_path: Path) -> None:
    async def main() -> None:
        async with filled(tmp_path) as store:
            sessions = {
                name: SimpleNamespace(chosen=SimpleNamespace(name=name)) for name in ("waiter", "mute", "other")
            }
            runtime = cast(Runtime, SimpleNamespace(store=store, sessions=sessions))

            async def ask(session_id: str, collections: list[str] | None = None, **arguments: Any) -> str:
                options = KnowledgeSettings(collections=collections, agents={"waiter": ["menu"], "mute": []})
                return await KnowledgeTools(options, runtime).run(arguments, ToolContext(session_id))

            assert await ask("other", query="shoe receipt") == (
                f"1. Returns: {RETURNS}\n2. Menu: Shoe pastry costs five euros."
            )
            assert await ask("waiter", query="shoe") == "1. Menu: Shoe pastry costs five euros."
            assert await ask("waiter", ["shop"], query="shoe") == "1. Menu: Shoe pastry costs five euros."
            assert await ask("other", ["shop"], query="shoe") == f"1. Returns: {RETURNS}"
            assert await ask("outside of any session", ["shop"], query="shoe") == f"1. Returns: {RETURNS}"
            assert await ask("mute", query="shoe") == NOTHING
            assert await ask("other", query="whale") == NOTHING
            assert await ask("other", query="shoe", collection="menu") == "1. Menu: Shoe pastry costs five euros."
            assert await ask("waiter", query="shoe", collection="") == "1. Menu: Shoe pastry costs five euros."
            for collection in ("shop", "nowhere", 7, ["menu"]):
                with pytest.raises(ToolError, match="there are: menu"):
                    await ask("waiter", query="shoe", collection=collection)
            for query in (None, "", "  ", 7, ["x"]):
                with pytest.raises(ToolError, match='as "query"'):
                    await ask("other", query=query)
            with pytest.raises(ToolError, match="cannot be searched here"):
                await KnowledgeTools(KnowledgeSettings(), None).run({"query": "x"}, ToolContext("x"))

    asyncio.run(main())


def test_a_database_that_fails_is_told_without_its_details(tmp_path: Path) -> None:
    async def main() -> None:
        async with filled(tmp_path) as store:
            pass
        runtime = cast(Runtime, SimpleNamespace(store=store, sessions={}))
        with pytest.raises(ToolError, match="cannot be searched at the moment") as raised:
            await KnowledgeTools(KnowledgeSettings(), runtime).run({"query": "shoes"}, ToolContext("x"))
        assert isinstance(raised.value.__cause__, StoreError)

    asyncio.run(main())


def looks_up(collection: str | None) -> Callable[[LlmRequest], Iterable[LlmDelta]]:
    """A model that asks the tool what the user asks, and says what the tool answers."""

    def script(request: LlmRequest) -> Iterable[LlmDelta]:
        last = request.messages[-1]
        if last.role == "tool":
            return (f"They say: {last.content}",)
        arguments = {"query": last.content, **({"collection": collection} if collection else {})}
        return (ToolCall("call_1", "knowledge", json.dumps(arguments)),)

    return script


@pytest.mark.parametrize(
    ("asked", "collection", "status", "said"),
    [
        ("Can I return my shoes?", None, "ok", f"They say: 1. Returns: {RETURNS}"),
        ('Where is "the whale" OR *?', None, "ok", f"They say: {NOTHING}"),
        ("What does pastry cost?", None, "ok", f"They say: {NOTHING}"),
        ("What does pastry cost?", "menu", "failed", "They say: There is no such collection; there are: shop."),
    ],
)
def test_a_session_answers_from_the_documents(
    tmp_path: Path, asked: str, collection: str | None, status: str, said: str
) -> None:
    agent = Agent(
        vad="scripted", stt=("scripted",), llm=("scripted",), tts=("scripted",), tools=("knowledge",), greeting=""
    )

    async def main() -> None:
        async with filled(tmp_path):
            pass
        options = Settings(
            database_url=f"sqlite+aiosqlite:///{tmp_path}/test.db",
            default_agent="clerk",
            agents={"clerk": agent},
            plugins={"knowledge": {"about": "returns", "agents": {"clerk": ["shop"]}}},
        )
        async with Runtime(options) as runtime:
            llm = cast(ScriptedLlm, await runtime.provider("llm", "scripted"))
            llm.script = looks_up(collection)
            session = await runtime.start_session(None)
            events: list[ServerEvent] = []
            finished = asyncio.Event()

            def see(event: ServerEvent, data: bytes) -> None:
                events.append(event)
                if isinstance(event, ReplyFinished):
                    finished.set()

            session.watch(see, present=True)
            session.write(asked)
            async with asyncio.timeout(20):
                await finished.wait()
        schema_of_tool = llm.requests[0].tools[0]
        assert (schema_of_tool.name, schema_of_tool.description) == (
            "knowledge",
            "Looks up what the documents say about returns.",
        )
        assert [event.name for event in events if isinstance(event, ToolCalled)] == ["knowledge"]
        (returned,) = [event for event in events if isinstance(event, ToolReturned)]
        assert returned.status == status
        (reply,) = [event for event in events if isinstance(event, ReplyFinished)]
        assert reply.text.startswith(said)

    asyncio.run(main())
