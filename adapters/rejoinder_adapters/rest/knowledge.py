"""Documents that agents may look up: added, listed, removed, and searched as an agent would."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import delete, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from rejoinder.app import Runtime
from rejoinder.errors import SessionError
from rejoinder.store.knowledge import DEFAULT_COLLECTION, Document, Found, Knowledge
from rejoinder_adapters.security import needs

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Limit = Annotated[int, QueryParameter(ge=1, le=200)]


class NewDocument(msgspec.Struct, forbid_unknown_fields=True):
    """A document. One with the same `source` in the same `collection` is replaced; None: it is a new one."""

    title: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    text: str
    collection: Name = DEFAULT_COLLECTION
    source: Annotated[str, msgspec.Meta(min_length=1, max_length=2_000)] | None = None


class Query(msgspec.Struct, forbid_unknown_fields=True):
    """What to look for, in any words; in these `collections` (None: in all)."""

    query: Annotated[str, msgspec.Meta(max_length=4_000)]
    collections: Annotated[list[str], msgspec.Meta(max_length=100)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 5


class DocumentList(msgspec.Struct):
    """Documents, newest first; `next_cursor` is the `before` of the next page."""

    items: list[Document]
    next_cursor: str | None


class FoundList(msgspec.Struct):
    """Passages, the best first."""

    items: list[Found]


def routes(runtime: Runtime) -> list[Any]:
    """`/v1/documents`."""
    knowledge = Knowledge(runtime.store)
    reading, writing = [needs("read")], [needs("agents")]

    @get("/v1/documents", guards=reading)
    async def list_documents(
        limit: Limit = 50, before: FromQuery[str | None] = None, collection: FromQuery[str | None] = None
    ) -> DocumentList:
        """Documents without their texts, newest first."""
        items = await knowledge.documents(collection=collection, limit=limit, before=before)
        return DocumentList(items, items[-1].id if len(items) == limit else None)

    @post("/v1/documents", guards=writing)
    async def add_document(data: JSONBody[NewDocument]) -> Document:
        """Add a document, or replace it. Its text may have Markdown's headings; HTML is taken for text."""
        return await knowledge.add(data.title, data.text, collection=data.collection, source=data.source)

    @get("/v1/documents/{document_id:str}", guards=reading)
    async def get_document(document_id: FromPath[str]) -> Document:
        """A document without its text."""
        document = await knowledge.document(document_id)
        if document is None:
            raise _unknown(document_id)
        return document

    @delete("/v1/documents/{document_id:str}", guards=writing)
    async def remove_document(document_id: FromPath[str]) -> None:
        """Remove a document with its passages."""
        if not await knowledge.remove(document_id):
            raise _unknown(document_id)

    @post("/v1/documents/search", guards=reading, status_code=200)
    async def search_documents(data: JSONBody[Query]) -> FoundList:
        """The passages that fit best, as an agent's tool finds them."""
        return FoundList(await knowledge.search(data.query, collections=data.collections, limit=data.limit))

    return [list_documents, add_document, get_document, remove_document, search_documents]


def _unknown(document_id: str) -> SessionError:
    text = f"There is no document {document_id[:80]!r}."
    return SessionError(text, code="unknown_document", fix="GET /v1/documents lists them.")
