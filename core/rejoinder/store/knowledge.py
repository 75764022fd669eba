"""Knowledge: documents that operators add, searched by the database's own full-text index."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Float,
    RowMapping,
    Select,
    Text,
    cast,
    delete,
    func,
    insert,
    literal_column,
    select,
    table,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from rejoinder.errors import StoreError
from rejoinder.ids import new_id
from rejoinder.store import passages as cutting
from rejoinder.store.store import Store
from rejoinder.store.tables import documents, passages

DEFAULT_COLLECTION = "default"
MAX_CHARACTERS = 2_000_000
"""Of one document; a book has a million."""
_ENGLISH: ColumnElement[Any] = literal_column("'english'::regconfig")


class Document(msgspec.Struct, kw_only=True, frozen=True):
    """A document without its text. `created_at` is when this version was added, in Unix ms."""

    id: str
    collection: str
    title: str
    source: str | None
    created_at: int
    characters: int
    passages: int


class Found(msgspec.Struct, kw_only=True, frozen=True):
    """A passage that was found. `score` is higher for better ones, and means nothing beyond this one search."""

    document_id: str
    collection: str
    title: str
    source: str | None
    position: int
    heading: str
    text: str
    score: float


class Knowledge:
    """The documents in `store`, which must be open. Errors of the database come as StoreError."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add(
        self, title: str, text: str, *, collection: str = DEFAULT_COLLECTION, source: str | None = None
    ) -> Document:
        """Add a document; one with the same `source` in the same `collection` is replaced and keeps its id.

        `text` may have Markdown's headings.

        Raises:
            StoreError: it is empty or longer than `MAX_CHARACTERS` (`bad_document`), or the database refused.
        """
        if len(text) > MAX_CHARACTERS:
            raise _bad(f"The document has {len(text)} characters; {MAX_CHARACTERS} are allowed.", "Split it.")
        title, collection = (" ".join(cutting.clean(each).split()) for each in (title, collection))
        source = None if source is None else cutting.clean(source)
        if not title or not collection:
            raise _bad("A document needs a title and a collection.", "Give both.")
        # A large document takes a while, and the loop has calls to serve.
        rows = await asyncio.to_thread(_rows, title, text)
        if not rows:
            raise _bad(f"The document {title!r} has no text.", "Leave it out.")
        now, characters = self._store.clock.wall_ms(), len(text)
        values = {"title": title, "characters": characters, "created_at": now}
        async with self._store.transaction() as connection:
            into = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
            # In one statement, so that two who add the same at once do not get in each other's way.
            replaced = (
                into(documents)
                .values(id=new_id("doc"), collection=collection, source=source, **values)
                .on_conflict_do_update(index_elements=["collection", "source"], set_=values)
                .returning(documents.c.id)
            )
            document_id = (await connection.execute(replaced)).scalar_one()
            await connection.execute(delete(passages).where(passages.c.document_id == document_id))
            await connection.execute(insert(passages), [{**row, "document_id": document_id} for row in rows])
        return Document(
            id=document_id,
            collection=collection,
            title=title,
            source=source,
            created_at=now,
            characters=characters,
            passages=len(rows),
        )

    async def document(self, document_id: str) -> Document | None:
        """The document called `document_id`, None if there is none."""
        found = await self._documents(_documents().where(documents.c.id == document_id))
        return found[0] if found else None

    async def documents(
        self, *, collection: str | None = None, limit: int = 100, before: str | None = None
    ) -> list[Document]:
        """At most `limit` documents (of one `collection`), newest first; the next page is `before` this one's last id.

        The newest is the one that was first added last, whenever it was replaced.
        """
        query = _documents().order_by(documents.c.id.desc()).limit(limit)
        if collection is not None:
            query = query.where(documents.c.collection == collection)
        if before is not None:
            query = query.where(documents.c.id < before)
        return await self._documents(query)

    async def collections(self) -> list[str]:
        """The names of all collections that hold something, sorted."""
        async with self._store.reading() as connection:
            rows = await connection.scalars(select(documents.c.collection).distinct())
            return sorted(rows)

    async def remove(self, document_id: str) -> bool:
        """Remove a document with its passages; False if there is none."""
        async with self._store.transaction() as connection:
            gone = await connection.execute(delete(documents).where(documents.c.id == document_id))
            return gone.rowcount > 0

    async def search(self, query: str, *, collections: Sequence[str] | None = None, limit: int = 5) -> list[Found]:
        """The passages (of these `collections`; None: of all) that fit `query` best, at most `limit`, the best first.

        `query` is any text, never the language of the index: a passage is found if it has one of its words, and the
        more of them it has, and the rarer they are, the better it fits (PostgreSQL does not know which are rare).
        """
        words = cutting.query_words(query)
        if not words or limit < 1:
            return []
        async with self._store.reading() as connection:
            found = _search(connection, words).order_by(text("score DESC"), passages.c.id).limit(limit)
            if collections is not None:
                found = found.where(documents.c.collection.in_(collections))
            rows = (await connection.execute(found)).mappings().all()
        return [msgspec.convert(row, Found) for row in rows]

    async def _documents(self, query: Select[Any]) -> list[Document]:
        async with self._store.reading() as connection:
            rows: Sequence[RowMapping] = (await connection.execute(query)).mappings().all()
        return [msgspec.convert(row, Document) for row in rows]


def _bad(message: str, fix: str) -> StoreError:
    return StoreError(message, code="bad_document", fix=fix, retryable=False)


def _rows(title: str, text: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for position, (heading, passage) in enumerate(cutting.split(text)):
        # The title is often the only place that says what all of it is about.
        under = title if heading == title else f"{title}\n{heading}"
        words = " ".join(cutting.words_of(f"{under}\n{passage}"))
        rows.append({"position": position, "heading": heading, "text": passage, "words": words})
    return rows


def _documents() -> Select[Any]:
    count = select(func.count()).where(passages.c.document_id == documents.c.id).scalar_subquery()
    return select(documents, count.label("passages"))


def _search(connection: AsyncConnection, words: list[str]) -> Select[Any]:
    """What has one of `words`, with its `score`; each is letters and digits only, see `words_of`."""
    wanted = (
        passages.c.document_id,
        documents.c.collection,
        documents.c.title,
        documents.c.source,
        passages.c.position,
        passages.c.heading,
        passages.c.text,
    )
    if connection.dialect.name == "sqlite":
        score: ColumnElement[float] = literal_column("-bm25(passages_search)", Float)
        query = " OR ".join(f'"{word}"' for word in words)
        return (
            select(*wanted, score.label("score"))
            .select_from(table("passages_search"))
            .join(passages, literal_column("passages_search.rowid") == passages.c.id)
            .join(documents)
            .where(text("passages_search MATCH :query").bindparams(query=query))
        )
    # `plainto_tsquery` takes any text for words, and asks for all of them; ours have no operators of their own.
    every = func.plainto_tsquery(_ENGLISH, " ".join(words))
    some = cast(func.replace(cast(every, Text), "&", "|"), postgresql.TSQUERY)
    search: ColumnElement[Any] = literal_column("passages.search", postgresql.TSVECTOR)
    # 1: a passage is not better for being longer.
    score = func.ts_rank(search, some, 1)
    return select(*wanted, score.label("score")).join_from(passages, documents).where(search.op("@@")(some))
