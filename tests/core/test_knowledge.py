"""Documents: cut into passages, found by what they say, whatever is asked; on each kind of database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from tests.linear import within

from rejoinder.errors import StoreError
from rejoinder.store import schema
from rejoinder.store.knowledge import MAX_CHARACTERS, Found, Knowledge
from rejoinder.store.passages import LONGEST, MOST_WORDS, OVERLAP, Passage, clean, query_words, split, words_of
from rejoinder.store.store import Store

SHOP = {
    "Returns": (
        "# Returns\n\nShoes can be returned within 30 days. Bring the receipt and the box.\n\n"
        "## Refunds\n\nMoney is refunded to the card that was used, within a week."
    ),
    "Opening hours": "The shop is open from nine to six. On Sundays it is closed.",
    "Café": "Crème brûlée costs five euros. Call 1-800-555 to reserve a table.",
    "Shipping": "We ship to Europe and Canada. A parcel takes five days and is insured.",
}


def at(url: str, work: Callable[[Knowledge], Awaitable[None]]) -> None:
    """Do `work` with the documents in the database at `url`, which is made."""

    async def main() -> None:
        await schema.upgrade(schema.parse_url(url))
        store = Store(url)
        await store.open()
        try:
            await work(Knowledge(store))
        finally:
            await store.close()

    asyncio.run(main())


async def fill(knowledge: Knowledge, collection: str = "shop") -> None:
    for title, content in SHOP.items():
        await knowledge.add(title, content, collection=collection, source=f"{title}.md")


# --- passages -------------------------------------------------------------------------------------------------


def test_a_short_text_is_one_passage_and_headings_make_more() -> None:
    assert split("One. Two.\nThree.\n\nFour.") == [Passage("", "One. Two. Three.\nFour.")]
    assert split(SHOP["Returns"]) == [
        Passage("Returns", "Shoes can be returned within 30 days. Bring the receipt and the box."),
        Passage("Refunds", "Money is refunded to the card that was used, within a week."),
    ]
    assert split("before\n# A #\n# B\nafter") == [Passage("", "before"), Passage("A", "A"), Passage("B", "after")]
    assert split("```\n# a comment\n```\nText.") == [Passage("", "# a comment Text.")]
    assert split(" \n\n\t") == []


def test_long_texts_are_cut_at_paragraphs_then_at_sentences_which_overlap() -> None:
    paragraph = " ".join(f"This is sentence number {number:03} of it." for number in range(17))
    first, second, third = split(f"{paragraph}\n\n{paragraph}\n\n{paragraph}")
    assert first.text == second.text == third.text == paragraph

    long = " ".join(f"This is sentence number {number:03} of it." for number in range(60))
    passages = [passage.text for passage in split(long)]
    assert len(passages) == 3
    for before, after in pairwise(passages):
        assert 600 <= len(before) <= LONGEST
        assert before.rpartition(". ")[2] == after.partition(". ")[0] + "."
        assert len(before.rpartition(". ")[2]) <= OVERLAP


def test_a_sentence_without_end_is_cut_at_words_and_a_word_without_end_anyhow() -> None:
    passages = split("word " * 400)
    assert [len(passage.text) <= LONGEST for passage in passages] == [True] * len(passages)
    assert " ".join(passage.text for passage in passages).split() == ["word"] * 400
    assert [len(passage.text) for passage in split("x" * 2000)] == [900, 900, 200]


documents = st.lists(
    st.one_of(
        st.sampled_from(["\n", "\n\n", "# ", "## Heading\n", "```", ". ", "! ", "\r\n", "\x00", "\u2028", " "]),
        st.text(max_size=20),
        st.text("ab .", min_size=100, max_size=1500),
    ),
    max_size=30,
).map("".join)


@settings(max_examples=200, deadline=None)
@given(documents)
def test_no_word_is_lost_and_no_passage_too_long(document: str) -> None:
    passages = split(document)
    assert all(0 < len(passage.text) <= LONGEST for passage in passages)
    kept = [word for passage in passages for part in passage for word in words_of(part)]
    if all(len(word) < LONGEST for word in clean(document).split()):
        assert set(words_of(clean(document))) <= set(kept)


@pytest.mark.parametrize(
    ("document", "passages"),
    [
        ("# a" + " " * 1_000_000 + "b", [Passage("a b", "a b")]),
        ("# " + "#" * 1_000_000 + "x", None),
        ("# a" + "# " * 500_000 + "b", None),
        ("." + '"' * 1_000_000 + "x", None),
        ("x" * 10_000_000, None),
    ],
    ids=["spaces", "hashes", "both", "quotes", "one word"],
)
def test_no_document_keeps_the_process_busy_for_long(document: str, passages: list[Passage] | None) -> None:
    with within():
        cut = split(document)
    assert passages is None or cut == passages
    assert all(0 < len(passage.text) <= LONGEST for passage in cut)


def test_no_pile_of_marks_keeps_the_process_busy_for_long() -> None:
    with within():
        assert words_of("Cafe" + "\u0301\u0323" * 2_000_000 + " crème") == ["cafe", "creme"]


def test_words_have_no_case_accents_or_punctuation() -> None:
    assert words_of("Crème BRÛLÉE, don't: 1-800!") == ["creme", "brulee", "don", "t", "1", "800"]
    assert words_of("Straße İstanbul ﬁne") == ["strasse", "istanbul", "fine"]
    assert words_of("नमस्ते दुनिया। สวัสดี 東京") == ["नमस्ते", "दुनिया", "สวัสดี", "東京"]
    assert words_of("👍 -- ***") == []


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters()))
def test_words_are_only_words(said: str) -> None:
    words = words_of(said)
    assert words_of(" ".join(words)) == words
    assert not set("".join(words)) & set("\"'\x00 *()^:-+&|!<>_\\")


def test_a_query_is_its_telling_words_each_once() -> None:
    assert query_words("What is the return policy for the RETURN of shoes?") == ["return", "policy", "shoes"]
    assert query_words("who are you") == ["who", "are", "you"]
    assert query_words("?!") == []
    assert len(query_words(" ".join(map(str, range(100))))) == MOST_WORDS


# --- searching ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "title", "heading"),
    [
        ("how do I return shoes?", "Returns", "Returns"),
        ("will I get my money back, a refund", "Returns", "Refunds"),
        ("are you open on sunday", "Opening hours", ""),
        ("do you ship to canada", "Shipping", ""),
        ("is my parcel insured", "Shipping", ""),
        ("creme brulee", "Café", ""),
        ("CAFE", "Café", ""),
        ("the number 800", "Café", ""),
        ("opening", "Opening hours", ""),
    ],
)
def test_the_passage_that_says_it_is_the_first(database_url: str, query: str, title: str, heading: str) -> None:
    async def work(knowledge: Knowledge) -> None:
        await fill(knowledge)
        found = await knowledge.search(query)
        assert (found[0].title, found[0].heading, found[0].source) == (title, heading, f"{title}.md")
        scores = [one.score for one in found]
        assert scores == sorted(scores, reverse=True)

    at(database_url, work)


def test_more_of_the_words_are_better_and_collections_and_limits_are_kept(database_url: str) -> None:
    async def work(knowledge: Knowledge) -> None:
        await fill(knowledge)
        await knowledge.add("Other shop", "Shoes are returned within 90 days.", collection="other")
        assert [one.title for one in await knowledge.search("shoes receipt box")] == ["Returns", "Other shop"]
        assert len(await knowledge.search("five shoes days", limit=2)) == 2
        assert await knowledge.search("five shoes days", limit=0) == []
        assert [one.title for one in await knowledge.search("shoes", collections=["other"])] == ["Other shop"]
        assert await knowledge.search("shoes", collections=["nothing", "' OR 1=1 --"]) == []
        assert await knowledge.search("shoes", collections=[]) == []
        assert await knowledge.search("whale") == []
        assert await knowledge.collections() == ["other", "shop"]

    at(database_url, work)


def test_the_same_source_replaces_and_what_was_said_before_is_not_found(database_url: str) -> None:
    async def work(knowledge: Knowledge) -> None:
        first = await knowledge.add("Menu", "We have soup. " * 200, source="menu.md")
        assert first.passages > 2
        elsewhere = await knowledge.add("Menu", "We have soup.", source="menu.md", collection="other")
        second = await knowledge.add("Our menu", "We have cake.", source="menu.md")
        assert (second.id, second.passages, second.title) == (first.id, 1, "Our menu")
        assert {one.document_id for one in await knowledge.search("soup")} == {elsewhere.id}
        assert [one.title for one in await knowledge.search("cake")] == ["Our menu"]
        assert await knowledge.document(first.id) == second
        # Without a source nothing is the same.
        unnamed = [await knowledge.add("Note", "We have tea.") for _ in range(2)]
        assert len({one.id for one in unnamed}) == 2
        assert len(await knowledge.search("tea")) == 2

    at(database_url, work)


def test_the_same_source_may_be_added_by_many_at_once(database_url: str) -> None:
    async def work(knowledge: Knowledge) -> None:
        texts = [f"Version {number}." for number in range(8)]
        added = await asyncio.gather(*(knowledge.add("Menu", text, source="menu.md") for text in texts))
        assert len({one.id for one in added}) == 1
        assert len(await knowledge.search("version", limit=20)) == 1

    at(database_url, work)


def test_removing_takes_the_passages_along(database_url: str) -> None:
    async def work(knowledge: Knowledge) -> None:
        await fill(knowledge)
        kept, *_ = await knowledge.documents(limit=1)
        for document in await knowledge.documents():
            if document.id != kept.id:
                assert await knowledge.remove(document.id)
                assert not await knowledge.remove(document.id)
                assert await knowledge.document(document.id) is None
        assert await knowledge.search("shoes receipt open sundays creme") == []
        assert [one.title for one in await knowledge.search("parcel")] == [kept.title]
        async with knowledge._store.reading() as connection:
            rows = await connection.scalar(text("SELECT count(*) FROM passages"))
            assert rows == kept.passages
            if connection.dialect.name == "sqlite":
                await connection.execute(
                    text("INSERT INTO passages_search(passages_search) VALUES ('integrity-check')")
                )

    at(database_url, work)


def test_documents_are_listed_in_pages(database_url: str) -> None:
    async def work(knowledge: Knowledge) -> None:
        made = [await knowledge.add(f"Note {number}", "Text.", collection="ab"[number % 2]) for number in range(5)]
        titles = sorted((one.title for one in made), key=lambda title: -int(title[-1]))
        first = await knowledge.documents(limit=3)
        rest = await knowledge.documents(limit=3, before=first[-1].id)
        # Ids of the same millisecond have no order.
        assert sorted(one.title for one in (*first, *rest)) == sorted(titles)
        assert len(await knowledge.documents(collection="a")) == 3

    at(database_url, work)


@pytest.mark.parametrize(
    ("title", "said", "collection"),
    [("", "x", "c"), ("t", "", "c"), ("t", " \n", "c"), ("t", "x", " "), ("t", "x" * (MAX_CHARACTERS + 1), "c")],
)
def test_what_is_no_document_is_refused(tmp_path: Path, title: str, said: str, collection: str) -> None:
    async def work(knowledge: Knowledge) -> None:
        with pytest.raises(StoreError) as raised:
            await knowledge.add(title, said, collection=collection)
        assert (raised.value.code, raised.value.retryable) == ("bad_document", False)
        assert await knowledge.documents() == []

    at(f"sqlite+aiosqlite:///{tmp_path}/test.db", work)


def test_what_databases_cannot_store_is_left_out(database_url: str) -> None:
    async def work(knowledge: Knowledge) -> None:
        await knowledge.add("A\x00B \ud800", "soup\x00cake \udfff tea", collection="c\x00", source="s\x00\ud800")
        (found,) = await knowledge.search("cake\x00 \ud800")
        assert (found.title, found.text, found.collection) == ("A B ?", "soup cake ? tea", "c")

    at(database_url, work)


class Open:
    """Documents that stay open over the examples of a test."""

    def __init__(self, url: str) -> None:
        self.runner = asyncio.Runner()
        self.runner.run(schema.upgrade(schema.parse_url(url)))
        self.store = Store(url)
        self.runner.run(self.store.open())
        self.knowledge = Knowledge(self.store)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def close(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()


@pytest.fixture
def shop(database_url: str) -> Iterator[Open]:
    opened = Open(database_url)
    opened.run(fill(opened.knowledge))
    yield opened
    opened.close()


SYNTAX = (
    '"', "'", "''", '""', "*", "^", "(", ")", "NEAR(", " AND ", " OR ", " NOT ", "words:", "{words}:", "+", "-", ":",
    "&", "|", "!", "<->", "\\", "%", "_", ";", "--", "/*", "\x00", "'; DROP TABLE documents; --", "$1", ":query", "?",
    "\ud800", "🎉", "\u0301", "e\u0301", "\u200d", "\u202e", "ﷺ", "İ", "東京",
)  # fmt: skip


def test_whatever_is_asked_is_only_words(shop: Open) -> None:
    queries = st.lists(
        st.one_of(st.sampled_from(SYNTAX), st.text(st.characters(), max_size=20), st.just("shoes")), max_size=12
    ).map("".join)

    @settings(max_examples=300, deadline=None, database=None)
    @given(queries)
    def ask(query: str) -> None:
        found: list[Found] = shop.run(shop.knowledge.search(query, limit=3))
        assert len(found) <= 3
        again = shop.run(shop.knowledge.search(f"receipt {query}", limit=20))
        assert "Returns" in {one.title for one in again}

    ask()
    for query in SYNTAX:
        shop.run(shop.knowledge.search(query))
        assert shop.run(shop.knowledge.search(f"{query} receipt"))[0].title == "Returns"
    assert len(shop.run(shop.knowledge.documents())) == len(SHOP)


def test_every_text_finds_itself(shop: Open) -> None:
    """The words of a query are those of the index, in the scripts of the world."""
    letters = st.characters(min_codepoint=32, max_codepoint=0x1FFF, categories=("L", "N", "P", "Zs", "S"))

    async def are_stop_words(words: str) -> bool:
        """Whether PostgreSQL knows, and leaves out, all of them: it has more such words than we."""
        async with shop.store.reading() as connection:
            if connection.dialect.name == "sqlite":
                return False
            asked = text("SELECT numnode(plainto_tsquery('english', :words)) = 0")
            return bool(await connection.scalar(asked, {"words": words}))

    @settings(max_examples=150, deadline=None, database=None)
    @given(st.text(letters, min_size=1, max_size=40))
    def add_and_ask(said: str) -> None:
        words = query_words(said)
        if not words or not split(said) or shop.run(are_stop_words(" ".join(words))):
            return
        document = shop.run(shop.knowledge.add("zzz", said, source="self"))
        found = shop.run(shop.knowledge.search(said, limit=20))
        assert document.id in {one.document_id for one in found}

    add_and_ask()
